//! `forbidden_setting`: no way of setting a setting gets an unproven session beyond a bound.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::Cluster;
use crate::wait::eventually;

const FORBIDDEN: &str = "forbidden_setting";
const TIMEOUTS: [&str; 3] = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_way_to_set_is_asked", every_way_to_set_is_asked),
        Test::shared("a_refusal_says_what_may_be_set", a_refusal_says_what_may_be_set),
        Test::shared("what_nobody_asked_for_is_brought_down", what_nobody_asked_for_is_brought_down),
        Test::shared("reset_and_discard_stay_within", reset_and_discard_stay_within),
        Test::shared("the_first_statement_is_timed", the_first_statement_is_timed),
        Test::shared("guards_of_the_server_stay_on", guards_of_the_server_stay_on),
        Test::shared("caps_come_and_go_at_the_next_statement", caps_come_and_go_at_the_next_statement),
        Test::shared("legacy_may_set_everything", legacy_may_set_everything),
        Test::shared("observed_settings_pass", observed_settings_pass),
        Test::shared("behind_broken_glass_settings_stay", behind_broken_glass_settings_stay),
    ]
}

/// A scene whose rebuilt role is a superuser, so that Postgres itself lets it set anything; with caps.
fn scene(cluster: &Cluster) -> Result<Scene> {
    let scene = Scene::set(cluster, "settings")?;
    let sql = format!(
        "ALTER ROLE {} SUPERUSER; ALTER ROLE {} SUPERUSER;
         SELECT holdfast.set_limits('rebuilt', statement_timeout => '20 s', lock_timeout => '5 s',
             idle_in_transaction_timeout => '1 min')",
        scene.rebuilt, scene.legacy
    );
    scene.operator()?.exec(&sql)?;
    Ok(scene)
}

fn shows(session: &mut Session, setting: &str, value: &str) -> Result<()> {
    let shown: String = session.one(&format!("SHOW {setting}"))?;
    ensure!(shown == value, "{setting} is {shown}, not {value}");
    Ok(())
}

fn every_way_to_set_is_asked(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let (database, role) = (&scene.database.name, &scene.rebuilt);
    // Made by legacy, called by rebuilt.
    scene.legacy()?.exec(
        "CREATE FUNCTION unlimited() RETURNS text LANGUAGE sql SET lock_timeout = 0 AS 'SELECT ''u''';
         CREATE FUNCTION replica() RETURNS text LANGUAGE sql SET session_replication_role = replica AS 'SELECT ''r''';
         CREATE FUNCTION short() RETURNS int LANGUAGE sql SET lock_timeout = '1 s' AS 'SELECT 1';
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC",
    )?;
    let by_database = format!("ALTER DATABASE {database} SET statement_timeout = 0");
    let by_role = format!("ALTER ROLE {role} SET statement_timeout = '1 h'");
    let by_both = format!("ALTER ROLE {role} IN DATABASE {database} SET session_replication_role = local");
    let within = format!("ALTER ROLE {role} SET statement_timeout = '20 s'");
    let refused = Refused(FORBIDDEN);
    let cases = [
        ("SET statement_timeout = 0", refused),
        ("SET statement_timeout = '20001 ms'", refused),
        ("SET statement_timeout = '20 s'", Passes),
        ("SET SESSION lock_timeout TO '1 d'", refused),
        ("SET LOCAL idle_in_transaction_session_timeout = 0", refused),
        ("SET LOCAL idle_in_transaction_session_timeout = '1 min'", Passes),
        ("SELECT set_config('statement_timeout', '0', false)", refused),
        ("SELECT set_config('statement_timeout', '0', true)", refused),
        ("UPDATE pg_settings SET setting = '0' WHERE name = 'lock_timeout'", refused),
        ("UPDATE pg_settings SET setting = '7' WHERE name = 'lock_timeout'", Passes),
        ("DO $$ BEGIN SET LOCAL lock_timeout = 0; END $$", refused),
        ("DO $$ BEGIN PERFORM set_config('lock_timeout', '0', true); END $$", refused),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET statement_timeout = 0 AS 'SELECT 1'", refused),
        // Stopped before it comes to the value.
        ("ALTER FUNCTION short() SET statement_timeout = 0", Refused("destructive_command")),
        ("ALTER FUNCTION short() SET session_replication_role = replica", Refused("destructive_command")),
        ("SELECT unlimited()", refused),
        ("SELECT replica()", refused),
        ("SELECT short()", Passes),
        (&by_database, refused),
        (&by_role, refused),
        (&by_both, refused),
        (&within, Passes),
        ("SET session_replication_role = replica", refused),
        ("SET LOCAL session_replication_role = 'local'", refused),
        ("SET session_replication_role = origin", Passes),
        ("SET allow_system_table_mods = on", refused),
        ("SET zero_damaged_pages = on", refused),
        ("SET ignore_checksum_failure = on", refused),
        ("SET lo_compat_privileges = on", refused),
        ("SET lo_compat_privileges = off", Passes),
        ("SET session_preload_libraries = 'x'", refused),
        ("SET local_preload_libraries = 'x'", refused),
        ("SET dynamic_library_path = '/tmp'", refused),
        ("SET dynamic_library_path = '$libdir'", Passes),
        ("SET work_mem = '1 GB'", Passes),
        ("SET statement_timeout TO DEFAULT", Passes),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn a_refusal_says_what_may_be_set(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut rebuilt = scene.rebuilt()?;
    let refusal = rebuilt.refused("SET idle_in_transaction_session_timeout = '2 min'")?;
    refused_by(FORBIDDEN, &refusal, "SET")?;
    ensure!(
        refusal.message
            == "backend \"rebuilt\" may not set parameter \"idle_in_transaction_session_timeout\" to \"120000\""
    );
    ensure!(
        refusal.detail.as_deref()
            == Some(
                "Backend \"rebuilt\" attempted SET idle_in_transaction_session_timeout. \
                 Limit: 60000 ms; 0 would be no limit. Rule: forbidden_setting."
            ),
        "{refusal:?}"
    );
    ensure!(
        refusal.hint.as_deref()
            == Some(
                "Set it to at most 60000, or raise the limit: \
                 SELECT holdfast.set_limits('rebuilt', idle_in_transaction_timeout => '...');"
            ),
        "{refusal:?}"
    );
    let refusal = rebuilt.refused("SET session_replication_role = replica")?;
    ensure!(refusal.hint.as_deref().is_some_and(|hint| hint.starts_with("Leave it at \"origin\"")), "{refusal:?}");
    let sql = "SELECT command, message FROM holdfast.blocked_writes ORDER BY id";
    let recorded = scene.operator()?.rows(sql)?;
    ensure!(recorded.len() == 2 && recorded[0][0].as_deref() == Some("SET idle_in_transaction_session_timeout"));
    Ok(())
}

/// By ALTER DATABASE and ALTER ROLE of somebody else, and by the startup packet.
fn what_nobody_asked_for_is_brought_down(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut operator = scene.operator()?;
    let database = scene.database.name.clone();
    for setting in TIMEOUTS {
        operator.exec(&format!("ALTER DATABASE {database} SET {setting} = '3 h'"))?;
    }
    operator.exec(&format!("ALTER ROLE {} SET lock_timeout = '2 s'", scene.rebuilt))?;
    let mut rebuilt = scene.rebuilt()?;
    shows(&mut rebuilt, "statement_timeout", "20s")?;
    shows(&mut rebuilt, "lock_timeout", "2s")?;
    shows(&mut rebuilt, "idle_in_transaction_session_timeout", "1min")?;
    ensure!(scene.recorded(&rebuilt)?.is_empty(), "nobody asked for it");
    // What the client asks for when it connects is on record.
    let builder = || scene.database.session().role(&scene.rebuilt);
    let mut asking = builder().option("statement_timeout", "0").option("lock_timeout", "1s").connect()?;
    shows(&mut asking, "statement_timeout", "20s")?;
    shows(&mut asking, "lock_timeout", "1s")?;
    asking.exec("DISCARD ALL")?;
    asking.exec("SELECT 1")?;
    let expected = vec![(FORBIDDEN.to_owned(), "refused".to_owned())];
    ensure!(scene.recorded(&asking)? == expected, "{:?}", scene.recorded(&asking)?);
    Ok(())
}

fn reset_and_discard_stay_within(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut rebuilt = scene.rebuilt()?;
    let ways = [
        "RESET statement_timeout",
        "RESET ALL",
        "DISCARD ALL",
        "SET statement_timeout TO DEFAULT",
        "SELECT set_config('statement_timeout', NULL, false)",
        "BEGIN; SET statement_timeout = '3 s'; ROLLBACK",
        "BEGIN; SAVEPOINT s; SET statement_timeout = '3 s'; ROLLBACK TO s; RESET statement_timeout; COMMIT",
        "BEGIN; SET LOCAL statement_timeout TO DEFAULT; COMMIT",
    ];
    for way in ways {
        for start in ["RESET ALL", "SET statement_timeout = '7 s'"] {
            rebuilt.exec(start)?;
            rebuilt.exec(way)?;
            let shown: String = rebuilt.one("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")?;
            ensure!(matches!(shown.as_str(), "20000" | "7000"), "after {start}, {way}: {shown}");
        }
    }
    // The reload of postgresql.conf doesn't lift it either.
    rebuilt.exec("RESET ALL")?;
    scene.operator()?.exec("SELECT pg_reload_conf()")?;
    rebuilt.exec("SELECT pg_sleep(0.2)")?;
    shows(&mut rebuilt, "statement_timeout", "20s")
}

fn the_first_statement_is_timed(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    scene.operator()?.exec(
        "SELECT holdfast.set_limits('rebuilt', statement_timeout => '0.3 s', lock_timeout => '0.2 s',
             idle_in_transaction_timeout => '0.3 s')",
    )?;
    for unlimited in ["SELECT pg_sleep(60)", "DO 'BEGIN PERFORM pg_sleep(60); END'"] {
        // connect() asks for the pid, so the first statement is timed before; DISCARD ALL changes nothing about that.
        let mut rebuilt = scene.database.session().role(&scene.rebuilt).option("statement_timeout", "0").connect()?;
        ensure!(rebuilt.refused(unlimited)?.code == "57014", "{unlimited}");
        rebuilt.exec("DISCARD ALL")?;
        ensure!(rebuilt.refused(unlimited)?.code == "57014", "{unlimited} after DISCARD ALL");
    }
    let mut holder = scene.operator()?;
    holder.exec("BEGIN; LOCK TABLE loose")?;
    let mut rebuilt = scene.database.session().role(&scene.rebuilt).option("lock_timeout", "0").connect()?;
    ensure!(rebuilt.refused("SELECT * FROM loose")?.code == "55P03");
    holder.exec("ROLLBACK")?;
    let mut idle = scene.rebuilt()?;
    idle.exec("BEGIN")?;
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {})", idle.pid());
    eventually("the idle transaction to be ended", || holder.one(&gone))?;
    Ok(())
}

/// From the startup packet, where a superuser may set anything.
fn guards_of_the_server_stay_on(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    scene.operator()?.exec(
        "CREATE TABLE fired (id int); GRANT ALL ON fired TO PUBLIC; SELECT holdfast.exempt_table('fired');
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO fired VALUES (1); RETURN NULL; END';
         CREATE TRIGGER fires AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION fire()",
    )?;
    let asks = |setting, value| scene.database.session().role(&scene.rebuilt).option(setting, value).connect();
    let mut rebuilt = asks("session_replication_role", "replica")?;
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE id = 2")?;
    ensure!(rebuilt.one::<i64>("SELECT count(*) FROM fired")? == 1);
    shows(&mut rebuilt, "session_replication_role", "origin")?;
    let expected = vec![(FORBIDDEN.to_owned(), "refused".to_owned())];
    ensure!(scene.recorded(&rebuilt)? == expected);
    for setting in ["allow_system_table_mods", "zero_damaged_pages", "ignore_checksum_failure", "lo_compat_privileges"]
    {
        let mut rebuilt = asks(setting, "on")?;
        shows(&mut rebuilt, setting, "off")?;
        rebuilt.exec("RESET ALL")?;
        shows(&mut rebuilt, setting, "off")?;
        ensure!(scene.recorded(&rebuilt)? == expected, "{setting}");
    }
    Ok(())
}

fn caps_come_and_go_at_the_next_statement(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut operator = scene.operator()?;
    let mut limit =
        |to: &str| operator.exec(&format!("SELECT holdfast.set_limits('rebuilt', statement_timeout => '{to}')"));
    let mut rebuilt = scene.database.session().role(&scene.rebuilt).option("statement_timeout", "50s").connect()?;
    shows(&mut rebuilt, "statement_timeout", "20s")?;
    limit("10 s")?;
    shows(&mut rebuilt, "statement_timeout", "10s")?;
    limit("30 s")?;
    shows(&mut rebuilt, "statement_timeout", "30s")?;
    limit("-1 s")?;
    shows(&mut rebuilt, "statement_timeout", "50s")?;
    rebuilt.exec("SET statement_timeout = 0")?;
    limit("40 s")?;
    shows(&mut rebuilt, "statement_timeout", "40s")?;
    limit("-1 s")?;
    rebuilt.exec("RESET statement_timeout")?;
    shows(&mut rebuilt, "statement_timeout", "50s")?;
    // Inside of a transaction that began before.
    rebuilt.exec("SET statement_timeout = 0")?;
    rebuilt.exec("BEGIN")?;
    limit("5 s")?;
    shows(&mut rebuilt, "statement_timeout", "5s")?;
    rebuilt.exec("ROLLBACK")?;
    shows(&mut rebuilt, "statement_timeout", "5s")?;
    // A claim to be another backend binds as that backend is bound, and no longer than it is made.
    let mut legacy = scene.legacy()?;
    shows(&mut legacy, "statement_timeout", "0")?;
    legacy.exec("SET holdfast.backend = 'rebuilt'")?;
    shows(&mut legacy, "statement_timeout", "5s")?;
    legacy.exec("RESET holdfast.backend")?;
    shows(&mut legacy, "statement_timeout", "0")?;
    let mut operator = scene.operator()?;
    operator.exec("SELECT holdfast.set_trust('rebuilt', 'proven')")?;
    rebuilt.exec("RESET ALL")?;
    shows(&mut rebuilt, "statement_timeout", "50s")
}

fn legacy_may_set_everything(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let database = &scene.database.name;
    let by_database = format!("ALTER DATABASE {database} SET statement_timeout = 0");
    let cases = [
        ("SET statement_timeout = 0", Passes),
        ("SET LOCAL lock_timeout = '1 d'", Passes),
        ("SELECT set_config('statement_timeout', '0', false)", Passes),
        ("UPDATE pg_settings SET setting = '0' WHERE name = 'lock_timeout'", Passes),
        (&by_database, Passes),
        ("SET session_replication_role = replica", Passes),
        ("SET allow_system_table_mods = on", Passes),
        ("SET dynamic_library_path = '/tmp'", Passes),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET statement_timeout = 0 AS 'SELECT 1'", Passes),
    ];
    scene.judge(&mut scene.legacy()?, &cases)?;
    let builder = scene.database.session().role(&scene.legacy);
    let mut legacy =
        builder.option("statement_timeout", "3h").option("session_replication_role", "replica").connect()?;
    shows(&mut legacy, "statement_timeout", "3h")?;
    shows(&mut legacy, "session_replication_role", "replica")?;
    ensure!(scene.recorded(&legacy)?.is_empty());
    Ok(())
}

fn observed_settings_pass(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    scene.operator()?.exec("SELECT holdfast.set_mode('observe', rule => 'forbidden_setting')")?;
    let mut rebuilt = scene.database.session().role(&scene.rebuilt).option("lock_timeout", "3h").connect()?;
    shows(&mut rebuilt, "lock_timeout", "3h")?;
    shows(&mut rebuilt, "statement_timeout", "0")?;
    rebuilt.exec("SET statement_timeout = '3 h'")?;
    shows(&mut rebuilt, "statement_timeout", "3h")?;
    let observed = (FORBIDDEN.to_owned(), "observed".to_owned());
    ensure!(scene.recorded(&rebuilt)? == vec![observed.clone(), observed], "{:?}", scene.recorded(&rebuilt)?);
    // When the rule is enforced the session is brought down, and what it had is back when it is off.
    scene.operator()?.exec("SELECT holdfast.set_mode('enforce', rule => 'forbidden_setting')")?;
    shows(&mut rebuilt, "lock_timeout", "5s")?;
    shows(&mut rebuilt, "statement_timeout", "20s")?;
    scene.operator()?.exec("SELECT holdfast.set_mode('off', rule => 'forbidden_setting')")?;
    shows(&mut rebuilt, "lock_timeout", "3h")?;
    rebuilt.exec("SET session_replication_role = replica")?;
    ensure!(scene.recorded(&rebuilt)?.len() == 2);
    Ok(())
}

fn behind_broken_glass_settings_stay(cluster: &Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("SELECT holdfast.break_glass('repair')")?;
    rebuilt.exec("SET session_replication_role = replica")?;
    rebuilt.exec("SET statement_timeout = 0")?;
    shows(&mut rebuilt, "session_replication_role", "replica")?;
    shows(&mut rebuilt, "statement_timeout", "0")?;
    rebuilt.exec("SELECT holdfast.end_break_glass()")?;
    shows(&mut rebuilt, "session_replication_role", "origin")?;
    shows(&mut rebuilt, "statement_timeout", "20s")?;
    let recorded = scene.recorded(&rebuilt)?;
    let passed = recorded.iter().filter(|(rule, outcome)| rule == FORBIDDEN && outcome == "break_glass").count();
    ensure!(passed == 2, "{recorded:?}");
    Ok(())
}
