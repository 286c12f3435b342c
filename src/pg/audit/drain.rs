//! The worker that writes a database's events into its table: one commit for all that wait.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};

use super::memory::{self, Complaint, Uninterrupted};
use super::spool::{self, TakenFile};
use super::store::{self, Row};
use super::workers::{self, Doubt, Taken};
use super::{days, ledger, queue, retention, schedule, watch};
use crate::pg::{compat, locks, report, session};
use crate::policy::events::Event;
use crate::policy::spool::{self as format, Batch, Contents, Record};

/// How long a worker stays without an event. Short, because a connected worker blocks DROP DATABASE, which waits 5 s for
/// others to leave; long enough that a burst of refusals pays for one start.
const LINGER: Duration = Duration::from_millis(500);

/// How many records of the spool are committed at once, so that refusals that come meanwhile needn't wait for long.
const CHUNK: usize = 500;

/// After how many successes a worker that began cautiously stops being so.
const TRUST: u32 = 20;

/// How long a worker that is in the way of a command on its database stays away, in microseconds.
const AWAY: i64 = 1_000_000;

/// What the launcher tells a worker: which one it is, and whether it follows one that failed. Then it stores each event by
/// itself at first, so that one that can't be stored stands alone.
pub(super) fn instructions(serial: i64, cautious: bool) -> String {
    format!("{serial} {}", if cautious { "cautious" } else { "" })
}

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
    let (serial, cautious) = BackgroundWorker::get_extra().split_once(' ').unwrap_or_default();
    let identity = workers::Worker { database, serial: serial.parse().unwrap_or(0) };
    // SAFETY: this process's own latch.
    let Some(batch) = workers::drain_started(identity, unsafe { pg_sys::MyLatch }) else { return };
    let caution = if cautious.is_empty() { 0 } else { TRUST };
    Worker { identity, batch, caution, swept: false, file: None }.run();
}

/// Reads the settings again, if the server was told to.
pub(super) fn reload() {
    if BackgroundWorker::sighup_received() {
        // SAFETY: outside of any transaction.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
}

struct Worker {
    identity: workers::Worker,
    /// The transaction that ran last.
    batch: Batch,
    /// How many events must still be stored by themselves.
    caution: u32,
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
    /// Its table can't take the event for what it is.
    Rejected,
}

impl Worker {
    fn run(&mut self) {
        let mut last = Instant::now();
        loop {
            loop {
                match self.work() {
                    Ok(true) => last = Instant::now(),
                    Ok(false) => break,
                    Err(Stop::Failure(failure)) => {
                        workers::drain_sound(self.identity, false);
                        queue::complain(Complaint::Failed, &failure.message, &[]);
                        return;
                    }
                    Err(Stop::Elsewhere) => return,
                }
            }
            // Refusals that come meanwhile don't wait for longer than for anything else that it does.
            if !workers::drain_busy(self.identity, true) {
                return;
            }
            let more = watch::step(self.identity.database) || retention::step();
            workers::drain_busy(self.identity, false);
            if more {
                continue;
            }
            let left = LINGER.saturating_sub(last.elapsed());
            if left.is_zero() && workers::drain_may_stop(self.identity) {
                return;
            }
            // False when the postmaster is gone.
            if !BackgroundWorker::wait_latch(Some(left.max(Duration::from_millis(1)))) {
                return;
            }
            reload();
        }
    }

    /// Does a piece of each kind of work, refusals first; whether there was any.
    fn work(&mut self) -> Result<bool, Stop> {
        Ok(self.resolve_doubts()? | self.drain()? | self.take_in()? | self.note_loss()?)
    }

    /// Finds out what became of events that an earlier worker left behind. What it has committed, this transaction's commit
    /// brings to the standby as well.
    fn resolve_doubts(&mut self) -> Result<bool, Stop> {
        let doubts = workers::doubts(self.identity);
        if doubts.is_empty() {
            return Ok(false);
        }
        self.batch.number += 1;
        let (batch, batches) = (self.batch, doubts.iter().map(|d| d.batch).collect::<Vec<_>>());
        let committed = self.transaction(
            || {
                if !ledger::exists() {
                    return HashMap::new();
                }
                ledger::note(batch);
                ledger::committed(&batches)
            },
            |_| {},
        )?;
        let known = |doubt: &Doubt| is_committed(&committed, doubt.batch);
        let resolved: Vec<_> = doubts.into_iter().map(|doubt| (known(&doubt), doubt)).collect();
        workers::resolve(&resolved);
        Ok(true)
    }

    /// Commits the pending events.
    fn drain(&mut self) -> Result<bool, Stop> {
        self.batch.number += 1;
        let limit = if self.caution > 0 { 1 } else { usize::MAX };
        let taken = workers::take(self.identity, limit, self.batch);
        if taken.is_empty() {
            return Ok(false);
        }
        let records: Vec<Record> = taken.iter().filter_map(record).collect();
        let (batch, worker) = (self.batch, self.identity);
        workers::drain_busy(worker, true);
        days::make_room(&records);
        let stored = self.storing(
            &records,
            || ledger::note(batch),
            |stored| {
                if *stored == Stored::Yes && !was_cut_short() {
                    workers::release(worker, &taken);
                }
            },
        )?;
        if stored != Stored::Yes {
            workers::release(self.identity, &taken);
        }
        self.sweep()?;
        Ok(true)
    }

    /// Takes in the next chunk of the spool.
    fn take_in(&mut self) -> Result<bool, Stop> {
        let Some(mut spool) = self.open()? else { return Ok(false) };
        self.give_way()?;
        let birth = Batch { origin: spool.file.birth, drain: ledger::FILE, number: 0 };
        let end = spool.contents.records.len().min(spool.done + if self.caution > 0 { 1 } else { CHUNK });
        let chunk = spool.contents.records.get(spool.done..end).unwrap_or(&[]);
        let (damages, damaged) =
            if spool.done == 0 { (spool.contents.damages, spool.contents.damaged) } else { (0, 0) };
        workers::drain_busy(self.identity, true);
        days::make_room(chunk);
        let note = || {
            ledger::note(Batch { number: end as i64, ..birth });
            ledger::note_damage(damages, damaged);
        };
        if self.storing(chunk, note, |_| {})? == Stored::Rejected {
            self.transaction(|| ledger::note(Batch { number: end as i64, ..birth }), |()| {})?;
        }
        if damages > 0 {
            pgrx::log!("holdfast: the spool is damaged in {damages} places: {damaged} bytes of it can't be read");
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
    fn open(&mut self) -> Result<Option<Spool>, Stop> {
        if let Some(spool) = self.file.take() {
            return Ok(Some(spool));
        }
        let database = self.identity.database;
        let Some(file) = spool::take(database).map_err(|error| Failure::system("find", &error))? else {
            return Ok(None);
        };
        let bytes = match file.read() {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::PermissionDenied) => {
                pgrx::log!("holdfast: a file of the spool can't be read and is set aside: {error}");
                file.set_aside().map_err(|error| Failure::system("set aside", &error))?;
                return Ok(None);
            }
            Err(error) => return Err(Failure::system("read", &error).into()),
        };
        let contents = format::decode(&bytes);
        let birth = Batch { origin: file.birth, drain: ledger::FILE, number: 0 };
        let done = self.transaction(|| if ledger::exists() { ledger::progress(birth) } else { 0 }, |_| {})?;
        Ok(Some(Spool { file, contents, done: usize::try_from(done).unwrap_or(0) }))
    }

    /// Writes down what nothing could take.
    fn note_loss(&mut self) -> Result<bool, Stop> {
        let Some(loss) = workers::loss(self.identity.database) else { return Ok(false) };
        let note = || {
            if ledger::exists() {
                ledger::note_loss(&loss);
            }
        };
        self.transaction(note, |()| workers::loss_noted(&loss))?;
        Ok(true)
    }

    fn sweep(&mut self) -> Result<(), Stop> {
        if self.swept || spool::is_used(self.identity.database).unwrap_or(true) {
            return Ok(());
        }
        self.swept = true;
        let sweep = || {
            if ledger::exists() {
                ledger::sweep();
            }
        };
        self.transaction(sweep, |()| {})
    }

    /// A transaction that stores events, and does `along` if it does. If it fails because the extension is being dropped, it
    /// hasn't failed; if it fails because of the only event it has, the event is lost.
    fn storing(
        &mut self,
        records: &[Record],
        along: impl FnOnce(),
        committed: impl FnOnce(&Stored),
    ) -> Result<Stored, Stop> {
        let work = || {
            let stored = store(records);
            if stored == Stored::Yes {
                along();
            }
            stored
        };
        let stored = match self.transaction(work, committed) {
            Err(Stop::Failure(failure)) if failure.by_data && self.caution > 0 => {
                let events = records.iter().map(|r| r.occurrences).sum();
                queue::lose(self.identity.database, events, memory::now());
                pgrx::log!("holdfast: event that can't be stored: {}", failure.message);
                Stored::Rejected
            }
            Err(Stop::Failure(failure)) if self.transaction(ledger::exists, |_| {})? => return Err(failure.into()),
            Err(Stop::Failure(_)) => Stored::NoTable,
            stored => stored?,
        };
        schedule::hurry(self.identity.database);
        match stored {
            Stored::Yes => self.caution = self.caution.saturating_sub(1),
            Stored::NoTable | Stored::Rejected => give_to_log(records),
        }
        Ok(stored)
    }

    /// Leaves the database alone for a while if somebody wants it for himself: DROP, RENAME or a copy wait for five seconds
    /// only until everybody is out, and a large spool takes longer.
    fn give_way(&self) -> Result<(), Stop> {
        let database = self.identity.database;
        if self.transaction(|| locks::may_use_database(database), |_| {})? {
            return Ok(());
        }
        workers::drain_gives_way(self.identity, AWAY);
        Err(Stop::Elsewhere)
    }

    /// Runs `work` in a transaction of its own, unless somebody else is this database's worker by now.
    fn transaction<R>(&self, work: impl FnOnce() -> R, committed: impl FnOnce(&R)) -> Result<R, Stop> {
        if !workers::drain_busy(self.identity, true) {
            return Err(Stop::Elsewhere);
        }
        let outcome = transaction(work, committed);
        workers::drain_busy(self.identity, false);
        match outcome {
            // It is committed here, and not known to be where it should be as well. The next worker finds it in the ledger,
            // and its own commit waits for both.
            Ok(_) if was_cut_short() => {
                // It hasn't failed: who waits goes on waiting, for the next one.
                workers::drain_sound(self.identity, true);
                Err(Stop::Elsewhere)
            }
            Ok(result) => {
                workers::drain_sound(self.identity, true);
                Ok(result)
            }
            Err(failure) => Err(Stop::Failure(failure)),
        }
    }
}

/// Why a worker stops.
enum Stop {
    /// It can't store what it has.
    Failure(Failure),
    /// It isn't its turn any more.
    Elsewhere,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}

/// Whether a commit didn't wait for its standby to the end: somebody wants this process to stop, which Postgres then lets a
/// committed transaction do with no more than a warning.
fn was_cut_short() -> bool {
    // SAFETY: reads of flags that signal handlers set.
    unsafe {
        (pg_sys::ProcDiePending != 0 || pg_sys::QueryCancelPending != 0)
            && pg_sys::synchronous_commit > pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_LOCAL_FLUSH as i32
    }
}

impl Failure {
    fn system(what: &str, error: &std::io::Error) -> Failure {
        Failure { message: format!("the spool: could not {what} it: {error}"), by_data: false }
    }
}

/// A refusal must not be shown before its event is safe, so this transaction's commit is waited for even where the database
/// doesn't.
fn commit_durably() {
    // SAFETY: a setting of the transaction that is open.
    unsafe {
        if pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
            pg_sys::set_config_option(
                c"synchronous_commit".as_ptr(),
                c"local".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_LOCAL,
                true,
                0,
                false,
            );
        }
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
            commit_durably();
            // As the extension's owner: whatever hangs on its tables runs with no more than that.
            let result = session::operate(work);
            pg_sys::PopActiveSnapshot();
            let uninterrupted = Uninterrupted::begin();
            pg_sys::CommitTransactionCommand();
            committed(&result);
            drop(uninterrupted);
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

fn failure(error: &CaughtError) -> Failure {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => {
            return Failure { message: format!("an internal error: {}", ereport.message()), by_data: false };
        }
    };
    // Data exceptions, and limits that a value can exceed. A broken constraint is the table's fault.
    const BY_DATA: [&str; 2] = ["22", "54"];
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
    Some(Record { event, occurrences: taken.occurrences, last_at: taken.last_at, doubt: None })
}

fn is_committed(last: &HashMap<(i64, i64), i64>, batch: Batch) -> bool {
    last.get(&(batch.origin, batch.drain)).is_some_and(|number| *number >= batch.number)
}

/// Writes events to their table, but for those that an earlier transaction has committed.
fn store(records: &[Record]) -> Stored {
    if !ledger::exists() {
        return Stored::NoTable;
    }
    let doubts: Vec<Batch> = records.iter().filter_map(|r| r.doubt).collect();
    let committed: HashMap<(i64, i64), i64> = ledger::committed(&doubts);
    let is_new = |r: &&Record| r.doubt.is_none_or(|doubt| !is_committed(&committed, doubt));
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
