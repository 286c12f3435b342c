//! GRANT and REVOKE.

use std::ptr;

use pgrx::pg_sys;

use super::objects;
use crate::pg::report::Report;
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat};
use crate::policy::tampering::{self, Grant, Granted};

/// The relations that a GRANT names one by one; none if it is on something else.
pub(super) fn relations(grant: &pg_sys::GrantStmt) -> Option<*mut pg_sys::List> {
    use pg_sys::ObjectType::{OBJECT_SEQUENCE, OBJECT_TABLE};
    let named = grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
    (named && matches!(grant.objtype, OBJECT_TABLE | OBJECT_SEQUENCE)).then_some(grant.objects)
}

/// `guard_tampering` for a GRANT on a part of the extension.
///
/// # Safety
/// `statement` is a parsed GRANT or REVOKE.
pub(super) unsafe fn check(session: &Session, command: &str, statement: *const pg_sys::GrantStmt) -> *const Report {
    // SAFETY: the caller vouches for the statement.
    let grant = unsafe { &*statement };
    // SAFETY: as above.
    let Some((on, object)) = (unsafe { part_of_guard(session, grant) }) else { return ptr::null() };
    // SAFETY: a list of RoleSpec.
    let to_public = unsafe {
        each::<pg_sys::RoleSpec>(grant.grantees).any(|r| r.roletype == pg_sys::RoleSpecType::ROLESPEC_PUBLIC)
    };
    // SAFETY: a list of AccessPriv, NIL for ALL; a privilege without a name stands for all of a list of columns.
    let names: Vec<String> =
        unsafe { each::<pg_sys::AccessPriv>(grant.privileges).map(|p| session::text(p.priv_name)).collect() };
    let privileges = (!names.is_empty()).then(|| names.iter().map(String::as_str).collect());
    let grant = Grant { on, revoke: !grant.is_grant, privileges, to_public };
    let refusal = tampering::check_grant(&session.who.identity, command, &grant, &object);
    refusal.map_or(ptr::null(), |r| audit::settle(session, r))
}

/// What of the extension a GRANT is on, and its description; none if it is on nothing of it.
unsafe fn part_of_guard(session: &Session, grant: &pg_sys::GrantStmt) -> Option<(Granted, String)> {
    use pg_sys::ObjectType::*;
    let on = match grant.objtype {
        OBJECT_TABLE | OBJECT_SEQUENCE => Granted::Table,
        OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE => Granted::Function,
        OBJECT_SCHEMA => Granted::Schema,
        _ => return None,
    };
    // SAFETY: schemas and relations are named by strings and RangeVars, functions by ObjectWithArgs. What is missing gives
    // InvalidOid, and Postgres's own error follows.
    unsafe {
        let named = grant.targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
        if on == Granted::Schema || !named {
            let schema = session::text(pg_sys::get_namespace_name(session.catalog.schema));
            let ours = (0..compat::list_length(grant.objects)).any(|n| string(grant.objects, n) == schema);
            return ours.then(|| (on, format!("schema {schema}")));
        }
        let class = if on == Granted::Function { pg_sys::ProcedureRelationId } else { pg_sys::RelationRelationId };
        let mut objects = (0..compat::list_length(grant.objects)).map(|n| {
            let name = compat::list_nth(grant.objects, n);
            if on == Granted::Function {
                pg_sys::LookupFuncWithArgs(grant.objtype, name.cast(), true)
            } else {
                pg_sys::RangeVarGetRelidExtended(
                    name.cast(),
                    0,
                    pg_sys::RVROption::RVR_MISSING_OK,
                    None,
                    ptr::null_mut(),
                )
            }
        });
        objects
            .find(|oid| *oid != pg_sys::InvalidOid && objects::is_ours(session, class, *oid))
            .map(|oid| (on, objects::description(class, oid, 0)))
    }
}

/// The nodes of a list.
unsafe fn each<'a, T: 'a>(list: *mut pg_sys::List) -> impl Iterator<Item = &'a T> {
    // SAFETY: the caller vouches for the list and the type of its cells; n is within it.
    unsafe { (0..compat::list_length(list)).map(move |n| &*compat::list_nth(list, n).cast::<T>()) }
}

/// A cell that is a string.
unsafe fn string(list: *mut pg_sys::List, n: i32) -> String {
    // SAFETY: the caller vouches for the list; n is within it.
    unsafe { session::text((*compat::list_nth(list, n).cast::<pg_sys::String>()).sval) }
}
