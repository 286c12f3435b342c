//! What this session has proved by a token. It lives in the session's memory alone; whether it still holds is asked of the
//! clock and of the registered keys at each use.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;

use super::process::process_local;
use super::trigger;
use crate::policy::proofs::Proofs;
use crate::policy::token::{Credential, PublicKey, TokenError};

struct Shown {
    credential: Credential,
    /// Whether it outlives the transaction that showed it.
    for_session: bool,
    /// The nesting level of that transaction, as long as it hasn't committed.
    uncommitted: Option<i32>,
}

process_local! {
    static PROOFS: RefCell<Proofs> = const { RefCell::new(Proofs::new()) };
    static SHOWN: RefCell<Option<Shown>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The session shows a token. Returns the backend that it proves.
pub fn show(keys: &[PublicKey], token: &str, database: &str, for_session: bool) -> Result<String, TokenError> {
    let credential = PROOFS.with(|p| p.borrow_mut().verify(keys, token, database, trigger::now()))?;
    let backend = credential.key.backend.clone();
    register();
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    SHOWN.with(|s| s.replace(Some(Shown { credential, for_session, uncommitted: Some(level) })));
    Ok(backend)
}

/// Ends it.
pub fn forget() {
    SHOWN.with(|s| s.replace(None));
}

/// Whether a token was shown; what it proved may be over.
pub fn is_shown() -> bool {
    SHOWN.with(|s| s.borrow().is_some())
}

/// What is proved, if it holds still.
pub fn current(keys: &[PublicKey]) -> Option<Credential> {
    SHOWN.with(|s| {
        let shown = s.borrow();
        let credential = &shown.as_ref()?.credential;
        credential.holds(keys, trigger::now()).then(|| credential.clone())
    })
}

fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

/// Only touches this process's memory.
fn keep(what: impl FnOnce(&mut Shown) -> bool) {
    SHOWN.with(|s| {
        if let Ok(mut shown) = s.try_borrow_mut() {
            *shown = shown.take().and_then(|mut shown| what(&mut shown).then_some(shown));
        }
    });
}

unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT => keep(|shown| {
            shown.uncommitted = None;
            shown.for_session
        }),
        // Whoever undoes a transaction doesn't expect anything of it to last.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => keep(|shown| shown.for_session && shown.uncommitted.is_none()),
        _ => {}
    }
}

unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    let within = |shown: &Shown| shown.uncommitted.is_some_and(|of| of >= level);
    match event {
        SUBXACT_EVENT_COMMIT_SUB => keep(|shown| {
            if within(shown) {
                shown.uncommitted = Some(level - 1);
            }
            true
        }),
        SUBXACT_EVENT_ABORT_SUB => keep(|shown| !within(shown)),
        _ => {}
    }
}
