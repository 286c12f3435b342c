//! Rows that a proven backend wrote before their parents: with a foreign key that is checked when the transaction ends, the
//! tenant of such a row is only known then, so that is when its ownership is checked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use super::parents::{self, ParentLink};
use super::relation::{self, Locate, Relation};
use super::report::{self, Report};
use super::session::{self, Session};
use super::{audit, compat};
use crate::policy::ownership::{self, Owned};
use crate::policy::rules::Attempt;
use crate::policy::surface::WriteCommand;

/// A foreign key whose parent wasn't there.
struct Orphan {
    table: pg_sys::Oid,
    command: WriteCommand,
    /// The foreign key's columns by their numbers; the values live as long as the transaction.
    columns: Vec<(pg_sys::AttrNumber, pg_sys::Datum)>,
    /// The nesting level of the subtransaction that wrote the row.
    level: i32,
}

thread_local! {
    /// By the foreign key's bytes.
    static ORPHANS: RefCell<HashMap<Vec<u8>, Orphan>> = RefCell::default();
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Puts the check of a row off until its transaction ends.
pub fn check_later(
    relation: &Relation,
    table: pg_sys::Oid,
    command: WriteCommand,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) {
    let Locate::Parent(link) = &relation.locate else { return };
    let Some(key) = link.key(value) else { return };
    register();
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    if ORPHANS.with(|o| o.borrow().contains_key(&key)) {
        return;
    }
    let orphan = Orphan { table, command, columns: copies(link, value), level };
    ORPHANS.with(|o| o.borrow_mut().insert(key, orphan));
}

/// The values of a foreign key, copied so that they live as long as the transaction.
fn copies(
    link: &ParentLink,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) -> Vec<(pg_sys::AttrNumber, pg_sys::Datum)> {
    let copy = |attnum, of, datum| {
        let (mut length, mut by_value) = (0, false);
        // SAFETY: a syscache look-up; the value is of that type, and is copied into the transaction's own memory.
        unsafe {
            pg_sys::get_typlenbyval(of, &mut length, &mut by_value);
            let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
            let copied = compat::guarded(|| compat::datumCopy(datum, by_value, i32::from(length)));
            pg_sys::MemoryContextSwitchTo(before);
            (attnum, copied)
        }
    };
    link.columns.iter().filter_map(|c| Some(copy(c.attnum, c.of, value(c.attnum)?))).collect()
}

fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), ptr::null_mut());
    }
}

/// A plain frame. Before a commit an error still rolls back, as one of a deferred constraint does.
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE if has_orphans() => {
            // SAFETY: nothing in this frame has a destructor.
            unsafe { report::raise(check_orphans()) };
        }
        XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => {
            ORPHANS.with(|o| o.borrow_mut().clear());
        }
        _ => {}
    }
}

fn has_orphans() -> bool {
    ORPHANS.with(|o| !o.borrow().is_empty())
}

#[pg_guard]
unsafe extern "C-unwind" fn check_orphans() -> *const Report {
    let orphans = ORPHANS.with(|o| std::mem::take(&mut *o.borrow_mut()));
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    orphans.into_values().map(|orphan| check(&session, &orphan)).find(|report| !report.is_null()).unwrap_or(ptr::null())
}

fn check(session: &Session, orphan: &Orphan) -> *const Report {
    let Some(relation) = relation::facts(session, orphan.table) else { return ptr::null() };
    let value = |attnum| orphan.columns.iter().find(|(of, _)| *of == attnum).map(|(_, value)| *value);
    // A parent that still isn't there is the foreign key's business.
    let Ok((_, tenant)) = parents::hold_tenant(session, &relation, &value) else { return ptr::null() };
    let owner = tenant.owner.as_deref().or(session.policy.set.default_owner.as_deref());
    let freeze = tenant.freeze_in_force();
    let attempt = || Attempt {
        command: orphan.command.as_str().to_owned(),
        table: Some(relation.table.name.clone()),
        ..Attempt::default()
    };
    let owned = Owned { tenant: tenant.key.as_str(), owner, freeze };
    ownership::check_row(&session.who.identity, &owned, attempt)
        .map_or(ptr::null(), |refusal| audit::settle(session, refusal))
}

/// Rows that a savepoint takes back need no check.
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    if !has_orphans() {
        return;
    }
    // SAFETY: has no precondition.
    let ended = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    ORPHANS.with(|o| {
        let mut orphans = o.borrow_mut();
        match event {
            SUBXACT_EVENT_ABORT_SUB => orphans.retain(|_, orphan| orphan.level < ended),
            SUBXACT_EVENT_COMMIT_SUB => {
                for orphan in orphans.values_mut() {
                    orphan.level = orphan.level.min(ended - 1);
                }
            }
            _ => {}
        }
    });
}
