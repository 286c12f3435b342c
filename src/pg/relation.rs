//! Whose rows a table holds, read from the catalogs and cached until the table or the policy changes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys;

use super::session::{self, Policy, Session};
use super::{compat, trigger};
use crate::policy::rules::TableName;
use crate::policy::surface::{GuardState, Table, TableClass};
use crate::policy::tenant::TenantType;

/// A relation as the guard sees it.
pub struct Relation {
    /// For the pure layer.
    pub table: Table,
    /// Whether nobody but this session can see its rows, or it holds none: a temporary table, a view.
    pub beside_the_point: bool,
    /// The table that was classified: itself or, for a partition, an ancestor.
    pub classified: pg_sys::Oid,
    /// The tenant column's number in this very table, which differs between partitions; 0 if there is none.
    pub tenant_attnum: i16,
}

thread_local! {
    static RELATIONS: RefCell<BTreeMap<u32, Rc<Relation>>> = const { RefCell::new(BTreeMap::new()) };
}

/// For `invalidation`.
pub(super) fn forget(relation: pg_sys::Oid) {
    RELATIONS.with(|r| {
        if let Ok(mut relations) = r.try_borrow_mut() {
            relations.remove(&relation.to_u32());
        }
    });
}

/// For `invalidation`.
pub(super) fn forget_all() {
    RELATIONS.with(|r| {
        if let Ok(mut relations) = r.try_borrow_mut() {
            relations.clear();
        }
    });
}

/// Looks a relation up. The caller's statement holds a lock on it; none when it is gone all the same.
pub fn facts(session: &Session, oid: pg_sys::Oid) -> Option<Rc<Relation>> {
    if let Some(known) = RELATIONS.with(|r| r.borrow().get(&oid.to_u32()).cloned()) {
        return Some(known);
    }
    // SAFETY: a relcache look-up inside a transaction gives null or an entry that we release below. Holding it pins the
    // entry, so that the trigger descriptor stays.
    let entry = unsafe { pg_sys::RelationIdGetRelation(oid) };
    // SAFETY: null or valid.
    let form = unsafe { entry.as_ref().map(|e| &*e.rd_rel) }?;
    let partition = form.relispartition;
    let beside_the_point =
        form.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP || form.relkind as u8 == pg_sys::RELKIND_VIEW;
    // SAFETY: both are C strings, the schema's possibly null when it is being dropped.
    let name = unsafe {
        TableName {
            schema: session::text(pg_sys::get_namespace_name(form.relnamespace)),
            name: session::text(form.relname.data.as_ptr()),
        }
    };
    let classified = classified_as(&session.policy, oid, partition);
    let (class, tenant_attnum) = class_of(&session.policy, oid, classified);
    // SAFETY: the entry is pinned.
    let guard = match unsafe { guard_state(entry) } {
        GuardState::Missing if restored(&session.policy, classified) => GuardState::Unrestored,
        state => state,
    };
    // SAFETY: releases the pin taken above.
    unsafe { pg_sys::RelationClose(entry) };

    let relation =
        Rc::new(Relation { table: Table { name, class, guard }, beside_the_point, classified, tenant_attnum });
    RELATIONS.with(|r| r.borrow_mut().insert(oid.to_u32(), relation.clone()));
    Some(relation)
}

/// Whether a table's classification came out of a dump.
fn restored(policy: &Policy, classified: pg_sys::Oid) -> bool {
    policy.classified.get(&classified.to_u32()).is_some_and(|c| c.classified_oid != classified.to_u32())
}

/// The nearest table, upwards from a partition, that is classified.
fn classified_as(policy: &Policy, oid: pg_sys::Oid, partition: bool) -> pg_sys::Oid {
    if !partition || policy.classified.contains_key(&oid.to_u32()) {
        return oid;
    }
    // SAFETY: a catalog look-up for a relation that is a partition.
    let ancestors = unsafe { compat::guarded(|| compat::get_partition_ancestors(oid)) };
    // SAFETY: a list of oids, or NIL.
    let length = unsafe { compat::list_length(ancestors) };
    // SAFETY: n is within the list.
    let nearest_first = (0..length).map(|n| unsafe { compat::list_nth_oid(ancestors, n) });
    { nearest_first }.find(|ancestor| policy.classified.contains_key(&ancestor.to_u32())).unwrap_or(oid)
}

fn class_of(policy: &Policy, oid: pg_sys::Oid, classified: pg_sys::Oid) -> (TableClass, i16) {
    let Some(classification) = policy.classified.get(&classified.to_u32()) else {
        return (TableClass::Unclassified, 0);
    };
    match (classification.class.as_str(), &classification.tenant_column) {
        ("global", _) => (TableClass::Global, 0),
        ("exempt", _) => (TableClass::Exempt { backend: classification.backend.clone() }, 0),
        ("tenant", Some(column)) => match column_of(oid, column) {
            Some((attnum, of)) => (TableClass::Tenant { column: column.clone(), of }, attnum),
            // The column is gone: nobody knows any more whose rows these are.
            None => (TableClass::Unclassified, 0),
        },
        _ => (TableClass::Unclassified, 0),
    }
}

/// Why a relation can't be classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unguardable {
    /// It isn't there.
    Missing,
    /// A view or materialized view.
    View,
    /// A foreign table.
    Foreign,
    /// A table of Postgres.
    System,
    /// A table of the extension.
    Ours,
    /// A temporary table.
    Temporary,
    /// A partition: its root is what is guarded.
    Partition,
    /// An index, a sequence, a composite type.
    NotATable,
}

/// Whether a relation can be classified.
///
/// # Errors
/// Why not.
pub fn check_guardable(session: &Session, oid: pg_sys::Oid) -> Result<(), Unguardable> {
    // SAFETY: as in facts().
    let entry = unsafe { pg_sys::RelationIdGetRelation(oid) };
    // SAFETY: null or valid.
    let form = unsafe { entry.as_ref().map(|e| &*e.rd_rel) }.ok_or(Unguardable::Missing)?;
    let (kind, persistence) = (form.relkind as u8, form.relpersistence as u8);
    let (schema, partition) = (form.relnamespace, form.relispartition);
    // SAFETY: releases the pin taken above.
    unsafe { pg_sys::RelationClose(entry) };
    // SAFETY: a catalog look-up.
    let schema_name = unsafe { session::text(pg_sys::get_namespace_name(schema)) };
    match kind {
        pg_sys::RELKIND_VIEW | pg_sys::RELKIND_MATVIEW => Err(Unguardable::View),
        pg_sys::RELKIND_FOREIGN_TABLE => Err(Unguardable::Foreign),
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE => {
            if matches!(schema_name.as_str(), "pg_catalog" | "information_schema" | "pg_toast") {
                Err(Unguardable::System)
            } else if schema == session.catalog.schema {
                Err(Unguardable::Ours)
            } else if persistence == pg_sys::RELPERSISTENCE_TEMP {
                Err(Unguardable::Temporary)
            } else if partition {
                Err(Unguardable::Partition)
            } else {
                Ok(())
            }
        }
        _ => Err(Unguardable::NotATable),
    }
}

/// Why a column can't be a tenant column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnProblem {
    /// It isn't there.
    Missing,
    /// It is a generated column.
    Generated,
    /// Its type, named here, isn't one.
    Type(String),
    /// Its collation calls unequal texts equal.
    Collation,
}

/// Whether a column can be a tenant column.
///
/// # Errors
/// Why not.
pub fn check_tenant_column(oid: pg_sys::Oid, column: &str) -> Result<(), ColumnProblem> {
    let name = std::ffi::CString::new(column).map_err(|_| ColumnProblem::Missing)?;
    // SAFETY: syscache look-ups inside a transaction; a missing column has number 0, a system column a negative one.
    unsafe {
        let attnum = pg_sys::get_attnum(oid, name.as_ptr());
        if attnum <= 0 {
            return Err(ColumnProblem::Missing);
        }
        if pg_sys::get_attgenerated(oid, attnum) != 0 {
            return Err(ColumnProblem::Generated);
        }
        let (mut of, mut modifier, mut collation) = (pg_sys::InvalidOid, 0, pg_sys::InvalidOid);
        pg_sys::get_atttypetypmodcoll(oid, attnum, &mut of, &mut modifier, &mut collation);
        if tenant_type(of).is_none() {
            return Err(ColumnProblem::Type(session::text(pg_sys::format_type_be(of))));
        }
        if collation != pg_sys::InvalidOid && !pg_sys::get_collation_isdeterministic(collation) {
            return Err(ColumnProblem::Collation);
        }
    }
    Ok(())
}

/// Whether a table has a column of this name.
pub fn has_column(oid: pg_sys::Oid, column: &str) -> bool {
    // SAFETY: a syscache look-up inside a transaction.
    std::ffi::CString::new(column).is_ok_and(|name| unsafe { pg_sys::get_attnum(oid, name.as_ptr()) > 0 })
}

/// A column's number and the family of its type, if it may be a tenant column.
pub fn column_of(oid: pg_sys::Oid, column: &str) -> Option<(i16, TenantType)> {
    let name = std::ffi::CString::new(column).ok()?;
    // SAFETY: syscache look-ups inside a transaction; a missing column has number 0.
    unsafe {
        let attnum = pg_sys::get_attnum(oid, name.as_ptr());
        if attnum <= 0 {
            return None;
        }
        Some((attnum, tenant_type(pg_sys::get_atttype(oid, attnum))?))
    }
}

/// The family of a type, through domains.
pub fn tenant_type(type_oid: pg_sys::Oid) -> Option<TenantType> {
    // SAFETY: syscache look-ups inside a transaction.
    let base = unsafe { pg_sys::getBaseType(type_oid) };
    match base {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Some(TenantType::Integer),
        pg_sys::UUIDOID => Some(TenantType::Uuid),
        pg_sys::TEXTOID | pg_sys::VARCHAROID => Some(TenantType::Text),
        pg_sys::BYTEAOID => Some(TenantType::Bytea),
        // Citext comes with an extension, so it has no fixed number; the name and the extension's make it that.
        other => is_citext(other).then_some(TenantType::Citext),
    }
}

fn is_citext(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction; what is missing gives InvalidOid or null.
    unsafe {
        let extension = pg_sys::getExtensionOfObject(pg_sys::TypeRelationId, type_oid);
        if extension == pg_sys::InvalidOid || session::text(pg_sys::get_extension_name(extension)) != "citext" {
            return false;
        }
        session::text(pg_sys::format_type_be(type_oid)).ends_with("citext")
    }
}

/// Whether the guard's trigger is there and fires in every session.
unsafe fn guard_state(entry: pg_sys::Relation) -> GuardState {
    // SAFETY: the caller pins the relcache entry; a relation without triggers has no descriptor.
    let triggers = unsafe {
        (*entry)
            .trigdesc
            .as_ref()
            .map_or(&[][..], |d| std::slice::from_raw_parts(d.triggers, usize::try_from(d.numtriggers).unwrap_or(0)))
    };
    let mut state = GuardState::Missing;
    for trigger in triggers.iter().filter(|t| trigger::is_guard_function(t.tgfoid)) {
        let fires_for_all = trigger.tgtype & trigger::GUARD_TYPE == trigger::GUARD_TYPE
            && trigger.tgenabled as u8 == pg_sys::TRIGGER_FIRES_ALWAYS
            && trigger.tgnattr == 0
            && trigger.tgqual.is_null();
        if fires_for_all {
            return GuardState::Enabled;
        }
        state = GuardState::Disabled;
    }
    state
}
