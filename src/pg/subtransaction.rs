//! Work that may fail without failing the transaction.

use std::panic::UnwindSafe;

use pgrx::{PgTryBuilder, pg_sys};

/// Runs `work` in a subtransaction, which commits if it returns `Ok` and rolls back, releasing its locks, if it returns
/// `Err` or raises an error.
pub fn in_subtransaction<T, E>(work: impl FnOnce() -> Result<T, E> + UnwindSafe) -> Result<T, E> {
    // SAFETY: what plpgsql does around an EXCEPTION block (pl_exec.c, exec_stmt_block): memory context and resource owner
    // are the caller's again in every case.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let back = move || {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let result = PgTryBuilder::new(work)
            .catch_others(move |error| {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                back();
                error.rethrow()
            })
            .execute();
        match result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        back();
        result
    }
}
