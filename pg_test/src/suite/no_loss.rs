//! "Refused" implies "recorded": whatever the database, the role and the session are set to, however a wait ends, and
//! when the server is told to stop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::ledger::Ledger;
use super::processes::drains;
use super::provoker::Stage;
use super::spool::{lock_record, losses, refuse, taken_in};
use crate::client::Refusal;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::{eventually, within};

/// For what takes no time but on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than any test: whoever goes on earlier was told to.
const NEVER: &str = "10min";

/// Of losing nothing.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("synchronous_commit_is_no_excuse", options("5s"), synchronous_commit),
        Test::own("settings_of_the_database_do_not_reach_the_record", options("5s"), settings_of_the_database),
        Test::own("waits_that_are_ended_leave_no_trace", options(NEVER), ended_waits),
        Test::own("order_of_a_session_is_kept", options("150ms"), order_is_kept),
        Test::own("fast_stop_saves_what_was_observed", options("5s"), fast_stop_saves_what_was_observed),
        Test::own("stop_saves_what_the_worker_cannot", options("150ms"), stop_saves_what_the_worker_cannot),
        Test::own("switched_off_guard_still_records_what_it_refused", options("150ms"), switched_off),
    ]
}

fn options(audit_timeout: &str) -> ClusterOptions {
    ClusterOptions::new()
        .set("holdfast.audit_timeout", audit_timeout)
        .set("log_min_messages", "log")
        .set("shared_buffers", "16MB")
}

/// An immediate stop loses what is only in memory, as a power cut does.
fn synchronous_commit(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "commit", 0)?;
    let (database, role) = (&stage.database.name, &stage.rebuilt);
    let mut ledger = Ledger::default();
    let places = [format!("DATABASE {database}"), "ROLE postgres".into(), format!("ROLE {role}"), "SYSTEM".into()];
    let levels = ["off", "local", "remote_apply", "on"];
    for (n, (place, level)) in (0_u32..).zip(places.iter().flat_map(|place| levels.map(|level| (place, level)))) {
        let mut dba = stage.database.connect()?;
        dba.exec(&format!("ALTER {place} SET synchronous_commit = {level}"))?;
        dba.exec("SELECT pg_reload_conf()")?;
        let client = stage.database.session().role(role).option("synchronous_commit", level);
        refuse(&mut client.connect()?, n * 10..n * 10 + 3, &mut ledger)?;
        // What is left of the weakest level for the rounds that follow.
        if level == "on" {
            dba.exec(&format!("ALTER {place} RESET synchronous_commit"))?;
        } else if level == "off" {
            cluster.restart(Shutdown::Immediate)?;
            ledger.check(&stage.database).with_context(|| format!("{place} with {level}"))?;
        }
    }
    cluster.restart(Shutdown::Immediate)?;
    ledger.check(&stage.database)?;
    Ok(())
}

/// Settings that a database can have, and what a session sets to be rid of them.
const HOSTILE: [(&str, &str, Option<&str>); 15] = [
    ("default_transaction_isolation", "serializable", None),
    ("default_transaction_deferrable", "on", None),
    ("session_replication_role", "replica", None),
    ("lock_timeout", "1", Some("0")),
    ("statement_timeout", "1", Some("0")),
    ("idle_in_transaction_session_timeout", "1", Some("0")),
    ("search_path", "strange, public", Some("public")),
    ("row_security", "off", None),
    ("standard_conforming_strings", "off", None),
    ("datestyle", "German, DMY", None),
    ("intervalstyle", "sql_standard", None),
    ("timezone", "'Asia/Kathmandu'", None),
    ("client_encoding", "latin1", None),
    ("default_tablespace", "nowhere", None),
    ("default_transaction_read_only", "on", Some("off")),
];

/// The worker runs in the database, so that it gets the settings that were made for sessions there.
fn settings_of_the_database(cluster: &mut Cluster) -> Result<()> {
    let (stage, mut ledger) = (Stage::set(cluster, "settings", 0)?, Ledger::default());
    stage.database.connect()?.exec(
        "CREATE SCHEMA strange;
         CREATE FUNCTION strange.fail(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''strange''; END';
         CREATE OPERATOR strange.= (LEFTARG = text, RIGHTARG = text, FUNCTION = strange.fail);
         CREATE TABLE strange.event (id int); CREATE TABLE strange.audit_batch (id int)",
    )?;
    let mut observer = cluster.endpoint().observe("postgres")?;
    let name = &stage.database.name;
    for (n, (setting, value, _)) in (0_u32..).zip(HOSTILE) {
        observer.batch_execute(&format!("ALTER DATABASE {name} SET {setting} = {value}"))?;
        eventually("the worker that doesn't know of it to leave", || Ok(drains(cluster)?.is_empty()))?;
        let client = stage.database.session().role(&stage.rebuilt);
        let client = HOSTILE.iter().fold(client, |client, (setting, _, harmless)| match harmless {
            Some(harmless) => client.option(setting, harmless),
            None => client,
        });
        let longest = refuse(&mut client.connect()?, n * 10..n * 10 + 5, &mut ledger).with_context(|| setting)?;
        ensure!(longest < Duration::from_secs(5), "with {setting} a refusal took {longest:?}");
        observer.batch_execute(&format!("ALTER DATABASE {name} RESET {setting}"))?;
        ledger.check(&stage.database).with_context(|| setting)?;
    }
    ensure!(!cluster.log()?.contains("holdfast: event"), "the worker had to give up:\n{}", cluster.log()?);
    Ok(())
}

fn ended_waits(cluster: &mut Cluster) -> Result<()> {
    /// More than the queue holds.
    const WAITS: u32 = 48;
    cluster.configure(&[("holdfast.audit_queue_size", "16")])?;
    cluster.restart(Shutdown::Fast)?;
    let guarded = Guarded::enforcing(cluster, "waits")?;
    let locker = lock_record(&guarded.database)?;
    for n in 0..WAITS {
        let mut client = guarded.rebuilt()?;
        if n % 3 == 0 {
            client.exec("SET statement_timeout = '20ms'")?;
        }
        let waiting = client.start(FOREIGN_WRITE);
        within(PATIENCE, "the refusal to wait", || {
            let mut observer = cluster.endpoint().observe("postgres")?;
            let sql = "SELECT 1 FROM pg_catalog.pg_stat_activity
                       WHERE pid = $1 AND (wait_event_type = 'Extension' OR state <> 'active')";
            Ok(observer.query_opt(sql, &[&waiting.pid()])?.is_some())
        })?;
        match n % 3 {
            0 => {}
            1 => waiting.cancel()?,
            _ => waiting.terminate()?,
        }
        let (_, outcome) = waiting.finish()?;
        let error = outcome.err().context("a write that waits for its refusal can't succeed")?;
        let code = Refusal::of(&error).map(|refusal| refusal.code).unwrap_or_default();
        // Who is terminated may find the connection closed before its reason arrives.
        ensure!(["57014", "57P01"].contains(&code.as_str()) || n % 3 == 2, "wait {n}: {code}: {error:#}");
    }
    drop(locker);
    taken_in(&guarded.database, PATIENCE)?;
    let (occurrences, _) = guarded.recorded()?;
    ensure!((0..=i64::from(WAITS)).contains(&occurrences), "{occurrences} of {WAITS} recorded");
    // No slot of the queue is held by one of them: there is room for as many as it has.
    for n in 1..=20 {
        guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
        ensure!(guarded.recorded()?.0 == occurrences + n, "{:?} after {n}", guarded.recorded()?);
    }
    ensure!(losses(&guarded.database)? == 0);
    Ok(())
}

fn order_is_kept(cluster: &mut Cluster) -> Result<()> {
    let (stage, mut ledger) = (Stage::set(cluster, "order", 0)?, Ledger::default());
    let mut client = stage.database.connect_as(&stage.rebuilt)?;
    for round in 0..4 {
        let first = round * 30;
        refuse(&mut client, first..first + 10, &mut ledger)?;
        let locker = lock_record(&stage.database)?;
        refuse(&mut client, first + 10..first + 20, &mut ledger)?;
        drop(locker);
        refuse(&mut client, first + 20..first + 30, &mut ledger)?;
    }
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    let tenants = stage.database.connect()?.rows("SELECT tenant FROM holdfast.blocked_writes ORDER BY at, id")?;
    let expected: Vec<_> = (0..120).map(|n| vec![Some(format!("tenant {n}"))]).collect();
    ensure!(tenants == expected, "{tenants:?}");
    // The view's own order is the same, from its end.
    let mut newest = stage.database.connect()?.rows("SELECT tenant FROM holdfast.blocked_writes")?;
    newest.reverse();
    ensure!(newest == expected, "{newest:?}");
    Ok(())
}

fn fast_stop_saves_what_was_observed(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stop")?;
    guarded.database.connect()?.exec("SELECT holdfast.set_mode('observe')")?;
    let mut expected = 0;
    for (how, tenants) in [(Shutdown::Fast, 1), (Shutdown::Fast, 300), (Shutdown::Smart, 300), (Shutdown::Fast, 1_000)]
    {
        let mut client = guarded.rebuilt()?;
        client
            .exec(&format!("INSERT INTO orders SELECT n, {expected} FROM generate_series(1001, 1000 + {tenants}) n"))?;
        expected += tenants;
        drop(client);
        cluster.restart(how)?;
        taken_in(&guarded.database, PATIENCE)?;
        ensure!(guarded.recorded()?.0 == expected, "{how:?}: {:?}, not {expected}", guarded.recorded()?);
    }
    Ok(())
}

fn stop_saves_what_the_worker_cannot(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stop")?;
    let mut expected = 0;
    for mode in ["observe", "enforce"] {
        let mut locker = guarded.database.connect()?;
        locker.exec(&format!("SELECT holdfast.set_mode('{mode}')"))?;
        locker.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
        let mut client = guarded.rebuilt()?;
        for n in 0..20 {
            let outcome = client.exec(&format!("INSERT INTO orders VALUES ({}, 1)", 2_000 + n));
            ensure!(outcome.is_ok() == (mode == "observe"), "{mode}: {outcome:?}");
            expected += 1;
        }
        let start = Instant::now();
        cluster.restart(Shutdown::Fast)?;
        ensure!(start.elapsed() < Duration::from_secs(15), "the stop took {:?}", start.elapsed());
        taken_in(&guarded.database, PATIENCE)?;
        ensure!(guarded.recorded()?.0 == expected, "{mode}: {:?}, not {expected}", guarded.recorded()?);
    }
    ensure!(losses(&guarded.database)? == 0);
    Ok(())
}

fn switched_off(cluster: &mut Cluster) -> Result<()> {
    let (stage, mut ledger) = (Stage::set(cluster, "off", 0)?, Ledger::default());
    let locker = lock_record(&stage.database)?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 0..10, &mut ledger)?;
    cluster.reload(&[("holdfast.enabled", "off")])?;
    drop(locker);
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    Ok(())
}
