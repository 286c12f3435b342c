//! Tenants handed over: what their writers notice, and how many go in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use postgres::{Config, NoTls};

use super::Bench;
use super::contender::Contender;

const WRITERS: i32 = 8;

/// The least time for it: the first cutover of a session, and the first refusal that needs a worker, find nothing prepared, and should
/// count for no more than they do in a wave.
const WINDOW: Duration = Duration::from_secs(3);

/// Between two cutovers, so that writers are at their pace again.
const BREATH: Duration = Duration::from_millis(20);

/// Writes of one tenant by eight clients that follow it from backend to backend, while it goes to and fro. A write's latency
/// counts from its first attempt to its commit, refusals included; what is added is the difference between writes that met a
/// cutover and those that met none, quantile by quantile: with eight writers on few cores some wait for a core in any case.
pub fn under_load(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let database = bench.arena.database(contender)?;
    let [legacy, rebuilt] = ["app", "app_rebuilt"].map(|role| database.session().role(role).config());
    let (legacy, rebuilt) = (legacy?, rebuilt?);
    let mut admin = bench.arena.admin(contender)?;
    // Each writer has a row of its own.
    admin.exec("UPDATE hot SET amount = 0 WHERE id <= 8")?;
    let shift = Shift::default();
    let writers: Vec<_> = (1..=WRITERS)
        .map(|id| {
            let (shift, legacy, rebuilt) = (shift.clone(), legacy.clone(), rebuilt.clone());
            std::thread::spawn(move || write(id, &legacy, &rebuilt, &shift))
        })
        .collect();
    let handed = hand_to_and_fro(&mut admin, &shift, Duration::from_secs(bench.course.seconds).max(WINDOW));
    shift.over.store(true, Ordering::Relaxed);
    let mut latencies = Latencies::new()?;
    for writer in writers {
        latencies.add(&writer.join().map_err(|_| anyhow!("a writer panicked"))??)?;
    }
    let (cutovers, busy) = handed?;
    // It ends where it began, for the next turn.
    if cutovers % 2 == 1 {
        admin.exec("SELECT holdfast.cutover('1', 'legacy', max_pause => '10 s', require_ready => false)")?;
    }
    let usual = |quantile| latencies.undisturbed.value_at_quantile(quantile);
    let of = |microseconds: u64| microseconds as f64 / 1_000.0;
    let added = |quantile| of(latencies.disturbed.value_at_quantile(quantile).saturating_sub(usual(quantile)));
    let longest = of(latencies.disturbed.max());
    Ok(vec![added(0.99), added(0.5), longest, of(usual(0.99)), f64::from(cutovers) / busy.as_secs_f64()])
}

/// What writers and cutovers know of each other.
#[derive(Clone, Default)]
struct Shift {
    over: Arc<AtomicBool>,
    /// Goes on when a cutover begins and when it ends: odd while one is under way.
    cutovers: Arc<AtomicU64>,
}

/// Latencies in microseconds.
struct Latencies {
    undisturbed: Histogram<u64>,
    disturbed: Histogram<u64>,
}

impl Latencies {
    fn new() -> Result<Latencies> {
        let empty = || Histogram::new(3).map_err(|error| anyhow!("a histogram: {error}"));
        Ok(Latencies { undisturbed: empty()?, disturbed: empty()? })
    }

    fn add(&mut self, other: &Latencies) -> Result<()> {
        self.undisturbed.add(&other.undisturbed)?;
        self.disturbed.add(&other.disturbed)?;
        Ok(())
    }
}

fn write(id: i32, legacy: &Config, rebuilt: &Config, shift: &Shift) -> Result<Latencies> {
    let sql = "UPDATE hot SET amount = amount + 1 WHERE id = $1";
    let mut owner = legacy.connect(NoTls)?;
    let mut other = rebuilt.connect(NoTls)?;
    let (mut with_owner, mut with_other) = (owner.prepare(sql)?, other.prepare(sql)?);
    let mut latencies = Latencies::new()?;
    while !shift.over.load(Ordering::Relaxed) {
        let (before, start) = (shift.cutovers.load(Ordering::Relaxed), Instant::now());
        while let Err(error) = owner.execute(&with_owner, &[&id]) {
            if error.code().is_none_or(|code| code.code() != "WG001") {
                return Err(error).context("a write beside a cutover");
            }
            std::mem::swap(&mut owner, &mut other);
            std::mem::swap(&mut with_owner, &mut with_other);
        }
        let latency = u64::try_from(start.elapsed().as_micros())?;
        let met_one = before % 2 == 1 || shift.cutovers.load(Ordering::Relaxed) != before;
        let histogram = if met_one { &mut latencies.disturbed } else { &mut latencies.undisturbed };
        histogram.record(latency)?;
    }
    Ok(latencies)
}

/// Returns how many cutovers there were, and how long they took together.
fn hand_to_and_fro(admin: &mut postgres::Client, shift: &Shift, window: Duration) -> Result<(u32, Duration)> {
    let cutover =
        admin.prepare("SELECT epoch FROM holdfast.cutover('1', $1, max_pause => '10 s', require_ready => false)")?;
    let (start, mut cutovers, mut busy) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < window {
        std::thread::sleep(BREATH);
        let to = if cutovers % 2 == 0 { "rebuilt" } else { "legacy" };
        shift.cutovers.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let handed = admin.query(&cutover, &[&to]);
        busy += began.elapsed();
        shift.cutovers.fetch_add(1, Ordering::Relaxed);
        handed?;
        cutovers += 1;
    }
    if cutovers == 0 {
        bail!("no cutover in {window:?}");
    }
    Ok((cutovers, busy))
}

/// Tenants handed over one after the other, each in a transaction of its own: by run_wave(), and by calls of cutover().
pub fn wave(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let tenants = if bench.course.quick { 500 } else { 5_000 };
    let mut admin = bench.arena.admin(contender)?;
    let rate = |took: Duration| f64::from(tenants) / took.as_secs_f64();
    // Numbers that no row has: nobody writes these tenants.
    admin.exec(&format!(
        "SELECT holdfast.add_wave('bench', query => 'SELECT (2000000000 + n)::text FROM generate_series(1, {tenants}) n',
             to_backend => 'rebuilt', require_ready => false)"
    ))?;
    let start = Instant::now();
    admin.exec("CALL holdfast.run_wave('bench')")?;
    let by_wave = rate(start.elapsed());
    let moved: i64 = admin.one("SELECT moved::int8 FROM holdfast.waves WHERE wave = 'bench'")?;
    ensure!(moved == i64::from(tenants), "{moved} of {tenants} tenants moved");
    let cutover = admin.prepare("SELECT epoch FROM holdfast.cutover($1, 'rebuilt', require_ready => false)")?;
    let start = Instant::now();
    for tenant in 1..=tenants {
        admin.query(&cutover, &[&(2_100_000_000 + tenant).to_string()])?;
    }
    Ok(vec![by_wave, rate(start.elapsed())])
}
