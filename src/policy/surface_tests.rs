use super::super::backend::Backend;
use super::super::identity::Source;
use super::super::rules::Rule;
use super::*;
use WriteCommand::{Delete, Insert, Update};

fn session(trust: Option<Trust>) -> Identity {
    let backend = trust.map(|trust| Backend { name: "rebuilt".into(), trust });
    Identity { backend, base: None, source: Source::Default }
}

fn table(class: TableClass, guard: GuardState) -> Table {
    let name = TableName { schema: "public".into(), name: "agents".into() };
    Table { name, classified: None, class, guard, child: None }
}

fn tenant() -> TableClass {
    TableClass::Tenant(TenantSource::Columns("brokerage_id".into()))
}

fn allowed(command: WriteCommand, columns: Option<&[&str]>) -> Permission {
    let columns = columns.map(|c| c.iter().map(|c| (*c).to_owned()).collect());
    Permission { backend: "rebuilt".into(), relation: 1, command, columns }
}

fn write<'a>(command: WriteCommand, columns: &[&'a str]) -> TableWrite<'a> {
    TableWrite { command, columns: columns.to_vec() }
}

fn broken(identity: &Identity, table: &Table, permissions: &[Permission], writes: &[TableWrite]) -> Vec<Rule> {
    let permissions: Vec<_> = permissions.iter().collect();
    check_table(identity, table, &permissions, writes, "rb").iter().map(|r| r.rule).collect()
}

#[test]
fn each_class_meets_each_trust() {
    use GuardState::Enabled;
    use Rule::*;
    let (proven, unproven, retired) = (Some(Trust::Proven), Some(Trust::Unproven), Some(Trust::Retired));
    let mine = || TableClass::Exempt { backend: Some("rebuilt".into()) };
    let theirs = || TableClass::Exempt { backend: Some("legacy".into()) };
    let cases: &[(Option<Trust>, TableClass, &[Rule])] = &[
        (proven, tenant(), &[]),
        (proven, TableClass::Global, &[]),
        (proven, TableClass::Unclassified, &[]),
        (proven, theirs(), &[]),
        (unproven, tenant(), &[OutsideSurface]),
        (unproven, TableClass::Global, &[GlobalWrite]),
        (unproven, TableClass::Unclassified, &[OutsideSurface]),
        (unproven, TableClass::Exempt { backend: None }, &[]),
        (unproven, mine(), &[]),
        (unproven, theirs(), &[OutsideSurface]),
        (retired, tenant(), &[OutsideSurface]),
        (retired, TableClass::Global, &[OutsideSurface]),
        (retired, TableClass::Exempt { backend: None }, &[]),
        (None, tenant(), &[Unidentified]),
        (None, TableClass::Global, &[Unidentified]),
        (None, TableClass::Unclassified, &[]),
        (None, theirs(), &[Unidentified]),
        (None, TableClass::Exempt { backend: None }, &[]),
    ];
    for (trust, class, expected) in cases {
        let actual = broken(&session(*trust), &table(class.clone(), Enabled), &[], &[write(Insert, &["id"])]);
        assert_eq!(actual, *expected, "{trust:?} {class:?}");
    }
}

#[test]
fn the_surface_is_table_command_and_columns() {
    let all = [allowed(Insert, None), allowed(Update, Some(&["price", "note"]))];
    let cases: &[(&[TableWrite], &[Rule])] = &[
        (&[write(Insert, &["id", "price"])], &[]),
        (&[write(Update, &["price"])], &[]),
        (&[write(Update, &["price", "brokerage_id"])], &[Rule::OutsideSurface]),
        (&[write(Delete, &[])], &[Rule::OutsideSurface]),
        (&[write(Insert, &["id"]), write(Update, &["note"])], &[]),
        (&[write(Insert, &["id"]), write(Update, &["id"])], &[Rule::OutsideSurface]),
        (&[write(Update, &["id"]), write(Delete, &[])], &[Rule::OutsideSurface, Rule::OutsideSurface]),
    ];
    for (writes, expected) in cases {
        let actual = broken(&session(Some(Trust::Unproven)), &table(tenant(), GuardState::Enabled), &all, writes);
        assert_eq!(actual, *expected, "{writes:?}");
    }
    let global = broken(
        &session(Some(Trust::Unproven)),
        &table(TableClass::Global, GuardState::Enabled),
        &[allowed(Update, None)],
        &[write(Update, &["price"])],
    );
    assert_eq!(global, [], "a global table that is allowed explicitly");
}

#[test]
fn a_permission_is_for_its_own_backend() {
    let other = Permission { backend: "third".into(), ..allowed(Insert, None) };
    let actual =
        broken(&session(Some(Trust::Unproven)), &table(tenant(), GuardState::Enabled), &[other], &[write(Insert, &[])]);
    assert_eq!(actual, [Rule::OutsideSurface]);
}

#[test]
fn a_guard_that_is_off_stops_everybody() {
    for guard in
        [GuardState::Overtaken, GuardState::Disabled, GuardState::Missing, GuardState::Columnless, GuardState::Pathless]
    {
        for trust in [Some(Trust::Proven), Some(Trust::Unproven), None] {
            let rules =
                broken(&session(trust), &table(tenant(), guard), &[allowed(Delete, None)], &[write(Delete, &[])]);
            assert_eq!(rules.first(), Some(&Rule::GuardTampering), "{guard:?} {trust:?}");
        }
    }
}

#[test]
fn a_session_that_claims_nonsense_is_told_so() {
    let lost = Identity { backend: None, base: Some("legacy".into()), source: Source::Nothing };
    let cases = [(&lost, "RESET holdfast.backend;"), (&session(None), "add_identity")];
    for (identity, expected) in cases {
        let refusal = unidentified(identity, Attempt::default(), "bob");
        assert_eq!(refusal.rule, Rule::Unidentified);
        assert!(refusal.hint.contains(expected), "{}", refusal.hint);
    }
}

#[test]
fn a_restore_may_load_rows_before_it_creates_triggers() {
    let loads = |trust| broken(&session(trust), &table(tenant(), GuardState::Unrestored), &[], &[write(Insert, &[])]);
    assert_eq!(loads(Some(Trust::Proven)), []);
    assert_eq!(loads(Some(Trust::Unproven)).first(), Some(&Rule::GuardTampering));
    assert_eq!(loads(None).first(), Some(&Rule::GuardTampering));
}
