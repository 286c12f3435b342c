//! Break-glass of this session. It lives in the session's memory alone, so that nothing that can be written makes it so;
//! whether it still holds is asked of the clock at each use.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;

use super::process::process_local;
use super::session::Session;
use super::{audit, trigger};
use crate::policy::glass::{End, Glass};
use crate::policy::rules::{Attempt, TableName};

struct Broken {
    glass: Glass,
    /// `session_user` when it was broken: who becomes somebody else leaves it behind.
    session_role: pg_sys::Oid,
}

process_local! {
    static GLASS: RefCell<Option<Broken>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Breaks the glass, once that is on record. `duration` is in microseconds.
pub fn break_it(session: &Session, glass: Glass, duration: i64) {
    register();
    audit::note(attempt(session, "break_glass", None), glass.began(duration), audit::Wait::UntilCommitted);
    // SAFETY: both have no precondition.
    let (level, session_role) = unsafe { (pg_sys::GetCurrentTransactionNestLevel(), pg_sys::GetSessionUserId()) };
    let glass = Glass { uncommitted: Some(level), ..glass };
    replace(Some(Broken { glass, session_role }));
}

/// Ends it, if it is broken.
pub fn end(session: &Session, how: End) {
    if let Some(broken) = replace(None) {
        audit::note(attempt(session, "end_break_glass", None), broken.glass.ended(how), audit::Wait::No);
    }
}

/// Ends it where there is no record to put that on.
pub fn forget() {
    replace(None);
}

/// The glass, if it is broken and its time isn't over.
pub fn broken(session: &Session) -> Option<Glass> {
    // SAFETY: has no precondition.
    let role = unsafe { pg_sys::GetSessionUserId() };
    let glass = GLASS.with(|g| Some(g.borrow().as_ref().filter(|b| b.session_role == role)?.glass.clone()))?;
    if glass.holds(trigger::now()) {
        return Some(glass);
    }
    end(session, End::Expired);
    None
}

/// Puts a write of a guarded table on record, if the glass is broken.
pub fn note_write(session: &Session, command: &str, table: &TableName) {
    if let Some(glass) = broken(session) {
        audit::note(attempt(session, command, Some(table)), glass.note(), audit::Wait::No);
    }
}

/// Whether the glass may be broken, without a look at the clock.
pub fn may_be_broken() -> bool {
    GLASS.with(|g| g.borrow().is_some())
}

fn attempt(session: &Session, command: &str, table: Option<&TableName>) -> Attempt {
    Attempt {
        backend: session.who.identity.name().map(str::to_owned),
        command: command.to_owned(),
        table: table.cloned(),
        ..Attempt::default()
    }
}

fn replace(glass: Option<Broken>) -> Option<Broken> {
    GLASS.with(|g| g.replace(glass))
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
fn change(to: impl FnOnce(Glass) -> Option<Glass>) {
    GLASS.with(|g| {
        if let Ok(mut broken) = g.try_borrow_mut() {
            *broken = broken.take().and_then(|b| Some(Broken { glass: to(b.glass)?, ..b }));
        }
    });
}

unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT => change(Glass::committed),
        // Whether a prepared transaction commits is decided elsewhere.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => change(Glass::rolled_back),
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
    match event {
        SUBXACT_EVENT_COMMIT_SUB => change(|glass| glass.subtransaction_ended(level, true)),
        SUBXACT_EVENT_ABORT_SUB => change(|glass| glass.subtransaction_ended(level, false)),
        _ => {}
    }
}
