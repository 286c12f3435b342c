//! As much as is refused in a day that goes wrong, within minutes.

use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::Figure;
use super::gauge::peak;
use crate::cluster::Cluster;
use crate::suite::processes::titled_below;
use crate::suite::provoker::Stage;
use crate::suite::spool;
use crate::wait::DEADLINE;

/// Clients, each with a tenant that isn't its own.
const CLIENTS: u32 = 8;

/// How many refusals a client provokes in one statement.
const BATCH: u32 = 50;

/// How many alike events of a minute have rows of their own.
const ALONE: u32 = 16;

/// Of so many refusals that are unlike all others, that one part.
const UNLIKE: u32 = 10;

/// So many refusals, and twice as many.
pub fn measure(cluster: &Cluster, once: u32) -> Result<Vec<Figure>> {
    let stage = Stage::set(cluster, "day", 0)?;
    let (postmaster, start) = (cluster.postmaster_pid()?, Instant::now());
    let worker = |work: &dyn Fn() -> Result<()>| peak(|| titled_below(postmaster, "holdfast worker"), work);
    let alike: Vec<u64> = (0..2).map(|_| worker(&|| provoke_alike(&stage, once))).collect::<Result<_>>()?;
    let minutes = u32::try_from(start.elapsed().as_secs() / 60)? + 2;

    let mut dba = stage.database.connect()?;
    let (rows, told) = (count(&stage)?, u64::from(2 * once));
    ensure!(rows.1 == told, "{} of {told} refusals are counted", rows.1);
    // A worker that comes anew remembers no flood.
    let most = u64::from(CLIENTS * ALONE * minutes * 4);
    println!("    {told} refusals of {CLIENTS} kinds in {} s became {} rows", start.elapsed().as_secs(), rows.0);
    ensure!(rows.0 <= most, "{} rows, more than {most}", rows.0);

    let unlike: Vec<u64> = (0..2)
        .map(|half| worker(&|| provoke_unlike(&stage, half * once / UNLIKE + 1..(half + 1) * once / UNLIKE + 1)))
        .collect::<Result<_>>()?;
    let queued: String = dba.one(
        "SELECT string_agg(line, ' ') FROM regexp_split_to_table(holdfast.metrics(), E'\\n') line
         WHERE line ~ '^holdfast_queue_(used|waiting)'",
    )?;
    ensure!(queued == "holdfast_queue_used 0 holdfast_queue_waiting 0", "{queued}");
    ensure!(spool::bytes(&spool::folder(cluster)) == 0 && spool::losses(&stage.database)? == 0);
    ensure!(stage.written()? == 0, "rows that were refused are there");
    let figure = |of: &str, halves: Vec<u64>| Figure::new(of, halves[0], halves[1]);
    Ok(vec![
        figure("the worker, refusals of eight kinds", alike),
        figure("the worker, a tenth as many, each of a tenant of its own", unlike),
    ])
}

/// Rows of the record, and what they count.
fn count(stage: &Stage) -> Result<(u64, u64)> {
    let sql = "SELECT count(*), sum(occurrences)::int8 FROM holdfast.event";
    let row = stage.database.connect()?.query_one(sql, &[])?;
    Ok((u64::try_from(row.try_get::<_, i64>(0)?)?, u64::try_from(row.try_get::<_, i64>(1)?)?))
}

fn provoke_alike(stage: &Stage, times: u32) -> Result<()> {
    let provoke = |client: u32| -> Result<()> {
        let mut session = stage.database.connect_as(&stage.rebuilt)?;
        for _ in 0..times / CLIENTS / BATCH {
            let swallowed: i32 = session.one(&format!("SELECT provoke('foreign {client}', {BATCH})"))?;
            ensure!(swallowed == i32::try_from(BATCH)?, "{swallowed} refusals");
        }
        Ok(())
    };
    ensure!(times.is_multiple_of(CLIENTS * BATCH));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || provoke(client))).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    spool::taken_in(&stage.database, DEADLINE)
}

fn provoke_unlike(stage: &Stage, tenants: std::ops::Range<u32>) -> Result<()> {
    let (first, last) = (tenants.start, tenants.end - 1);
    let mut session = stage.database.connect_as(&stage.rebuilt)?;
    let refused: i64 =
        session.one(&format!("SELECT sum(provoke('stranger ' || n, 1)) FROM generate_series({first}, {last}) n"))?;
    ensure!(refused == i64::from(last - first + 1), "{refused} refusals");
    spool::taken_in(&stage.database, DEADLINE)
}
