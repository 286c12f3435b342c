//! The shared memory between the sessions, the launcher and the drain workers.
//!
//! `Shared::lock`, an LWLock, protects everything in [`Shared`] but `changed`, which have locks of their own, and the slots'
//! generations, which are read without it. `Shared::spool_lock` orders the writers of the spool files. Neither is held
//! across a call that can raise an error.
//!
//! The memory is laid out again at a crash restart: events that were neither committed nor in the spool are gone with the
//! sessions that waited for them, none of which had seen its refusal yet.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::pg::gucs;
use crate::pg::shared::{self, Region};
use crate::policy::spool::Batch;

/// How many bytes of an encoded event a slot has room for.
pub const ROOM: usize = 4_096;

/// How many databases can be looked after at once.
pub const DATABASES: usize = 64;

const NAME: &std::ffi::CStr = c"holdfast";

/// Where an event is on its way. Free → Pending → Taken → Free, as long as nothing is amiss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotState {
    /// Nowhere: the slot holds none.
    Free,
    /// A session put it in.
    Pending,
    /// Somebody writes it to the spool.
    Spooling,
    /// A drain worker commits it.
    Taken,
    /// A drain worker commits it and is late: somebody writes it to the spool as well.
    TakenSpooling,
    /// A drain worker commits it and is late, and the spool has it: nobody waits for it any more.
    TakenSpooled,
}

/// The head of an event's place; the bytes are elsewhere, so that heads can be looked through quickly.
#[repr(C)]
pub struct Slot {
    pub state: SlotState,
    pub database: pg_sys::Oid,
    /// Moves on when the event is safe; whoever waits for it waits for that.
    pub generation: AtomicU64,
    pub sequence: u64,
    /// Which events are alike.
    pub key: u64,
    /// The next free slot, while this one is free.
    next_free: u32,
    pub occurrences: i64,
    pub put_at: i64,
    pub last_at: i64,
    /// The transaction that took it last; all zeros = none did.
    pub batch: Batch,
    pub length: usize,
}

impl Slot {
    /// The event is safe: whoever waits may go on.
    pub fn settle(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// What the extension does for a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DrainState {
    /// Nothing: the entry is unused.
    Unused,
    /// The launcher has asked for a worker.
    Starting,
    /// A worker is there.
    Running,
    /// The last worker failed, or none could be had; the next try comes at `retry_at`.
    Failing,
}

/// A database that has, had, or can't have a drain worker.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Drain {
    pub state: DrainState,
    pub database: pg_sys::Oid,
    /// The worker's process; 0 until it runs.
    pub pid: i32,
    /// The worker's latch; null until it runs.
    pub latch: *mut pg_sys::Latch,
    /// Counts the workers since this memory was laid out.
    pub serial: i64,
    /// Since when the worker has been at its present transaction, or has been asked for; 0 while it rests. By [`uptime`].
    pub busy_since: i64,
    /// Whether the worker has committed something and not failed since: however it ends, it wasn't for what it stores.
    pub sound: bool,
    /// How many workers in a row have failed.
    pub failures: u32,
    /// By [`uptime`].
    pub retry_at: i64,
}

impl Drain {
    pub const UNUSED: Drain = Drain {
        state: DrainState::Unused,
        database: pg_sys::InvalidOid,
        pid: 0,
        latch: ptr::null_mut(),
        serial: 0,
        busy_since: 0,
        sound: false,
        failures: 0,
        retry_at: 0,
    };
}

/// Events of a database that neither the worker nor the spool could take.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub database: pg_sys::Oid,
    pub events: i64,
    pub first_at: i64,
    pub last_at: i64,
}

/// What is said in the server log at most once a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Complaint {
    /// An event went to the spool.
    Spooled,
    /// An event is in memory only.
    Kept,
    /// An event is lost.
    Lost,
    /// The worker could not store events.
    Failed,
}

const COMPLAINTS: usize = 4;

/// How many condition variables there are: a slot has the one of its number's remainder, so that a commit wakes hardly anybody
/// but those whose events it has. The last one is for those who wait for something else than a slot.
const CHANNELS: usize = 65;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// That something happens to the event in this slot.
    Of(usize),
    /// That some slot, or the spool, becomes free.
    Room,
}

impl Change {
    fn channel(self) -> usize {
        match self {
            Change::Of(slot) => slot % (CHANNELS - 1),
            Change::Room => CHANNELS - 1,
        }
    }
}

/// Stands for no slot.
const NONE: u32 = u32::MAX;

/// How many places there are to remember which slot has an event of a key.
const HINTS: usize = 4_096;

/// How often whoever waits looks by himself, in microseconds: nobody tells when a worker has hung for too long.
const LOOK: i64 = 50_000;

/// How long the log is silent after a complaint, in microseconds.
const SILENCE: i64 = 60_000_000;

#[repr(C)]
pub struct Shared {
    lock: *mut pg_sys::LWLock,
    spool_lock: *mut pg_sys::LWLock,
    changed: [pg_sys::ConditionVariable; CHANNELS],
    /// Null while no launcher runs.
    pub launcher: *mut pg_sys::Latch,
    /// Since when there has been no launcher, by [`uptime`].
    pub launcher_gone_at: i64,
    /// Whether the launcher was told to stop: nobody takes what is put into a slot now.
    pub stopping: bool,
    pub drains: [Drain; DATABASES],
    pub losses: [Loss; DATABASES],
    /// Losses since this memory was laid out, in all databases.
    pub lost: i64,
    complained_at: [i64; COMPLAINTS],
    unsaid: [u64; COMPLAINTS],
    /// When this memory was laid out.
    pub origin: i64,
    pub sequence: u64,
    pub serial: i64,
    /// The first free slot.
    free: u32,
    /// By a key's last digits, the slot that an event of the key was put into last.
    hints: [u32; HINTS],
    capacity: usize,
    // `capacity` slots follow, then `capacity` times ROOM bytes.
}

impl Shared {
    /// Which slot had an event of this key last.
    pub fn hint(&mut self, key: u64) -> &mut u32 {
        &mut self.hints[key as usize % HINTS]
    }

    /// The entry of a database, if it has one.
    pub fn drain(&mut self, database: pg_sys::Oid) -> Option<&mut Drain> {
        self.drains.iter_mut().find(|d| d.state != DrainState::Unused && d.database == database)
    }

    /// Whether a complaint is due at `now`, by [`uptime`]: how many of its kind were left unsaid since the last one.
    pub fn may_complain(&mut self, complaint: Complaint, now: i64) -> Option<u64> {
        let kind = complaint as usize;
        let (at, unsaid) = (self.complained_at.get_mut(kind)?, self.unsaid.get_mut(kind)?);
        if *at != 0 && now - *at < SILENCE {
            *unsaid += 1;
            return None;
        }
        *at = now;
        Some(std::mem::take(unsaid))
    }
}

/// The slots and their bytes.
pub struct Slots<'a> {
    pub heads: &'a mut [Slot],
    bytes: &'a mut [[u8; ROOM]],
}

impl Slots<'_> {
    /// Whether there is one that is free.
    pub fn has_room(&self, shared: &Shared) -> bool {
        shared.free != NONE
    }

    /// Takes a free one.
    pub fn allocate(&mut self, shared: &mut Shared) -> Option<usize> {
        let slot = usize::try_from(shared.free).ok()?;
        shared.free = self.heads.get(slot)?.next_free;
        Some(slot)
    }

    /// Gives one back. Nobody refers to its event any more.
    pub fn release(&mut self, shared: &mut Shared, slot: usize) {
        if let (Some(head), Ok(number)) = (self.heads.get_mut(slot), u32::try_from(slot)) {
            head.state = SlotState::Free;
            head.next_free = shared.free;
            shared.free = number;
        }
    }

    /// Puts an event's bytes into a slot.
    pub fn write(&mut self, slot: usize, bytes: &[u8]) {
        // encode() keeps events within ROOM.
        let length = bytes.len().min(ROOM);
        if let (Some(head), Some(room)) = (self.heads.get_mut(slot), self.bytes.get_mut(slot)) {
            head.length = length;
            room[..length].copy_from_slice(&bytes[..length]);
        }
    }

    /// The bytes of a slot's event.
    pub fn read(&self, slot: usize) -> &[u8] {
        let length = self.heads.get(slot).map_or(0, |head| head.length.min(ROOM));
        self.bytes.get(slot).map_or(&[], |room| &room[..length])
    }
}

thread_local! {
    static SHARED: std::cell::Cell<*mut Shared> = const { std::cell::Cell::new(ptr::null_mut()) };
}

fn size() -> usize {
    size_of::<Shared>() + gucs::audit_queue_size() * (size_of::<Slot>() + ROOM)
}

/// [`Shared`], the slots and their bytes.
pub static REGION: Region =
    Region { name: NAME, size, locks: 2, lay_out: Some(lay_out), attach: |memory| SHARED.set(memory.cast()) };

unsafe fn lay_out(memory: *mut u8) {
    // SAFETY: zeroed memory of this size, which nobody else sees yet.
    unsafe {
        let shared = memory.cast::<Shared>();
        (*shared).lock = shared::lock(NAME, 0);
        (*shared).spool_lock = shared::lock(NAME, 1);
        (*shared).origin = now();
        (*shared).launcher_gone_at = uptime();
        (*shared).capacity = gucs::audit_queue_size();
        let heads = std::slice::from_raw_parts_mut(shared.add(1).cast::<Slot>(), (*shared).capacity);
        (*shared).free = 0;
        for (n, head) in (1..).zip(heads.iter_mut()) {
            head.next_free = n;
        }
        if let Some(last) = heads.last_mut() {
            last.next_free = NONE;
        }
        for channel in 0..CHANNELS {
            pg_sys::ConditionVariableInit(&raw mut (*shared).changed[channel]);
        }
    }
}

/// The time, in microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: has no precondition.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// A time that only ever moves on, in microseconds; the same for every process of the server.
pub fn uptime() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the place given. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

/// Releases an LWLock however the work under it ends.
struct Held(*mut pg_sys::LWLock);

impl Held {
    fn acquire(lock: *mut pg_sys::LWLock) -> Held {
        // SAFETY: an LWLock in shared memory.
        unsafe { pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
        Held(lock)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: held by this process since `acquire`.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

fn shared() -> Option<*mut Shared> {
    let shared = SHARED.get();
    (!shared.is_null()).then_some(shared)
}

/// Keeps this process from being interrupted, as a lock does: from a change of shared memory to the one that goes with it.
pub struct Uninterrupted(());

impl Uninterrupted {
    pub fn begin() -> Uninterrupted {
        // SAFETY: HOLD_INTERRUPTS of miscadmin.h. An error sets it to 0, but none is raised meanwhile.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        Uninterrupted(())
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // SAFETY: RESUME_INTERRUPTS.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) };
    }
}

/// Whether the library was loaded with the server, and hence has its memory.
pub fn is_there() -> bool {
    shared().is_some()
}

/// Runs `work` with the lock held; none without shared memory. `work` must not call anything that can raise an error.
pub fn locked<R>(work: impl FnOnce(&mut Shared, &mut Slots) -> R) -> Option<R> {
    let shared = shared()?;
    // SAFETY: shared memory of this layout; the lock makes the references unique, but for what is atomic. `changed` is only
    // ever passed on by address.
    unsafe {
        let _held = Held::acquire((*shared).lock);
        let capacity = (*shared).capacity;
        let heads = shared.add(1).cast::<Slot>();
        let bytes = heads.add(capacity).cast::<[u8; ROOM]>();
        let mut slots = Slots {
            heads: std::slice::from_raw_parts_mut(heads, capacity),
            bytes: std::slice::from_raw_parts_mut(bytes, capacity),
        };
        Some(work(&mut *shared, &mut slots))
    }
}

/// Runs `work` while nobody else writes a spool file. `work` must not call anything that can raise an error.
pub fn spool_locked<R>(work: impl FnOnce() -> R) -> Option<R> {
    let shared = shared()?;
    // SAFETY: shared memory of this layout.
    let _held = unsafe { Held::acquire((*shared).spool_lock) };
    Some(work())
}

/// A slot's generation, read without the lock.
pub fn generation(slot: usize) -> u64 {
    let Some(shared) = shared() else { return 0 };
    // SAFETY: the slots lie behind the head, and an atomic may be read whoever else has a reference.
    unsafe {
        let head = shared.add(1).cast::<Slot>().add(slot.min((*shared).capacity.saturating_sub(1)));
        (*head).generation.load(Ordering::Acquire)
    }
}

/// Tells everybody who waits that something has changed.
pub fn broadcast() {
    (0..CHANNELS).for_each(broadcast_to);
}

/// Tells those who wait for these slots, and those who wait for any.
pub fn tell(slots: impl Iterator<Item = usize>) {
    let mut told = [false; CHANNELS];
    for change in slots.map(Change::Of).chain([Change::Room]) {
        if !std::mem::replace(&mut told[change.channel()], true) {
            broadcast_to(change.channel());
        }
    }
}

fn broadcast_to(channel: usize) {
    if let Some(shared) = shared() {
        // SAFETY: in shared memory; broadcasting raises no error.
        unsafe { pg_sys::ConditionVariableBroadcast(&raw mut (*shared).changed[channel]) };
    }
}

/// Waits until `done`, looked at after each such change; whether it came before `deadline`, by [`uptime`]. Interruptible.
pub fn wait_until(change: Change, deadline: i64, mut done: impl FnMut() -> bool) -> bool {
    let Some(shared) = shared() else { return done() };
    if done() {
        return true;
    }
    let channel = change.channel();
    // SAFETY: the condition variable lives in shared memory. If the wait is interrupted, abort cancels the sleep.
    unsafe { pg_sys::ConditionVariablePrepareToSleep(&raw mut (*shared).changed[channel]) };
    let met = loop {
        if done() {
            break true;
        }
        pgrx::check_for_interrupts!();
        let left = deadline - uptime();
        if left <= 0 {
            break false;
        }
        // Rounded up: the time that was asked for is waited in full, if not in one go.
        let milliseconds = (left.min(LOOK) + 999) / 1_000;
        // SAFETY: as above.
        unsafe {
            let changed = &raw mut (*shared).changed[channel];
            pg_sys::ConditionVariableTimedSleep(changed, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        }
    };
    // SAFETY: as above.
    unsafe { pg_sys::ConditionVariableCancelSleep() };
    met
}

/// Sets a latch, if there is one.
pub fn wake(latch: *mut pg_sys::Latch) {
    if !latch.is_null() {
        // SAFETY: the latch of a process, in shared memory: it outlives the process, and one too many does no harm.
        unsafe { pg_sys::SetLatch(latch) };
    }
}
