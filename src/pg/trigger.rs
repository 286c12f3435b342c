//! The row guard: a `BEFORE INSERT OR UPDATE OR DELETE ... FOR EACH ROW` trigger, enabled always, whose name sorts after
//! every ASCII name, so that it sees the row as other triggers leave it.
//!
//! On the row path nothing is allocated, no catalog is read and no function of Postgres is called that sets up an error
//! handler, as long as rows belong to tenants that the statement has seen: their keys stay in [`RowGuard`], next to what was
//! found out about the table when the statement began.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};

use super::memo::{Memory, column};
use super::parent_changes::Change;
use super::parent_keys::ParentKeys;
use super::parents::{self, Whose};
use super::process::process_local;
use super::relation::{Locate, Relation};
use super::report::{self, Report};
use super::row_count::RowCount;
use super::session::{self, Session};
use super::{audit, cascade, children, parent_changes, parent_keys, relation, statement, tenants};
use crate::policy::backend::Trust;
use crate::policy::limits::{self, Passed};
use crate::policy::looks::Look;
use crate::policy::ownership::{self, Owned};
use crate::policy::rules::{Attempt, Refusal, TableName};
use crate::policy::surface::{GuardState, TableClass, WriteCommand};

/// The trigger's name. `~` is the last printable ASCII character.
pub const GUARD_NAME: &str = "~holdfast_guard";

/// Bits of `tgtype` that the trigger must have.
pub const GUARD_TYPE: i16 = (pg_sys::TRIGGER_TYPE_ROW
    | pg_sys::TRIGGER_TYPE_BEFORE
    | pg_sys::TRIGGER_TYPE_INSERT
    | pg_sys::TRIGGER_TYPE_UPDATE
    | pg_sys::TRIGGER_TYPE_DELETE) as i16;

/// What one statement knows of one table, in the trigger's `fn_extra`.
#[repr(C)]
struct RowGuard {
    /// Names this statement's facts in [`FACTS`].
    statement: u64,
    /// Whether rows have tenants to be checked.
    checks: bool,
    /// Counts them for the view `stats`.
    looks: Option<&'static Cell<u64>>,
    /// How the rows of one tenant are told from the next one's, and those that passed.
    memory: Memory,
    /// Whether rows of other tables have their tenants from rows of this one.
    is_parent: bool,
    /// By which columns, as far as the statement may change them.
    keys: ParentKeys,
    /// Whether a foreign key led to this table, which the session may not write.
    beyond: bool,
    /// Counts rows, where they are limited.
    count: RowCount,
}

process_local! {
    /// Counts the statements that this process prepared a guard for.
    static STATEMENTS: Cell<u64> = const { Cell::new(0) };
    /// The facts of the statement and table that were checked last. A statement keeps the facts that it began with.
    static FACTS: RefCell<Option<(u64, Session, Rc<Relation>)>> = const { RefCell::new(None) };
}

/// The trigger function `holdfast.guard_row`. A plain frame.
///
/// # Safety
/// Called by Postgres as a trigger function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn holdfast_guard_row(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is valid for the call, and `prepare` has checked that a row trigger is being run before it leaves
    // anything in fn_extra, which is this call site's own. Everything here is Copy, so that the error that `raise` throws
    // passes over no destructor.
    unsafe {
        let mut guard = (*(*fcinfo).flinfo).fn_extra.cast::<RowGuard>();
        if guard.is_null() {
            session::listen();
            guard = prepare(fcinfo);
        }
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        let event = (*data).tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        let updated = event == pg_sys::TRIGGER_EVENT_UPDATE;
        let result = if updated { (*data).tg_newtuple } else { (*data).tg_trigtuple };
        if (*guard).beyond {
            report::raise(check_beyond(fcinfo));
        }
        if (*guard).checks {
            let row = (*data).tg_trigslot;
            count(guard);
            if !(*guard).memory.passes(row) {
                report::raise(check(fcinfo, row));
            }
            let mut same = true;
            if updated {
                let new = (*data).tg_newslot;
                same = (*guard).memory.same_tenant(row, new);
                if !same {
                    count(guard);
                    if !(*guard).memory.passes(new) {
                        report::raise(check(fcinfo, new));
                    }
                }
            }
            if (*guard).is_parent && may_change_hands(guard, data, event, same) {
                note_parent(fcinfo);
            }
        }
        if (*guard).count.is_over(event, (*data).tg_trigtuple) {
            report::raise(check_count(fcinfo));
        }
        pg_sys::Datum::from(result)
    }
}

/// Declares the calling convention of [`holdfast_guard_row`].
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_holdfast_guard_row() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// Counts a version of a row that is looked at. A plain frame.
unsafe fn count(guard: *const RowGuard) {
    // SAFETY: the caller gives this statement's guard.
    if let Some(looks) = unsafe { (*guard).looks } {
        looks.set(looks.get() + 1);
    }
}

/// Finds out what the statement needs to know of the table.
#[pg_guard]
unsafe extern "C-unwind" fn prepare(fcinfo: pg_sys::FunctionCallInfo) -> *mut RowGuard {
    // SAFETY: fcinfo is valid; the context is read as a trigger's only if it says that it is one.
    let (data, memory) = unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_TriggerData {
            report::not_a_trigger("guard_row");
        }
        (&*data, (*(*fcinfo).flinfo).fn_mcxt)
    };
    const ROW: u32 = pg_sys::TRIGGER_EVENT_ROW;
    const BEFORE: u32 = pg_sys::TRIGGER_EVENT_BEFORE;
    if data.tg_event & (ROW | BEFORE) != (ROW | BEFORE) {
        report::not_a_trigger("guard_row");
    }
    // SAFETY: the trigger manager gives an open relation.
    let oid = unsafe { (*data.tg_relation).rd_id };
    let statement = STATEMENTS.get() + 1;
    STATEMENTS.set(statement);
    let mut guard = RowGuard::new(statement, oid);
    if guard.is_parent {
        // SAFETY: the trigger manager gives an open relation.
        if unsafe { may_lose_parents(data) } {
            parent_changes::note(Change::Removed);
            children::doubt();
        } else if data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE {
            guard.keys = ParentKeys::NONE;
        }
    }
    // SAFETY: fn_mcxt is where a function keeps what should live as long as its call site.
    unsafe {
        let place = pg_sys::MemoryContextAlloc(memory, size_of::<RowGuard>()).cast::<RowGuard>();
        place.write(guard);
        (*(*fcinfo).flinfo).fn_extra = place.cast();
        place
    }
}

impl RowGuard {
    fn new(statement: u64, table: pg_sys::Oid) -> RowGuard {
        let mut guard = RowGuard {
            statement,
            checks: false,
            looks: None,
            memory: Memory::NONE,
            is_parent: false,
            keys: ParentKeys::UNKNOWN,
            beyond: false,
            count: RowCount::OFF,
        };
        let Some((session, relation)) = statement_facts(statement, table) else { return guard };
        if session.who.all_off {
            return guard;
        }
        guard.checks = matches!(relation.table.class, TableClass::Tenant(_));
        guard.looks = Some(session.who.counts.figure(Look::at_row(session.who.identity.trust())));
        guard.memory = Memory::of(&relation.locate, &session.who);
        guard.is_parent = relation.is_parent;
        if session.who.identity.trust() == Some(Trust::Unproven) {
            guard.count = RowCount::of(session.limits(), session.who.counts);
        }
        let bound = matches!(session.who.identity.trust(), Some(Trust::Unproven | Trust::Retired));
        guard.beyond = bound && cascade::is_running();
        guard
    }
}

/// Whether a statement may take away rows under the keys by which others refer to them: it deletes, or it updates a column of
/// a key, or another trigger may.
unsafe fn may_lose_parents(data: &pg_sys::TriggerData) -> bool {
    match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        // SAFETY: the trigger manager's data.
        pg_sys::TRIGGER_EVENT_UPDATE => unsafe { parent_keys::may_change_keys(data) },
        // An INSERT may go on to update the row that it conflicts with.
        pg_sys::TRIGGER_EVENT_INSERT => statement::frame().upserts,
        _ => true,
    }
}

/// Whether the write of a parent may give its children another tenant, or is part of what does. A plain frame.
unsafe fn may_change_hands(guard: *const RowGuard, data: *const pg_sys::TriggerData, event: u32, same: bool) -> bool {
    match event {
        pg_sys::TRIGGER_EVENT_INSERT => parent_changes::has_removed(),
        pg_sys::TRIGGER_EVENT_DELETE => !parent_changes::has_removed_of_several(),
        // SAFETY: the caller gives this statement's guard, and the trigger manager's data.
        _ => unsafe { !same || !(*guard).keys.stay((*data).tg_trigslot, (*data).tg_newslot) },
    }
}

/// Decides about a row that doesn't pass at first sight.
#[pg_guard]
unsafe extern "C-unwind" fn check(
    fcinfo: pg_sys::FunctionCallInfo,
    slot: *mut pg_sys::TupleTableSlot,
) -> *const Report {
    // SAFETY: prepare() has run at this call site, and the trigger manager gives an open relation.
    let (guard, data, oid) = unsafe {
        let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
        (&mut *(*(*fcinfo).flinfo).fn_extra.cast::<RowGuard>(), data, (*data.tg_relation).rd_id)
    };
    let Some((session, relation)) = statement_facts(guard.statement, oid) else { return std::ptr::null() };
    let TableClass::Tenant(source) = &relation.table.class else { return std::ptr::null() };
    let identity = &session.who.identity;
    let attempt = || attempt(data.tg_event, &relation.table.name);
    // SAFETY: the slot is one of the trigger's.
    let value = |attnum| unsafe { column(slot, c_int::from(attnum)) };

    // Of several columns, the one that is null tells why a row has no tenant.
    let missing = match &relation.locate {
        Locate::Columns(columns) => columns.iter().position(|column| value(column.attnum).is_none()).unwrap_or(0),
        _ => 0,
    };
    let named = source.columns().get(missing).map_or("", String::as_str);
    if matches!(relation.locate, Locate::Nowhere) && relation.table.guard != GuardState::Unrestored {
        let attempt = Attempt { backend: identity.name().map(str::to_owned), ..attempt() };
        return settle(&session, Refusal::unreliable_guard(attempt, &relation.table));
    }
    let (raw, tenant) = match parents::hold_tenant(&session, &relation, &value) {
        Ok(held) => held,
        Err(whose) => {
            let refusal = match whose {
                Whose::Nobodys => {
                    let refusal = ownership::check_orphan(identity, named, attempt);
                    if let (None, Locate::Parent(link)) = (&refusal, &relation.locate)
                        && let Some(key) = link.key(&value)
                    {
                        children::remember(&key, oid, command(data.tg_event), None);
                    }
                    refusal
                }
                _ => ownership::check_global_row(identity, named, attempt),
            };
            return refusal.map_or(std::ptr::null(), |r| settle(&session, r));
        }
    };
    let owner = tenant.owner.as_deref().or(session.policy.set.default_owner.as_deref());
    let owned = Owned { tenant: tenant.key.as_str(), owner, freeze: tenant.freeze_in_force() };
    let refusal = ownership::check_row(identity, &owned, attempt).or_else(|| {
        let count = statement::count_tenant_of(&session, &tenant.key)?;
        let attempt = || Attempt { tenant: Some(tenant.key.as_str().to_owned()), ..attempt() };
        limits::check_tenants(identity, session.limits(), count, attempt)
    });
    if let Some(refusal) = refusal {
        let refusal =
            if guard.count.cascaded { cascade::reached_tenant(refusal, &relation, oid, &value) } else { refusal };
        if audit::stops(&session, &refusal) {
            tenants::let_go(&raw);
        }
        return settle(&session, refusal);
    }
    if let Locate::Parent(link) = &relation.locate
        && let Some(key) = link.key(&value)
    {
        children::remember(&key, oid, command(data.tg_event), Some(&raw));
    }
    // A freeze that ends by itself could begin to matter; only tenants without one are waved through.
    if tenant.freeze.is_none() {
        // SAFETY: the row is of this table; fn_mcxt is where a function keeps what should live as long as its call site.
        unsafe { guard.memory.remember(&value, (*(*fcinfo).flinfo).fn_mcxt) };
    }
    std::ptr::null()
}

/// Acts on what a row earns.
fn settle(session: &Session, refusal: Refusal) -> *const Report {
    session.who.counts.broke(Look::at_row(session.who.identity.trust()), refusal.rule);
    audit::settle(session, refusal)
}

/// A row from which rows of other tables have their tenants is written: whether it moves to another tenant, or takes the place of
/// one of another tenant.
#[pg_guard]
unsafe extern "C-unwind" fn note_parent(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: prepare() has run at this call site, and the trigger manager gives an open relation.
    let (guard, data, oid, memory) = unsafe {
        let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
        let flinfo = &*(*fcinfo).flinfo;
        (&mut *flinfo.fn_extra.cast::<RowGuard>(), data, (*data.tg_relation).rd_id, flinfo.fn_mcxt)
    };
    let Some((session, relation)) = statement_facts(guard.statement, oid) else { return };
    // Nobody's is empty, which is no tenant's.
    let tenant_of = |slot: *mut pg_sys::TupleTableSlot| {
        // SAFETY: the slot is one of the trigger's.
        let value = |attnum| unsafe { column(slot, c_int::from(attnum)) };
        match parents::whose(&session, &relation, &value) {
            Whose::Tenants(raw) => raw,
            Whose::Everybodys | Whose::Nobodys => Vec::new(),
        }
    };
    let remove = |tenant| {
        if !parent_changes::has_changed() {
            children::doubt();
        }
        parent_changes::remove(tenant);
    };
    let (row, new) = (data.tg_trigslot, data.tg_newslot);
    match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => parent_changes::give(&tenant_of(row)),
        pg_sys::TRIGGER_EVENT_DELETE => remove(tenant_of(row)),
        _ => {
            if !guard.keys.are_known() {
                // SAFETY: an UPDATE's data; fn_mcxt is where a function keeps what should live as long as its call site.
                guard.keys = unsafe { ParentKeys::find(data, memory) };
            }
            let (before, after) = (tenant_of(row), tenant_of(new));
            if before != after {
                parent_changes::note(Change::Moved);
                children::doubt();
            // SAFETY: the slots are the trigger's.
            } else if !unsafe { guard.keys.stay(row, new) } {
                remove(before);
                parent_changes::give(&after);
            }
        }
    }
}

/// The first row that a foreign key reached in this table.
#[pg_guard]
unsafe extern "C-unwind" fn check_beyond(fcinfo: pg_sys::FunctionCallInfo) -> *const Report {
    // SAFETY: prepare() has run at this call site, and the trigger manager gives an open relation.
    let (guard, oid) = unsafe {
        let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
        (&mut *(*(*fcinfo).flinfo).fn_extra.cast::<RowGuard>(), (*data.tg_relation).rd_id)
    };
    guard.beyond = false;
    let Some((session, relation)) = statement_facts(guard.statement, oid) else { return std::ptr::null() };
    let Some(refusal) = cascade::put_off_for(&relation) else { return std::ptr::null() };
    let global = matches!(relation.table.class, TableClass::Global);
    session.who.counts.broke(Look::at_table(session.who.identity.trust(), global), refusal.rule);
    audit::settle(&session, refusal)
}

/// Decides about a row that is one too many.
#[pg_guard]
unsafe extern "C-unwind" fn check_count(fcinfo: pg_sys::FunctionCallInfo) -> *const Report {
    // SAFETY: prepare() has run at this call site, and the trigger manager gives an open relation.
    let (guard, data, oid) = unsafe {
        let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
        (&*(*(*fcinfo).flinfo).fn_extra.cast::<RowGuard>(), data, (*data.tg_relation).rd_id)
    };
    let Some((session, relation)) = statement_facts(guard.statement, oid) else { return std::ptr::null() };
    let refuse = |passed| {
        let backend = session.who.identity.name().map(str::to_owned);
        let attempt = Attempt { backend, ..attempt(data.tg_event, &relation.table.name) };
        match passed {
            Passed::Rows(scope, limit) => Refusal::row_budget(attempt, scope, limit),
            Passed::CascadeRows(limit) => cascade::reached_limit(attempt, oid, limit),
        }
    };
    let (rows, limits) = (statement::rows(), session.limits());
    let Some(refusal) = limits.passed(&rows, false).map(refuse) else { return std::ptr::null() };
    // What goes on is recorded once.
    let again = !audit::stops(&session, &refusal) && limits.passed(&rows, true).is_none();
    if again {
        return std::ptr::null();
    }
    session.who.counts.broke(Look::at_limited_row(guard.count.cascaded), refusal.rule);
    audit::settle(&session, refusal)
}

/// The session's facts and the table's, looked up once as long as one statement's rows are checked in a row.
fn statement_facts(statement: u64, oid: pg_sys::Oid) -> Option<(Session, Rc<Relation>)> {
    let known = FACTS.with(|f| match &*f.borrow() {
        Some((of, session, relation)) if *of == statement => Some((session.clone(), relation.clone())),
        _ => None,
    });
    if known.is_some() {
        return known;
    }
    let session = session::as_heard().or_else(session::current)?;
    let relation = relation::facts(&session, oid)?;
    FACTS.with(|f| *f.borrow_mut() = Some((statement, session.clone(), relation.clone())));
    Some((session, relation))
}

fn command(event: pg_sys::TriggerEvent) -> WriteCommand {
    match event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_UPDATE => WriteCommand::Update,
        pg_sys::TRIGGER_EVENT_DELETE => WriteCommand::Delete,
        _ => WriteCommand::Insert,
    }
}

fn attempt(event: pg_sys::TriggerEvent, table: &TableName) -> Attempt {
    Attempt { command: command(event).as_str().to_owned(), table: Some(table.clone()), ..Attempt::default() }
}

/// Now, in microseconds since 2000, as timestamptz counts.
pub fn now() -> i64 {
    // SAFETY: has no precondition.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether a function is [`holdfast_guard_row`], by what it calls and not by its name.
pub fn is_guard_function(function: pg_sys::Oid) -> bool {
    process_local! {
        static GUARD: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    }
    if function == GUARD.get() {
        return true;
    }
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: a trigger's function exists while its table is locked; fmgr_info loads its library, which for ours is done.
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    let ours = info
        .fn_addr
        .is_some_and(|f| std::ptr::fn_addr_eq(f, holdfast_guard_row as unsafe extern "C-unwind" fn(_) -> _));
    if ours {
        GUARD.set(function);
    }
    ours
}
