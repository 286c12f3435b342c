//! `check_setup()` finds what it should, and nothing else in a database that is well set up.

use std::fs;

use anyhow::{Result, bail, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::scene::in_break_glass;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::setup::workspace;
use crate::wait::eventually;

pub fn tests() -> Vec<Test> {
    let own = ClusterOptions::new;
    let well = own().durable().set("max_prepared_transactions", "0");
    let small = own().set("wal_level", "minimal").set("max_wal_senders", "0").set("max_worker_processes", "0");
    let small = small.set("max_locks_per_transaction", "16");
    let no_slots = own().set("max_worker_processes", "2").set("holdfast.audit_timeout", "100ms");
    let no_slots = no_slots.set("holdfast.audit_spool_size", "1MB");
    vec![
        Test::own("a_database_that_is_well_set_up_has_notices_only", well, well_set_up),
        Test::shared("every_finding_is_provoked_and_in_the_manual", every_finding_is_provoked),
        Test::shared("findings_say_what_to_do", findings_say_what_to_do),
        Test::shared("the_migration_is_looked_at", the_migration),
        Test::shared("guards_are_looked_at", guards),
        Test::shared("identities_are_looked_at", identities),
        Test::shared("powers_of_an_unproven_role_are_found", powers),
        Test::shared("settings_of_sessions_are_looked_at", settings),
        Test::shared("a_left_prepared_transaction_is_found", a_left_prepared_transaction),
        Test::shared("what_else_hooks_in_is_found", what_else_hooks_in),
        Test::shared("another_version_is_found", another_version),
        Test::own("a_server_that_is_too_small_is_found", small, too_small),
        Test::own("no_slot_for_the_worker_is_found", no_slots, no_slot),
        Test::own("what_the_next_start_will_be_is_found", own(), the_next_start),
        Test::own("events_that_wait_are_found", own().set("holdfast.audit_timeout", "100ms"), events_that_wait),
        Test::own("a_standby_is_told", own(), a_standby),
    ]
}

/// Severity, finding, detail and hint.
fn findings(session: &mut Session) -> Result<Vec<[String; 4]>> {
    let rows = session.query("SELECT severity, finding, detail, hint FROM holdfast.check_setup()", &[])?;
    rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?])).collect()
}

/// The detail of a finding, if there is one.
fn detail(session: &mut Session, finding: &str) -> Result<Option<String>> {
    Ok(findings(session)?.into_iter().find(|found| found[1] == finding).map(|[_, _, detail, _]| detail))
}

/// There is such a finding of this severity, whose detail says this.
fn finds(session: &mut Session, severity: &str, finding: &str, says: &str) -> Result<()> {
    let all = findings(session)?;
    let there = all.iter().any(|[s, f, detail, _]| s == severity && f == finding && detail.contains(says));
    ensure!(there, "no {severity} {finding} that says {says}: {all:#?}");
    Ok(())
}

fn finds_no(session: &mut Session, finding: &str) -> Result<()> {
    let found = detail(session, finding)?;
    ensure!(found.is_none(), "{finding}: {found:?}");
    Ok(())
}

fn well_set_up(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "well")?;
    let mut dba = guarded.database.connect()?;
    let urgent: Vec<_> = findings(&mut dba)?.into_iter().filter(|found| found[0] != "notice").collect();
    ensure!(urgent.is_empty(), "{urgent:#?}");
    // An auditor sees the same.
    let auditor = guarded.database.role("auditor")?;
    dba.exec(&format!(
        "SELECT holdfast.grant_auditor('{auditor}'), holdfast.add_identity('legacy', role => '{auditor}')"
    ))?;
    ensure!(findings(&mut guarded.database.connect_as(&auditor)?)? == findings(&mut dba)?);
    Ok(())
}

/// The words of findings in src/api/check_setup.
fn known() -> Result<Vec<String>> {
    let mut words = Vec::new();
    for file in fs::read_dir(workspace().join("src/api/check_setup"))? {
        let text = fs::read_to_string(file?.path())?;
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if ["Error,", "Warning,", "Notice,"].contains(&line) {
                let Some(word) = lines.next().and_then(|line| line.split('"').nth(1)) else { bail!("after {line}") };
                words.push(word.to_owned());
            }
        }
    }
    ensure!(words.len() > 30, "{words:?}");
    Ok(words)
}

fn every_finding_is_provoked(_: &Cluster) -> Result<()> {
    let (here, readme) = (include_str!("check_setup.rs"), fs::read_to_string(workspace().join("README.md"))?);
    for word in known()? {
        ensure!(here.contains(&format!("\"{word}\"")), "no test provokes {word}");
        ensure!(readme.contains(&format!("`{word}`")), "README.md doesn't tell {word}");
    }
    Ok(())
}

fn findings_say_what_to_do(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    let all = findings(&mut dba)?;
    ensure!(all.len() > 3, "{all:?}");
    for [severity, finding, detail, hint] in &all {
        ensure!(["error", "warning", "notice"].contains(&severity.as_str()), "{severity}");
        ensure!(detail.ends_with('.') && (hint.ends_with('.') || hint.ends_with(';')), "{finding}: {detail} {hint}");
    }
    let order: Vec<_> =
        all.iter().map(|[severity, ..]| ["error", "warning", "notice"].iter().position(|s| s == severity)).collect();
    ensure!(order.is_sorted(), "{all:?}");
    Ok(())
}

fn the_migration(cluster: &Cluster) -> Result<()> {
    let fresh = cluster.guarded_database("setup")?;
    finds(&mut fresh.connect()?, "notice", "no_migration", "nothing is guarded")?;
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    for finding in ["no_migration", "mode_off", "mode_observe", "mode_exceptions", "no_end_date", "end_date_passed"] {
        finds_no(&mut dba, finding)?;
    }
    finds(&mut dba, "notice", "end_date_near", "in 30 days")?;
    dba.exec("SELECT holdfast.set_mode('observe', 'rebuilt', 'not_owner')")?;
    finds(&mut dba, "notice", "mode_exceptions", "backend rebuilt rule not_owner (observe)")?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    finds(&mut dba, "notice", "mode_observe", "passes")?;
    dba.exec("SELECT holdfast.set_mode('off')")?;
    finds(&mut dba, "warning", "mode_off", "every write passes")?;
    dba.exec(&in_break_glass("UPDATE holdfast.migration SET ends_on = current_date - 3"))?;
    finds(&mut dba, "warning", "end_date_passed", "3 days ago")?;
    finds_no(&mut dba, "end_date_near")?;
    dba.exec(&in_break_glass("UPDATE holdfast.migration SET ends_on = current_date - 1"))?;
    finds(&mut dba, "warning", "end_date_passed", "yesterday")?;
    dba.exec("SELECT holdfast.set_end_date(current_date + 1)")?;
    finds(&mut dba, "notice", "end_date_near", "tomorrow")?;
    dba.exec(&in_break_glass("UPDATE holdfast.migration SET ends_on = NULL"))?;
    finds(&mut dba, "warning", "no_end_date", "no end date")
}

fn guards(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    for finding in ["guards_damaged", "tables_unclassified", "tables_doubtful"] {
        finds_no(&mut dba, finding)?;
    }
    dba.exec(
        "CREATE TABLE loose_1 (id int); CREATE TABLE shared (tenant int); SELECT holdfast.guard_global('shared')",
    )?;
    finds(&mut dba, "warning", "tables_unclassified", "loose_1.")?;
    finds(&mut dba, "notice", "tables_doubtful", "tenant column elsewhere")?;
    dba.exec("DO $$BEGIN FOR n IN 2..9 LOOP EXECUTE format('CREATE TABLE loose_%s ()', n); END LOOP; END$$")?;
    finds(&mut dba, "warning", "tables_unclassified", "loose_5 and 4 more.")?;
    dba.exec(&in_break_glass("ALTER TABLE orders DISABLE TRIGGER ALL"))?;
    finds(&mut dba, "error", "guards_damaged", "orders")
}

fn identities(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    for finding in
        ["application_is_superuser", "application_is_operator", "backend_without_identity", "identity_of_nobody"]
    {
        finds_no(&mut dba, finding)?;
    }
    let role = guarded.database.role("passing")?;
    finds(&mut dba, "notice", "roles_by_default", "belong to backend legacy")?;
    dba.exec("SELECT holdfast.set_default_backend(NULL)")?;
    finds(&mut dba, "notice", "roles_by_default", "belong to no backend")?;
    dba.exec("SELECT holdfast.add_backend('third', 'unproven')")?;
    finds(&mut dba, "warning", "backend_without_identity", "backend third")?;
    dba.exec(&format!("SELECT holdfast.add_identity('third', role => '{role}')"))?;
    finds_no(&mut dba, "backend_without_identity")?;
    dba.exec(&format!("SELECT holdfast.grant_operator('{role}')"))?;
    finds(&mut dba, "warning", "application_is_operator", &role)?;
    dba.exec(&in_break_glass(&format!("ALTER ROLE {role} SUPERUSER")))?;
    finds(&mut dba, "error", "application_is_superuser", &role)?;
    finds_no(&mut dba, "application_is_operator")?;
    dba.exec(&in_break_glass(&format!("DROP OWNED BY {role}; DROP ROLE {role}")))?;
    finds(&mut dba, "warning", "identity_of_nobody", "backend third is for a role that is gone")?;
    finds_no(&mut dba, "identity_of_recreated")?;
    dba.exec(&format!("CREATE ROLE {role} LOGIN"))?;
    finds(&mut dba, "error", "identity_of_recreated", &format!("Role {role} of backend third"))
}

fn powers(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    let (rebuilt, legacy) = (&guarded.rebuilt, &guarded.legacy);
    let words = ["unproven_owns_tables", "unproven_reaches_server", "unproven_has_powers", "unproven_in_other_backend"];
    for finding in words {
        finds_no(&mut dba, finding)?;
    }
    dba.exec(&format!("ALTER ROLE {rebuilt} BYPASSRLS CREATEROLE; GRANT pg_write_all_data TO {rebuilt}"))?;
    for power in ["BYPASSRLS", "CREATEROLE", "pg_write_all_data"] {
        finds(&mut dba, "warning", "unproven_has_powers", &format!("has {power}."))?;
    }
    dba.exec(&format!("GRANT pg_execute_server_program TO {rebuilt}"))?;
    finds(&mut dba, "error", "unproven_reaches_server", "pg_execute_server_program")?;
    dba.exec(&format!("GRANT {legacy} TO {rebuilt}"))?;
    finds(&mut dba, "warning", "unproven_in_other_backend", &format!("member of role {}", &**legacy))?;
    dba.exec(&format!("ALTER TABLE orders OWNER TO {legacy}"))?;
    finds(&mut dba, "error", "unproven_owns_tables", "orders")?;
    // Legacy may: it is proven.
    dba.exec(&format!("REVOKE {legacy} FROM {rebuilt}"))?;
    finds_no(&mut dba, "unproven_owns_tables")
}

fn settings(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    for finding in ["held_too_short", "synchronous_commit_off"] {
        finds_no(&mut dba, finding)?;
    }
    // What this cluster has, and any but the last for a reason.
    finds(&mut dba, "warning", "fsync_off", "")?;
    finds(&mut dba, "notice", "prepared_transactions", "is 20")?;
    finds(&mut dba, "notice", "no_archive", "restore point")?;
    finds(&mut dba, "notice", "statements_in_log", "log_min_error_statement = error")?;
    dba.exec("SET lock_timeout = '1 s'")?;
    finds(&mut dba, "warning", "held_too_short", "lock_timeout of this session is 1000ms")?;
    dba.exec("RESET lock_timeout")?;
    dba.exec(&format!("ALTER ROLE {} SET statement_timeout = '2s'", guarded.rebuilt))?;
    finds(&mut dba, "warning", "held_too_short", &format!("statement_timeout of role {} is 2s", &*guarded.rebuilt))?;
    dba.exec(&format!("ALTER DATABASE {} SET synchronous_commit = off", guarded.database.name))?;
    finds(&mut guarded.database.connect()?, "warning", "synchronous_commit_off", "worker waits for its own commits")?;
    let full = dba.one::<bool>("SELECT current_setting('holdfast.audit_query') = 'full'")?;
    ensure!(detail(&mut dba, "audit_query_full")?.is_some() == full);
    Ok(())
}

fn a_left_prepared_transaction(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    guarded.rebuilt()?.exec("BEGIN; INSERT INTO orders VALUES (2, 60); PREPARE TRANSACTION 'it''s left'")?;
    let mut dba = guarded.database.connect()?;
    finds_no(&mut dba, "old_prepared_transaction")?;
    dba.exec("SET holdfast.hold_timeout = 1")?;
    finds(&mut dba, "warning", "old_prepared_transaction", "'it''s left'")?;
    dba.exec("ROLLBACK PREPARED 'it''s left'")?;
    finds_no(&mut dba, "old_prepared_transaction")
}

fn what_else_hooks_in(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    for finding in ["event_triggers", "policy_published", "subscriptions"] {
        finds_no(&mut dba, finding)?;
    }
    dba.exec(
        "CREATE FUNCTION looks() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$;
         CREATE EVENT TRIGGER \"Looks\" ON ddl_command_end EXECUTE FUNCTION looks()",
    )?;
    finds(&mut dba, "notice", "event_triggers", "\"Looks\"")?;
    dba.exec("CREATE PUBLICATION everything FOR ALL TABLES")?;
    finds(&mut dba, "warning", "policy_published", "everything")?;
    dba.exec("DROP PUBLICATION everything; CREATE PUBLICATION owners FOR TABLE holdfast.ownership, orders")?;
    finds_no(&mut dba, "policy_published")?;
    let name = &guarded.database.name;
    dba.exec(&format!("CREATE SUBSCRIPTION of_{name} CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)"))?;
    let found = finds(&mut dba, "notice", "subscriptions", name);
    dba.exec(&format!("ALTER SUBSCRIPTION of_{name} SET (slot_name = NONE); DROP SUBSCRIPTION of_{name}"))?;
    found
}

fn another_version(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "setup")?;
    let mut dba = guarded.database.connect()?;
    finds_no(&mut dba, "version")?;
    let now: String = dba.one("SELECT extversion FROM pg_extension WHERE extname = 'holdfast'")?;
    for (version, hint) in [("0.0.9", "ALTER EXTENSION"), ("9.9.9", "Install the newer library")] {
        let change = format!("UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'holdfast'");
        dba.exec(&in_break_glass(&change))?;
        finds(&mut dba, "error", "version", version)?;
        let found = findings(&mut dba)?.into_iter().find(|found| found[1] == "version");
        ensure!(found.is_some_and(|found| found[3].contains(hint)), "{version}");
    }
    dba.exec(&in_break_glass(&format!("UPDATE pg_extension SET extversion = '{now}' WHERE extname = 'holdfast'")))
}

fn too_small(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.guarded_database("small")?;
    let mut dba = database.connect()?;
    finds(&mut dba, "error", "no_launcher", "stay there")?;
    finds(&mut dba, "warning", "wal_level_minimal", "no restore point")?;
    finds(&mut dba, "warning", "few_locks", "is 16")?;
    finds_no(&mut dba, "no_archive")
}

fn no_slot(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "slot")?;
    let mut dba = guarded.database.connect()?;
    for finding in ["no_launcher", "spool_used", "spool_full", "worker_failing", "events_lost"] {
        finds_no(&mut dba, finding)?;
    }
    finds(&mut dba, "error", "no_worker_slot", "All 2 worker processes")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    finds(&mut dba, "warning", "spool_used", "of 1MB that it may hold")?;
    finds_no(&mut dba, "spool_full")?;
    eventually("the launcher to give up", || Ok(detail(&mut dba, "worker_failing")?.is_some()))?;
    // A file that nobody takes in, as there is no worker.
    let oid: u32 = dba.one("SELECT oid FROM pg_database WHERE datname = current_database()")?;
    fs::write(cluster.data_dir().join(format!("holdfast/{oid}.1.spool")), vec![b'x'; 1 << 20])?;
    finds(&mut dba, "error", "spool_full", "kB: it has reached")?;
    dba.exec(&in_break_glass(
        "INSERT INTO holdfast.audit_loss (first_at, last_at, events, reason) VALUES (now(), now(), 7, 'x')",
    ))?;
    finds(&mut dba, "error", "events_lost", "7 events")?;
    let lost: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'lost events'")?;
    ensure!(lost == "7", "{lost}");
    Ok(())
}

fn the_next_start(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.guarded_database("next")?;
    let mut dba = database.connect()?;
    for finding in ["guard_off", "preload_removed", "no_worker_slot"] {
        finds_no(&mut dba, finding)?;
    }
    cluster.configure(&[("shared_preload_libraries", "pg_stat_statements, my_holdfast")])?;
    finds(&mut dba, "error", "preload_removed", "without the guard")?;
    cluster.configure(&[("shared_preload_libraries", "pg_stat_statements, holdfast")])?;
    finds_no(&mut dba, "preload_removed")?;
    cluster.reload(&[("holdfast.enabled", "off")])?;
    eventually("the session to read its configuration", || Ok(detail(&mut dba, "guard_off")?.is_some()))
}

fn events_that_wait(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "wait")?;
    let mut dba = guarded.database.connect()?;
    let mut locking = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    finds_no(&mut dba, "events_waiting")?;
    locking.exec("BEGIN; LOCK TABLE holdfast.event")?;
    guarded.rebuilt()?.exec(FOREIGN_WRITE)?;
    let mut found = None;
    eventually("the event to have waited", || {
        found = detail(&mut dba, "events_waiting")?;
        Ok(found.is_some())
    })?;
    ensure!(found.is_some_and(|detail| detail.starts_with("1 event waits to be stored")));
    locking.exec("ROLLBACK")?;
    dba.exec("SELECT holdfast.flush_events()")?;
    finds_no(&mut dba, "events_waiting")
}

fn a_standby(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "standby")?;
    finds_no(&mut guarded.database.connect()?, "standby")?;
    cluster.stop(Shutdown::Fast)?;
    fs::write(cluster.data_dir().join("standby.signal"), "")?;
    cluster.start_again()?;
    let mut dba = guarded.database.connect()?;
    finds(&mut dba, "notice", "standby", "nothing is refused")?;
    finds_no(&mut dba, "no_launcher")?;
    let audit: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'audit'")?;
    ensure!(audit.contains("standby"), "{audit}");
    let metrics: String = dba.one("SELECT holdfast.metrics()")?;
    ensure!(metrics.contains("holdfast_launcher_running 0"), "{metrics}");
    fs::remove_file(cluster.data_dir().join("standby.signal"))?;
    cluster.restart(Shutdown::Fast)
}
