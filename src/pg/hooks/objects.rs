//! What an object of the catalogs is to the guard: which table it belongs to, and whether it is part of the extension.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::pg::compat::CONSTRAINTS;
use crate::pg::scan::{AsOf, Key, Row, scan_with};
use crate::pg::session::{self, Session};
use crate::pg::{compat, relation};
use crate::policy::command::Target;

// Catalogs that the bindings lack, by their numbers, which never change.
/// `AttrDefaultRelationId`.
const DEFAULTS: pg_sys::Oid = pg_sys::Oid::from_u32(2604);
/// `RewriteRelationId`.
const RULES: pg_sys::Oid = pg_sys::Oid::from_u32(2618);
/// `PolicyRelationId`.
const POLICIES: pg_sys::Oid = pg_sys::Oid::from_u32(3256);

/// What a part of a table is found by: its catalog, the index of that by oid, and which column names the table.
const PARTS: [(pg_sys::Oid, u32, usize); 4] =
    [(pg_sys::TriggerRelationId, 2702, 1), (RULES, 2692, 2), (POLICIES, 3257, 2), (DEFAULTS, 2657, 1)];

/// The table that an object is, or belongs to; InvalidOid if to none.
pub(super) fn table_of(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::Oid {
    if let Some((_, index, column)) = PARTS.iter().find(|(catalog, ..)| *catalog == class) {
        return owner_of_part(class, pg_sys::Oid::from_u32(*index), *column, object);
    }
    match class {
        pg_sys::RelationRelationId => whole(object),
        CONSTRAINTS => constrained_table(object),
        // SAFETY: syscache look-ups; a missing type gives InvalidOid. An array's row type is its element's.
        pg_sys::TypeRelationId => unsafe {
            let element = pg_sys::get_element_type(object);
            pg_sys::get_typ_typrelid(if element == pg_sys::InvalidOid { object } else { element })
        },
        _ => pg_sys::InvalidOid,
    }
}

/// The table of an index or of an owned sequence; any other relation itself.
fn whole(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: catalog look-ups; the out parameters are this frame's.
    let found = unsafe {
        match pg_sys::get_rel_relkind(relation) as u8 {
            pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => pg_sys::IndexGetRelation(relation, true),
            pg_sys::RELKIND_SEQUENCE => {
                let (mut table, mut column) = (pg_sys::InvalidOid, 0);
                let mut owned = |kind: pg_sys::DependencyType::Type| {
                    pg_sys::sequenceIsOwned(relation, kind as _, &mut table, &mut column)
                };
                let _ = owned(pg_sys::DependencyType::DEPENDENCY_AUTO)
                    || owned(pg_sys::DependencyType::DEPENDENCY_INTERNAL);
                table
            }
            _ => pg_sys::InvalidOid,
        }
    };
    if found == pg_sys::InvalidOid { relation } else { found }
}

fn owner_of_part(class: pg_sys::Oid, index: pg_sys::Oid, column: usize, object: pg_sys::Oid) -> pg_sys::Oid {
    let mut table = pg_sys::InvalidOid;
    read_object(class, index, object, |row| table = row.oid(column));
    table
}

/// Reads an object's row in its catalog, also one that the command under way has just made.
fn read_object(class: pg_sys::Oid, index: pg_sys::Oid, object: pg_sys::Oid, each: impl FnMut(&Row)) {
    let key = Key { column: 1, function: pg_sys::Oid::from(pg_sys::F_OIDEQ), ..Key::of(object.into()) };
    scan_with(class, Some(index), &mut [key.prepare()], AsOf::Instant, each);
}

/// Whether a trigger is Postgres's own: those of a foreign key, on both of its tables.
pub(super) fn is_internal_trigger(trigger: pg_sys::Oid) -> bool {
    let mut internal = false;
    let (class, index) = (pg_sys::TriggerRelationId, pg_sys::Oid::from_u32(2702));
    read_object(class, index, trigger, |row| internal = row.read(7).unwrap_or(false));
    internal
}

/// The table that a foreign key refers to; InvalidOid for other constraints.
pub(super) fn referenced_table(constraint: pg_sys::Oid) -> pg_sys::Oid {
    let index = pg_sys::Oid::from_u32(2667);
    owner_of_part(CONSTRAINTS, index, compat::REFERENCED_TABLE as usize - 1, constraint)
}

/// The table of a constraint; InvalidOid for a domain's.
fn constrained_table(constraint: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up; the tuple is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::CONSTROID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, constraint.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let mut null = false;
        let table = pg_sys::SysCacheGetAttr(cache, tuple, compat::CONSTRAINED_TABLE, &mut null);
        pg_sys::ReleaseSysCache(tuple);
        if null { pg_sys::InvalidOid } else { pg_sys::Oid::from(table.value() as u32) }
    }
}

/// Whether a relation is temporary; InvalidOid is none.
pub(super) fn is_temporary(relation: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    relation != pg_sys::InvalidOid && unsafe { pg_sys::isAnyTempNamespace(pg_sys::get_rel_namespace(relation)) }
}

/// Whether an object is part of the extension: in its schema, on one of its tables, its schema, itself. Not while its own
/// script runs.
pub(super) fn is_ours(session: &Session, class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    let catalog = &session.catalog;
    // SAFETY: reads of the server's globals, then catalog look-ups, which give InvalidOid for what is missing.
    unsafe {
        if pg_sys::creating_extension && pg_sys::CurrentExtensionObject == catalog.extension {
            return false;
        }
        match class {
            pg_sys::ExtensionRelationId => object == catalog.extension,
            pg_sys::NamespaceRelationId => object == catalog.schema,
            pg_sys::ProcedureRelationId => pg_sys::get_func_namespace(object) == catalog.schema,
            pg_sys::TypeRelationId => type_namespace(object) == catalog.schema,
            _ => {
                let table = table_of(class, object);
                table != pg_sys::InvalidOid && pg_sys::get_rel_namespace(table) == catalog.schema
            }
        }
    }
}

/// The schema of a type; InvalidOid if it is missing.
fn type_namespace(object: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up; the tuple is read before it is released. typnamespace is never null.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, object.into());
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let mut null = false;
        let column = pg_sys::Anum_pg_type_typnamespace as pg_sys::AttrNumber;
        let schema = pg_sys::SysCacheGetAttr(cache, tuple, column, &mut null);
        pg_sys::ReleaseSysCache(tuple);
        pg_sys::Oid::from(schema.value() as u32)
    }
}

/// An object as Postgres describes it; empty if it is gone.
pub(super) fn description(class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> String {
    let address = pg_sys::ObjectAddress { classId: class, objectId: object, objectSubId: sub };
    // SAFETY: catalog look-ups; a missing object gives null.
    unsafe { session::text(pg_sys::getObjectDescription(&address, true)) }
}

/// An object as the target of a command.
pub(super) fn target(session: &Session, class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> Target {
    let of = table_of(class, object);
    let facts = if of == pg_sys::InvalidOid { None } else { relation::facts(session, of) };
    Target {
        description: description(class, object, sub),
        table: facts.map(|r| (r.table.name.clone(), r.table.class.clone())),
        temporary: is_temporary(of) || is_temporary_object(class, object),
    }
}

/// As above, for what isn't a relation.
fn is_temporary_object(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    unsafe {
        pg_sys::isAnyTempNamespace(match class {
            pg_sys::ProcedureRelationId => pg_sys::get_func_namespace(object),
            pg_sys::TypeRelationId => type_namespace(object),
            _ => return false,
        })
    }
}
