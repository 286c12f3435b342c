//! The shared memory as the launcher and the drain workers see it: which databases have a worker, and which events a worker
//! has taken.

use pgrx::pg_sys;

use super::memory::{self, DATABASES, Drain, DrainState, Loss, SlotState};
use super::queue::{self, Claim};
use super::spool::{self, SpoolError};
use crate::policy::spool::Batch;

/// How long after a worker's failure the next one is started, in microseconds: twice as long each time, up to the second
/// figure.
const FIRST_RETRY: i64 = 200_000;
const LAST_RETRY: i64 = 60_000_000;

/// The launcher announces itself, or takes its latch back when it is told to stop.
pub fn set_launcher(latch: *mut pg_sys::Latch) {
    memory::locked(|shared, _| {
        shared.launcher = latch;
        shared.stopping = latch.is_null();
        shared.launcher_gone_at = memory::now();
    });
    memory::broadcast();
}

/// A database for which a worker should be started.
pub struct Wanted {
    pub database: pg_sys::Oid,
    /// Whether the last worker failed.
    pub cautious: bool,
}

/// The databases that have something to be stored, nobody who stores it, and no reason to wait. Each counts as having a
/// worker from now on. `spooled` are those that have something in the spool.
pub fn claim_undrained(spooled: &[pg_sys::Oid]) -> Vec<Wanted> {
    let now = memory::now();
    let mut wanted = Vec::with_capacity(DATABASES);
    memory::locked(|shared, slots| {
        let pending = slots.heads.iter().filter(|s| s.state == SlotState::Pending).map(|s| s.database);
        let lost: Vec<pg_sys::Oid> = shared.losses.iter().filter(|l| l.events > 0).map(|l| l.database).collect();
        for database in pending.chain(spooled.iter().copied()).chain(lost) {
            let failures = match shared.drain(database) {
                None => 0,
                Some(drain) if drain.state == DrainState::Failing && drain.retry_at <= now => drain.failures,
                Some(_) => continue,
            };
            let unused = shared.drains.iter().position(|d| d.state == DrainState::Unused);
            let entry = shared.drains.iter().position(|d| d.state == DrainState::Failing && d.database == database);
            let Some(entry) = entry.or(unused).and_then(|n| shared.drains.get_mut(n)) else { break };
            shared.serial += 1;
            *entry = Drain { state: DrainState::Starting, database, serial: shared.serial, failures, ..Drain::UNUSED };
            wanted.push(Wanted { database, cautious: failures > 0 });
        }
    });
    wanted
}

/// How long until the next failed worker is tried again, in microseconds; none if there is none.
pub fn next_retry() -> Option<i64> {
    let now = memory::now();
    memory::locked(|shared, _| {
        let failing = shared.drains.iter().filter(|d| d.state == DrainState::Failing);
        failing.map(|d| (d.retry_at - now).max(0)).min()
    })?
}

/// The drains that are starting or running: by database and process, 0 for one that hasn't got to run yet.
pub fn drains() -> Vec<(pg_sys::Oid, i32)> {
    let mut drains = Vec::with_capacity(DATABASES);
    memory::locked(|shared, _| {
        let live = shared.drains.iter().filter(|d| matches!(d.state, DrainState::Starting | DrainState::Running));
        drains.extend(live.map(|d| (d.database, d.pid)));
    });
    drains
}

/// A worker has ended, or couldn't be started: what it had taken is pending again, unless the spool has it meanwhile.
pub fn drain_ended(database: pg_sys::Oid) {
    let now = memory::now();
    memory::locked(|shared, slots| {
        for head in slots.heads.iter_mut().filter(|s| s.database == database) {
            head.state = match head.state {
                SlotState::Taken => SlotState::Pending,
                SlotState::TakenSpooling => SlotState::Spooling,
                SlotState::TakenSpooled => SlotState::Free,
                other => other,
            };
        }
        if let Some(drain) = shared.drain(database) {
            let failures = if drain.sound { 0 } else { drain.failures + 1 };
            let pause = (FIRST_RETRY << failures.saturating_sub(1).min(16)).min(LAST_RETRY);
            *drain = match failures {
                0 => Drain::UNUSED,
                _ => Drain { state: DrainState::Failing, database, failures, retry_at: now + pause, ..Drain::UNUSED },
            };
        }
    });
    memory::broadcast();
}

/// The worker of a database is at work: sessions may wake it themselves. Returns what names it.
pub fn drain_started(database: pg_sys::Oid, latch: *mut pg_sys::Latch) -> Batch {
    let batch = memory::locked(|shared, _| {
        let origin = shared.origin;
        let serial = shared.drain(database).map_or(0, |drain| {
            // SAFETY: a plain read.
            (drain.state, drain.latch, drain.pid) = (DrainState::Running, latch, unsafe { pg_sys::MyProcPid });
            drain.serial
        });
        Batch { origin, drain: serial, number: 0 }
    });
    batch.unwrap_or(Batch { origin: 0, drain: 0, number: 0 })
}

/// The worker of a database could not store what it had: however it ends, it has failed.
pub fn drain_failed(database: pg_sys::Oid) {
    memory::locked(|shared, _| {
        if let Some(drain) = shared.drain(database) {
            drain.sound = false;
        }
    });
}

/// The worker of a database stops, unless something is pending. Returns whether it may.
pub fn drain_may_stop(database: pg_sys::Oid) -> bool {
    memory::locked(|shared, slots| {
        if slots.heads.iter().any(|s| s.database == database && s.state != SlotState::Free) {
            return false;
        }
        if let Some(drain) = shared.drain(database) {
            *drain = Drain::UNUSED;
        }
        true
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
    /// The transaction that may have committed it already.
    pub doubt: Option<Batch>,
}

/// Takes the pending events of a database, oldest first, at most `limit` of them, for a transaction of its worker.
pub fn take(database: pg_sys::Oid, limit: usize, batch: Batch) -> Vec<Taken> {
    let now = memory::now();
    memory::locked(|shared, slots| {
        let pending = slots.heads.iter().enumerate();
        let pending = pending.filter(|(_, s)| s.state == SlotState::Pending && s.database == database);
        let mut chosen: Vec<(u64, usize)> = pending.map(|(n, s)| (s.sequence, n)).collect();
        chosen.sort_unstable();
        chosen.truncate(limit);
        let mut taken = Vec::with_capacity(chosen.len());
        for (sequence, slot) in chosen {
            let bytes = slots.read(slot).to_vec();
            let Some(head) = slots.heads.get_mut(slot) else { continue };
            let doubt = (head.batch.number != 0).then_some(head.batch);
            (head.state, head.batch) = (SlotState::Taken, batch);
            taken.push(Taken { slot, sequence, bytes, occurrences: head.occurrences, last_at: head.last_at, doubt });
        }
        if let Some(drain) = shared.drain(database).filter(|_| !taken.is_empty()) {
            drain.busy_since = now;
        }
        taken
    })
    .unwrap_or_default()
}

/// The taken events are committed: whoever waits may go on.
pub fn release(database: pg_sys::Oid, taken: &[Taken]) {
    memory::locked(|shared, slots| {
        if let Some(drain) = shared.drain(database) {
            (drain.sound, drain.busy_since) = (true, 0);
        }
        for event in taken {
            let Some(head) = slots.heads.get_mut(event.slot) else { continue };
            // It may have been made pending again, and even been taken by another worker, meanwhile.
            if head.sequence != event.sequence {
                continue;
            }
            match head.state {
                SlotState::Taken | SlotState::TakenSpooling => head.settle(),
                SlotState::TakenSpooled => {}
                SlotState::Free | SlotState::Pending | SlotState::Spooling => continue,
            }
            head.state = SlotState::Free;
        }
    });
    memory::broadcast();
}

/// Writes a database's pending events to the spool, since no worker can be had for it; with none given, those of all.
///
/// # Errors
/// At the first one that can't be written.
pub fn spool_pending(database: Option<pg_sys::Oid>) -> Result<usize, SpoolError> {
    let mut spooled = 0;
    while let Some(claim) = claim_oldest(database) {
        queue::write(claim)?;
        spooled += 1;
    }
    Ok(spooled)
}

fn claim_oldest(database: Option<pg_sys::Oid>) -> Option<Claim> {
    memory::locked(|shared, slots| {
        let pending = slots.heads.iter().enumerate().filter(|(_, s)| s.state == SlotState::Pending);
        let ours = pending.filter(|(_, s)| database.is_none_or(|database| s.database == database));
        let oldest = ours.min_by_key(|(_, s)| s.sequence).map(|(n, _)| n)?;
        queue::claim(shared, slots, oldest)
    })?
}

/// Forgets a database that isn't there any more. Returns how many events of it were waiting.
pub fn forget(database: pg_sys::Oid) -> usize {
    let forgotten = memory::locked(|shared, slots| {
        let own = slots.heads.iter_mut().filter(|s| s.database == database && s.state == SlotState::Pending);
        let forgotten = own
            .map(|head| {
                head.settle();
                head.state = SlotState::Free;
            })
            .count();
        for loss in shared.losses.iter_mut().filter(|l| l.database == database) {
            loss.events = 0;
        }
        if let Some(drain) = shared.drain(database) {
            *drain = Drain::UNUSED;
        }
        forgotten
    });
    memory::broadcast();
    forgotten.unwrap_or(0)
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
