//! Audit: the views are in sql/views.sql.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{PgSqlErrorCode, name, pg_extern, search_path};

use crate::pg::audit::{self, DrainState};
use crate::pg::report::error;

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
