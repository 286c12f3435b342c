//! What a plan tree says about a statement. Read before the first row moves, and never changed.
//!
//! | module | tells |
//! |---|---|
//! | [`unfiltered`] | the UPDATEs and DELETEs that no condition limits |
//! | [`whole`] | which tables a plan reads whole |
//! | [`conditions`] | which conditions limit the rows of a table |

mod conditions;
mod unfiltered;
mod whole;

use pgrx::pg_sys;

pub use unfiltered::{UnfilteredWrite, may_be_unfiltered, unfiltered_writes};

use super::compat;

/// The table that a statement writes, or the first of them; InvalidOid for one that writes none. A plain frame.
///
/// # Safety
/// The executor has been started for `query`.
pub unsafe fn target(query: *const pg_sys::QueryDesc) -> pg_sys::Oid {
    // SAFETY: the caller vouches for the query; the indexes are those of its range table, whose entries are written.
    unsafe {
        let statement = (*query).plannedstmt;
        let Some(index) = compat::integers((*statement).resultRelations).next() else { return pg_sys::InvalidOid };
        (*compat::list_nth((*statement).rtable, index - 1).cast::<pg_sys::RangeTblEntry>()).relid
    }
}

/// Whether a statement has an INSERT ... ON CONFLICT DO UPDATE. A plain frame.
///
/// # Safety
/// The executor has been started for `query`.
pub unsafe fn upserts(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: as in unfiltered_writes().
    unsafe {
        let statement = (*query).plannedstmt;
        let inserts = (*query).operation == pg_sys::CmdType::CMD_INSERT || (*statement).hasModifyingCTE;
        inserts
            && (is_upsert((*statement).planTree)
                || (*statement).hasModifyingCTE
                    && compat::items::<pg_sys::Plan>((*statement).subplans).any(|top| is_upsert(top)))
    }
}

unsafe fn is_upsert(top: *const pg_sys::Plan) -> bool {
    // SAFETY: a node is cast to the type that its tag names.
    unsafe {
        !top.is_null()
            && (*top).type_ == pg_sys::NodeTag::T_ModifyTable
            && (*top.cast::<pg_sys::ModifyTable>()).onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE
    }
}
