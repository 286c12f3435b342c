//! object_access: each object that a DROP removes and each table that a TRUNCATE empties, whichever way it is reached:
//! CASCADE, DROP OWNED, a function, a DO block.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use crate::pg::report::{self, Report};
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat, relation, settings, tenants, trigger};
use crate::policy::backend::Trust;
use crate::policy::command::{self, DestructiveCommand, Target};
use crate::policy::rules::{Attempt, Refusal};
use crate::policy::set::Verdict;
use crate::policy::surface::{GuardState, TableClass};

static NEXT: OnceCell<pg_sys::object_access_hook_type> = OnceCell::new();

thread_local! {
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
    use pg_sys::ObjectAccessType::{OAT_DROP, OAT_FUNCTION_EXECUTE, OAT_TRUNCATE};
    // SAFETY: the argument of OAT_DROP is an ObjectAccessDrop or null; everything is forwarded as Postgres gave it.
    unsafe {
        // A function that the protocol calls by itself is a statement that no other hook hears of.
        if access == OAT_FUNCTION_EXECUTE
            && pg_sys::ActivePortal.is_null()
            && settings::may_need_holding()
            && !session::inert()
        {
            settings::hold();
        }
        if matches!(access, OAT_DROP | OAT_TRUNCATE) && !session::inert() {
            report::raise(match access {
                OAT_TRUNCATE => truncate(object),
                _ if is_internal(arg.cast()) => ptr::null(),
                _ => drop_object(class, object, sub),
            });
        }
        if let Some(Some(next)) = NEXT.get() {
            next(access, class, object, sub, arg);
        }
    }
}

/// Whether Postgres drops the object by itself: at the end of a session, in the course of another command.
unsafe fn is_internal(arg: *const pg_sys::ObjectAccessDrop) -> bool {
    // SAFETY: null or valid.
    unsafe { arg.as_ref() }.is_some_and(|a| a.dropflags & pg_sys::PERFORM_DELETION_INTERNAL as c_int != 0)
}

#[pg_guard]
unsafe extern "C-unwind" fn drop_object(class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> *const Report {
    // What hangs on these (row types, defaults, rules, triggers) goes with them.
    let counts = [
        pg_sys::RelationRelationId,
        pg_sys::ProcedureRelationId,
        pg_sys::NamespaceRelationId,
        compat::CONSTRAINTS,
        pg_sys::ExtensionRelationId,
        pg_sys::DatabaseRelationId,
        pg_sys::AuthIdRelationId,
        pg_sys::TableSpaceRelationId,
    ];
    if !counts.contains(&class) {
        return ptr::null();
    }
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    let address = pg_sys::ObjectAddress { classId: class, objectId: object, objectSubId: sub };
    check_drop(&session, &address)
}

/// `destructive_command` for one object that is about to be dropped.
pub(super) fn check_drop(session: &Session, address: &pg_sys::ObjectAddress) -> *const Report {
    let identity = &session.who.identity;
    if identity.trust() == Some(Trust::Proven) {
        return ptr::null();
    }
    // The table that the object is, or is part of.
    let of = match address.classId {
        pg_sys::RelationRelationId => address.objectId,
        compat::CONSTRAINTS => constrained_table(address.objectId),
        _ => pg_sys::InvalidOid,
    };
    let relation = of != pg_sys::InvalidOid;
    // SAFETY: the object exists while it is being dropped; both look it up in the catalogs.
    let description = unsafe {
        let has_schema =
            relation || address.classId == pg_sys::ProcedureRelationId || address.classId == pg_sys::TypeRelationId;
        if has_schema && pg_sys::isAnyTempNamespace(pg_sys::get_object_namespace(address)) {
            return ptr::null();
        }
        session::text(pg_sys::getObjectDescription(address, true))
    };
    let table = if relation { relation::facts(session, of) } else { None };
    let target = Target { description, table: table.map(|r| (r.table.name.clone(), r.table.class.clone())) };
    let refusal = command::check_destructive(identity, DestructiveCommand::Drop, &target, &session.who.login_role);
    refusal.map_or(ptr::null(), |r| audit::settle(session, r))
}

/// The table of a constraint; InvalidOid for a domain's.
fn constrained_table(constraint: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a syscache look-up of an object that is being dropped; the tuple is read before it is released.
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

#[pg_guard]
unsafe extern "C-unwind" fn truncate(oid: pg_sys::Oid) -> *const Report {
    if TRUNCATED.replace(oid) == oid {
        return ptr::null();
    }
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    let Some(relation) = relation::facts(&session, oid).filter(|r| !r.beside_the_point) else { return ptr::null() };
    let identity = &session.who.identity;
    let table = &relation.table;
    let attempt = || Attempt {
        backend: identity.name().map(str::to_owned),
        command: DestructiveCommand::Truncate.as_str().to_owned(),
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
    let refusal = match (identity.trust(), &table.class) {
        // pg_restore with several jobs empties each table before it loads it, when the policy may be there already.
        (Some(Trust::Proven), TableClass::Tenant(_)) if table.guard == GuardState::Unrestored => None,
        (Some(Trust::Proven), TableClass::Tenant(_)) => reaches_others(&session, attempt),
        _ => {
            let description = format!("table \"{}\"", table.name.name);
            let target = Target { description, table: Some((table.name.clone(), table.class.clone())) };
            command::check_destructive(identity, DestructiveCommand::Truncate, &target, &session.who.login_role)
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
    if taken && session.policy.set.verdict(&refusal) == Verdict::Refuse {
        tenants::let_go_of_all();
    }
    Some(refusal)
}
