//! Whose rows a table holds, read from the catalogs and cached until the table or the policy changes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::pg_sys;
use rustc_hash::FxBuildHasher;

use super::catalog::Classification;
use super::innocent::Innocent;
use super::keys::KeyColumn;
use super::parents::ParentLink;
use super::process::process_local;
use super::session::{self, Policy, Session};
use super::{columns, compat, invalidation, trigger};
use crate::policy::rules::TableName;
use crate::policy::surface::{GuardState, Table, TableClass, TenantSource};
use crate::policy::tenant::{TenantKey, TenantType};

/// A relation as the guard sees it.
pub struct Relation {
    /// For the pure layer.
    pub table: Table,
    /// Whether nobody but this session can see its rows, or it holds none: a temporary table, a view.
    pub beside_the_point: bool,
    /// Whether it is the extension's own.
    pub ours: bool,
    /// The table that was classified: itself or, for a partition, an ancestor.
    pub classified: pg_sys::Oid,
    /// Where a row's tenant is found, in this very table: columns are numbered differently in partitions.
    pub locate: Locate,
    /// Whether rows of other tables get their tenants from rows of this one.
    pub is_parent: bool,
    /// The other relations that were looked at to find this out: partitions and children for their guards, parents.
    depends_on: Vec<pg_sys::Oid>,
    /// Writes of it that break no rule.
    pub innocent: Innocent,
}

/// Where a row's tenant is found.
pub enum Locate {
    /// Nowhere: the table isn't a tenant table, or has lost what told.
    Nowhere,
    /// In columns of the row.
    Columns(Vec<KeyColumn>),
    /// In the parent row.
    Parent(ParentLink),
    /// Here: all rows belong to this tenant.
    Constant(TenantKey),
}

/// What a table's rows have their tenants from, by number: a column that goes and comes back under its name isn't the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bearings {
    /// Columns of their own.
    Columns(Vec<pg_sys::AttrNumber>),
    /// Another table: columns here, and those that they refer to.
    Parent(pg_sys::Oid, Vec<(pg_sys::AttrNumber, pg_sys::AttrNumber)>),
}

impl Relation {
    /// What its rows have their tenants from, if they have any.
    pub fn bearings(&self) -> Option<Bearings> {
        match &self.locate {
            Locate::Columns(columns) => Some(Bearings::Columns(columns.iter().map(|c| c.attnum).collect())),
            Locate::Parent(link) => {
                let (parent, columns) = link.course();
                Some(Bearings::Parent(parent, columns))
            }
            Locate::Nowhere | Locate::Constant(_) => None,
        }
    }

    /// What its guard means for a table of this class that it is a partition or child of.
    fn state_within_another(&self, class: &TableClass) -> GuardState {
        // A temporary one is its session's own affair.
        if self.beside_the_point {
            return GuardState::Enabled;
        }
        // Who may write the table may write tenants' rows, not everybody's.
        let looser = matches!(class, TableClass::Tenant(_)) && self.table.class == TableClass::Global;
        if looser { GuardState::Missing } else { self.table.guard }
    }

    /// The types of the columns of the tenant keys that the table itself holds; none if it holds none.
    pub fn key_types(&self) -> Vec<TenantType> {
        match &self.locate {
            Locate::Columns(columns) => columns.iter().map(|column| column.of).collect(),
            Locate::Constant(_) => vec![TenantType::Text],
            Locate::Nowhere | Locate::Parent(_) => Vec::new(),
        }
    }
}

process_local! {
    static RELATIONS: RefCell<HashMap<u32, Rc<Relation>, FxBuildHasher>> = const { RefCell::new(HashMap::with_hasher(FxBuildHasher)) };
}

/// For `invalidation`.
pub(super) fn forget(relation: pg_sys::Oid) {
    RELATIONS.with(|r| {
        if let Ok(mut relations) = r.try_borrow_mut() {
            relations.remove(&relation.to_u32());
            relations.retain(|_, other| !other.depends_on.contains(&relation));
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

/// A relation that was looked up before, if it is still as it was.
pub fn known(oid: pg_sys::Oid) -> Option<Rc<Relation>> {
    RELATIONS.borrow().get(&oid.to_u32()).cloned()
}

/// How many foreign keys a path to a tenant may have.
pub const LONGEST_PATH: u32 = 16;

/// Looks a relation up. The caller's statement holds a lock on it; none when it is gone all the same, and for one to which
/// foreign keys lead in a circle.
pub fn facts(session: &Session, oid: pg_sys::Oid) -> Option<Rc<Relation>> {
    process_local! {
        static DEPTH: Cell<u32> = const { Cell::new(0) };
    }
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    if DEPTH.get() >= LONGEST_PATH {
        return None;
    }
    if let Some(known) = known(oid) {
        return Some(known);
    }
    DEPTH.set(DEPTH.get() + 1);
    let _leave = Leave;
    let generation = invalidation::relation_generation();
    let own = Entry::read(oid)?;
    let classified = classified_as(&session.policy, oid, own.partition);
    let class = class_of(&session.policy, classified);
    let mut depends_on = Vec::new();
    let locate = locate(session, oid, &class, &mut depends_on);
    let parts = if own.has_children && class.guarded() { inheritors(oid) } else { Vec::new() };
    let (mut guard, mut child) = (own.guard, None);
    for part in &parts {
        // Rows that are written through this table land, or lie, there as well.
        let Some(part) = facts(session, *part) else { continue };
        let state = part.state_within_another(&class);
        if state > guard {
            guard = state;
            // Partitions are guarded with the whole, children stand beside it.
            child = (own.kind != pg_sys::RELKIND_PARTITIONED_TABLE).then(|| (part.table.name.clone(), own.guard));
        }
    }
    if guard == GuardState::Missing && restored(&session.policy, classified) {
        (guard, child) = (GuardState::Unrestored, None);
    }
    // A restore creates foreign keys even later than triggers.
    if guard != GuardState::Unrestored
        && let (TableClass::Tenant(source), Locate::Nowhere) = (&class, &locate)
    {
        guard = match source {
            TenantSource::Parent(_) => GuardState::Pathless,
            TenantSource::Columns(_) | TenantSource::Constant(_) => GuardState::Columnless,
        };
        child = None;
    }
    depends_on.extend(parts);
    let name_of = |oid| Entry::read(oid).map(|entry| entry.name);
    let stands_for_it = if classified == oid { None } else { name_of(classified) };
    let writable = matches!(
        own.kind,
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE | pg_sys::RELKIND_FOREIGN_TABLE
    );
    let relation = Rc::new(Relation {
        table: Table { name: own.name, classified: stands_for_it, class, guard, child },
        // The extension's own have a rule for themselves.
        beside_the_point: own.temporary || !writable || own.schema == session.catalog.schema,
        ours: own.schema == session.catalog.schema,
        classified,
        locate,
        is_parent: std::iter::once(oid).chain(ancestors(oid)).any(|t| session.policy.parents.contains(&t.to_u32())),
        depends_on,
        innocent: Innocent::default(),
    });
    // An invalidation that came in while we read may be about this very relation.
    if invalidation::relation_generation() == generation && session::is_current(&session.policy) {
        RELATIONS.with(|r| r.borrow_mut().insert(oid.to_u32(), relation.clone()));
    }
    Some(relation)
}

/// What the relcache says of one relation, copied so that the entry needn't stay pinned.
struct Entry {
    name: TableName,
    schema: pg_sys::Oid,
    kind: u8,
    partition: bool,
    temporary: bool,
    has_children: bool,
    guard: GuardState,
}

impl Entry {
    /// None when the relation is gone.
    fn read(oid: pg_sys::Oid) -> Option<Entry> {
        // SAFETY: a relcache look-up inside a transaction gives null or an entry that is released below. Until then it is
        // pinned, so that what it points to stays.
        unsafe {
            let entry = pg_sys::RelationIdGetRelation(oid);
            let form = &*entry.as_ref()?.rd_rel;
            let read = Entry {
                name: TableName {
                    schema: session::text(pg_sys::get_namespace_name(form.relnamespace)),
                    name: session::text(form.relname.data.as_ptr()),
                },
                schema: form.relnamespace,
                kind: form.relkind as u8,
                partition: form.relispartition,
                temporary: form.relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
                has_children: form.relhassubclass,
                guard: guard_state(entry),
            };
            pg_sys::RelationClose(entry);
            Some(read)
        }
    }
}

/// All partitions or inheritance children of a table, without itself.
pub fn inheritors(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: a catalog look-up; without locks, since writers of the parent lock its children themselves.
    let list = unsafe {
        let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        compat::guarded(|| compat::find_all_inheritors(oid, lock, std::ptr::null_mut()))
    };
    // SAFETY: a list of oids.
    let length = unsafe { compat::list_length(list) };
    // SAFETY: n is within the list.
    (0..length).map(|n| unsafe { compat::list_nth_oid(list, n) }).filter(|child| *child != oid).collect()
}

/// The state of a table's own guard, whatever its partitions and children are like.
pub fn own_guard(oid: pg_sys::Oid) -> GuardState {
    Entry::read(oid).map_or(GuardState::Missing, |entry| entry.guard)
}

/// Whether a relation is a partition.
pub fn is_partition(oid: pg_sys::Oid) -> bool {
    Entry::read(oid).is_some_and(|entry| entry.partition)
}

/// Whether a relation is temporary.
pub fn is_temporary(oid: pg_sys::Oid) -> bool {
    Entry::read(oid).is_some_and(|entry| entry.temporary)
}

/// Whether a table's classification came out of a dump.
fn restored(policy: &Policy, classified: pg_sys::Oid) -> bool {
    policy.classified.get(&classified.to_u32()).is_some_and(|c| c.classified_oid != classified.to_u32())
}

/// The table that says what a relation is: for a partition the topmost ancestor that is classified, so that a partition
/// that was classified before it was attached is what the whole is.
fn classified_as(policy: &Policy, oid: pg_sys::Oid, partition: bool) -> pg_sys::Oid {
    if !partition {
        return oid;
    }
    let above = ancestors(oid);
    above.into_iter().rev().find(|above| policy.classified.contains_key(&above.to_u32())).unwrap_or(oid)
}

/// The tables that a partition is part of, the nearest first; none for what isn't a partition.
pub fn ancestors(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog look-ups; only a partition has ancestors.
    let list = unsafe {
        if !pg_sys::get_rel_relispartition(oid) {
            return Vec::new();
        }
        compat::guarded(|| compat::get_partition_ancestors(oid))
    };
    // SAFETY: a list of oids.
    let length = unsafe { compat::list_length(list) };
    // SAFETY: n is within the list.
    (0..length).map(|n| unsafe { compat::list_nth_oid(list, n) }).collect()
}

fn class_of(policy: &Policy, classified: pg_sys::Oid) -> TableClass {
    let Some(classification) = policy.classified.get(&classified.to_u32()) else { return TableClass::Unclassified };
    let Classification { class, tenant_columns, via, tenant, backend, .. } = classification;
    match (class.as_str(), tenant_columns, via, tenant) {
        ("global", ..) => TableClass::Global,
        ("exempt", ..) => TableClass::Exempt { backend: backend.clone() },
        ("tenant", Some(columns), ..) => TableClass::Tenant(TenantSource::Columns(columns.clone())),
        ("tenant", None, Some(via), _) => TableClass::Tenant(TenantSource::Parent(via.clone())),
        ("tenant", None, None, Some(tenant)) => TableClass::Tenant(TenantSource::Constant(tenant.clone())),
        _ => TableClass::Unclassified,
    }
}

/// Where a table's rows have their tenants; nowhere makes the guard a damaged one.
fn locate(session: &Session, oid: pg_sys::Oid, class: &TableClass, depends_on: &mut Vec<pg_sys::Oid>) -> Locate {
    match class {
        TableClass::Tenant(TenantSource::Columns(columns)) => {
            let found: Option<Vec<_>> = columns.names().iter().map(|name| columns::find(oid, name)).collect();
            found.map_or(Locate::Nowhere, Locate::Columns)
        }
        TableClass::Tenant(TenantSource::Parent(via)) => {
            let Ok(link) = ParentLink::find(oid, via) else { return Locate::Nowhere };
            depends_on.push(link.parent);
            depends_on.extend(inheritors(link.parent));
            // The parent must be guarded itself, up to where a row names its tenant.
            let Some(parent) = facts(session, link.parent) else { return Locate::Nowhere };
            depends_on.extend(&parent.depends_on);
            if parent.is_parent && !matches!(parent.locate, Locate::Nowhere) {
                Locate::Parent(link)
            } else {
                Locate::Nowhere
            }
        }
        TableClass::Tenant(TenantSource::Constant(tenant)) => Locate::Constant(TenantKey::text(tenant)),
        _ => Locate::Nowhere,
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

/// What matters of a trigger.
struct Trigger {
    function: pg_sys::Oid,
    kind: i16,
    enabled: u8,
    conditional: bool,
}

/// Whether the guard's trigger is there, fires in every session, and fires last.
unsafe fn guard_state(entry: pg_sys::Relation) -> GuardState {
    // A pin keeps the relcache entry but not its trigger descriptor, which the next invalidation may replace: so it is
    // copied before anything calls Postgres.
    // SAFETY: the caller pins the entry; a relation without triggers has no descriptor.
    let triggers: Vec<Trigger> = unsafe {
        (*entry)
            .trigdesc
            .as_ref()
            .map_or(&[][..], |d| std::slice::from_raw_parts(d.triggers, usize::try_from(d.numtriggers).unwrap_or(0)))
    }
    .iter()
    .map(|t| Trigger {
        function: t.tgfoid,
        kind: t.tgtype,
        enabled: t.tgenabled as u8,
        conditional: t.tgnattr != 0 || !t.tgqual.is_null(),
    })
    .collect();
    // They fire in this order, which is that of their names.
    let guards = |t: &Trigger| trigger::is_guard_function(t.function);
    let Some(position) = triggers.iter().position(guards) else { return GuardState::Missing };
    let guard = &triggers[position];
    let fires_for_all = guard.kind & trigger::GUARD_TYPE == trigger::GUARD_TYPE
        && guard.enabled == pg_sys::TRIGGER_FIRES_ALWAYS
        && !guard.conditional;
    let changes_rows = |t: &Trigger| {
        let before_row = (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE) as i16;
        t.kind & before_row == before_row && t.enabled != pg_sys::TRIGGER_DISABLED && !guards(t)
    };
    if !fires_for_all {
        GuardState::Disabled
    } else if triggers[position + 1..].iter().any(changes_rows) {
        GuardState::Overtaken
    } else {
        GuardState::Enabled
    }
}
