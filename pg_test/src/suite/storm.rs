//! Sixteen clients provoke refusals at full speed while everything that records them is killed, again and again.

mod blow;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use self::blow::Blow;
use super::Test;
use super::provoker::{Provocation, Stage};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};

/// As many clients as events can come from at once.
const CLIENTS: usize = 16;

/// How many refusals there must be between two blows: the server has recovered, and is at full speed again.
const BETWEEN: u64 = 60;

/// The longest that a blow waits after that, so that it doesn't always meet the same moment.
const DELAY: Duration = Duration::from_millis(60);

/// Recovery, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The storm.
pub fn tests() -> Vec<Test> {
    let options = ClusterOptions::new().set("shared_buffers", "16MB").set("log_min_messages", "log");
    vec![Test::own("every_refusal_is_counted_once_whatever_is_killed", options, storm).expects_crashes()]
}

fn storm(cluster: &mut Cluster) -> Result<()> {
    let seed = fastrand::u64(0..1_000_000);
    let stage = Stage::set(cluster, "storm", CLIENTS)?;
    // The worker has to wait for its commits nevertheless.
    stage.database.connect()?.exec(&format!("ALTER DATABASE {} SET synchronous_commit = off", stage.database.name))?;
    let start = Instant::now();
    let provocation = stage.provoke(seed)?;
    let blows = rage(cluster, &stage, &provocation, seed).with_context(|| format!("with seed {seed}"))?;
    let ledger = provocation.end()?;
    let took = start.elapsed();
    settle(cluster, &stage)?;
    let agreement = ledger.check(&stage.database).with_context(|| format!("with seed {seed}"))?;
    println!(
        "    {} kills and {} troubles in {took:.0?}: {} refusals told, each on record once; {} of {} of unknown outcome are",
        blows.kills, blows.troubles, agreement.told, agreement.untold_recorded, agreement.untold
    );
    ensure!(blows.kills >= 50, "only {} kills", blows.kills);
    ensure!(stage.written()? == 0, "rows that were refused are there");
    Ok(())
}

/// What the storm did.
#[derive(Default)]
struct Blows {
    kills: usize,
    troubles: usize,
}

fn rage(cluster: &mut Cluster, stage: &Stage, provocation: &Provocation, seed: u64) -> Result<Blows> {
    let mut random = Rng::with_seed(seed);
    let mut deck = Blow::deck();
    random.shuffle(&mut deck);
    let mut blows = Blows::default();
    for blow in deck {
        provocation.wait_for(BETWEEN, PATIENCE).with_context(|| format!("before {blow:?}"))?;
        std::thread::sleep(DELAY.mul_f64(random.f64()));
        if blow.strike(cluster, stage, &mut random).with_context(|| format!("{blow:?}"))? {
            *(if blow.kills() { &mut blows.kills } else { &mut blows.troubles }) += 1;
        }
    }
    provocation.wait_for(BETWEEN, PATIENCE)?;
    Ok(blows)
}

/// Everything that waits to be recorded is, wherever it waits.
fn settle(cluster: &mut Cluster, stage: &Stage) -> Result<()> {
    cluster.restart(Shutdown::Fast)?;
    super::spool::taken_in(&stage.database, PATIENCE)
}
