//! The tables that the worker writes events to: a row for each, but for floods, and what an hour comes to.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::CStr;

use pgrx::datum::{DatumWithOid, JsonString};
use pgrx::pg_sys;
use serde::Serialize;

use super::days::{self, day_of};
use super::ledger;
use crate::pg::prepared::Prepared;
use crate::policy::events::Event;
use crate::policy::flood::{Arrival, Count, Floods, RowId};
use crate::policy::hours;
use crate::policy::spool::Record;

/// What a DBA may have set for the database or for everybody, and what would change or stop the worker's statements.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"application_name", c"holdfast worker"),
    (c"role", c"none"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    // What it freezes or hands back is no reason to cancel anybody.
    (c"holdfast.cancel_after", c"-1"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"event_triggers", c"off"),
    (c"default_tablespace", c""),
    (c"default_table_access_method", c"heap"),
    (c"datestyle", c"ISO"),
    (c"timezone", c"UTC"),
    (c"jit", c"off"),
    // What runs for every batch is planned once, and looks few rows up by their keys, however small a table was then.
    (c"plan_cache_mode", c"force_generic_plan"),
    (c"enable_seqscan", c"off"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
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
pub(super) struct Row {
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

/// An event that becomes a row, as [`INSERT`] unpacks it.
#[derive(Serialize)]
struct NewRow<'a> {
    #[serde(flatten)]
    event: &'a Event,
    id: i64,
    occurrences: i64,
    last_at: i64,
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

const COUNT_HOURS: &str = concat!(
    "INSERT INTO holdfast.event_hour AS h (hour, key, backend, rule, outcome, schema_name, table_name, tenant, occurrences,
        first_at, last_at)
    SELECT epoch + hour * tick, ",
    hour_key!(),
    ", backend, rule, outcome, schema_name, table_name, tenant, occurrences, epoch + first_at * tick, epoch + last_at * tick
    FROM pg_catalog.json_to_recordset($1) AS e (hour bigint, backend text, rule text, outcome text, schema_name text,
            table_name text, tenant text, occurrences bigint, first_at bigint, last_at bigint),
        (VALUES (timestamptz '2000-01-01 00:00:00+00', interval '1 microsecond')) AS clock (epoch, tick)
    ON CONFLICT (hour, key) DO UPDATE SET occurrences = h.occurrences + excluded.occurrences,
        first_at = least(h.first_at, excluded.first_at), last_at = greatest(h.last_at, excluded.last_at)"
);

/// In their day's partition or the overflow.
const INSERT: &str = concat!(
    "WITH event AS MATERIALIZED (
    SELECT epoch + at * tick AS at, outcome, rule, sqlstate, backend, command, schema AS schema_name,
        \"table\" AS table_name, tenant, owner, message, id, occurrences, epoch + last_at * tick AS last_at,
        origin ->> 'role' AS usename, origin ->> 'application_name' AS application_name,
        (origin ->> 'client')::pg_catalog.inet AS client_addr, (origin ->> 'pid')::integer AS pid, origin ->> 'query' AS query, ",
    day_of!("(epoch + at * tick)"),
    " AS day
    FROM pg_catalog.json_to_recordset($1) AS e (at bigint, outcome text, rule text, sqlstate text, backend text,
            command text, schema text, \"table\" text, tenant text, owner text, message text, origin json,
            id bigint, occurrences bigint, last_at bigint),
        (VALUES (timestamptz '2000-01-01 00:00:00+00', interval '1 microsecond')) AS clock (epoch, tick)
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

/// Adds to rows of one table, which is named: a plan that looks through all partitions would have to open them all.
fn add_to(table: &str) -> String {
    format!(
        "UPDATE {table} e SET occurrences = e.occurrences + a.occurrences,
    last_at = greatest(e.last_at, timestamptz '2000-01-01 00:00:00+00' + a.last_at * interval '1 microsecond')
FROM pg_catalog.json_to_recordset($1) AS a (at bigint, id bigint, occurrences bigint, last_at bigint)
WHERE e.at = timestamptz '2000-01-01 00:00:00+00' + a.at * interval '1 microsecond' AND e.id = a.id
RETURNING a.at, a.id"
    )
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

const NUMBERS: &str =
    "SELECT pg_catalog.array_agg(pg_catalog.nextval('holdfast.event_id_seq')) FROM pg_catalog.generate_series(1, $1)";

/// The worker's statements, planned once, and the numbers that it has drawn and not given to a row yet.
struct Desk {
    numbers: Prepared,
    count_hours: Prepared,
    insert: Prepared,
    log_glass: Prepared,
    add_to_overflow: Prepared,
    /// By the day's partition.
    add_to: HashMap<String, Prepared>,
    drawn: VecDeque<i64>,
}

/// For how many partitions a statement is kept; there is one to add to, two around midnight, and more only while an old spool
/// is taken in.
const PARTITIONS: usize = 8;

impl Desk {
    fn new() -> Desk {
        Desk {
            numbers: Prepared::new(NUMBERS),
            count_hours: Prepared::new(COUNT_HOURS),
            insert: Prepared::new(INSERT),
            log_glass: Prepared::new(LOG_GLASS),
            add_to_overflow: Prepared::new(add_to("holdfast.event_overflow")),
            add_to: HashMap::new(),
            drawn: VecDeque::new(),
        }
    }

    /// Numbers in the order of the queue, so that `id` tells the order even where times are the same.
    fn draw(&mut self, count: usize) -> Result<Vec<i64>, Failed> {
        let missing = i32::try_from(count.saturating_sub(self.drawn.len()))?;
        if missing > 0 {
            let numbers: Option<Vec<i64>> = self.numbers.run(&[missing.into()], |rows| rows.first().get_one())?;
            self.drawn.extend(numbers.unwrap_or_default());
        }
        Ok(self.drawn.iter().take(count).copied().collect())
    }

    /// A number is a row's now: those that come later have greater ones.
    fn spend(&mut self, number: i64) {
        while self.drawn.front().is_some_and(|drawn| *drawn <= number) {
            self.drawn.pop_front();
        }
    }

    /// Adds to rows that are there; what belongs to rows that are gone.
    fn add(&mut self, additions: Vec<(RowId, Count)>) -> Result<Vec<(RowId, Count)>, Failed> {
        let mut by_partition: BTreeMap<String, Vec<(RowId, Count)>> = BTreeMap::new();
        for addition in additions {
            by_partition.entry(days::partition(addition.0.at)).or_default().push(addition);
        }
        let mut left = Vec::new();
        for (partition, mut additions) in by_partition {
            if days::is_there(&partition) {
                if self.add_to.len() >= PARTITIONS && !self.add_to.contains_key(&partition) {
                    self.add_to.clear();
                }
                let table = format!("holdfast.{partition}");
                let statement = self.add_to.entry(partition).or_insert_with(|| Prepared::new(add_to(&table)));
                add(statement, &mut additions)?;
            }
            left.append(&mut additions);
        }
        if !left.is_empty() {
            add(&mut self.add_to_overflow, &mut left)?;
        }
        Ok(left)
    }
}

/// What went wrong, for a message.
type Failed = Box<dyn std::error::Error>;

/// Writes events into their tables, in the transaction that is open. False when the extension has left the database
/// meanwhile.
pub(super) fn store(rows: &[Row]) -> bool {
    if !ledger::exists() {
        return false;
    }
    thread_local! {
        /// What a transaction that fails has left here does no harm: a row that isn't there takes no additions.
        static KNOWN: RefCell<(Desk, Floods)> = RefCell::new((Desk::new(), Floods::new(FLOODS)));
    }
    let written = KNOWN.with_borrow_mut(|(desk, floods)| write(desk, floods, rows));
    if let Err(failure) = written {
        pgrx::error!("holdfast: events could not be stored: {failure}");
    }
    true
}

fn write(desk: &mut Desk, floods: &mut Floods, rows: &[Row]) -> Result<(), Failed> {
    if rows.is_empty() {
        return Ok(());
    }
    days::keep();
    let numbers = desk.draw(rows.len())?;
    let arrivals: Vec<_> = { rows.iter().zip(&numbers) }
        .map(|(row, id)| Arrival { event: &row.event, id: *id, occurrences: row.occurrences, last_at: row.last_at })
        .collect();
    let mut placement = floods.place(&arrivals);
    for (_, count) in desk.add(placement.additions)? {
        // Pruned meanwhile.
        let arrival = arrivals[count.arrival];
        floods.replace(arrival.event, arrival.row());
        placement.rows.push(count);
    }
    if !placement.rows.is_empty() {
        let new: Vec<_> = { placement.rows.iter() }
            .map(|count| {
                let Arrival { event, id, .. } = arrivals[count.arrival];
                NewRow { event, id, occurrences: count.occurrences, last_at: count.last_at }
            })
            .collect();
        desk.insert.execute(&[json(&new)?])?;
        new.iter().for_each(|row| desk.spend(row.id));
    }
    desk.count_hours.execute(&[json(&hours::count(&arrivals))?, counter().into()])?;
    let of_glass: Vec<_> = rows.iter().map(|row| &row.event).filter(|event| event.is_of_glass_itself()).collect();
    if !of_glass.is_empty() {
        desk.log_glass.execute(&[json(&of_glass)?])?;
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

/// Adds to those rows that a statement's table has; only the others are left.
fn add(statement: &mut Prepared, additions: &mut Vec<(RowId, Count)>) -> Result<(), Failed> {
    let list: Vec<_> = { additions.iter() }
        .map(|(row, count)| Addition { at: row.at, id: row.id, occurrences: count.occurrences, last_at: count.last_at })
        .collect();
    let found = statement.run(&[json(&list)?], |rows| {
        rows.map(|row| Ok((row.get::<i64>(1)?, row.get::<i64>(2)?))).collect::<Result<Vec<_>, _>>()
    })?;
    additions.retain(|(row, _)| !found.contains(&(Some(row.at), Some(row.id))));
    Ok(())
}
