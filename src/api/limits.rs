//! Limits: how much an unproven backend may write.

use pgrx::datum::Interval;
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::{execute, facts, known_backend, required};
use crate::pg::report::error;

/// The longest time that Postgres's settings can hold, in microseconds.
const LONGEST_US: i64 = 2_147_483_647_000;

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
        ("statement_timeout", statement_timeout),
        ("lock_timeout", lock_timeout),
        ("idle_in_transaction_timeout", idle_in_transaction_timeout),
    ];
    let times = times.map(|(name, time)| (name, time.map(|time| milliseconds(name, time))));
    execute(
        "INSERT INTO holdfast.backend_limit (backend) VALUES ($1) ON CONFLICT (backend) DO NOTHING",
        &[backend.into()],
    );
    for (name, limit) in counts.into_iter().chain(times) {
        let Some(limit) = limit else { continue };
        if limit < -1 {
            out_of_range(name, "Give 0 or more, -1 for no limit, or null to leave the limit as it is.");
        }
        execute(
            &format!("UPDATE holdfast.backend_limit SET {name} = NULLIF($2, -1) WHERE backend = $1"),
            &[backend.into(), limit.into()],
        );
    }
}

/// Rounded up; anything below zero lifts the limit. It is what the setting of the name can hold, but for 0, which means none there.
fn milliseconds(name: &str, time: Interval) -> i64 {
    const DAY_US: i128 = 86_400_000_000;
    let days = i128::from(time.months()) * 30 + i128::from(time.days());
    let microseconds = days * DAY_US + i128::from(time.micros());
    match i64::try_from(microseconds) {
        _ if microseconds < 0 => -1,
        Ok(microseconds @ 1_000..=LONGEST_US) => (microseconds + 999) / 1_000,
        _ => out_of_range(
            name,
            "Give 1 ms to 2147483647 ms (24 days), '-1 s' for no limit, or null to leave the limit as it is.",
        ),
    }
}

fn out_of_range(name: &str, hint: &str) -> ! {
    let message = format!("parameter \"{name}\" is out of range");
    error(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, "", hint)
}
