//! Functions that do what otherwise only commands do: however they are called, Postgres says so through object_access.

use pgrx::pg_sys;

use super::executor;
use crate::pg::report::Report;
use crate::pg::{audit, session};
use crate::policy::command::{self, Command, Reach};

/// The functions, by the numbers that they have in every version. Those that only read large objects aren't among them, nor
/// is nextval.
fn known(function: u32) -> Option<&'static str> {
    Some(match function {
        1576 | 1765 => "setval",
        715 => "lo_create",
        957 => "lo_creat",
        3457 => "lo_from_bytea",
        764 | 767 => "lo_import",
        765 => "lo_export",
        955 => "lowrite",
        964 => "lo_unlink",
        1004 => "lo_truncate",
        3172 => "lo_truncate64",
        3460 => "lo_put",
        2096 => "pg_terminate_backend",
        2171 => "pg_cancel_backend",
        3436 => "pg_promote",
        3780 => "pg_drop_replication_slot",
        3878 => "pg_replication_slot_advance",
        _ => return None,
    })
}

/// Whether a function is one of them. Asked for every function that any statement calls.
pub(super) fn concerns(function: pg_sys::Oid) -> bool {
    known(function.to_u32()).is_some()
}

/// `destructive_command` for a function that is about to be called. Its arguments aren't known yet: what a sequence or
/// large object belongs to, or whose session is meant.
pub(super) fn check(function: pg_sys::Oid) -> *const Report {
    let Some(name) = known(function.to_u32()).filter(|_| !executor::only_explained()) else { return std::ptr::null() };
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return std::ptr::null() };
    let reach = match name {
        "pg_terminate_backend" | "pg_cancel_backend" => Reach::Sessions { confined: confined() },
        "setval" => Reach::Targets,
        _ => Reach::Beyond,
    };
    let who = &session.who;
    let refusal = command::check_destructive(&who.identity, Command { name, reach }, None, &who.login_role);
    refusal.map_or(std::ptr::null(), |r| audit::settle(&session, r))
}

/// Whether Postgres lets the role signal sessions of its own login only: no superuser, a member of no role, and not
/// somebody else for the time of a function or a SET ROLE.
fn confined() -> bool {
    // SAFETY: reads of the session's state and a syscache look-up, whose list is released when it has been counted.
    unsafe {
        let user = pg_sys::GetUserId();
        if user != pg_sys::GetSessionUserId() || pg_sys::superuser_arg(user) {
            return false;
        }
        let cache = pg_sys::SysCacheIdentifier::AUTHMEMMEMROLE as std::ffi::c_int;
        let none = pg_sys::Datum::from(0);
        let memberships = pg_sys::SearchSysCacheList(cache, 1, user.into(), none, none);
        let count = (*memberships).n_members;
        pg_sys::ReleaseCatCacheList(memberships);
        count == 0
    }
}
