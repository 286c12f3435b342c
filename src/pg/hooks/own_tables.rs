//! Statements that write the extension's tables: its functions do that with the guard out of the way, a restore into empty
//! tables, and nobody else.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::pg::audit;
use crate::pg::relation::Relation;
use crate::pg::report::Report;
use crate::pg::session::Session;
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
    let empty = session.catalog.is_empty(oid);
    if empty {
        FILLED.with(|filled| filled.borrow_mut().push(oid));
    }
    empty
}
