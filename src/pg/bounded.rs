//! How long a transaction may go on that holds a tenant's writers.
//!
//! Postgres's own timeouts do it, lowered until the transaction ends: `statement_timeout` and
//! `idle_in_transaction_session_timeout`. What somebody set lower stays. The statement that is running has had its timer
//! started before, so that is moved as well, and moved back when the transaction ends: a CALL that commits goes on.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys;

use super::process::process_local;
use super::{compat, trigger};

/// The running statement's timer as it was moved.
#[derive(Clone, Copy)]
struct Moved {
    /// When it ends now.
    to: pg_sys::TimestampTz,
    /// When it would have ended; none = it wasn't running.
    from: Option<pg_sys::TimestampTz>,
}

process_local! {
    static MOVED: Cell<Option<Moved>> = const { Cell::new(None) };
}

/// How many milliseconds are left until a time, in microseconds since 2000; at least 1, since 0 would be no limit.
pub fn milliseconds_until(until: i64) -> c_int {
    let left = until.saturating_sub(trigger::now()) / 1_000;
    c_int::try_from(left).unwrap_or(c_int::MAX).max(1)
}

/// What a transaction is given to come to its end if nothing else is left, in microseconds.
const LEAST: i64 = 50_000;

/// Has the rest of this statement end by `until`, in microseconds since 2000, and no later statement or pause of this transaction take
/// longer than what is left now.
pub fn bind_transaction(until: i64) {
    let until = until.max(trigger::now() + LEAST);
    let left = milliseconds_until(until);
    // SAFETY: plain reads of settings.
    let (statement, idle) = unsafe { (pg_sys::StatementTimeout, pg_sys::IdleInTransactionSessionTimeout) };
    for (name, now) in [(c"statement_timeout", statement), (c"idle_in_transaction_session_timeout", idle)] {
        if now == 0 || now > left {
            set_local(name, left);
        }
    }
    // SAFETY: the server's timer of this very process, which raises no error.
    unsafe {
        let running = compat::get_timeout_active(compat::STATEMENT_TIMEOUT);
        let from = running.then(|| compat::get_timeout_finish_time(compat::STATEMENT_TIMEOUT));
        if from.is_none_or(|from| from > until) {
            compat::enable_timeout_at(compat::STATEMENT_TIMEOUT, until);
            MOVED.set(Some(Moved { to: until, from }));
        }
    }
}

/// For `handover`, when the transaction ends or takes its handover back: the running statement has its own time again. Settings come
/// back by themselves.
pub(super) fn release() {
    let Some(Moved { to, from }) = MOVED.take() else { return };
    // SAFETY: as above; called at a transaction's end, where no error may be raised, and none is. A timer that isn't as it was moved is a
    // later statement's.
    unsafe {
        let running = compat::get_timeout_active(compat::STATEMENT_TIMEOUT);
        if !running || compat::get_timeout_finish_time(compat::STATEMENT_TIMEOUT) != to {
            return;
        }
        match from {
            Some(from) => compat::enable_timeout_at(compat::STATEMENT_TIMEOUT, from),
            None => compat::disable_timeout(compat::STATEMENT_TIMEOUT, false),
        }
    }
}

fn set_local(name: &CStr, milliseconds: c_int) {
    let value = CString::new(milliseconds.to_string()).unwrap_or_default();
    // SAFETY: a setting that any user may set, to a value within its range; as SET LOCAL does.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}
