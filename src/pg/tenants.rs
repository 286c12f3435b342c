//! The writer's side of the ownership protocol.
//!
//! At its first write to a tenant in a transaction a session shares the tenant's lock, accepts invalidations, and learns
//! the owner from its cache or from the tenant's row as it is *now*. From then on until the transaction ends nobody can
//! hand the tenant over, so later rows need no more than a look into [`Held`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::{PgSqlErrorCode, pg_sys};
use rustc_hash::FxBuildHasher;

use super::locks::{self, Patience, Tag};
use super::process::process_local;
use super::session::Session;
use super::{compat, gucs, invalidation, keys, report, session, trigger};
use crate::policy::ownership::{Freeze, TenantState};
use crate::policy::tenant::TenantKey;

/// How many tenants a transaction locks one by one before it shares the lock on all of them: few enough that a server
/// full of such transactions stays within its lock table at the default `max_locks_per_transaction` (64), and enough that
/// a request that touches a handful never makes a cutover of another tenant wait.
const ESCALATE_AFTER: usize = 32;

/// How much room for tenants a session keeps from transaction to transaction.
const KEPT_ROOM: usize = 2 * ESCALATE_AFTER;

/// How many owners a session remembers across transactions. Past that it forgets them all and reads again.
const REMEMBERED_OWNERS: usize = 16_384;

/// How long a key may be, in bytes, to be remembered with its owner.
const REMEMBERED_KEY: usize = 256;

/// A tenant and the answer to "who may write it?", valid while its lock is held.
pub struct Tenant {
    /// Its key.
    pub key: TenantKey,
    /// Its owner; none = the default owner.
    pub owner: Option<String>,
    /// A freeze, in force or expired.
    pub freeze: Option<Freeze>,
}

impl Tenant {
    /// The freeze that holds now, if one does.
    pub fn freeze_in_force(&self) -> Option<&Freeze> {
        self.freeze.as_ref().filter(|f| f.until.is_none() || f.holds(trigger::now()))
    }
}

/// Tenants by the raw bytes of their column's value.
type ByRawKey = HashMap<Box<[u8]>, Rc<Tenant>, FxBuildHasher>;

/// The tenants whose locks this transaction holds.
#[derive(Default)]
struct Held {
    tenants: ByRawKey,
    /// The same keys in the order they were locked, each with the nesting level of the subtransaction that holds the
    /// lock. Levels never fall along the journal, so a subtransaction's end touches its tail alone.
    journal: Vec<(Box<[u8]>, i32)>,
    /// The nesting level that holds the lock on all tenants.
    all: Option<i32>,
}

/// Counts how often this process lost locks, or what it knew under them. An atomic because a process-wide cell costs a row less
/// than a thread's; each process has one thread.
static LOST: AtomicU64 = AtomicU64::new(0);

process_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    static OWNERS: RefCell<Option<ByRawKey>> = const { RefCell::new(None) };
    /// Whether the last [`hold`] took a lock.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The tenant of a raw key, with its lock held.
pub fn hold(session: &Session, raw: &[u8]) -> Rc<Tenant> {
    TAKEN.set(false);
    if let Some(tenant) = held(raw) {
        return tenant;
    }
    if !shares_all() && held_one_by_one() < ESCALATE_AFTER {
        let key = keys::canonical(raw);
        wait(Tag::tenant(&key), Some(&key));
        // Whoever changed this tenant's owner sent the invalidation before releasing the lock that we have just got.
        // SAFETY: inside a transaction.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        let tenant = remembered(raw).unwrap_or_else(|| read(session, raw, key));
        remember_held(raw, tenant.clone());
        TAKEN.set(true);
        return tenant;
    }
    // From here on no owner can change, so what is remembered stays true without a look at invalidations.
    share_all();
    remembered(raw).unwrap_or_else(|| read(session, raw, keys::canonical(raw)))
}

/// Changes whenever a tenant that was held may not be any more before the transaction ends. A plain frame.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// What was found out about rows so far no longer holds.
pub fn lose() {
    LOST.fetch_add(1, Ordering::Relaxed);
}

/// Shares the lock on all tenants until the (sub)transaction ends. Returns whether it wasn't shared before.
pub fn share_all() -> bool {
    if shares_all() {
        return false;
    }
    wait(Tag::all(), None);
    let level = nesting_level();
    with_held(|held| held.all = Some(level));
    // SAFETY: inside a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    true
}

/// Gives the lock on all tenants back, for the reason of [`let_go`].
pub fn let_go_of_all() {
    lose();
    with_held(|held| held.all = None);
    locks::give_back(Tag::all());
}

fn wait(tag: Tag, tenant: Option<&TenantKey>) {
    register();
    if session::only_observed() {
        // An error would stop replication for ever; what is written there was judged where it was written first.
        locks::try_share(tag);
        return;
    }
    let milliseconds = gucs::hold_timeout();
    if locks::share(tag, Patience { milliseconds }).is_ok() {
        return;
    }
    let what = tenant.map_or_else(|| "all tenants".to_owned(), |t| format!("tenant \"{t}\""));
    report::error(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        format!("{what} could not be written within holdfast.hold_timeout"),
        format!("A cutover or freeze held the writer for {milliseconds} ms without coming to an end."),
        "Retry the transaction; the tenant's owner may have changed meanwhile.",
    )
}

/// What the session remembers of a tenant from an earlier look.
fn remembered(raw: &[u8]) -> Option<Rc<Tenant>> {
    OWNERS.with(|o| o.borrow().as_ref()?.get(raw).cloned())
}

/// Reads a tenant's row, and remembers it.
fn read(session: &Session, raw: &[u8], key: TenantKey) -> Rc<Tenant> {
    let generation = invalidation::ownership_generation();
    let state = session.catalog.tenant_state(&key);
    let tenant = Rc::new(match state {
        Some(TenantState { owner, freeze, .. }) => Tenant { key, owner, freeze },
        None => Tenant { key, owner: None, freeze: None },
    });
    // An invalidation that came in while we read may be about this very row.
    if generation == invalidation::ownership_generation() && raw.len() <= REMEMBERED_KEY {
        OWNERS.with(|o| {
            let mut owners = o.borrow_mut();
            let owners = owners.get_or_insert_default();
            if owners.len() >= REMEMBERED_OWNERS {
                owners.clear();
            }
            owners.insert(raw.into(), tenant.clone());
        });
    }
    tenant
}

/// For `invalidation`: owners may have changed. Tenants whose locks are held can't have.
pub(super) fn forget_owners() {
    OWNERS.with(|o| {
        if let Ok(mut owners) = o.try_borrow_mut() {
            *owners = None;
        }
    });
}

/// Gives back the lock that the last [`hold`] of this tenant took, if it took one: the row will be refused, and a cutover
/// should not have to wait until the refusal is on record.
pub fn let_go(raw: &[u8]) {
    if !TAKEN.replace(false) {
        return;
    }
    let last = HELD.with(|h| {
        let mut held = h.borrow_mut();
        let held = held.as_mut()?;
        held.journal.pop_if(|(last, _)| **last == *raw)?;
        held.tenants.remove(raw)
    });
    if let Some(tenant) = last {
        lose();
        locks::give_back(Tag::tenant(&tenant.key));
    }
}

/// Forgets what is known of a tenant under the locks of this transaction, because the transaction itself is about to
/// change it. The locks stay.
pub(super) fn forget(key: &TenantKey) {
    lose();
    HELD.with(|h| {
        if let Some(held) = h.borrow_mut().as_mut() {
            held.tenants.retain(|_, tenant| tenant.key != *key);
            let tenants = &held.tenants;
            held.journal.retain(|(raw, _)| tenants.contains_key(raw));
        }
    });
}

fn held(raw: &[u8]) -> Option<Rc<Tenant>> {
    let tenant = HELD.with(|h| h.borrow().as_ref()?.tenants.get(raw).cloned());
    let locked = |tenant: &Rc<Tenant>| locks::is_shared(Tag::tenant(&tenant.key)) || session::only_observed();
    debug_assert!(tenant.as_ref().is_none_or(locked), "a tenant is taken for held whose lock is gone");
    tenant
}

fn held_one_by_one() -> usize {
    HELD.with(|h| h.borrow().as_ref().map_or(0, |held| held.journal.len()))
}

fn shares_all() -> bool {
    HELD.with(|h| h.borrow().as_ref().is_some_and(|held| held.all.is_some()))
}

fn remember_held(raw: &[u8], tenant: Rc<Tenant>) {
    let level = nesting_level();
    with_held(|held| {
        debug_assert!(held.journal.last().is_none_or(|(_, last)| *last <= level), "levels fall along the journal");
        held.tenants.insert(raw.into(), tenant);
        held.journal.push((raw.into(), level));
    });
}

fn with_held(change: impl FnOnce(&mut Held)) {
    HELD.with(|h| {
        let mut held = h.borrow_mut();
        change(held.get_or_insert_default());
    });
}

fn nesting_level() -> i32 {
    // SAFETY: has no precondition.
    unsafe { compat::GetCurrentTransactionNestLevel() }
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

/// Runs in commit and abort, where an error could take the cluster down: it only touches this process's memory.
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        HELD.with(|h| {
            let Ok(mut held) = h.try_borrow_mut() else { return };
            match held.as_mut().filter(|held| held.tenants.capacity() <= KEPT_ROOM) {
                Some(held) => {
                    held.tenants.clear();
                    held.journal.clear();
                    held.all = None;
                }
                None => *held = None,
            }
        });
        lose();
    }
}

/// A subtransaction that rolls back has released the locks that it took; one that commits gave them to its parent.
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    let ended = nesting_level();
    HELD.with(|h| {
        let Ok(mut held) = h.try_borrow_mut() else { return };
        let Some(held) = held.as_mut() else { return };
        match event {
            SUBXACT_EVENT_ABORT_SUB => {
                while let Some((raw, _)) = held.journal.pop_if(|(_, level)| *level >= ended) {
                    held.tenants.remove(&raw);
                }
                held.all = held.all.filter(|level| *level < ended);
                // Also where no lock is gone: the transaction itself may have handed over a tenant under the lock on all.
                lose();
            }
            SUBXACT_EVENT_COMMIT_SUB => {
                for (_, level) in held.journal.iter_mut().rev().take_while(|(_, level)| *level >= ended) {
                    *level = ended - 1;
                }
                held.all = held.all.map(|level| level.min(ended - 1));
            }
            _ => {}
        }
    });
}
