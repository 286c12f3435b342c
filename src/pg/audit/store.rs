//! The tables that the worker writes events to: a row for each, but for floods, and what an hour comes to.

use std::cell::RefCell;
use std::ffi::CStr;

use pgrx::datum::{DatumWithOid, JsonString, TimestampWithTimeZone};
use pgrx::{Spi, pg_sys};
use serde::Serialize;

use super::days::day_of;
use super::ledger;
use crate::policy::events::Event;
use crate::policy::flood::{Arrival, Count, Floods, RowId};
use crate::policy::spool::Record;

/// What a DBA may have set for the database or for everybody, and what would change or stop the worker's statements.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"event_triggers", c"off"),
    (c"default_tablespace", c""),
    (c"default_table_access_method", c"heap"),
    (c"datestyle", c"ISO"),
    (c"timezone", c"UTC"),
    (c"jit", c"off"),
    // Arguments tell which partitions a statement needn't look at.
    (c"plan_cache_mode", c"force_custom_plan"),
];

/// Makes this process independent of the settings of the database. Outside of a transaction.
pub(super) fn settle_settings() {
    for (name, value) in SETTINGS {
        // SAFETY: settings of this process, which runs nothing but the worker; the strings are constants.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// An event on its way into the tables.
#[derive(Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub event: Event,
    pub occurrences: i64,
    pub last_at: i64,
}

impl From<Record> for Row {
    fn from(record: Record) -> Row {
        let Record { event, occurrences, last_at, .. } = record;
        Row { event, occurrences, last_at }
    }
}

/// How many floods the worker keeps in mind. Forgetting one costs a few rows.
const FLOODS: usize = 4_096;

thread_local! {
    /// What a transaction that fails has left here does no harm: a row that isn't there takes no additions.
    static KNOWN: RefCell<Floods> = RefCell::new(Floods::new(FLOODS));
}

/// An event as the INSERT below unpacks it; a row has a number.
#[derive(Serialize)]
struct Arrived<'a> {
    #[serde(flatten)]
    arrived: &'a Row,
    id: Option<i64>,
    row_occurrences: i64,
    row_last_at: i64,
}

/// What is added to a row that is there, as the UPDATE below unpacks it.
#[derive(Serialize)]
struct Addition {
    at: i64,
    id: i64,
    occurrences: i64,
    last_at: i64,
}

/// What an hour's count is found by.
macro_rules! hour_key {
    () => {
        "pg_catalog.sha256(pg_catalog.convert_to(
            ROW ($2::text, backend, rule, outcome, schema_name, table_name, tenant)::text, 'UTF8'))"
    };
}
pub(super) use hour_key;

macro_rules! columns {
    () => {
        "id, at, outcome, rule, sqlstate, backend, command, schema_name, table_name, tenant, owner, message, occurrences,
        last_at, usename, application_name, client_addr, pid, query"
    };
}

/// All that arrived is counted by the hour; what has a number becomes a row, in its day's partition or the overflow.
/// Partitions don't go while this statement has its lock on the event table.
const INSERT: &str = concat!(
    "WITH arrived AS MATERIALIZED (
    SELECT epoch + at * tick AS at, outcome, rule, sqlstate, backend, command, schema AS schema_name,
        \"table\" AS table_name, tenant, owner, message, origin, occurrences AS counted, epoch + last_at * tick AS counted_until,
        id, row_occurrences AS occurrences, epoch + row_last_at * tick AS last_at
    FROM pg_catalog.json_to_recordset($1) AS e (at bigint, outcome text, rule text, sqlstate text, backend text,
            command text, schema text, \"table\" text, tenant text, owner text, message text, origin json,
            occurrences bigint, last_at bigint, id bigint, row_occurrences bigint, row_last_at bigint),
        (VALUES (timestamptz '2000-01-01 00:00:00+00', interval '1 microsecond')) AS clock (epoch, tick)
), hours AS (
    INSERT INTO holdfast.event_hour AS h (hour, key, backend, rule, outcome, schema_name, table_name, tenant, occurrences,
        first_at, last_at)
    SELECT pg_catalog.date_trunc('hour', at, 'UTC'), ",
    hour_key!(),
    ", backend, rule, outcome, schema_name, table_name, tenant, pg_catalog.sum(counted), pg_catalog.min(at),
        pg_catalog.max(counted_until)
    FROM arrived GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (hour, key) DO UPDATE SET occurrences = h.occurrences + excluded.occurrences,
        first_at = least(h.first_at, excluded.first_at), last_at = greatest(h.last_at, excluded.last_at)
), event AS MATERIALIZED (
    SELECT *, origin ->> 'role' AS usename, origin ->> 'application_name' AS application_name,
        (origin ->> 'client')::pg_catalog.inet AS client_addr, (origin ->> 'pid')::integer AS pid, origin ->> 'query' AS query, ",
    day_of!("at"),
    " AS day
    FROM arrived WHERE id IS NOT NULL
), day AS MATERIALIZED (
    SELECT day, EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = pg_catalog.to_regclass(day)
        AND inhparent = 'holdfast.event'::pg_catalog.regclass AND NOT inhdetachpending) AS has_partition
    FROM (SELECT DISTINCT day FROM event) AS event
), overflow AS (
    INSERT INTO holdfast.event_overflow (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM event JOIN day USING (day) WHERE NOT has_partition
)
INSERT INTO holdfast.event (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM event JOIN day USING (day) WHERE has_partition"
);

/// $2 and $3, the earliest and the latest of all, tell the planner which partitions it needn't look at.
macro_rules! add_to {
    ($table:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " e SET occurrences = e.occurrences + a.occurrences,
    last_at = greatest(e.last_at, timestamptz '2000-01-01 00:00:00+00' + a.last_at * interval '1 microsecond')
FROM pg_catalog.json_to_recordset($1) AS a (at bigint, id bigint, occurrences bigint, last_at bigint)
WHERE e.at = timestamptz '2000-01-01 00:00:00+00' + a.at * interval '1 microsecond' AND e.id = a.id
    AND e.at BETWEEN $2 AND $3
RETURNING e.id"
        )
    };
}

/// Break-glass is no row whose change a trigger could log; its beginnings and ends stay in the policy log when the events are
/// past keeping.
const LOG_GLASS: &str = "
INSERT INTO holdfast.policy_change (at, changed_by, application_name, client_addr, pid, query, subject, action, new)
SELECT timestamptz '2000-01-01 00:00:00+00' + at * interval '1 microsecond', origin ->> 'role',
    origin ->> 'application_name', (origin ->> 'client')::pg_catalog.inet, (origin ->> 'pid')::integer, origin ->> 'query',
    'break_glass', CASE command WHEN 'break_glass' THEN 'begin' ELSE 'end' END,
    pg_catalog.jsonb_build_object('backend', backend, 'note', message)
FROM pg_catalog.json_to_recordset($1) AS e (at bigint, backend text, command text, message text, origin json)";

/// Numbers in the order of the queue, so that `id` tells the order even where times are the same.
const NUMBERS: &str =
    "SELECT pg_catalog.array_agg(pg_catalog.nextval('holdfast.event_id_seq')) FROM pg_catalog.generate_series(1, $1)";

/// Writes events into their tables, in the transaction that is open. False when the extension has left the database
/// meanwhile.
pub(super) fn store(rows: &[Row]) -> bool {
    if !ledger::exists() {
        return false;
    }
    if let Err(failure) = write(rows) {
        pgrx::error!("holdfast: events could not be stored: {failure}");
    }
    true
}

fn write(rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let count = i32::try_from(rows.len())?;
    if count == 0 {
        return Ok(());
    }
    let numbers = Spi::get_one_with_args::<Vec<i64>>(NUMBERS, &[count.into()])?.unwrap_or_default();
    let arrivals: Vec<_> = { rows.iter().zip(&numbers) }
        .map(|(row, id)| Arrival { event: &row.event, id: *id, occurrences: row.occurrences, last_at: row.last_at })
        .collect();
    let mut placement = KNOWN.with_borrow_mut(|floods| floods.place(&arrivals));
    for (_, count) in add(placement.additions)? {
        // Pruned meanwhile.
        let arrival = arrivals[count.arrival];
        KNOWN.with_borrow_mut(|floods| floods.replace(arrival.event, arrival.row()));
        placement.rows.push(count);
    }
    let mut arrived: Vec<_> = { rows.iter() }
        .map(|row| Arrived { arrived: row, id: None, row_occurrences: row.occurrences, row_last_at: row.last_at })
        .collect();
    for count in &placement.rows {
        let row = &mut arrived[count.arrival];
        (row.id, row.row_occurrences, row.row_last_at) =
            (Some(numbers[count.arrival]), count.occurrences, count.last_at);
    }
    Spi::run_with_args(INSERT, &[json(&arrived)?, counter().into()])?;
    let of_glass: Vec<_> = rows.iter().filter(|row| row.event.is_of_glass_itself()).collect();
    if !of_glass.is_empty() {
        Spi::run_with_args(LOG_GLASS, &[json(&of_glass)?])?;
    }
    Ok(())
}

fn json<'a>(rows: &impl Serialize) -> Result<DatumWithOid<'a>, serde_json::Error> {
    Ok(JsonString(serde_json::to_string(rows)?).into())
}

/// Who counts: this server's database.
pub(super) fn counter() -> String {
    // SAFETY: plain reads of what doesn't change while the server runs.
    let (system, database) = unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId) };
    format!("{system}/{database}")
}

/// Adds to rows that are there; what belongs to rows that are gone.
fn add(additions: Vec<(RowId, Count)>) -> Result<Vec<(RowId, Count)>, Box<dyn std::error::Error>> {
    let mut left = additions;
    for table in [add_to!("holdfast.event"), add_to!("holdfast.event_overflow")] {
        let times = left.iter().map(|(row, _)| row.at);
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else { break };
        let list: Vec<_> = { left.iter() }
            .map(|(row, count)| Addition {
                at: row.at,
                id: row.id,
                occurrences: count.occurrences,
                last_at: count.last_at,
            })
            .collect();
        let bounds = [TimestampWithTimeZone::try_from(first)?, TimestampWithTimeZone::try_from(last)?];
        let found = Spi::connect_mut(|client| {
            let rows = client.update(table, None, &[json(&list)?, bounds[0].into(), bounds[1].into()])?;
            rows.map(|row| Ok(row.get::<i64>(1)?)).collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()
        })?;
        left.retain(|(row, _)| !found.contains(&Some(row.id)));
    }
    Ok(left)
}
