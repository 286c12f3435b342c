//! A server that sees sessions come and go.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use postgres::{Config, NoTls};
use procfs::process::Process;

use super::Figure;
use super::gauge::peak;
use crate::cluster::Cluster;
use crate::suite::guarded::{FOREIGN_WRITE, Guarded};
use crate::suite::processes::{drains, launchers, own_memory, titled_below};
use crate::suite::spool;
use crate::wait::{eventually, within};

/// Who come at the same time.
const DOORS: u32 = 4;

/// What should be as it was, however many were there.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    /// Of all regions of shared memory, in bytes.
    shared: i64,
    /// Entries of the statistics.
    backends: i64,
    /// Slots that have an event.
    queued: String,
    locks: i64,
    /// In the spool, and where Postgres keeps statistics and temporary files.
    files: usize,
    /// Open in the postmaster and in the launcher.
    descriptors: usize,
}

/// So many sessions, and twice as many.
pub fn measure(cluster: &Cluster, once: u32) -> Result<Vec<Figure>> {
    let guarded = Guarded::enforcing(cluster, "visitors")?;
    // What is made once: the day's partition, the statistics' entries.
    visit(&guarded, 0..DOORS)?;
    let postmaster = cluster.postmaster_pid()?;
    let mut halves = Vec::new();
    for first in [DOORS, DOORS + once] {
        let worker = peak(|| titled_below(postmaster, "holdfast worker"), || visit(&guarded, first..first + once))?;
        let launcher = *launchers(cluster)?.first().context("no launcher")?;
        let left = left(cluster, &guarded, &[postmaster, launcher])?;
        halves.push(([worker, own_memory(postmaster), own_memory(launcher)], left));
    }
    let [(once, left), (twice, left_then)] = <[_; 2]>::try_from(halves).map_err(|_| anyhow!("two halves"))?;
    ensure!(left == left_then, "{left:#?}, then {left_then:#?}");
    let of = ["the worker, at most", "the postmaster", "the launcher"];
    Ok(of
        .into_iter()
        .zip(once.into_iter().zip(twice))
        .map(|(of, (once, twice))| Figure::new(of, once, twice))
        .collect())
}

/// Each writes a tenant of its own and is refused another's; no two say the same of themselves.
fn visit(guarded: &Guarded, numbers: std::ops::Range<u32>) -> Result<()> {
    let before = guarded.recorded()?.0;
    let count = numbers.len();
    let config = guarded.database.session().role(&guarded.rebuilt).config()?;
    let come = |config: &Config, n: u32| -> Result<()> {
        let mut client = config.clone().application_name(&format!("visitor {n}")).connect(NoTls)?;
        client.batch_execute(&format!("INSERT INTO orders VALUES (2, {n} + 10)"))?;
        let refusal = client.batch_execute(FOREIGN_WRITE).err().context("not refused")?;
        ensure!(refusal.code().is_some_and(|code| code.code() == "WG001"), "{refusal:?}");
        Ok(())
    };
    thread::scope(|scope| {
        let doors: Vec<_> = (0..DOORS)
            .map(|door| {
                let (mut of_door, config) = (numbers.clone().filter(move |n| n % DOORS == door), config.clone());
                scope.spawn(move || of_door.try_for_each(|n| come(&config, n)))
            })
            .collect();
        doors.into_iter().try_for_each(|door| door.join().map_err(|_| anyhow!("a visitor panicked"))?)
    })?;
    spool::taken_in(&guarded.database, crate::wait::DEADLINE)?;
    let recorded = guarded.recorded()?.0 - before;
    ensure!(recorded == i64::try_from(count)?, "{recorded} of {count} refusals are recorded");
    Ok(())
}

fn left(cluster: &Cluster, guarded: &Guarded, processes: &[i32]) -> Result<Left> {
    let mut dba = guarded.database.connect()?;
    within(crate::wait::DEADLINE, "the last of them to have left", || {
        dba.one(&format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '{}'", guarded.rebuilt))
    })?;
    eventually("the worker to leave", || Ok(drains(cluster)?.is_empty()))?;
    let data = cluster.data_dir();
    let files = ["holdfast", "pg_stat", "pg_stat_tmp", "base/pgsql_tmp", "pg_dynshmem"]
        .into_iter()
        .map(|folder| fs::read_dir(data.join(folder)).map_or(0, Iterator::count))
        .sum();
    let descriptors = processes.iter().map(|pid| Process::new(*pid)?.fd_count()).sum::<Result<usize, _>>()?;
    Ok(Left {
        shared: dba.one(
            "SELECT sum(allocated_size)::int8 FROM pg_shmem_allocations WHERE name <> '<anonymous>' OR name IS NULL",
        )?,
        backends: dba.one("SELECT count(*) FROM holdfast.stats")?,
        queued: dba.one(
            "SELECT string_agg(line, ' ') FROM regexp_split_to_table(holdfast.metrics(), E'\\n') line
                WHERE line ~ '^holdfast_queue_(used|waiting)'",
        )?,
        locks: dba.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")?,
        files,
        descriptors,
    })
}
