//! The worker that writes a database's events into its table: one commit for all that wait.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};

use super::memory::{self, Complaint};
use super::spool::{self, TakenFile};
use super::store::{self, Row};
use super::workers::{self, Taken};
use super::{days, ledger, queue, retention};
use crate::pg::{compat, report, session};
use crate::policy::events::Event;
use crate::policy::spool::{self as format, Batch, Contents, Record};

/// How long a worker stays without an event. Short, because a connected worker blocks DROP DATABASE, which waits 5 s for
/// others to leave; long enough that a burst of refusals pays for one start.
const LINGER: Duration = Duration::from_millis(500);

/// How many records of the spool are committed at once, so that refusals that come meanwhile needn't wait for long.
const CHUNK: usize = 500;

/// What the launcher tells a worker that follows one that failed: it stores each event by itself, so that one that can't
/// be stored stands alone.
pub(super) const CAUTIOUS: &str = "cautious";

/// Where a drain worker's process begins; the argument is the database.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn holdfast_drain_main(argument: pg_sys::Datum) {
    let database = pg_sys::Oid::from(argument.value() as u32);
    session::become_worker();
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    // Postgres's own: a wait for a lock or for a standby must not outlast a shutdown. What was not committed by then is
    // the launcher's, which brings it to the spool.
    // SAFETY: a signal handler of the server, for this process.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(compat::die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(compat::die));
    }
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
    store::settle_settings();
    commit_durably();
    // SAFETY: this process's own latch.
    let batch = workers::drain_started(database, unsafe { pg_sys::MyLatch });
    let mut worker =
        Worker { database, batch, cautious: BackgroundWorker::get_extra() == CAUTIOUS, swept: false, file: None };
    let mut last = Instant::now();
    loop {
        loop {
            match worker.work() {
                Ok(true) => last = Instant::now(),
                Ok(false) => break,
                Err(failure) => {
                    workers::drain_failed(database);
                    queue::complain(Complaint::Failed, &failure.message, &[]);
                    return;
                }
            }
        }
        if retention::step() {
            continue;
        }
        let left = LINGER.saturating_sub(last.elapsed());
        if left.is_zero() && workers::drain_may_stop(database) {
            return;
        }
        BackgroundWorker::wait_latch(Some(left.max(Duration::from_millis(1))));
        reload();
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

/// Reads the settings again, if the server was told to.
pub(super) fn reload() {
    if BackgroundWorker::sighup_received() {
        // SAFETY: outside of any transaction.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        commit_durably();
    }
}

struct Worker {
    database: pg_sys::Oid,
    /// The transaction that ran last.
    batch: Batch,
    cautious: bool,
    /// Whether what the ledger needn't remember was removed.
    swept: bool,
    file: Option<Spool>,
}

/// A spool that is being taken in.
struct Spool {
    file: TakenFile,
    contents: Contents,
    /// How many of its records are done with.
    done: usize,
}

/// Why a transaction was given up.
pub(super) struct Failure {
    pub(super) message: String,
    /// Whether the events themselves are to blame, and not the state of the database.
    by_data: bool,
}

/// What became of events that were brought to their table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Yes,
    /// The extension has left the database.
    NoTable,
}

impl Worker {
    /// Does the next piece of work, refusals first; whether there was any.
    fn work(&mut self) -> Result<bool, Failure> {
        Ok(self.drain()? || self.take_in()? || self.note_loss()?)
    }

    /// Commits the pending events.
    fn drain(&mut self) -> Result<bool, Failure> {
        self.batch.number += 1;
        let limit = if self.cautious { 1 } else { usize::MAX };
        let taken = workers::take(self.database, limit, self.batch);
        if taken.is_empty() {
            return Ok(false);
        }
        let records: Vec<Record> = taken.iter().filter_map(record).collect();
        let (batch, database) = (self.batch, self.database);
        days::make_room(&records);
        let outcome = storing(
            || {
                let stored = store(&records);
                if stored == Stored::Yes {
                    ledger::note(batch);
                }
                stored
            },
            |_| workers::release(database, &taken),
        );
        match outcome {
            Ok(Stored::Yes) => {}
            Ok(Stored::NoTable) => {
                give_to_log(&records);
                workers::release(database, &taken);
                return Ok(true);
            }
            Err(failure) if failure.by_data && self.cautious => {
                self.lose(&records, &failure);
                workers::release(self.database, &taken);
            }
            Err(failure) => return Err(failure),
        }
        self.sweep()?;
        Ok(true)
    }

    /// Takes in the next chunk of the spool.
    fn take_in(&mut self) -> Result<bool, Failure> {
        let Some(mut spool) = self.open()? else { return Ok(false) };
        let birth = Batch { origin: spool.file.birth, drain: ledger::FILE, number: 0 };
        let end = spool.contents.records.len().min(spool.done + if self.cautious { 1 } else { CHUNK });
        let chunk = spool.contents.records.get(spool.done..end).unwrap_or(&[]);
        let damages = if spool.done == 0 { spool.contents.damages } else { 0 };
        days::make_room(chunk);
        let outcome = storing(
            || {
                let stored = store(chunk);
                if stored == Stored::Yes {
                    ledger::note(Batch { number: end as i64, ..birth });
                    ledger::note_damage(damages, spool.contents.damaged);
                }
                stored
            },
            |_| {},
        );
        match outcome {
            Ok(Stored::Yes) => {}
            Ok(Stored::NoTable) => give_to_log(chunk),
            Err(failure) if failure.by_data && self.cautious => {
                self.lose(chunk, &failure);
                transaction(|| ledger::note(Batch { number: end as i64, ..birth }), |()| {})?;
            }
            Err(failure) => return Err(failure),
        }
        if damages > 0 {
            let bytes = spool.contents.damaged;
            pgrx::log!("holdfast: the spool is damaged in {damages} places: {bytes} bytes of it can't be read");
        }
        spool.done = end;
        if spool.done < spool.contents.records.len() {
            self.file = Some(spool);
        } else {
            spool.file.remove().map_err(|error| Failure::system("remove", &error))?;
            memory::broadcast();
        }
        Ok(true)
    }

    /// The spool that is being taken in, or the next one.
    fn open(&mut self) -> Result<Option<Spool>, Failure> {
        if let Some(spool) = self.file.take() {
            return Ok(Some(spool));
        }
        let Some(file) = spool::take(self.database).map_err(|error| Failure::system("find", &error))? else {
            return Ok(None);
        };
        let bytes = file.read().map_err(|error| Failure::system("read", &error))?;
        let contents = format::decode(&bytes);
        let birth = Batch { origin: file.birth, drain: ledger::FILE, number: 0 };
        let done = transaction(|| ledger::progress(birth), |_| {})?;
        Ok(Some(Spool { file, contents, done: usize::try_from(done).unwrap_or(0) }))
    }

    /// Writes down what nothing could take.
    fn note_loss(&mut self) -> Result<bool, Failure> {
        let Some(loss) = workers::loss(self.database) else { return Ok(false) };
        transaction(|| ledger::note_loss(&loss), |()| workers::loss_noted(&loss))?;
        Ok(true)
    }

    /// Events that their database refuses, for what they are.
    fn lose(&self, records: &[Record], failure: &Failure) {
        give_to_log(records);
        let events = records.iter().map(|r| r.occurrences).sum();
        queue::lose(self.database, events, memory::now());
        pgrx::log!("holdfast: event that can't be stored: {}", failure.message);
    }

    fn sweep(&mut self) -> Result<(), Failure> {
        if self.swept || spool::is_used(self.database) {
            return Ok(());
        }
        self.swept = true;
        transaction(ledger::sweep, |()| {})
    }
}

impl Failure {
    fn system(what: &str, error: &std::io::Error) -> Failure {
        Failure { message: format!("the spool: could not {what} it: {error}"), by_data: false }
    }
}

/// Runs `work` in a transaction of its own, and `committed` right behind the commit, uninterrupted: what is committed is
/// known to be, so that it isn't committed again.
pub(super) fn transaction<R>(work: impl FnOnce() -> R, committed: impl FnOnce(&R)) -> Result<R, Failure> {
    let run = || {
        // SAFETY: a transaction as `exec_simple_query` runs one. An error leaves interrupts as Postgres's recovery sets
        // them.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            pg_sys::InterruptHoldoffCount += 1;
            pg_sys::CommitTransactionCommand();
            committed(&result);
            pg_sys::InterruptHoldoffCount -= 1;
            pg_sys::pgstat_report_stat(false);
            Ok(result)
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(run))
        .catch_others(|error| {
            // SAFETY: as the main loop of every Postgres process does after an error.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Err(failure(&error))
        })
        .execute()
}

/// A transaction that stores events. If it fails because the extension is being dropped, it hasn't failed.
fn storing(work: impl FnOnce() -> Stored, committed: impl FnOnce(&Stored)) -> Result<Stored, Failure> {
    match transaction(work, committed) {
        Err(failure) if transaction(ledger::exists, |_| {})? => Err(failure),
        Err(_) => Ok(Stored::NoTable),
        stored => stored,
    }
}

fn failure(error: &CaughtError) -> Failure {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
        return Failure { message: "an internal error".into(), by_data: false };
    };
    // Data exceptions, broken constraints, and limits that a value can exceed.
    const BY_DATA: [&str; 3] = ["22", "23", "54"];
    let sqlstate = report::decode_sqlstate(report.sql_error_code() as i32);
    Failure {
        message: format!("{} ({sqlstate})", report.message()),
        by_data: BY_DATA.iter().any(|class| sqlstate.starts_with(class)),
    }
}

fn record(taken: &Taken) -> Option<Record> {
    let Ok(event) = Event::decode(&taken.bytes) else {
        pgrx::log!("holdfast: event that can't be read: {}", String::from_utf8_lossy(&taken.bytes));
        return None;
    };
    Some(Record { event, occurrences: taken.occurrences, last_at: taken.last_at, doubt: taken.doubt })
}

/// Writes events to their table, but for those that an earlier transaction has committed.
fn store(records: &[Record]) -> Stored {
    if !ledger::exists() {
        return Stored::NoTable;
    }
    let doubts: Vec<Batch> = records.iter().filter_map(|r| r.doubt).collect();
    let committed: HashMap<(i64, i64), i64> = ledger::committed(&doubts);
    let is_new = |r: &&Record| {
        r.doubt.is_none_or(|d| committed.get(&(d.origin, d.drain)).is_none_or(|number| *number < d.number))
    };
    let rows: Vec<Row> = records.iter().filter(is_new).cloned().map(Row::from).collect();
    if rows.is_empty() || store::store(&rows) { Stored::Yes } else { Stored::NoTable }
}

/// The log is the last place for what has no table.
fn give_to_log(records: &[Record]) {
    for record in records {
        let event = serde_json::to_string(record).unwrap_or_default();
        pgrx::log!("holdfast: event that its database could not take: {event}");
    }
}
