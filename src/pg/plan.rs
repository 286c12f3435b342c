//! What a plan tree says about a statement: the UPDATEs and DELETEs that no condition limits. Read before the first row
//! moves, and never changed.
//!
//! | module | tells |
//! |---|---|
//! | [`whole`] | which tables a plan reads whole |
//! | [`conditions`] | which conditions limit the rows of a table |

mod conditions;
mod whole;

use std::ptr;

use pgrx::pg_sys;
use pgrx::pg_sys::CmdType::{CMD_DELETE, CMD_INSERT, CMD_MERGE, CMD_NOTHING, CMD_UPDATE};

use self::conditions::Conditions;
use self::whole::{Kin, Reader};
use super::compat;

/// The table that a statement writes, or the first of them; InvalidOid for one that writes none. A plain frame.
///
/// # Safety
/// The executor has been started for `query`.
pub unsafe fn target(query: *const pg_sys::QueryDesc) -> pg_sys::Oid {
    // SAFETY: the caller vouches for the query; the indexes are those of its range table, whose entries are written.
    unsafe {
        let statement = (*query).plannedstmt;
        if compat::list_length((*statement).resultRelations) == 0 {
            return pg_sys::InvalidOid;
        }
        let index = list_nth_int((*statement).resultRelations, 0);
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
        let subplans = (*statement).subplans;
        inserts
            && (is_upsert((*statement).planTree)
                || (*statement).hasModifyingCTE
                    && (0..compat::list_length(subplans)).any(|n| is_upsert(compat::list_nth(subplans, n).cast())))
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

/// An UPDATE or DELETE that reads every row of its table.
pub struct UnfilteredWrite {
    /// `UPDATE` or `DELETE`.
    pub command: &'static str,
    /// The table, a partitioned one by its root.
    pub relation: pg_sys::Oid,
}

/// A column of a table of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    /// The table's number in the range table.
    index: pg_sys::Index,
    /// The table.
    relation: pg_sys::Oid,
    /// The column's number.
    attnum: pg_sys::AttrNumber,
}

/// Whether a statement may have an UPDATE or DELETE in it: a few loads, for statements that have none.
///
/// # Safety
/// `query` is valid and has a plan.
pub unsafe fn may_be_unfiltered(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: as above; a node is cast to the type that its tag names.
    unsafe {
        let statement = &*(*query).plannedstmt;
        match (*query).operation {
            CMD_UPDATE | CMD_DELETE | CMD_MERGE => true,
            CMD_INSERT if (*statement.planTree).type_ == pg_sys::NodeTag::T_ModifyTable => {
                updates_on_conflict(&*statement.planTree.cast()) || statement.hasModifyingCTE
            }
            _ => statement.hasModifyingCTE,
        }
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
        let targets = integers(modify.resultRelations);
        let root = if modify.rootRelation == 0 { *targets.first()? } else { modify.rootRelation };
        let reader = Reader { statement, params, targets };
        let relation = reader.relation(root)?;
        let command = match modify.operation {
            CMD_UPDATE => "UPDATE",
            CMD_DELETE => "DELETE",
            CMD_MERGE => unconditional_action(&reader, modify)?,
            CMD_INSERT if updates_on_conflict(modify) => {
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

fn updates_on_conflict(modify: &pg_sys::ModifyTable) -> bool {
    modify.onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE
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

unsafe fn integers(list: *mut pg_sys::List) -> Kin {
    // SAFETY: the callers give a list of numbers in the range table, which n stays within.
    let number = |n: i32| unsafe { (*(*list).elements.offset(n as isize)).int_value };
    // SAFETY: as above.
    let length = unsafe { compat::list_length(list) };
    (0..length).filter_map(|n| pg_sys::Index::try_from(number(n)).ok()).collect()
}
