//! Any number of databases: each gets its own events, and no worker is in anybody's way for long.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Test;
use super::ledger::Ledger;
use super::processes::drains;
use super::provoker::Stage;
use super::scene::in_break_glass;
use super::spool::{folder, lock_record, refuse, taken_in};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::database::{Database, Role};
use crate::wait::within;

/// More than there can be workers at once.
const DATABASES: usize = 20;

/// For what takes no time but on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// DROP DATABASE and its like wait 5 s for others to leave; then they fail.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Longer than any test: whoever goes on earlier was told to.
const NEVER: &str = "10min";

/// Of several databases, and of commands on whole databases.
pub fn tests() -> Vec<Test> {
    let own = |name, run| Test::own(name, options(), run);
    vec![
        own("twenty_databases_refuse_at_once", few_workers),
        Test::own("twenty_databases_refuse_at_once_with_workers_for_all", options(), many_workers),
        Test::own("no_worker_to_be_had_delays_no_refusal", without_workers(), no_worker_to_be_had),
        own("database_commands_meet_no_worker", database_commands),
        own("dropped_database_takes_its_spool_along", dropped_database),
        own("closed_database_keeps_its_events_until_it_opens", closed_database),
        Test::own(
            "extension_is_dropped_beside_a_busy_worker",
            options().set("deadlock_timeout", "20ms"),
            dropped_extension,
        ),
    ]
}

fn options() -> ClusterOptions {
    ClusterOptions::new().set("log_min_messages", "log").set("shared_buffers", "32MB")
}

/// Room for the launcher, the one of logical replication, and one worker.
fn without_workers() -> ClusterOptions {
    options().set("max_worker_processes", "3").set("holdfast.audit_timeout", NEVER)
}

/// A database like the stage's, in which the same role is refused.
fn copy(cluster: &Cluster, stage: &Stage, number: usize) -> Result<Database> {
    let (name, original) = (format!("{}_{number}", stage.database.name), &stage.database.name);
    let sql = format!("CREATE DATABASE {name} TEMPLATE {original} STRATEGY file_copy");
    cluster.endpoint().observe("postgres")?.batch_execute(&sql)?;
    Ok(cluster.existing_database(&name))
}

fn few_workers(cluster: &mut Cluster) -> Result<()> {
    all_at_once(cluster)
}

fn many_workers(cluster: &mut Cluster) -> Result<()> {
    cluster.configure(&[("max_worker_processes", "64"), ("holdfast.audit_timeout", "500ms")])?;
    cluster.restart(Shutdown::Fast)?;
    all_at_once(cluster)
}

fn all_at_once(cluster: &Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "many", 0)?;
    let databases = (0..DATABASES).map(|n| copy(cluster, &stage, n)).collect::<Result<Vec<_>>>()?;
    let mut sessions = Vec::new();
    for database in &databases {
        for first in [0, 1_000] {
            let session = database.connect_as(&stage.rebuilt)?;
            sessions.push(session.start_with("refusals", move |session| {
                let mut ledger = Ledger::default();
                refuse(session, first..first + 40, &mut ledger)?;
                Ok(ledger)
            }));
        }
    }
    let mut ledgers = Vec::new();
    for session in sessions {
        ledgers.push(session.finish()?.1?);
    }
    for (database, ledgers) in databases.iter().zip(ledgers.chunks(2)) {
        taken_in(database, PATIENCE)?;
        let mut own = Ledger::default();
        ledgers.iter().for_each(|ledger| own.add(ledger.clone()));
        own.check(database).with_context(|| database.name.clone())?;
    }
    Ok(())
}

fn no_worker_to_be_had(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "none", 0)?;
    let other = copy(cluster, &stage, 1)?;
    let (mut here, mut there) = (Ledger::default(), Ledger::default());
    // The only worker waits for the record of another database.
    let locker = lock_record(&stage.database)?;
    let busy = stage.database.connect_as(&stage.rebuilt)?.start_with("a refusal", |session| {
        let mut ledger = Ledger::default();
        refuse(session, 0..1, &mut ledger)?;
        Ok(ledger)
    });
    within(PATIENCE, "the worker to wait for the record", || {
        let sql = "SELECT 1 FROM pg_catalog.pg_stat_activity
                   WHERE backend_type = 'holdfast worker' AND wait_event_type = 'Lock'";
        Ok(cluster.endpoint().observe("postgres")?.query_opt(sql, &[])?.is_some())
    })?;
    let longest = refuse(&mut other.connect_as(&stage.rebuilt)?, 0..20, &mut there)?;
    ensure!(longest < Duration::from_secs(10), "a refusal waited {longest:?} for a worker that can't be had");
    drop(locker);
    here.add(busy.finish()?.1?);
    for (database, ledger) in [(&stage.database, &here), (&other, &there)] {
        // Whoever asks for it is told when the wait is over, and the launcher tries again meanwhile.
        cluster.reload(&[("holdfast.audit_timeout", "1s")])?;
        taken_in(database, PATIENCE)?;
        ledger.check(database)?;
    }
    Ok(())
}

/// Refused and observed writes, right before what follows.
fn stir(database: &Database, role: &Role) -> Result<()> {
    let mut dba = database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    database.connect_as(role)?.exec("INSERT INTO orders SELECT 'observed ' || n FROM generate_series(1, 200) n")?;
    dba.exec("SELECT holdfast.set_mode('enforce')")?;
    refuse(&mut database.connect_as(role)?, 0..5, &mut Ledger::default()).map(drop)
}

fn database_commands(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "commands", 0)?;
    let mut observer = cluster.endpoint().observe("postgres")?;
    for round in 0..5 {
        let database = copy(cluster, &stage, round)?;
        let name = &database.name;
        let commands = [
            format!("CREATE DATABASE {name}_copy TEMPLATE {name} STRATEGY file_copy"),
            format!("ALTER DATABASE {name} RENAME TO {name}_renamed"),
            format!("ALTER DATABASE {name}_renamed SET TABLESPACE pg_default"),
            format!("ALTER DATABASE {name}_renamed RENAME TO {name}"),
            format!("DROP DATABASE {name}_copy"),
            format!("DROP DATABASE {name}"),
        ];
        for command in commands {
            let called = [name.clone(), format!("{name}_renamed")].into_iter().find(|called| exists(cluster, called));
            let called = called.context("the database is gone")?;
            // Dropping what stands for it must not drop the database.
            let there = std::mem::ManuallyDrop::new(cluster.existing_database(&called));
            stir(&there, &stage.rebuilt)?;
            let start = Instant::now();
            // A client's server process may take a moment to end, as it does without holdfast.
            observer.batch_execute(&command).with_context(|| command.clone())?;
            ensure!(start.elapsed() < AT_ONCE, "{command} took {:?}", start.elapsed());
        }
    }
    Ok(())
}

fn exists(cluster: &Cluster, name: &str) -> bool {
    cluster.endpoint().observe(name).is_ok()
}

fn dropped_database(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "dropped", 0)?;
    let database = copy(cluster, &stage, 1)?;
    cluster.reload(&[("holdfast.audit_timeout", "100ms")])?;
    let locker = lock_record(&database)?;
    refuse(&mut database.connect_as(&stage.rebuilt)?, 0..10, &mut Ledger::default())?;
    ensure!(super::spool::bytes(&folder(cluster)) > 0, "nothing is spooled");
    drop(locker);
    let (mut observer, start) = (cluster.endpoint().observe("postgres")?, Instant::now());
    observer.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name))?;
    ensure!(start.elapsed() < AT_ONCE, "DROP DATABASE took {:?}", start.elapsed());
    within(PATIENCE, "its spool to go", || Ok(super::spool::bytes(&folder(cluster)) == 0))?;
    // The others are served all the while.
    let mut ledger = Ledger::default();
    let longest = refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 0..20, &mut ledger)?;
    ensure!(longest < AT_ONCE, "a refusal waited {longest:?}");
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    Ok(())
}

/// A worker can't connect where nobody may; sessions from before are still refused.
fn closed_database(cluster: &mut Cluster) -> Result<()> {
    let (stage, mut ledger) = (Stage::set(cluster, "closed", 0)?, Ledger::default());
    cluster.reload(&[("holdfast.audit_timeout", "1s")])?;
    let mut client = stage.database.connect_as(&stage.rebuilt)?;
    let mut observer = cluster.endpoint().observe("postgres")?;
    within(PATIENCE, "the workers to leave", || Ok(drains(cluster)?.is_empty()))?;
    observer.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", stage.database.name))?;
    let longest = refuse(&mut client, 0..20, &mut ledger)?;
    ensure!(longest < AT_ONCE, "a refusal waited {longest:?}");
    observer.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", stage.database.name))?;
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    Ok(())
}

/// The worker has one table's lock, and waits for another's. DROP EXTENSION comes meanwhile.
fn dropped_extension(cluster: &mut Cluster) -> Result<()> {
    let mark = cluster.log_mark();
    for held in ["event_hour", "event_overflow", "event"] {
        let stage = Stage::set(cluster, "dropping", 0)?;
        let mut locker = stage.database.connect()?;
        locker.exec(&format!("BEGIN; LOCK TABLE holdfast.{held} IN ACCESS EXCLUSIVE MODE"))?;
        let refused = stage.database.connect_as(&stage.rebuilt)?.start("INSERT INTO orders VALUES ('not mine')");
        let mut observer = stage.database.connect()?;
        within(PATIENCE, "the worker to wait for the record", || {
            let waiting = "SELECT count(*) FROM pg_catalog.pg_stat_activity
                WHERE backend_type = 'holdfast worker' AND wait_event_type = 'Lock' AND datname = current_database()";
            Ok(observer.one::<i64>(waiting)? == 1)
        })?;
        let mut dropping = stage.database.connect()?.start(&in_break_glass("DROP EXTENSION holdfast CASCADE"));
        dropping.wait_until_blocked()?;
        locker.exec("COMMIT")?;
        dropping.finish()?.1.with_context(|| format!("with a lock on {held}"))?;
        refused.finish_refused()?;
    }
    ensure!(!cluster.log_since(mark)?.contains("deadlock detected"), "{}", cluster.log_tail(mark));
    Ok(())
}
