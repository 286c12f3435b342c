//! The exclusive side of the ownership protocol: takes a tenant's lock so that nobody writes the tenant, re-reads its
//! state, and leaves the change itself to the caller's SQL. The lock lasts until the caller's transaction ends, by then
//! other sessions have the invalidation.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;

use super::locks::{self, NotHad, Patience, Tag};
use super::process::process_local;
use super::session::Session;
use super::subtransaction::in_subtransaction;
use super::{bounded, compat, session, tenants};
use crate::policy::ownership::TenantState;
use crate::policy::tenant::TenantKey;

process_local! {
    /// The tenant whose lock this transaction holds exclusively, and the nesting level that holds it.
    static HANDED_OVER: RefCell<Option<(TenantKey, i32)>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// How long a cutover stays out of the way of writers that it was in a deadlock with, in milliseconds.
const STEP_BACK_MS: i64 = 5;

/// A tenant that nobody else can write or hand over until this transaction ends.
pub struct Exclusive {
    /// When its lock was asked for: from then on new writers were held. Microseconds since 2000.
    pub since: i64,
    /// The facts as they are under the lock.
    pub session: Session,
    /// The tenant's row as it is under the lock.
    pub state: Option<TenantState>,
}

/// Why the lock could not be had.
pub enum NoLock {
    /// Somebody held it longer than the caller would wait.
    TimedOut {
        /// The lock that was waited for.
        tag: Tag,
    },
    /// This transaction has changed another tenant already.
    OneTenantATransaction(TenantKey),
    /// The extension is being dropped.
    NotInstalled,
}

/// Waits until no handover is under way, and lets none begin until this transaction ends: what they check is about to change. Gives the
/// facts as they are then.
///
/// # Errors
/// As for [`exclude_writers`].
pub fn exclude_handovers(milliseconds: i32) -> Result<Session, NoLock> {
    let tag = Tag::owners();
    let patience = Patience { milliseconds };
    in_subtransaction(AssertUnwindSafe(|| locks::take(tag, patience)))
        .map_err(|locks::TimedOut| NoLock::TimedOut { tag })?;
    session::load().ok_or(NoLock::NotInstalled)
}

/// Takes the tenant's lock, for a caller who asks since `since` and waits until `until`, both in microseconds since 2000.
///
/// # Errors
/// Then the lock is not held, writers go on, and the transaction can still be used.
pub fn exclude_writers(tenant: &TenantKey, since: i64, until: i64) -> Result<Exclusive, NoLock> {
    register();
    let handed_over = HANDED_OVER.with(|h| h.borrow().clone());
    if let Some((other, _)) = handed_over.filter(|(other, _)| other != tenant) {
        return Err(NoLock::OneTenantATransaction(other));
    }
    let left = move || Patience { milliseconds: bounded::milliseconds_until(until) };
    let attempt = || {
        in_subtransaction(AssertUnwindSafe(|| {
            // Owners, the tenant, all: see locks.rs.
            locks::settle_owners(left()).map_err(|why| (Tag::owners(), why))?;
            let tag = Tag::tenant(tenant);
            locks::exclude(tag, left()).map_err(|why| (tag, why))?;
            locks::intend(left()).map_err(|why| (Tag::all(), why))
        }))
    };
    while let Err((tag, why)) = attempt() {
        let spent = left().milliseconds <= 1;
        if why == NotHad::TimedOut || spent {
            return Err(NoLock::TimedOut { tag });
        }
        // Stepping back let the writers go on; soon there will be a turn.
        locks::pause(STEP_BACK_MS);
    }
    tenants::forget(tenant);
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    HANDED_OVER.with(|h| {
        h.borrow_mut().get_or_insert_with(|| (tenant.clone(), level));
    });
    let session = session::load().ok_or(NoLock::NotInstalled)?;
    let state = session.catalog.tenant_state(tenant);
    Ok(Exclusive { since, session, state })
}

/// Tells listeners on channel `holdfast`, when this transaction commits.
pub fn notify(payload: &serde_json::Value) {
    // JSON has no NUL, so CString takes it. Postgres limits a payload to 8,000 bytes; a tenant's key may be longer.
    let mut text = payload.to_string();
    if text.len() >= 7_900 {
        text = serde_json::json!({ "event": payload.get("event"), "truncated": true }).to_string();
    }
    let payload = CString::new(text).unwrap_or_default();
    // SAFETY: queues the notification; an error becomes a panic at the boundary and unwinds over this frame.
    unsafe {
        compat::guarded(|| {
            compat::Async_Notify(c"holdfast".as_ptr(), payload.as_ptr());
        });
    }
}

/// Names a point to recover to, just before the change; none where the log doesn't carry enough for a recovery. Names are
/// cut to the 63 bytes that Postgres keeps.
pub fn restore_point(name: &str) -> Option<String> {
    // SAFETY: a plain read of the setting.
    if unsafe { pg_sys::wal_level } < pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32 {
        return None;
    }
    let name = name[..name.floor_char_boundary(63)].to_owned();
    let text = CString::new(name.as_str()).ok()?;
    // SAFETY: writes a record to the log; only the primary gets here.
    unsafe { pg_sys::XLogRestorePoint(text.as_ptr()) };
    Some(name)
}

/// Where the write-ahead log is now, as `pg_lsn` counts.
pub fn current_lsn() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// Whether the client has opened the transaction that is running.
pub fn is_in_block() -> bool {
    // SAFETY: has no precondition.
    unsafe { pg_sys::IsTransactionBlock() }
}

fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    // Before the commit is written, which may take its time: a CALL that commits goes on afterwards.
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE | XACT_EVENT_ABORT) {
        bounded::release();
    }
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        HANDED_OVER.with(|h| {
            if let Ok(mut handed_over) = h.try_borrow_mut() {
                *handed_over = None;
            }
        });
    }
}

/// A subtransaction that rolls back has released the lock; one that commits gave it to its parent.
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    // SAFETY: has no precondition.
    let ended = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    HANDED_OVER.with(|h| {
        let Ok(mut handed_over) = h.try_borrow_mut() else { return };
        match event {
            SUBXACT_EVENT_ABORT_SUB => {
                *handed_over = handed_over.take().filter(|(_, level)| *level < ended);
                if handed_over.is_none() {
                    bounded::release();
                }
            }
            SUBXACT_EVENT_COMMIT_SUB => {
                if let Some((_, level)) = handed_over.as_mut() {
                    *level = (*level).min(ended - 1);
                }
            }
            _ => {}
        }
    });
}
