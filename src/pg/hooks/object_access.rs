//! object_access: each object that is made, changed or dropped and each table that is emptied, whichever way it is reached:
//! CASCADE, DROP OWNED, a function, a DO block; and functions that are called.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::{aftermath, drops, functions, objects, own_tables, uninstall};
use crate::pg::process::process_local;
use crate::pg::report::{self, Report};
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat, glass, relation, settings, tenants, trigger};
use crate::policy::backend::Trust;
use crate::policy::command::{self, Command, Reach, Target};
use crate::policy::rules::{Attempt, Refusal};
use crate::policy::surface::{GuardState, TableClass};
use crate::policy::tampering;

const TRUNCATE: Command = Command { name: "TRUNCATE", reach: Reach::Targets };

static NEXT: OnceCell<pg_sys::object_access_hook_type> = OnceCell::new();

process_local! {
    /// The table that this TRUNCATE was checked for last. Postgres asks again when catalogs changed while it waited for the
    /// table's lock, and one attempt is one event.
    static TRUNCATED: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// A TRUNCATE begins.
pub(super) fn truncate_begins() {
    TRUNCATED.set(pg_sys::InvalidOid);
}

pub(super) fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        let _ = NEXT.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    use pg_sys::ObjectAccessType::{OAT_DROP, OAT_FUNCTION_EXECUTE, OAT_POST_ALTER, OAT_POST_CREATE, OAT_TRUNCATE};
    // SAFETY: the argument is of the access's own type; everything is forwarded as Postgres gave it.
    unsafe {
        // A function that the protocol calls by itself is a statement that no other hook hears of.
        if access == OAT_FUNCTION_EXECUTE
            && pg_sys::ActivePortal.is_null()
            && settings::may_need_holding()
            && !session::inert()
        {
            settings::hold();
        }
        let matters = match access {
            OAT_DROP | OAT_POST_ALTER | OAT_POST_CREATE | OAT_TRUNCATE => true,
            OAT_FUNCTION_EXECUTE => functions::concerns(object),
            _ => false,
        };
        if matters && !session::inert() {
            report::raise(match access {
                OAT_TRUNCATE => truncate(object),
                OAT_FUNCTION_EXECUTE => call_function(object),
                OAT_POST_CREATE => create(class, object, is_made_internally(arg.cast())),
                OAT_POST_ALTER => change(class, object, sub, is_altered_internally(arg.cast()), false),
                _ => change(class, object, sub, is_dropped_internally(arg.cast()), true),
            });
        }
        if access == OAT_DROP && class == pg_sys::ExtensionRelationId {
            report::raise(uninstall::extension_goes(object));
        }
        if let Some(Some(next)) = NEXT.get() {
            next(access, class, object, sub, arg);
        }
    }
}

/// Whether Postgres drops the object by itself: at the end of a session, in the course of another command.
unsafe fn is_dropped_internally(arg: *const pg_sys::ObjectAccessDrop) -> bool {
    // SAFETY: null or valid.
    unsafe { arg.as_ref() }.is_some_and(|a| a.dropflags & pg_sys::PERFORM_DELETION_INTERNAL as c_int != 0)
}

/// Whether Postgres changes it by itself: CLUSTER and the like exchange what a table consists of.
unsafe fn is_altered_internally(arg: *const pg_sys::ObjectAccessPostAlter) -> bool {
    // SAFETY: null or valid.
    unsafe { arg.as_ref() }.is_some_and(|a| a.is_internal)
}

/// Whether Postgres makes it by itself: the triggers of a foreign key, a TOAST table.
unsafe fn is_made_internally(arg: *const pg_sys::ObjectAccessPostCreate) -> bool {
    // SAFETY: null or valid.
    unsafe { arg.as_ref() }.is_some_and(|a| a.is_internal)
}

#[pg_guard]
unsafe extern "C-unwind" fn call_function(function: pg_sys::Oid) -> *const Report {
    functions::check(function)
}

/// An object has been made. It can't be looked up yet.
#[pg_guard]
unsafe extern "C-unwind" fn create(class: pg_sys::Oid, object: pg_sys::Oid, internal: bool) -> *const Report {
    if internal {
        return ptr::null();
    }
    match class {
        pg_sys::TriggerRelationId => {
            if let Some(session) = session::current().filter(|s| !s.who.all_off) {
                aftermath::note_table(&session, objects::table_of(class, object));
            }
        }
        pg_sys::RelationRelationId | pg_sys::ProcedureRelationId | pg_sys::TypeRelationId => {
            aftermath::note_object(class, object);
        }
        compat::CONSTRAINTS => return refer(object),
        _ => {}
    }
    ptr::null()
}

/// A constraint has been made. A foreign key stands in the way of deletes of the table that it refers to.
fn refer(constraint: pg_sys::Oid) -> *const Report {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    let table = objects::referenced_table(constraint);
    if table == pg_sys::InvalidOid {
        return ptr::null();
    }
    let target = objects::target(&session, pg_sys::RelationRelationId, table, 0);
    let name = aftermath::command();
    let command = Command { name: &name, reach: Reach::ClassifiedTargets };
    let refusal = command::check_destructive(&session.who.identity, command, Some(&target), &session.who.login_role);
    refusal.map_or(ptr::null(), |r| audit::settle(&session, r))
}

/// An object has been altered, which look-ups don't show yet, or is about to be dropped.
#[pg_guard]
unsafe extern "C-unwind" fn change(
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    internal: bool,
    dropped: bool,
) -> *const Report {
    let Some(session) = session::current() else { return ptr::null() };
    if dropped && class == pg_sys::RelationRelationId && sub == 0 {
        aftermath::note_dropped(&session, object);
    }
    if session.who.all_off {
        return ptr::null();
    }
    match class {
        pg_sys::RelationRelationId if sub > 0 => aftermath::note_table(&session, object),
        pg_sys::TriggerRelationId | compat::CONSTRAINTS => {
            aftermath::note_table(&session, objects::table_of(class, object));
        }
        // It may have come into the extension's schema.
        pg_sys::RelationRelationId | pg_sys::ProcedureRelationId | pg_sys::TypeRelationId if !dropped => {
            aftermath::note_object(class, object);
        }
        _ => {}
    }
    if internal {
        return ptr::null();
    }
    if aftermath::judges_parts() && objects::is_ours(&session, class, object) {
        let description = objects::description(class, object, sub);
        let refusal = tampering::check_part(&session.who.identity, &aftermath::command(), &description);
        let report = audit::settle(&session, refusal);
        if !report.is_null() {
            return report;
        }
    }
    if dropped { drops::check_reached(&session, class, object, sub) } else { ptr::null() }
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(oid: pg_sys::Oid) -> *const Report {
    if TRUNCATED.replace(oid) == oid {
        return ptr::null();
    }
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    let Some(relation) = relation::facts(&session, oid).filter(|r| r.ours || !r.beside_the_point) else {
        return ptr::null();
    };
    let identity = &session.who.identity;
    let table = &relation.table;
    let attempt = || Attempt {
        backend: identity.name().map(str::to_owned),
        command: TRUNCATE.name.to_owned(),
        table: Some(table.name.clone()),
        ..Attempt::default()
    };
    // Postgres asks for the privilege after this hook, and its own error comes first.
    // SAFETY: catalog look-ups for a relation that is locked.
    if unsafe { pg_sys::pg_class_aclcheck(oid, pg_sys::GetUserId(), compat::ACL_TRUNCATE) }
        != pg_sys::AclResult::ACLCHECK_OK
    {
        return ptr::null();
    }
    if relation.ours {
        let refusal = tampering::check_own_emptied(attempt(), identity, own_tables::may_be_emptied(&session, oid));
        return refusal.map_or(ptr::null(), |r| audit::settle(&session, r));
    }
    if table.class.guarded() {
        glass::note_write(&session, TRUNCATE.name, &table.name);
    }
    let refusal = match (identity.trust(), &table.class) {
        // pg_restore with several jobs empties each table before it loads it, when the policy may be there already.
        (Some(Trust::Proven), TableClass::Tenant(_)) if table.guard == GuardState::Unrestored => None,
        (Some(Trust::Proven), TableClass::Tenant(_)) => reaches_others(&session, attempt),
        _ => {
            let description = format!("table \"{}\"", table.name.name);
            let table = Some((table.name.clone(), table.class.clone()));
            let target = Target { description, table, temporary: false };
            command::check_destructive(identity, TRUNCATE, Some(&target), &session.who.login_role)
        }
    };
    refusal.map_or(ptr::null(), |r| audit::settle(&session, r))
}

/// TRUNCATE fires no row trigger, so ownership is checked for all tenants at once, under the lock on all of them.
fn reaches_others(session: &Session, attempt: impl FnOnce() -> Attempt) -> Option<Refusal> {
    let backend = session.who.identity.name()?;
    let default_owner = session.policy.set.default_owner.as_deref()?;
    let taken = tenants::share_all();
    let (tenant, owner, freeze) = match session.catalog.tenant_beyond(backend, trigger::now()) {
        Some((tenant, state)) => (Some(tenant), state.owner, state.freeze),
        None if default_owner != backend => (None, Some(default_owner.to_owned()), None),
        None => return None,
    };
    let ours = owner.as_deref() == Some(backend);
    let attempt = Attempt { tenant, owner, ..attempt() };
    let refusal = match freeze.filter(|_| ours) {
        Some(freeze) => Refusal::tenant_frozen(attempt, &freeze.reason),
        None => Refusal::truncate_reaches(attempt),
    };
    if taken && audit::stops(session, &refusal) {
        tenants::let_go_of_all();
    }
    Some(refusal)
}
