//! Several CALLs of one wave: none keeps to what it knew when it began, where the wave has gone on meanwhile.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Test;
use super::two_backends::{TwoBackends, is, write};
use super::waves::{plan, run, state, tenants};
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;
use crate::wait::within;

/// A soak and its end on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// CALLs at a time in [`race`], and how many of them may run.
const CALLERS: usize = 3;
const CONCURRENCY: i64 = 2;

/// Of CALLs that meet.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_call_that_slept_through_a_soak_moves_nobody", asleep),
        Test::shared("calls_that_race_keep_to_stage_and_concurrency", race),
    ]
}

/// A server process that stands still, and goes on in any case.
struct Asleep(Pid);

impl Asleep {
    /// Stops one that waits for a moment, so that it has nothing in its hands that others need.
    fn fall(dba: &mut Session, pid: i32) -> Result<Asleep> {
        let pauses = format!("SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = {pid}");
        for _ in 0..1_000 {
            let asleep = Asleep(Pid::from_raw(pid));
            if dba.one::<Option<bool>>(&pauses)? == Some(true) {
                kill(asleep.0, Signal::SIGSTOP)?;
                if dba.one::<Option<bool>>(&pauses)? == Some(true) {
                    return Ok(asleep);
                }
            }
        }
        bail!("never pauses")
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

fn asleep(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 8, ", canary_count => 3, soak => '1 s', max_pause => '50 ms', concurrency => 2"))?;
    let mut busy = scene.legacy()?;
    busy.exec(&format!("BEGIN; {}", write(3)))?;
    let first = scene.operator()?.start(&run("w"));
    within(PATIENCE, "the last canary to be tried", || Ok(dba.one::<i32>(TRIES)? == 1))?;
    // It would try again within the second. Meanwhile another one does, the canaries soak, and the rest's turn comes.
    let sleeping = Asleep::fall(&mut dba, first.pid())?;
    busy.exec("COMMIT")?;
    dba.exec(&run("w"))?;
    within(PATIENCE, "the canaries to have soaked", || Ok(state(&mut dba, "w")? == "moving"))?;
    ensure!(tenants(&mut dba, "w", "moved")? == 3);

    busy.exec(&format!("BEGIN; {}", write(6)))?;
    let mut second = scene.operator()?.start(&run("w"));
    within(PATIENCE, "the rest to move", || Ok(tenants(&mut dba, "w", "moved")? == 7))?;
    // Between two steps its place is free for a moment; within one it isn't.
    let waiting = Asleep::fall(&mut dba, second.pid())?;
    // Asleep or not, they count.
    is(&dba.refused(&run("w"))?, "55006")?;
    drop(sleeping);
    let (mut first, outcome) = first.finish()?;
    outcome?;
    let told = first.notices();
    let says = told.iter().any(|notice| notice.message.contains("its canaries have soaked meanwhile"));
    ensure!(says, "{told:?}");
    // To it all canaries have moved; that is no reason for a soak.
    ensure!(!second.is_finished() && state(&mut dba, "w")? == "moving" && scene.owner(6)? == "legacy");
    busy.exec("COMMIT")?;
    drop(waiting);
    second.finish()?.1?;
    ensure!(tenants(&mut dba, "w", "moved")? == 8);
    let epochs: i64 = dba.one("SELECT sum(epoch)::int8 FROM holdfast.tenants")?;
    ensure!(epochs == 8, "{epochs} cutovers of eight tenants");
    within(PATIENCE, "the wave to pass", || Ok(state(&mut dba, "w")? == "passed"))
}

const TRIES: &str = "SELECT tries FROM holdfast.wave_tenants WHERE tenant = '3'";

/// CALLs again and again until the wave has passed.
fn insist(session: &mut Session, wave: &str) -> Result<()> {
    while state(session, wave)? != "passed" {
        if let Err(error) = session.exec(&run(wave)) {
            match Refusal::of(&error) {
                // It is run by others, or soaks.
                Some(refusal) if refusal.code == "55006" || refusal.code == "55000" => {}
                _ => return Err(error),
            }
        }
    }
    Ok(())
}

fn race(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    let look = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 18505
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
        (SELECT count(*) FROM holdfast.wave w JOIN holdfast.wave_tenant t ON t.wave_id = w.id
            WHERE w.stage = 'canaries' AND NOT t.canary AND t.state <> 'waiting')";
    let (mut most, mut looks) = (0, 0);
    for (n, wave) in ["a", "b", "c"].into_iter().enumerate() {
        let first = i32::try_from(n)? * 20 + 1;
        let more = format!(", canary_count => 5, soak => '500 ms', concurrency => {CONCURRENCY}");
        dba.exec(&plan(wave, first, first + 19, &more))?;
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            callers.push(scene.operator()?.start_with("a caller", move |session| insist(session, wave)));
        }
        while !callers.iter_mut().all(|caller| caller.is_finished()) {
            let row = dba.query_one(look, &[])?;
            let (places, early): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            ensure!(places <= CONCURRENCY, "{places} CALLs run at a time");
            ensure!(early == 0, "{early} have moved before the canaries have soaked");
            (most, looks) = (most.max(places), looks + 1);
        }
        for caller in callers {
            caller.finish()?.1?;
        }
    }
    ensure!(most == CONCURRENCY && looks > 10, "no more than {most} at a time, in {looks} looks");
    let too_early: i64 = dba.one(
        "SELECT count(*) FROM (SELECT w.soak, max(moved_at) FILTER (WHERE canary) AS canaries,
                 min(moved_at) FILTER (WHERE NOT canary) AS rest
             FROM holdfast.wave w JOIN holdfast.wave_tenant t ON t.wave_id = w.id GROUP BY w.id) AS times
         WHERE rest IS NULL OR rest < canaries + soak",
    )?;
    ensure!(too_early == 0, "the rest of {too_early} waves has moved too early");
    let epochs: String = dba.one("SELECT count(*) || ' ' || max(epoch) || ' ' || min(owner) FROM holdfast.tenants")?;
    ensure!(epochs == "60 1 rebuilt", "{epochs}");
    let soaks: i64 = dba.one("SELECT count(*) FROM holdfast.policy_log WHERE what = 'wave soaking'")?;
    ensure!(soaks == 6, "{soaks} soaks of three waves, two each");
    Ok(())
}
