//! A flood of refusals: a client that retries for ever, without a pause. Every one is counted, what records them stays
//! small, and the other tenants' writes go on.
//!
//! Windows with the flood and without it take turns, so that both meet the same machine. In the suite that is short, and
//! only exactness and bounds are judged; `cargo verify --flood` takes its time, and its figures are the benchmark.

mod gauge;
mod traffic;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use self::gauge::{Gauge, Peak};
use self::traffic::{Flood, Tenants};
use super::Test;
use super::ledger::Agreement;
use super::provoker::Stage;
use crate::cluster::{Cluster, ClusterOptions};
use crate::setup::Postgres;
use crate::ui::Ui;

/// As many refusals a second as are asked of the machine.
const ASKED: u32 = 10_000;

/// A process that records refusals keeps less than this for itself.
const MOST_MEMORY: u64 = 48 << 20;

/// What a refusal of a flood may add to the record until autovacuum has been there: versions of rows that count.
const MOST_DISK_A_REFUSAL: u64 = 640;

/// What the record may take in any case.
const HEAD_START: u64 = 16 << 20;

/// A flood becomes so many times fewer rows at least.
const LEAST_MERGED: u64 = 5;

/// Of floods.
pub fn tests() -> Vec<Test> {
    vec![Test::own("every_refusal_of_a_flood_is_counted_and_little_is_kept", options(), short)]
}

fn options() -> ClusterOptions {
    ClusterOptions::new().durable().set("log_min_messages", "log")
}

fn short(cluster: &mut Cluster) -> Result<()> {
    let course = Course { windows: 2, window: Duration::from_secs(5), paced: true };
    let figures = course.run(cluster, &mut |_| ())?;
    println!("{figures}");
    figures.judge()
}

/// The benchmark: so many seconds of flood beside tenants that leave the machine room, and as many beside tenants that don't.
pub fn benchmark(postgres: &Postgres, seconds: u64, ui: &Ui) -> Result<()> {
    let window = Duration::from_secs(10).min(Duration::from_secs(seconds.max(1)));
    let windows = u32::try_from(seconds.div_ceil(window.as_secs()))?;
    for (paced, how) in [(true, "a steady load"), (false, "as much load as the machine takes")] {
        let cluster = Cluster::start(postgres, options())?;
        let figures = ui.step(&format!("Flooding for {seconds} seconds beside {how}"), |progress| {
            Course { windows, window, paced }.run(&cluster, &mut |note| progress.note(note))
        })?;
        println!("{figures}");
        figures.judge()?;
    }
    Ok(())
}

/// How long, in how many pieces, and beside what.
#[derive(Clone, Copy)]
struct Course {
    windows: u32,
    window: Duration,
    /// Whether the other tenants' load is steady, or all that the machine takes.
    paced: bool,
}

impl Course {
    fn run(self, cluster: &Cluster, note: &mut dyn FnMut(&str)) -> Result<Figures> {
        let stage = Stage::set(cluster, "flood", 1)?;
        let tenants = Tenants::prepare(&stage)?;
        let before = gauge::disk(&stage.database)?;
        let gauge = Gauge::watch(cluster)?;
        let on = Arc::new(AtomicBool::new(false));
        let flood = Flood::start(&stage, ASKED, &on)?;
        let writers = tenants.start(self.paced);
        let (mut quiet, mut flooded) = (Window::default(), Window::default());
        for n in 1..=self.windows {
            note(&format!("window {n} of {}", self.windows));
            for (sum, with_flood) in [(&mut quiet, false), (&mut flooded, true)] {
                on.store(with_flood, Ordering::Relaxed);
                let (start, refused, committed) = (Instant::now(), flood.told(), writers.committed());
                std::thread::sleep(self.window);
                sum.refused += flood.told() - refused;
                sum.committed += writers.committed() - committed;
                sum.took += start.elapsed();
            }
        }
        on.store(false, Ordering::Relaxed);
        writers.end()?;
        let ledger = flood.end()?;
        super::spool::taken_in(&stage.database, Duration::from_secs(60))?;
        let peak = gauge.end()?;
        let agreement = ledger.check(&stage.database)?;
        let rows = stage.database.connect()?.one("SELECT count(*) FROM holdfast.event")?;
        ensure!(stage.written()? == 0, "rows that were refused are there");
        let disk = gauge::disk(&stage.database)?.saturating_sub(before);
        Ok(Figures { quiet, flooded, agreement, rows, disk, peak })
    }
}

/// What happened while the flood was on, or off.
#[derive(Clone, Copy, Default)]
struct Window {
    refused: u64,
    committed: u64,
    took: Duration,
}

impl Window {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn a_second(&self, count: u64) -> f64 {
        count as f64 / self.took.as_secs_f64()
    }
}

/// What came of it.
struct Figures {
    quiet: Window,
    flooded: Window,
    agreement: Agreement,
    rows: i64,
    disk: u64,
    peak: Peak,
}

impl Figures {
    /// Only what doesn't depend on the machine's speed.
    fn judge(&self) -> Result<()> {
        let Agreement { told, untold, .. } = self.agreement;
        ensure!(untold == 0, "{untold} attempts without an answer");
        ensure!(told > 0 && self.quiet.committed > 0 && self.flooded.committed > 0, "nothing happened:\n{self}");
        ensure!(self.peak.memory < MOST_MEMORY, "memory is not bounded:\n{self}");
        let rows = u64::try_from(self.rows)?;
        ensure!(rows * LEAST_MERGED < told, "as good as a row for each refusal:\n{self}");
        let most = HEAD_START + told * MOST_DISK_A_REFUSAL;
        ensure!(self.disk < most && self.peak.spool < most, "more than {} MB of disk:\n{self}", most >> 20);
        Ok(())
    }
}

impl fmt::Display for Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (quiet, flooded) =
            (self.quiet.a_second(self.quiet.committed), self.flooded.a_second(self.flooded.committed));
        writeln!(
            f,
            "    {} refusals in {:.0?} of flood, {:.0} a second ({ASKED} asked for); each is counted, in {} rows",
            self.agreement.told,
            self.flooded.took,
            self.flooded.a_second(self.flooded.refused),
            self.rows
        )?;
        writeln!(
            f,
            "    other tenants' commits a second: {quiet:.0} without the flood, {flooded:.0} with it ({:.2})",
            flooded / quiet
        )?;
        write!(
            f,
            "    the record grew by {:.1} MB, the spool held {:.1} MB at most, a worker {:.1} MB of memory at most",
            self.disk as f64 / 1e6,
            self.peak.spool as f64 / 1e6,
            self.peak.memory as f64 / 1e6
        )
    }
}
