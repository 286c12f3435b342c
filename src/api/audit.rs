//! Audit: the views are in sql/views.sql.

use pgrx::{PgSqlErrorCode, pg_extern, search_path};

use crate::pg::audit;
use crate::pg::report::error;

/// Waits until the events of this database that are queued or in the spool now are committed; how many were queued.
#[pg_extern(security_definer)]
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
