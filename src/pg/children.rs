//! What a transaction has learnt of the parents of rows that it writes, and the check at its end that it is still so.
//!
//! Who writes a row shares the lock of its parent's tenant, which keeps that tenant's owner; it doesn't keep the parent. By
//! the time of the commit the foreign key has seen to it that each row has a parent and that no one removes it, but another
//! transaction may have moved it to another tenant, or put another row in the place of one that was deleted before the
//! foreign key looked. So whoever commits a change of parents counts it in shared memory ([`super::parent_changes`]), and
//! whoever commits children looks again if the count has gone on. A row whose parent wasn't there when it was written, which
//! a deferred foreign key allows, is looked at in any case.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr;
use std::rc::Rc;

use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};

use super::parents::Whose;
use super::process::process_local;
use super::relation::{self, Locate};
use super::report::{self, Report};
use super::session::{self, Session};
use super::{audit, parent_changes, tenants};
use crate::policy::ownership::{self, Owned};
use crate::policy::rules::Attempt;
use crate::policy::surface::WriteCommand;

/// How many parents a transaction remembers, about 40 MB, if key and tenant have no more than [`SHORT`] bytes. Children of more are not
/// looked at again, unless they had no parent: then the transaction can't commit.
const REMEMBERED: usize = 262_144;
const SHORT: usize = 64;

/// How many bytes longer ones may have together.
const REMEMBERED_BYTES: usize = 32 << 20;

/// What is known of the parent of rows that were written.
struct Child {
    /// The table that was written.
    table: pg_sys::Oid,
    command: WriteCommand,
    /// The parent's tenant, whose lock is held; none if there was no parent.
    tenant: Option<Rc<[u8]>>,
}

/// Something that became known.
struct Entry {
    key: Rc<[u8]>,
    /// The nesting level of the subtransaction that found it out.
    level: i32,
    /// How many bytes it takes.
    bytes: usize,
    /// What was known before; none if nothing was.
    before: Option<Child>,
}

struct Children {
    /// By the foreign key's bytes.
    known: HashMap<Rc<[u8]>, Child>,
    /// What became known, in that order. Levels never fall along it.
    journal: Vec<Entry>,
    /// How many of them are short, and how many bytes the others have.
    short: usize,
    long: usize,
    /// Whether there was no room for a row that had no parent yet.
    missed: bool,
    /// The count of changes before the first parent was looked at; none if one was being committed then.
    since: Option<u64>,
}

process_local! {
    static CHILDREN: RefCell<Option<Children>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// A parent is about to be looked at for the first time.
pub fn begin() {
    register();
    if CHILDREN.with(|c| c.borrow().is_some()) {
        return;
    }
    let since = parent_changes::now();
    CHILDREN.with(|c| {
        *c.borrow_mut() =
            Some(Children { known: HashMap::new(), journal: Vec::new(), short: 0, long: 0, missed: false, since });
    });
}

/// The tenant of a parent that is known.
pub fn known(key: &[u8]) -> Option<Rc<[u8]>> {
    CHILDREN.with(|c| c.borrow().as_ref()?.known.get(key)?.tenant.clone())
}

/// Remembers the tenant of a row's parent, whose lock is held; none for a row whose parent isn't there yet.
pub fn remember(key: &[u8], table: pg_sys::Oid, command: WriteCommand, tenant: Option<&[u8]>) {
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    CHILDREN.with(|c| {
        let mut children = c.borrow_mut();
        let Some(children) = children.as_mut() else { return };
        children.learn(key, level, Child { table, command, tenant: tenant.map(Rc::from) });
    });
}

impl Children {
    fn learn(&mut self, key: &[u8], level: i32, child: Child) {
        let before = self.known.get(key);
        if before.is_some_and(|before| before.tenant == child.tenant) {
            return;
        }
        let bytes = key.len() + child.tenant.as_ref().map_or(0, |tenant| tenant.len());
        let (short, long) = if bytes <= SHORT { (1, 0) } else { (0, bytes) };
        if self.short + short > REMEMBERED || self.long + long > REMEMBERED_BYTES {
            self.missed |= child.tenant.is_none();
            // It is no longer so; without a tenant it is looked at again.
            if let Some(before) = self.known.get_mut(key) {
                before.tenant = None;
            }
            return;
        }
        (self.short, self.long) = (self.short + short, self.long + long);
        let key: Rc<[u8]> = key.into();
        let before = self.known.insert(key.clone(), child);
        self.journal.push(Entry { key, level, bytes, before });
    }

    /// Goes back to what was known before the subtransactions of this level and of those within.
    fn forget(&mut self, level: i32) {
        while let Some(entry) = self.journal.pop_if(|entry| entry.level >= level) {
            if entry.bytes <= SHORT {
                self.short -= 1;
            } else {
                self.long -= entry.bytes;
            }
            match entry.before {
                Some(before) => self.known.insert(entry.key, before),
                None => self.known.remove(&entry.key),
            };
        }
    }
}

/// This transaction is about to change parents itself: what is known of them is looked up again.
pub fn doubt() {
    tenants::lose();
    CHILDREN.with(|c| {
        if let Some(children) = c.borrow_mut().as_mut() {
            // They are looked at again when the transaction ends, too.
            children.known.values_mut().for_each(|child| child.tenant = None);
        }
    });
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
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE if wrote_children() => {
            // SAFETY: nothing in this frame has a destructor.
            unsafe { report::raise(check_again()) };
        }
        XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => {
            CHILDREN.with(|c| {
                if let Ok(mut children) = c.try_borrow_mut() {
                    *children = None;
                }
            });
        }
        _ => {}
    }
}

fn wrote_children() -> bool {
    CHILDREN.with(|c| c.borrow().as_ref().is_some_and(|children| !children.known.is_empty()))
}

#[pg_guard]
unsafe extern "C-unwind" fn check_again() -> *const Report {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    // From here until this transaction has ended nobody commits a move.
    parent_changes::keep_moves_out(&session);
    let Some(children) = CHILDREN.with(|c| c.borrow_mut().take()) else { return ptr::null() };
    if children.missed && parent_changes::are_guarded(&session) {
        report::error(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            "this transaction wrote more rows before their parents than it can look at again",
            format!(
                "Whose they are is told by their parents, of which {REMEMBERED} are remembered, and {} MB of keys longer than {SHORT} bytes.",
                REMEMBERED_BYTES >> 20
            ),
            "Write the parents first, or fewer rows in a transaction.",
        );
    }
    let unchanged =
        !parent_changes::has_changed() && children.since.is_some() && children.since == parent_changes::now();
    children
        .known
        .iter()
        .filter(|(_, child)| !unchanged || child.tenant.is_none())
        .map(|(key, child)| check(&session, key, child))
        .find(|report| !report.is_null())
        .unwrap_or(ptr::null())
}

fn check(session: &Session, key: &[u8], child: &Child) -> *const Report {
    let Some(relation) = relation::facts(session, child.table) else { return ptr::null() };
    let Locate::Parent(link) = &relation.locate else { return ptr::null() };
    let values = link.values(key);
    let value = |attnum| values.iter().find(|(of, _)| *of == attnum).map(|(_, value)| *value);
    // Where there is no parent, there is no row any more, or the foreign key will say so.
    let Whose::Tenants(raw) = link.read(session, &value) else { return ptr::null() };
    if child.tenant.as_deref() == Some(raw.as_slice()) {
        return ptr::null();
    }
    let tenant = tenants::hold(session, &raw);
    let owner = tenant.owner.as_deref().or(session.policy.set.default_owner.as_deref());
    let attempt = || Attempt {
        command: child.command.as_str().to_owned(),
        table: Some(relation.table.name.clone()),
        ..Attempt::default()
    };
    let owned = Owned { tenant: tenant.key.as_str(), owner, freeze: tenant.freeze_in_force() };
    ownership::check_row(&session.who.identity, &owned, attempt)
        .map_or(ptr::null(), |refusal| audit::settle(session, refusal))
}

/// What a savepoint that rolls back had learnt is forgotten, with the locks that it took.
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    // SAFETY: has no precondition.
    let ended = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    CHILDREN.with(|c| {
        let Ok(mut children) = c.try_borrow_mut() else { return };
        let Some(children) = children.as_mut() else { return };
        match event {
            SUBXACT_EVENT_ABORT_SUB => children.forget(ended),
            SUBXACT_EVENT_COMMIT_SUB => {
                for entry in children.journal.iter_mut().rev().take_while(|entry| entry.level >= ended) {
                    entry.level = ended - 1;
                }
            }
            _ => {}
        }
    });
}
