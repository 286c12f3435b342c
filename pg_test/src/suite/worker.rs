//! The worker is in nobody's way, and refusals outlive its ills.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::processes::{drains, launchers, send};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::{eventually, within};

/// How long a refusal waits for its event in clusters with [`impatient`] settings.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Of the launcher and the drain workers.
pub fn tests() -> Vec<Test> {
    let own = ClusterOptions::new;
    vec![
        Test::own("idle_worker_is_connected_nowhere", own(), idle_worker_is_connected_nowhere),
        Test::own("database_can_be_dropped_at_once", own(), database_can_be_dropped_at_once),
        Test::own("terminated_worker_loses_nothing", impatient(), terminated_worker_loses_nothing),
        Test::own("dead_worker_is_replaced_at_once", own(), dead_worker_is_replaced_at_once),
        Test::own("terminated_launcher_comes_back", own(), terminated_launcher_comes_back),
        Test::own("killed_worker_duplicates_nothing", own(), killed_worker_duplicates_nothing).expects_crashes(),
        Test::own("killed_launcher_comes_back", own(), killed_launcher_comes_back).expects_crashes(),
        Test::own("locked_event_table_delays_no_refusal", impatient(), locked_event_table_delays_no_refusal),
        Test::own("full_queue_stalls_no_observed_write", small_queue(), full_queue_stalls_no_observed_write),
        Test::own("failing_event_table_stops_no_refusal", impatient(), failing_event_table_stops_no_refusal),
        Test::own("one_worker_serves_a_burst", talkative(), one_worker_serves_a_burst),
        Test::own("extension_can_be_dropped_under_queued_events", impatient(), extension_can_be_dropped),
        Test::own("no_free_worker_stops_no_refusal", no_free_worker(), no_worker_stops_no_refusal),
        Test::own("no_launcher_stops_no_refusal", no_launcher(), no_worker_stops_no_refusal),
    ]
}

fn impatient() -> ClusterOptions {
    ClusterOptions::new().set("holdfast.audit_timeout", &AUDIT_TIMEOUT.as_millis().to_string())
}

fn small_queue() -> ClusterOptions {
    impatient().set("holdfast.audit_queue_size", "16")
}

/// The server log tells of every worker that is started.
fn talkative() -> ClusterOptions {
    ClusterOptions::new().set("log_min_messages", "debug1")
}

/// The launcher takes the only place.
fn no_free_worker() -> ClusterOptions {
    impatient().set("max_worker_processes", "1")
}

fn no_launcher() -> ClusterOptions {
    impatient().set("max_worker_processes", "0")
}

fn terminate(pid: i32) -> Result<()> {
    send(pid, Signal::SIGTERM)
}

fn idle_worker_is_connected_nowhere(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let mut dba = guarded.database.connect()?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    eventually("the drain worker to leave", || Ok(drains(cluster)?.is_empty()))?;
    let connected: i64 = dba.one(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'holdfast%' AND (datname IS NOT NULL OR xact_start IS NOT NULL)",
    )?;
    ensure!(connected == 0, "{connected}");
    ensure!(launchers(cluster)?.len() == 1, "{:?}", launchers(cluster)?);
    // And again, with a worker that is started anew.
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    ensure!(guarded.recorded()? == (2, 2));
    Ok(())
}

fn database_can_be_dropped_at_once(cluster: &mut Cluster) -> Result<()> {
    let mut observer = cluster.endpoint().observe("postgres")?;
    for outcome in ["enforce", "observe"] {
        let guarded = Guarded::enforcing(cluster, "worker")?;
        let name = guarded.database.name.clone();
        guarded.database.connect()?.exec(&format!("SELECT holdfast.set_mode('{outcome}')"))?;
        let mut client = guarded.rebuilt()?;
        let _ = client.exec(FOREIGN_WRITE);
        let _ = client.exec("DELETE FROM orders");
        drop(client);
        observer.batch_execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"))?;
        observer.batch_execute(&format!("ALTER DATABASE {name} RENAME TO {name}_renamed"))?;
        observer.batch_execute(&format!("DROP DATABASE {name}_renamed"))?;
        observer.batch_execute(&format!("DROP DATABASE {name}_copy"))?;
    }
    let guarded = Guarded::enforcing(cluster, "worker")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    Ok(())
}

/// Makes the worker wait in the middle of its work: a DBA locks the event table, a session writes under observation.
fn stuck_worker(guarded: &Guarded) -> Result<(Session, i32)> {
    let mut locker = guarded.database.connect()?;
    locker.exec("SELECT holdfast.set_mode('observe')")?;
    let mut client = guarded.rebuilt()?;
    locker.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    client.exec("INSERT INTO orders VALUES (1, 100)")?;
    let mut worker = None;
    // The locker's transaction would see the same activity again and again.
    let mut observer = guarded.database.connect()?;
    eventually("the worker to wait for the event table", || {
        let sql = "SELECT pid FROM pg_catalog.pg_stat_activity
                   WHERE backend_type = 'holdfast worker' AND wait_event_type = 'Lock'";
        worker = observer.query_opt(sql, &[])?.map(|row| row.try_get(0)).transpose()?;
        Ok(worker.is_some())
    })?;
    Ok((locker, worker.unwrap_or_default()))
}

fn terminated_worker_loses_nothing(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let (mut locker, worker) = stuck_worker(&guarded)?;
    terminate(worker)?;
    locker.exec("COMMIT")?;
    eventually("the terminated worker to end", || Ok(!drains(cluster)?.contains(&worker)))?;
    eventually("the event to arrive", || Ok(guarded.recorded()?.0 == 1))?;
    locker.exec("SELECT holdfast.set_mode('enforce')")?;
    let mut client = guarded.rebuilt()?;
    for n in 2..30 {
        client.refused(FOREIGN_WRITE)?;
        eventually("the event to be recorded, once", || Ok(guarded.recorded()?.0 == n))?;
        for pid in drains(cluster)? {
            // It may have left by itself meanwhile.
            let _ = terminate(pid);
        }
    }
    Ok(())
}

fn dead_worker_is_replaced_at_once(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let mut client = guarded.rebuilt()?;
    for n in 1..=5 {
        client.refused(FOREIGN_WRITE)?;
        ensure!(guarded.recorded()? == (n, n), "not recorded when refused: {:?} of {n}", guarded.recorded()?);
        for pid in drains(cluster)? {
            let _ = terminate(pid);
            eventually("the worker to end", || Ok(!drains(cluster)?.contains(&pid)))?;
        }
    }
    Ok(())
}

fn terminated_launcher_comes_back(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let mut client = guarded.rebuilt()?;
    for n in 1..=3 {
        let before = launchers(cluster)?;
        ensure!(before.len() == 1, "{before:?}");
        terminate(before[0])?;
        eventually("another launcher", || {
            let now = launchers(cluster)?;
            Ok(now.len() == 1 && now != before)
        })?;
        eventually("no drain worker", || Ok(drains(cluster)?.is_empty()))?;
        client.refused(FOREIGN_WRITE)?;
        eventually("the event to be recorded, once", || Ok(guarded.recorded()? == (n, n)))?;
    }
    Ok(())
}

fn killed_worker_duplicates_nothing(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let (mut locker, worker) = stuck_worker(&guarded)?;
    send(worker, Signal::SIGKILL)?;
    eventually("the crash to end every session", || Ok(locker.exec("SELECT 1").is_err()))?;
    within(Duration::from_secs(60), "the server to be back", || Ok(guarded.database.connect().is_ok()))?;
    guarded.database.connect()?.exec("SELECT holdfast.set_mode('enforce')")?;
    // Shared memory was laid out anew: what was only observed is gone, what was refused is there once.
    ensure!(guarded.recorded()? == (1, 1), "{:?}", guarded.recorded()?);
    let mut client = guarded.rebuilt()?;
    for n in 2..=20 {
        client.refused(FOREIGN_WRITE)?;
        ensure!(guarded.recorded()?.0 == n, "{:?} after {n}", guarded.recorded()?);
    }
    Ok(())
}

fn killed_launcher_comes_back(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let mut witness = guarded.database.connect()?;
    for launcher in launchers(cluster)? {
        send(launcher, Signal::SIGKILL)?;
    }
    eventually("the crash to end every session", || Ok(witness.exec("SELECT 1").is_err()))?;
    within(Duration::from_secs(60), "the server to be back", || Ok(guarded.database.connect().is_ok()))?;
    within(Duration::from_secs(60), "another launcher", || Ok(launchers(cluster)?.len() == 1))?;
    let mut client = guarded.rebuilt()?;
    client.refused(FOREIGN_WRITE)?;
    eventually("the event to be recorded, once", || Ok(guarded.recorded()? == (2, 2)))?;
    Ok(())
}

fn locked_event_table_delays_no_refusal(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let (mut client, mut locker) = (guarded.rebuilt()?, guarded.database.connect()?);
    locker.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    for n in 0..3 {
        let start = Instant::now();
        let refusal = client.refused(FOREIGN_WRITE)?;
        let waited = start.elapsed();
        ensure!(refusal.code == "WG001", "{refusal:?}");
        // The first one finds out that the worker hangs; the others know.
        let limits = if n == 0 { AUDIT_TIMEOUT..AUDIT_TIMEOUT * 4 } else { Duration::ZERO..AUDIT_TIMEOUT };
        ensure!(limits.contains(&waited), "refusal {n} waited {waited:?}");
    }
    ensure!(spooled(cluster)? == 1, "one LOG line a minute");
    let late = guarded.database.connect()?.refused("SELECT holdfast.flush_events()")?;
    ensure!(late.code == "55P03", "{late:?}");
    locker.exec("COMMIT")?;
    // On a loaded machine the worker may need longer than the short audit_timeout.
    eventually("the events to arrive", || Ok(locker.exec("SELECT holdfast.flush_events()").is_ok()))?;
    ensure!(guarded.recorded()? == (3, 3), "{:?}", guarded.recorded()?);
    client.refused(FOREIGN_WRITE)?;
    ensure!(guarded.recorded()? == (4, 4), "{:?}", guarded.recorded()?);
    Ok(())
}

/// How often the log says that an event went to the spool.
fn spooled(cluster: &Cluster) -> Result<usize> {
    Ok(cluster.log()?.matches("LOG:  holdfast: event written to the spool").count())
}

fn full_queue_stalls_no_observed_write(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let (mut client, mut locker) = (guarded.rebuilt()?, guarded.database.connect()?);
    locker.exec("SELECT holdfast.set_mode('observe')")?;
    locker.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    let start = Instant::now();
    // Events of different tenants can't become one.
    client.exec("INSERT INTO orders SELECT tenant, 1 FROM generate_series(101, 124) tenant")?;
    let waited = start.elapsed();
    locker.exec("COMMIT")?;
    ensure!(waited < AUDIT_TIMEOUT * 2, "a write that is only observed waited {waited:?} for room in the queue");
    Ok(())
}

fn failing_event_table_stops_no_refusal(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let (mut client, mut dba) = (guarded.rebuilt()?, guarded.database.connect()?);
    dba.exec(
        "SELECT holdfast.break_glass('a test');
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no room''; END';
         CREATE TRIGGER fail BEFORE INSERT ON holdfast.event FOR EACH ROW EXECUTE FUNCTION fail()",
    )?;
    for _ in 0..5 {
        let start = Instant::now();
        let refusal = client.refused(FOREIGN_WRITE)?;
        ensure!(refusal.code == "WG001" && start.elapsed() < AUDIT_TIMEOUT * 4, "{:?}: {refusal:?}", start.elapsed());
    }
    ensure!(spooled(cluster)? == 1, "one LOG line a minute");
    let told = cluster.log()?.matches("holdfast: events could not be stored: no room (P0001)").count();
    ensure!(told == 1, "{told} LOG lines of the worker");
    dba.exec("DROP TRIGGER fail ON holdfast.event")?;
    // Whoever asks needn't wait for the launcher's next try.
    eventually("the events to arrive", || Ok(dba.exec("SELECT holdfast.flush_events()").is_ok()))?;
    let refused = "SELECT sum(occurrences)::bigint FROM holdfast.blocked_writes WHERE outcome = 'refused'";
    ensure!(dba.one::<i64>(refused)? == 5);
    client.refused(FOREIGN_WRITE)?;
    ensure!(dba.one::<i64>(refused)? == 6);
    Ok(())
}

fn one_worker_serves_a_burst(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let mut client = guarded.rebuilt()?;
    for _ in 0..50 {
        client.refused(FOREIGN_WRITE)?;
    }
    let started = cluster.log()?.matches("starting background worker process \"holdfast worker\"").count();
    ensure!(started <= 2, "{started} workers for 50 refusals in a row");
    Ok(())
}

fn extension_can_be_dropped(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let (mut locker, _) = stuck_worker(&guarded)?;
    locker.exec("DROP EXTENSION holdfast CASCADE; COMMIT")?;
    eventually("the worker to give up", || Ok(drains(cluster)?.is_empty()))?;
    // What was queued for nobody must not stand in the way of what comes.
    locker.exec(&format!(
        "CREATE EXTENSION holdfast;
         SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
         SELECT holdfast.add_identity('rebuilt', role => '{}');
         SELECT holdfast.guard_table('orders', 'tenant');
         SELECT holdfast.allow_writes('rebuilt', 'orders');
         SELECT holdfast.set_mode('enforce')",
        guarded.rebuilt
    ))?;
    let mut client = guarded.rebuilt()?;
    let refusal = client.refused(FOREIGN_WRITE)?;
    ensure!(refusal.code == "WG001", "{refusal:?}");
    let first = guarded.recorded()?;
    client.refused(FOREIGN_WRITE)?;
    let second = guarded.recorded()?;
    ensure!(first.0 >= 1 && second == (first.0 + 1, first.1 + 1), "{first:?}, then {second:?}");
    Ok(())
}

fn no_worker_stops_no_refusal(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "worker")?;
    let mut client = guarded.rebuilt()?;
    for _ in 0..3 {
        let start = Instant::now();
        let refusal = client.refused(FOREIGN_WRITE)?;
        ensure!(refusal.code == "WG001", "{refusal:?}");
        ensure!(start.elapsed() < AUDIT_TIMEOUT * 4, "waited {:?}", start.elapsed());
    }
    ensure!(spooled(cluster)? == 1, "one LOG line a minute:\n{}", cluster.log()?);
    client.exec("INSERT INTO orders VALUES (2, 5)")?;
    ensure!(guarded.recorded()? == (0, 0), "{:?}", guarded.recorded()?);
    // What is in the spool outlives the server.
    cluster.configure(&[("max_worker_processes", "8")])?;
    cluster.restart(Shutdown::Fast)?;
    let mut dba = guarded.database.connect()?;
    eventually("the events to arrive", || Ok(dba.exec("SELECT holdfast.flush_events()").is_ok()))?;
    ensure!(guarded.recorded()? == (3, 3), "{:?}", guarded.recorded()?);
    Ok(())
}
