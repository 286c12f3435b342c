//! PostgreSQL's heavyweight locks as `src/pg/locks.rs` uses them: modes, a queue for each lock, what a savepoint's end does
//! to them, and the look for deadlocks.
//!
//! Followed are `LockAcquire`, `ProcSleep`, `ProcLockWakeup` (storage/lmgr) and `DeadLockCheck` for the two modes a lock has
//! here: the one that writers share, and the one that a cutover takes.

use crate::state::{Process, TENANTS, TenantId};

/// A lock: `Tag::tenant` of each tenant, then `Tag::all`.
pub type Tag = usize;

/// The lock on all tenants.
pub const ALL: Tag = TENANTS;
const TAGS: usize = TENANTS + 1;

/// The most processes that can hold locks: the sessions, and one for a prepared transaction.
pub const PROCESSES: usize = 5;

/// The process that holds the prepared transaction's locks.
pub const PREPARED: Process = PROCESSES - 1;

/// Bits, one a nesting level: those whose subtransaction acquired a lock, locked a row or wrote.
pub type Levels = u8;

/// The bit of one level.
pub fn level_bit(level: u8) -> Levels {
    1 << level
}

/// A subtransaction that commits gives what it has to its parent.
pub fn merged(levels: Levels, ended: u8) -> Levels {
    if levels & level_bit(ended) == 0 { levels } else { levels & !level_bit(ended) | level_bit(ended - 1) }
}

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// `SHARE`: writers.
    Shared,
    /// `EXCLUSIVE` on a tenant, `INTENT` on all: cutovers.
    Strong,
}

/// Whether two modes exclude each other. Intents on all tenants don't, exclusive locks on a tenant do.
fn conflict(tag: Tag, one: Mode, other: Mode) -> bool {
    match (one, other) {
        (Mode::Shared, Mode::Shared) => false,
        (Mode::Strong, Mode::Strong) => tag != ALL,
        _ => true,
    }
}

/// In which modes, and at which levels, a process holds a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Holding {
    shared: Levels,
    strong: Levels,
}

impl Holding {
    fn of(&mut self, mode: Mode) -> &mut Levels {
        match mode {
            Mode::Shared => &mut self.shared,
            Mode::Strong => &mut self.strong,
        }
    }

    fn conflicts(&self, tag: Tag, with: Mode) -> bool {
        self.shared != 0 && conflict(tag, Mode::Shared, with) || self.strong != 0 && conflict(tag, Mode::Strong, with)
    }
}

/// Who waits for a lock, and for what level's subtransaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// The process.
    pub process: Process,
    /// How it wants the lock.
    pub mode: Mode,
    level: u8,
}

/// All tenants' locks, and the rows that writers fight for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locks {
    held: [[Holding; PROCESSES]; TAGS],
    queues: [Vec<Waiter>; TAGS],
    /// Who has locked the tenant's row of the application, at which levels.
    rows: [Option<(Process, Levels)>; TENANTS],
    /// Who waits for which row.
    row_waits: [Option<TenantId>; PROCESSES],
}

impl Locks {
    /// Whether a process holds a lock in a mode.
    pub fn holds(&self, process: Process, tag: Tag, mode: Mode) -> bool {
        let mut holding = self.held[tag][process];
        *holding.of(mode) != 0
    }

    /// Whether a process waits for a lock.
    pub fn waits(&self, process: Process, tag: Tag) -> bool {
        self.queues[tag].iter().any(|waiter| waiter.process == process)
    }

    /// Takes a lock, or queues for it; whether it was had at once.
    pub fn acquire(&mut self, process: Process, tag: Tag, mode: Mode, level: u8) -> bool {
        let waiter = Waiter { process, mode, level };
        let queue = &mut self.queues[tag];
        // ProcSleep: whoever waits for what this process holds comes after it.
        let mine = self.held[tag][process];
        let place = queue.iter().position(|other| mine.conflicts(tag, other.mode)).unwrap_or(queue.len());
        queue.insert(place, waiter);
        self.wake(tag);
        !self.waits(process, tag)
    }

    /// Grants whatever can be granted, in the order of the queue: nobody passes a waiter whom he excludes.
    fn wake(&mut self, tag: Tag) {
        let mut ahead: Vec<Mode> = Vec::new();
        let queue = std::mem::take(&mut self.queues[tag]);
        for waiter in queue {
            let held = self.held[tag].iter().enumerate();
            let excluded = held.filter(|(process, _)| *process != waiter.process);
            let waits = excluded.clone().any(|(_, holding)| holding.conflicts(tag, waiter.mode))
                || ahead.iter().any(|mode| conflict(tag, *mode, waiter.mode));
            if waits {
                ahead.push(waiter.mode);
                self.queues[tag].push(waiter);
            } else {
                *self.held[tag][waiter.process].of(waiter.mode) |= level_bit(waiter.level);
            }
        }
    }

    /// Gives a lock back before the subtransaction ends.
    pub fn give_back(&mut self, process: Process, tag: Tag, mode: Mode, level: u8) {
        *self.held[tag][process].of(mode) &= !level_bit(level);
        self.wake(tag);
    }

    /// The row of a tenant: taken, or waited for; whether it was had at once.
    pub fn lock_row(&mut self, process: Process, row: TenantId, level: u8) -> bool {
        match &mut self.rows[row] {
            Some((owner, levels)) if *owner == process => *levels |= level_bit(level),
            Some(_) => {
                self.row_waits[process] = Some(row);
                return false;
            }
            free => *free = Some((process, level_bit(level))),
        }
        self.row_waits[process] = None;
        true
    }

    /// Whether nobody else has locked the row.
    pub fn row_is_free(&self, row: TenantId) -> bool {
        self.rows[row].is_none()
    }

    /// A process waits no more.
    pub fn stop_waiting(&mut self, process: Process) {
        self.row_waits[process] = None;
        for tag in 0..TAGS {
            self.queues[tag].retain(|waiter| waiter.process != process);
            self.wake(tag);
        }
    }

    /// A subtransaction rolls back: locks that it acquired are released.
    pub fn release_from(&mut self, process: Process, level: u8) {
        let kept = level_bit(level) - 1;
        for row in &mut self.rows {
            if let Some((_, levels)) = row.as_mut().filter(|(owner, _)| *owner == process) {
                *levels &= kept;
                if *levels == 0 {
                    *row = None;
                }
            }
        }
        for tag in 0..TAGS {
            let holding = &mut self.held[tag][process];
            holding.shared &= kept;
            holding.strong &= kept;
            self.wake(tag);
        }
    }

    /// A subtransaction commits: its parent has its locks.
    pub fn hand_to_parent(&mut self, process: Process, ended: u8) {
        for tag in 0..TAGS {
            let holding = &mut self.held[tag][process];
            holding.shared = merged(holding.shared, ended);
            holding.strong = merged(holding.strong, ended);
        }
        for (owner, levels) in self.rows.iter_mut().flatten() {
            if *owner == process {
                *levels = merged(*levels, ended);
            }
        }
    }

    /// PREPARE TRANSACTION: the locks are the prepared transaction's now.
    pub fn hand_to_prepared(&mut self, process: Process) {
        for tag in 0..TAGS {
            self.held[tag][PREPARED] = std::mem::take(&mut self.held[tag][process]);
        }
        for (owner, _) in self.rows.iter_mut().flatten().filter(|(owner, _)| *owner == process) {
            *owner = PREPARED;
        }
    }

    /// The server restarts: what is left is the prepared transaction's.
    pub fn crash(&mut self) {
        for process in 0..PREPARED {
            self.stop_waiting(process);
        }
        for process in 0..PREPARED {
            self.release_from(process, 0);
        }
    }

    /// For whom a process waits: those who hold what it wants, and those who wait ahead of it for what excludes it.
    fn blockers(&self, process: Process) -> Vec<Process> {
        let mut blockers = Vec::new();
        if let Some((owner, _)) = self.row_waits[process].and_then(|row| self.rows[row]) {
            blockers.push(owner);
        }
        for (tag, queue) in self.queues.iter().enumerate() {
            let Some(place) = queue.iter().position(|waiter| waiter.process == process) else { continue };
            let waiter = queue[place];
            let held = self.held[tag].iter().enumerate();
            let holders = held.filter(|(_, holding)| holding.conflicts(tag, waiter.mode)).map(|(process, _)| process);
            blockers.extend(holders.filter(|holder| *holder != process));
            let ahead = queue[..place].iter().filter(|other| conflict(tag, other.mode, waiter.mode));
            blockers.extend(ahead.map(|other| other.process));
        }
        blockers
    }

    /// The processes of a cycle of waits that `process` is part of; empty if there is none.
    pub fn cycle(&self, process: Process) -> Vec<Process> {
        let mut path = vec![process];
        if self.leads_back(process, &mut path) { path } else { Vec::new() }
    }

    fn leads_back(&self, process: Process, path: &mut Vec<Process>) -> bool {
        let Some(last) = path.last() else { return false };
        for next in self.blockers(*last) {
            if next == process {
                return true;
            }
            if !path.contains(&next) {
                path.push(next);
                if self.leads_back(process, path) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }

    /// Looks for an order of a queue in which `process` is in no deadlock, and puts the queue into it; whether there is one.
    pub fn reorder(&mut self, process: Process) -> bool {
        for tag in 0..TAGS {
            for from in (1..self.queues[tag].len()).rev() {
                for to in (0..from).rev() {
                    let mut other = self.clone();
                    let waiter = other.queues[tag].remove(from);
                    other.queues[tag].insert(to, waiter);
                    if other.cycle(process).is_empty() {
                        other.wake(tag);
                        *self = other;
                        return true;
                    }
                }
            }
        }
        false
    }
}
