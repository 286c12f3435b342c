//! ExecutorCheckPerms: tables, commands and columns (tables.rs), for every path that writes rows (COPY has no other). ExecutorStart:
//! what only the plan tells. Both fire for cached plans, which the parser's and planner's hooks don't. ExecutorRun and
//! ExecutorFinish tell what runs inside of what.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::rc::Rc;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::tables;
use crate::pg::process::process_local;
use crate::pg::report::{self, Report};
use crate::pg::session::{self, Session, Who};
use crate::pg::{audit, compat, plan, relation, settings, statement};
use crate::policy::command;
use crate::policy::looks::Look;

static NEXT_START: OnceCell<pg_sys::ExecutorStart_hook_type> = OnceCell::new();
static NEXT_RUN: OnceCell<pg_sys::ExecutorRun_hook_type> = OnceCell::new();
static NEXT_FINISH: OnceCell<pg_sys::ExecutorFinish_hook_type> = OnceCell::new();
static NEXT_CHECK_PERMS: OnceCell<pg_sys::ExecutorCheckPerms_hook_type> = OnceCell::new();

process_local! {
    /// Whether the executor is being started for an EXPLAIN that runs nothing. ExecutorCheckPerms isn't told.
    static ONLY_EXPLAINED: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        // set() fails only when called twice, and then the first value is the right one.
        let _ = NEXT_START.set(pg_sys::ExecutorStart_hook);
        let _ = NEXT_RUN.set(pg_sys::ExecutorRun_hook);
        let _ = NEXT_FINISH.set(pg_sys::ExecutorFinish_hook);
        let _ = NEXT_CHECK_PERMS.set(pg_sys::ExecutorCheckPerms_hook);
        pg_sys::ExecutorStart_hook = Some(executor_start);
        pg_sys::ExecutorRun_hook = Some(executor_run);
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        pg_sys::ExecutorCheckPerms_hook = Some(executor_check_perms);
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        let only_explained = eflags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0;
        if only_explained {
            follow_errors();
        }
        ONLY_EXPLAINED.set(only_explained);
        if settings::may_need_holding() && !session::inert() {
            settings::hold();
        }
        statement::begin();
        match NEXT_START.get() {
            Some(Some(next)) => next(query, eflags),
            _ => compat::standard_ExecutorStart(query, eflags),
        }
        ONLY_EXPLAINED.set(false);
        // Postgres's own checks come first, and nothing has run yet.
        if !only_explained && plan::may_be_unfiltered(query) && may_be_bound() {
            report::raise(check_plan((*query).plannedstmt, (*query).params));
        }
    }
}

/// An error on the way skips what ends an EXPLAIN's start, and what comes after it may run without another start: an
/// expression of PL/pgSQL, a function that the protocol calls. So where an error ends, nothing is being explained.
#[pg_guard]
unsafe extern "C-unwind" fn follow_errors() {
    process_local! {
        static REGISTERED: Cell<bool> = const { Cell::new(false) };
    }
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn transaction_ended(_: pg_sys::XactEvent::Type, _: *mut c_void) {
    ONLY_EXPLAINED.set(false);
}

unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        ONLY_EXPLAINED.set(false);
    }
}

/// A plain frame.
#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        let outer = statement::enter(plan::target(query), plan::upserts(query));
        match NEXT_RUN.get() {
            Some(Some(next)) => next(query, direction, count, once),
            _ => compat::standard_ExecutorRun(query, direction, count, once),
        }
        statement::leave(outer);
    }
}

/// A plain frame.
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        let outer = statement::enter(plan::target(query), plan::upserts(query));
        match NEXT_RUN.get() {
            Some(Some(next)) => next(query, direction, count),
            _ => compat::standard_ExecutorRun(query, direction, count),
        }
        statement::leave(outer);
    }
}

/// A plain frame. AFTER triggers run here, hence foreign keys.
unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        let outer = statement::enter(plan::target(query), false);
        match NEXT_FINISH.get() {
            Some(Some(next)) => next(query),
            _ => compat::standard_ExecutorFinish(query),
        }
        statement::leave(outer);
    }
}

/// Whether the executor is being started for an EXPLAIN that runs nothing.
pub(super) fn only_explained() -> bool {
    ONLY_EXPLAINED.get()
}

/// For utility.rs: a command that writes without the executor begins.
pub(super) fn not_explained() {
    ONLY_EXPLAINED.set(false);
}

/// A plain frame.
#[cfg(feature = "pg15")]
unsafe extern "C-unwind" fn executor_check_perms(range_table: *mut pg_sys::List, raise: bool) -> bool {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        check_perms(range_table, raise);
        match NEXT_CHECK_PERMS.get() {
            Some(Some(next)) => next(range_table, raise),
            _ => true,
        }
    }
}

/// A plain frame.
#[cfg(not(feature = "pg15"))]
unsafe extern "C-unwind" fn executor_check_perms(
    range_table: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
    raise: bool,
) -> bool {
    // SAFETY: forwards what Postgres gave.
    unsafe {
        check_perms(permissions, raise);
        match NEXT_CHECK_PERMS.get() {
            Some(Some(next)) => next(range_table, permissions, raise),
            _ => true,
        }
    }
}

/// A plain frame. Without `raise` Postgres only asks whether a query would be allowed.
unsafe fn check_perms(requests: *mut pg_sys::List, raise: bool) {
    // SAFETY: the list is the hook's.
    unsafe {
        let concerned = raise && !ONLY_EXPLAINED.get() && tables::are_written(requests) && session::listen();
        if concerned && !tables::are_known_to_pass(requests) {
            report::raise(tables::check(requests));
        }
    }
}

/// Whether the plan matters, as far as is known: who may write what was asked a moment ago. A plain frame.
fn may_be_bound() -> bool {
    !session::inert() && session::glance(is_bound).unwrap_or(true)
}

fn is_bound(who: &Rc<Who>) -> bool {
    !who.all_off && who.identity.is_bound_by_every_rule()
}

/// The rules that need the plan.
#[pg_guard]
unsafe extern "C-unwind" fn check_plan(
    statement: *const pg_sys::PlannedStmt,
    params: pg_sys::ParamListInfo,
) -> *const Report {
    // Who asks comes first: it costs less than to walk the plan.
    let Some(session) = session::as_heard().or_else(session::current).filter(|s| is_bound(&s.who)) else {
        return ptr::null();
    };
    session.who.counts.look(Look::Plan, || check_unfiltered(&session, statement, params))
}

fn check_unfiltered(
    session: &Session,
    statement: *const pg_sys::PlannedStmt,
    params: pg_sys::ParamListInfo,
) -> *const Report {
    // SAFETY: the executor has been started for this plan with these parameters.
    for write in unsafe { plan::unfiltered_writes(statement, params) } {
        let Some(relation) = relation::facts(session, write.relation) else { continue };
        if relation.beside_the_point {
            continue;
        }
        let table = &relation.table;
        let refusal = command::check_unfiltered(&session.who.identity, write.command, &table.name, &table.class);
        let report = refusal.map_or(ptr::null(), |r| audit::settle(session, r));
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}
