//! Tables that are dropped. The policy knows tables by number, and another may get theirs, so it forgets them in the transaction
//! that drops them.

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use super::report;
use super::session::{self, Session};
use super::types::Regclass;

/// Whether the policy says something about a table.
pub fn concerns(session: &Session, table: pg_sys::Oid) -> bool {
    let number = table.to_u32();
    session.policy.classified.contains_key(&number) || !session.policy.set.permissions_on(number).is_empty()
}

/// Forgets a table, if it is gone. Whoever dropped it needs no privilege for that.
pub fn forget(table: pg_sys::Oid) {
    // SAFETY: a catalog look-up; a missing relation has no kind. The command that was to drop it may have failed.
    if unsafe { pg_sys::get_rel_relkind(table) } != 0 {
        return;
    }
    for sql in [
        "DELETE FROM holdfast.classified_table WHERE relation = $1",
        "DELETE FROM holdfast.write_permission WHERE relation = $1",
    ] {
        if let Err(failure) = session::operate(|| Spi::run_with_args(sql, &[Regclass(table).into()])) {
            report::error(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("holdfast: {failure}"), "", "");
        }
    }
}
