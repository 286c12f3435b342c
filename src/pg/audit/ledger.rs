//! What the workers write down besides events: which transactions have been committed, so that no event is stored twice,
//! and what was lost.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::{Spi, pg_sys};

use super::memory::Loss;
use crate::pg::prepared::Prepared;
use crate::policy::spool::Batch;

/// Stands for the worker in the entry of a spool file: its origin is the file's birth, and its number counts the records
/// that are done with.
pub const FILE: i64 = 0;

/// Whether the extension is in the database, where it stays until this transaction ends. Comes before anything else of a
/// worker's transaction: whoever drops the extension waits here, with nothing in hand that the worker will want.
pub fn exists() -> bool {
    let Some(table) = table() else { return false };
    // SAFETY: inside a transaction, whose end releases it. It may have to wait, and the table be gone then.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
    self::table() == Some(table)
}

/// Waits until no worker is at work in this database, and keeps them so until the transaction ends.
pub fn keep_worker_out() {
    if let Some(table) = table() {
        // SAFETY: inside a transaction, whose end releases it.
        unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE) };
    }
}

/// The table of batches, if it is the extension's: where that isn't, anybody may make tables of its names.
fn table() -> Option<pg_sys::Oid> {
    // SAFETY: catalog look-ups by name, inside a transaction; what is missing gives InvalidOid.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"holdfast".as_ptr(), true);
        let schema = pg_sys::get_namespace_oid(c"holdfast".as_ptr(), true);
        if extension == pg_sys::InvalidOid || schema == pg_sys::InvalidOid {
            return None;
        }
        let table = pg_sys::get_relname_relid(c"audit_batch".as_ptr(), schema);
        let of = || pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table);
        (table != pg_sys::InvalidOid && of() == extension).then_some(table)
    }
}

/// Notes that the transaction that is open commits this batch, hence all of its worker's earlier ones.
pub fn note(batch: Batch) {
    const NOTE: &str =
        "INSERT INTO holdfast.audit_batch (origin, drain, number, at) VALUES ($1, $2, $3, pg_catalog.now())
         ON CONFLICT (origin, drain) DO UPDATE SET number = excluded.number, at = excluded.at";
    thread_local! {
        static STATEMENT: RefCell<Prepared> = RefCell::new(Prepared::new(NOTE));
    }
    let arguments = [batch.origin.into(), batch.drain.into(), batch.number.into()];
    if let Err(error) = STATEMENT.with_borrow_mut(|statement| statement.execute(&arguments)) {
        pgrx::error!("{error}");
    }
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
