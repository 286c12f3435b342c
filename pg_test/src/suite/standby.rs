//! A physical standby: it has every event whose refusal a client has seen, and records nothing itself until it is promoted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::processes::{drains, launchers, send};
use super::provoker::Stage;
use super::spool;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::endpoint::Endpoint;
use crate::wait::within;

/// Streaming begins, recovery ends, a worker takes over: on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many refusals the flood has seen when the primary dies.
const BEFORE: u64 = 2_000;

/// A standby that doesn't answer must not let refusals go on as if it had.
const NEVER: &str = "10min";

/// Of a primary and its standby.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("promoted_standby_has_every_refusal_that_was_seen", primary(NEVER), promoted_in_a_flood),
        Test::own("standby_is_read_and_records_nothing", primary("300ms"), standby_is_read),
        Test::own("refusals_go_on_while_the_standby_is_away", primary("300ms"), standby_is_away),
        Test::own("terminated_worker_tells_nobody_what_the_standby_lacks", primary(NEVER), terminated_worker),
        Test::own("spool_in_a_base_backup_is_not_counted_twice", primary("100ms"), spool_in_a_backup),
    ]
}

fn primary(audit_timeout: &str) -> ClusterOptions {
    ClusterOptions::new().set("holdfast.audit_timeout", audit_timeout).set("log_min_messages", "log")
}

/// A standby of the test's cluster.
pub(super) struct Standby {
    pub cluster: Cluster,
    primary: Endpoint,
}

impl Standby {
    pub fn of(primary: &Cluster) -> Result<Standby> {
        let cluster = primary.start_standby(ClusterOptions::new().set("holdfast.audit_timeout", "1s"))?;
        Ok(Standby { cluster, primary: primary.endpoint().clone() })
    }

    /// Commits of the primary wait from now on until this standby has applied them.
    pub fn synchronize(&self, primary: &Cluster) -> Result<()> {
        primary.reload(&[("synchronous_standby_names", "*"), ("synchronous_commit", "remote_apply")])?;
        let mut observer = primary.endpoint().observe("postgres")?;
        let sql = "SELECT 1 FROM pg_catalog.pg_stat_replication WHERE sync_state = 'sync'";
        within(PATIENCE, "the standby to be synchronous", || Ok(observer.query_opt(sql, &[])?.is_some()))
    }

    /// Waits until it has applied all that the primary has written.
    fn catch_up(&self, primary: &Cluster) -> Result<()> {
        let mut observer = primary.endpoint().observe("postgres")?;
        let sql = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text";
        let written: String = observer.query_one(sql, &[])?.try_get(0)?;
        let sql = format!("SELECT pg_catalog.pg_last_wal_replay_lsn() >= '{written}'");
        let mut here = self.cluster.endpoint().observe("postgres")?;
        within(PATIENCE, "the standby to catch up", || Ok(here.query_one(&sql, &[])?.try_get(0)?))
    }

    pub fn promote(&self) -> Result<()> {
        self.cluster.endpoint().observe("postgres")?.batch_execute("SELECT pg_catalog.pg_promote(true, 60)")?;
        within(PATIENCE, "a launcher", || Ok(launchers(&self.cluster)?.len() == 1))
    }

    fn connect(&self, guarded: &Guarded, role: &str) -> Result<Session> {
        self.cluster.existing_database(&guarded.database.name).connect_as(role)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // The primary may be down; if it isn't, it must not wait for a standby that is gone.
        if let Ok(mut observer) = self.primary.observe("postgres") {
            let _ = observer.batch_execute("ALTER SYSTEM RESET synchronous_standby_names");
            let _ = observer.batch_execute("SELECT pg_catalog.pg_reload_conf()");
        }
    }
}

fn promoted_in_a_flood(primary: &mut Cluster) -> Result<()> {
    let stage = Stage::set(primary, "standby", 8)?;
    let standby = Standby::of(primary)?;
    standby.synchronize(primary)?;
    let provocation = stage.provoke(fastrand::u64(0..1_000_000))?;
    provocation.wait_for(BEFORE, PATIENCE)?;
    primary.stop(Shutdown::Kill9)?;
    let ledger = provocation.end()?;
    standby.promote()?;
    let there = standby.cluster.existing_database(&stage.database.name);
    let agreement = ledger.check(&there).context("on the promoted server")?;
    ensure!(agreement.told >= BEFORE, "{agreement:?}");
    println!("    {} refusals were seen before the primary died; the standby has them all", agreement.told);

    // Its turn: what is refused now is recorded here.
    let refusal = there.connect_as(&stage.rebuilt)?.refused("INSERT INTO orders VALUES ('new')")?;
    ensure!(refusal.code == "WG001", "{refusal:?}");
    let new: i64 = there.connect()?.one("SELECT count(*) FROM holdfast.blocked_writes WHERE tenant = 'new'")?;
    ensure!(new == 1, "{new} events of the promoted server");
    Ok(())
}

fn standby_is_read(primary: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(primary, "standby")?;
    let standby = Standby::of(primary)?;
    standby.synchronize(primary)?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let mut dba = standby.connect(&guarded, "postgres")?;
    let seen: i64 = dba.one("SELECT count(*) FROM holdfast.blocked_writes")?;
    ensure!(seen == 1, "{seen} events on the standby, right after the refusal");
    for view in ["blocked_writes", "blocked_summary", "status", "coverage", "tenants"] {
        dba.rows(&format!("SELECT * FROM holdfast.{view}")).with_context(|| view.to_owned())?;
    }
    dba.exec("SELECT holdfast.flush_events()")?;

    let mut client = standby.connect(&guarded, &guarded.rebuilt)?;
    for sql in [FOREIGN_WRITE, "TRUNCATE plans", "DROP TABLE plans", "SELECT holdfast.set_mode('off')"] {
        let refusal = client.refused(sql)?;
        ensure!(["25006", "WG001", "WG016", "42501"].contains(&refusal.code.as_str()), "{sql}: {refusal:?}");
    }
    client.rows("SELECT * FROM orders FOR KEY SHARE").err().context("a standby locks no rows")?;
    client.rows("SELECT * FROM orders")?;
    ensure!(launchers(&standby.cluster)?.is_empty() && drains(&standby.cluster)?.is_empty(), "a worker on a standby");
    ensure!(spool::bytes(&spool::folder(&standby.cluster)) == 0, "a standby has spooled something");

    standby.promote()?;
    let there = standby.cluster.existing_database(&guarded.database.name);
    spool::taken_in(&there, PATIENCE)?;
    let mut promoted = there.connect()?;
    ensure!(
        promoted.one::<i64>("SELECT count(*) FROM holdfast.blocked_writes")? == 1,
        "what a standby says is no event"
    );
    // The session from before has become one that can write.
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    ensure!(promoted.one::<i64>("SELECT count(*) FROM holdfast.blocked_writes")? == 2);
    Ok(())
}

fn standby_is_away(primary: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(primary, "standby")?;
    let mut standby = Standby::of(primary)?;
    standby.synchronize(primary)?;
    let mut client = guarded.rebuilt()?;
    client.refused(FOREIGN_WRITE)?;
    standby.cluster.stop(Shutdown::Fast)?;
    // Now the worker's commit waits for ever; it is neither repeated nor forgotten.
    for _ in 0..5 {
        ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    }
    standby.cluster.start_again()?;
    spool::taken_in(&guarded.database, PATIENCE)?;
    ensure!(guarded.recorded()? == (6, 6), "{:?}", guarded.recorded()?);
    standby.cluster.stop(Shutdown::Fast)?;
    for _ in 0..5 {
        client.refused(FOREIGN_WRITE)?;
    }
    // The primary goes down in this state, and comes back without asking for a standby.
    primary.stop(Shutdown::Kill9)?;
    primary.configure(&[("synchronous_standby_names", "")])?;
    std::fs::remove_file(primary.data_dir().join("postgresql.auto.conf"))?;
    primary.start_again()?;
    spool::taken_in(&guarded.database, PATIENCE)?;
    ensure!(guarded.recorded()? == (11, 11), "{:?}", guarded.recorded()?);
    Ok(())
}

/// A session whose server process ends while it waits for the standby has committed, and hears nothing of it. So it is
/// with the worker: what only this server has is not told.
fn terminated_worker(primary: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(primary, "standby")?;
    let mut standby = Standby::of(primary)?;
    standby.synchronize(primary)?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    standby.cluster.stop(Shutdown::Fast)?;
    let mut refused = guarded.rebuilt()?.start(FOREIGN_WRITE);
    let mut ended = Vec::new();
    for _ in 0..3 {
        let mut waiting = None;
        within(PATIENCE, "a new worker to wait for the standby", || {
            let sql = "SELECT pid FROM pg_catalog.pg_stat_activity
                       WHERE backend_type = 'holdfast worker' AND wait_event = 'SyncRep'";
            let row = primary.endpoint().observe("postgres")?.query_opt(sql, &[])?;
            waiting = row.map(|row| row.try_get::<_, i32>(0)).transpose()?.filter(|pid| !ended.contains(pid));
            Ok(waiting.is_some() || refused.is_finished())
        })?;
        ensure!(!refused.is_finished(), "refused before the standby had the event");
        if let Some(pid) = waiting {
            send(pid, Signal::SIGTERM)?;
            ended.push(pid);
        }
    }
    standby.cluster.start_again()?;
    refused.finish_refused()?;
    let there: i64 = standby.connect(&guarded, "postgres")?.one("SELECT count(*) FROM holdfast.blocked_writes")?;
    ensure!(there == 2, "{there} events on the standby");
    ensure!(guarded.recorded()? == (2, 2), "{:?}", guarded.recorded()?);
    Ok(())
}

fn spool_in_a_backup(primary: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(primary, "standby")?;
    let mut client = guarded.rebuilt()?;
    client.refused(FOREIGN_WRITE)?;
    let mut locker = guarded.database.connect()?;
    locker.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    for _ in 0..3 {
        client.refused(FOREIGN_WRITE)?;
    }
    ensure!(spool::bytes(&spool::folder(primary)) > 0, "nothing is spooled");
    let standby = Standby::of(primary)?;
    let restored = primary.start_restored(ClusterOptions::new())?;
    for (copy, cluster) in [("standby", &standby.cluster), ("restored", &restored)] {
        let there = spool::folder(cluster);
        ensure!(copy == "restored" || spool::bytes(&there) > 0, "the backup has no spool in {}", there.display());
    }
    locker.exec("COMMIT")?;
    drop(client);
    spool::taken_in(&guarded.database, PATIENCE)?;
    ensure!(guarded.recorded()?.0 == 4, "{:?}", guarded.recorded()?);

    // The standby has the events from the primary, and their spool from the backup.
    standby.catch_up(primary)?;
    standby.promote()?;
    let promoted = standby.cluster.existing_database(&guarded.database.name);
    spool::taken_in(&promoted, PATIENCE)?;
    let count = "SELECT sum(occurrences)::int8 FROM holdfast.blocked_writes";
    ensure!(promoted.connect()?.one::<i64>(count)? == 4, "{}", promoted.connect()?.one::<i64>(count)?);

    // The restored server has them from the spool alone.
    let restored_database = restored.existing_database(&guarded.database.name);
    spool::taken_in(&restored_database, PATIENCE)?;
    let there: i64 = restored_database.connect()?.one(count)?;
    ensure!(there == 4, "{there} on the restored server");
    Ok(())
}
