//! The protocol's steps.

use stateright::{Model, Property};

use crate::locks::{ALL, Locks, Mode};
use crate::mutation::{HISTORY, Mutation, NO_STANDSTILL, OWNER_ALONE, OWNER_WELCOME, WRITERS_FIRST};
use crate::scenes::Scene;
use crate::state::{Backend, Breach, Handover, Place, Process, Session, State, TENANTS, TenantId};

/// What one process does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Begins to write a tenant: its row, which others may have locked, or a new one.
    Write(Process, TenantId, Row),
    /// Gets the row that it waited for.
    TakeRow(Process),
    /// Accepts invalidations under its new lock.
    Accept(Process),
    /// Looks up the owner, and writes or is refused.
    Look(Process),
    /// SAVEPOINT
    Savepoint(Process),
    /// RELEASE SAVEPOINT
    Release(Process),
    /// ROLLBACK TO SAVEPOINT
    RollBackTo(Process),
    /// COMMIT; of a cutover, until it is in the log.
    Commit(Process),
    /// ROLLBACK
    Abort(Process),
    /// PREPARE TRANSACTION
    Prepare(Process),
    /// Begins its next handover: looks whether there is anything to do, and asks for the tenant's lock.
    HandOver(Process),
    /// Asks for the intent lock on all tenants.
    Intend(Process),
    /// Reads the row again under both locks, and decides.
    Reread(Process),
    /// Changes the row.
    Change(Process),
    /// Looks for a deadlock while it waits.
    Detect(Process),
    /// Tries again after it has stepped back.
    Retry(Process),
    /// The next part of a cutover's commit.
    GoOn(Process),
    /// A cancel, or a timeout: the statement fails.
    Interrupt(Process),
    /// pg_terminate_backend: the session ends.
    Terminate(Process),
    /// COMMIT PREPARED
    CommitPrepared,
    /// ROLLBACK PREPARED
    RollBackPrepared,
    /// kill -9 of any process.
    Crash,
}

/// Which row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// One that others write as well.
    Shared,
    /// One of its own.
    New,
}

/// A scene, played rightly or with something wrong.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// Who is there, and what they may do.
    pub scene: &'static Scene,
    /// What is wrong.
    pub mutation: Option<Mutation>,
}

impl Protocol {
    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn handovers(&self, process: Process) -> &'static [Handover] {
        self.scene.parts[process].handovers
    }

    /// What a session may do next, interrupts aside.
    fn steps_of(&self, state: &State, process: Process, steps: &mut Vec<Action>) {
        let session = &state.sessions[process];
        match session.place {
            Place::Idle => self.statements_of(state, process, steps),
            Place::AwaitsRow(row) if state.locks.row_is_free(row) => steps.push(Action::TakeRow(process)),
            Place::HasTenant(..) | Place::HasAll(_) => steps.push(Action::Accept(process)),
            Place::Heard(..) | Place::HeardUnderAll(_) => steps.push(Action::Look(process)),
            Place::CutoverHasTenant(_) => steps.push(Action::Intend(process)),
            Place::CutoverHasBoth(_) => steps.push(Action::Reread(process)),
            Place::CutoverDecided(_) => steps.push(Action::Change(process)),
            Place::SteppedBack(under_way) if self.has_a_turn(state, process, under_way) => {
                steps.push(Action::Retry(process));
            }
            Place::Durable | Place::Visible | Place::Told | Place::ReleasedUntold => steps.push(Action::GoOn(process)),
            _ => {}
        }
        if self.looks_for_deadlock(state, process) {
            steps.push(Action::Detect(process));
        }
    }

    fn statements_of(&self, state: &State, process: Process, steps: &mut Vec<Action>) {
        let (session, part) = (&state.sessions[process], &self.scene.parts[process]);
        let (level, failed) = session.transaction.map_or((0, false), |t| (t.level, t.failed));
        if level > 1 {
            steps.push(Action::RollBackTo(process));
        }
        if level > 0 {
            steps.push(Action::Abort(process));
        }
        if failed {
            return;
        }
        if session.writes_left > 0 {
            for tenant in part.tenants {
                steps.push(Action::Write(process, *tenant, Row::New));
                if self.scene.rows {
                    steps.push(Action::Write(process, *tenant, Row::Shared));
                }
            }
        }
        let changed = session.transaction.is_some_and(|transaction| transaction.change.is_some());
        let hands_over = usize::from(session.handovers_begun) < part.handovers.len();
        // One tenant a transaction.
        if hands_over && !changed {
            steps.push(Action::HandOver(process));
        }
        if session.savepoints_left > 0 && (session.writes_left > 0 || hands_over) {
            steps.push(Action::Savepoint(process));
        }
        if level > 1 {
            steps.push(Action::Release(process));
        }
        if level > 0 {
            steps.push(Action::Commit(process));
        }
        // A transaction that has sent a notification can't be prepared.
        if level == 1 && part.prepares && !changed && state.prepared.is_none() {
            steps.push(Action::Prepare(process));
        }
    }

    /// Whoever waited for a lock and has it now is one place further.
    fn settle(state: &mut State) {
        let State { sessions, locks, .. } = state;
        for (process, session) in sessions.iter_mut().enumerate() {
            let had = |locks: &Locks, tag| !locks.waits(process, tag);
            session.place = match session.place {
                Place::AwaitsTenant(tenant, looked) if had(locks, tenant) => Place::HasTenant(tenant, looked),
                Place::AwaitsAll(tenant) if had(locks, ALL) => Place::HasAll(tenant),
                Place::CutoverAwaitsTenant(u) if had(locks, u.handover.tenant()) => Place::CutoverHasTenant(u),
                Place::CutoverAwaitsAll(u) if had(locks, ALL) => Place::CutoverHasBoth(u),
                other => other,
            };
        }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Write(process, tenant, row) => {
                self.begin(state, process);
                let session = &mut state.sessions[process];
                session.writes_left -= 1;
                let level = session.level();
                if row == Row::Shared && !state.locks.lock_row(process, tenant, level) {
                    state.sessions[process].place = Place::AwaitsRow(tenant);
                } else {
                    self.hold(state, process, tenant);
                }
            }
            Action::TakeRow(process) => {
                if let Place::AwaitsRow(tenant) = state.sessions[process].place {
                    let level = state.sessions[process].level();
                    state.locks.lock_row(process, tenant, level);
                    self.hold(state, process, tenant);
                }
            }
            Action::Accept(process) => self.accept(&mut state.sessions[process]),
            Action::Look(process) => match state.sessions[process].place {
                Place::Heard(tenant, looked) => {
                    let owner = looked.unwrap_or_else(|| self.look(state, process, tenant));
                    let session = &mut state.sessions[process];
                    session.held[tenant] = Some((session.level(), owner));
                    self.decide(state, process, tenant, owner);
                }
                Place::HeardUnderAll(tenant) => {
                    let owner = self.look(state, process, tenant);
                    self.decide(state, process, tenant, owner);
                }
                _ => {}
            },
            Action::Savepoint(process) => {
                self.begin(state, process);
                let session = &mut state.sessions[process];
                session.savepoints_left -= 1;
                if let Some(transaction) = &mut session.transaction {
                    transaction.level += 1;
                }
            }
            Action::Release(process) => state.release_savepoint(process),
            Action::RollBackTo(process) => {
                if state.sessions[process].transaction.is_some_and(|t| !t.failed) {
                    self.roll_back_level(state, process);
                }
                if let Some(transaction) = &mut state.sessions[process].transaction {
                    transaction.level -= 1;
                    transaction.failed = false;
                }
            }
            Action::Commit(process) => self.commit(state, process),
            Action::Abort(process) => state.end_transaction(process, self.is(Mutation::CacheKeptAtEnd)),
            Action::Prepare(process) => state.prepare(process, !self.is(Mutation::PreparedKeepsNoLock)),
            Action::HandOver(process) => self.hand_over(state, process),
            Action::Intend(process) => {
                if let Place::CutoverHasTenant(under_way) = state.sessions[process].place {
                    self.intend(state, process, under_way);
                }
            }
            Action::Reread(process) => {
                if let Place::CutoverHasBoth(under_way) = state.sessions[process].place {
                    self.reread(state, process, under_way);
                }
            }
            Action::Change(process) => {
                if let Place::CutoverDecided(to) = state.sessions[process].place {
                    self.change(state, process, to);
                }
            }
            Action::Detect(process) => self.detect(state, process),
            Action::Retry(process) => {
                if let Place::SteppedBack(under_way) = state.sessions[process].place {
                    self.exclude(state, process, under_way);
                }
            }
            Action::GoOn(process) => self.go_on(state, process),
            Action::Interrupt(process) => {
                state.interrupts_left -= 1;
                self.fail(state, process);
            }
            Action::Terminate(process) => {
                state.interrupts_left -= 1;
                state.terminate(process);
            }
            Action::CommitPrepared => state.finish_prepared(true),
            Action::RollBackPrepared => state.finish_prepared(false),
            Action::Crash => {
                state.crashes_left -= 1;
                state.crash(!self.is(Mutation::PreparedLockLostInCrash));
            }
        }
    }

    /// Whether anybody can go on by himself, without a timeout, a cancel or a crash.
    fn goes_on(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        (0..state.sessions.len()).any(|process| {
            self.steps_of(state, process, &mut steps);
            !steps.is_empty()
        }) || state.prepared.is_some()
    }

    fn is_over(&self, state: &State) -> bool {
        state.is_over(|process| self.handovers(process).len())
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let sessions = self.scene.parts.iter().map(|part| Session {
            backend: part.backend,
            unheard: false,
            owners: [None; TENANTS],
            held: [None; TENANTS],
            all: None,
            transaction: None,
            place: Place::Idle,
            writes_left: part.writes,
            savepoints_left: part.savepoints,
            handovers_begun: 0,
        });
        vec![State {
            owners: [Backend::Legacy; TENANTS],
            previous: [None; TENANTS],
            sessions: sessions.collect(),
            prepared: None,
            locks: Locks::default(),
            crashes_left: self.scene.crashes,
            interrupts_left: self.scene.interrupts,
            breach: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.breach.is_some() {
            return;
        }
        for process in 0..state.sessions.len() {
            self.steps_of(state, process, actions);
            let session = &state.sessions[process];
            let waits = matches!(
                session.place,
                Place::AwaitsRow(_)
                    | Place::AwaitsTenant(..)
                    | Place::AwaitsAll(_)
                    | Place::CutoverAwaitsTenant(_)
                    | Place::CutoverAwaitsAll(_)
                    | Place::SteppedBack(_)
            );
            if state.interrupts_left > 0 {
                if waits {
                    actions.push(Action::Interrupt(process));
                }
                let commits =
                    matches!(session.place, Place::Durable | Place::Visible | Place::Told | Place::ReleasedUntold);
                // Commits hold interrupts.
                if session.transaction.is_some() && !commits {
                    actions.push(Action::Terminate(process));
                }
            }
        }
        if state.prepared.is_some() {
            actions.extend([Action::CommitPrepared, Action::RollBackPrepared]);
        }
        if state.crashes_left > 0 && !self.is_over(state) {
            actions.push(Action::Crash);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        Protocol::settle(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        vec![
            Property::always(OWNER_ALONE, |_, state: &State| state.breach != Some(Breach::CommittedByNonOwner)),
            Property::always(OWNER_WELCOME, |_, state: &State| state.breach != Some(Breach::OwnerRefused)),
            Property::always(HISTORY, |_, state: &State| state.breach != Some(Breach::WrongHistory)),
            Property::always(WRITERS_FIRST, |_, state: &State| state.breach != Some(Breach::WriterPaidForCutover)),
            Property::always(NO_STANDSTILL, |model: &Protocol, state: &State| {
                state.breach.is_some() || model.is_over(state) || model.goes_on(state)
            }),
            Property::always("what is remembered as checked is locked", |model: &Protocol, state: &State| {
                model.mutation.is_some() || model.holds_what_it_remembers(state)
            }),
            Property::eventually("all comes to an end", |model: &Protocol, state: &State| {
                state.breach.is_some() || model.is_over(state)
            }),
            Property::sometimes("a cutover is committed", |_, state: &State| {
                state.owners != [Backend::Legacy; TENANTS]
            }),
            Property::sometimes("a tenant is back", |model: &Protocol, state: &State| {
                let back = |(process, session): (Process, &Session)| {
                    let begun = usize::from(session.handovers_begun);
                    matches!(model.handovers(process).get(begun.wrapping_sub(1)), Some(Handover::Rollback(_)))
                        && session.place == Place::Told
                };
                state.sessions.iter().enumerate().any(back)
            }),
            Property::sometimes("a writer is held", |_, state: &State| {
                state.is_anybody(|place| matches!(place, Place::AwaitsTenant(..)))
            }),
            Property::sometimes("a writer that escalates is held", |_, state: &State| {
                state.is_anybody(|place| matches!(place, Place::AwaitsAll(_)))
            }),
            Property::sometimes("a cutover waits for its tenant", |_, state: &State| {
                state.is_anybody(|place| matches!(place, Place::CutoverAwaitsTenant(_)))
            }),
            Property::sometimes("a cutover waits for all tenants", |_, state: &State| {
                state.is_anybody(|place| matches!(place, Place::CutoverAwaitsAll(_)))
            }),
            Property::sometimes("a cutover steps back", |_, state: &State| {
                state.is_anybody(|place| matches!(place, Place::SteppedBack(_)))
            }),
            Property::sometimes("a cutover waits for a prepared transaction after a crash", |model, state: &State| {
                state.prepared.is_some()
                    && state.crashes_left < model.scene.crashes
                    && state.is_anybody(|place| matches!(place, Place::CutoverAwaitsTenant(_)))
            }),
            Property::sometimes("a statement fails in a savepoint", |_, state: &State| {
                state.sessions.iter().any(|session| session.transaction.is_some_and(|t| t.failed))
            }),
        ]
    }
}

impl Protocol {
    /// What `tenants::held` asserts.
    fn holds_what_it_remembers(&self, state: &State) -> bool {
        state.sessions.iter().enumerate().all(|(process, session)| {
            let tenants = session.held.iter().enumerate().filter(|(_, held)| held.is_some());
            tenants.into_iter().all(|(tenant, _)| state.locks.holds(process, tenant, Mode::Shared))
                && (session.all.is_none() || state.locks.holds(process, ALL, Mode::Shared))
        })
    }
}
