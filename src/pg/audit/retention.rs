//! Events that are past keeping: whole days go with their partitions, the rest row by row, and the counts of their hours
//! with them, so that both always tell the same.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::spi::Error;
use pgrx::{FromDatum, IntoDatum, Spi};

use super::{drain, ledger, store};
use crate::pg::gucs;
use crate::pg::locks::{self, Patience, TimedOut};
use crate::pg::subtransaction::in_subtransaction;

/// How long to wait for those who read events: whoever comes later to read or to store some waits behind us.
const PATIENCE: Patience = Patience { milliseconds: 1_000 };

/// As above, for the worker, which stores nothing while it waits.
const WORKERS_PATIENCE: Patience = Patience { milliseconds: 100 };

/// How often the worker looks. A new one looks at once.
const INTERVAL: Duration = Duration::from_secs(3_600);

thread_local! {
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Partitions and when their days end.
macro_rules! days {
    () => {
        "SELECT c.oid::pg_catalog.regclass::text AS name, pg_catalog.substring(
             pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']*)''\\)')::timestamptz AS until
         FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'holdfast.event'::pg_catalog.regclass"
    };
}

/// The days that have ended by $1.
const ENDED: &str = concat!(
    "SELECT coalesce(pg_catalog.array_agg(name ORDER BY until), '{}') FROM (",
    days!(),
    ") AS day WHERE until <= $1"
);

/// Up to where the worker removes next what is older than $1 minutes: a day at a time, and so many rows of the
/// overflow, so that no refusal waits for long. Null if there is nothing to remove.
const STEP: &str = concat!(
    "WITH days AS (",
    days!(),
    "), kept AS (
    SELECT pg_catalog.date_trunc('day', pg_catalog.clock_timestamp() - $1 * interval '1 minute', 'UTC') AS since
), oldest AS (
    SELECT (SELECT pg_catalog.min(until) FROM days) AS day_until, (SELECT pg_catalog.min(at) FROM holdfast.event_overflow) AS at,
        (SELECT pg_catalog.min(hour) FROM holdfast.event_hour) AS hour
)
SELECT least(since, day_until, pg_catalog.date_trunc('day', least(at, hour), 'UTC') + interval '24 hours',
    (SELECT e.at FROM holdfast.event_overflow e WHERE e.at < since ORDER BY e.at OFFSET 20000 LIMIT 1))
FROM kept, oldest WHERE day_until <= since OR at < since OR hour < since"
);

/// What the partitions of ended days don't take along.
const DELETE: &str = concat!(
    "DELETE FROM holdfast.event WHERE at < $1 AND at >= coalesce((SELECT pg_catalog.max(until) FROM (",
    days!(),
    ") AS day WHERE until <= $1), '-infinity')"
);

const HOURS: &str = "
WITH gone AS (
    DELETE FROM holdfast.event_hour WHERE hour < pg_catalog.date_trunc('hour', $1, 'UTC') RETURNING occurrences
)
SELECT coalesce(pg_catalog.sum(occurrences), 0)::bigint FROM gone";

/// The hour that `cut` is in the middle of.
const HOUR: &str = "
WITH gone AS (
    DELETE FROM holdfast.event_hour WHERE hour = pg_catalog.date_trunc('hour', $1, 'UTC') AND hour < $1 RETURNING occurrences
)
SELECT coalesce(pg_catalog.sum(occurrences), 0)::bigint FROM gone";

/// What is left of it.
const LEFT: &str = concat!(
    "WITH there AS (
    INSERT INTO holdfast.event_hour (hour, key, backend, rule, outcome, schema_name, table_name, tenant, occurrences, first_at,
        last_at)
    SELECT pg_catalog.date_trunc('hour', at, 'UTC'), ",
    store::hour_key!(),
    ", backend, rule, outcome, schema_name, table_name, tenant, pg_catalog.sum(occurrences), pg_catalog.min(at),
        pg_catalog.max(last_at)
    FROM (SELECT * FROM holdfast.event UNION ALL SELECT * FROM holdfast.event_overflow) AS event
    WHERE at >= $1 AND at < pg_catalog.date_trunc('hour', $1, 'UTC') + interval '1 hour'
        AND pg_catalog.date_trunc('hour', $1, 'UTC') < $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    RETURNING occurrences
)
SELECT coalesce(pg_catalog.sum(occurrences), 0)::bigint FROM there"
);

/// Removes what happened before `cut`, for whoever calls `prune_events`; how many refusals and would-be refusals that were.
///
/// # Errors
/// When somebody is reading events for longer than we may keep others waiting. Nothing is removed then.
pub fn prune(cut: TimestampWithTimeZone) -> Result<i64, TimedOut> {
    in_subtransaction(AssertUnwindSafe(|| remove(cut, PATIENCE)))
}

/// The worker's step; whether there may be another.
pub(super) fn step() -> bool {
    let minutes = gucs::audit_retention();
    let recently = LOOKED.get().is_some_and(|looked| looked.elapsed() < INTERVAL);
    if minutes == 0 || recently {
        return false;
    }
    let step = || match ledger::exists().then(|| one(STEP, &[minutes.into()])).flatten() {
        // Whom somebody is in the way of tries again another time.
        Some(cut) => in_subtransaction(AssertUnwindSafe(|| remove(cut, WORKERS_PATIENCE))).is_ok(),
        None => false,
    };
    let more = drain::transaction(step, |_| {}).unwrap_or_else(|failure| {
        let reason = failure.message;
        pgrx::log!("holdfast: events older than holdfast.audit_retention could not be removed: {reason}");
        false
    });
    if !more {
        LOOKED.set(Some(Instant::now()));
    }
    more
}

/// Deletes row by row while others go on, then once more, and drops partitions, while nobody else is there.
fn remove(cut: TimestampWithTimeZone, patience: Patience) -> Result<i64, TimedOut> {
    let ended: Vec<String> = one(ENDED, &[cut.into()]).unwrap_or_default();
    let mut removed = delete(cut);
    // Nothing is stored from here on. Who reads is in the way of a partition that goes, and of nothing else.
    let lock = match ended.is_empty() {
        true => "LOCK TABLE ONLY holdfast.event IN SHARE ROW EXCLUSIVE MODE",
        false => "LOCK TABLE holdfast.event IN ACCESS EXCLUSIVE MODE",
    };
    locks::within(patience, || run(lock, &[]))?;
    removed += delete(cut);
    for partition in &ended {
        run(&format!("DROP TABLE {partition}"), &[]);
    }
    removed += count(HOUR, &[cut.into()]);
    Ok(removed - count(LEFT, &[cut.into(), store::counter().into()]))
}

/// Deletes events that no ended day has, and the counts of all hours before `cut`; what these come to.
fn delete(cut: TimestampWithTimeZone) -> i64 {
    run(DELETE, &[cut.into()]);
    run("DELETE FROM holdfast.event_overflow WHERE at < $1", &[cut.into()]);
    count(HOURS, &[cut.into()])
}

fn run(sql: &str, arguments: &[DatumWithOid]) {
    if let Err(failure) = Spi::run_with_args(sql, arguments) {
        pgrx::error!("holdfast: events could not be removed: {failure}");
    }
}

fn one<T: FromDatum + IntoDatum>(sql: &str, arguments: &[DatumWithOid]) -> Option<T> {
    match Spi::get_one_with_args(sql, arguments) {
        Ok(value) => value,
        Err(Error::InvalidPosition) => None,
        Err(failure) => pgrx::error!("holdfast: events could not be removed: {failure}"),
    }
}

fn count(sql: &str, arguments: &[DatumWithOid]) -> i64 {
    one(sql, arguments).unwrap_or_default()
}
