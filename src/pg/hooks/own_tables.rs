//! Statements that write the extension's tables: its functions do that with the guard out of the way, a restore into empty
//! tables, and nobody else.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::pg::relation::{self, Relation};
use crate::pg::report::Report;
use crate::pg::session::Session;
use crate::pg::{audit, compat};
use crate::policy::surface::WriteCommand;
use crate::policy::tampering;

thread_local! {
    /// The tables that this session found empty when it began to fill them: a dump may have a statement for each row.
    static FILLED: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
}

/// `guard_tampering` for a statement that writes one of them.
pub(super) fn check(
    session: &Session,
    relation: &Relation,
    oid: pg_sys::Oid,
    commands: impl Iterator<Item = WriteCommand>,
) -> *const Report {
    for command in commands {
        let restoring = command == WriteCommand::Insert && may_be_restored(session) && is_empty(session, oid);
        let refusal = tampering::check_own_table(&session.who.identity, command, &relation.table.name, restoring);
        let report = refusal.map_or(std::ptr::null(), |r| audit::settle(session, r));
        if !report.is_null() {
            return report;
        }
    }
    std::ptr::null()
}

/// Whether a TRUNCATE of one of them is a restore's, which loses nothing.
pub(super) fn may_be_emptied(session: &Session, oid: pg_sys::Oid) -> bool {
    may_be_restored(session) && is_empty(session, oid)
}

/// Whether a command may be a restore's that gives a partition of the event table its key and index back.
///
/// # Safety
/// `statement` is a parsed command.
pub(super) unsafe fn may_get_index(session: &Session, statement: *mut pg_sys::Node, oid: pg_sys::Oid) -> bool {
    // SAFETY: a look-up by number; a node is cast to the type that its tag, or the kind of command, names.
    let indexes = unsafe {
        match (*statement).type_ {
            _ if !pg_sys::get_rel_relispartition(oid) => false,
            pg_sys::NodeTag::T_IndexStmt => true,
            pg_sys::NodeTag::T_AlterTableStmt => {
                let commands = (*statement.cast::<pg_sys::AlterTableStmt>()).cmds;
                (0..compat::list_length(commands)).all(|n| {
                    let command = &*compat::list_nth(commands, n).cast::<pg_sys::AlterTableCmd>();
                    command.subtype == pg_sys::AlterTableType::AT_AddConstraint
                        && (*command.def.cast::<pg_sys::Constraint>()).contype == pg_sys::ConstrType::CONSTR_PRIMARY
                })
            }
            _ => false,
        }
    };
    indexes && may_be_restored(session)
}

/// Whether the policy came out of a dump, or is still coming: no table was classified here yet, or one has another number
/// than when it was.
fn may_be_restored(session: &Session) -> bool {
    let classified = &session.policy.classified;
    classified.is_empty() || classified.iter().any(|(oid, c)| c.classified_oid != *oid)
}

fn is_empty(session: &Session, oid: pg_sys::Oid) -> bool {
    if FILLED.with(|filled| filled.borrow().contains(&oid)) {
        return true;
    }
    let empty = session.catalog.is_empty(oid) && relation::inheritors(oid).iter().all(|o| session.catalog.is_empty(*o));
    if empty {
        FILLED.with(|filled| filled.borrow_mut().push(oid));
    }
    empty
}
