//! ProcessUtility: commands, before they run (commands.rs, drops.rs), and what they have left behind (aftermath.rs). What they
//! reach by CASCADE, and TRUNCATE, come through object_access.

use std::ffi::c_char;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::{aftermath, commands, drops, executor, object_access, uninstall};
use crate::pg::report;
use crate::pg::{compat, credential, glass, parent_changes, session, settings, statement};
use crate::policy::glass::End;

static NEXT: OnceCell<pg_sys::ProcessUtility_hook_type> = OnceCell::new();

pub(super) fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        let _ = NEXT.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: looks at the statement before it is forwarded, since it may be gone afterwards, and forwards what Postgres
    // gave.
    unsafe {
        executor::not_explained();
        if settings::may_need_holding() && !session::inert() {
            settings::hold();
        }
        let statement = (*pstmt).utilityStmt;
        let of_client = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
        let part = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND;
        let around = aftermath::begins(compat::CreateCommandTag(statement), of_client);
        match (*statement).type_ {
            pg_sys::NodeTag::T_DropStmt if !session::inert() => {
                report::raise(drops::check_named(statement.cast()));
                drops::wait_for_worker(statement.cast());
            }
            pg_sys::NodeTag::T_TruncateStmt => object_access::truncate_begins(),
            pg_sys::NodeTag::T_DiscardStmt if discards_all(statement.cast()) => discard(),
            _ if commands::concerns(statement, part) && !session::inert() => report::raise(commands::check(statement)),
            _ => {}
        }
        let ends_prepared = (*statement).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*statement.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED;
        if ends_prepared {
            parent_changes::count_prepared();
        }
        statement::begin();
        let outer = statement::enter(pg_sys::InvalidOid, false);
        match NEXT.get() {
            Some(Some(next)) => {
                next(pstmt, query_string, read_only_tree, context, params, query_env, dest, completion);
            }
            _ => compat::standard_ProcessUtility(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                completion,
            ),
        }
        statement::leave(outer);
        if ends_prepared {
            parent_changes::count_prepared();
        }
        // The statement may be gone by now; what it did is known.
        if aftermath::has_notes() && !session::inert() {
            report::raise(aftermath::check(part));
        }
        aftermath::ends(around);
        if uninstall::may_be_left() {
            report::raise(uninstall::clear_away());
        }
    }
}

/// A plain frame.
unsafe fn discards_all(statement: *const pg_sys::DiscardStmt) -> bool {
    // SAFETY: a parsed DISCARD.
    unsafe { (*statement).target == pg_sys::DiscardMode::DISCARD_ALL }
}

/// DISCARD ALL leaves nothing of a session's state to whoever gets its connection next.
#[pg_guard]
unsafe extern "C-unwind" fn discard() {
    credential::forget();
    if !glass::may_be_broken() {
        return;
    }
    match session::load() {
        Some(session) => glass::end(&session, End::Discarded),
        // The extension has left the database, and may be back before the session ends.
        None => glass::forget(),
    }
}
