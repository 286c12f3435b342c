//! The worker looks after waves: what `holdfast.watch_waves()` does, when the schedule or an event says so.

use std::cell::Cell;
use std::ffi::CStr;
use std::time::Instant;

use pgrx::{Spi, pg_sys};

use super::schedule::Look;
use super::{drain, ledger};

/// What differs from the worker's other statements: it stores nothing while it waits for a lock, and counts what may be much.
const SETTINGS: [(&CStr, &CStr); 3] =
    [(c"lock_timeout", c"100ms"), (c"enable_seqscan", c"on"), (c"enable_hashjoin", c"on")];

/// A look takes at most a tenth of the worker's time.
const SHARE: i64 = 10;

/// When a look is tried again that failed, in microseconds.
const AGAIN: i64 = 5_000_000;

thread_local! {
    static FIRST: Cell<bool> = const { Cell::new(true) };
}

/// Looks if it is time; whether there is more to do at once.
pub(super) fn step(database: pg_sys::Oid) -> bool {
    // The launcher has put the time off when it started this worker.
    let Some(look) = Look::begin(database, FIRST.replace(false)) else { return false };
    let began = Instant::now();
    let work = || {
        settle_settings();
        if ledger::exists() { watch_waves() } else { None }
    };
    match drain::transaction(work, |_| {}) {
        Ok(Some(0)) => {
            look.end(Some(0));
            true
        }
        Ok(next) => {
            let took = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX / SHARE);
            look.end(next.map(|next| next.max(took.saturating_mul(SHARE))));
            false
        }
        Err(failure) => {
            pgrx::log!("holdfast: waves could not be looked after: {}", failure.message);
            look.end(Some(AGAIN));
            false
        }
    }
}

fn watch_waves() -> Option<i64> {
    match Spi::get_one("SELECT holdfast.watch_waves()") {
        Ok(next) => next,
        Err(failure) => pgrx::error!("{failure}"),
    }
}

/// For the transaction that is open: it has others wait for it briefly only, and joins more than a few rows.
fn settle_settings() {
    for (name, value) in SETTINGS {
        // SAFETY: a setting that any user may set, to a value that it can have; the strings are constants.
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
}
