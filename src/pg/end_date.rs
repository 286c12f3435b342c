//! Reminds of the migration's end: a line in the server's log, once a day for each database. The launcher knows no database, so it
//! is a session that says it, one that has read the policy. No client hears of it, and no statement fails.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::process::process_local;
use super::session::{self, Policy};
use super::shared::Region;
use super::{compat, report};
use crate::policy::end_date;

/// For how many databases the day of the last reminder is kept. More of them are reminded more than once a day.
const DATABASES: usize = 256;

/// How long a process doesn't look again, in microseconds.
const PAUSE: i64 = 3_600_000_000;

/// A database's oid and the day of its last reminder; 0 = unused.
type Reminded = [AtomicU64; DATABASES];

process_local! {
    static SHARED: Cell<*const Reminded> = const { Cell::new(ptr::null()) };
}

/// Zero is a valid value of all of it.
pub static REGION: Region = Region {
    name: c"holdfast reminders",
    size: || size_of::<Reminded>(),
    locks: 0,
    lay_out: None,
    attach: |memory| SHARED.set(memory.cast()),
};

/// Whether it is time to look whether it is time for a reminder. A plain frame.
pub fn is_due(policy: &Policy) -> bool {
    now() >= policy.next_look.get()
}

fn now() -> i64 {
    // SAFETY: has no precondition, and raises no error.
    unsafe { compat::GetCurrentStatementStartTimestamp() }
}

/// Writes the reminder if it is time for one. Costs a comparison on most calls.
pub fn look(policy: &Policy) {
    if !is_due(policy) {
        return;
    }
    policy.next_look.set(now().saturating_add(PAUSE));
    let today = today();
    // SAFETY: a plain read of the process's database.
    let database = unsafe { pg_sys::MyDatabaseId };
    let Some(reminder) = end_date::reminder(policy.set.ends_on, today) else { return };
    // SAFETY: null, or shared memory that lasts as long as the process.
    if !unsafe { SHARED.get().as_ref() }.is_some_and(|shared| is_first_today(shared, database, today)) {
        return;
    }
    // SAFETY: a catalog look-up inside a transaction.
    let name = unsafe { session::text(pg_sys::get_database_name(database)) };
    report::log(&format!("holdfast: {reminder} (database \"{name}\")"), "See SELECT * FROM holdfast.status;");
}

/// The transaction's date, in days since 2000.
pub fn today() -> i32 {
    // SAFETY: callers are inside a transaction, whose date it is.
    unsafe { pg_sys::GetSQLCurrentDate() }
}

/// Whether nobody has reminded a database today; from now on somebody has.
fn is_first_today(reminded: &Reminded, database: pg_sys::Oid, today: i32) -> bool {
    let database = u64::from(database.to_u32());
    let new = database << 32 | u64::from(today as u32);
    for place in reminded {
        let old = place.load(Ordering::Relaxed);
        // Sessions in several time zones don't agree on the day.
        if old >> 32 == database && old as u32 as i32 >= today {
            return false;
        }
        if old == 0 || old >> 32 == database {
            match place.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) if now >> 32 == database => return false,
                Err(_) => {}
            }
        }
    }
    reminded[database as usize % DATABASES].store(new, Ordering::Relaxed);
    true
}
