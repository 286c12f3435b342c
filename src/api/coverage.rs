//! What the views `coverage` and `status` ask the guard.

use pgrx::iter::TableIterator;
use pgrx::{Spi, name, pg_extern, search_path};

use super::internal;
use crate::pg::types::Regclass;
use crate::pg::{relation, session};

/// The state of a table's guard, its partitions' and children's included, as a write of it would meet it; NULL where there is
/// no such table.
#[pg_extern(stable, parallel_unsafe)]
fn guard_state(relation: Option<Regclass>) -> Option<String> {
    let session = session::load()?;
    relation::facts(&session, relation?.0).map(|facts| facts.table.guard.word().to_owned())
}

const COUNT: &str = "
SELECT coalesce(c.class, 'unclassified'),
    CASE WHEN c.class IN ('tenant', 'global') THEN coalesce(holdfast.guard_state(r.oid), 'missing') END, count(*)
FROM pg_class r
JOIN pg_namespace n ON n.oid = r.relnamespace
LEFT JOIN LATERAL (SELECT relid FROM pg_partition_ancestors(r.oid) WITH ORDINALITY AS up (relid, n)
    WHERE r.relispartition AND relid IN (SELECT relation FROM holdfast.classified_table)
    ORDER BY up.n DESC LIMIT 1) root ON true
LEFT JOIN holdfast.classified_table c ON c.relation = coalesce(root.relid::oid, r.oid)
WHERE (r.relkind IN ('r', 'p') OR r.relkind = 'f' AND r.relispartition) AND r.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'holdfast')
GROUP BY 1, 2";

/// What coverage would count by class and guard, without its findings, which cost more than all the rest.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn table_counts() -> TableIterator<'static, (name!(class, String), name!(guard, Option<String>), name!(tables, i64))> {
    let read = || {
        Spi::connect(|client| {
            let row = |row: pgrx::spi::SpiHeapTupleData| {
                Ok((row.get(1)?.unwrap_or_default(), row.get(2)?, row.get(3)?.unwrap_or_default()))
            };
            client.select(COUNT, None, &[])?.map(row).collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    };
    match session::operate(read) {
        Ok(counts) => TableIterator::new(counts),
        Err(failure) => internal(failure),
    }
}
