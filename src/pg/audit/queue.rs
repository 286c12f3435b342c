//! The queue in shared memory between the sessions and the worker.
//!
//! `Shared::lock`, an LWLock, protects everything in `Shared` but `changed`, which has a lock of its own. It is never held
//! across a call that can raise an error. A slot is *free*, *pending* (a session filled it) or *taken* (a drain worker is
//! committing it); it becomes free only after that commit, and `generation` counts how often it did, so that whoever waits
//! for an event waits for its slot's generation to move on.
//!
//! The memory is laid out again at a crash restart: events that no worker had committed are gone with the sessions that
//! waited for them, none of which had seen its refusal yet.

use std::fmt;
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use crate::pg::gucs;

/// How many bytes of an encoded event a slot has room for.
pub const ROOM: usize = 4_096 - 64;

/// How many databases can be drained at once.
pub const DRAINS: usize = 16;

const NAME: &std::ffi::CStr = c"holdfast";

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum SlotState {
    Free,
    Pending,
    Taken,
}

#[repr(C)]
struct Slot {
    state: SlotState,
    database: pg_sys::Oid,
    generation: u64,
    sequence: u64,
    /// Of observed events; 0 = this event stands alone.
    coalescing_key: u64,
    occurrences: u64,
    last_at: i64,
    length: usize,
    bytes: [u8; ROOM],
}

/// A worker that drains one database.
#[repr(C)]
#[derive(Clone, Copy)]
struct Drain {
    /// InvalidOid = this entry is unused.
    database: pg_sys::Oid,
    /// The worker's process; 0 until it runs.
    pid: i32,
    /// The worker's latch; null until it runs.
    latch: *mut pg_sys::Latch,
    /// Whether it has committed events: however it ends, it wasn't for what they are.
    stored: bool,
}

impl Drain {
    const UNUSED: Drain = Drain { database: pg_sys::InvalidOid, pid: 0, latch: ptr::null_mut(), stored: false };
}

#[repr(C)]
struct Shared {
    lock: *mut pg_sys::LWLock,
    changed: pg_sys::ConditionVariable,
    /// Null while no launcher runs.
    launcher: *mut pg_sys::Latch,
    drains: [Drain; DRAINS],
    /// When this memory was laid out: with a sequence number it names an event for ever.
    origin: i64,
    sequence: u64,
    capacity: usize,
    // `capacity` slots follow.
}

/// Why an event was not committed in time.
#[derive(Clone, Copy, Debug)]
pub enum NotStored {
    /// Every slot stayed in use.
    Full,
    /// It is queued, but no commit came within the time.
    Late,
    /// The server is a standby.
    Standby,
    /// The library's shared memory isn't there.
    NoWorker,
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotStored::Full => "not stored, the queue is full",
            NotStored::Late => "still queued after holdfast.audit_timeout",
            NotStored::Standby => "not stored, this is a standby",
            NotStored::NoWorker => "not stored, there is no shared memory",
        })
    }
}

static NEXT_REQUEST: OnceCell<pg_sys::shmem_request_hook_type> = OnceCell::new();
static NEXT_STARTUP: OnceCell<pg_sys::shmem_startup_hook_type> = OnceCell::new();

thread_local! {
    static SHARED: std::cell::Cell<*mut Shared> = const { std::cell::Cell::new(ptr::null_mut()) };
}

pub(super) fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        let _ = NEXT_REQUEST.set(pg_sys::shmem_request_hook);
        let _ = NEXT_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_request_hook = Some(request);
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

fn size() -> usize {
    size_of::<Shared>() + gucs::audit_queue_size() * size_of::<Slot>()
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: this hook is the place for such requests.
    unsafe {
        if let Some(Some(next)) = NEXT_REQUEST.get() {
            next();
        }
        pg_sys::RequestAddinShmemSpace(size());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

/// Runs at start-up and again after a crash restart.
#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the memory has the size asked for. It is written under Postgres's own lock before any session runs.
    unsafe {
        if let Some(Some(next)) = NEXT_STARTUP.get() {
            next();
        }
        let main_lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(main_lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut found = false;
        let shared = pg_sys::ShmemInitStruct(NAME.as_ptr(), size(), &mut found).cast::<Shared>();
        if !found {
            let capacity = gucs::audit_queue_size();
            ptr::write_bytes(shared.cast::<u8>(), 0, size());
            (*shared).lock = &raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock;
            (*shared).origin = pg_sys::GetCurrentTimestamp();
            (*shared).capacity = capacity;
            pg_sys::ConditionVariableInit(&raw mut (*shared).changed);
        }
        SHARED.set(shared);
        pg_sys::LWLockRelease(main_lock);
    }
}

/// `AddinShmemInitLock` of storage/lwlocknames.h, the same in all supported versions.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

fn shared() -> Option<*mut Shared> {
    let shared = SHARED.get();
    (!shared.is_null()).then_some(shared)
}

/// Runs `work` on the slots with the lock held. `work` must not call anything that can raise an error.
fn locked<R>(shared: *mut Shared, work: impl FnOnce(&mut Shared, &mut [Slot]) -> R) -> R {
    // SAFETY: shared memory of this layout; the lock makes the references unique. `changed` is only ever passed on by
    // address.
    unsafe {
        pg_sys::LWLockAcquire((*shared).lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let slots = std::slice::from_raw_parts_mut(shared.add(1).cast::<Slot>(), (*shared).capacity);
        let result = work(&mut *shared, slots);
        pg_sys::LWLockRelease((*shared).lock);
        result
    }
}

/// Where an event lies: its slot, and the slot's generation while it is there.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    generation: u64,
}

enum Put {
    Done(Place),
    Coalesced,
    Full,
}

/// Queues an event and waits at most `timeout` milliseconds until it is committed.
pub fn put_and_wait(bytes: &[u8], timeout: i32) -> Result<(), NotStored> {
    let shared = shared().ok_or(NotStored::NoWorker)?;
    let deadline = deadline(timeout);
    match put_until(shared, bytes, 0, deadline)? {
        Some(place) if !wait_until_free(shared, place, deadline) => Err(NotStored::Late),
        _ => Ok(()),
    }
}

/// Queues an event, or adds it to one that is alike and still waits. Never waits itself.
pub fn put(bytes: &[u8], coalescing_key: u64) -> Result<(), NotStored> {
    let shared = shared().ok_or(NotStored::NoWorker)?;
    match try_put(shared, bytes, coalescing_key)? {
        Put::Full => Err(NotStored::Full),
        Put::Done(_) | Put::Coalesced => Ok(()),
    }
}

/// Waits for this database's queued events; see [`super::flush`].
pub fn flush(timeout: i32) -> Result<i64, i64> {
    let Some(shared) = shared() else { return Ok(0) };
    // SAFETY: a plain read.
    let database = unsafe { pg_sys::MyDatabaseId };
    let mut waiting = Vec::with_capacity(gucs::audit_queue_size());
    locked(shared, |_, slots| {
        let used = slots.iter().enumerate().filter(|(_, s)| s.state != SlotState::Free && s.database == database);
        waiting.extend(used.map(|(slot, s)| Place { slot, generation: s.generation }));
    });
    let deadline = deadline(timeout);
    let late = waiting.iter().filter(|place| !wait_until_free(shared, **place, deadline)).count();
    if late == 0 { Ok(waiting.len() as i64) } else { Err(late as i64) }
}

fn deadline(timeout: i32) -> i64 {
    // SAFETY: has no precondition.
    unsafe { pg_sys::GetCurrentTimestamp() + i64::from(timeout) * 1_000 }
}

fn put_until(
    shared: *mut Shared,
    bytes: &[u8],
    coalescing_key: u64,
    deadline: i64,
) -> Result<Option<Place>, NotStored> {
    loop {
        match try_put(shared, bytes, coalescing_key)? {
            Put::Done(place) => return Ok(Some(place)),
            Put::Coalesced => return Ok(None),
            Put::Full if !sleep(shared, deadline) => return Err(NotStored::Full),
            Put::Full => {}
        }
    }
}

fn try_put(shared: *mut Shared, bytes: &[u8], coalescing_key: u64) -> Result<Put, NotStored> {
    thread_local! {
        /// Where this session's last event that could stand for more was put: a run of alike ones needs no search.
        static LAST: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }
    // SAFETY: plain reads of this process.
    let (database, at) = unsafe { (pg_sys::MyDatabaseId, pg_sys::GetCurrentTimestamp()) };
    let (put, latch) = locked(shared, |shared, slots| {
        let latch = shared.drains.iter().find(|d| d.database == database).map_or(ptr::null_mut(), |d| d.latch);
        let latch = if latch.is_null() { shared.launcher } else { latch };
        let alike =
            |s: &Slot| s.state == SlotState::Pending && s.database == database && s.coalescing_key == coalescing_key;
        if coalescing_key != 0 {
            let last = LAST.get();
            let n = if slots.get(last).is_some_and(alike) { Some(last) } else { slots.iter().position(alike) };
            if let Some(slot) = n.and_then(|n| slots.get_mut(n)) {
                slot.occurrences += 1;
                slot.last_at = at;
                return (Ok(Put::Coalesced), ptr::null_mut());
            }
        }
        let Some((n, slot)) = slots.iter_mut().enumerate().find(|(_, s)| s.state == SlotState::Free) else {
            return (Ok(Put::Full), latch);
        };
        LAST.set(n);
        shared.sequence += 1;
        slot.state = SlotState::Pending;
        slot.database = database;
        slot.sequence = shared.sequence;
        slot.coalescing_key = coalescing_key;
        slot.occurrences = 1;
        slot.last_at = at;
        // encode() keeps events within ROOM.
        slot.length = bytes.len().min(ROOM);
        slot.bytes[..slot.length].copy_from_slice(&bytes[..slot.length]);
        (Ok(Put::Done(Place { slot: n, generation: slot.generation })), latch)
    });
    wake(latch);
    put
}

/// Whether the event at `place` was committed before the deadline.
fn wait_until_free(shared: *mut Shared, place: Place, deadline: i64) -> bool {
    // SAFETY: the condition variable lives in shared memory. If the wait is interrupted, abort cancels the sleep.
    unsafe { pg_sys::ConditionVariablePrepareToSleep(&raw mut (*shared).changed) };
    let free = loop {
        if locked(shared, |_, slots| slots[place.slot].generation != place.generation) {
            break true;
        }
        if !sleep(shared, deadline) {
            break false;
        }
    };
    // SAFETY: as above.
    unsafe { pg_sys::ConditionVariableCancelSleep() };
    free
}

/// Sleeps until something changes; false when the deadline has passed. Interruptible.
fn sleep(shared: *mut Shared, deadline: i64) -> bool {
    // SAFETY: as above.
    unsafe {
        let left = deadline - pg_sys::GetCurrentTimestamp();
        if left <= 0 {
            return false;
        }
        // Rounded up: the time that was asked for is waited in full.
        let milliseconds = (left + 999) / 1_000;
        pg_sys::ConditionVariableTimedSleep(&raw mut (*shared).changed, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        true
    }
}

fn wake(latch: *mut pg_sys::Latch) {
    if !latch.is_null() {
        // SAFETY: the latch of a process, in shared memory: it outlives the process, and one too many does no harm.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// The launcher's view: announces it, and takes it back when it ends.
pub(super) fn set_launcher(latch: *mut pg_sys::Latch) {
    if let Some(shared) = shared() {
        locked(shared, |shared, _| shared.launcher = latch);
    }
}

/// The databases that have pending events and nobody who drains them. Each is marked as being drained from now on.
pub(super) fn claim_undrained() -> Vec<pg_sys::Oid> {
    let mut claimed = Vec::with_capacity(DRAINS);
    let Some(shared) = shared() else { return claimed };
    locked(shared, |shared, slots| {
        for slot in slots.iter().filter(|s| s.state == SlotState::Pending) {
            if shared.drains.iter().any(|d| d.database == slot.database) {
                continue;
            }
            let Some(entry) = shared.drains.iter_mut().find(|d| d.database == pg_sys::InvalidOid) else { break };
            *entry = Drain { database: slot.database, ..Drain::UNUSED };
            claimed.push(slot.database);
        }
    });
    claimed
}

/// A drain has ended, however it ended: what it had taken is pending again. Returns whether it failed: one
/// that ran dry took its entry back itself, and one that stored events first was ended from outside.
pub(super) fn drain_ended(database: pg_sys::Oid) -> bool {
    let Some(shared) = shared() else { return false };
    locked(shared, |shared, slots| {
        for slot in slots.iter_mut().filter(|s| s.database == database && s.state == SlotState::Taken) {
            slot.state = SlotState::Pending;
        }
        let mut failed = false;
        for entry in shared.drains.iter_mut().filter(|d| d.database == database) {
            failed |= !entry.stored;
            *entry = Drain::UNUSED;
        }
        failed
    })
}

/// The drain of a database is at work: sessions may wake it themselves.
pub(super) fn drain_started(database: pg_sys::Oid, latch: *mut pg_sys::Latch) {
    let Some(shared) = shared() else { return };
    locked(shared, |shared, _| {
        if let Some(entry) = shared.drains.iter_mut().find(|d| d.database == database) {
            // SAFETY: a plain read.
            (entry.latch, entry.pid) = (latch, unsafe { pg_sys::MyProcPid });
        }
    });
}

/// The drains that an earlier launcher started: by database and process, 0 for one that never got to run.
pub(super) fn drains() -> Vec<(pg_sys::Oid, i32)> {
    let mut drains = Vec::with_capacity(DRAINS);
    let Some(shared) = shared() else { return drains };
    locked(shared, |shared, _| {
        drains.extend(shared.drains.iter().filter(|d| d.database != pg_sys::InvalidOid).map(|d| (d.database, d.pid)));
    });
    drains
}

/// The drain of a database stops, unless something is pending. Returns whether it may.
pub(super) fn drain_may_stop(database: pg_sys::Oid) -> bool {
    let Some(shared) = shared() else { return true };
    locked(shared, |shared, slots| {
        if slots.iter().any(|s| s.database == database && s.state != SlotState::Free) {
            return false;
        }
        for entry in shared.drains.iter_mut().filter(|d| d.database == database) {
            *entry = Drain::UNUSED;
        }
        true
    })
}

/// An event on its way into the table.
pub(super) struct Taken {
    slot: usize,
    pub bytes: Vec<u8>,
    pub origin: i64,
    pub sequence: i64,
    pub occurrences: i64,
    pub last_at: i64,
}

/// Takes the pending events of a database, oldest first, at most `limit` of them.
pub(super) fn take(database: pg_sys::Oid, limit: usize) -> Vec<Taken> {
    let Some(shared) = shared() else { return Vec::new() };
    locked(shared, |shared, slots| {
        let origin = shared.origin;
        let pending = |s: &Slot| s.state == SlotState::Pending && s.database == database;
        let mut waiting: Vec<_> = slots.iter().enumerate().filter(|(_, s)| pending(s)).collect();
        waiting.sort_unstable_by_key(|(_, s)| s.sequence);
        let chosen: Vec<usize> = waiting.into_iter().take(limit).map(|(n, _)| n).collect();
        let mut taken = Vec::with_capacity(chosen.len());
        for slot in chosen {
            let s = &mut slots[slot];
            s.state = SlotState::Taken;
            taken.push(Taken {
                slot,
                bytes: s.bytes[..s.length].to_vec(),
                origin,
                sequence: s.sequence as i64,
                occurrences: s.occurrences as i64,
                last_at: s.last_at,
            });
        }
        taken
    })
}

/// The taken events are committed (or given up): whoever waits may go on.
pub(super) fn release(taken: &[Taken]) {
    let Some(shared) = shared() else { return };
    // SAFETY: a plain read; the launcher has no database.
    let database = unsafe { pg_sys::MyDatabaseId };
    locked(shared, |shared, slots| {
        for entry in shared.drains.iter_mut().filter(|d| d.database != pg_sys::InvalidOid && d.database == database) {
            entry.stored = true;
        }
        for t in taken {
            let slot = &mut slots[t.slot];
            // It may have been made pending again, and even been taken by another drain, meanwhile.
            if slot.state == SlotState::Taken && slot.sequence == t.sequence as u64 {
                slot.state = SlotState::Free;
                slot.generation += 1;
            }
        }
    });
    // SAFETY: in shared memory; broadcasting raises no error.
    unsafe { pg_sys::ConditionVariableBroadcast(&raw mut (*shared).changed) };
}
