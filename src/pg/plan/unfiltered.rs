//! The UPDATEs and DELETEs of a statement that no condition limits.

use std::ptr;

use pgrx::pg_sys;
use pgrx::pg_sys::CmdType::{CMD_DELETE, CMD_INSERT, CMD_MERGE, CMD_NOTHING, CMD_UPDATE};

use super::conditions::Conditions;
use super::whole::{Kin, Reader};
use crate::pg::{compat, plan};

/// An UPDATE or DELETE that reads every row of its table.
pub struct UnfilteredWrite {
    /// `UPDATE` or `DELETE`.
    pub command: &'static str,
    /// The table, a partitioned one by its root.
    pub relation: pg_sys::Oid,
}

/// Whether a statement may have an UPDATE or DELETE in it: a few loads, for statements that have none.
///
/// # Safety
/// `query` is valid and has a plan.
pub unsafe fn may_be_unfiltered(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: as above.
    unsafe {
        matches!((*query).operation, CMD_UPDATE | CMD_DELETE | CMD_MERGE)
            || (*(*query).plannedstmt).hasModifyingCTE
            || plan::upserts(query)
    }
}

/// The UPDATEs and DELETEs of a statement, modifying CTEs included, that no condition limits. `params` are those of a
/// generic plan, or null.
///
/// # Safety
/// `statement` is a valid plan, and `params` belong to it.
pub unsafe fn unfiltered_writes(
    statement: *const pg_sys::PlannedStmt,
    params: pg_sys::ParamListInfo,
) -> Vec<UnfilteredWrite> {
    // SAFETY: the caller vouches for the plan. A ModifyTable is at the top of the plan or of a subplan, nowhere else.
    unsafe {
        let ctes = compat::items::<pg_sys::Plan>((*statement).subplans);
        std::iter::once((*statement).planTree)
            .chain(ctes)
            .filter(|top| !top.is_null() && (**top).type_ == pg_sys::NodeTag::T_ModifyTable)
            .filter_map(|top| unfiltered_write(statement, params, &*top.cast()))
            .collect()
    }
}

unsafe fn unfiltered_write(
    statement: *const pg_sys::PlannedStmt,
    params: pg_sys::ParamListInfo,
    modify: &pg_sys::ModifyTable,
) -> Option<UnfilteredWrite> {
    // SAFETY: the plan is the statement's.
    unsafe {
        let targets: Kin = compat::integers(modify.resultRelations).filter_map(|n| n.try_into().ok()).collect();
        let root = if modify.rootRelation == 0 { *targets.first()? } else { modify.rootRelation };
        let reader = Reader { statement, params, targets };
        let relation = reader.relation(root)?;
        let command = match modify.operation {
            CMD_UPDATE => "UPDATE",
            CMD_DELETE => "DELETE",
            CMD_MERGE => unconditional_action(&reader, modify)?,
            CMD_INSERT if modify.onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE => {
                return conflicts_with_every_row(&reader, modify, relation)
                    .then_some(UnfilteredWrite { command: "UPDATE", relation });
            }
            _ => return None,
        };
        let every_row = |kin: &Kin| reader.targets.iter().all(|target| kin.contains(target));
        let whole = reader.whole(modify.plan.lefttree);
        whole.iter().any(every_row).then_some(UnfilteredWrite { command, relation })
    }
}

/// What a MERGE does to rows that match: its first action that asks for nothing more. If what comes before it leaves rows
/// alone it is limited all the same.
unsafe fn unconditional_action(reader: &Reader, modify: &pg_sys::ModifyTable) -> Option<&'static str> {
    // SAFETY: a MERGE has a list of actions for each table; they differ in column numbers only.
    unsafe {
        let target = reader.target()?;
        let actions = compat::items::<pg_sys::List>(modify.mergeActionLists).next()?;
        for action in compat::items::<pg_sys::MergeAction>(actions).filter(|action| is_for_matches(&**action)) {
            let conditional = target.limit((*action).qual.cast());
            match (*action).commandType {
                CMD_UPDATE if !conditional => return Some("UPDATE"),
                CMD_DELETE if !conditional => return Some("DELETE"),
                CMD_NOTHING => return None,
                _ => {}
            }
        }
        None
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn is_for_matches(action: &pg_sys::MergeAction) -> bool {
    action.matched
}

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
fn is_for_matches(action: &pg_sys::MergeAction) -> bool {
    action.matchKind == pg_sys::MergeMatchKind::MERGE_WHEN_MATCHED
}

impl Reader {
    /// For conditions of the write itself, which are about the row that is there.
    fn target(&self) -> Option<Conditions<'_>> {
        let index = *self.targets.first()?;
        let relation = self.relation(index)?;
        Some(Conditions { relation, index, index_columns: ptr::null_mut(), params: self.params, handed: &[] })
    }
}

/// Whether an INSERT ... ON CONFLICT DO UPDATE inserts the keys of all rows that are there: each conflicts with itself.
unsafe fn conflicts_with_every_row(reader: &Reader, modify: &pg_sys::ModifyTable, relation: pg_sys::Oid) -> bool {
    // SAFETY: the plan is the reader's; its target list has an entry for each column of the table, in their order.
    unsafe {
        if reader.target().is_none_or(|target| target.limit(modify.onConflictWhere.cast())) {
            return false;
        }
        let plan = modify.plan.lefttree;
        let list = (*plan).targetlist;
        let comes_from = |attnum: i16| {
            let place = i32::from(attnum) - 1;
            let entry = (0..compat::list_length(list)).contains(&place).then(|| compat::list_nth(list, place))?;
            let column = reader.origin(plan, (*entry.cast::<pg_sys::TargetEntry>()).expr.cast())?;
            (column.relation == relation && column.attnum == attnum).then_some(column.index)
        };
        let whole = reader.whole(plan);
        (0..compat::list_length(modify.arbiterIndexes)).any(|n| {
            let columns = key_columns(compat::list_nth_oid(modify.arbiterIndexes, n));
            let origins: Option<Vec<_>> = columns.into_iter().map(comes_from).collect();
            origins.is_some_and(|origins| {
                !origins.is_empty() && whole.iter().any(|kin| origins.iter().all(|index| kin.contains(index)))
            })
        })
    }
}

/// The columns of a unique index's key, 0 for an expression; none if it has a predicate.
fn key_columns(index: pg_sys::Oid) -> Vec<i16> {
    // SAFETY: the plan's index is locked, so its relcache entry can be had; it is read before it is released.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(index);
        if entry.is_null() {
            return Vec::new();
        }
        let form = &*(*entry).rd_index;
        let count = usize::try_from(form.indnkeyatts).unwrap_or(0);
        let mut columns = form.indkey.values.as_slice(count).to_vec();
        if !pg_sys::RelationGetIndexPredicate(entry).is_null() {
            columns.clear();
        }
        pg_sys::RelationClose(entry);
        columns
    }
}
