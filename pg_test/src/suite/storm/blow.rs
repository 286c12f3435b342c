//! What can happen to a server that records refusals.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use nix::sys::signal::Signal;

use super::PATIENCE;
use crate::cluster::{Cluster, Shutdown};
use crate::suite::processes::{drains, launchers, send, titled};
use crate::suite::provoker::Stage;
use crate::wait::within;

/// How long a trouble lasts: longer than the shortest `holdfast.audit_timeout` of [`Blow::Timeout`].
const TROUBLE: Duration = Duration::from_millis(150);

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// The drain worker gets a signal.
    Drain(Signal),
    /// The launcher gets one.
    Launcher(Signal),
    /// One of the clients' server processes gets one.
    Session(Signal),
    /// The server goes down, and comes up again.
    Server(Shutdown),
    /// The drain worker hangs for a while.
    Hang,
    /// A DBA's transaction locks the record for a while.
    Lock,
    /// Refusals wait at most so many milliseconds from now on.
    Timeout(u16),
}

/// What happens, and how often.
const BLOWS: [(Blow, usize); 16] = [
    (Blow::Drain(Signal::SIGKILL), 10),
    (Blow::Drain(Signal::SIGTERM), 6),
    (Blow::Launcher(Signal::SIGKILL), 5),
    (Blow::Launcher(Signal::SIGTERM), 3),
    (Blow::Session(Signal::SIGKILL), 12),
    (Blow::Session(Signal::SIGTERM), 6),
    (Blow::Session(Signal::SIGINT), 6),
    (Blow::Server(Shutdown::Kill9), 8),
    (Blow::Server(Shutdown::Immediate), 4),
    (Blow::Server(Shutdown::Fast), 4),
    (Blow::Hang, 6),
    (Blow::Lock, 6),
    (Blow::Timeout(1), 3),
    (Blow::Timeout(20), 3),
    (Blow::Timeout(100), 2),
    (Blow::Timeout(5_000), 3),
];

impl Blow {
    /// All that a storm is made of, in order.
    pub fn deck() -> Vec<Blow> {
        BLOWS.into_iter().flat_map(|(blow, times)| std::iter::repeat_n(blow, times)).collect()
    }

    /// Whether something is killed by it.
    pub fn kills(self) -> bool {
        match self {
            Blow::Drain(signal) | Blow::Launcher(signal) | Blow::Session(signal) => signal != Signal::SIGINT,
            Blow::Server(_) => true,
            Blow::Hang | Blow::Lock | Blow::Timeout(_) => false,
        }
    }

    /// Lets it happen. False if there was nothing that it could happen to.
    pub fn strike(self, cluster: &mut Cluster, stage: &Stage, random: &mut Rng) -> Result<bool> {
        match self {
            Blow::Drain(signal) => signal_one(cluster, drains(cluster)?, signal, random),
            Blow::Launcher(signal) => signal_one(cluster, launchers(cluster)?, signal, random),
            Blow::Session(signal) => signal_one(cluster, titled(cluster, &stage.rebuilt)?, signal, random),
            Blow::Server(how) => cluster.restart(how).map(|()| true),
            Blow::Hang => hang(cluster),
            Blow::Lock => lock(stage),
            Blow::Timeout(milliseconds) => {
                cluster.reload(&[("holdfast.audit_timeout", &milliseconds.to_string())]).map(|()| true)
            }
        }
    }
}

fn signal_one(cluster: &Cluster, mut processes: Vec<i32>, signal: Signal, random: &mut Rng) -> Result<bool> {
    random.shuffle(&mut processes);
    let mark = cluster.log_mark();
    // It may have ended meanwhile.
    let Some(pid) = processes.first().filter(|pid| send(**pid, signal).is_ok()) else { return Ok(false) };
    if signal == Signal::SIGKILL {
        within(PATIENCE, &format!("the server to miss {pid}"), || Ok(!cluster.crashes(mark)?.is_empty()))?;
        within(PATIENCE, "the server to recover", || Ok(cluster.endpoint().observe("postgres").is_ok()))?;
    }
    Ok(true)
}

fn hang(cluster: &Cluster) -> Result<bool> {
    let Some(drain) = drains(cluster)?.first().copied() else { return Ok(false) };
    if send(drain, Signal::SIGSTOP).is_err() {
        return Ok(false);
    }
    std::thread::sleep(TROUBLE);
    // Nobody ends a process that is stopped but with SIGKILL.
    Ok(send(drain, Signal::SIGCONT).is_ok())
}

fn lock(stage: &Stage) -> Result<bool> {
    let mut dba = None;
    within(PATIENCE, "a DBA's session", || {
        dba = stage.database.connect().ok();
        Ok(dba.is_some())
    })?;
    let Some(mut dba) = dba else { return Ok(false) };
    dba.exec("BEGIN; LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE")?;
    std::thread::sleep(TROUBLE);
    dba.exec("COMMIT").map(|()| true)
}
