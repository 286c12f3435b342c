//! The launcher: one process for the whole server, which starts with it and connects to no database, so that it is in
//! nobody's way. When a database has events it starts a drain worker there, which leaves soon after it ran dry. Where none
//! can be had, and when the server stops, it brings what is queued to the spool, for which it needs no database.

use std::collections::HashMap;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
    SignalWakeFlags,
};
use pgrx::{IntoDatum, pg_guard, pg_sys};

use super::memory::Complaint;
use super::workers::{self, Wanted, Worker};
use super::{drain, queue, schedule, spool};
use crate::pg::compat;

/// How often the launcher looks after workers that run, whose end nobody tells it: the postmaster's signal is ignored in a
/// process without a database.
const WATCH: Duration = Duration::from_millis(200);

/// How often it looks whether something has come into the spool that it wasn't told of.
const IDLE: Duration = Duration::from_secs(10);

/// How long it waits, when it is told to stop, for workers that are told as well.
const LEAVE: Duration = Duration::from_secs(5);

pub(super) fn install() {
    // What pg_upgrade's servers commit would get numbers that the new cluster gives again.
    // SAFETY: a plain read.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    BackgroundWorkerBuilder::new("holdfast launcher")
        .set_type("holdfast launcher")
        .set_library("holdfast")
        .set_function("holdfast_launcher_main")
        .enable_spi_access()
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
    // To no database: that is enough to see which ones there are.
    BackgroundWorker::connect_worker_to_spi(None, None);
    // SAFETY: this process's own latch.
    workers::launcher_started(unsafe { pg_sys::MyLatch });
    // SAFETY: however this process ends, sessions must not take it for alive.
    unsafe { pg_sys::before_shmem_exit(Some(ended), pg_sys::Datum::null()) };
    let mut running = Running::new();
    loop {
        reap(&mut running);
        for wanted in workers::claim_undrained(&[spool::databases(), schedule::due()].concat()) {
            look_after(wanted, &mut running);
        }
        let idle = if workers::drains().is_empty() { IDLE } else { WATCH };
        let retry = workers::next_retry().map(|us| Duration::from_micros(us.unsigned_abs()));
        // A worker that runs looks by itself.
        let scheduled = schedule::next().map(|us| Duration::from_micros(us.unsigned_abs()).max(WATCH));
        let pause = [retry, scheduled].into_iter().flatten().fold(idle, Duration::min).max(Duration::from_millis(1));
        if !BackgroundWorker::wait_latch(Some(pause)) {
            break;
        }
        drain::reload();
    }
    // Without a postmaster nobody waits, and nothing can be started.
    // SAFETY: asks the system, and reads a global of the process.
    if unsafe { libc::getppid() == pg_sys::PostmasterPid } {
        leave(&mut running);
    }
    // A worker that ends with 0 is never started again, and somebody may only have terminated this one.
    // SAFETY: ends the process the way that a background worker should.
    unsafe { pg_sys::proc_exit(1) };
}

/// The workers that this launcher started, by their serial numbers.
type Running = HashMap<i64, DynamicBackgroundWorker>;

unsafe extern "C-unwind" fn ended(_: c_int, _: pg_sys::Datum) {
    workers::launcher_ended(false);
}

/// Notes which workers have ended, of those that an earlier launcher started too. One of these that hasn't got to run yet will
/// find that its turn is over.
fn reap(running: &mut Running) {
    for (worker, pid) in workers::drains() {
        let ended = match running.get(&worker.serial) {
            Some(process) => matches!(process.pid(), Err(BackgroundWorkerStatus::Stopped)),
            None => pid == 0 || !is_worker_of(worker, pid),
        };
        if ended {
            running.remove(&worker.serial);
            workers::drain_ended(worker);
        }
    }
    // Those that left by themselves have taken their entries back.
    running.retain(|_, worker| !matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)));
}

/// Whether a process is a background worker in a database, as far as can be known of one that another process started.
fn is_worker_of(worker: Worker, pid: i32) -> bool {
    // SAFETY: looks a process up in shared memory, where its entry stays.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        !process.is_null() && (*process).databaseId == worker.database && compat::is_background_worker(process)
    }
}

/// Starts a worker for a database, or brings its events to the spool.
fn look_after(wanted: Wanted, running: &mut Running) {
    let Wanted { worker, cautious } = wanted;
    let database = worker.database;
    // One that is only scheduled may be gone for long.
    if !is_there(database) {
        let events = workers::forget(worker);
        schedule::forget(database);
        if let Err(error) = spool::remove(database) {
            pgrx::log!("holdfast: the spool of a dropped database could not be removed: {error}");
        }
        if events > 0 {
            pgrx::log!("holdfast: database {} is gone, and with it {events} events for it", database.to_u32());
        }
        return;
    }
    schedule::postpone(database);
    if cautious {
        // The worker may fail again, and who waits has waited once.
        to_spool(database);
    }
    match start_drain(worker, cautious) {
        Some(process) => {
            running.insert(worker.serial, process);
        }
        None => {
            to_spool(database);
            workers::drain_ended(worker);
        }
    }
}

fn to_spool(database: pg_sys::Oid) {
    let (spooled, failure) = workers::spool_pending(database);
    if spooled > 0 {
        queue::complain(Complaint::Spooled, "no worker can be had for its database", &[]);
    }
    if let Some(failure) = failure {
        queue::complain(Complaint::Kept, &failure.to_string(), &[]);
    }
}

/// Whether a database is still there.
fn is_there(database: pg_sys::Oid) -> bool {
    BackgroundWorker::transaction(move || {
        // SAFETY: a look-up in a shared catalog, in a transaction.
        unsafe {
            let key = pg_sys::Datum::from(database.to_u32());
            pg_sys::SearchSysCacheExists(
                pg_sys::SysCacheIdentifier::DATABASEOID as i32,
                key,
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
            )
        }
    })
}

/// When the server stops, its workers may commit what they have; the rest goes to the spool.
fn leave(running: &mut Running) {
    workers::launcher_ended(true);
    let told = Instant::now();
    loop {
        reap(running);
        if workers::drains().is_empty() || told.elapsed() > LEAVE {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        pgrx::check_for_interrupts!();
    }
    for database in workers::pending_databases() {
        let (_, failure) = workers::spool_pending(database);
        let Some(failure) = failure else { continue };
        // Whatever their number: this is the last place where they can be found.
        for event in workers::pending_events(database) {
            pgrx::log!("holdfast: event lost as the server stops: {failure}: {}", String::from_utf8_lossy(&event));
        }
    }
}

/// A cautious drain stores each event by itself, so that one that fails stands alone.
fn start_drain(worker: Worker, cautious: bool) -> Option<DynamicBackgroundWorker> {
    // SAFETY: a plain read.
    let launcher = unsafe { pg_sys::MyProcPid };
    BackgroundWorkerBuilder::new("holdfast worker")
        .set_type("holdfast worker")
        .set_library("holdfast")
        .set_function("holdfast_drain_main")
        .set_argument(worker.database.into_datum())
        .set_extra(&drain::instructions(worker.serial, cautious))
        .enable_spi_access()
        .set_restart_time(None)
        .set_notify_pid(launcher)
        .load_dynamic()
        .ok()
}
