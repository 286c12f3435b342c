//! What a command has left behind. While it runs, object_access notes the tables whose guards it touches and the objects
//! that it makes; when it has ended, their state tells whether it damaged the guard, by whatever way that was reached.

use std::cell::{Cell, RefCell};
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use super::objects;
use crate::pg::process::process_local;
use crate::pg::relation::{self, Bearings, Relation};
use crate::pg::report::Report;
use crate::pg::session::{self, Session};
use crate::pg::{audit, dropped, partitions};
use crate::policy::surface::{GuardState, TableClass};
use crate::policy::tampering::{self, Change};

/// A table before the command.
struct Before {
    table: pg_sys::Oid,
    guard: GuardState,
    /// What stands for it in policy.
    classified: pg_sys::Oid,
    class: TableClass,
    bearings: Option<Bearings>,
}

impl Before {
    /// A guarded table as it is now.
    fn of(session: &Session, table: pg_sys::Oid) -> Option<Before> {
        let relation = relation::facts(session, table).filter(|r| r.table.class.guarded())?;
        Some(Before {
            table,
            guard: relation.table.guard,
            classified: relation.classified,
            class: relation.table.class.clone(),
            bearings: relation.bearings(),
        })
    }

    /// What the command has left of the guard. One that is whole, but by which rows have other tenants than before, isn't.
    fn now(&self, after: &Relation) -> GuardState {
        let same = self.class != after.table.class || self.bearings == after.bearings();
        match self.bearings {
            // It has become part of a whole that isn't guarded.
            _ if !after.table.class.guarded() => GuardState::Missing,
            _ if same || after.table.guard != GuardState::Enabled => after.table.guard,
            Some(Bearings::Parent(..)) => GuardState::Pathless,
            _ => GuardState::Columnless,
        }
    }
}

/// A table that gets children by inheritance.
struct Parent {
    before: Before,
    /// Those that it has already, theirs included.
    children: Vec<pg_sys::Oid>,
}

struct Notes {
    /// Tables as they were before the command.
    tables: Vec<Before>,
    parents: Vec<Parent>,
    /// Tables of the policy that it drops.
    dropped: Vec<pg_sys::Oid>,
    /// Objects by catalog and number.
    objects: Vec<(pg_sys::Oid, pg_sys::Oid)>,
}

process_local! {
    static NOTES: RefCell<Notes> = const { RefCell::new(Notes { tables: Vec::new(), parents: Vec::new(), dropped: Vec::new(), objects: Vec::new() }) };
    static RUNNING: Cell<Running> = const { Cell::new(Running { tag: pg_sys::CommandTag::CMDTAG_UNKNOWN, judged: false }) };
}

/// A command under way.
#[derive(Clone, Copy)]
pub(super) struct Running {
    tag: pg_sys::CommandTag::Type,
    /// Whether it was judged as a whole for changing the guard, so that its parts needn't be.
    judged: bool,
}

/// A command begins; the one around it, for [`ends`]. An error on the way leaves this command's notes, which the next
/// statement of the client forgets.
pub(super) fn begins(tag: pg_sys::CommandTag::Type, of_client: bool) -> Running {
    if of_client && has_notes() {
        NOTES.with(|notes| {
            let mut notes = notes.borrow_mut();
            notes.tables.clear();
            notes.parents.clear();
            notes.dropped.clear();
            notes.objects.clear();
        });
    }
    RUNNING.replace(Running { tag, judged: false })
}

/// A command has ended.
pub(super) fn ends(outer: Running) {
    RUNNING.set(outer);
}

/// The command under way, as refusals and events name it.
pub(super) fn command() -> String {
    // SAFETY: gives a constant string for every tag.
    unsafe { session::text(pg_sys::GetCommandTagName(RUNNING.get().tag)) }
}

/// The command under way was judged for what it does to the guard, or began when there was nothing to judge it by: a policy that
/// comes meanwhile, as it does when a dump is restored by several jobs, is for later ones.
pub(super) fn is_judged() {
    RUNNING.set(Running { judged: true, ..RUNNING.get() });
}

/// Whether each part of the guard that the command under way changes is to be judged. VACUUM FULL and the like change none,
/// though Postgres says so.
pub(super) fn judges_parts() -> bool {
    use pg_sys::CommandTag::{CMDTAG_CLUSTER, CMDTAG_REINDEX, CMDTAG_VACUUM};
    let running = RUNNING.get();
    !running.judged && !matches!(running.tag, CMDTAG_CLUSTER | CMDTAG_REINDEX | CMDTAG_VACUUM)
}

/// Whether there is anything to check when the command has ended.
pub(super) fn has_notes() -> bool {
    NOTES.with(|notes| {
        let notes = notes.borrow();
        !(notes.tables.is_empty() && notes.parents.is_empty() && notes.dropped.is_empty() && notes.objects.is_empty())
    })
}

/// Notes that the command touches a table in a way that its guard may not survive.
pub(super) fn note_table(session: &Session, table: pg_sys::Oid) {
    if NOTES.with(|notes| notes.borrow().tables.iter().any(|before| before.table == table)) {
        return;
    }
    if let Some(before) = Before::of(session, table) {
        NOTES.with(|notes| notes.borrow_mut().tables.push(before));
    }
}

/// Notes that the command gives a table a child by inheritance. A dump brings the children's triggers later.
pub(super) fn note_parent(session: &Session, table: pg_sys::Oid) {
    if let Some(before) = Before::of(session, table).filter(|before| before.guard != GuardState::Unrestored) {
        let children = relation::inheritors(table);
        NOTES.with(|notes| notes.borrow_mut().parents.push(Parent { before, children }));
    }
}

/// Notes a table that is about to be dropped.
pub(super) fn note_dropped(session: &Session, table: pg_sys::Oid) {
    if dropped::concerns(session, table) {
        NOTES.with(|notes| notes.borrow_mut().dropped.push(table));
    }
}

/// Notes an object that the command makes or moves: only afterwards can it be seen where it is.
pub(super) fn note_object(class: pg_sys::Oid, object: pg_sys::Oid) {
    NOTES.with(|notes| notes.borrow_mut().objects.push((class, object)));
}

/// `guard_tampering` for what was noted. `part`: whether the command is one of those that Postgres makes of another; a new
/// child gets its foreign keys by such.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn check(part: bool) -> *const Report {
    let (mut tables, parents, gone, made) = NOTES.with(|notes| {
        let mut notes = notes.borrow_mut();
        let parents = if part { Vec::new() } else { std::mem::take(&mut notes.parents) };
        let gone = std::mem::take(&mut notes.dropped);
        (std::mem::take(&mut notes.tables), parents, gone, std::mem::take(&mut notes.objects))
    });
    // SAFETY: has no precondition.
    if !unsafe { pg_sys::IsTransactionState() } {
        return ptr::null();
    }
    // SAFETY: between two commands of a transaction; makes what the last one did visible to look-ups.
    unsafe { pg_sys::CommandCounterIncrement() };
    // The extension may have been dropped with them.
    if !gone.is_empty() && session::current().is_some() {
        gone.into_iter().for_each(dropped::forget);
    }
    let Some(mut session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    if !parents.is_empty() {
        guard_children(&session, &parents);
        let Some(now) = session::current() else { return ptr::null() };
        session = now;
        tables.extend(parents.into_iter().map(|parent| parent.before));
    }
    for before in tables {
        let Some(relation) = relation::facts(&session, before.table) else { continue };
        if relation.table.class == TableClass::Unclassified && before.classified != before.table {
            partitions::keep_guard(&session, before.table, before.classified);
        }
        // Nobody has said that it isn't guarded any more, unless it was taken out of the guard.
        if relation.table.class == TableClass::Unclassified {
            continue;
        }
        let child = relation.table.child.as_ref().map(|(child, _)| child);
        let change = Change { table: &relation.table.name, before: before.guard, after: before.now(&relation), child };
        let report = tampering::check_change(&session.who.identity, &command(), &change)
            .map_or(ptr::null(), |r| audit::settle(&session, r));
        if !report.is_null() {
            return report;
        }
    }
    if !judges_parts() {
        return ptr::null();
    }
    for (class, object) in made {
        // A table's type goes with the table.
        let beside = class == pg_sys::TypeRelationId && objects::table_of(class, object) != pg_sys::InvalidOid;
        if !beside && objects::is_ours(&session, class, object) {
            let description = objects::description(class, object, 0);
            let refusal = tampering::check_newcomer(&session.who.identity, &command(), &description);
            let report = audit::settle(&session, refusal);
            if !report.is_null() {
                return report;
            }
        }
    }
    ptr::null()
}

/// Guards new children as their parents are. Who has parents of both kinds holds tenants' rows.
fn guard_children(session: &Session, parents: &[Parent]) {
    let of_tenants = |parent: &&Parent| matches!(parent.before.class, TableClass::Tenant(_));
    let (tenants, global): (Vec<_>, Vec<_>) = parents.iter().partition(of_tenants);
    let mut guarded = Vec::new();
    for parent in tenants.into_iter().chain(global) {
        for child in relation::inheritors(parent.before.table) {
            if !parent.children.contains(&child)
                && !guarded.contains(&child)
                && partitions::guard_child(session, child, parent.before.table)
            {
                guarded.push(child);
            }
        }
    }
}
