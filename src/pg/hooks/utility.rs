//! ProcessUtility: DROP, while the objects still have the names that the user gave. What a DROP reaches by CASCADE, and
//! TRUNCATE, come through object_access.

use std::ffi::c_char;
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::{executor, object_access};
use crate::pg::report::{self, Report};
use crate::pg::session::{self, Session};
use crate::pg::{compat, settings, statement};
use crate::policy::backend::Trust;

static NEXT: OnceCell<pg_sys::ProcessUtility_hook_type> = OnceCell::new();

pub(super) fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        let _ = NEXT.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: looks at the statement before it is forwarded, since it may be gone afterwards, and forwards what Postgres
    // gave.
    unsafe {
        executor::not_explained();
        if settings::may_need_holding() && !session::inert() {
            settings::hold();
        }
        let statement = (*pstmt).utilityStmt;
        match (*statement).type_ {
            pg_sys::NodeTag::T_DropStmt if !session::inert() => report::raise(check_drop(statement.cast())),
            pg_sys::NodeTag::T_TruncateStmt => object_access::truncate_begins(),
            _ => {}
        }
        statement::begin();
        let outer = statement::enter(pg_sys::InvalidOid, false);
        match NEXT.get() {
            Some(Some(next)) => {
                next(pstmt, query_string, read_only_tree, context, params, query_env, dest, completion);
            }
            _ => compat::standard_ProcessUtility(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                completion,
            ),
        }
        statement::leave(outer);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_drop(statement: *const pg_sys::DropStmt) -> *const Report {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    if session.who.identity.trust() == Some(Trust::Proven) {
        return ptr::null();
    }
    // SAFETY: a parsed DROP.
    if let Some(kinds) = relation_kinds(unsafe { (*statement).removeType }) {
        // SAFETY: as above.
        return unsafe { check_drop_relations(&session, (*statement).objects, kinds) };
    }
    // SAFETY: the statement is a parsed DROP; its objects are names in the form that get_object_address takes. What is
    // missing gives an invalid address, and Postgres's own error or notice follows; a relation comes open and is closed.
    let addresses = unsafe {
        let objects = (*statement).objects;
        (0..compat::list_length(objects)).map(move |n| {
            let mut relation = ptr::null_mut();
            let address = pg_sys::get_object_address(
                (*statement).removeType,
                compat::list_nth(objects, n).cast(),
                &mut relation,
                pg_sys::AccessShareLock as pg_sys::LOCKMODE,
                true,
            );
            let mut of = pg_sys::InvalidOid;
            if !relation.is_null() {
                of = (*relation).rd_id;
                pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
            (address, of)
        })
    };
    for (address, of) in addresses {
        if address.objectId == pg_sys::InvalidOid || object_access::is_temporary(of) {
            continue;
        }
        let report = object_access::check_drop(&session, &address);
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}

/// What `DROP TABLE` and its kin drop, by relkind; none for what isn't a relation.
fn relation_kinds(object: pg_sys::ObjectType::Type) -> Option<&'static [u8]> {
    use pg_sys::ObjectType::*;
    Some(match object {
        OBJECT_TABLE => &[pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE],
        OBJECT_INDEX => &[pg_sys::RELKIND_INDEX, pg_sys::RELKIND_PARTITIONED_INDEX],
        OBJECT_SEQUENCE => &[pg_sys::RELKIND_SEQUENCE],
        OBJECT_VIEW => &[pg_sys::RELKIND_VIEW],
        OBJECT_MATVIEW => &[pg_sys::RELKIND_MATVIEW],
        OBJECT_FOREIGN_TABLE => &[pg_sys::RELKIND_FOREIGN_TABLE],
        _ => return None,
    })
}

/// For relations: looked up without a lock, as RemoveRelations does first; what is missing or of another kind is left to
/// Postgres's own error.
unsafe fn check_drop_relations(session: &Session, names: *mut pg_sys::List, kinds: &[u8]) -> *const Report {
    // SAFETY: names of a parsed DROP, each a list of strings.
    for n in 0..unsafe { compat::list_length(names) } {
        // SAFETY: as above; a missing relation, also one in a missing schema, gives InvalidOid.
        let (relation, kind) = unsafe {
            let name = pg_sys::makeRangeVarFromNameList(compat::list_nth(names, n).cast());
            let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
            let relation = pg_sys::RangeVarGetRelidExtended(name, 0, missing_ok, None, ptr::null_mut());
            (relation, pg_sys::get_rel_relkind(relation) as u8)
        };
        if relation == pg_sys::InvalidOid || !kinds.contains(&kind) || object_access::is_temporary(relation) {
            continue;
        }
        let address = pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: relation, objectSubId: 0 };
        let report = object_access::check_drop(session, &address);
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}
