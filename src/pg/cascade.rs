//! How foreign keys led a statement to a row: worded into refusals, so only looked up when there is one.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_int;

use pgrx::pg_sys;

use super::process::process_local;
use super::relation::{self, Relation};
use super::scan::scan;
use super::{compat, session, statement};
use crate::policy::rules::{Attempt, Reached, Refusal, Rule, Way};

/// Words the refusal of a row that a cascade reached: what it breaks is the cascade's doing.
pub fn reached_tenant(
    refusal: Refusal,
    relation: &Relation,
    table: pg_sys::Oid,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) -> Refusal {
    if !matches!(refusal.rule, Rule::NotOwner | Rule::CrossTenant) {
        return refusal;
    }
    let row = Some(row_name(relation, table, value));
    let path = path(statement::frame().outer_target, table);
    Refusal::cascade(refusal.attempt, Reached::Tenant, &Way { path, row })
}

process_local! {
    /// What a foreign key's query earns if it finds a row, by the table.
    static PUT_OFF: RefCell<Vec<(pg_sys::Oid, Refusal)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a refusal that a foreign key's query earns by its table alone until it finds a row. Returns whether it is one.
pub fn put_off(relation: &Relation, table: pg_sys::Oid, refusal: &Refusal) -> bool {
    if !matches!(refusal.rule, Rule::GlobalWrite | Rule::OutsideSurface) {
        return false;
    }
    let refusal = match refusal.rule {
        Rule::GlobalWrite => {
            let path = path(statement::frame().target, table);
            Refusal::cascade(refusal.attempt.clone(), Reached::Global, &Way { path, row: None })
        }
        _ => refusal.clone(),
    };
    PUT_OFF.with(|p| p.borrow_mut().push((relation.classified, refusal)));
    true
}

/// A query is about to find its rows: whatever was put off for an earlier one of the same table is of no more interest.
pub fn begins(relation: &Relation) {
    PUT_OFF.with(|p| p.borrow_mut().retain(|(table, _)| *table != relation.classified));
}

/// What was put off for this table. It stays, until the next query of it begins: the error may be caught, and another query
/// of the table be under way around this one.
pub fn put_off_for(relation: &Relation) -> Option<Refusal> {
    PUT_OFF.with(|p| {
        p.borrow().iter().find(|(table, _)| *table == relation.classified).map(|(_, refusal)| refusal.clone())
    })
}

/// Words the refusal of a row beyond `cascade_rows`.
pub fn reached_limit(attempt: Attempt, table: pg_sys::Oid, limit: u64) -> Refusal {
    let path = path(statement::frame().outer_target, table);
    Refusal::cascade(attempt, Reached::Rows(limit), &Way { path, row: None })
}

/// Whether a query of a foreign key is running. Postgres sets this for its own and for nothing else. A plain frame.
pub fn is_running() -> bool {
    // SAFETY: a plain read.
    unsafe { compat::InNoForceRLSOperation() }
}

/// The tables from the one that the statement writes to `table`, by the shortest way that foreign keys lead.
fn path(start: pg_sys::Oid, table: pg_sys::Oid) -> Vec<String> {
    let start = topmost(start);
    let mut came_from = BTreeMap::from([(start.to_u32(), start)]);
    let mut next = VecDeque::from([start]);
    let keys = foreign_keys();
    let end = topmost(table);
    while let Some(parent) = next.pop_front() {
        for child in keys.iter().filter(|(referred, _)| *referred == parent).map(|(_, child)| *child) {
            came_from.entry(child.to_u32()).or_insert_with(|| {
                next.push_back(child);
                parent
            });
        }
    }
    let mut path = vec![end];
    let mut at = end;
    while let Some(parent) = came_from.get(&at.to_u32()).copied() {
        if at == start {
            break;
        }
        path.push(parent);
        at = parent;
    }
    // A table that refers to itself, or one that no key leads to from there: a trigger wrote what did.
    if path.len() == 1 {
        path.push(start);
    }
    path.reverse();
    path.into_iter().filter_map(name).collect()
}

/// Pairs of a table and one that refers to it with an action, partitions by their topmost tables.
fn foreign_keys() -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    let mut keys = Vec::new();
    let column = compat::CONSTRAINED_TABLE;
    scan(compat::CONSTRAINTS, |row| {
        let oid = |attnum| row.datum(attnum).map_or(pg_sys::InvalidOid, |d| pg_sys::Oid::from(d.value() as u32));
        let letter = |attnum| row.datum(attnum).map_or(0, |d| d.value() as u8);
        // contype is the fourth; confrelid, confupdtype and confdeltype follow conrelid.
        let acts = |action: u8| matches!(action, b'c' | b'n' | b'd');
        if letter(4) == b'f' && (acts(letter(column + 5)) || acts(letter(column + 6))) {
            keys.push((oid(column + 4), oid(column)));
        }
    });
    keys.into_iter().map(|(referred, referring)| (topmost(referred), topmost(referring))).collect()
}

fn topmost(table: pg_sys::Oid) -> pg_sys::Oid {
    relation::ancestors(table).last().copied().unwrap_or(table)
}

fn name(table: pg_sys::Oid) -> Option<String> {
    // SAFETY: a syscache look-up; a missing relation gives null.
    let name = unsafe { session::text(pg_sys::get_rel_name(table)) };
    (!name.is_empty()).then_some(name)
}

/// A row by its primary key, for example `shipments (id) = (42)`.
fn row_name(
    relation: &Relation,
    table: pg_sys::Oid,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) -> String {
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for attnum in primary_key(table) {
        // SAFETY: catalog look-ups for a column of a table that is locked; the output function is its type's.
        unsafe {
            columns.push(session::text(pg_sys::get_attname(table, attnum, true)));
            let (mut function, mut varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(pg_sys::get_atttype(table, attnum), &mut function, &mut varlena);
            values.push(
                value(attnum)
                    .map_or_else(|| "null".to_owned(), |d| session::text(pg_sys::OidOutputFunctionCall(function, d))),
            );
        }
    }
    let name = &relation.table.name.name;
    if columns.is_empty() {
        return format!("one of {name}, which has no primary key");
    }
    format!("{name} ({}) = ({})", columns.join(", "), values.join(", "))
}

/// The numbers of the columns of a table's primary key.
fn primary_key(table: pg_sys::Oid) -> Vec<pg_sys::AttrNumber> {
    let mut columns = Vec::new();
    // SAFETY: a relcache look-up gives null or a pinned entry; the set is a copy in the current memory context.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(table);
        if entry.is_null() {
            return columns;
        }
        let set = pg_sys::RelationGetIndexAttrBitmap(entry, pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_PRIMARY_KEY);
        pg_sys::RelationClose(entry);
        let mut member: c_int = -1;
        loop {
            member = pg_sys::bms_next_member(set, member);
            if member < 0 {
                return columns;
            }
            columns.extend(pg_sys::AttrNumber::try_from(member + pg_sys::FirstLowInvalidHeapAttributeNumber));
        }
    }
}
