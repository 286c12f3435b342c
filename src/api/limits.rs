//! Limits: how much an unproven backend may write.

use pgrx::datum::Interval;
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::{execute, facts, known_backend, required};
use crate::pg::report::error;

/// Limits what a backend may write while it is unproven. What is null stays as it is; -1 (for times: '-1 s') lifts a limit.
///
/// Rows are those of guarded tables, counted as they are written: by the statement itself, by foreign keys, triggers and
/// functions that it sets off. The times are the longest that a session may set for the settings of these names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "named parameters of SQL")]
fn set_limits(
    backend: Option<&str>,
    rows_per_statement: default!(Option<i64>, "NULL"),
    rows_per_transaction: default!(Option<i64>, "NULL"),
    tenants_per_statement: default!(Option<i64>, "NULL"),
    cascade_rows: default!(Option<i64>, "NULL"),
    statement_timeout: default!(Option<Interval>, "NULL"),
    lock_timeout: default!(Option<Interval>, "NULL"),
    idle_in_transaction_timeout: default!(Option<Interval>, "NULL"),
) {
    let session = facts();
    let backend = known_backend(&session, required(backend, "backend"));
    let counts = [
        ("rows_per_statement", rows_per_statement),
        ("rows_per_transaction", rows_per_transaction),
        ("tenants_per_statement", tenants_per_statement),
        ("cascade_rows", cascade_rows),
    ];
    let times = [
        ("statement_timeout", statement_timeout.map(milliseconds)),
        ("lock_timeout", lock_timeout.map(milliseconds)),
        ("idle_in_transaction_timeout", idle_in_transaction_timeout.map(milliseconds)),
    ];
    execute(
        "INSERT INTO holdfast.backend_limit (backend) VALUES ($1) ON CONFLICT (backend) DO NOTHING",
        &[backend.into()],
    );
    for (name, limit) in counts.into_iter().chain(times) {
        let Some(limit) = limit else { continue };
        if limit < -1 || (limit == 0 && name.ends_with("timeout")) {
            error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("parameter \"{name}\" is out of range"),
                "",
                "Give a positive value, -1 for no limit, or null to leave the limit as it is.",
            );
        }
        execute(
            &format!("UPDATE holdfast.backend_limit SET {name} = NULLIF($2, -1) WHERE backend = $1"),
            &[backend.into(), limit.into()],
        );
    }
}

/// Rounded up; anything below zero lifts the limit.
fn milliseconds(time: Interval) -> i64 {
    const DAY_US: i128 = 86_400_000_000;
    let days = i128::from(time.months()) * 30 + i128::from(time.days());
    let microseconds = days * DAY_US + i128::from(time.micros());
    if microseconds < 0 { -1 } else { i64::try_from((microseconds + 999) / 1_000).unwrap_or(i64::MAX) }
}
