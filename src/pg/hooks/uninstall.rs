//! DROP EXTENSION leaves the schema that CREATE EXTENSION made: Postgres makes it no member of the extension, which lies in it.
//! So it goes when the command has ended, by whatever way that took the extension, if it is ours and nothing of others is in it.

use std::cell::Cell;

use pgrx::{Spi, pg_guard, pg_sys};

use crate::pg::process::process_local;
use crate::pg::report::Report;
use crate::pg::session;

/// The schema that CREATE EXTENSION made has this comment, one that was there before has not; see
/// sql/comments_and_grants.sql.
const COMMENT: &str = "Guards this database while tenants move from a legacy to a rebuilt backend";

process_local! {
    /// The schema of the extension that the command under way drops.
    static LEFT: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// An extension is about to be dropped.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn extension_goes(extension: pg_sys::Oid) -> *const Report {
    // SAFETY: the extension's row is still there, its parts are gone by now; null, or a C string.
    let is_ours = unsafe { session::text(pg_sys::get_extension_name(extension)) } == "holdfast";
    if is_ours {
        // SAFETY: a look-up that gives InvalidOid where there is no such schema.
        let by_name = || unsafe { pg_sys::get_namespace_oid(c"holdfast".as_ptr(), true) };
        LEFT.set(session::watched().map_or_else(by_name, |catalog| catalog.schema));
    }
    std::ptr::null()
}

/// Whether a command that has ended may have left the schema.
pub(super) fn may_be_left() -> bool {
    LEFT.get() != pg_sys::InvalidOid
}

/// Drops what is left.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn clear_away() -> *const Report {
    let schema = LEFT.replace(pg_sys::InvalidOid);
    // SAFETY: between two commands of a transaction; makes what the last one did visible to look-ups.
    unsafe {
        if !pg_sys::IsTransactionState() {
            return std::ptr::null();
        }
        pg_sys::CommandCounterIncrement();
    }
    // A command that failed left the extension where it was.
    let name = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
        WHERE n.oid = $1 AND pg_catalog.obj_description(n.oid, 'pg_namespace') = $2
          AND pg_catalog.pg_has_role(n.nspowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
              WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = n.oid)";
    let name = session::operate(|| Spi::get_one_with_args::<String>(name, &[schema.into(), COMMENT.into()]));
    if let Ok(Some(name)) = name
        && let Err(failure) = session::operate(|| Spi::run(&format!("DROP SCHEMA {name}")))
    {
        pgrx::warning!("holdfast: schema {name} could not be dropped: {failure}");
    }
    std::ptr::null()
}
