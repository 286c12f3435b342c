//! The shared memory as the launcher and the drain workers see it: which databases have a worker, and which events a worker
//! has taken.

use std::ptr;

use pgrx::pg_sys;

use super::memory::{self, DATABASES, Drain, DrainState, Loss, Shared, Slot, SlotState, Uninterrupted};
use super::queue::{self, Claim};
use super::spool::{self, Appended, SpoolError};
use crate::policy::spool::Batch;

/// How long after a worker's failure the next one is started, in microseconds: twice as long each time, up to the second
/// figure.
const FIRST_RETRY: i64 = 200_000;
const LAST_RETRY: i64 = 60_000_000;

/// The launcher announces itself.
pub fn launcher_started(latch: *mut pg_sys::Latch) {
    memory::locked(|shared, _| (shared.launcher, shared.stopping) = (latch, false));
}

/// The launcher ends, or is told to stop: then nobody takes what is put into a slot from now on.
pub fn launcher_ended(stopping: bool) {
    memory::locked(|shared, _| {
        shared.launcher = ptr::null_mut();
        shared.launcher_gone_at = memory::uptime();
        shared.stopping |= stopping;
    });
    memory::broadcast();
}

/// A worker, as the entry of its database names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    pub database: pg_sys::Oid,
    /// Which one of all since the memory was laid out. An entry that names another one isn't this worker's any more.
    pub serial: i64,
}

impl Shared {
    /// The entry of a worker, as long as it is that worker's.
    fn entry(&mut self, worker: Worker) -> Option<&mut Drain> {
        self.drain(worker.database).filter(|drain| drain.serial == worker.serial)
    }
}

/// A worker that should be started.
pub struct Wanted {
    pub worker: Worker,
    /// Whether the last one failed.
    pub cautious: bool,
}

/// The databases that have something to be stored, nobody who stores it, and no reason to wait. Each counts as having a
/// worker from now on. `spooled` are those that have something in the spool.
pub fn claim_undrained(spooled: &[pg_sys::Oid]) -> Vec<Wanted> {
    let now = memory::uptime();
    let mut wanted = Vec::with_capacity(DATABASES);
    let mut databases: Vec<pg_sys::Oid> = Vec::with_capacity(DATABASES * 2 + spooled.len());
    databases.extend(spooled);
    memory::locked(|shared, slots| {
        for head in slots.heads.iter().filter(|s| s.state == SlotState::Pending) {
            if !databases.contains(&head.database) && databases.len() < databases.capacity() {
                databases.push(head.database);
            }
        }
        for loss in shared.losses.iter().filter(|l| l.events > 0) {
            if !databases.contains(&loss.database) && databases.len() < databases.capacity() {
                databases.push(loss.database);
            }
        }
        // A database that failed and has nothing any more needs no other try.
        for drain in shared.drains.iter_mut().filter(|d| d.state == DrainState::Failing && d.retry_at <= now) {
            if !databases.contains(&drain.database) {
                *drain = Drain::UNUSED;
            }
        }
        for database in &databases {
            let failures = match shared.drain(*database) {
                None => 0,
                Some(drain) if drain.state == DrainState::Failing && drain.retry_at <= now => drain.failures,
                Some(_) => continue,
            };
            let entry = shared.drains.iter().position(|d| d.state == DrainState::Failing && d.database == *database);
            let entry = entry.or_else(|| shared.drains.iter().position(|d| d.state == DrainState::Unused));
            let Some(entry) = entry.and_then(|n| shared.drains.get_mut(n)) else { break };
            shared.serial += 1;
            *entry = Drain {
                state: DrainState::Starting,
                database: *database,
                serial: shared.serial,
                busy_since: now,
                failures,
                ..Drain::UNUSED
            };
            let worker = Worker { database: *database, serial: shared.serial };
            wanted.push(Wanted { worker, cautious: failures > 0 });
        }
    });
    wanted
}

/// How long until the next failed worker is tried again, in microseconds; none if there is none.
pub fn next_retry() -> Option<i64> {
    let now = memory::uptime();
    memory::locked(|shared, _| {
        let failing = shared.drains.iter().filter(|d| d.state == DrainState::Failing);
        failing.map(|d| (d.retry_at - now).max(0)).min()
    })?
}

/// The workers that are starting or running, and their processes, 0 for one that hasn't got to run yet.
pub fn drains() -> Vec<(Worker, i32)> {
    let mut drains = Vec::with_capacity(DATABASES);
    memory::locked(|shared, _| {
        let live = shared.drains.iter().filter(|d| matches!(d.state, DrainState::Starting | DrainState::Running));
        drains.extend(live.map(|d| (Worker { database: d.database, serial: d.serial }, d.pid)));
    });
    drains
}

/// A worker has ended, or couldn't be started, or isn't to start any more: what it had taken is pending again, unless the
/// spool has it meanwhile.
pub fn drain_ended(worker: Worker) {
    let now = memory::uptime();
    memory::locked(|shared, slots| {
        let Some(drain) = shared.entry(worker) else { return };
        let failures = if drain.sound { 0 } else { drain.failures + 1 };
        let pause = (FIRST_RETRY << failures.saturating_sub(1).min(16)).min(LAST_RETRY);
        let retry_at = if drain.retry_at > now { drain.retry_at } else { now + pause };
        *drain = match (failures, drain.retry_at > now) {
            (0, false) => Drain::UNUSED,
            _ => Drain {
                state: DrainState::Failing,
                database: worker.database,
                serial: worker.serial,
                failures,
                retry_at,
                ..Drain::UNUSED
            },
        };
        for slot in 0..slots.heads.len() {
            let Some(head) = slots.heads.get_mut(slot).filter(|s| s.database == worker.database) else { continue };
            match head.state {
                SlotState::Taken => head.state = SlotState::Pending,
                SlotState::TakenSpooling => head.state = SlotState::Spooling,
                SlotState::TakenSpooled => slots.release(shared, slot),
                SlotState::Free | SlotState::Pending | SlotState::Spooling => {}
            }
        }
    });
    memory::broadcast();
}

/// A worker is at work: sessions may wake it themselves. Returns what names its transactions; none if another one has taken
/// its place, so that it must do nothing.
pub fn drain_started(worker: Worker, latch: *mut pg_sys::Latch) -> Option<Batch> {
    memory::locked(|shared, _| {
        let origin = shared.origin;
        let drain = shared.entry(worker).filter(|drain| drain.state == DrainState::Starting)?;
        // SAFETY: a plain read.
        (drain.state, drain.latch, drain.pid) = (DrainState::Running, latch, unsafe { pg_sys::MyProcPid });
        drain.busy_since = 0;
        Some(Batch { origin, drain: worker.serial, number: 0 })
    })?
}

/// A worker begins a piece of work, or is done with it. Whether it is still the one for its database.
pub fn drain_busy(worker: Worker, busy: bool) -> bool {
    let now = memory::uptime();
    memory::locked(|shared, _| match shared.entry(worker) {
        Some(drain) => {
            drain.busy_since = match (busy, drain.busy_since) {
                (false, _) => 0,
                (true, 0) => now,
                (true, since) => since,
            };
            true
        }
        None => false,
    })
    .unwrap_or(false)
}

/// A worker has committed something, or failed to: that is what counts when it has ended.
pub fn drain_sound(worker: Worker, sound: bool) {
    memory::locked(|shared, _| {
        if let Some(drain) = shared.entry(worker) {
            drain.sound = sound;
        }
    });
}

/// A worker leaves its database to somebody else for a while, in microseconds.
pub fn drain_gives_way(worker: Worker, pause: i64) {
    let now = memory::uptime();
    memory::locked(|shared, _| {
        if let Some(drain) = shared.entry(worker) {
            drain.retry_at = now + pause;
        }
    });
}

/// A worker stops, unless something is pending. Returns whether it may.
pub fn drain_may_stop(worker: Worker) -> bool {
    memory::locked(|shared, slots| {
        let pending = slots.heads.iter().any(|s| s.state != SlotState::Free && s.database == worker.database);
        match shared.entry(worker) {
            Some(_) if pending => false,
            Some(drain) => {
                *drain = Drain::UNUSED;
                true
            }
            None => true,
        }
    })
    .unwrap_or(true)
}

/// An event that a worker has taken.
pub struct Taken {
    slot: usize,
    sequence: u64,
    pub bytes: Vec<u8>,
    pub occurrences: i64,
    pub last_at: i64,
}

/// A pending event that an earlier worker had taken, and may have committed.
pub struct Doubt {
    slot: usize,
    sequence: u64,
    /// The transaction in which that would have been.
    pub batch: Batch,
}

/// The pending events of a worker's database that may have been committed already. The workers that had taken them are gone,
/// so whether they were is settled, and must be known before somebody takes them anew.
pub fn doubts(worker: Worker) -> Vec<Doubt> {
    let mut doubts = Vec::with_capacity(BATCH);
    memory::locked(|_, slots| {
        let pending = slots.heads.iter().enumerate();
        let pending = pending.filter(|(_, s)| s.state == SlotState::Pending && s.database == worker.database);
        let doubtful = pending.filter(|(_, s)| s.batch.number != 0);
        doubts.extend(doubtful.take(BATCH).map(|(slot, s)| Doubt { slot, sequence: s.sequence, batch: s.batch }));
    });
    doubts
}

/// It is known of doubtful events whether they were committed: whoever waits for those that were may go on, and the others
/// can be taken.
pub fn resolve(doubts: &[(bool, Doubt)]) {
    memory::locked(|shared, slots| {
        for (committed, doubt) in doubts {
            let same =
                |s: &&mut Slot| s.state == SlotState::Pending && s.sequence == doubt.sequence && s.batch == doubt.batch;
            let Some(head) = slots.heads.get_mut(doubt.slot).filter(same) else { continue };
            if *committed {
                head.settle();
                slots.release(shared, doubt.slot);
            } else {
                head.batch.number = 0;
            }
        }
    });
    memory::broadcast();
}

/// How many events a worker commits at once. A batch takes 4 MB of its memory then.
const BATCH: usize = 1_000;

/// Takes the pending events of a worker's database of which there is no doubt, oldest first, at most `limit` of them, for one
/// of its transactions.
pub fn take(worker: Worker, limit: usize, batch: Batch) -> Vec<Taken> {
    let limit = limit.min(BATCH);
    let mut taken = Vec::with_capacity(limit);
    memory::locked(|shared, slots| {
        if shared.entry(worker).is_none() {
            return;
        }
        let pending = slots.heads.iter().enumerate();
        let pending = pending.filter(|(_, s)| s.state == SlotState::Pending && s.database == worker.database);
        let mut chosen: Vec<(u64, usize)> =
            pending.filter(|(_, s)| s.batch.number == 0).map(|(n, s)| (s.sequence, n)).collect();
        chosen.sort_unstable();
        chosen.truncate(limit);
        for (sequence, slot) in chosen {
            let bytes = slots.read(slot).to_vec();
            let Some(head) = slots.heads.get_mut(slot) else { continue };
            (head.state, head.batch) = (SlotState::Taken, batch);
            taken.push(Taken { slot, sequence, bytes, occurrences: head.occurrences, last_at: head.last_at });
        }
    });
    taken
}

/// The taken events are committed: whoever waits may go on.
pub fn release(worker: Worker, taken: &[Taken]) {
    memory::locked(|shared, slots| {
        for event in taken {
            let Some(head) = slots.heads.get_mut(event.slot) else { continue };
            // It may have been made pending again, and even been taken by another worker, meanwhile.
            if head.sequence != event.sequence || head.batch.drain != worker.serial {
                continue;
            }
            match head.state {
                SlotState::Taken | SlotState::TakenSpooling => head.settle(),
                SlotState::TakenSpooled => {}
                SlotState::Free | SlotState::Pending | SlotState::Spooling => continue,
            }
            slots.release(shared, event.slot);
        }
    });
    memory::tell(taken.iter().map(|event| event.slot));
}

/// How many events are brought to the spool between two syncs.
const GROUP: usize = 64;

/// Writes a database's pending events to the spool, since no worker can be had for it. Returns how many, and the last error
/// if there was any: then events are left, pending as before.
pub fn spool_pending(database: pg_sys::Oid) -> (usize, Option<SpoolError>) {
    let mut spooled = 0;
    loop {
        // Others wait for this process from the claim on.
        let uninterrupted = Uninterrupted::begin();
        let claims = claim_oldest(database);
        if claims.is_empty() {
            return (spooled, None);
        }
        let mut appended = Vec::with_capacity(claims.len());
        let mut failure = None;
        for claim in claims {
            match failure.is_none().then(|| claim.append()) {
                Some(Ok(record)) => appended.push((claim, record)),
                Some(Err(error)) => {
                    failure = Some(error);
                    claim.settle(false);
                }
                None => claim.settle(false),
            }
        }
        spooled += appended.len();
        // The last one's sync is for all that was appended to the same file before; theirs then has nothing to do.
        let (claims, records): (Vec<Claim>, Vec<Appended>) = appended.into_iter().unzip();
        records.into_iter().rev().for_each(Appended::sync);
        claims.into_iter().for_each(|claim| claim.settle(true));
        drop(uninterrupted);
        pgrx::check_for_interrupts!();
        if failure.is_some() {
            return (spooled, failure);
        }
    }
}

fn claim_oldest(database: pg_sys::Oid) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(GROUP);
    memory::locked(|_, slots| {
        let pending = slots.heads.iter().enumerate();
        let pending = pending.filter(|(_, s)| s.state == SlotState::Pending && s.database == database);
        let mut oldest: Vec<(u64, usize)> = pending.map(|(n, s)| (s.sequence, n)).collect();
        oldest.sort_unstable();
        oldest.truncate(GROUP);
        claims.extend(oldest.into_iter().filter_map(|(_, slot)| queue::claim(slots, slot)));
    });
    claims
}

/// The databases that have events in the queue.
pub fn pending_databases() -> Vec<pg_sys::Oid> {
    let mut databases = Vec::with_capacity(DATABASES);
    memory::locked(|_, slots| {
        for head in slots.heads.iter().filter(|s| s.state == SlotState::Pending) {
            if !databases.contains(&head.database) {
                databases.push(head.database);
            }
        }
    });
    databases
}

/// What a database has pending, for the log.
pub fn pending_events(database: pg_sys::Oid) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    memory::locked(|_, slots| {
        for slot in 0..slots.heads.len() {
            let pending = |s: &&Slot| s.state == SlotState::Pending && s.database == database;
            if slots.heads.get(slot).filter(pending).is_some() {
                events.push(slots.read(slot).to_vec());
            }
        }
    });
    events
}

/// Forgets a database that isn't there any more. Returns how many events of it were waiting.
pub fn forget(worker: Worker) -> usize {
    let mut forgotten = 0;
    memory::locked(|shared, slots| {
        for slot in 0..slots.heads.len() {
            let pending = |s: &&mut Slot| s.state == SlotState::Pending && s.database == worker.database;
            if let Some(head) = slots.heads.get_mut(slot).filter(pending) {
                head.settle();
                slots.release(shared, slot);
                forgotten += 1;
            }
        }
        for loss in shared.losses.iter_mut().filter(|l| l.database == worker.database) {
            loss.events = 0;
        }
        if let Some(drain) = shared.entry(worker) {
            *drain = Drain::UNUSED;
        }
    });
    memory::broadcast();
    forgotten
}

/// What a database has lost and no worker has written down yet.
pub fn loss(database: pg_sys::Oid) -> Option<Loss> {
    memory::locked(|shared, _| shared.losses.iter().find(|l| l.events > 0 && l.database == database).copied())?
}

/// A loss is written down.
pub fn loss_noted(noted: &Loss) {
    memory::locked(|shared, _| {
        if let Some(loss) = shared.losses.iter_mut().find(|l| l.events > 0 && l.database == noted.database) {
            loss.events -= noted.events;
            loss.first_at = noted.last_at;
        }
    });
}

/// How the audit of a database does.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// Whether the launcher is there.
    pub launcher: bool,
    /// How many slots the queue has, for all databases.
    pub slots: i64,
    /// How many of them hold an event, of any database.
    pub used: i64,
    /// How many of them hold an event of this database.
    pub queued: i64,
    /// When the oldest of these was put there, in microseconds since 2000-01-01 UTC.
    pub oldest_queued_at: Option<i64>,
    /// What the worker of this database does.
    pub drain: DrainState,
    /// How many workers in a row have failed.
    pub failures: u32,
    /// Events of this database that are lost, and not yet in `holdfast.audit_loss`.
    pub lost: i64,
    /// The spool's size in bytes.
    pub spooled: u64,
}

/// How the audit of this database does; none without shared memory.
pub fn health(database: pg_sys::Oid) -> Option<Health> {
    let spooled = spool::size(database);
    memory::locked(|shared, slots| {
        let used = slots.heads.iter().filter(|s| s.state != SlotState::Free);
        let own = used.clone().filter(|s| s.database == database);
        let drain = shared.drain(database).copied().unwrap_or(Drain::UNUSED);
        Health {
            launcher: !shared.launcher.is_null(),
            slots: slots.heads.len() as i64,
            used: used.count() as i64,
            queued: own.clone().count() as i64,
            oldest_queued_at: own.map(|s| s.put_at).min(),
            drain: drain.state,
            failures: drain.failures,
            lost: shared.losses.iter().filter(|l| l.database == database).map(|l| l.events).sum(),
            spooled,
        }
    })
}
