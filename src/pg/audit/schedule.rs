//! When a database's worker should look although no event brings it there: at waves that are watched, and once a day at what is
//! past keeping. The launcher, which knows no database, learns it here from sessions that have read the policy.
//!
//! An entry is two times of the server's clock, each changed atomically by itself; there is no lock. The memory is laid out anew at
//! each start, and sessions then put their databases back. Where none connects, nobody does anything wrong.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use pgrx::pg_sys;

use super::memory;
use crate::pg::shared::Region;

/// How many databases can be scheduled. More of them are looked after only while they have events.
const DATABASES: usize = 256;

/// A database is pruned this long after its first session has come, and then once a day, in microseconds.
const FIRST_PRUNING: i64 = 10_000_000;
const DAY: i64 = 86_400_000_000;

/// When a look is tried again that didn't come to an end. More than [`ROUND`].
const AGAIN: i64 = 60_000_000;

/// How long a wave may be watched by nobody, where its beginning met the end of a look.
const ROUND: i64 = 10_000_000;

/// The least time between two looks at waves while events come in.
const PAUSE: i64 = 1_000_000;

/// Stands for no time.
const NEVER: i64 = 0;

/// Zero is a valid value of all of it: unused, and never. Times are by [`memory::uptime`].
#[repr(C)]
struct Entry {
    database: AtomicU32,
    watch_at: AtomicI64,
    watched_at: AtomicI64,
    prune_at: AtomicI64,
}

thread_local! {
    static SHARED: Cell<*const [Entry; DATABASES]> = const { Cell::new(ptr::null()) };
}

/// Zero is a valid value of all of it.
pub static REGION: Region = Region {
    name: c"holdfast schedule",
    size: || size_of::<[Entry; DATABASES]>(),
    locks: 0,
    lay_out: None,
    attach: |memory| SHARED.set(memory.cast()),
};

fn entries() -> &'static [Entry] {
    // SAFETY: null, or shared memory that lasts as long as the process, and is atomic all over.
    unsafe { SHARED.get().as_ref() }.map_or(&[], |entries| entries.as_slice())
}

fn entry(database: pg_sys::Oid) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.database.load(Ordering::Acquire) == database.to_u32())
}

/// The entry of this process's database, made if need be.
fn own_entry() -> Option<&'static Entry> {
    // SAFETY: a plain read.
    let database = unsafe { pg_sys::MyDatabaseId };
    if database == pg_sys::InvalidOid {
        return None;
    }
    let number = database.to_u32();
    // One that is there comes before one that has become free.
    entry(database).or_else(|| {
        entries().iter().find(|entry| {
            let was = entry.database.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
            was.is_ok() || was == Err(number)
        })
    })
}

/// Brings a time forward; whether it was later, or never.
fn bring_forward(time: &AtomicI64, to: i64) -> bool {
    let earlier = |at: i64| (at == NEVER || at > to).then_some(to);
    time.fetch_update(Ordering::AcqRel, Ordering::Acquire, earlier).is_ok()
}

fn wake_launcher() {
    if let Some(launcher) = memory::locked(|shared, _| shared.launcher) {
        memory::wake(launcher);
    }
}

/// For a session that has read the policy: this database has the extension, and waves that are watched, or none.
pub fn announce(waves_watched: bool) {
    let Some(entry) = own_entry() else { return };
    let now = memory::uptime();
    let first =
        entry.prune_at.compare_exchange(NEVER, now + FIRST_PRUNING, Ordering::AcqRel, Ordering::Acquire).is_ok();
    let mut watch = false;
    if waves_watched {
        watch = entry.watch_at.compare_exchange(NEVER, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        // A look that is under way may have begun before there was anything to watch, and shall not be the last one.
        if !watch {
            bring_forward(&entry.watch_at, now + ROUND);
        }
    }
    if first || watch {
        wake_launcher();
    }
}

/// Has the worker look at this database's waves in so many microseconds, if it wouldn't sooner.
pub fn watch_within(microseconds: i64) {
    let at = memory::uptime() + microseconds.max(0);
    if own_entry().is_some_and(|entry| bring_forward(&entry.watch_at, at)) {
        wake_launcher();
    }
}

/// For the worker, which has stored events: whatever is watched is looked at soon.
pub(super) fn hurry(database: pg_sys::Oid) {
    if let Some(entry) = entry(database).filter(|e| e.watch_at.load(Ordering::Acquire) != NEVER) {
        let soon = entry.watched_at.load(Ordering::Acquire) + PAUSE;
        bring_forward(&entry.watch_at, soon.max(memory::uptime()));
    }
}

/// The databases where a worker should look now: all that have waves to be watched, and one to be pruned, so that a server
/// full of databases isn't full of workers.
pub(super) fn due() -> Vec<pg_sys::Oid> {
    let now = memory::uptime();
    let is_due = |time: &AtomicI64| matches!(time.load(Ordering::Acquire), at if at != NEVER && at <= now);
    let database = |entry: &Entry| pg_sys::Oid::from(entry.database.load(Ordering::Acquire));
    let watch = entries().iter().filter(|e| is_due(&e.watch_at)).map(database);
    let prune = entries().iter().filter(|e| is_due(&e.prune_at)).map(database).take(1);
    watch.chain(prune).collect()
}

/// How long until the next look, in microseconds; none if there is none.
pub(super) fn next() -> Option<i64> {
    let now = memory::uptime();
    let times = entries().iter().flat_map(|e| [&e.watch_at, &e.prune_at]).map(|time| time.load(Ordering::Acquire));
    times.filter(|at| *at != NEVER).map(|at| (at - now).max(0)).min()
}

/// A worker is being started: if it fails, the next one isn't at once.
pub(super) fn postpone(database: pg_sys::Oid) {
    let Some(entry) = entry(database) else { return };
    let now = memory::uptime();
    for (time, pause) in [(&entry.watch_at, AGAIN), (&entry.prune_at, DAY)] {
        let later = |at: i64| (at != NEVER && at <= now).then_some(now + pause);
        let _ = time.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }
}

/// A database that isn't there any more.
pub(super) fn forget(database: pg_sys::Oid) {
    if let Some(entry) = entry(database) {
        entry.watch_at.store(NEVER, Ordering::Release);
        entry.prune_at.store(NEVER, Ordering::Release);
        entry.database.store(0, Ordering::Release);
    }
}

/// A look of the worker's at its database's waves.
pub(super) struct Look {
    entry: &'static Entry,
    /// What a session brings forward meanwhile differs from this.
    postponed: i64,
}

impl Look {
    /// Begins one; none if nothing is watched or, unless it is the worker's first, it isn't time.
    pub fn begin(database: pg_sys::Oid, first: bool) -> Option<Look> {
        let now = memory::uptime();
        let entry = entry(database)?;
        let at = entry.watch_at.load(Ordering::Acquire);
        if at == NEVER || at > now && !first {
            return None;
        }
        entry.watch_at.store(now + AGAIN, Ordering::Release);
        entry.watched_at.store(now, Ordering::Release);
        Some(Look { entry, postponed: now + AGAIN })
    }

    /// It is done; the next one comes after so many microseconds, if any, or sooner if somebody has asked for one meanwhile.
    pub fn end(self, next: Option<i64>) {
        let at = next.map_or(NEVER, |next| memory::uptime() + next);
        let time = &self.entry.watch_at;
        if time.compare_exchange(self.postponed, at, Ordering::AcqRel, Ordering::Acquire).is_err() && at != NEVER {
            bring_forward(time, at);
        }
    }
}
