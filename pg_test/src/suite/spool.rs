//! The spool: files that hold what no worker could commit in time. Each event in it is taken in once, whatever happens to
//! the file, the worker, or the table; what can't be is told.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use super::ledger::{Ledger, Subject};
use super::processes::{drains, send};
use super::provoker::Stage;
use super::scene::in_break_glass;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::database::Database;
use crate::wait::{eventually, within};

/// How long a refusal waits for its event.
const AUDIT_TIMEOUT: Duration = Duration::from_millis(200);

/// For what takes no time but on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of spool files.
pub fn tests() -> Vec<Test> {
    let own = |name, run| Test::own(name, options(), run);
    vec![
        own("torn_tail_costs_one_event_and_is_told", torn_tail),
        own("damage_costs_no_other_event", damage),
        own("strange_files_are_left_alone", strange_files),
        own("spool_is_bounded_and_what_exceeds_it_counted", bounded),
        own("hanging_worker_costs_no_event", hanging_worker),
        own("dropped_extension_leaves_nothing_in_the_way", dropped_extension),
        own("spool_that_is_being_taken_in_survives_every_kill", killed_while_taking_in).expects_crashes(),
    ]
}

fn options() -> ClusterOptions {
    ClusterOptions::new()
        .set("holdfast.audit_timeout", &AUDIT_TIMEOUT.as_millis().to_string())
        .set("log_min_messages", "log")
        .set("shared_buffers", "16MB")
}

/// Where a cluster's spool files are.
pub fn folder(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("holdfast")
}

/// How many bytes lie in the spool of all databases.
pub fn bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    // A file may be taken in, and removed, while it is looked at.
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Waits until everything that was refused in a database is in its record: nothing is queued, nothing spooled.
pub fn taken_in(database: &Database, patience: Duration) -> Result<()> {
    let mut dba = database.connect()?;
    within(patience, "everything to be on record", || Ok(dba.exec("SELECT holdfast.flush_events()").is_ok()))
}

/// How many events of a database are known to be lost.
pub fn losses(database: &Database) -> Result<i64> {
    database.connect()?.one("SELECT coalesce(sum(events), 0)::int8 FROM holdfast.audit_loss")
}

/// Provokes refusals, each of a tenant of its own; the longest that one took.
pub fn refuse(session: &mut Session, tenants: Range<u32>, ledger: &mut Ledger) -> Result<Duration> {
    refuse_padded(session, tenants, 0, ledger)
}

/// The same, with so many bytes more in every tenant's key, hence twice or thrice as many in the event.
pub fn refuse_padded(
    session: &mut Session,
    tenants: Range<u32>,
    padding: usize,
    ledger: &mut Ledger,
) -> Result<Duration> {
    let (mut longest, padding) = (Duration::ZERO, "x".repeat(padding));
    for n in tenants {
        let (start, tenant) = (Instant::now(), format!("tenant {n}{padding}"));
        let refusal = session.refused(&format!("INSERT INTO orders VALUES ('{tenant}')"))?;
        longest = longest.max(start.elapsed());
        ensure!(refusal.code == "WG001", "{refusal:?}");
        ledger.told(Subject::new("not_owner", "public.orders", &tenant), 1);
    }
    Ok(longest)
}

/// A session whose transaction locks the record against everybody, the worker included.
pub fn lock_record(database: &Database) -> Result<Session> {
    let mut dba = database.connect()?;
    dba.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    Ok(dba)
}

/// A stage with so many refusals in the spool, and nothing on record.
fn spooled(cluster: &Cluster, refusals: u32) -> Result<(Stage, Ledger)> {
    let (stage, mut ledger) = (Stage::set(cluster, "spool", 0)?, Ledger::default());
    let locker = lock_record(&stage.database)?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 0..refusals, &mut ledger)?;
    files(cluster)?.first().context("nothing is spooled")?;
    drop(locker);
    Ok((stage, ledger))
}

/// The spool files, the oldest first.
fn files(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let folder = folder(cluster);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    Ok(files)
}

/// Spools refusals, stops the server without giving it a chance to take them in, does `harm` to the only file, and starts
/// the server again.
fn harmed(cluster: &mut Cluster, refusals: u32, harm: impl FnOnce(&Path) -> Result<()>) -> Result<Stage> {
    let stage = Stage::set(cluster, "spool", 0)?;
    let _locker = lock_record(&stage.database)?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 0..refusals, &mut Ledger::default())?;
    cluster.stop(Shutdown::Kill9)?;
    let files = files(cluster)?;
    ensure!(files.len() == 1, "{files:?}");
    harm(&files[0])?;
    cluster.start_again()?;
    Ok(stage)
}

fn recorded(stage: &Stage) -> Result<i64> {
    stage.database.connect()?.one("SELECT coalesce(sum(occurrences), 0)::int8 FROM holdfast.blocked_writes")
}

fn torn_tail(cluster: &mut Cluster) -> Result<()> {
    let stage = harmed(cluster, 20, |file| {
        let file = OpenOptions::new().write(true).open(file)?;
        Ok(file.set_len(file.metadata()?.len() - 7)?)
    })?;
    taken_in(&stage.database, PATIENCE)?;
    ensure!(recorded(&stage)? == 19, "{} of 20 recorded", recorded(&stage)?);
    ensure!(losses(&stage.database)? == 1, "{} losses", losses(&stage.database)?);
    let log = cluster.log()?;
    ensure!(log.contains("holdfast: the spool is damaged"), "no word of it in the log:\n{log}");
    ensure!(files(cluster)?.is_empty(), "{:?}", files(cluster)?);
    Ok(())
}

fn damage(cluster: &mut Cluster) -> Result<()> {
    let stage = harmed(cluster, 40, |file| {
        let mut bytes = fs::read(file)?;
        let (middle, end) = (bytes.len() / 2, bytes.len());
        bytes[middle] ^= 0xFF;
        bytes.splice(end..end, std::iter::repeat_n(0, 10_000));
        Ok(fs::write(file, bytes)?)
    })?;
    taken_in(&stage.database, PATIENCE)?;
    ensure!(recorded(&stage)? == 39, "{} of 40 recorded", recorded(&stage)?);
    ensure!(losses(&stage.database)? >= 1, "{} losses", losses(&stage.database)?);
    ensure!(cluster.log()?.contains("holdfast: the spool is damaged"), "no word of it in the log");
    let told = losses(&stage.database)?;
    // Told once, not at every start.
    cluster.restart(Shutdown::Fast)?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 40..45, &mut Ledger::default())?;
    taken_in(&stage.database, PATIENCE)?;
    ensure!((recorded(&stage)?, losses(&stage.database)?) == (44, told));
    Ok(())
}

fn strange_files(cluster: &mut Cluster) -> Result<()> {
    let (stage, ledger) = spooled(cluster, 5)?;
    let strange = ["README", "1.spool", "x.1.spool", "1.2.spool.bak", "99999999999.1.spool", "1.-.taken"];
    cluster.stop(Shutdown::Fast)?;
    for name in strange {
        fs::write(folder(cluster).join(name), "not ours")?;
    }
    cluster.start_again()?;
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    let left: Vec<PathBuf> = files(cluster)?;
    let ours: Vec<_> = left.iter().filter(|path| !strange.iter().any(|name| path.ends_with(name))).collect();
    ensure!(left.len() == strange.len() && ours.is_empty(), "{left:?}");
    Ok(())
}

fn bounded(cluster: &mut Cluster) -> Result<()> {
    /// In bytes; the smallest that the setting takes.
    const SIZE: u64 = 1 << 20;
    /// More than fit into spool and queue.
    const REFUSALS: u32 = 800;
    cluster.configure(&[("holdfast.audit_spool_size", "1MB"), ("holdfast.audit_queue_size", "64")])?;
    cluster.restart(Shutdown::Fast)?;
    let (stage, mut ledger) = (Stage::set(cluster, "spool", 0)?, Ledger::default());
    let locker = lock_record(&stage.database)?;
    let (start, mark) = (Instant::now(), cluster.log_mark());
    refuse_padded(&mut stage.database.connect_as(&stage.rebuilt)?, 0..REFUSALS, 1_000, &mut ledger)?;
    let full = bytes(&folder(cluster));
    ensure!(full <= SIZE && full > SIZE / 2, "the spool holds {full} bytes");
    let log = cluster.log_since(mark)?;
    let loud = log.lines().filter(|line| line.contains("holdfast.audit_spool_size")).count();
    let most = 2 * (1 + usize::try_from(start.elapsed().as_secs() / 60)?);
    ensure!((1..=most).contains(&loud), "{loud} lines tell of the full spool:\n{}", cluster.log_tail(mark));
    drop(locker);
    taken_in(&stage.database, PATIENCE)?;
    within(PATIENCE, "the losses to be told", || {
        Ok(recorded(&stage)? + losses(&stage.database)? >= i64::from(REFUSALS))
    })?;
    let (recorded, lost) = (recorded(&stage)?, losses(&stage.database)?);
    ensure!(recorded + lost == i64::from(REFUSALS), "{recorded} recorded, {lost} told to be lost, {REFUSALS} refused");
    ensure!(lost > 0, "nothing was lost: the bound wasn't reached");
    // There is room again.
    let before = recorded;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, REFUSALS..REFUSALS + 10, &mut ledger)?;
    ensure!(self::recorded(&stage)? == before + 10);
    Ok(())
}

fn hanging_worker(cluster: &mut Cluster) -> Result<()> {
    let (stage, mut ledger) = (Stage::set(cluster, "spool", 0)?, Ledger::default());
    let mut client = stage.database.connect_as(&stage.rebuilt)?;
    for round in 0..3 {
        refuse(&mut client, round * 20..round * 20 + 1, &mut ledger)?;
        let drains = drains(cluster)?;
        let hanging = drains.first().copied().filter(|pid| send(*pid, Signal::SIGSTOP).is_ok());
        let longest = refuse(&mut client, round * 20 + 1..round * 20 + 20, &mut ledger)?;
        ensure!(longest < AUDIT_TIMEOUT * 25, "a refusal waited {longest:?} for a worker that hangs");
        if let Some(pid) = hanging {
            send(pid, Signal::SIGCONT)?;
        }
        taken_in(&stage.database, PATIENCE)?;
        ledger.check(&stage.database)?;
    }
    Ok(())
}

fn dropped_extension(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, "spool", 0)?;
    let locker = lock_record(&stage.database)?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 0..10, &mut Ledger::default())?;
    drop(locker);
    // The worker is at work while its tables go.
    let mut dba = stage.database.connect()?;
    dba.exec(&in_break_glass("DROP EXTENSION holdfast CASCADE"))?;
    eventually("the worker to leave", || Ok(drains(cluster)?.is_empty()))?;
    dba.exec("CREATE EXTENSION holdfast")?;
    dba.exec(&format!(
        "SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
         SELECT holdfast.add_identity('rebuilt', role => '{}');
         SELECT holdfast.guard_table('orders', 'tenant');
         SELECT holdfast.allow_writes('rebuilt', 'orders');
         SELECT holdfast.set_mode('enforce')",
        stage.rebuilt
    ))?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 100..110, &mut Ledger::default())?;
    taken_in(&stage.database, PATIENCE)?;
    let new = "SELECT count(*), sum(occurrences)::int8 FROM holdfast.blocked_writes WHERE tenant ~ '^tenant 10.$'";
    let new = dba.query_one(new, &[])?;
    ensure!((new.try_get(0)?, new.try_get(1)?) == (10_i64, 10_i64), "{new:?}");
    ensure!(files(cluster)?.is_empty(), "{:?}", files(cluster)?);
    Ok(())
}

fn killed_while_taking_in(cluster: &mut Cluster) -> Result<()> {
    // More than a worker takes in at once.
    let (stage, mut ledger) = spooled(cluster, 3_000)?;
    for round in 0..12 {
        within(PATIENCE, "the server to be back", || Ok(stage.database.connect().is_ok()))?;
        if round == 4 {
            cluster.restart(Shutdown::Immediate)?;
        } else if round == 8 {
            cluster.restart(Shutdown::Fast)?;
        }
        let mark = cluster.log_mark();
        let mut killed = false;
        within(PATIENCE, "a worker, or the end of the work", || {
            if let Some(pid) = drains(cluster)?.first() {
                // Some meet it at its start, some in the middle.
                std::thread::sleep(Duration::from_millis(round % 4 * 15));
                killed = send(*pid, if round % 3 == 0 { Signal::SIGTERM } else { Signal::SIGKILL }).is_ok();
            }
            Ok(killed || files(cluster)?.is_empty())
        })?;
        if killed && round % 3 != 0 {
            within(PATIENCE, "the server to notice", || Ok(!cluster.crashes(mark)?.is_empty()))?;
        }
    }
    within(PATIENCE, "the server to be back", || Ok(stage.database.connect().is_ok()))?;
    refuse(&mut stage.database.connect_as(&stage.rebuilt)?, 3_000..3_010, &mut ledger)?;
    taken_in(&stage.database, PATIENCE)?;
    ledger.check(&stage.database)?;
    ensure!(losses(&stage.database)? == 0, "{} losses", losses(&stage.database)?);
    Ok(())
}
