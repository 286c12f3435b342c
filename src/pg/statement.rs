//! What belongs to one statement of the client: which execution is running, how deep, and how many rows and tenants it has
//! written so far.
//!
//! A statement begins where an execution begins that no other contains; what functions, triggers and foreign keys run
//! inside belongs to it. An error skips whoever would have counted an execution down again, so the depth is put right
//! where an error ends: at a savepoint, or with the client's next message.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use pgrx::pg_sys;
use rustc_hash::FxBuildHasher;

use super::compat;
use super::process::process_local;
use super::session::Session;
use super::tenants;
use crate::policy::backend::Trust;
use crate::policy::limits::Rows;
use crate::policy::tenant::TenantKey;

/// One execution, from the outside in.
#[derive(Clone, Copy)]
pub struct Frame {
    /// How many executions contain it.
    depth: u32,
    /// The client's message that it began with; depths of earlier ones mean nothing.
    message: i64,
    /// Whether it has an INSERT ... ON CONFLICT DO UPDATE.
    pub upserts: bool,
    /// The table that it writes; none for a SELECT or a utility command.
    pub target: pg_sys::Oid,
    /// The table that the execution around it writes.
    pub outer_target: pg_sys::Oid,
}

const OUTSIDE: Frame =
    Frame { depth: 0, message: 0, upserts: false, target: pg_sys::InvalidOid, outer_target: pg_sys::InvalidOid };

/// What a savepoint goes back to.
struct Savepoint {
    level: i32,
    frame: Frame,
    statement: u64,
    rows: Rows,
    tenants: usize,
}

/// How many tenants are looked through one by one; most statements write one.
const FEW: usize = 8;

/// How much room for tenants beyond these is kept when a statement that wrote many has ended.
const KEPT_ROOM: usize = 1_024;

/// How many bytes of a key are kept until the next transaction.
const LONG: usize = 256;

/// The tenants that the statement has written, in the order in which it came to them.
struct Tenants {
    /// The first [`FEW`], of which `count` are this statement's. Those behind are an earlier one's, since the next one often writes
    /// the same.
    first: Vec<TenantKey>,
    count: usize,
    /// Those beyond: each by a hash of its key, whose length nobody limits.
    order: Vec<u64>,
    more: HashSet<u64, FxBuildHasher>,
}

impl Tenants {
    const NONE: Tenants =
        Tenants { first: Vec::new(), count: 0, order: Vec::new(), more: HashSet::with_hasher(FxBuildHasher) };

    /// Adds one; whether it is new.
    fn add(&mut self, tenant: &TenantKey) -> bool {
        if self.first[..self.count.min(FEW)].contains(tenant) {
            return false;
        }
        if self.count < FEW {
            if self.first.get(self.count) != Some(tenant) {
                self.first.truncate(self.count);
                self.first.push(tenant.clone());
            }
        } else {
            let tenant = hash(tenant);
            if !self.more.insert(tenant) {
                return false;
            }
            self.order.push(tenant);
        }
        self.count += 1;
        true
    }

    /// Takes those out that came last; whether there were any.
    fn truncate(&mut self, length: usize) -> bool {
        if length >= self.count {
            return false;
        }
        self.count = length;
        if length <= FEW && self.order.capacity() > KEPT_ROOM {
            (self.order, self.more) = Default::default();
        }
        for beyond in self.order.drain(length.saturating_sub(FEW).min(self.order.len())..) {
            self.more.remove(&beyond);
        }
        true
    }

    /// The transaction has ended. The next one may write the same tenants, but long keys aren't kept for that.
    fn end(&mut self) {
        self.truncate(0);
        if self.first.iter().any(|tenant| tenant.as_str().len() > LONG) {
            self.first.clear();
        }
    }
}

/// With a secret, or somebody could choose tenants that count as one.
fn hash(tenant: &TenantKey) -> u64 {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    SECRET.hash_one(tenant)
}

process_local! {
    static FRAME: Cell<Frame> = const { Cell::new(OUTSIDE) };
    /// Counts statements, to tell the one that the counts are of.
    static STATEMENT: Cell<u64> = const { Cell::new(0) };
    static COUNTED: Cell<u64> = const { Cell::new(0) };
    static ROWS: Cell<Rows> = const { Cell::new(Rows { statement: 0, cascaded: 0, transaction: 0 }) };
    static TENANTS: RefCell<Tenants> = const { RefCell::new(Tenants::NONE) };
    static SAVEPOINTS: RefCell<Vec<Savepoint>> = const { RefCell::new(Vec::new()) };
    /// Whether a row is on its way to another partition: deleted there, not yet inserted here.
    static MOVING: Cell<bool> = const { Cell::new(false) };
    /// The client's message with which the last statement began.
    static BEGUN_IN: Cell<i64> = const { Cell::new(i64::MIN) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The frame that is running.
pub fn frame() -> Frame {
    frame_of(message())
}

/// The client's message that is being worked on, by the time when it came.
fn message() -> i64 {
    // SAFETY: has no precondition, and raises no error.
    unsafe { compat::GetCurrentStatementStartTimestamp() }
}

fn frame_of(message: i64) -> Frame {
    let frame = FRAME.get();
    if frame.message == message { frame } else { OUTSIDE }
}

/// An execution begins to be prepared: a statement, if no other contains it. A plain frame.
pub fn begin() {
    let message = message();
    if frame_of(message).depth > 0 {
        return;
    }
    // What runs outside of a portal belongs to the statement before it: deferred triggers, when it commits.
    // SAFETY: a plain read.
    let deferred = unsafe { pg_sys::ActivePortal.is_null() } && BEGUN_IN.get() == message;
    if !deferred {
        BEGUN_IN.set(message);
        STATEMENT.set(STATEMENT.get() + 1);
        MOVING.set(false);
    }
}

/// An execution runs. Returns the frame to [`leave`] to. A plain frame.
pub fn enter(target: pg_sys::Oid, upserts: bool) -> Frame {
    let message = message();
    let outer = frame_of(message);
    FRAME.set(Frame { depth: outer.depth + 1, message, upserts, target, outer_target: outer.target });
    outer
}

/// An execution has come to its end. A plain frame.
pub fn leave(outer: Frame) {
    FRAME.set(outer);
}

/// Counts a row that is about to be written. Returns the counts with it. A plain frame, but for the first row of a process.
pub fn count_row(cascaded: bool) -> Rows {
    let statement = STATEMENT.get();
    let mut rows = ROWS.get();
    if COUNTED.replace(statement) != statement {
        (rows.statement, rows.cascaded) = (0, 0);
        TENANTS.with(|t| t.borrow_mut().truncate(0));
    }
    rows.statement += 1;
    rows.transaction += 1;
    rows.cascaded += u64::from(cascaded);
    debug_assert!(rows.cascaded <= rows.statement, "a cascaded row is one of the statement's");
    ROWS.set(rows);
    rows
}

/// Tells the client's statements apart. A plain frame.
pub fn number() -> u64 {
    STATEMENT.get()
}

/// The counts, as they are.
pub fn rows() -> Rows {
    ROWS.get()
}

/// Notes that the next row to be inserted is the one just deleted, or asks whether it is.
pub fn moving(now: bool) -> bool {
    MOVING.replace(now)
}

/// Counts a tenant of the statement, up to the first beyond `limit`. Returns how many there are, if this one is new.
fn count_tenant(tenant: &TenantKey, limit: u64) -> Option<u64> {
    let statement = STATEMENT.get();
    if COUNTED.replace(statement) != statement {
        ROWS.set(Rows { statement: 0, cascaded: 0, ..ROWS.get() });
        TENANTS.with(|t| t.borrow_mut().truncate(0));
    }
    TENANTS.with(|t| {
        let mut tenants = t.borrow_mut();
        // Beyond the limit nobody asks how many there are.
        if tenants.count as u64 > limit || !tenants.add(tenant) {
            return None;
        }
        Some(tenants.count as u64)
    })
}

/// As [`count_tenant`], for sessions whose tenants are limited; none for others.
pub fn count_tenant_of(session: &Session, tenant: &TenantKey) -> Option<u64> {
    let unproven = session.who.identity.trust() == Some(Trust::Unproven);
    let limit = session.limits().tenants_per_statement.filter(|_| unproven)?;
    count_tenant(tenant, limit)
}

/// Follows transactions and savepoints from now on. Called before the first count.
pub fn follow() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
    }
}

/// Runs in commit and abort, where an error could take the cluster down: it only touches this process's memory.
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        // A procedure that commits goes on with its statement.
        ROWS.set(Rows { transaction: 0, ..ROWS.get() });
        SAVEPOINTS.with(|s| s.borrow_mut().clear());
        if frame().depth == 0 {
            TENANTS.with(|t| t.borrow_mut().end());
        }
    }
}

/// Rows that a savepoint takes back were not written after all.
unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB, SUBXACT_EVENT_START_SUB};
    // SAFETY: has no precondition.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    match event {
        SUBXACT_EVENT_START_SUB => {
            let tenants = TENANTS.with(|t| t.borrow().count);
            let savepoint =
                Savepoint { level, frame: FRAME.get(), statement: COUNTED.get(), rows: ROWS.get(), tenants };
            SAVEPOINTS.with(|s| {
                let mut savepoints = s.borrow_mut();
                debug_assert!(savepoints.last().is_none_or(|outer| outer.level < level), "savepoints don't nest");
                savepoints.push(savepoint);
            });
        }
        SUBXACT_EVENT_COMMIT_SUB => {
            ended(level);
        }
        SUBXACT_EVENT_ABORT_SUB => {
            MOVING.set(false);
            go_back(ended(level));
        }
        _ => {}
    }
}

/// What a savepoint takes back was not written after all.
fn go_back(to: Option<Savepoint>) {
    match to {
        Some(before) => {
            FRAME.set(before.frame);
            let same = before.statement == COUNTED.get();
            let (statement, cascaded) = if same { (before.rows.statement, before.rows.cascaded) } else { (0, 0) };
            ROWS.set(Rows { statement, cascaded, transaction: before.rows.transaction });
            uncount_tenants(if same { before.tenants } else { 0 });
        }
        // It began before anything was counted.
        None => {
            ROWS.set(Rows::default());
            uncount_tenants(0);
        }
    }
}

/// Tenants that a savepoint takes back count again when the statement comes to them again, though their locks may be held from
/// before it.
fn uncount_tenants(length: usize) {
    if TENANTS.with(|t| t.borrow_mut().truncate(length)) {
        tenants::lose();
    }
}

/// Forgets the savepoints of a level that has ended and of those within; what the outermost of them goes back to.
fn ended(level: i32) -> Option<Savepoint> {
    SAVEPOINTS.with(|s| {
        let mut savepoints = s.borrow_mut();
        let mut outermost = None;
        while let Some(savepoint) = savepoints.pop_if(|s| s.level >= level) {
            outermost = Some(savepoint);
        }
        outermost
    })
}
