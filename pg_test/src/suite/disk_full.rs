//! No room for the record: refusals refuse all the same, and when there is room again nothing is missing, or known to be.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Test;
use super::ledger::Ledger;
use super::provoker::Stage;
use super::spool;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Holds};

/// How long a refusal waits for its event.
const AUDIT_TIMEOUT: Duration = Duration::from_millis(300);

/// For what takes no time but on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of full disks.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("nothing_is_lost_while_memory_lasts", all_on_small_disk(1_024), nothing_is_lost_while_memory_lasts),
        Test::own("what_is_lost_without_any_room_is_counted", all_on_small_disk(16), losses_are_counted),
        Test::own("spool_takes_what_the_table_cannot", table_on_small_disk(), spool_takes_what_the_table_cannot),
    ]
}

/// Table and spool: everything but the write-ahead log.
fn all_on_small_disk(queue: u32) -> ClusterOptions {
    options().small_disk(96, Holds::Data).set("holdfast.audit_queue_size", &queue.to_string())
}

fn table_on_small_disk() -> ClusterOptions {
    options().small_disk(48, Holds::Nothing)
}

fn options() -> ClusterOptions {
    ClusterOptions::new()
        .set("holdfast.audit_timeout", &AUDIT_TIMEOUT.as_millis().to_string())
        .set("log_min_messages", "log")
        // What the background processes would need room for is not what is tested here.
        .set("autovacuum", "off")
}

/// Provokes refusals of which a few fill a page.
fn refuse(session: &mut Session, tenants: Range<u32>, ledger: &mut Ledger) -> Result<Duration> {
    spool::refuse_padded(session, tenants, 1_000, ledger)
}

/// The extension's own lines; each kind may come once a minute.
fn complaints(cluster: &Cluster, mark: u64) -> Result<Vec<String>> {
    let log = cluster.log_since(mark)?;
    let ours = log.lines().filter_map(|line| line.split_once("LOG:  holdfast: "));
    // What the line is about ends where its reason begins.
    Ok(ours.map(|(_, text)| text.split(':').next().unwrap_or_default().to_owned()).collect())
}

fn told_once_a_minute(cluster: &Cluster, mark: u64, minutes: usize) -> Result<()> {
    let mut kinds = complaints(cluster, mark)?;
    kinds.sort_unstable();
    let all = kinds.clone();
    kinds.dedup();
    ensure!(!kinds.is_empty(), "no word of it in the log:\n{}", cluster.log_tail(mark));
    ensure!(all.len() <= kinds.len() * minutes, "one line a minute of each kind: {all:?}");
    // The worker that fails again and again must not fill the log in another way.
    let lines = cluster.log_since(mark)?.lines().filter(|line| !line.contains("STATEMENT:")).count();
    ensure!(lines <= 40, "{lines} lines:\n{}", cluster.log_tail(mark));
    Ok(())
}

fn minutes(since: Instant) -> usize {
    1 + usize::try_from(since.elapsed().as_secs() / 60).unwrap_or(usize::MAX - 1)
}

fn nothing_is_lost_while_memory_lasts(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "full", 0)?;
    let (mut client, mut ledger) = (stage.database.connect_as(&stage.rebuilt)?, Ledger::default());
    refuse(&mut client, 0..5, &mut ledger)?;
    let (ballast, mark, start) = (cluster.small_disk()?.fill()?, cluster.log_mark(), Instant::now());
    let longest = refuse(&mut client, 5..45, &mut ledger)?;
    ensure!(longest < AUDIT_TIMEOUT * 15, "a refusal waited {longest:?}");
    told_once_a_minute(cluster, mark, minutes(start))?;
    drop(ballast);
    spool::taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    // In good health again.
    refuse(&mut client, 45..50, &mut ledger)?;
    ledger.check(&stage.database)?;
    ensure!(spool::losses(&stage.database)? == 0, "{} losses are told of", spool::losses(&stage.database)?);
    Ok(())
}

fn losses_are_counted(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "full", 0)?;
    let (mut client, mut ledger) = (stage.database.connect_as(&stage.rebuilt)?, Ledger::default());
    let (ballast, mark, start) = (cluster.small_disk()?.fill()?, cluster.log_mark(), Instant::now());
    refuse(&mut client, 0..60, &mut ledger)?;
    told_once_a_minute(cluster, mark, minutes(start))?;
    drop(ballast);
    spool::taken_in(&stage.database, PATIENCE)?;
    let mut dba = stage.database.connect()?;
    crate::wait::within(PATIENCE, "the losses to be told", || Ok(spool::losses(&stage.database)? > 0))?;
    let recorded: i64 = dba.one("SELECT sum(occurrences)::int8 FROM holdfast.blocked_writes")?;
    let lost = spool::losses(&stage.database)?;
    ensure!(recorded + lost == 60, "of 60 refusals {recorded} are on record, and {lost} told to be lost");
    ensure!(recorded >= 16, "the queue of 16 events has kept {recorded}");
    let shown: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'lost events'")?;
    ensure!(shown == lost.to_string(), "status tells of {shown} lost events");
    Ok(())
}

fn spool_takes_what_the_table_cannot(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.small_disk()?.path().join("tables");
    std::fs::create_dir(&folder)?;
    cluster.postgres().account().own(&folder)?;
    let mut observer = cluster.endpoint().observe("postgres")?;
    observer.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()))?;
    let stage = Stage::set(cluster, "full", 0)?;
    observer.batch_execute(&format!("ALTER DATABASE {} SET TABLESPACE small", stage.database.name))?;
    let (mut client, mut ledger) = (stage.database.connect_as(&stage.rebuilt)?, Ledger::default());
    refuse(&mut client, 0..5, &mut ledger)?;
    let (ballast, mark, start) = (cluster.small_disk()?.fill()?, cluster.log_mark(), Instant::now());
    refuse(&mut client, 5..45, &mut ledger)?;
    told_once_a_minute(cluster, mark, minutes(start))?;
    ensure!(spool::bytes(&spool::folder(cluster)) > 0, "nothing is spooled");
    // What is in the spool outlives the server.
    cluster.restart(crate::cluster::Shutdown::Kill9)?;
    drop(ballast);
    spool::taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    ensure!(spool::losses(&stage.database)? == 0, "{} losses are told of", spool::losses(&stage.database)?);
    // Dropped before its tablespace's disk is gone.
    drop(client);
    drop(stage);
    cluster.endpoint().observe("postgres")?.batch_execute("DROP TABLESPACE small")?;
    Ok(())
}
