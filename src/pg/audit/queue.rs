//! The queue in shared memory, as a session sees it: it puts an event into a slot and waits until the event is safe, which
//! is when a drain worker has committed it. If that takes too long, the session writes the slot to the spool itself.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::memory::{self, Change, Complaint, DrainState, Loss, Slot, SlotState, Slots, Uninterrupted};
use super::spool::{self, Appended, SpoolError};
use crate::pg::gucs;
use crate::policy::events::Event;
use crate::policy::spool::{Batch, Record};

/// How long there may be no launcher before nobody waits for it, in microseconds. It comes back a second after its end.
const WITHOUT_LAUNCHER: i64 = 2_000_000;

/// When an event joins one that is alike and still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Whenever there is one.
    Always,
    /// When there is no room for one more.
    WhenFull,
}

/// Where an event lies: its slot, and the slot's generation while it is there.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    generation: u64,
}

enum Put {
    Done(Place),
    Full,
}

/// Queues an event and waits until it is safe: committed, or in the spool. If neither can be had, it is kept in memory or,
/// if there is no room, counted as lost; the log tells.
pub fn put_and_wait(bytes: &[u8], key: u64) {
    let deadline = deadline();
    let mut put = try_put(bytes, key, Join::WhenFull);
    while let Some(Put::Full) = put {
        if in_trouble() || !memory::wait_until(Change::Room, deadline, || has_room() || in_trouble()) {
            break;
        }
        put = try_put(bytes, key, Join::WhenFull);
    }
    match put {
        None => complain(Complaint::Lost, "there is no shared memory", bytes),
        Some(Put::Full) => spool_unqueued(bytes, Sync::Now),
        Some(Put::Done(place)) => wait_until_safe(place, deadline, bytes),
    }
}

/// Queues an event, or adds it to one that is alike and still waits. Never waits itself.
pub fn put(bytes: &[u8], key: u64) {
    match try_put(bytes, key, Join::Always) {
        None => complain(Complaint::Lost, "there is no shared memory", bytes),
        Some(Put::Full) => spool_unqueued(bytes, Sync::Later),
        // Once the launcher was told to stop, nobody takes the slot.
        Some(Put::Done(place)) if memory::locked(|shared, _| shared.stopping) == Some(true) => {
            if let Spooled::Not(error) = spool_slot(place) {
                pgrx::log!("holdfast: event lost as the server stops: {error}: {}", String::from_utf8_lossy(bytes));
            }
        }
        Some(Put::Done(_)) => {}
    }
}

/// Waits until every event of this database that is queued or spooled now is committed.
///
/// Returns how many there were in the queue; an event that stands for several counts once.
///
/// # Errors
/// How many are still queued after `holdfast.audit_timeout`; 0 when only the spool is left.
pub fn flush() -> Result<i64, i64> {
    let database = my_database();
    let mut waiting = Vec::with_capacity(gucs::audit_queue_size());
    let launcher = memory::locked(|shared, slots| {
        let used = slots.heads.iter().enumerate().filter(|(_, s)| s.state != SlotState::Free && s.database == database);
        waiting.extend(used.map(|(slot, head)| place(slot, head)));
        if let Some(drain) = shared.drain(database) {
            drain.retry_at = 0;
        }
        shared.launcher
    });
    let deadline = deadline();
    if let Some(launcher) = launcher {
        memory::wake(launcher);
    }
    let is_late = |place: &Place| !memory::wait_until(Change::Of(place.slot), deadline, || is_safe(*place));
    let late = waiting.iter().filter(|place| is_late(place)).count();
    if late > 0 {
        return Err(late as i64);
    }
    if memory::wait_until(Change::Room, deadline, || spool::is_used(database).is_ok_and(|used| !used)) {
        Ok(waiting.len() as i64)
    } else {
        Err(0)
    }
}

fn my_database() -> pg_sys::Oid {
    // SAFETY: a plain read.
    unsafe { pg_sys::MyDatabaseId }
}

fn deadline() -> i64 {
    memory::uptime() + i64::from(gucs::audit_timeout()) * 1_000
}

fn place(slot: usize, head: &Slot) -> Place {
    Place { slot, generation: head.generation.load(Ordering::Relaxed) }
}

fn is_safe(place: Place) -> bool {
    memory::generation(place.slot) != place.generation
}

fn has_room() -> bool {
    memory::locked(|shared, slots| slots.has_room(shared)).unwrap_or(false)
}

/// Whether it is known that no worker will take this database's events soon, so that waiting is idle.
fn in_trouble() -> bool {
    let (database, now) = (my_database(), memory::uptime());
    let patience = i64::from(gucs::audit_timeout()) * 1_000;
    memory::locked(|shared, _| {
        if shared.stopping || shared.launcher.is_null() && now - shared.launcher_gone_at > WITHOUT_LAUNCHER {
            return true;
        }
        shared.drain(database).is_some_and(|drain| match drain.state {
            DrainState::Failing => true,
            _ => drain.busy_since != 0 && now - drain.busy_since > patience,
        })
    })
    .unwrap_or(true)
}

fn try_put(bytes: &[u8], key: u64, join: Join) -> Option<Put> {
    let (database, now) = (my_database(), memory::now());
    let (put, latch) = memory::locked(|shared, slots| {
        let drain = shared.drain(database).map_or(std::ptr::null_mut(), |d| d.latch);
        let latch = if drain.is_null() { shared.launcher } else { drain };
        if join == Join::Always || !slots.has_room(shared) {
            // The last one of its key is found in one step or not at all: events that could be one and aren't do no harm.
            let n = *shared.hint(key) as usize;
            let alike = |s: &&mut Slot| s.state == SlotState::Pending && s.database == database && s.key == key;
            if let Some(head) = slots.heads.get_mut(n).filter(alike) {
                head.occurrences += 1;
                head.last_at = now;
                return (Put::Done(place(n, head)), std::ptr::null_mut());
            }
        }
        let Some(n) = slots.allocate(shared) else { return (Put::Full, latch) };
        *shared.hint(key) = n as u32;
        shared.sequence += 1;
        let sequence = shared.sequence;
        slots.write(n, bytes);
        let Some(head) = slots.heads.get_mut(n) else { return (Put::Full, latch) };
        head.state = SlotState::Pending;
        head.database = database;
        head.sequence = sequence;
        head.key = key;
        head.occurrences = 1;
        (head.put_at, head.last_at) = (now, now);
        head.batch = Batch { origin: 0, drain: 0, number: 0 };
        (Put::Done(place(n, head)), latch)
    })?;
    memory::wake(latch);
    Some(put)
}

fn wait_until_safe(place: Place, deadline: i64, bytes: &[u8]) {
    let change = Change::Of(place.slot);
    memory::wait_until(change, deadline, || is_safe(place) || in_trouble());
    loop {
        match spool_slot(place) {
            Spooled::Done => return,
            Spooled::Not(error) => return complain(Complaint::Kept, &error.to_string(), bytes),
            // Writing takes the disk's time, and whoever writes tells how it went.
            Spooled::ByAnother => {
                memory::wait_until(change, i64::MAX, || is_safe(place) || !is_being_spooled(place));
            }
        }
    }
}

fn is_being_spooled(place: Place) -> bool {
    let state = memory::locked(|_, slots| slots.heads.get(place.slot).map(|head| head.state));
    matches!(state, Some(Some(SlotState::Spooling | SlotState::TakenSpooling)))
}

/// What became of an attempt to bring an event to the spool.
enum Spooled {
    /// It is there, or was committed meanwhile.
    Done,
    /// Somebody else is at it.
    ByAnother,
    /// It couldn't be written, and waits on in its slot.
    Not(SpoolError),
}

fn spool_slot(place: Place) -> Spooled {
    // From the claim on others wait for this process to say how it went.
    let uninterrupted = Uninterrupted::begin();
    let claimed = memory::locked(|_, slots| {
        let Some(head) = slots.heads.get(place.slot) else { return Err(Spooled::Done) };
        if head.generation.load(Ordering::Relaxed) != place.generation {
            return Err(Spooled::Done);
        }
        claim(slots, place.slot).ok_or(Spooled::ByAnother)
    });
    let outcome = match claimed {
        None => return Spooled::Done,
        Some(Err(outcome)) => return outcome,
        Some(Ok(claim)) => write(claim),
    };
    drop(uninterrupted);
    match outcome {
        Ok(()) => {
            complain(Complaint::Spooled, "no worker could commit it in time", &[]);
            Spooled::Done
        }
        Err(error) => Spooled::Not(error),
    }
}

/// A slot that this process writes to the spool.
pub struct Claim {
    slot: usize,
    sequence: u64,
    database: pg_sys::Oid,
    bytes: Vec<u8>,
    occurrences: i64,
    last_at: i64,
    doubt: Option<Batch>,
}

/// Claims a slot for the spool. None if somebody else has it, or if it needs none.
pub fn claim(slots: &mut Slots, slot: usize) -> Option<Claim> {
    let bytes = slots.read(slot).to_vec();
    let head = slots.heads.get_mut(slot)?;
    let taken = match head.state {
        SlotState::Pending => false,
        SlotState::Taken => true,
        _ => return None,
    };
    head.state = if taken { SlotState::TakenSpooling } else { SlotState::Spooling };
    // A slot that a worker left behind is pending again, and may have been committed all the same.
    let doubt = (head.batch.number != 0).then_some(head.batch);
    Some(Claim {
        slot,
        sequence: head.sequence,
        database: head.database,
        bytes,
        occurrences: head.occurrences,
        last_at: head.last_at,
        doubt,
    })
}

impl Claim {
    /// Appends the event to its database's spool.
    pub fn append(&self) -> Result<Appended, SpoolError> {
        append(self.database, &self.bytes, self.occurrences, self.last_at, self.doubt)
    }

    /// The slot is free if the event is in the spool, and as before otherwise.
    pub fn settle(self, in_spool: bool) {
        let launcher = memory::locked(|shared, slots| {
            if let Some(head) = slots.heads.get_mut(self.slot).filter(|head| head.sequence == self.sequence) {
                match (head.state, in_spool) {
                    (SlotState::Spooling, true) => {
                        head.settle();
                        slots.release(shared, self.slot);
                    }
                    (SlotState::TakenSpooling, true) => {
                        head.settle();
                        head.state = SlotState::TakenSpooled;
                    }
                    (SlotState::Spooling, false) => head.state = SlotState::Pending,
                    (SlotState::TakenSpooling, false) => head.state = SlotState::Taken,
                    _ => {}
                }
            }
            shared.launcher
        });
        memory::tell(std::iter::once(self.slot));
        memory::wake(launcher.unwrap_or(std::ptr::null_mut()));
    }
}

fn write(claim: Claim) -> Result<(), SpoolError> {
    let result = claim.append().map(Appended::sync);
    claim.settle(result.is_ok());
    result
}

/// When what is appended to the spool must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Now,
    /// Whenever the system gets to it.
    Later,
}

/// The last resort of an event that found no slot.
fn spool_unqueued(bytes: &[u8], sync: Sync) {
    let (database, now) = (my_database(), memory::now());
    match append(database, bytes, 1, now, None) {
        Ok(appended) => {
            if sync == Sync::Now {
                appended.sync();
            }
            complain(Complaint::Spooled, "the queue is full", &[]);
        }
        Err(error) => {
            lose(database, 1, now);
            complain(Complaint::Lost, &format!("the queue is full and {error}"), bytes);
        }
    }
}

fn append(
    database: pg_sys::Oid,
    bytes: &[u8],
    occurrences: i64,
    last_at: i64,
    doubt: Option<Batch>,
) -> Result<Appended, SpoolError> {
    let event = Event::decode(bytes).map_err(SpoolError::Unreadable)?;
    let record = Record { event, occurrences, last_at, doubt };
    spool::append(database, &record.encode().map_err(SpoolError::Unreadable)?)
}

/// Counts events that nothing could take, until a worker writes the loss down.
pub fn lose(database: pg_sys::Oid, events: i64, now: i64) {
    memory::locked(|shared, _| {
        shared.lost += events;
        let known = shared.losses.iter().position(|l| l.events > 0 && l.database == database);
        let n = known.or_else(|| shared.losses.iter().position(|l| l.events == 0));
        if let Some(loss) = n.and_then(|n| shared.losses.get_mut(n)) {
            let first_at = if loss.events > 0 { loss.first_at } else { now };
            *loss = Loss { database, events: loss.events + events, first_at, last_at: now };
        }
    });
}

/// One line a minute of each kind; the event itself where the log is the last place where it can be found.
pub fn complain(complaint: Complaint, reason: &str, event: &[u8]) {
    let now = memory::uptime();
    let Some(Some(unsaid)) = memory::locked(|shared, _| shared.may_complain(complaint, now)) else {
        if !memory::is_there() {
            pgrx::log!("holdfast: event lost: {reason}: {}", String::from_utf8_lossy(event));
        }
        return;
    };
    let what = match complaint {
        Complaint::Spooled => "event written to the spool",
        Complaint::Kept => "event kept in memory only",
        Complaint::Lost => "event lost",
        Complaint::Failed => "events could not be stored",
    };
    let since = if unsaid == 0 { String::new() } else { format!(" (and {unsaid} more since the last such line)") };
    let event = if event.is_empty() { String::new() } else { format!(": {}", String::from_utf8_lossy(event)) };
    pgrx::log!("holdfast: {what}: {reason}{since}{event}");
}
