//! The launcher: one process for the whole server, which starts with it and connects to no database, so that it is in
//! nobody's way. When a database has events it starts a drain worker there, which leaves soon after it ran dry.

use std::collections::HashMap;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
    SignalWakeFlags,
};
use pgrx::{IntoDatum, pg_guard, pg_sys};

use super::queue;

/// A database whose drain failed this often in a row can't take its events: they go to the server log.
const GIVE_UP_AFTER: u32 = 5;

/// How long to wait between two tries to start a drain that fails.
const RETRY: Duration = Duration::from_millis(200);

pub(super) fn install() {
    BackgroundWorkerBuilder::new("holdfast launcher")
        .set_type("holdfast launcher")
        .set_library("holdfast")
        .set_function("holdfast_launcher_main")
        .enable_shmem_access(None)
        // On a standby nothing can be written, hence nothing is refused.
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// Where the launcher's process begins.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn holdfast_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: this process's own latch.
    queue::set_launcher(unsafe { pg_sys::MyLatch });
    let mut running: HashMap<pg_sys::Oid, DynamicBackgroundWorker> = HashMap::new();
    let mut failures: HashMap<pg_sys::Oid, u32> = HashMap::new();
    let mut inherited = queue::drains();
    loop {
        // Of those that an earlier launcher started nobody tells us when they end.
        inherited.retain(|(database, pid)| {
            // SAFETY: looks a process up in shared memory.
            let alive = *pid != 0 && unsafe { !pg_sys::BackendPidGetProc(*pid).is_null() };
            if !alive {
                queue::drain_ended(*database);
            }
            alive
        });
        running.retain(|database, worker| {
            let stopped = matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped));
            if stopped {
                match queue::drain_ended(*database) {
                    true => *failures.entry(*database).or_default() += 1,
                    false => drop(failures.remove(database)),
                }
            }
            !stopped
        });
        let mut retry = false;
        for database in queue::claim_undrained() {
            let failed = failures.get(&database).copied().unwrap_or(0);
            if failed >= GIVE_UP_AFTER {
                // One that can't be stored must not keep the others from it.
                failures.insert(database, 1);
                super::drain::give_up_oldest(database);
            }
            if failed > 0 && !BackgroundWorker::wait_latch(Some(RETRY)) {
                break;
            }
            match start_drain(database, failed > 0) {
                Some(worker) => {
                    running.insert(database, worker);
                }
                None => {
                    queue::drain_ended(database);
                    retry = true;
                }
            }
        }
        // The postmaster's signal that a worker has ended is ignored in a process without a database, so look.
        let watching = retry || !running.is_empty() || !inherited.is_empty();
        let timeout = if watching { RETRY } else { Duration::from_secs(10) };
        if !BackgroundWorker::wait_latch(Some(timeout)) {
            break;
        }
    }
    queue::set_launcher(std::ptr::null_mut());
    // A worker that ends with 0 is never started again, and somebody may only have terminated this one.
    // SAFETY: ends the process the way that a background worker should.
    unsafe { pg_sys::proc_exit(1) };
}

/// A cautious drain stores each event by itself, so that one that fails stands alone.
fn start_drain(database: pg_sys::Oid, cautious: bool) -> Option<DynamicBackgroundWorker> {
    // SAFETY: a plain read.
    let launcher = unsafe { pg_sys::MyProcPid };
    BackgroundWorkerBuilder::new("holdfast worker")
        .set_type("holdfast worker")
        .set_library("holdfast")
        .set_function("holdfast_drain_main")
        .set_argument(database.into_datum())
        .set_extra(if cautious { super::drain::CAUTIOUS } else { "" })
        .enable_spi_access()
        .set_restart_time(None)
        .set_notify_pid(launcher)
        .load_dynamic()
        .ok()
}
