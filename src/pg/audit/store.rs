//! The tables that the worker writes events to.

use pgrx::{JsonB, Spi};
use serde::Serialize;

use crate::policy::events::Event;
use crate::policy::spool::Record;

/// An event as the INSERT below unpacks it.
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

const INSERT: &str = "
INSERT INTO holdfast.event (at, outcome, rule, sqlstate, backend, command, schema_name, table_name, tenant, owner,
    message, occurrences, last_at, usename, application_name, client_addr, pid, query)
SELECT epoch + at * tick, outcome, rule, sqlstate, backend, command, schema, \"table\", tenant, owner,
    message, occurrences, epoch + last_at * tick, origin ->> 'role', origin ->> 'application_name',
    (origin ->> 'client')::pg_catalog.inet, (origin ->> 'pid')::integer, origin ->> 'query'
FROM pg_catalog.jsonb_to_recordset($1) AS event (at bigint, outcome text, rule text, sqlstate text, backend text,
        command text, schema text, \"table\" text, tenant text, owner text, message text, origin jsonb,
        occurrences bigint, last_at bigint),
    (VALUES (timestamptz '2000-01-01 00:00:00+00', interval '1 microsecond')) AS clock (epoch, tick)
ORDER BY at";

/// Writes events into their table, in the transaction that is open. False when the extension has left the database
/// meanwhile.
pub(super) fn store(rows: &[Row]) -> bool {
    let there = Spi::get_one::<bool>("SELECT pg_catalog.to_regclass('holdfast.event') IS NOT NULL");
    if !matches!(there, Ok(Some(true))) {
        return false;
    }
    let Ok(rows) = serde_json::to_value(rows) else { return false };
    match Spi::run_with_args(INSERT, &[JsonB(rows).into()]) {
        Ok(()) => true,
        Err(error) => pgrx::error!("holdfast: events could not be stored: {error}"),
    }
}
