//! The check must fail when something is wrong: each test breaks one thing in a history that is right.

use super::super::backend::Backend;
use super::super::evidence::{Evidence, Mark, Operation, Row};
use super::super::ledger::{Outcome, RefusalCounts, Table, Told, Written};
use super::{Finding, judge};

const TENANT: i32 = 7;
const ROW: Written = Written { table: Table::Valuations, key: 14 };

/// A tenant with two writes by legacy, a cutover, and two by rebuilt, of which the first attempt was refused.
struct Story {
    evidence: Evidence,
    told: Vec<Told>,
    refusals: RefusalCounts,
}

fn operation(id: i64, sequence: i64, backend: Backend) -> Operation {
    let (role, backend) = (backend.role().to_owned(), backend.name().to_owned());
    Operation { id, tenant: TENANT, sequence, backend, role }
}

fn told(id: i64, backend: Backend, outcome: Outcome) -> Told {
    Told { id, tenant: TENANT, backend, written: vec![ROW], outcome, misdirected: false }
}

fn story() -> Story {
    use Backend::{Legacy, Rebuilt};
    let handed = (TENANT.to_string(), 1, "legacy".to_owned(), "rebuilt".to_owned());
    let refusal = ("legacy".to_owned(), "not_owner".to_owned(), Some(TENANT.to_string()));
    let mut story = Story { evidence: Evidence::default(), told: Vec::new(), refusals: RefusalCounts::new() };
    story.evidence.operations =
        vec![operation(1, 1, Legacy), operation(2, 2, Legacy), operation(4, 3, Rebuilt), operation(5, 4, Rebuilt)];
    story.evidence.rows = vec![Row { written: ROW, backend: "rebuilt".to_owned(), operation: 5 }];
    story.evidence.clocks.insert(TENANT, 4);
    story.evidence.marks.push(Mark {
        tenant: TENANT,
        epoch: 1,
        sequence: 2,
        from: handed.2.clone(),
        to: handed.3.clone(),
    });
    story.evidence.history.insert(handed);
    story.evidence.refused.insert(refusal.clone(), 1);
    story.refusals.insert(refusal, 1);
    story.told = vec![
        told(1, Legacy, Outcome::Committed),
        told(2, Legacy, Outcome::Committed),
        told(3, Legacy, Outcome::Refused("not_owner".to_owned())),
        told(4, Rebuilt, Outcome::Committed),
        told(5, Rebuilt, Outcome::Committed),
    ];
    story
}

/// The claims that are false after `change`.
fn false_claims(change: impl FnOnce(&mut Story)) -> Vec<&'static str> {
    let mut story = story();
    change(&mut story);
    let findings = judge(&story.evidence, &story.told, &story.refusals);
    findings.iter().filter(|finding| !finding.holds()).map(|finding: &Finding| finding.claim).collect()
}

const ORDER: &str = "each tenant's writes are numbered in commit order, without a gap";
const OWNERSHIP: &str = "every write was made by the tenant's owner at that moment";
const IDENTITY: &str = "every row names the backend whose role logged in";
const NO_LOST_COMMIT: &str = "no client lost a write that it was told was committed";
const NOTHING_LEFT: &str = "nothing is left of a write that was refused";
const LAST_WRITERS: &str = "every row carries the last committed write to it, whole";
const REFUSALS: &str = "every refusal a client received stands in blocked_writes, once";
const OBSERVATIONS: &str = "every write that observe mode let pass was recorded";
const HISTORY: &str = "ownership_history says what the marks say";

#[test]
fn a_right_history_passes() {
    assert!(false_claims(|_| {}).is_empty());
}

#[test]
fn a_late_write_of_the_former_owner_is_found() {
    let claims = false_claims(|story| story.evidence.marks[0].sequence = 1);
    assert_eq!(claims, [OWNERSHIP]);
}

#[test]
fn an_early_write_of_the_new_owner_is_found() {
    let claims = false_claims(|story| story.evidence.marks[0].sequence = 3);
    assert_eq!(claims, [OWNERSHIP]);
}

#[test]
fn a_cutover_without_its_mark_is_found() {
    let claims = false_claims(|story| story.evidence.marks.clear());
    assert_eq!(claims, [OWNERSHIP, HISTORY]);
}

#[test]
fn a_role_of_another_backend_is_found() {
    let claims = false_claims(|story| story.evidence.operations[0].role = "rebuilt_app".to_owned());
    assert_eq!(claims, [IDENTITY]);
}

#[test]
fn a_lost_commit_is_found() {
    let claims = false_claims(|story| {
        story.evidence.operations.remove(1);
    });
    assert_eq!(claims, [ORDER, NO_LOST_COMMIT]);
}

#[test]
fn a_refused_write_that_stands_is_found() {
    let claims = false_claims(|story| {
        story.evidence.operations[1].id = 3;
        story.told.remove(1);
    });
    assert_eq!(claims, [NOTHING_LEFT]);
}

#[test]
fn a_lost_update_is_found() {
    let claims = false_claims(|story| {
        story.evidence.rows[0].operation = 4;
    });
    assert_eq!(claims, [LAST_WRITERS]);
}

#[test]
fn a_lost_row_is_found() {
    assert_eq!(false_claims(|story| story.evidence.rows.clear()), [LAST_WRITERS]);
}

#[test]
fn a_missing_event_is_found() {
    assert_eq!(false_claims(|story| story.evidence.refused.clear()), [REFUSALS]);
}

#[test]
fn an_event_too_many_is_found() {
    let claims = false_claims(|story| {
        for times in story.evidence.refused.values_mut() {
            *times += 1;
        }
    });
    assert_eq!(claims, [REFUSALS]);
}

#[test]
fn what_observe_mode_let_pass_is_found_and_must_be_recorded() {
    let misdirect = |story: &mut Story| {
        story.evidence.operations.push(operation(6, 5, Backend::Legacy));
        story.evidence.clocks.insert(TENANT, 5);
        story.evidence.rows[0] = Row { written: ROW, backend: "legacy".to_owned(), operation: 6 };
        story.told.push(Told { misdirected: true, ..told(6, Backend::Legacy, Outcome::Committed) });
    };
    assert_eq!(false_claims(misdirect), [OBSERVATIONS]);
    let claims = false_claims(|story| {
        misdirect(story);
        story.evidence.observed.insert(("not_owner".to_owned(), Some(TENANT.to_string())));
    });
    assert!(claims.is_empty());
}

#[test]
fn an_unknown_outcome_may_stand_or_not() {
    let claims = false_claims(|story| story.told[4].outcome = Outcome::Unknown("connection lost".to_owned()));
    assert!(claims.is_empty());
}
