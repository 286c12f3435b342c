//! Break-glass: an operator does what the rules refuse, and everything is recorded.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::{bounds, facts, fetch, parsed, required};
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::{glass, trigger};
use crate::policy::glass::{End, Glass, LONGEST, Scope};

/// Lets no rule stop this session for a while; everything that one would have stopped, and every write of a guarded table,
/// is recorded.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn break_glass(
    reason: Option<&str>,
    duration: default!(Option<Interval>, "'5 min'"),
    scope: default!(Option<&str>, "'session'"),
) {
    let session = facts();
    let reason = bounds::reason(reason);
    let duration = microseconds(required(duration, "duration"));
    let scope: Scope = parsed(required(scope, "scope"), "scope", Scope::NAMES);
    if !(1..=i128::from(LONGEST)).contains(&duration) {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "parameter \"duration\" is out of range",
            "",
            "Give more than nothing and at most 24 hours.",
        );
    }
    only_for_operators();
    let duration = i64::try_from(duration).unwrap_or(LONGEST);
    let until = trigger::now().saturating_add(duration);
    glass::break_it(&session, Glass { reason: reason.to_owned(), until, scope, uncommitted: None }, duration);
}

/// Ends break-glass of this session, if it is broken.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn end_break_glass() {
    glass::end(&facts(), End::Said);
}

/// Who calls this may be a function that runs with its owner's rights; the glass is broken for the session, so it is the
/// session's user who must be an operator.
fn only_for_operators() {
    let sql = "SELECT pg_catalog.has_function_privilege(session_user,
        'holdfast.break_glass(pg_catalog.text, pg_catalog.interval, pg_catalog.text)', 'EXECUTE')";
    if fetch::<bool>(sql, &[]) != Some(true) {
        error(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied for function break_glass",
            "The session's user is no operator, whoever owns the function that made the call.",
            "Log in as an operator.",
        );
    }
}

fn microseconds(time: Interval) -> i128 {
    let days = i128::from(time.months()) * 30 + i128::from(time.days());
    days * i128::from(LONGEST) + i128::from(time.micros())
}

/// Until when the glass of this session is broken.
pub(super) fn broken_until(session: &Session) -> Option<TimestampWithTimeZone> {
    glass::broken(session).and_then(|glass| TimestampWithTimeZone::try_from(glass.until).ok())
}
