//! Modes: off ignores, observe records and lets pass, enforce records and refuses; everywhere, for a backend, for a rule.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Scene;
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_rule_obeys_its_mode", every_rule_obeys_its_mode),
        Test::shared("the_most_specific_mode_wins", the_most_specific_mode_wins),
        Test::shared("observe_changes_nothing_for_the_application", observe_changes_nothing),
        Test::shared("alike_observations_are_counted", alike_observations_are_counted),
        Test::shared("a_mode_reaches_open_sessions_at_their_next_statement", reaches_open_sessions),
        Test::shared("an_installed_extension_does_nothing_before_a_migration", nothing_before_a_migration),
    ]
}

/// A statement for each rule that breaks it and no other. `true`: by the rebuilt backend, else by legacy.
const BREACHES: [(&str, bool, &str); 8] = [
    ("not_owner", true, "UPDATE orders SET note = 'x' WHERE id = 1"),
    ("not_owner", false, "TRUNCATE orders"),
    ("tenant_frozen", false, "UPDATE orders SET note = 'x' WHERE id = 4"),
    ("outside_surface", true, "INSERT INTO loose VALUES (1)"),
    ("global_write", true, "UPDATE plans SET name = 'x' WHERE id = 1"),
    ("global_write", true, "INSERT INTO orders VALUES (6, NULL)"),
    ("unfiltered_write", true, "DELETE FROM loose_ends"),
    ("destructive_command", true, "TRUNCATE loose"),
];

fn scene(cluster: &Cluster) -> Result<Scene> {
    let scene = Scene::set(cluster, "modes")?;
    scene.operator()?.exec(
        "CREATE TABLE loose_ends (id int, tenant_id int); INSERT INTO loose_ends VALUES (1, 20); GRANT ALL ON loose_ends TO PUBLIC;
         SELECT holdfast.guard_table('loose_ends', 'tenant_id'); SELECT holdfast.allow_writes('rebuilt', 'loose_ends')",
    )?;
    Ok(scene)
}

/// Runs a statement and undoes it; whether it was refused, and what was recorded.
fn attempt(scene: &Scene, session: &mut Session, sql: &str) -> Result<(bool, Vec<(String, String)>)> {
    let already = scene.recorded(session)?.len();
    session.exec("BEGIN")?;
    let refused = session.exec(sql).is_err();
    session.exec("ROLLBACK")?;
    Ok((refused, scene.recorded(session)?.split_off(already)))
}

fn expect(scene: &Scene, session: &mut Session, rule: &str, sql: &str, mode: &str) -> Result<()> {
    let (refused, recorded) = attempt(scene, session, sql)?;
    let outcomes: &[&str] = match mode {
        "off" => &[],
        "observe" => &["observed"],
        _ => &["refused"],
    };
    let expected: Vec<_> = outcomes.iter().map(|outcome| (rule.to_owned(), (*outcome).to_owned())).collect();
    ensure!(
        refused == (mode == "enforce") && recorded == expected,
        "{mode}: {sql}\nrefused: {refused}, recorded: {recorded:?}"
    );
    Ok(())
}

fn every_rule_obeys_its_mode(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut operator = scene.operator()?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    for mode in ["observe", "off", "enforce"] {
        operator.exec(&format!("SELECT holdfast.set_mode('{mode}')"))?;
        for (rule, by_rebuilt, sql) in BREACHES {
            let session = if by_rebuilt { &mut rebuilt } else { &mut legacy };
            expect(&scene, session, rule, sql, mode)?;
        }
        operator.exec("SELECT holdfast.set_default_backend(NULL)")?;
        expect(&scene, &mut operator, "unidentified", "INSERT INTO plans VALUES (2)", mode)?;
        operator.exec("SELECT holdfast.set_default_backend('legacy')")?;
        scene.damage("ALTER TABLE loose_ends DISABLE TRIGGER ALL")?;
        expect(&scene, &mut legacy, "guard_tampering", "UPDATE loose_ends SET id = 2", mode)?;
        operator.exec("SELECT holdfast.guard_table('loose_ends', 'tenant_id')")?;
    }
    Ok(())
}

fn the_most_specific_mode_wins(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut operator = scene.operator()?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    let (own, frozen) = ("UPDATE orders SET note = 'x' WHERE id = 1", "UPDATE orders SET note = 'x' WHERE id = 4");
    let foreign = "UPDATE orders SET note = 'x' WHERE id = 2";
    // A change of policy, then rebuilt's mode for not_owner, legacy's for not_owner, legacy's for tenant_frozen.
    let steps = [
        ("set_mode('observe')", "observe", "observe", "observe"),
        ("set_mode('enforce', backend := 'rebuilt')", "enforce", "observe", "observe"),
        ("set_mode('off', rule := 'not_owner')", "off", "off", "observe"),
        ("set_mode('enforce', 'legacy', 'not_owner')", "off", "enforce", "observe"),
        ("set_mode('off', 'legacy')", "off", "enforce", "off"),
        ("set_mode('enforce')", "off", "enforce", "off"),
        ("set_mode(NULL, rule := 'not_owner')", "enforce", "enforce", "off"),
        ("set_mode(NULL, 'legacy')", "enforce", "enforce", "enforce"),
        ("set_mode('observe', 'legacy', 'not_owner')", "enforce", "observe", "enforce"),
        ("set_mode(NULL, 'legacy', 'not_owner')", "enforce", "enforce", "enforce"),
        ("set_mode('off')", "enforce", "off", "off"),
        ("set_mode(NULL, 'rebuilt')", "off", "off", "off"),
        ("set_mode('observe', rule := 'tenant_frozen')", "off", "off", "observe"),
    ];
    for (change, rebuilts, legacys, freezes) in steps {
        operator.exec(&format!("SELECT holdfast.{change}"))?;
        expect(&scene, &mut rebuilt, "not_owner", own, rebuilts).map_err(|e| e.context(change))?;
        expect(&scene, &mut legacy, "not_owner", foreign, legacys).map_err(|e| e.context(change))?;
        expect(&scene, &mut legacy, "tenant_frozen", frozen, freezes).map_err(|e| e.context(change))?;
    }
    Ok(())
}

fn observe_changes_nothing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "modes")?;
    scene.operator()?.exec("SELECT holdfast.set_mode('observe')")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec(
        "UPDATE orders SET note = note || 'x'; INSERT INTO plans VALUES (2, 'y'); DELETE FROM orders WHERE id = 5;
         TRUNCATE loose; INSERT INTO ledger VALUES (1)",
    )?;
    let rows: i64 =
        rebuilt.one("SELECT (SELECT count(*) FROM orders WHERE note LIKE '%x') + (SELECT count(*) FROM plans)")?;
    ensure!(rows == 6, "{rows}");
    let mut rules: Vec<_> = scene.recorded(&rebuilt)?.into_iter().map(|(rule, _)| rule).collect();
    rules.sort_unstable();
    rules.dedup();
    let expected =
        ["destructive_command", "global_write", "not_owner", "outside_surface", "tenant_frozen", "unfiltered_write"];
    ensure!(rules == expected, "{rules:?}");
    ensure!(rebuilt.notices().is_empty(), "the application is told nothing");
    Ok(())
}

fn alike_observations_are_counted(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "modes")?;
    let mut operator = scene.operator()?;
    operator.exec("SELECT holdfast.set_mode('observe')")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("INSERT INTO orders SELECT 100 + n, 10 FROM generate_series(1, 3000) AS n")?;
    operator.exec("SELECT holdfast.flush_events()")?;
    let seen: i64 = operator
        .one("SELECT coalesce(sum(occurrences), 0)::bigint FROM holdfast.blocked_writes WHERE tenant = '10'")?;
    ensure!(seen == 3000, "{seen} of 3000 counted");
    let summed: i64 =
        operator.one("SELECT sum(occurrences)::bigint FROM holdfast.blocked_summary WHERE tenant = '10'")?;
    ensure!(summed == 3000);
    Ok(())
}

fn reaches_open_sessions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "modes")?;
    let mut operator = scene.operator()?;
    let mut rebuilt = scene.rebuilt()?;
    let sql = "UPDATE orders SET note = 'x' WHERE id = 1";
    // In the middle of a transaction too, whatever its snapshot.
    rebuilt.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM orders")?;
    operator.exec("SELECT holdfast.set_mode('off')")?;
    rebuilt.exec(sql)?;
    operator.exec("SELECT holdfast.set_mode('enforce')")?;
    super::scene::refused_by("not_owner", &rebuilt.refused(sql)?, sql)?;
    rebuilt.exec("ROLLBACK")?;
    // A change that is rolled back counts for its own session as long as it lasts, and for nobody else.
    operator.exec("BEGIN; SELECT holdfast.set_mode('off'); UPDATE orders SET note = 'x' WHERE id = 2")?;
    super::scene::refused_by("not_owner", &rebuilt.refused(sql)?, sql)?;
    operator.exec("ROLLBACK")?;
    let foreign = "UPDATE orders SET note = 'x' WHERE id = 2";
    super::scene::refused_by("not_owner", &operator.refused(foreign)?, foreign)
}

fn nothing_before_a_migration(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("modes")?;
    let mut session = database.connect()?;
    session.exec(
        "CREATE TABLE t (id int, tenant_id int); SELECT holdfast.guard_table('t', 'tenant_id');
         INSERT INTO t VALUES (1, 1), (2, NULL); UPDATE t SET id = 3; DELETE FROM t; TRUNCATE t; DROP TABLE t",
    )?;
    let who = session.rows("SELECT backend, trust, source, mode FROM holdfast.whoami()")?;
    let nobody = "no identity rule matches, and there is no default backend".to_owned();
    ensure!(who == [[None, None, Some(nobody), Some("off".to_owned())]], "{who:?}");
    ensure!(session.one::<i64>("SELECT count(*) FROM holdfast.blocked_writes")? == 0);
    Ok(())
}
