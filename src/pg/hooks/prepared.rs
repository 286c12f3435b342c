//! COMMIT PREPARED and ROLLBACK PREPARED of somebody else's transaction.

use std::ffi::c_char;

use pgrx::{Spi, pg_sys};

use crate::pg::session;

/// Whether a prepared transaction is another role's than the one that this session logged in with: a superuser may end
/// those, and so may who has SET ROLE to theirs. One that is missing is left to Postgres's own error.
///
/// # Safety
/// `gid` is null or a C string.
pub(super) unsafe fn by_another(gid: *const c_char) -> bool {
    // SAFETY: the caller vouches for it.
    let gid = unsafe { session::text(gid) };
    let sql = "SELECT owner::pg_catalog.text FROM pg_catalog.pg_prepared_xacts
        WHERE gid OPERATOR(pg_catalog.=) $1 AND database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    let owner = session::operate(|| Spi::get_one_with_args::<String>(sql, &[gid.into()]));
    // SAFETY: has no precondition.
    let login = session::role_name(unsafe { pg_sys::GetSessionUserId() });
    matches!(owner, Ok(Some(owner)) if Some(&owner) != login.as_ref())
}
