//! The verdict over the rows: was every write made by the tenant's owner at that moment, and is none lost?
//!
//! No clock is compared. A tenant's transactions are numbered in commit order by a row that each of them updates
//! (`tenant_clock`), and each cutover wrote down, while it held the tenant alone, the number that the former owner
//! had reached. So for every write there is exactly one owner who may have made it. The clients' own ledger says
//! which writes they were told were committed. The extension's word is used only where it is what is examined:
//! its audit trail and its history must say what the clients and the marks say.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::backend::Backend;
use super::evidence::{Evidence, Mark, Operation};
use super::ledger::{NOT_OWNER, Outcome, RefusalCounts, Told, Written};

#[cfg(test)]
mod tests;

/// A claim and whether the rows bear it out.
#[derive(Debug)]
pub struct Finding {
    /// What should be true.
    pub claim: &'static str,
    /// How much was examined.
    pub examined: String,
    /// What contradicts it: empty when it is true. The first few cases.
    pub contradictions: Vec<String>,
}

/// How many contradictions a finding keeps.
const KEPT: usize = 5;

impl Finding {
    /// Whether the claim is true.
    pub fn holds(&self) -> bool {
        self.contradictions.is_empty()
    }

    fn new(claim: &'static str, examined: String, contradictions: impl IntoIterator<Item = String>) -> Finding {
        let mut contradictions = contradictions.into_iter();
        let mut kept: Vec<String> = contradictions.by_ref().take(KEPT).collect();
        let more = contradictions.count();
        if more > 0 {
            kept.push(format!("and {more} more"));
        }
        Finding { claim, examined, contradictions: kept }
    }
}

/// Judges what stands in the database by what the clients were told.
pub fn judge(evidence: &Evidence, told: &[Told], refusals: &RefusalCounts) -> Vec<Finding> {
    vec![
        order(evidence),
        ownership(evidence, told),
        identity(evidence),
        no_lost_commit(evidence, told),
        nothing_of_the_refused(evidence, told),
        last_writers(evidence, told),
        refusals_recorded(evidence, refusals),
        observations_recorded(evidence, told),
        history(evidence),
    ]
}

fn order(evidence: &Evidence) -> Finding {
    let mut numbers: HashMap<i32, Vec<i64>> = HashMap::new();
    for operation in &evidence.operations {
        numbers.entry(operation.tenant).or_default().push(operation.sequence);
    }
    let mut wrong = Vec::new();
    for (tenant, clock) in &evidence.clocks {
        let mut numbers = numbers.remove(tenant).unwrap_or_default();
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(1..=*clock) {
            wrong.push(format!("tenant {tenant}: its clock says {clock}, its writes are {}", numbers.len()));
        }
    }
    wrong.extend(numbers.keys().map(|tenant| format!("tenant {tenant} has writes but no clock")));
    let examined = format!("{} writes of {} tenants", evidence.operations.len(), evidence.clocks.len());
    Finding::new("each tenant's writes are numbered in commit order, without a gap", examined, wrong)
}

/// Who owned `operation`'s tenant at its place in the order. `marks` are the tenant's, in the order of epochs.
fn owner_at<'a>(operation: &Operation, marks: &'a [&Mark]) -> &'a str {
    marks
        .iter()
        .rev()
        .find(|mark| mark.sequence < operation.sequence)
        .map_or(Backend::Legacy.name(), |mark| mark.to.as_str())
}

fn ownership(evidence: &Evidence, told: &[Told]) -> Finding {
    let mut marks: HashMap<i32, Vec<&Mark>> = HashMap::new();
    for mark in &evidence.marks {
        marks.entry(mark.tenant).or_default().push(mark);
    }
    // Observe mode let these pass on purpose. The check must find them, and nothing else.
    let on_purpose: BTreeSet<i64> =
        told.iter().filter(|told| told.misdirected && told.outcome == Outcome::Committed).map(|told| told.id).collect();
    let mut found = BTreeSet::new();
    let mut wrong = Vec::new();
    for operation in &evidence.operations {
        let owner = owner_at(operation, marks.get(&operation.tenant).map_or(&[], Vec::as_slice));
        if operation.backend != owner {
            found.insert(operation.id);
            if !on_purpose.contains(&operation.id) {
                wrong.push(format!(
                    "write {} of tenant {} (number {}) by {}, but {owner} owned it",
                    operation.id, operation.tenant, operation.sequence, operation.backend
                ));
            }
        }
    }
    wrong.extend(
        on_purpose.difference(&found).map(|id| format!("write {id} was misdirected on purpose, but looks rightful")),
    );
    for marks in marks.values() {
        for pair in marks.windows(2) {
            if pair[0].to != pair[1].from || pair[0].sequence > pair[1].sequence {
                wrong.push(format!("the marks of tenant {} don't follow from one another", pair[0].tenant));
            }
        }
    }
    let examined = format!(
        "{} writes around {} cutovers; the {} that observe mode let pass on purpose were found",
        evidence.operations.len(),
        evidence.marks.len(),
        on_purpose.len()
    );
    Finding::new("every write was made by the tenant's owner at that moment", examined, wrong)
}

fn identity(evidence: &Evidence) -> Finding {
    let operations: HashMap<i64, &Operation> = evidence.operations.iter().map(|o| (o.id, o)).collect();
    let role_of = |name: &str| Backend::named(name).map(Backend::role).unwrap_or_default();
    let foreign_roles =
        evidence.operations.iter().filter(|operation| operation.role != role_of(&operation.backend)).map(|operation| {
            format!("write {} says {}, but {} logged in", operation.id, operation.backend, operation.role)
        });
    let foreign_rows = evidence.rows.iter().filter_map(|row| {
        let operation = operations.get(&row.operation)?;
        (operation.backend != row.backend)
            .then(|| format!("{:?} says {}, its write {}", row.written, row.backend, operation.backend))
    });
    let examined = format!("{} rows", evidence.rows.len());
    Finding::new("every row names the backend whose role logged in", examined, foreign_roles.chain(foreign_rows))
}

fn no_lost_commit(evidence: &Evidence, told: &[Told]) -> Finding {
    let standing: HashSet<i64> = evidence.operations.iter().map(|operation| operation.id).collect();
    let committed = || told.iter().filter(|told| told.outcome == Outcome::Committed);
    let lost = committed()
        .filter(|told| !standing.contains(&told.id))
        .map(|told| format!("write {} of tenant {} by {}", told.id, told.tenant, told.backend.name()));
    let examined = format!("{} commits", committed().count());
    Finding::new("no client lost a write that it was told was committed", examined, lost)
}

fn nothing_of_the_refused(evidence: &Evidence, told: &[Told]) -> Finding {
    let known: HashMap<i64, &Outcome> = told.iter().map(|told| (told.id, &told.outcome)).collect();
    let remains = evidence.operations.iter().filter_map(|operation| match known.get(&operation.id) {
        Some(Outcome::Committed | Outcome::Unknown(_)) => None,
        Some(outcome) => Some(format!("write {} stands, but its client was told {outcome:?}", operation.id)),
        None => Some(format!("write {} stands, but no client sent it", operation.id)),
    });
    let count = |wanted: fn(&Outcome) -> bool| told.iter().filter(|told| wanted(&told.outcome)).count();
    let examined = format!(
        "{} refused and {} retried attempts; {} of unknown outcome",
        count(|outcome| matches!(outcome, Outcome::Refused(_))),
        count(|outcome| matches!(outcome, Outcome::TryAgain(_) | Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Unknown(_))),
    );
    Finding::new("nothing is left of a write that was refused", examined, remains)
}

/// Each row must carry the last of the committed writes to it, and no row may carry anything else.
fn last_writers(evidence: &Evidence, told: &[Told]) -> Finding {
    let sequences: HashMap<i64, i64> = evidence.operations.iter().map(|o| (o.id, o.sequence)).collect();
    let unknown: HashSet<i64> =
        told.iter().filter(|told| matches!(told.outcome, Outcome::Unknown(_))).map(|told| told.id).collect();
    let mut expected: HashMap<Written, (i64, i64)> = HashMap::new();
    for told in told.iter().filter(|told| told.outcome == Outcome::Committed) {
        let Some(sequence) = sequences.get(&told.id) else { continue };
        for written in &told.written {
            let last = expected.entry(*written).or_insert((*sequence, told.id));
            *last = (*last).max((*sequence, told.id));
        }
    }
    let mut wrong = Vec::new();
    for row in &evidence.rows {
        match expected.remove(&row.written) {
            _ if unknown.contains(&row.operation) => {}
            Some((_, id)) if id == row.operation => {}
            Some((_, id)) => wrong.push(format!("{:?} carries write {}, not {id}", row.written, row.operation)),
            None => wrong.push(format!("{:?} carries write {}, which nobody made", row.written, row.operation)),
        }
    }
    wrong.extend(expected.iter().map(|(written, (_, id))| format!("{written:?} of write {id} is gone")));
    if evidence.miscounted_homeowners > 0 {
        wrong.push(format!("{} homeowners whose trigger missed a message", evidence.miscounted_homeowners));
    }
    let examined = format!("{} rows in 8 tables", evidence.rows.len());
    Finding::new("every row carries the last committed write to it, whole", examined, wrong)
}

fn refusals_recorded(evidence: &Evidence, refusals: &RefusalCounts) -> Finding {
    let mut wrong = Vec::new();
    for key in refusals.keys().chain(evidence.refused.keys()).collect::<BTreeSet<_>>() {
        let (received, recorded) = (refusals.get(key), evidence.refused.get(key));
        if received != recorded {
            let (backend, rule, tenant) = key;
            wrong.push(format!(
                "{backend}, {rule}, tenant {}: {} received, {} recorded",
                tenant.as_deref().unwrap_or("-"),
                received.unwrap_or(&0),
                recorded.unwrap_or(&0)
            ));
        }
    }
    if evidence.incomplete_refusals > 0 {
        wrong.push(format!("{} events without session, statement, rule or tenant", evidence.incomplete_refusals));
    }
    let examined = format!("{} refusals", refusals.values().sum::<i64>());
    Finding::new("every refusal a client received stands in blocked_writes, once", examined, wrong)
}

fn observations_recorded(evidence: &Evidence, told: &[Told]) -> Finding {
    let misdirected = || told.iter().filter(|told| told.misdirected);
    let tried: BTreeSet<String> = misdirected().map(|told| told.tenant.to_string()).collect();
    let passed: BTreeSet<String> =
        misdirected().filter(|told| told.outcome == Outcome::Committed).map(|told| told.tenant.to_string()).collect();
    let recorded: BTreeSet<&String> = evidence
        .observed
        .iter()
        .filter(|(rule, _)| rule == NOT_OWNER)
        .filter_map(|(_, tenant)| tenant.as_ref())
        .collect();
    let missing =
        passed.iter().filter(|tenant| !recorded.contains(tenant)).map(|tenant| format!("tenant {tenant} is missing"));
    let extra = recorded
        .iter()
        .filter(|tenant| !tried.contains(**tenant))
        .map(|tenant| format!("tenant {tenant} is recorded, where nothing was wrong"));
    let examined = format!("{} tenants", passed.len());
    Finding::new("every write that observe mode let pass was recorded", examined, missing.chain(extra))
}

fn history(evidence: &Evidence) -> Finding {
    let marks: BTreeSet<(String, i64, String, String)> = evidence
        .marks
        .iter()
        .map(|mark| (mark.tenant.to_string(), mark.epoch, mark.from.clone(), mark.to.clone()))
        .collect();
    let wrong = marks.symmetric_difference(&evidence.history).map(|entry| format!("{entry:?} stands in one only"));
    let examined = format!("{} cutovers", marks.len());
    Finding::new("ownership_history says what the marks say", examined, wrong)
}
