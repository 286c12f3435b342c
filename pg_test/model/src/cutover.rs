//! The cutover's steps: `src/api/cutover.rs` and `src/pg/handover.rs`, its commit, and its looks for deadlocks.

use crate::locks::{ALL, Mode};
use crate::mutation::Mutation;
use crate::protocol::Protocol;
use crate::state::{Backend, Breach, Handover, Place, Process, Session, State, TENANTS, UnderWay};

impl Protocol {
    /// `api::cutover::Order::carry_out`, up to where they wait.
    pub(crate) fn hand_over(&self, state: &mut State, process: Process) {
        let next = usize::from(state.sessions[process].handovers_begun);
        let Some(handover) = self.handovers(process).get(next).copied() else { return };
        self.begin(state, process);
        state.sessions[process].handovers_begun += 1;
        let committed = state.owners[handover.tenant()];
        // Carried out before: asked for again, and nothing to do.
        if matches!(handover, Handover::Cutover(_, to) if to == committed) {
            return;
        }
        let seen = self.is(Mutation::NoRereadUnderLock).then_some(committed);
        self.exclude(state, process, UnderWay { handover, seen });
    }

    /// The first half of an attempt in `handover::exclude_writers`.
    pub(crate) fn exclude(&self, state: &mut State, process: Process, under_way: UnderWay) {
        let session = &mut state.sessions[process];
        let level = session.level();
        session.place = Place::CutoverAwaitsTenant(under_way);
        let mode = if self.is(Mutation::SharedByCutover) { Mode::Shared } else { Mode::Strong };
        state.locks.acquire(process, under_way.handover.tenant(), mode, level + 1);
    }

    /// The second.
    pub(crate) fn intend(&self, state: &mut State, process: Process, under_way: UnderWay) {
        let session = &mut state.sessions[process];
        let level = session.level();
        if self.is(Mutation::NoIntentOnAll) {
            session.place = Place::CutoverHasBoth(under_way);
            return;
        }
        session.place = Place::CutoverAwaitsAll(under_way);
        state.locks.acquire(process, ALL, Mode::Strong, level + 1);
    }

    /// `handover::exclude_writers` has both locks.
    pub(crate) fn reread(&self, state: &mut State, process: Process, under_way: UnderWay) {
        let tenant = under_way.handover.tenant();
        let level = state.sessions[process].level();
        state.locks.hand_to_parent(process, level + 1);
        let session = &mut state.sessions[process];
        if !self.is(Mutation::KnownBeforeOwnHandover) {
            session.held[tenant] = None;
        }
        session.accept();
        let from = under_way.seen.unwrap_or_else(|| state.owner_now(process, tenant));
        let to = match under_way.handover {
            Handover::Cutover(_, to) => Some(to),
            Handover::Rollback(_) => state.previous[tenant],
        };
        match to.filter(|to| *to != from) {
            Some(to) => {
                state.begin_change(process, under_way.handover, from);
                state.sessions[process].place = Place::CutoverDecided(to);
            }
            // Carried out before, or never handed over; the locks stay until the transaction ends.
            None => state.sessions[process].place = Place::Idle,
        }
    }

    /// The row is changed.
    pub(crate) fn change(&self, state: &mut State, process: Process, to: Backend) {
        state.change(process, to);
        state.sessions[process].place = Place::Idle;
        if self.is(Mutation::ReleaseBeforeCommit) {
            state.locks.release_from(process, 0);
        }
    }

    /// COMMIT: a writer's whole, a cutover's up to the log.
    pub(crate) fn commit(&self, state: &mut State, process: Process) {
        state.judge(process);
        let transaction = state.sessions[process].transaction;
        let change = transaction.and_then(|t| t.change).filter(|change| change.to.is_some());
        match change {
            Some(change) => {
                state.taint_others(process, change.tenant);
                state.sessions[process].place = Place::Durable;
            }
            None => state.end_transaction(process, self.is(Mutation::CacheKeptAtEnd)),
        }
    }

    /// What follows the log in `CommitTransaction`: ProcArrayEndTransaction, AtEOXact_Inval, ResourceOwnerRelease.
    pub(crate) fn go_on(&self, state: &mut State, process: Process) {
        let keeps_held = self.is(Mutation::CacheKeptAtEnd);
        match state.sessions[process].place {
            Place::Durable => {
                state.apply_change(process);
                state.sessions[process].place = Place::Visible;
            }
            Place::Visible if self.is(Mutation::InvalidationAfterRelease) => {
                state.end_transaction(process, keeps_held);
                state.sessions[process].place = Place::ReleasedUntold;
            }
            Place::Visible => {
                self.tell(state, process);
                state.sessions[process].place = Place::Told;
            }
            Place::ReleasedUntold => {
                self.tell(state, process);
                state.sessions[process].place = Place::Idle;
            }
            _ => state.end_transaction(process, keeps_held),
        }
    }

    /// The invalidation is sent.
    pub(crate) fn tell(&self, state: &mut State, process: Process) {
        if self.is(Mutation::NoInvalidation) {
            return;
        }
        for (other, session) in state.sessions.iter_mut().enumerate() {
            // A process that knows nothing needs no word of it; that it gets one makes no difference.
            session.unheard |= other != process && session.owners != [None; TENANTS];
        }
    }

    /// Whether a cutover that has stepped back would not be in the same deadlock again: the pause between two tries lets
    /// the others go on.
    pub(crate) fn has_a_turn(&self, state: &State, process: Process, under_way: UnderWay) -> bool {
        if self.is(Mutation::QueuedWhileSteppingBack) {
            return false;
        }
        let level = state.sessions[process].level();
        let mut tried = state.locks.clone();
        let had = tried.acquire(process, under_way.handover.tenant(), Mode::Strong, level + 1)
            && tried.acquire(process, ALL, Mode::Strong, level + 1);
        had || tried.cycle(process).is_empty() || tried.reorder(process)
    }

    /// Whether it is at the one of its steps that looks for deadlocks.
    pub(crate) fn is_waiting_cutover(&self, session: &Session) -> bool {
        matches!(session.place, Place::CutoverAwaitsTenant(_) | Place::CutoverAwaitsAll(_))
    }

    /// A waiting cutover looks every 5 ms; everybody else once, after deadlock_timeout, which is far longer: by then a
    /// cycle that has a waiting cutover in it is resolved.
    pub(crate) fn looks_for_deadlock(&self, state: &State, process: Process) -> bool {
        let cycle = state.locks.cycle(process);
        let early = |process: &Process| {
            !self.is(Mutation::NoSteppingBack)
                && state.sessions.get(*process).is_some_and(|session| self.is_waiting_cutover(session))
        };
        !cycle.is_empty() && (early(&process) || !cycle.iter().any(early))
    }

    /// `DeadLockCheck`: a queue in another order, or whoever looks gives up.
    pub(crate) fn detect(&self, state: &mut State, process: Process) {
        if state.locks.reorder(process) {
            return;
        }
        let session = &state.sessions[process];
        let level = session.level();
        let stepping_back = !self.is(Mutation::NoSteppingBack);
        match session.place {
            Place::CutoverAwaitsTenant(under_way) | Place::CutoverAwaitsAll(under_way) if stepping_back => {
                if !self.is(Mutation::QueuedWhileSteppingBack) {
                    state.locks.stop_waiting(process);
                    state.locks.release_from(process, level + 1);
                }
                state.sessions[process].place = Place::SteppedBack(under_way);
            }
            _ => {
                let cutover = |other: &Process| {
                    state.sessions.get(*other).is_some_and(|session| self.is_waiting_cutover(session))
                };
                if !self.is_waiting_cutover(session) && state.locks.cycle(process).iter().any(cutover) {
                    state.breach.get_or_insert(Breach::WriterPaidForCutover);
                }
                self.fail(state, process);
            }
        }
    }
}
