//! The writer's steps: `src/pg/tenants.rs`, and how statements begin and fail.

use crate::locks::{ALL, Mode};
use crate::mutation::Mutation;
use crate::protocol::Protocol;
use crate::state::{Backend, Breach, Place, Process, Session, State, TENANTS, TenantId, Transaction};

impl Protocol {
    /// `tenants::hold`, up to where it waits.
    pub(crate) fn hold(&self, state: &mut State, process: Process, tenant: TenantId) {
        let session = &state.sessions[process];
        let level = session.level();
        if let Some((_, owner)) = session.held[tenant] {
            return self.decide(state, process, tenant, owner);
        }
        if session.all.is_some() {
            let owner = self.look(state, process, tenant);
            return self.decide(state, process, tenant, owner);
        }
        if session.held_one_by_one() >= self.scene.escalate_after {
            state.sessions[process].place = Place::AwaitsAll(tenant);
            state.locks.acquire(process, ALL, Mode::Shared, level);
            return;
        }
        let looked = self.is(Mutation::LookBeforeLock).then(|| self.look(state, process, tenant));
        if self.is(Mutation::NoLock) {
            state.sessions[process].place = Place::HasTenant(tenant, looked);
        } else {
            state.sessions[process].place = Place::AwaitsTenant(tenant, looked);
            state.locks.acquire(process, tenant, Mode::Shared, level);
        }
    }

    /// `tenants::remembered`, else `tenants::read`.
    pub(crate) fn look(&self, state: &mut State, process: Process, tenant: TenantId) -> Backend {
        if let Some(owner) = state.sessions[process].owners[tenant] {
            return owner;
        }
        let snapshot = state.sessions[process].transaction.and_then(|t| t.snapshot);
        let owner = snapshot.map_or_else(|| state.owner_now(process, tenant), |snapshot| snapshot[tenant]);
        state.sessions[process].owners[tenant] = Some(owner);
        owner
    }

    /// `trigger::check`
    pub(crate) fn decide(&self, state: &mut State, process: Process, tenant: TenantId, owner: Backend) {
        let backend = state.sessions[process].backend;
        state.sessions[process].place = Place::Idle;
        if owner == backend {
            state.write(process, tenant);
            return;
        }
        if state.owner_now(process, tenant) == backend {
            state.breach.get_or_insert(Breach::OwnerRefused);
        }
        self.fail(state, process);
    }

    /// The statement ends with an error, and with it the innermost subtransaction.
    pub(crate) fn fail(&self, state: &mut State, process: Process) {
        let Some(transaction) = state.sessions[process].transaction else { return };
        if transaction.level == 1 {
            return state.end_transaction(process, self.is(Mutation::CacheKeptAtEnd));
        }
        self.roll_back_level(state, process);
        let session = &mut state.sessions[process];
        session.place = Place::Idle;
        if let Some(transaction) = &mut session.transaction {
            transaction.failed = true;
        }
    }

    /// The innermost subtransaction rolls back.
    pub(crate) fn roll_back_level(&self, state: &mut State, process: Process) {
        let keeps_held = self.is(Mutation::CacheKeptAtSavepointRollback);
        state.roll_back_level(process, keeps_held, self.is(Mutation::AllKeptAtSavepointRollback));
    }

    /// A statement begins, and with the first one a transaction.
    pub(crate) fn begin(&self, state: &mut State, process: Process) {
        let snapshot = self.is(Mutation::StaleRead).then_some(state.owners);
        let session = &mut state.sessions[process];
        session.accept();
        session.transaction.get_or_insert(Transaction {
            level: 1,
            failed: false,
            wrote: [0; TENANTS],
            tainted: [0; TENANTS],
            change: None,
            snapshot,
        });
    }

    /// `AcceptInvalidationMessages` in `tenants::hold` and `share_all`.
    pub(crate) fn accept(&self, session: &mut Session) {
        let level = session.level();
        session.place = match session.place {
            Place::HasTenant(tenant, looked) => {
                if !self.is(Mutation::InvalidationsNotAcceptedAfterLock) {
                    session.accept();
                }
                Place::Heard(tenant, looked)
            }
            Place::HasAll(tenant) => {
                session.all = Some(level);
                if !self.is(Mutation::InvalidationsNotAcceptedAfterAll) {
                    session.accept();
                }
                Place::HeardUnderAll(tenant)
            }
            other => other,
        };
    }
}
