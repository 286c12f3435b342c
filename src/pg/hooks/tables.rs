//! The rules that need no row, for the tables that a statement writes: class, surface, guard.

use std::ptr;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};

use super::own_tables;
use crate::pg::compat::{self, RequestedWrite};
use crate::pg::relation::{self, Relation};
use crate::pg::report::Report;
use crate::pg::session::{self, Session, Who};
use crate::pg::{audit, cascade, glass};
use crate::policy::looks::Look;
use crate::policy::surface::{self, TableClass, TableWrite, WriteCommand};

/// Whether any table is written, so that reads cost a few loads. A plain frame.
///
/// # Safety
/// The list is an ExecutorCheckPerms hook's.
pub(super) unsafe fn are_written(requests: *mut pg_sys::List) -> bool {
    // SAFETY: the caller's.
    unsafe { written(requests) }.next().is_some()
}

unsafe fn written(requests: *mut pg_sys::List) -> impl Iterator<Item = RequestedWrite> {
    // SAFETY: the caller gives the hook's list.
    unsafe { compat::requested_writes(requests) }.filter(|write| commands(write).0 != 0)
}

/// Whether the statement writes one table and that is known to break no rule. Whoever asks has listened for this statement. A
/// plain frame: it touches this process's memory only.
///
/// # Safety
/// The list is an ExecutorCheckPerms hook's.
pub(super) unsafe fn are_known_to_pass(requests: *mut pg_sys::List) -> bool {
    // SAFETY: the caller's.
    let mut written = unsafe { written(requests) };
    let (Some(write), None) = (written.next(), written.next()) else { return false };
    let passes = |who: &Rc<Who>| {
        // SAFETY: the write is one of the list.
        who.all_off || relation::known(write.relation).is_some_and(|table| unsafe { passes(who, &write, &table) })
    };
    !glass::may_be_broken() && session::glance(passes).unwrap_or(false)
}

unsafe fn passes(who: &Rc<Who>, write: &RequestedWrite, relation: &Relation) -> bool {
    if relation.ours || relation.beside_the_point {
        return !relation.ours;
    }
    let (trust, table) = (who.identity.trust(), &relation.table);
    if surface::free_to_write(&who.identity, table) {
        if table.class.guarded() {
            who.counts.passed(Look::Table);
        }
        return true;
    }
    // SAFETY: the caller's.
    let passes = !cascade::is_running() && unsafe { relation.innocent.has(who, write) };
    if passes {
        who.counts.passed(Look::at_table(trust, matches!(table.class, TableClass::Global)));
    }
    passes
}

/// The commands that an entry asks for. UPDATE that sets no column is a row lock: SELECT ... FOR UPDATE.
fn commands(write: &RequestedWrite) -> (u32, [(u32, WriteCommand); 3]) {
    let insert = write.permissions & pg_sys::ACL_INSERT;
    let update = if write.updated.is_null() { 0 } else { write.permissions & pg_sys::ACL_UPDATE };
    let delete = write.permissions & pg_sys::ACL_DELETE;
    let each = [(insert, WriteCommand::Insert), (update, WriteCommand::Update), (delete, WriteCommand::Delete)];
    (insert | update | delete, each)
}

/// Judges all tables that the statement writes.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn check(requests: *mut pg_sys::List) -> *const Report {
    let session = session::as_heard().or_else(session::current);
    let Some(session) = session.filter(|s| !s.who.all_off || glass::may_be_broken()) else { return ptr::null() };
    // SAFETY: the list is the hook's.
    for write in unsafe { written(requests) } {
        let report = check_table(&session, &write);
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}

fn check_table(session: &Session, write: &RequestedWrite) -> *const Report {
    let (_, commands) = commands(write);
    let Some(relation) = relation::facts(session, write.relation) else { return ptr::null() };
    let asked = commands.iter().filter(|(asked, _)| *asked != 0).map(|(_, command)| *command);
    if relation.ours {
        return own_tables::check(session, &relation, write.relation, asked);
    }
    if relation.table.class.guarded() && glass::may_be_broken() {
        asked.for_each(|command| glass::note_write(session, command.as_str(), &relation.table.name));
    }
    let (identity, counts) = (&session.who.identity, session.who.counts);
    if relation.beside_the_point {
        return ptr::null();
    }
    if surface::free_to_write(identity, &relation.table) {
        if relation.table.class.guarded() {
            counts.look(Look::Table, || ());
        }
        return ptr::null();
    }
    let look = Look::at_table(identity.trust(), matches!(relation.table.class, TableClass::Global));
    counts.look(look, || check_surface(session, write, &relation, &commands))
}

/// Whether the session may write the table, by these commands and with these columns.
fn check_surface(
    session: &Session,
    write: &RequestedWrite,
    relation: &Relation,
    commands: &[(u32, WriteCommand)],
) -> *const Report {
    let identity = &session.who.identity;
    let names = |columns| column_names(write.relation, columns);
    let (inserted, updated) = (names(write.inserted), names(write.updated));
    let writes: Vec<_> = commands
        .iter()
        .filter(|(asked, _)| *asked != 0)
        .map(|(_, command)| {
            let columns = match command {
                WriteCommand::Insert => &inserted[..],
                WriteCommand::Update => &updated[..],
                WriteCommand::Delete => &[],
            };
            TableWrite { command: *command, columns: columns.iter().map(String::as_str).collect() }
        })
        .collect();
    let permissions = session.policy.set.permissions_on(relation.classified.to_u32());
    let alone = if write.with_children { None } else { relation.table.without_children() };
    let table = alone.as_ref().unwrap_or(&relation.table);
    let mut refusals = surface::check_table(identity, table, &permissions, &writes, &session.who.login_role);
    // What passes by itself may not pass with the children.
    if refusals.is_empty() && alone.is_none() && !cascade::is_running() {
        // SAFETY: the write is the statement's.
        unsafe { relation.innocent.add(&session.who, write) };
    }
    if cascade::is_running() && relation.table.class.guarded() {
        cascade::begins(relation);
        // The query of a foreign key writes nothing as long as it finds no row: the row guard tells.
        refusals.retain(|refusal| !cascade::put_off(relation, write.relation, refusal));
    }
    refusals
        .into_iter()
        .map(|refusal| audit::settle(session, refusal))
        .find(|report| !report.is_null())
        .unwrap_or(ptr::null())
}

/// The names of the columns in a set; a whole-row reference names none.
fn column_names(relation: pg_sys::Oid, columns: *mut pg_sys::Bitmapset) -> Vec<String> {
    let mut names = Vec::new();
    let mut member = -1;
    loop {
        // SAFETY: the set is null (empty) or valid; the relation is locked by the statement.
        unsafe {
            member = pg_sys::bms_next_member(columns, member);
            if member < 0 {
                return names;
            }
            let attnum = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
            if attnum > 0 {
                let name = pg_sys::get_attname(relation, attnum as pg_sys::AttrNumber, true);
                names.push(session::text(name));
            }
        }
    }
}
