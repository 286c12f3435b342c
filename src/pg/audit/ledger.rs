//! What the workers write down besides events: which transactions have been committed, so that no event is stored twice,
//! and what was lost.

use std::collections::HashMap;

use pgrx::Spi;

use super::memory::Loss;
use crate::policy::spool::Batch;

/// Stands for the worker in the entry of a spool file: its origin is the file's birth, and its number counts the records
/// that are done with.
pub const FILE: i64 = 0;

/// Whether the extension is in the database: not only tables of its names, which anybody may make where it isn't.
pub fn exists() -> bool {
    const MEMBER: &str = "SELECT EXISTS (
        SELECT FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_depend d ON d.refobjid = e.oid
        WHERE e.extname = 'holdfast' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
            AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.objid = pg_catalog.to_regclass('holdfast.audit_batch'))";
    matches!(Spi::get_one(MEMBER), Ok(Some(true)))
}

/// Notes that the transaction that is open commits this batch, hence all of its worker's earlier ones.
pub fn note(batch: Batch) {
    run(
        "INSERT INTO holdfast.audit_batch (origin, drain, number, at) VALUES ($1, $2, $3, pg_catalog.now())
         ON CONFLICT (origin, drain) DO UPDATE SET number = excluded.number, at = excluded.at",
        &[batch.origin.into(), batch.drain.into(), batch.number.into()],
    );
}

/// The last batch that was committed, for each worker that is named.
pub fn committed(doubts: &[Batch]) -> HashMap<(i64, i64), i64> {
    let mut committed = HashMap::new();
    for doubt in doubts {
        committed.entry((doubt.origin, doubt.drain)).or_insert_with(|| progress(*doubt));
    }
    committed
}

/// The last batch of a worker that was committed; 0 if none is known.
pub fn progress(of: Batch) -> i64 {
    let number = Spi::get_one_with_args(
        "SELECT pg_catalog.max(number) FROM holdfast.audit_batch WHERE origin = $1 AND drain = $2",
        &[of.origin.into(), of.drain.into()],
    );
    match number {
        Ok(number) => number.unwrap_or(0),
        Err(error) => pgrx::error!("{error}"),
    }
}

/// Forgets what can't be asked for any more: nothing is in the spool, and no session writes to it for an hour. A copy of a
/// spool file may come back with a backup.
pub fn sweep() {
    run(
        "DELETE FROM holdfast.audit_batch
         WHERE at < pg_catalog.now() - CASE drain WHEN $1 THEN interval '1 year' ELSE interval '1 hour' END",
        &[FILE.into()],
    );
}

/// Notes events that nothing could take.
pub fn note_loss(loss: &Loss) {
    if !exists() {
        return;
    }
    run(
        "INSERT INTO holdfast.audit_loss (first_at, last_at, events, reason)
         SELECT epoch + $1 * tick, epoch + $2 * tick, $3, 'neither the worker nor the spool could take them'
         FROM (VALUES (timestamptz '2000-01-01 00:00:00+00', interval '1 microsecond')) AS clock (epoch, tick)",
        &[loss.first_at.into(), loss.last_at.into(), loss.events.into()],
    );
}

/// Notes places of a spool file that can't be read.
pub fn note_damage(places: usize, bytes: usize) {
    if places == 0 {
        return;
    }
    run(
        "INSERT INTO holdfast.audit_loss (first_at, last_at, events, reason)
         VALUES (pg_catalog.now(), pg_catalog.now(), $1, pg_catalog.format('%s bytes of the spool are damaged', $2))",
        &[(places as i64).into(), (bytes as i64).into()],
    );
}

fn run(sql: &str, arguments: &[pgrx::datum::DatumWithOid]) {
    if let Err(error) = Spi::run_with_args(sql, arguments) {
        pgrx::error!("{error}");
    }
}
