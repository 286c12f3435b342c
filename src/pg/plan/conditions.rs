//! Which conditions limit the rows of a table, and which hold for all of them.
//!
//! What isn't known to hold for every row is taken to limit them.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag::*;

use super::whole::Column;
use crate::pg::{compat, session};

/// A parameter that a nested loop hands to its inner scan: its number, and the column it comes from.
pub type Handed = (i32, Column);

/// The table that the conditions of a scan are about, and what is known when they are evaluated.
pub struct Conditions<'a> {
    /// The table.
    pub relation: pg_sys::Oid,
    /// Its number in the range table.
    pub index: pg_sys::Index,
    /// An index-only scan's columns, which its conditions are about; null for other scans.
    pub index_columns: *mut pg_sys::List,
    /// The parameters of a generic plan; null if there are none.
    pub params: pg_sys::ParamListInfo,
    /// The parameters of a nested loop.
    pub handed: &'a [Handed],
}

impl Conditions<'_> {
    /// Whether one of the conditions limits the rows.
    ///
    /// # Safety
    /// `list` is NIL or a list of planned expressions about the table.
    pub unsafe fn limit(&self, list: *mut pg_sys::List) -> bool {
        // SAFETY: the caller vouches for the list.
        unsafe { compat::items(list).any(|condition| self.limits(condition)) }
    }

    unsafe fn limits(&self, condition: *mut pg_sys::Node) -> bool {
        // SAFETY: a planned expression.
        unsafe {
            // It holds for no row by itself: its sides are of different kinds.
            if compares_with_value(condition) {
                return !self.is_link(condition);
            }
            if self.holds(condition) || self.is_link(condition) {
                return false;
            }
            !has_parameters(self.params) || !self.holds(with_parameters(condition, self.params))
        }
    }

    /// Whether an expression is true for every row.
    unsafe fn holds(&self, expression: *mut pg_sys::Node) -> bool {
        // SAFETY: a node is cast to the type that its tag names. Stacks of conditions can be deep.
        unsafe {
            pg_sys::check_stack_depth();
            let Some(node) = expression.as_ref() else { return false };
            match node.type_ {
                T_Const => {
                    let constant = &*expression.cast::<pg_sys::Const>();
                    constant.consttype == pg_sys::BOOLOID && !constant.constisnull && constant.constvalue.value() != 0
                }
                T_BoolExpr => self.combination_holds(expression.cast()),
                T_NullTest => {
                    let test = &*expression.cast::<pg_sys::NullTest>();
                    // Of a whole row, IS NOT NULL asks for every column.
                    test.nulltesttype == pg_sys::NullTestType::IS_NOT_NULL
                        && !test.argisrow
                        && self.is_there(test.arg.cast())
                }
                T_BooleanTest => {
                    let test = &*expression.cast::<pg_sys::BooleanTest>();
                    use pg_sys::BoolTestType::{IS_NOT_FALSE, IS_NOT_UNKNOWN, IS_TRUE};
                    match test.booltesttype {
                        IS_TRUE => self.holds(test.arg.cast()),
                        IS_NOT_FALSE => self.never_false(test.arg.cast()),
                        IS_NOT_UNKNOWN => self.is_there(test.arg.cast()),
                        _ => false,
                    }
                }
                T_OpExpr => self.never_false(expression) && self.are_there((*expression.cast::<pg_sys::OpExpr>()).args),
                T_ScalarArrayOpExpr => self.array_comparison_holds(expression.cast()),
                T_CoalesceExpr => {
                    // Nulls are passed over until something is true.
                    let args = (*expression.cast::<pg_sys::CoalesceExpr>()).args;
                    compat::items(args).all(|arg| self.never_false(arg))
                        && compat::items(args).any(|arg| self.holds(arg))
                }
                T_CaseExpr => {
                    let case = &*expression.cast::<pg_sys::CaseExpr>();
                    let mut results = compat::items::<pg_sys::CaseWhen>(case.args).map(|when| (*when).result);
                    results.all(|result| self.holds(result.cast())) && self.holds(case.defresult.cast())
                }
                _ => false,
            }
        }
    }

    unsafe fn combination_holds(&self, expression: *mut pg_sys::BoolExpr) -> bool {
        use pg_sys::BoolExprType::{AND_EXPR, NOT_EXPR, OR_EXPR};
        // SAFETY: a planned AND, OR or NOT.
        unsafe {
            let args = (*expression).args;
            match (*expression).boolop {
                AND_EXPR => compat::items(args).all(|arg| self.holds(arg)),
                OR_EXPR => {
                    let alternatives: Vec<*mut pg_sys::Node> = compat::items(args).collect();
                    alternatives.iter().enumerate().any(|(n, one)| {
                        self.holds(*one) || alternatives[n + 1..].iter().any(|other| self.exhaust(*one, *other))
                    })
                }
                // NOT (x IS DISTINCT FROM x); the planner pushes other negations down.
                NOT_EXPR => compat::items::<pg_sys::Node>(args).all(|arg| {
                    (*arg).type_ == T_DistinctExpr && self.same_sides((*arg.cast::<pg_sys::DistinctExpr>()).args)
                }),
                _ => false,
            }
        }
    }

    /// Whether one of two conditions is true for every row: `x IS NULL` and `x IS NOT NULL`, `x = 1` and `x <> 1`.
    unsafe fn exhaust(&self, one: *mut pg_sys::Node, other: *mut pg_sys::Node) -> bool {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            match ((*one).type_, (*other).type_) {
                (T_NullTest, T_NullTest) => {
                    let (one, other) = (&*one.cast::<pg_sys::NullTest>(), &*other.cast::<pg_sys::NullTest>());
                    one.nulltesttype != other.nulltesttype && !one.argisrow && same(one.arg.cast(), other.arg.cast())
                }
                (T_OpExpr, T_OpExpr) => {
                    let (one, other) = (&*one.cast::<pg_sys::OpExpr>(), &*other.cast::<pg_sys::OpExpr>());
                    pg_sys::get_negator(one.opno) == other.opno
                        && pg_sys::equal(one.args.cast(), other.args.cast())
                        && !pg_sys::contain_volatile_functions(one.args.cast())
                        && self.are_there(one.args)
                }
                _ => false,
            }
        }
    }

    /// Whether an expression is true or null for every row: a value compared with itself; LIKE '%'.
    unsafe fn never_false(&self, expression: *mut pg_sys::Node) -> bool {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            if (*expression).type_ != T_OpExpr {
                return self.holds(expression);
            }
            let comparison = &*expression.cast::<pg_sys::OpExpr>();
            (self.same_sides(comparison.args) && is_reflexive(comparison.opno))
                || (is_like(comparison) && is_wildcard(second(comparison.args)))
        }
    }

    /// `x = ANY (ARRAY[x, ...])`, and `x <> ALL ('{}')`.
    unsafe fn array_comparison_holds(&self, expression: *mut pg_sys::ScalarArrayOpExpr) -> bool {
        // SAFETY: a planned comparison has two arguments.
        unsafe {
            let comparison = &*expression;
            let (value, array) = (first(comparison.args), second(comparison.args));
            if !comparison.useOr {
                return is_empty_array(array);
            }
            (*array).type_ == T_ArrayExpr
                && is_reflexive(comparison.opno)
                && self.is_there(value)
                && compat::items((*array.cast::<pg_sys::ArrayExpr>()).elements).any(|element| same(value, element))
        }
    }

    unsafe fn same_sides(&self, args: *mut pg_sys::List) -> bool {
        // SAFETY: the arguments of a comparison.
        unsafe { compat::list_length(args) == 2 && same(self.first_value(first(args)), self.first_value(second(args))) }
    }

    /// What a COALESCE comes to, where its first value is never null or its only one.
    unsafe fn first_value(&self, expression: *mut pg_sys::Node) -> *mut pg_sys::Node {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            if (*expression).type_ != T_CoalesceExpr {
                return expression;
            }
            let args = (*expression.cast::<pg_sys::CoalesceExpr>()).args;
            if compat::list_length(args) == 1 || self.is_there(first(args)) { first(args) } else { expression }
        }
    }

    unsafe fn are_there(&self, expressions: *mut pg_sys::List) -> bool {
        // SAFETY: a list of planned expressions.
        unsafe { compat::items(expressions).all(|expression| self.is_there(expression)) }
    }

    /// Whether an expression is null for no row.
    unsafe fn is_there(&self, expression: *mut pg_sys::Node) -> bool {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            match (*expression).type_ {
                T_Const => !(*expression.cast::<pg_sys::Const>()).constisnull,
                T_Var => self.column(expression.cast()).is_some_and(|attnum| is_not_null(self.relation, attnum)),
                T_RelabelType => self.is_there((*expression.cast::<pg_sys::RelabelType>()).arg.cast()),
                T_CoalesceExpr => {
                    compat::items((*expression.cast::<pg_sys::CoalesceExpr>()).args).any(|arg| self.is_there(arg))
                }
                T_NullTest | T_BooleanTest | T_DistinctExpr => true,
                T_BoolExpr => self.are_there((*expression.cast::<pg_sys::BoolExpr>()).args),
                T_OpExpr => {
                    let comparison = &*expression.cast::<pg_sys::OpExpr>();
                    is_comparison(comparison.opno) && self.are_there(comparison.args)
                }
                _ => false,
            }
        }
    }

    /// `id = $1`, where a nested loop hands `id` of another row: if that row is of the same table, every row finds itself.
    /// Parts of a table have their columns' names in common; that both are the same table is for the caller to see.
    unsafe fn is_link(&self, expression: *mut pg_sys::Node) -> bool {
        // SAFETY: a node is cast to the type that its tag names.
        unsafe {
            if self.handed.is_empty() || (*expression).type_ != T_OpExpr {
                return false;
            }
            let comparison = &*expression.cast::<pg_sys::OpExpr>();
            if !is_equality(comparison.opno) || compat::list_length(comparison.args) != 2 {
                return false;
            }
            let sides = [first(comparison.args), second(comparison.args)];
            let handed = |node: *mut pg_sys::Node| {
                let param = &*node.cast::<pg_sys::Param>();
                let ours = (*node).type_ == T_Param && param.paramkind == pg_sys::ParamKind::PARAM_EXEC;
                self.handed.iter().find(|(number, _)| ours && *number == param.paramid).map(|(_, column)| *column)
            };
            [(sides[0], sides[1]), (sides[1], sides[0])].into_iter().any(|(own, other)| {
                let own = if (*own).type_ == T_Var { self.column(own.cast()) } else { None };
                own.zip(handed(other)).is_some_and(|(attnum, other)| {
                    column_name(other.relation, other.attnum) == column_name(self.relation, attnum)
                        && is_not_null(self.relation, attnum)
                })
            })
        }
    }

    /// The number of the table's column that a variable stands for.
    unsafe fn column(&self, var: *mut pg_sys::Var) -> Option<pg_sys::AttrNumber> {
        // SAFETY: a planned variable; an index-only scan's stand for entries of its list.
        unsafe {
            let var = &*var;
            if var.varno == pg_sys::INDEX_VAR && !self.index_columns.is_null() {
                let entry = compat::list_nth(self.index_columns, i32::from(var.varattno) - 1);
                let column = (*entry.cast::<pg_sys::TargetEntry>()).expr.cast::<pg_sys::Var>();
                return ((*column).xpr.type_ == T_Var).then(|| (*column).varattno);
            }
            (i64::from(var.varno) == i64::from(self.index)).then_some(var.varattno)
        }
    }
}

/// Whether a column has no nulls. System columns and the row as a whole have none.
pub fn is_not_null(relation: pg_sys::Oid, attnum: pg_sys::AttrNumber) -> bool {
    if attnum <= 0 {
        return true;
    }
    // SAFETY: a syscache look-up inside a transaction; the row is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::ATTNUM as i32;
        let tuple = pg_sys::SearchSysCache2(cache, relation.into(), attnum.into());
        if tuple.is_null() {
            return false;
        }
        let not_null = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>()).attnotnull;
        pg_sys::ReleaseSysCache(tuple);
        not_null
    }
}

/// A column's name; system columns go by their numbers.
fn column_name(relation: pg_sys::Oid, attnum: pg_sys::AttrNumber) -> (String, pg_sys::AttrNumber) {
    if attnum <= 0 {
        return (String::new(), attnum);
    }
    // SAFETY: a catalog look-up; null where there is no such column.
    (unsafe { session::text(pg_sys::get_attname(relation, attnum, true)) }, 0)
}

/// Whether an operator is an equality.
pub fn is_equality(operator: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    unsafe {
        if !pg_sys::get_mergejoin_opfamilies(operator).is_null() {
            return true;
        }
        let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(operator, &mut left, &mut right);
        pg_sys::op_hashjoinable(operator, left)
    }
}

/// Whether an operator is true of two equal values: `=`, and Postgres's own `<=` and `>=`.
fn is_reflexive(operator: pg_sys::Oid) -> bool {
    is_equality(operator) || matches!(built_in(operator).as_str(), "<=" | ">=")
}

/// Whether an operator compares two values, so that it is null only where one of them is.
fn is_comparison(operator: pg_sys::Oid) -> bool {
    is_equality(operator) || matches!(built_in(operator).as_str(), "<" | "<=" | "<>" | ">=" | ">")
}

/// The name of an operator of Postgres's own; empty for others.
fn built_in(operator: pg_sys::Oid) -> String {
    if operator.to_u32() >= pg_sys::FirstNormalObjectId {
        return String::new();
    }
    // SAFETY: a catalog look-up; null where there is no such operator.
    unsafe { session::text(pg_sys::get_opname(operator)) }
}

/// Whether two expressions are the same and give the same value twice.
unsafe fn same(one: *mut pg_sys::Node, other: *mut pg_sys::Node) -> bool {
    // SAFETY: planned expressions.
    unsafe { pg_sys::equal(one.cast(), other.cast()) && !pg_sys::contain_volatile_functions(one) }
}

unsafe fn first(list: *mut pg_sys::List) -> *mut pg_sys::Node {
    // SAFETY: the callers give a list that isn't empty.
    unsafe { compat::list_nth(list, 0).cast() }
}

unsafe fn second(list: *mut pg_sys::List) -> *mut pg_sys::Node {
    // SAFETY: the callers give a list of two.
    unsafe { compat::list_nth(list, 1).cast() }
}

/// Whether a condition compares a column with a value: known to limit, whatever the value is.
unsafe fn compares_with_value(condition: *mut pg_sys::Node) -> bool {
    // SAFETY: a node is cast to the type that its tag names.
    unsafe {
        if (*condition).type_ != T_OpExpr {
            return false;
        }
        let comparison = &*condition.cast::<pg_sys::OpExpr>();
        if compat::list_length(comparison.args) != 2 || is_like(comparison) {
            return false;
        }
        let sides = [first(comparison.args), second(comparison.args)].map(|side| (*side).type_);
        matches!(sides, [T_Var, T_Param | T_Const] | [T_Param | T_Const, T_Var])
    }
}

/// LIKE and ILIKE.
fn is_like(comparison: &pg_sys::OpExpr) -> bool {
    const LIKE: [u32; 6] = [
        pg_sys::F_TEXTLIKE,
        pg_sys::F_TEXTICLIKE,
        pg_sys::F_BPCHARLIKE,
        pg_sys::F_BPCHARICLIKE,
        pg_sys::F_NAMELIKE,
        pg_sys::F_NAMEICLIKE,
    ];
    LIKE.contains(&comparison.opfuncid.to_u32())
}

/// Whether a pattern matches every text: it has nothing but `%`.
unsafe fn is_wildcard(pattern: *mut pg_sys::Node) -> bool {
    // SAFETY: a node is cast to the type that its tag names; LIKE's pattern is a text.
    unsafe {
        if (*pattern).type_ != T_Const {
            return false;
        }
        let pattern = &*pattern.cast::<pg_sys::Const>();
        let text: Option<String> = pgrx::FromDatum::from_datum(pattern.constvalue, pattern.constisnull);
        text.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte == b'%'))
    }
}

unsafe fn is_empty_array(array: *mut pg_sys::Node) -> bool {
    // SAFETY: a node is cast to the type that its tag names; the array is one, since it is compared as such.
    unsafe {
        if (*array).type_ != T_Const || (*array.cast::<pg_sys::Const>()).constisnull {
            return false;
        }
        let value = (*array.cast::<pg_sys::Const>()).constvalue;
        let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        (*array).ndim == 0
    }
}

unsafe fn has_parameters(params: pg_sys::ParamListInfo) -> bool {
    // SAFETY: null or valid.
    unsafe { params.as_ref() }.is_some_and(|params| params.numParams > 0)
}

/// The condition as the planner would simplify it for these parameters.
unsafe fn with_parameters(condition: *mut pg_sys::Node, params: pg_sys::ParamListInfo) -> *mut pg_sys::Node {
    // SAFETY: eval_const_expressions reads of the planner's state the parameters only, and adds to its list of
    // dependencies; it changes no input. A list that is fetched from on demand says itself which values are constant.
    unsafe {
        let mut known = params;
        if (*params).paramFetch.is_none() {
            known = pg_sys::copyParamList(params);
            let count = usize::try_from((*known).numParams).unwrap_or(0);
            for param in (*known).params.as_mut_slice(count) {
                param.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            }
        }
        let state = pg_sys::palloc0(size_of::<pg_sys::PlannerGlobal>()).cast::<pg_sys::PlannerGlobal>();
        (*state).type_ = T_PlannerGlobal;
        (*state).boundParams = known;
        let root = pg_sys::palloc0(size_of::<pg_sys::PlannerInfo>()).cast::<pg_sys::PlannerInfo>();
        (*root).type_ = T_PlannerInfo;
        (*root).glob = state;
        pg_sys::eval_const_expressions(root, condition)
    }
}
