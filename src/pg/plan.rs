//! What a plan tree says about a statement. Read before the first row moves, and never changed.

use pgrx::pg_sys;

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

/// The UPDATEs and DELETEs of a statement, modifying CTEs included, that no condition limits.
///
/// # Safety
/// `statement` is a valid plan.
pub unsafe fn unfiltered_writes(statement: *const pg_sys::PlannedStmt) -> Vec<UnfilteredWrite> {
    // SAFETY: the caller vouches for the plan. A ModifyTable is at the top of the plan or of a subplan, nowhere else.
    unsafe {
        let subplans = (*statement).subplans;
        let ctes = (0..compat::list_length(subplans)).map(|n| compat::list_nth(subplans, n).cast::<pg_sys::Plan>());
        std::iter::once((*statement).planTree).chain(ctes).filter_map(|top| unfiltered_write(statement, top)).collect()
    }
}

unsafe fn unfiltered_write(statement: *const pg_sys::PlannedStmt, top: *mut pg_sys::Plan) -> Option<UnfilteredWrite> {
    // SAFETY: a node is cast to the type that its tag names.
    unsafe {
        if top.is_null() || (*top).type_ != pg_sys::NodeTag::T_ModifyTable {
            return None;
        }
        let modify = &*top.cast::<pg_sys::ModifyTable>();
        let command = match modify.operation {
            pg_sys::CmdType::CMD_UPDATE => "UPDATE",
            pg_sys::CmdType::CMD_DELETE => "DELETE",
            _ => return None,
        };
        let targets = modify.resultRelations;
        let is_target =
            |index: pg_sys::Index| (0..compat::list_length(targets)).any(|n| list_nth_int(targets, n) == index as i32);
        if !reads_every_row((*top).lefttree, &is_target) {
            return None;
        }
        let index = match modify.rootRelation {
            0 if compat::list_length(targets) > 0 => list_nth_int(targets, 0),
            root => root as i32,
        };
        let entry = compat::list_nth((*statement).rtable, index - 1).cast::<pg_sys::RangeTblEntry>();
        Some(UnfilteredWrite { command, relation: (*entry).relid })
    }
}

/// Whether a plan gives every row of the target. What isn't known to do so is taken to limit them: a false alarm would
/// stop a statement that is right.
unsafe fn reads_every_row(plan: *mut pg_sys::Plan, is_target: &dyn Fn(pg_sys::Index) -> bool) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: a node is cast to the type that its tag names; children are null or plans.
    unsafe {
        let Some(node) = plan.as_ref() else { return false };
        if !node.qual.is_null() {
            return false;
        }
        let below = |child| reads_every_row(child, is_target);
        match node.type_ {
            T_SeqScan => is_target(scan_index(plan)),
            T_IndexScan => {
                let scan = &*plan.cast::<pg_sys::IndexScan>();
                is_target(scan_index(plan)) && scan.indexqual.is_null() && !is_partial(scan.indexid)
            }
            T_IndexOnlyScan => {
                let scan = &*plan.cast::<pg_sys::IndexOnlyScan>();
                is_target(scan_index(plan)) && scan.indexqual.is_null() && !is_partial(scan.indexid)
            }
            T_Append => all((*plan.cast::<pg_sys::Append>()).appendplans, below),
            T_MergeAppend => all((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, below),
            T_SubqueryScan => below((*plan.cast::<pg_sys::SubqueryScan>()).subplan),
            // A condition in a Result is about the statement, not about rows: all of them or none.
            T_Result | T_Sort | T_Material | T_LockRows | T_Memoize => below(node.lefttree),
            T_NestLoop => {
                let join = &*plan.cast::<pg_sys::NestLoop>();
                let linked = !join.join.joinqual.is_null() || !join.nestParams.is_null();
                let inner = join.join.jointype == pg_sys::JoinType::JOIN_INNER;
                inner && !linked && (below(node.lefttree) || below(node.righttree))
            }
            _ => false,
        }
    }
}

unsafe fn all(plans: *mut pg_sys::List, mut each: impl FnMut(*mut pg_sys::Plan) -> bool) -> bool {
    // SAFETY: a list of plans.
    let length = unsafe { compat::list_length(plans) };
    // SAFETY: n is within the list.
    length > 0 && (0..length).all(|n| each(unsafe { compat::list_nth(plans, n) }.cast()))
}

unsafe fn scan_index(plan: *mut pg_sys::Plan) -> pg_sys::Index {
    // SAFETY: every scan node begins with a Scan.
    unsafe { (*plan.cast::<pg_sys::Scan>()).scanrelid }
}

unsafe fn list_nth_int(list: *mut pg_sys::List, n: i32) -> i32 {
    // SAFETY: the callers give a list of integers and stay within it.
    unsafe { (*(*list).elements.offset(n as isize)).int_value }
}

/// Whether an index has a predicate, which its scan applies without showing it as a condition.
fn is_partial(index: pg_sys::Oid) -> bool {
    // SAFETY: the plan's index is locked, so its relcache entry can be had; it is released at once.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(index);
        if entry.is_null() {
            return false;
        }
        let partial = !pg_sys::RelationGetIndexPredicate(entry).is_null();
        pg_sys::RelationClose(entry);
        partial
    }
}
