//! The worker that writes a database's events into its table: one commit for all that wait.

use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::{pg_guard, pg_sys};

use super::queue::{self, Taken};
use super::store::{self, Row};
use crate::pg::{compat, session};
use crate::policy::events::Event;

/// How long a worker stays without an event. Short, because a connected worker blocks DROP DATABASE, which waits 5 s for
/// others to leave; long enough that a burst of refusals pays for one start.
const LINGER: Duration = Duration::from_millis(500);

/// What the launcher tells a worker that follows one that failed.
pub(super) const CAUTIOUS: &str = "cautious";

/// Where a drain worker's process begins; the argument is the database.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn holdfast_drain_main(argument: pg_sys::Datum) {
    let database = pg_sys::Oid::from(argument.value() as u32);
    session::become_worker();
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    // Postgres's own: a wait for a lock or for a standby must not outlast a shutdown. What was not committed by then goes
    // back to the queue.
    // SAFETY: a signal handler of the server, for this process.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(compat::die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(compat::die));
    }
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
    commit_durably();
    // SAFETY: this process's own latch.
    queue::drain_started(database, unsafe { pg_sys::MyLatch });
    let batch = if BackgroundWorker::get_extra() == CAUTIOUS { 1 } else { usize::MAX };
    let mut last = Instant::now();
    loop {
        while drain(database, batch) {
            last = Instant::now();
        }
        let left = LINGER.saturating_sub(last.elapsed());
        if left.is_zero() && queue::drain_may_stop(database) {
            return;
        }
        if !BackgroundWorker::wait_latch(Some(left.max(Duration::from_millis(1)))) {
            // Asked to stop, it still takes what is there.
            while drain(database, batch) {}
            queue::drain_may_stop(database);
            return;
        }
    }
}

/// A refusal must not be shown before its event is safe, so this worker waits for its commits even where the database
/// doesn't.
fn commit_durably() {
    // SAFETY: a setting of this process, which runs nothing else.
    unsafe {
        if pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
            pg_sys::SetConfigOption(
                c"synchronous_commit".as_ptr(),
                c"local".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
}

/// Commits the pending events; whether there were any. If it fails, the process ends and the launcher makes them pending
/// again.
fn drain(database: pg_sys::Oid, batch: usize) -> bool {
    let taken = queue::take(database, batch);
    if taken.is_empty() {
        return false;
    }
    let rows: Vec<Row> = taken.iter().filter_map(row).collect();
    let stored = BackgroundWorker::transaction(|| store::store(&rows));
    if !stored {
        give_to_log(&taken);
    }
    queue::release(&taken);
    true
}

fn row(taken: &Taken) -> Option<Row> {
    let Ok(event) = Event::decode(&taken.bytes) else {
        pgrx::log!("holdfast: event that can't be read: {}", String::from_utf8_lossy(&taken.bytes));
        return None;
    };
    Some(Row {
        event,
        origin_at: taken.origin,
        sequence: taken.sequence,
        occurrences: taken.occurrences,
        last_at: taken.last_at,
    })
}

/// For the launcher: no worker can be had for this database, or none survives this event.
pub(super) fn give_up_oldest(database: pg_sys::Oid) {
    let taken = queue::take(database, 1);
    give_to_log(&taken);
    queue::release(&taken);
}

fn give_to_log(taken: &[Taken]) {
    for event in taken {
        pgrx::log!("holdfast: event that its database could not take: {}", String::from_utf8_lossy(&event.bytes));
    }
}
