//! The row guard: a `BEFORE INSERT OR UPDATE OR DELETE ... FOR EACH ROW` trigger, enabled always, whose name sorts after
//! every ASCII name, so that it sees the row as other triggers leave it.
//!
//! On the row path nothing is allocated, no catalog is read and no function of Postgres is called that sets up an error
//! handler, as long as rows of one statement belong to the tenant of the row before: the tenant of the last row that
//! passed stays in [`RowGuard`], next to what was found out about the table when the statement began.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};

use super::relation::Relation;
use super::report::{self, Report};
use super::session::{self, Session};
use super::{audit, compat, relation, tenants};
use crate::policy::ownership::{self, Owned};
use crate::policy::rules::{Attempt, TableName};
use crate::policy::set::Verdict;
use crate::policy::surface::{TableClass, WriteCommand};
use crate::policy::tenant::{TenantKey, TenantType};

/// The trigger's name. `~` is the last printable ASCII character.
pub const GUARD_NAME: &str = "~holdfast_guard";

/// Bits of `tgtype` that the trigger must have.
pub const GUARD_TYPE: i16 = (pg_sys::TRIGGER_TYPE_ROW
    | pg_sys::TRIGGER_TYPE_BEFORE
    | pg_sys::TRIGGER_TYPE_INSERT
    | pg_sys::TRIGGER_TYPE_UPDATE
    | pg_sys::TRIGGER_TYPE_DELETE) as i16;

/// The longest key that is remembered from row to row; longer ones are looked up for each row.
const REMEMBERED: usize = 40;

/// What one statement knows of one table, in the trigger's `fn_extra`.
#[repr(C)]
struct RowGuard {
    /// The statement needs no look at its rows.
    bypass: bool,
    of: TenantType,
    attnum: c_int,
    /// Names this statement's facts in [`FACTS`].
    statement: u64,
    /// The raw key of the last row that passed; `length` 0 = none. A raw key has its type's tag, so it is never empty.
    length: usize,
    last: [u8; REMEMBERED],
}

thread_local! {
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
            guard = prepare(fcinfo);
        }
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        let event = (*data).tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        let updated = event == pg_sys::TRIGGER_EVENT_UPDATE;
        let result = if updated { (*data).tg_newtuple } else { (*data).tg_trigtuple };
        if !(*guard).bypass {
            let row = (*data).tg_trigslot;
            if !passes(guard, row) {
                report::raise(check(fcinfo, row));
            }
            if updated {
                let new = (*data).tg_newslot;
                if !passes(guard, new) && !same_tenant(guard, row, new) {
                    report::raise(check(fcinfo, new));
                }
            }
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

/// Whether the row's tenant is that of the last row that passed. A plain frame.
unsafe fn passes(guard: *const RowGuard, slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: the caller gives this statement's guard and one of the trigger's slots.
    unsafe {
        let Some(value) = column(slot, (*guard).attnum) else { return false };
        let length = (*guard).length;
        match raw_bytes((*guard).of, value) {
            Raw::Bytes(bytes) => {
                length == bytes.len() + 1
                    && (&(*guard).last)[0] == tag((*guard).of)
                    && (&(*guard).last)[1..length] == *bytes
            }
            Raw::Integer(number) => length == 9 && (&(*guard).last)[1..9] == number.to_ne_bytes(),
            Raw::Packed => false,
        }
    }
}

/// Whether both versions of a row have the same key, so that one check is enough. A plain frame.
unsafe fn same_tenant(
    guard: *const RowGuard,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: the caller gives this statement's guard and the trigger's slots.
    unsafe {
        let (of, attnum) = ((*guard).of, (*guard).attnum);
        match (column(old, attnum), column(new, attnum)) {
            (None, None) => true,
            (Some(old), Some(new)) => match (raw_bytes(of, old), raw_bytes(of, new)) {
                (Raw::Bytes(old), Raw::Bytes(new)) => old == new,
                (Raw::Integer(old), Raw::Integer(new)) => old == new,
                _ => false,
            },
            _ => false,
        }
    }
}

/// A column of a slot; none if it is null. A plain frame.
unsafe fn column(slot: *mut pg_sys::TupleTableSlot, attnum: c_int) -> Option<pg_sys::Datum> {
    // SAFETY: the slot belongs to a relation that has the column, and slot_getsomeattrs_int makes it valid.
    unsafe {
        if c_int::from((*slot).tts_nvalid) < attnum {
            compat::slot_getsomeattrs_int(slot, attnum);
        }
        let index = attnum as usize - 1;
        (!*(*slot).tts_isnull.add(index)).then(|| *(*slot).tts_values.add(index))
    }
}

/// A key as it lies in the row.
enum Raw<'a> {
    Bytes(&'a [u8]),
    Integer(i64),
    /// Compressed or stored out of line: must be unpacked first.
    Packed,
}

unsafe fn raw_bytes<'a>(of: TenantType, value: pg_sys::Datum) -> Raw<'a> {
    match of {
        // A narrower integer is stored sign-extended.
        TenantType::Integer => Raw::Integer(value.value() as i64),
        // SAFETY: a uuid is 16 bytes; the slot keeps them while the trigger runs.
        TenantType::Uuid => Raw::Bytes(unsafe { std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16) }),
        TenantType::Text | TenantType::Citext | TenantType::Bytea => {
            let varlena = value.cast_mut_ptr::<pg_sys::varlena>();
            // SAFETY: these types are varlenas, and only a plain one is read in place.
            unsafe {
                if pgrx::varatt_is_1b_e(varlena) || pgrx::varatt_is_4b_c(varlena) {
                    Raw::Packed
                } else {
                    Raw::Bytes(pgrx::varlena_to_byte_slice(varlena))
                }
            }
        }
    }
}

/// Tells apart equal bytes of different types.
fn tag(of: TenantType) -> u8 {
    match of {
        TenantType::Integer => b'i',
        TenantType::Uuid => b'u',
        TenantType::Text => b't',
        TenantType::Citext => b'c',
        TenantType::Bytea => b'b',
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
    let (of, last) = (TenantType::Integer, [0; REMEMBERED]);
    let mut guard = RowGuard { bypass: true, of, attnum: 0, statement, length: 0, last };
    if let Some((session, relation)) = statement_facts(statement, oid)
        && !session.who.all_off
        && let TableClass::Tenant { of, .. } = relation.table.class
    {
        (guard.bypass, guard.of, guard.attnum) = (false, of, c_int::from(relation.tenant_attnum));
    }
    // SAFETY: fn_mcxt is where a function keeps what should live as long as its call site.
    unsafe {
        let place = pg_sys::MemoryContextAlloc(memory, size_of::<RowGuard>()).cast::<RowGuard>();
        place.write(guard);
        (*(*fcinfo).flinfo).fn_extra = place.cast();
        place
    }
}

/// Decides about a row whose tenant isn't that of the row before.
#[pg_guard]
unsafe extern "C-unwind" fn check(
    fcinfo: pg_sys::FunctionCallInfo,
    slot: *mut pg_sys::TupleTableSlot,
) -> *const Report {
    // SAFETY: prepare() has run at this call site.
    let (guard, data) = unsafe {
        let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
        (&mut *(*(*fcinfo).flinfo).fn_extra.cast::<RowGuard>(), data)
    };
    // SAFETY: the trigger manager gives an open relation.
    let oid = unsafe { (*data.tg_relation).rd_id };
    let Some((session, relation)) = statement_facts(guard.statement, oid) else { return std::ptr::null() };
    let TableClass::Tenant { column: tenant_column, .. } = &relation.table.class else { return std::ptr::null() };
    let identity = &session.who.identity;
    let attempt = || attempt(data.tg_event, &relation.table.name);

    // SAFETY: the slot is one of the trigger's.
    let Some(value) = (unsafe { column(slot, guard.attnum) }) else {
        let refusal = ownership::check_global_row(identity, tenant_column, attempt);
        return refusal.map_or(std::ptr::null(), |r| audit::settle(&session, r));
    };
    let raw = raw_key(guard.of, value);
    let of = guard.of;
    let tenant = tenants::hold(&session, &raw, || canonical(of, &raw));
    let freeze = tenant.freeze.as_ref().filter(|f| f.until.is_none() || f.holds(now()));
    let owner = tenant.owner.as_deref().or(session.policy.set.default_owner.as_deref());
    let owned = Owned { tenant: tenant.key.as_str(), owner, freeze };
    if let Some(refusal) = ownership::check_row(identity, &owned, attempt) {
        if session.policy.set.verdict(&refusal) == Verdict::Refuse {
            tenants::let_go(&raw);
        }
        return audit::settle(&session, refusal);
    }
    // A freeze that ends by itself could begin to matter; only tenants without one are waved through.
    guard.length = 0;
    if tenant.freeze.is_none() && raw.len() <= REMEMBERED {
        guard.last[..raw.len()].copy_from_slice(&raw);
        guard.length = raw.len();
    }
    std::ptr::null()
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
    let session = session::current()?;
    let relation = relation::facts(&session, oid)?;
    FACTS.with(|f| *f.borrow_mut() = Some((statement, session.clone(), relation.clone())));
    Some((session, relation))
}

fn attempt(event: pg_sys::TriggerEvent, table: &TableName) -> Attempt {
    let command = match event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_UPDATE => WriteCommand::Update,
        pg_sys::TRIGGER_EVENT_DELETE => WriteCommand::Delete,
        _ => WriteCommand::Insert,
    };
    Attempt { command: command.as_str().to_owned(), table: Some(table.clone()), ..Attempt::default() }
}

/// A key's tag and bytes, unpacked.
fn raw_key(of: TenantType, value: pg_sys::Datum) -> Vec<u8> {
    let mut raw = vec![tag(of)];
    // SAFETY: the value is of the column's type.
    match unsafe { raw_bytes(of, value) } {
        Raw::Bytes(bytes) => raw.extend_from_slice(bytes),
        Raw::Integer(number) => raw.extend_from_slice(&number.to_ne_bytes()),
        Raw::Packed => {
            // SAFETY: unpacks a varlena into the current memory context.
            let bytes = unsafe {
                pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr::<pg_sys::varlena>()))
            };
            raw.extend_from_slice(bytes);
        }
    }
    raw
}

/// The canonical key of a raw one.
fn canonical(of: TenantType, raw: &[u8]) -> TenantKey {
    let bytes = raw.get(1..).unwrap_or_default();
    match of {
        TenantType::Integer => TenantKey::integer(i64::from_ne_bytes(bytes.try_into().unwrap_or_default())),
        TenantType::Uuid => TenantKey::uuid(bytes.try_into().unwrap_or(&[0; 16])),
        TenantType::Text => TenantKey::text(&String::from_utf8_lossy(bytes)),
        TenantType::Citext => fold(&String::from_utf8_lossy(bytes)),
        TenantType::Bytea => TenantKey::bytea(bytes),
    }
}

/// Citext's way to lower case: by the database's default collation.
pub fn fold(text: &str) -> TenantKey {
    // SAFETY: str_tolower takes a length, and gives a palloc'd C string or raises an error, which the boundary turns into
    // a panic that unwinds over this frame.
    let lower = unsafe {
        compat::guarded(|| compat::str_tolower(text.as_ptr().cast(), text.len(), pg_sys::DEFAULT_COLLATION_OID))
    };
    // SAFETY: a C string.
    TenantKey::text(&unsafe { session::text(lower) })
}

/// Now, in microseconds since 2000, as timestamptz counts.
pub fn now() -> i64 {
    // SAFETY: has no precondition.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether a function is [`holdfast_guard_row`], by what it calls and not by its name.
pub fn is_guard_function(function: pg_sys::Oid) -> bool {
    thread_local! {
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
