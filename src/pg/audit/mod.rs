//! Records refusals so that they survive the rollback that they cause.
//!
//! The session hands the event to the extension's worker through shared memory ([`queue`]) and waits, bounded, until the
//! worker has committed it ([`drain`]); only then is the error raised. So an application never sees a refusal that isn't
//! in `blocked_writes`. What is merely observed doesn't wait.

mod days;
mod drain;
mod launcher;
mod ledger;
mod memory;
mod queue;
pub mod retention;
pub mod schedule;
mod spool;
mod store;
mod watch;
mod workers;

use std::ptr;

use pgrx::pg_sys;

use memory::{Complaint, ROOM};

pub use ledger::keep_worker_out;
pub use memory::{DrainState, REGION as QUEUE};
pub use workers::Health;

use super::report::Report;
use super::session::{self, Session};
use super::{glass, query_text, trigger};
use crate::policy::events::{Event, Origin, Outcome};
use crate::policy::looks::Ending;
use crate::policy::rules::{Attempt, Refusal, Rule};
use crate::policy::set::Verdict;

/// Starts the launcher with the server. Called once, from `_PG_init`.
pub fn install() {
    launcher::install();
}

/// Acts on a refusal as its mode says: nothing, an event, or an event and the report to raise.
pub fn settle(session: &Session, refusal: Refusal) -> *const Report {
    let counts = session.who.counts;
    match session.policy.set.verdict(&refusal) {
        Verdict::Pass => {
            counts.ended(refusal.rule, Ending::Passed);
            ptr::null()
        }
        Verdict::Refuse if !session::only_observed() => {
            if let Some(glass) = glass::broken(session) {
                counts.ended(refusal.rule, Ending::BreakGlass);
                let message = format!("{} ({})", refusal.message, glass.note());
                record(&Refusal { message, ..refusal }, Outcome::BreakGlass);
                return ptr::null();
            }
            record(&refusal, Outcome::Refused);
            counts.ended(refusal.rule, Ending::Refused);
            Report::new(&refusal)
        }
        Verdict::Record | Verdict::Refuse => {
            counts.ended(refusal.rule, Ending::Observed);
            record(&refusal, Outcome::Observed);
            ptr::null()
        }
    }
}

/// Whether [`settle`] will stop the statement.
pub fn stops(session: &Session, refusal: &Refusal) -> bool {
    let refused = session.policy.set.verdict(refusal) == Verdict::Refuse;
    refused && !session::only_observed() && glass::broken(session).is_none()
}

/// Whether what is put on record must be safe before the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It must.
    UntilCommitted,
    /// It needn't; what is alike becomes one event with a count.
    No,
}

/// Puts something on record that no rule refuses, but that happens in break-glass.
pub fn note(attempt: Attempt, message: String, wait: Wait) {
    let key = key(None, Outcome::BreakGlass, &attempt, &message, wait);
    let event = Event::in_break_glass(&attempt, message, trigger::now(), origin());
    store(event, key, wait);
}

/// Waits until the worker has committed every event of this database that is queued, or in the spool, now.
///
/// Returns how many there were in the queue; an event that stands for several counts once.
///
/// # Errors
/// How many are still queued after `holdfast.audit_timeout`; 0 when only the spool is left.
pub fn flush() -> Result<i64, i64> {
    queue::flush()
}

/// How the audit of this database does; none if the library wasn't loaded with the server.
pub fn health() -> Option<Health> {
    // SAFETY: a plain read.
    workers::health(unsafe { pg_sys::MyDatabaseId })
}

fn record(refusal: &Refusal, outcome: Outcome) {
    let event = Event::new(refusal, outcome, trigger::now(), origin());
    let wait = match outcome {
        Outcome::Refused => Wait::UntilCommitted,
        // A command is on record before it runs: it may take the record's table away. Rows may be many.
        Outcome::BreakGlass if matches!(refusal.rule, Rule::DestructiveCommand | Rule::GuardTampering) => {
            Wait::UntilCommitted
        }
        Outcome::BreakGlass | Outcome::Observed => Wait::No,
    };
    store(event, key(Some(refusal.rule), outcome, &refusal.attempt, &refusal.message, wait), wait);
}

/// Hands an event to the worker. However that goes, the caller goes on: what can't be recorded is told in the log.
fn store(event: Event, key: u64, wait: Wait) {
    let what = event.rule.clone().unwrap_or_else(|| event.command.clone());
    let Ok(bytes) = event.encode(ROOM) else {
        pgrx::log!("holdfast: an event of {what} does not fit the queue and is lost");
        return;
    };
    // SAFETY: has no precondition.
    if unsafe { pg_sys::RecoveryInProgress() } {
        // Nobody commits here: the worker waits for the end of recovery, which may be years away.
        queue::complain(Complaint::Lost, "this is a standby, where nothing can be written", &bytes);
        return;
    }
    match wait {
        Wait::UntilCommitted => queue::put_and_wait(&bytes, key),
        Wait::No => queue::put(&bytes, key),
    }
}

/// What events have in common that may become one with a count while they wait for the worker. Those that nobody waits for
/// are alike within a session only, so that each session's are in order.
fn key(rule: Option<Rule>, outcome: Outcome, attempt: &Attempt, message: &str, wait: Wait) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (rule, outcome, &attempt.backend, &attempt.command, &attempt.tenant, message).hash(&mut hasher);
    attempt.table.as_ref().map(|t| (&t.schema, &t.name)).hash(&mut hasher);
    // SAFETY: plain reads.
    let (pid, role) = unsafe { (pg_sys::MyProcPid, pg_sys::GetSessionUserId()) };
    match wait {
        Wait::No => pid.hash(&mut hasher),
        Wait::UntilCommitted => role.to_u32().hash(&mut hasher),
    }
    hasher.finish()
}

/// Who does what happens now, as far as a record of it needs.
pub fn origin() -> Origin {
    // SAFETY: reads of the session's globals: C strings or null, and its pid.
    let (application_name, role, pid) = unsafe {
        let role = session::role_name(pg_sys::GetSessionUserId());
        (session::text(pg_sys::application_name), role, pg_sys::MyProcPid)
    };
    let (query, client) = (query_text::of_client(), session::client_address().map(|a| a.to_string()));
    Origin { role: role.unwrap_or_default(), application_name, client, pid, query }
}
