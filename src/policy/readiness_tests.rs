use super::super::identity::IdentityRule;
use super::super::mode::{Modes, Override};
use super::super::surface::{Permission, WriteCommand};
use super::super::token::PublicKey;
use super::*;

const ORDERS: u32 = 16_400;

fn rule(backend: &str) -> IdentityRule {
    IdentityRule {
        id: 7,
        backend: backend.into(),
        role: Some(format!("{backend}_app")),
        left_behind: false,
        database: None,
        application_name: None,
        client_network: None,
        priority: 100,
    }
}

/// Legacy proven and default, rebuilt unproven with a role of its own and a table to write; enforced.
fn policy() -> PolicySet {
    let backend = |name: &str, trust| Backend { name: name.into(), trust };
    PolicySet {
        backends: vec![backend("legacy", Trust::Proven), backend("rebuilt", Trust::Unproven)],
        identities: vec![rule("rebuilt")],
        default_backend: Some("legacy".into()),
        default_owner: Some("legacy".into()),
        ends_on: Some(130),
        modes: Modes { global: Mode::Enforce, overrides: Vec::new() },
        permissions: vec![Permission {
            backend: "rebuilt".into(),
            relation: ORDERS,
            command: WriteCommand::Insert,
            columns: None,
        }],
        ..PolicySet::default()
    }
}

/// The same, with every check that can block blocking.
fn strict() -> PolicySet {
    let checks = configurable().into_iter().filter(|name| *name != "end_date");
    PolicySet { checks: checks.map(|name| (name.to_owned(), true)).collect(), ..policy() }
}

/// A cutover of a tenant of legacy's to rebuilt.
fn forward(policy: &PolicySet) -> Essentials<'_> {
    Essentials {
        policy,
        database: "shop",
        enabled: true,
        from: Some("legacy"),
        to: "rebuilt",
        was_owner: false,
        tables: Tables { tenant: vec![ORDERS], damaged: Vec::new() },
        today: 100,
        soak: &Soak::InNoWave,
    }
}

fn names(rows: &[Row]) -> Vec<&'static str> {
    rows.iter().map(|row| row.name).collect()
}

#[test]
fn a_sound_set_up_has_nothing_in_its_way() {
    let policy = policy();
    assert_eq!(obstacles(&forward(&policy)), []);
    let rows = readiness(&forward(&policy), &Surroundings { archive_mode: "off".into(), ..Surroundings::default() });
    assert_eq!(names(&rows), CHECKS.iter().map(|check| check.name).collect::<Vec<_>>());
    let amiss: Vec<_> = rows.iter().filter(|row| !row.ok).map(|row| row.name).collect();
    assert_eq!(amiss, ["archive"]);
}

/// Each change of a sound set-up, and what then stands in the way of a cutover, and of a way back from rebuilt to legacy.
#[test]
fn what_is_wrong_stands_in_the_way() {
    type Change = fn(&mut PolicySet);
    let cases: &[(Change, &[&str], &[&str])] = &[
        (|p| p.identities.clear(), &["receiver_identity"], &[]),
        (|p| p.identities[0].application_name = Some("%".into()), &["receiver_identity"], &[]),
        (|p| p.identities[0].role = Some(String::new()), &["receiver_identity"], &[]),
        (|p| p.identities[0].database = Some("other".into()), &["receiver_identity"], &[]),
        (|p| p.identities[0].database = Some("shop".into()), &[], &[]),
        (|p| p.identities[0].role = None, &[], &[]),
        (
            |p| {
                p.identities.clear();
                p.keys.push(PublicKey { label: "k1".into(), backend: "rebuilt".into(), bytes: [0; 32] });
            },
            &[],
            &[],
        ),
        (|p| p.default_backend = None, &["owner_identity"], &["receiver_identity"]),
        (|p| p.permissions.clear(), &["receiver_surface"], &[]),
        (|p| p.permissions[0].relation = 1, &["receiver_surface"], &[]),
        (|p| p.permissions[0].backend = "third".into(), &["receiver_surface"], &[]),
        (|p| p.backends[1].trust = Trust::Retired, &["receiver", "receiver_surface"], &[]),
        (|p| p.modes.global = Mode::Observe, &["enforced"], &[]),
        (
            |p| {
                let backend = Some("legacy".to_owned());
                p.modes.overrides.push(Override { backend, rule: Some(Rule::NotOwner), mode: Mode::Off });
            },
            &["enforced"],
            &[],
        ),
        (
            |p| p.modes.overrides.push(Override { backend: None, rule: Some(Rule::Unidentified), mode: Mode::Off }),
            &["enforced"],
            &[],
        ),
        // What the receiver may do is no matter of this tenant.
        (
            |p| {
                let backend = Some("rebuilt".to_owned());
                p.modes.overrides.push(Override { backend, rule: None, mode: Mode::Observe });
            },
            &[],
            &[],
        ),
        (|p| p.backends.push(Backend { name: "third".into(), trust: Trust::Retired }), &[], &[]),
        (|p| p.ends_on = Some(99), &[], &[]),
    ];
    for (n, (change, in_the_way, on_the_way_back)) in cases.iter().enumerate() {
        let mut policy = strict();
        change(&mut policy);
        let facts = forward(&policy);
        assert_eq!(names(&obstacles(&facts)), *in_the_way, "case {n}");
        let back = Essentials { from: Some("rebuilt"), to: "legacy", was_owner: true, ..facts };
        assert_eq!(names(&obstacles(&back)), *on_the_way_back, "case {n}, back");
    }
}

#[test]
fn tables_waves_and_the_switch_stand_in_the_way_forward_only() {
    let policy = strict();
    let (pending, fulfilled) = (Soak::Pending("Wave 1 soaks.".into()), Soak::Fulfilled("Wave 1 has soaked.".into()));
    let damaged = Tables { tenant: vec![ORDERS], damaged: vec![("public.orders".into(), GuardState::Disabled)] };
    let cases = [
        (Essentials { tables: Tables::default(), ..forward(&policy) }, vec!["receiver_surface", "tenant_tables"]),
        (Essentials { tables: damaged, ..forward(&policy) }, vec!["guards"]),
        (Essentials { enabled: false, ..forward(&policy) }, vec!["enforced"]),
        (Essentials { soak: &pending, ..forward(&policy) }, vec!["soak"]),
        (Essentials { soak: &fulfilled, ..forward(&policy) }, vec![]),
    ];
    for (facts, expected) in cases {
        assert_eq!(names(&obstacles(&facts)), expected);
        let back = Essentials { from: Some("rebuilt"), to: "legacy", ..facts };
        assert_eq!(obstacles(&back), []);
    }
}

#[test]
fn the_policy_says_which_checks_block() {
    let blocking = |policy: &PolicySet| -> Vec<&'static str> {
        let rows = readiness(&forward(policy), &Surroundings::default());
        rows.into_iter().filter(|row| row.blocking).map(|row| row.name).collect()
    };
    let mut policy = policy();
    assert_eq!(blocking(&policy), ["receiver", "guards", "soak", "invariants", "parity"]);
    policy.modes.global = Mode::Observe;
    assert_eq!(obstacles(&forward(&policy)), []);
    for (name, block) in
        [("enforced", true), ("parity", false), ("end_date", true), ("receiver", false), ("freeze", true)]
    {
        policy.checks.push((name.into(), block));
    }
    assert_eq!(blocking(&policy), ["guards", "enforced", "soak", "invariants", "end_date"]);
    assert_eq!(names(&obstacles(&forward(&policy))), ["enforced"]);
}

#[test]
fn a_way_back_leads_to_no_lesser_trust() {
    use Trust::{Proven, Unproven};
    let cases = [
        (Unproven, Proven, false, true),
        (Unproven, Proven, true, true),
        (Proven, Proven, true, true),
        (Proven, Proven, false, false),
        (Unproven, Unproven, true, true),
        // The rollback of a cutover to legacy is a cutover to rebuilt.
        (Proven, Unproven, true, false),
        (Proven, Unproven, false, false),
    ];
    for (from, to, was_owner, expected) in cases {
        let mut policy = policy();
        policy.backends[0].trust = from;
        policy.backends[1].trust = to;
        let facts = Essentials { was_owner, ..forward(&policy) };
        assert_eq!(facts.goes_back(), expected, "{from} → {to}, {was_owner}");
    }
}

#[test]
fn what_is_seen_around_is_told_in_sentences() {
    let around = || Surroundings { wal_level: "replica".into(), archive_mode: "on".into(), ..Surroundings::default() };
    let standby = |keeps_up| Standby { told: "\"a\" is far away".into(), keeps_up };
    let policy = policy();
    let cases: Vec<(Surroundings, &str, bool, &str)> = vec![
        (around(), "archive", false, "Nothing has been archived yet."),
        (
            Surroundings { archived: Some("0A, 3 s ago".into()), archive_waits: 2, ..around() },
            "archive",
            true,
            "The last archived segment is 0A, 3 s ago; 2 segments wait.",
        ),
        (
            Surroundings { archived: Some("0A".into()), archive_waits: 3, ..around() },
            "archive",
            false,
            "3 segments wait.",
        ),
        (Surroundings { archived: Some("0A".into()), archive_fails: true, ..around() }, "archive", false, "failed."),
        (Surroundings { wal_level: "minimal".into(), ..around() }, "restore_point", false, "minimal"),
        (Surroundings { in_recovery: true, ..around() }, "restore_point", false, "standby"),
        (around(), "replication", true, "No standby is connected."),
        (Surroundings { standbys: vec![standby(true)], ..around() }, "replication", true, "\"a\" is far away."),
        (Surroundings { standbys: vec![standby(true), standby(false)], ..around() }, "replication", false, "; "),
        (Surroundings { idle_slots: vec!["s".into()], ..around() }, "replication", false, "Nobody reads"),
        (Surroundings { commits_hang: true, ..around() }, "replication", false, "Commits wait"),
        (
            Surroundings { open: (1..=7).map(|n| format!("pid {n}")).collect(), ..around() },
            "open_transactions",
            false,
            "A cutover would wait for pid 1; pid 2; pid 3; pid 4; pid 5; and 2 more.",
        ),
        (Surroundings { freeze: Some("audit".into()), ..around() }, "freeze", false, "(audit)"),
    ];
    for (surroundings, check, ok, told) in cases {
        let rows = readiness(&forward(&policy), &surroundings);
        let row = rows.iter().find(|row| row.name == check);
        assert!(row.is_some_and(|row| row.ok == ok && row.detail.contains(told) && !row.blocking), "{row:?}");
    }
}
