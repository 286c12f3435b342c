//! Audit: the views are in sql/views.sql.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::TableIterator;
use pgrx::{PgSqlErrorCode, name, pg_extern, search_path};

use super::{fetch, required};
use crate::pg::audit::{self, DrainState};
use crate::pg::report::error;
use crate::pg::session;

/// Waits until the events of this database that are queued or in the spool now are committed; how many were queued.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn flush_events() -> i64 {
    match audit::flush() {
        Ok(events) => events,
        Err(late) => error(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            match late {
                0 => "the spool is not taken in after holdfast.audit_timeout".to_owned(),
                late => format!("{late} events are still queued after holdfast.audit_timeout"),
            },
            "The worker could not commit them in time.",
            "See the server log; another session may hold a lock on holdfast.event, or no worker could be started.",
        ),
    }
}

/// How the audit is doing, for status, metrics and check_setup; no row without shared memory.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn audit_health() -> TableIterator<
    'static,
    (
        name!(launcher, bool),
        name!(worker, String),
        name!(failures, i64),
        name!(capacity, i64),
        name!(used, i64),
        name!(waiting, i64),
        name!(oldest_at, Option<TimestampWithTimeZone>),
        name!(spooled, i64),
        name!(lost, i64),
    ),
> {
    let rows = audit::health().into_iter().map(|health| {
        let worker = match health.drain {
            DrainState::Unused => "resting",
            DrainState::Starting => "starting",
            DrainState::Running => "running",
            DrainState::Failing => "failing",
        };
        (
            health.launcher,
            worker.to_owned(),
            i64::from(health.failures),
            health.slots,
            health.used,
            health.queued,
            health.oldest_queued_at.and_then(|at| TimestampWithTimeZone::try_from(at).ok()),
            health.spooled as i64,
            health.lost,
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Removes the events that are older than that; how many refusals and would-be refusals they stood for.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn prune_events(older_than: Option<Interval>) -> i64 {
    let older_than = required(older_than, "older_than");
    let cut = "SELECT clock_timestamp() - $1 WHERE $1 BETWEEN interval '0' AND interval '1000 years'";
    let Some(cut) = fetch::<TimestampWithTimeZone>(cut, &[older_than.into()]) else {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "parameter \"older_than\" must be between 0 and 1000 years",
            "",
            "Say how old events may become: '30 days' removes what was recorded before that.",
        )
    };
    match session::operate(|| audit::retention::prune(cut)) {
        Ok(removed) => removed,
        Err(_) => error(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            "events are being read, so that none could be removed",
            "Whole days go at once, which must wait for those who read the table, and keeps others waiting meanwhile.",
            "Try again when they have finished: a dump, or a transaction that is still open after reading a view.",
        ),
    }
}
