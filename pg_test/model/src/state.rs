//! What the model knows of the server: rows of `holdfast.ownership`, sessions with their caches and transactions, locks.

use crate::locks::{Levels, Locks, PREPARED, level_bit, merged};

/// Tenants that are told apart.
pub const TENANTS: usize = 2;

/// A tenant.
pub type TenantId = usize;

/// A server process: a session, or what holds a prepared transaction's locks.
pub type Process = usize;

/// Who may own a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The default owner.
    Legacy,
    /// The other one.
    Rebuilt,
}

/// What an operator's session is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handover {
    /// `cutover(tenant, to)`
    Cutover(TenantId, Backend),
    /// `rollback_cutover(tenant)`
    Rollback(TenantId),
}

impl Handover {
    /// The tenant.
    pub fn tenant(self) -> TenantId {
        match self {
            Handover::Cutover(tenant, _) | Handover::Rollback(tenant) => tenant,
        }
    }
}

/// A handover under way, with what was read before the lock where a mutation decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnderWay {
    /// What is to be done.
    pub handover: Handover,
    /// The owner before the lock.
    pub seen: Option<Backend>,
}

/// Where a session is inside of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Between statements, in a transaction or not.
    Idle,
    /// A writer waits for a row that another transaction has locked.
    AwaitsRow(TenantId),
    /// A writer waits for its tenant's lock; with the owner, where a mutation has looked already.
    AwaitsTenant(TenantId, Option<Backend>),
    /// It has it.
    HasTenant(TenantId, Option<Backend>),
    /// It has accepted invalidations, and looks next.
    Heard(TenantId, Option<Backend>),
    /// A writer that escalates waits for the lock on all tenants.
    AwaitsAll(TenantId),
    /// It has it.
    HasAll(TenantId),
    /// It has accepted invalidations, and looks next.
    HeardUnderAll(TenantId),
    /// A cutover waits for its tenant.
    CutoverAwaitsTenant(UnderWay),
    /// It has it.
    CutoverHasTenant(UnderWay),
    /// A cutover waits for those who share all tenants.
    CutoverAwaitsAll(UnderWay),
    /// It has both locks.
    CutoverHasBoth(UnderWay),
    /// It has read the row again, and changes it next.
    CutoverDecided(Backend),
    /// It was in a deadlock, holds nothing, and tries again.
    SteppedBack(UnderWay),
    /// A cutover's commit is in the log.
    Durable,
    /// Others see it.
    Visible,
    /// Its invalidation is sent.
    Told,
    /// A mutation has released its locks before.
    ReleasedUntold,
}

/// The change of an ownership row that a transaction has made, or is about to make under its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Whose row.
    pub tenant: TenantId,
    /// The owner before, as history will have it.
    pub from: Backend,
    /// The new owner; none until the row is changed.
    pub to: Option<Backend>,
    /// Whether it is a rollback, which can't be rolled back.
    back: bool,
    level: u8,
}

/// What ends with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The nesting level; 1 without a savepoint.
    pub level: u8,
    /// Whether the innermost subtransaction has failed, so that it can only be rolled back.
    pub failed: bool,
    /// The levels that wrote the tenant.
    pub wrote: [Levels; TENANTS],
    /// Those that may not be committed: the writer was not the owner, or another transaction has changed the owner since.
    pub tainted: [Levels; TENANTS],
    /// A handover of this transaction.
    pub change: Option<Change>,
    /// What its snapshot shows, for a mutation that reads by it.
    pub snapshot: Option<[Backend; TENANTS]>,
}

/// A session, with what its process remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// On whose side.
    pub backend: Backend,
    /// An invalidation has been sent that it has not accepted.
    pub unheard: bool,
    /// `tenants::OWNERS`
    pub owners: [Option<Backend>; TENANTS],
    /// `tenants::HELD`: the tenants checked in this transaction, with the level that holds the lock.
    pub held: [Option<(u8, Backend)>; TENANTS],
    /// `Held::all`
    pub all: Option<u8>,
    /// Its transaction.
    pub transaction: Option<Transaction>,
    /// Where it is.
    pub place: Place,
    /// Writes that it may still begin.
    pub writes_left: u8,
    /// Savepoints likewise.
    pub savepoints_left: u8,
    /// How many of its handovers it has begun.
    pub handovers_begun: u8,
}

impl Session {
    /// `AcceptInvalidationMessages`, and what `invalidation::relation_changed` does then.
    pub fn accept(&mut self) {
        if std::mem::take(&mut self.unheard) {
            self.owners = [None; TENANTS];
        }
    }

    /// The nesting level that a statement runs at.
    pub fn level(&self) -> u8 {
        self.transaction.map_or(1, |transaction| transaction.level)
    }

    /// How many tenants are locked one by one.
    pub fn held_one_by_one(&self) -> usize {
        self.held.iter().flatten().count()
    }
}

/// A transaction that waits for COMMIT PREPARED.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prepared {
    wrote: [bool; TENANTS],
    tainted: [bool; TENANTS],
}

/// What must never happen, and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// A write was committed whose backend was not the tenant's owner from the write to the commit.
    CommittedByNonOwner,
    /// A write of the owner was refused.
    OwnerRefused,
    /// A handover was committed from a backend that did not own the tenant, or to the one that did.
    WrongHistory,
    /// A writer was ended to resolve a deadlock that a cutover's wait was part of.
    WriterPaidForCutover,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Committed and visible: `ownership.owner`.
    pub owners: [Backend; TENANTS],
    /// Where a rollback leads: `ownership.previous_owner`, unless the last handover was one.
    pub previous: [Option<Backend>; TENANTS],
    /// The sessions.
    pub sessions: Vec<Session>,
    /// A prepared transaction, of which there is one at a time.
    pub prepared: Option<Prepared>,
    /// The locks.
    pub locks: Locks,
    /// Crashes that may still happen.
    pub crashes_left: u8,
    /// Cancels, timeouts and terminations likewise.
    pub interrupts_left: u8,
    /// What has gone wrong; then nothing more happens.
    pub breach: Option<Breach>,
}

impl State {
    /// The tenant's owner as a transaction may see it: what is committed, or its own change.
    pub fn owner_now(&self, process: Process, tenant: TenantId) -> Backend {
        let change = self.sessions[process].transaction.and_then(|transaction| transaction.change);
        let own = change.filter(|change| change.tenant == tenant).and_then(|change| change.to);
        own.unwrap_or(self.owners[tenant])
    }

    /// Whether a session is at such a place.
    pub fn is_anybody(&self, at: impl Fn(&Place) -> bool) -> bool {
        self.sessions.iter().any(|session| at(&session.place))
    }

    /// Nothing is left to do.
    pub fn is_over(&self, handovers: impl Fn(Process) -> usize) -> bool {
        let over = |(process, session): (Process, &Session)| {
            session.place == Place::Idle
                && session.transaction.is_none()
                && session.writes_left == 0
                && usize::from(session.handovers_begun) == handovers(process)
        };
        self.prepared.is_none() && self.sessions.iter().enumerate().all(over)
    }

    /// Notes the start of a handover's change at the current level.
    pub fn begin_change(&mut self, process: Process, handover: Handover, from: Backend) {
        if let Some(transaction) = &mut self.sessions[process].transaction {
            let (tenant, back) = (handover.tenant(), matches!(handover, Handover::Rollback(_)));
            transaction.change = Some(Change { tenant, from, to: None, back, level: transaction.level });
        }
    }

    /// The row is changed, and the command has ended: the session's own cache hears of it first.
    pub fn change(&mut self, process: Process, to: Backend) {
        let session = &mut self.sessions[process];
        if let Some(change) = session.transaction.as_mut().and_then(|transaction| transaction.change.as_mut()) {
            change.to = Some(to);
        }
        session.owners = [None; TENANTS];
    }

    /// A row of the tenant is written.
    pub fn write(&mut self, process: Process, tenant: TenantId) {
        let right = self.owner_now(process, tenant) == self.sessions[process].backend;
        if let Some(transaction) = &mut self.sessions[process].transaction {
            let bit = level_bit(transaction.level);
            transaction.wrote[tenant] |= bit;
            if !right {
                transaction.tainted[tenant] |= bit;
            }
        }
    }

    /// The owner of a tenant changes: whoever else has written it and is not committed must not be any more.
    pub fn taint_others(&mut self, process: Process, tenant: TenantId) {
        let others = self.sessions.iter_mut().enumerate().filter(|(other, _)| *other != process);
        for transaction in others.filter_map(|(_, session)| session.transaction.as_mut()) {
            transaction.tainted[tenant] |= transaction.wrote[tenant];
        }
        if let Some(prepared) = &mut self.prepared {
            prepared.tainted[tenant] |= prepared.wrote[tenant];
        }
    }

    /// The owner that a durable commit has left in the log.
    pub fn apply_change(&mut self, process: Process) {
        let change = self.sessions[process].transaction.and_then(|transaction| transaction.change);
        let Some(Change { tenant, from, to: Some(to), back, .. }) = change else { return };
        self.owners[tenant] = to;
        self.previous[tenant] = (!back).then_some(from);
        self.taint_others(process, tenant);
    }

    /// Whether what a transaction wrote may be committed; notes it if not.
    pub fn judge(&mut self, process: Process) {
        let Some(transaction) = self.sessions[process].transaction else { return };
        if transaction.tainted.iter().any(|levels| *levels != 0) {
            self.breach.get_or_insert(Breach::CommittedByNonOwner);
        }
        if let Some(Change { tenant, from, to: Some(to), .. }) = transaction.change
            && (self.owners[tenant] != from || from == to)
        {
            self.breach.get_or_insert(Breach::WrongHistory);
        }
    }

    /// A subtransaction commits.
    pub fn release_savepoint(&mut self, process: Process) {
        let session = &mut self.sessions[process];
        let Some(transaction) = &mut session.transaction else { return };
        let ended = transaction.level;
        transaction.level -= 1;
        for levels in transaction.wrote.iter_mut().chain(&mut transaction.tainted) {
            *levels = merged(*levels, ended);
        }
        if let Some(change) = &mut transaction.change {
            change.level = change.level.min(ended - 1);
        }
        // tenants::subtransaction_ended
        for (level, _) in session.held.iter_mut().flatten() {
            *level = (*level).min(ended - 1);
        }
        session.all = session.all.map(|level| level.min(ended - 1));
        self.locks.hand_to_parent(process, ended);
    }

    /// A subtransaction rolls back; level 1 is the whole transaction.
    pub fn roll_back_level(&mut self, process: Process, keeps_held: bool, keeps_all: bool) {
        let session = &mut self.sessions[process];
        let Some(transaction) = &mut session.transaction else { return };
        let ended = transaction.level;
        let kept = level_bit(ended) - 1;
        for levels in transaction.wrote.iter_mut().chain(&mut transaction.tainted) {
            *levels &= kept;
        }
        if transaction.change.is_some_and(|change| change.level >= ended) {
            transaction.change = None;
            // AtEOSubXact_Inval: what the session itself has heard of its change is forgotten.
            session.owners = [None; TENANTS];
        }
        // tenants::subtransaction_ended
        if !keeps_held {
            for held in &mut session.held {
                *held = held.filter(|(level, _)| *level < ended);
            }
        }
        if !keeps_all {
            session.all = session.all.filter(|level| *level < ended);
        }
        self.locks.stop_waiting(process);
        self.locks.release_from(process, ended);
    }

    /// The transaction has ended: locks go, and with them what was checked under them (`tenants::transaction_ended`).
    pub fn end_transaction(&mut self, process: Process, keeps_held: bool) {
        self.locks.stop_waiting(process);
        self.locks.release_from(process, 0);
        let session = &mut self.sessions[process];
        if session.transaction.take().is_some_and(|transaction| transaction.change.is_some()) {
            // AtEOXact_Inval: of its own change a session hears in any case, also where it rolls back.
            session.owners = [None; TENANTS];
        }
        session.place = Place::Idle;
        if !keeps_held {
            session.held = [None; TENANTS];
            session.all = None;
        }
    }

    /// PREPARE TRANSACTION.
    pub fn prepare(&mut self, process: Process, keeps_locks: bool) {
        let Some(transaction) = self.sessions[process].transaction else { return };
        self.prepared = Some(Prepared {
            wrote: transaction.wrote.map(|levels| levels != 0),
            tainted: transaction.tainted.map(|levels| levels != 0),
        });
        if keeps_locks {
            self.locks.hand_to_prepared(process);
        }
        self.end_transaction(process, false);
    }

    /// COMMIT PREPARED or ROLLBACK PREPARED, by whom ever.
    pub fn finish_prepared(&mut self, commits: bool) {
        if let Some(prepared) = self.prepared.take()
            && commits
            && prepared.tainted.contains(&true)
        {
            self.breach.get_or_insert(Breach::CommittedByNonOwner);
        }
        self.locks.release_from(PREPARED, 0);
    }

    /// kill -9 of any process: the server ends them all and starts again from its log.
    pub fn crash(&mut self, keeps_prepared_locks: bool) {
        for process in 0..self.sessions.len() {
            if self.sessions[process].place == Place::Durable {
                self.apply_change(process);
            }
        }
        self.locks.crash();
        if !keeps_prepared_locks {
            self.locks.release_from(PREPARED, 0);
        }
        for session in &mut self.sessions {
            renew(session);
        }
    }

    /// Ends a session's process in an orderly way; its client connects anew.
    pub fn terminate(&mut self, process: Process) {
        self.end_transaction(process, false);
        renew(&mut self.sessions[process]);
    }
}

/// A new process in the place of one that has ended.
fn renew(session: &mut Session) {
    session.transaction = None;
    session.place = Place::Idle;
    session.unheard = false;
    session.owners = [None; TENANTS];
    session.held = [None; TENANTS];
    session.all = None;
}
