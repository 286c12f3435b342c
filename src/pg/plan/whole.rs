//! Which tables a plan reads whole: all of their rows come out of it, or none.

use std::collections::BTreeSet;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag::*;

use super::conditions::{Conditions, Handed, is_equality, is_not_null};
use crate::pg::compat;

/// Tables that are read whole and hang together, by their numbers in the range table: the parts of one table, and copies of
/// it that are joined row to row.
pub type Kin = Vec<pg_sys::Index>;

/// A column of a table of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The table's number in the range table.
    pub index: pg_sys::Index,
    /// The table.
    pub relation: pg_sys::Oid,
    /// The column's number.
    pub attnum: pg_sys::AttrNumber,
}

/// A statement's plan.
pub struct Reader {
    /// The statement.
    pub statement: *const pg_sys::PlannedStmt,
    /// Its parameters, null if there are none.
    pub params: pg_sys::ParamListInfo,
    /// The numbers of the tables it writes.
    pub targets: Kin,
}

impl Reader {
    /// The tables that a plan reads whole. What isn't known to do so is taken to limit its rows.
    ///
    /// # Safety
    /// `plan` is null or a plan of the statement.
    pub unsafe fn whole(&self, plan: *mut pg_sys::Plan) -> Vec<Kin> {
        // SAFETY: as above; a node is cast to the type that its tag names. Plans can be deep.
        unsafe {
            pg_sys::check_stack_depth();
            let Some(node) = plan.as_ref() else { return Vec::new() };
            match node.type_ {
                T_SeqScan | T_IndexScan | T_IndexOnlyScan | T_BitmapHeapScan => {
                    self.scan(plan, &[]).map_or(Vec::new(), |index| vec![vec![index]])
                }
                T_Append => self.all_parts((*plan.cast::<pg_sys::Append>()).appendplans),
                T_MergeAppend => self.all_parts((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
                T_NestLoop | T_MergeJoin | T_HashJoin => self.join(plan),
                // A condition in a Result is about the statement, not about rows: all of them or none.
                T_Result | T_Sort | T_IncrementalSort | T_Material | T_Memoize | T_Hash => {
                    self.sift(plan, node.lefttree)
                }
                T_SubqueryScan => self.sift(plan, (*plan.cast::<pg_sys::SubqueryScan>()).subplan),
                T_CteScan => self.sift(plan, self.cte(plan)),
                T_LockRows if !skips_locked(plan.cast()) => self.sift(plan, node.lefttree),
                T_Group if node.qual.is_null() => self.whole(node.lefttree),
                T_Agg if node.qual.is_null() && (*plan.cast::<pg_sys::Agg>()).groupingSets.is_null() => {
                    self.whole(node.lefttree)
                }
                // DISTINCT ON keeps some rows only.
                T_Unique if (*plan.cast::<pg_sys::Unique>()).numCols == compat::list_length(node.targetlist) => {
                    self.sift(plan, node.lefttree)
                }
                _ => Vec::new(),
            }
        }
    }

    /// The table that a scan reads whole.
    unsafe fn scan(&self, plan: *mut pg_sys::Plan, handed: &[Handed]) -> Option<pg_sys::Index> {
        // SAFETY: a node is cast to the type that its tag names; every scan node begins with a Scan.
        unsafe {
            let index = (*plan.cast::<pg_sys::Scan>()).scanrelid;
            let mut conditions = Conditions {
                relation: self.relation(index)?,
                index,
                index_columns: std::ptr::null_mut(),
                params: self.params,
                handed,
            };
            let limited = match (*plan).type_ {
                T_SeqScan => false,
                T_IndexScan => {
                    let scan = &*plan.cast::<pg_sys::IndexScan>();
                    conditions.limit(scan.indexqualorig) || self.leaves_rows_out(scan.indexid, conditions.relation)
                }
                T_IndexOnlyScan => {
                    let scan = &*plan.cast::<pg_sys::IndexOnlyScan>();
                    conditions.index_columns = scan.indextlist;
                    conditions.limit(scan.indexqual) || self.leaves_rows_out(scan.indexid, conditions.relation)
                }
                // With it come the predicates of the indexes that it reads.
                T_BitmapHeapScan => conditions.limit((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig),
                T_TidScan => {
                    let alternatives = (*plan.cast::<pg_sys::TidScan>()).tidquals;
                    compat::list_length(alternatives) != 1 || conditions.limit(alternatives)
                }
                _ => true,
            };
            (!limited && !conditions.limit((*plan).qual)).then_some(index)
        }
    }

    /// Whether an index has a predicate that limits rows. Its scan applies it without showing it as a condition.
    unsafe fn leaves_rows_out(&self, index: pg_sys::Oid, relation: pg_sys::Oid) -> bool {
        // SAFETY: the plan's index is locked, so its relcache entry can be had; it is released at once, and its predicate
        // is a copy.
        unsafe {
            let entry = pg_sys::RelationIdGetRelation(index);
            if entry.is_null() {
                return true;
            }
            let predicate = pg_sys::RelationGetIndexPredicate(entry);
            pg_sys::RelationClose(entry);
            let nothing = std::ptr::null_mut();
            let conditions =
                Conditions { relation, index: 1, index_columns: nothing, params: std::ptr::null_mut(), handed: &[] };
            conditions.limit(predicate)
        }
    }

    /// The tables read whole below a node that has conditions of its own, or none.
    unsafe fn sift(&self, plan: *mut pg_sys::Plan, below: *mut pg_sys::Plan) -> Vec<Kin> {
        // SAFETY: plans of the statement.
        unsafe {
            let mut kin = self.whole(below);
            match self.mentioned(plan, (*plan).qual) {
                Some(columns) => kin.retain(|kin| !columns.iter().any(|column| kin.contains(&column.index))),
                None => kin.clear(),
            }
            kin
        }
    }

    /// All parts of a partitioned table, or of a table with children.
    unsafe fn all_parts(&self, plans: *mut pg_sys::List) -> Vec<Kin> {
        let mut all = Kin::new();
        // SAFETY: a list of plans.
        for part in unsafe { compat::items(plans) } {
            // SAFETY: as above.
            let mut kin = unsafe { self.whole(part) };
            // Of parts that are joined to something, the target's count.
            let place = kin.iter().position(|kin| kin.iter().any(|index| self.targets.contains(index)));
            match place.or((kin.len() == 1).then_some(0)) {
                Some(place) => all.append(&mut kin[place]),
                None => return Vec::new(),
            }
        }
        if all.is_empty() { Vec::new() } else { vec![all] }
    }

    /// A join keeps the tables that its conditions don't mention. An equality that leads every row of a table to itself
    /// keeps it too.
    unsafe fn join(&self, plan: *mut pg_sys::Plan) -> Vec<Kin> {
        use pg_sys::JoinType::{JOIN_ANTI, JOIN_FULL, JOIN_INNER, JOIN_LEFT, JOIN_RIGHT, JOIN_SEMI};
        // SAFETY: a node is cast to the type that its tag names; every join node begins with a Join.
        unsafe {
            let join = &*plan.cast::<pg_sys::Join>();
            let (jointype, mirrored) = compat::left_join(join.jointype);
            let (left, right) = (join.plan.lefttree, join.plan.righttree);
            let (first_side, second_side) = if mirrored { (right, left) } else { (left, right) };
            let mut kin = self.whole(first_side);
            let kept = kin.len();
            let (mut links, mut cut) = (Vec::new(), Vec::new());
            let clauses = match join.plan.type_ {
                T_HashJoin => (*plan.cast::<pg_sys::HashJoin>()).hashclauses,
                T_MergeJoin => (*plan.cast::<pg_sys::MergeJoin>()).mergeclauses,
                _ => std::ptr::null_mut(),
            };
            let Some(handed) = self.handed(plan) else { return Vec::new() };
            if handed.is_empty() {
                kin.extend(self.whole(second_side));
            } else if let Some(inner) = self.linked_scan(right, &handed)
                && let Some(first) = inner.first().copied()
            {
                kin.push(inner);
                links.extend(handed.iter().map(|(_, column)| (column.index, first)));
            } else {
                cut.extend(handed.iter().map(|(_, column)| column.index));
            }
            for list in [join.joinqual, clauses, join.plan.qual] {
                for clause in compat::items(list) {
                    match self.self_equality(plan, clause) {
                        Some(link) => links.push(link),
                        None => match self.mentioned_by(plan, clause) {
                            Some(columns) => cut.extend(columns.iter().map(|column| column.index)),
                            None => return Vec::new(),
                        },
                    }
                }
            }
            match jointype {
                JOIN_INNER | JOIN_LEFT | JOIN_RIGHT | JOIN_FULL => self.joined(kin, &links, cut, usize::MAX),
                JOIN_SEMI => self.joined(kin, &links, cut, kept),
                JOIN_ANTI => {
                    cut.extend(links.iter().flat_map(|(one, other)| [*one, *other]));
                    self.joined(kin, &[], cut, kept)
                }
                _ => Vec::new(),
            }
        }
    }

    /// What is left of tables when some are linked row to row, and some cut off: the first `kept` of them.
    fn joined(&self, kin: Vec<Kin>, links: &[(u32, u32)], mut cut: Vec<u32>, kept: usize) -> Vec<Kin> {
        let mut kin: Vec<Option<Kin>> = kin.into_iter().map(Some).collect();
        // A link holds only while both of its ends are whole, and have the same parts.
        let find = |kin: &[Option<Kin>], index: u32| {
            kin.iter().position(|kin| kin.as_ref().is_some_and(|kin| kin.contains(&index)))
        };
        loop {
            for place in 0..kin.len() {
                if kin[place].as_ref().is_some_and(|kin| cut.iter().any(|index| kin.contains(index))) {
                    kin[place] = None;
                }
            }
            let broken = links.iter().find(|(one, other)| {
                let (one, other) = (find(&kin, *one), find(&kin, *other));
                let whole = one.zip(other).is_some_and(|(one, other)| {
                    let parts = |place: usize| kin[place].as_ref().map(|kin| self.relations(kin));
                    parts(one) == parts(other)
                });
                !whole && (one.is_some() || other.is_some())
            });
            match broken {
                Some((one, other)) => cut.extend([*one, *other]),
                None => break,
            }
        }
        for (one, other) in links {
            if let Some((one, other)) = find(&kin, *one).zip(find(&kin, *other))
                && one != other
                && let Some(mut more) = kin[one.max(other)].take()
                && let Some(kin) = &mut kin[one.min(other)]
            {
                kin.append(&mut more);
            }
        }
        kin.into_iter().take(kept).flatten().collect()
    }

    /// The parameters that a nested loop hands to its inner side; none if one can't be followed.
    unsafe fn handed(&self, plan: *mut pg_sys::Plan) -> Option<Vec<Handed>> {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            if (*plan).type_ != T_NestLoop {
                return Some(Vec::new());
            }
            compat::items::<pg_sys::NestLoopParam>((*plan.cast::<pg_sys::NestLoop>()).nestParams)
                .map(|param| Some(((*param).paramno, self.origin(plan, (*param).paramval.cast())?)))
                .collect()
        }
    }

    /// The inner side of a nested loop, if it scans a table, or all of its parts, whole but for what is handed to it.
    unsafe fn linked_scan(&self, plan: *mut pg_sys::Plan, handed: &[Handed]) -> Option<Kin> {
        // SAFETY: a plan of the statement; a node is cast to the type that its tag names.
        unsafe {
            match (*plan).type_ {
                T_Memoize | T_Material if (*plan).qual.is_null() => self.linked_scan((*plan).lefttree, handed),
                T_Append => {
                    let parts = compat::items((*plan.cast::<pg_sys::Append>()).appendplans);
                    let parts: Option<Vec<Kin>> = parts.map(|part| self.linked_scan(part, handed)).collect();
                    parts.map(|parts| parts.concat())
                }
                T_SeqScan | T_IndexScan | T_IndexOnlyScan | T_BitmapHeapScan | T_TidScan => {
                    self.scan(plan, handed).map(|index| vec![index])
                }
                _ => None,
            }
        }
    }

    /// The two tables of `a.id = b.id`, where both are the same table and the column has no nulls.
    unsafe fn self_equality(&self, plan: *mut pg_sys::Plan, clause: *mut pg_sys::Node) -> Option<(u32, u32)> {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            if (*clause).type_ != T_OpExpr {
                return None;
            }
            let comparison = &*clause.cast::<pg_sys::OpExpr>();
            if compat::list_length(comparison.args) != 2 || !is_equality(comparison.opno) {
                return None;
            }
            let one = self.origin(plan, compat::list_nth(comparison.args, 0).cast())?;
            let other = self.origin(plan, compat::list_nth(comparison.args, 1).cast())?;
            let same = one.index != other.index && one.relation == other.relation && one.attnum == other.attnum;
            (same && is_not_null(one.relation, one.attnum)).then_some((one.index, other.index))
        }
    }

    /// The columns that conditions mention; none if that can't be said, or if they are volatile.
    unsafe fn mentioned(&self, plan: *mut pg_sys::Plan, clauses: *mut pg_sys::List) -> Option<Vec<Column>> {
        // SAFETY: NIL or a list of planned expressions of this plan.
        unsafe {
            let each: Option<Vec<_>> = compat::items(clauses).map(|clause| self.mentioned_by(plan, clause)).collect();
            each.map(|columns| columns.concat())
        }
    }

    unsafe fn mentioned_by(&self, plan: *mut pg_sys::Plan, clause: *mut pg_sys::Node) -> Option<Vec<Column>> {
        const EVERYWHERE: u32 =
            pg_sys::PVC_RECURSE_AGGREGATES | pg_sys::PVC_RECURSE_WINDOWFUNCS | pg_sys::PVC_RECURSE_PLACEHOLDERS;
        // SAFETY: a planned expression of this plan.
        unsafe {
            if pg_sys::contain_volatile_functions(clause) {
                return None;
            }
            compat::items(pg_sys::pull_var_clause(clause, EVERYWHERE as i32))
                .map(|var| self.origin(plan, var))
                .collect()
        }
    }

    /// The column of a table that an expression of a plan is, followed down to the scan.
    ///
    /// # Safety
    /// An expression of that plan.
    pub unsafe fn origin(&self, plan: *mut pg_sys::Plan, expression: *mut pg_sys::Node) -> Option<Column> {
        // SAFETY: a node is cast to the type that its tag names; a variable stands for an entry of the list that it is
        // numbered in.
        unsafe {
            pg_sys::check_stack_depth();
            if (*expression).type_ == T_RelabelType {
                return self.origin(plan, (*expression.cast::<pg_sys::RelabelType>()).arg.cast());
            }
            if (*expression).type_ != T_Var {
                return None;
            }
            let var = &*expression.cast::<pg_sys::Var>();
            let entry = |list: *mut pg_sys::List| {
                let place = i32::from(var.varattno) - 1;
                (0..compat::list_length(list))
                    .contains(&place)
                    .then(|| (*compat::list_nth(list, place).cast::<pg_sys::TargetEntry>()).expr.cast::<pg_sys::Node>())
            };
            let below = match (var.varno, (*plan).type_) {
                (pg_sys::INNER_VAR, _) => (*plan).righttree,
                (pg_sys::OUTER_VAR, T_Append) => first_part((*plan.cast::<pg_sys::Append>()).appendplans),
                (pg_sys::OUTER_VAR, T_MergeAppend) => first_part((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
                (pg_sys::OUTER_VAR, _) => (*plan).lefttree,
                (pg_sys::INDEX_VAR, T_IndexOnlyScan) => {
                    return self.origin(plan, entry((*plan.cast::<pg_sys::IndexOnlyScan>()).indextlist)?);
                }
                (_, T_SubqueryScan) => (*plan.cast::<pg_sys::SubqueryScan>()).subplan,
                (_, T_CteScan) => self.cte(plan),
                _ => {
                    let index = pg_sys::Index::try_from(var.varno).ok()?;
                    return Some(Column { index, relation: self.relation(index)?, attnum: var.varattno });
                }
            };
            self.origin(below, entry(below.as_ref()?.targetlist)?)
        }
    }

    unsafe fn cte(&self, plan: *mut pg_sys::Plan) -> *mut pg_sys::Plan {
        // SAFETY: a scan of a CTE knows its number among the statement's subplans.
        unsafe { compat::list_nth((*self.statement).subplans, (*plan.cast::<pg_sys::CteScan>()).ctePlanId - 1).cast() }
    }

    /// A table by its number in the range table.
    pub fn relation(&self, index: pg_sys::Index) -> Option<pg_sys::Oid> {
        // SAFETY: the statement's range table, which the plan's numbers count from one.
        unsafe {
            let place = i32::try_from(index).ok()? - 1;
            let table = (*self.statement).rtable;
            if !(0..compat::list_length(table)).contains(&place) {
                return None;
            }
            let entry = &*compat::list_nth(table, place).cast::<pg_sys::RangeTblEntry>();
            (entry.rtekind == pg_sys::RTEKind::RTE_RELATION).then_some(entry.relid)
        }
    }

    fn relations(&self, kin: &Kin) -> BTreeSet<u32> {
        kin.iter().filter_map(|index| self.relation(*index)).map(pg_sys::Oid::to_u32).collect()
    }
}

unsafe fn first_part(plans: *mut pg_sys::List) -> *mut pg_sys::Plan {
    // SAFETY: NIL or a list of plans.
    unsafe { compat::items(plans).next().unwrap_or(std::ptr::null_mut()) }
}

unsafe fn skips_locked(plan: *mut pg_sys::LockRows) -> bool {
    // SAFETY: a list of row marks.
    unsafe {
        compat::items::<pg_sys::PlanRowMark>((*plan).rowMarks)
            .any(|mark| (*mark).waitPolicy == pg_sys::LockWaitPolicy::LockWaitSkip)
    }
}
