//! Counts, in shared memory, the transactions that change parents (see [`super::children`]): those that delete a row from
//! which rows of other tables have their tenants, change its key, or move it to another tenant.
//!
//! A transaction that gives children another tenant commits under a lock which those that commit children share. It moves a
//! parent, or it removes one and gives another tenant's row the key.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::locks::{self, Patience, Tag};
use super::process::process_local;
use super::session::{self, Session};
use super::shared::Region;
use super::{gucs, report};
use crate::policy::backend::Trust;
use crate::policy::mode::Mode;
use crate::policy::rules::Rule;

#[repr(C)]
struct Shared {
    /// Transactions that changed parents and began to commit.
    begun: AtomicU64,
    /// Those of them that have ended.
    ended: AtomicU64,
}

/// What this transaction does to parents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    None,
    /// It deletes some or changes their keys.
    Removed,
    /// It moves some to other tenants, or may have put others' in their place.
    Moved,
}

/// Whose parents a transaction has removed.
enum Removed {
    /// None.
    Nothing,
    /// One tenant's, by its raw key.
    Of(Vec<u8>),
    /// Those of several.
    OfSeveral,
}

process_local! {
    static SHARED: Cell<*const Shared> = const { Cell::new(ptr::null()) };
    static CHANGE: Cell<Change> = const { Cell::new(Change::None) };
    /// What a rolled back savepoint removed stays: that costs no more than a lock.
    static REMOVED: RefCell<Removed> = const { RefCell::new(Removed::Nothing) };
    /// Whether the change was counted as begun and must be counted as ended.
    static COMMITTING: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Zero is a valid value of all of it.
pub static REGION: Region = Region {
    name: c"holdfast parent changes",
    size: || size_of::<Shared>(),
    locks: 0,
    lay_out: None,
    attach: |memory| SHARED.set(memory.cast()),
};

fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or shared memory that lasts as long as the process.
    unsafe { SHARED.get().as_ref() }
}

/// How many changes have been committed; none while one is being committed, whose rows may appear at any moment.
pub fn now() -> Option<u64> {
    let shared = shared()?;
    let begun = shared.begun.load(Ordering::SeqCst);
    (shared.ended.load(Ordering::SeqCst) == begun).then_some(begun)
}

/// Counts a change that becomes visible in a way that no callback hears of: COMMIT PREPARED. Called before and after.
pub fn count_prepared() {
    if let Some(shared) = shared() {
        shared.begun.fetch_add(1, Ordering::SeqCst);
        shared.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// This transaction changes a parent.
pub fn note(change: Change) {
    if CHANGE.get() >= change {
        return;
    }
    CHANGE.set(change);
    if !REGISTERED.replace(true) {
        // SAFETY: a function of this library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut()) };
    }
}

/// Whether this transaction has changed parents.
pub fn has_changed() -> bool {
    CHANGE.get() != Change::None
}

/// Whether this transaction has removed parents. A plain frame.
pub fn has_removed() -> bool {
    REMOVED.try_borrow().map_or(true, |removed| !matches!(*removed, Removed::Nothing))
}

/// Whether they were those of several tenants. A plain frame.
pub fn has_removed_of_several() -> bool {
    REMOVED.try_borrow().is_ok_and(|removed| matches!(*removed, Removed::OfSeveral))
}

/// This transaction removes a tenant's parent, or takes its key from it.
pub fn remove(tenant: Vec<u8>) {
    note(Change::Removed);
    let mut removed = REMOVED.borrow_mut();
    *removed = match &*removed {
        Removed::Nothing => Removed::Of(tenant),
        Removed::Of(before) if *before == tenant => return,
        _ => Removed::OfSeveral,
    };
}

/// This transaction gives a tenant's parent a key, which may be that of one that it has removed.
pub fn give(tenant: &[u8]) {
    let replaces = match &*REMOVED.borrow() {
        Removed::Nothing => false,
        Removed::Of(before) => before != tenant,
        Removed::OfSeveral => true,
    };
    if replaces {
        note(Change::Moved);
    }
}

/// Waits until no move is being committed, and keeps others from being committed until this transaction has ended.
pub fn keep_moves_out(session: &Session) {
    lock(session, CHANGE.get() == Change::Moved);
}

/// Whether a session is refused what another backend owns.
pub fn are_guarded(session: &Session) -> bool {
    let mode = session.policy.set.modes.of(session.who.identity.name(), Rule::NotOwner);
    mode == Mode::Enforce && !session::only_observed()
}

/// Whoever holds the lock is about to end; only a prepared transaction may take longer.
fn lock(session: &Session, exclusively: bool) {
    let tag = Tag::moves();
    if !are_guarded(session) {
        // Where nothing is refused, nobody waits either.
        let _ = if exclusively { locks::try_take(tag) } else { locks::try_share(tag) };
        return;
    }
    let patience = Patience { milliseconds: gucs::hold_timeout() };
    let locked = if exclusively { locks::take_by_turns(tag, patience) } else { locks::share(tag, patience) };
    if locked.is_err() {
        report::error(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            "the transaction could not be committed within holdfast.hold_timeout",
            "Rows that have their tenants from others were being written while such others moved to another tenant, or the other way round.",
            "Retry the transaction; see pg_prepared_xacts for one that was left behind.",
        );
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        // SAFETY: nothing in this frame has a destructor.
        XACT_EVENT_PRE_COMMIT if has_changed() => unsafe { begin_commit() },
        // SAFETY: as above.
        XACT_EVENT_PRE_PREPARE if CHANGE.get() == Change::Moved => unsafe { begin_prepare() },
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            CHANGE.set(Change::None);
            REMOVED.replace(Removed::Nothing);
            if COMMITTING.replace(false)
                && let Some(shared) = shared()
            {
                shared.ended.fetch_add(1, Ordering::SeqCst);
            }
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin_commit() {
    if CHANGE.get() == Change::Moved
        && let Some(session) = session::current().filter(|s| !s.who.all_off)
    {
        lock(&session, true);
    }
    if let Some(shared) = shared() {
        shared.begun.fetch_add(1, Ordering::SeqCst);
        COMMITTING.set(true);
    }
}

/// A move that is prepared keeps the lock until it is committed, so that no children are committed beside that. The unproven
/// backend could leave it there.
#[pg_guard]
unsafe extern "C-unwind" fn begin_prepare() {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return };
    if are_guarded(&session) && session.who.identity.trust() != Some(Trust::Proven) {
        report::error(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot prepare a transaction that moves rows from which others have their tenants",
            "Until it ends, nobody could commit rows that have their tenants from others. Only a proven backend may prepare one.",
            "End it with COMMIT.",
        );
    }
    lock(&session, true);
}
