//! When cached facts must be read again. Every change of a policy table sends a relcache invalidation for that table, by
//! a trigger; Postgres delivers it to all sessions before the changing transaction releases its locks.

use std::cell::Cell;
use std::ffi::c_int;

use pgrx::{pg_guard, pg_sys};

use super::process::process_local;
use super::{relation, session, tenants};

process_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static POLICY: Cell<u64> = const { Cell::new(0) };
    static OWNERSHIP: Cell<u64> = const { Cell::new(0) };
    static RELATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the invalidations of the policy tables that this session saw.
pub fn policy_generation() -> u64 {
    POLICY.get()
}

/// Counts the invalidations of the ownership table that this session saw.
pub fn ownership_generation() -> u64 {
    OWNERSHIP.get()
}

/// Counts the invalidations of any relation that this session saw.
pub fn relation_generation() -> u64 {
    RELATIONS.get()
}

/// Registers the callbacks, once a process.
pub fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
        let namespaces = pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int;
        pg_sys::CacheRegisterSyscacheCallback(namespaces, Some(schema_changed), pg_sys::Datum::from(0));
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

/// A transaction that dropped the extension may have rolled that back, of which no invalidation tells: DROP EXTENSION
/// leaves the schema as it is.
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    if event == pg_sys::XactEvent::XACT_EVENT_ABORT {
        session::doubt_absence();
    }
}

/// As above, for a savepoint.
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        session::doubt_absence();
    }
}

/// Postgres calls this between any two instructions of ours that call Postgres, so it only touches cells and never calls
/// back.
unsafe extern "C-unwind" fn relation_changed(_: pg_sys::Datum, relation: pg_sys::Oid) {
    RELATIONS.set(RELATIONS.get().wrapping_add(1));
    // Known once and for all of this call: what is forgotten below must not hide what else the message is about, nor what
    // the next one is.
    let Some(catalog) = session::watched() else { return relation::forget(relation) };
    let everything = relation == pg_sys::InvalidOid;
    if everything || catalog.policy_tables().contains(&relation) {
        POLICY.set(POLICY.get().wrapping_add(1));
        session::forget_policy();
        relation::forget_all();
        // It may also be being dropped.
        session::forget_presence();
    }
    if everything || relation == catalog.ownership_table() {
        OWNERSHIP.set(OWNERSHIP.get().wrapping_add(1));
        tenants::forget_owners();
    }
    if relation == catalog.ownership_index() {
        session::forget_presence();
    }
    relation::forget(relation);
}

/// A schema was created, dropped or renamed: perhaps ours.
unsafe extern "C-unwind" fn schema_changed(_: pg_sys::Datum, _: c_int, _: u32) {
    session::forget_presence();
    session::forget_policy();
    relation::forget_all();
    tenants::forget_owners();
}

/// The trigger on each policy table: tells every session, this one included, to read it again.
///
/// # Safety
/// Called by Postgres as a trigger function.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn holdfast_policy_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is valid for the call; a context that is a trigger's is checked before it is read as one.
    unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_TriggerData {
            super::report::not_a_trigger("policy_changed");
        }
        pg_sys::CacheInvalidateRelcache((*data).tg_relation);
        // The result of an AFTER trigger is ignored.
        pg_sys::Datum::from(0)
    }
}

/// Declares the calling convention of [`holdfast_policy_changed`].
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_holdfast_policy_changed() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}
