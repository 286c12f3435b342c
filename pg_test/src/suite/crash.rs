//! kill -9 of either side and restarts: the old owner goes on writing, one owner, nothing left locked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Test;
use super::two_backends::{LOCK_NOT_AVAILABLE, TwoBackends, cutover, detail_names, is, write};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::within;

/// Recovery of a server with next to no data, on a loaded machine.
const RECOVERY: Duration = Duration::from_secs(60);

/// Tests of crashes.
pub fn tests() -> Vec<Test> {
    let own = |name, run| Test::own(name, ClusterOptions::new(), run).expects_crashes();
    vec![
        own("killed_writer_leaves_no_lock", killed_writer),
        own("killed_cutover_leaves_the_old_owner", killed_cutover),
        own("committed_cutover_survives_a_crash", committed_cutover),
        own("prepared_transaction_blocks_the_cutover_after_a_crash", prepared_transaction),
        Test::shared("terminated_sessions_leave_no_lock", terminated_sessions),
    ]
}

/// kill -9 of one server process; the server restarts all of them.
pub fn kill9(cluster: &Cluster, pid: i32) -> Result<()> {
    let mark = cluster.log_mark();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    within(RECOVERY, "the server to notice", || Ok(!cluster.crashes(mark)?.is_empty()))?;
    within(RECOVERY, "the server to recover", || Ok(cluster.endpoint().observe("postgres").is_ok()))
}

fn killed_writer(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "crash")?;
    let mut writer = stage.legacy()?;
    writer.exec("BEGIN; UPDATE orders SET note = 'lost' WHERE id BETWEEN 1 AND 60")?;
    kill9(cluster, writer.pid())?;
    ensure!(writer.exec("COMMIT").is_err());
    ensure!(stage.tenant_locks()? == 0);
    ensure!(stage.operator()?.one::<i64>("SELECT count(*) FROM orders WHERE note = 'lost'")? == 0);
    stage.ensure_sound(1, "legacy")?;
    stage.cut_over(1, "rebuilt")?;
    stage.ensure_sound(1, "rebuilt")
}

fn killed_cutover(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "crash")?;
    // While it waits for a writer.
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    let waiting = stage.start_cutover(1, "rebuilt", "1 min")?;
    kill9(cluster, waiting.pid())?;
    waiting.finish()?.1.err().context("a killed cutover can't succeed")?;
    stage.ensure_sound(1, "legacy")?;

    // When it has changed everything, but before it commits; with a writer held by it.
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}", cutover(1, "rebuilt")))?;
    let mut held = stage.legacy()?.start(&write(1));
    held.wait_until_blocked()?;
    kill9(cluster, operator.pid())?;
    held.finish()?.1.err().context("the crash ends the writer, too")?;
    stage.ensure_sound(1, "legacy")?;
    let history: i64 = stage.operator()?.one("SELECT count(*) FROM holdfast.ownership_history")?;
    ensure!(history == 0, "{history} entries of cutovers that never were");

    // The same, by a restart of the whole server.
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}", cutover(1, "rebuilt")))?;
    cluster.restart(Shutdown::Immediate)?;
    ensure!(operator.exec("COMMIT").is_err());
    stage.ensure_sound(1, "legacy")?;
    stage.cut_over(1, "rebuilt")?;
    stage.ensure_sound(1, "rebuilt")
}

fn committed_cutover(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "crash")?;
    let mut operator = stage.operator()?;
    operator.exec(&cutover(1, "rebuilt"))?;
    operator.exec("SELECT holdfast.freeze('2', 'audit')")?;
    kill9(cluster, operator.pid())?;
    stage.ensure_sound(1, "rebuilt")?;
    is(&stage.legacy()?.refused(&write(2))?, super::two_backends::FROZEN)?;
    for how in [Shutdown::Immediate, Shutdown::Kill9, Shutdown::Fast] {
        cluster.restart(how)?;
        stage.ensure_sound(1, "rebuilt")?;
    }
    stage.operator()?.exec("SELECT holdfast.rollback_cutover('1')")?;
    stage.ensure_sound(1, "legacy")
}

fn prepared_transaction(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "crash")?;
    stage.legacy()?.exec(&format!("BEGIN; {}; PREPARE TRANSACTION 'one tenant'", write(1)))?;
    for how in [Shutdown::Immediate, Shutdown::Fast, Shutdown::Kill9] {
        cluster.restart(how)?;
        let refusal = stage.operator()?.refused("SELECT holdfast.cutover('1', 'rebuilt', '100 ms')")?;
        is(&refusal, LOCK_NOT_AVAILABLE)?;
        detail_names(&refusal, &["prepared transaction", "one tenant"])?;
    }
    stage
        .legacy()?
        .exec("UPDATE orders SET note = 'x' WHERE id <= 60 AND id > 1; INSERT INTO orders VALUES (1001, 1)")?;
    stage.operator()?.exec("COMMIT PREPARED 'one tenant'")?;
    stage.cut_over(1, "rebuilt")?;
    stage.ensure_sound(1, "rebuilt")?;

    // Many tenants: the lock on all of them survives as well.
    stage
        .legacy()?
        .exec("BEGIN; UPDATE orders SET note = 'x' WHERE id BETWEEN 2 AND 60; PREPARE TRANSACTION 'many'")?;
    cluster.restart(Shutdown::Immediate)?;
    let refusal = stage.operator()?.refused("SELECT holdfast.cutover('99', 'rebuilt', '100 ms')")?;
    detail_names(&refusal, &["prepared transaction", "many"])?;
    stage.operator()?.exec("ROLLBACK PREPARED 'many'")?;
    stage.cut_over(99, "rebuilt")?;
    stage.ensure_sound(99, "rebuilt")
}

fn terminated_sessions(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "crash")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    let waiting = stage.start_cutover(1, "rebuilt", "1 min")?;
    let mut held = stage.legacy()?.start("INSERT INTO orders VALUES (1001, 1)");
    held.wait_until_blocked()?;
    waiting.terminate()?;
    waiting.finish()?.1.err().context("a terminated cutover can't succeed")?;
    held.finish()?.1?;
    let mut observer = stage.operator()?;
    observer.exec(&format!("SELECT pg_terminate_backend({})", writer.pid()))?;
    stage.ensure_sound(1, "legacy")
}
