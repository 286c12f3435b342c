//! Raises a refusal with its own SQLSTATE and fields. pgrx's SQLSTATE enum is closed and it can't set the schema, table
//! and constraint fields, hence this small binding of errstart … errfinish.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::compat;
use crate::policy::rules::Refusal;

/// A refusal as C strings in the current memory context, ready to be raised from a plain frame.
#[derive(Clone, Copy)]
pub struct Report {
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
    schema: *const c_char,
    table: *const c_char,
    constraint: *const c_char,
}

impl Report {
    /// Copies a refusal into the current memory context, where error recovery frees it.
    pub fn new(refusal: &Refusal) -> *const Report {
        let table = refusal.attempt.table.as_ref();
        let report = Report {
            sqlstate: encode_sqlstate(refusal.rule.sqlstate()),
            message: copy(&refusal.message),
            detail: copy(&refusal.detail),
            hint: copy(&refusal.hint),
            schema: table.map_or(ptr::null(), |t| copy(&t.schema)),
            table: table.map_or(ptr::null(), |t| copy(&t.name)),
            constraint: copy(refusal.rule.name()),
        };
        // SAFETY: palloc returns memory of the size asked for, aligned for any type, or raises an error.
        unsafe {
            let place = pg_sys::palloc(size_of::<Report>()).cast::<Report>();
            place.write(report);
            place
        }
    }
}

/// Raises the report as an ERROR, if there is one.
///
/// # Safety
/// Only from a plain frame (see `compat`): the error is a longjmp over the caller. `report` is null or comes from
/// [`Report::new`] in a context that still lives.
pub unsafe fn raise(report: *const Report) {
    // SAFETY: the caller vouches for the pointer.
    let Some(r) = (unsafe { report.as_ref() }) else { return };
    // SAFETY: this is Postgres's own ereport(ERROR, ...) spelled out. Texts go through "%s", so that they are data;
    // errhint's format is translated, which leaves "%s" as it is. errfinish doesn't return.
    unsafe {
        let verbatim = c"%s".as_ptr();
        compat::errstart(PgLogLevel::ERROR as c_int, ptr::null());
        compat::errcode(r.sqlstate);
        compat::errmsg_internal(verbatim, r.message);
        compat::errdetail_internal(verbatim, r.detail);
        compat::errhint(verbatim, r.hint);
        for (field, value) in [
            (pg_sys::PG_DIAG_SCHEMA_NAME, r.schema),
            (pg_sys::PG_DIAG_TABLE_NAME, r.table),
            (pg_sys::PG_DIAG_CONSTRAINT_NAME, r.constraint),
        ] {
            if !value.is_null() {
                compat::err_generic_string(field as c_int, value);
            }
        }
        compat::errfinish(c"report.rs".as_ptr(), line!() as c_int, c"refuse".as_ptr());
    }
}

/// Writes a line to the server's log, which no client sees, and which doesn't tell the statement that happens to run.
pub fn log(message: &str, hint: &str) {
    let (message, hint) = (copy(message), copy(hint));
    // SAFETY: this is Postgres's own ereport(LOG_SERVER_ONLY, ...) spelled out; as in `raise`, but that errfinish returns.
    unsafe {
        compat::guarded(|| {
            let verbatim = c"%s".as_ptr();
            if compat::errstart(PgLogLevel::LOG_SERVER_ONLY as c_int, ptr::null()) {
                compat::errmsg_internal(verbatim, message);
                compat::errhint(verbatim, hint);
                compat::errhidestmt(true);
                compat::errfinish(c"report.rs".as_ptr(), line!() as c_int, c"log".as_ptr());
            }
        });
    }
}

/// `MAKE_SQLSTATE` of utils/elog.h.
fn encode_sqlstate(code: &str) -> c_int {
    code.bytes().enumerate().fold(0, |sum, (n, byte)| {
        let sixbit = c_int::from(byte.wrapping_sub(b'0') & 0x3F);
        sum + (sixbit << (6 * n))
    })
}

fn copy(text: &str) -> *const c_char {
    // A text without NUL is never refused by CString.
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: pstrdup copies a C string into the current memory context, or raises an error.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// Raises the error of a trigger function that isn't called as the trigger it is.
pub fn not_a_trigger(function: &str) -> ! {
    error(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        format!("function \"{function}\" was not called as the trigger that it is made for"),
        "",
        "Create its trigger with SELECT holdfast.guard_table(...).",
    )
}

/// Raises an error that is no refusal: bad input, a state that doesn't allow what was asked.
pub fn error(
    code: PgSqlErrorCode,
    message: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> ! {
    let (detail, hint) = (detail.into(), hint.into());
    let mut report = ErrorReport::new(code, message, "holdfast");
    if !detail.is_empty() {
        report = report.set_detail(detail);
    }
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR doesn't return")
}

/// Tells the client something about what it asked for, which succeeds.
pub fn notice(message: impl Into<String>, detail: impl Into<String>, hint: &str) {
    tell(PgLogLevel::NOTICE, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message.into(), detail.into(), hint);
}

/// Tells the client what came out otherwise than it asked for.
pub fn warning(message: impl Into<String>, detail: impl Into<String>, hint: &str) {
    tell(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, message.into(), detail.into(), hint);
}

fn tell(level: PgLogLevel, code: PgSqlErrorCode, message: String, detail: String, hint: &str) {
    let mut report = ErrorReport::new(code, message, "holdfast");
    if !detail.is_empty() {
        report = report.set_detail(detail);
    }
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(level);
}

/// An SQLSTATE as its five characters.
pub fn decode_sqlstate(mut code: c_int) -> String {
    let mut sqlstate = String::with_capacity(5);
    for _ in 0..5 {
        sqlstate.push(char::from((code & 0x3F) as u8 + b'0'));
        code >>= 6;
    }
    sqlstate
}
