//! Freezing a tenant: nobody writes it, its owner included.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::exclusion::{Patience, exclude};
use super::ownership::{Change, canonical, key, owner_now, record};
use super::{bounds, execute, facts, fetch, required};
use crate::pg::report::error;
use crate::pg::trigger;
use crate::policy::tenant::TenantKey;

/// How long freeze() and unfreeze() wait for open transactions of the tenant.
const FREEZE_PATIENCE: Patience = Patience { pause: 2_000, cancel_after: None };

/// Stops all writes to a tenant, until `until` or until it is unfrozen.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn freeze(tenant: Option<&str>, reason: Option<&str>, until: default!(Option<TimestampWithTimeZone>, "NULL")) {
    let reason = bounds::reason(reason);
    if fetch::<bool>("SELECT $1 <= pg_catalog.clock_timestamp()", &[until.into()]) == Some(true) {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a freeze must end in the future",
            "",
            "Give a later time, or none to freeze until holdfast.unfreeze() is called.",
        );
    }
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let exclusive = exclude(&tenant, &FREEZE_PATIENCE).exclusive;
    let frozen = exclusive.state.as_ref().and_then(|s| s.freeze.as_ref());
    if let Some(freeze) = frozen.filter(|f| f.holds(trigger::now())) {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("tenant \"{tenant}\" is frozen already"),
            format!("The reason given was: {}.", freeze.reason),
            "Unfreeze it first: SELECT holdfast.unfreeze(...).",
        );
    }
    let owner = owner_now(&exclusive, &tenant);
    execute(
        "INSERT INTO holdfast.ownership (tenant, owner, epoch, freeze_reason, frozen_until, changed_at, changed_by)
         VALUES ($1, $2, 0, $3, $4, pg_catalog.clock_timestamp(), session_user)
         ON CONFLICT (tenant) DO UPDATE SET freeze_reason = excluded.freeze_reason,
             frozen_until = excluded.frozen_until, changed_at = excluded.changed_at, changed_by = excluded.changed_by",
        &[key(&tenant), owner.as_str().into(), reason.into(), until.into()],
    );
    record(change(&tenant, "freeze", &owner, Some(reason)));
}

/// Ends a freeze.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn unfreeze(tenant: Option<&str>) {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let exclusive = exclude(&tenant, &FREEZE_PATIENCE).exclusive;
    if exclusive.state.as_ref().is_none_or(|s| s.freeze.is_none()) {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("tenant \"{tenant}\" is not frozen"),
            "",
            "See SELECT * FROM holdfast.tenants;",
        );
    }
    let owner = owner_now(&exclusive, &tenant);
    execute(
        "UPDATE holdfast.ownership SET freeze_reason = NULL, frozen_until = NULL,
             changed_at = pg_catalog.clock_timestamp(), changed_by = session_user WHERE tenant = $1",
        &[key(&tenant)],
    );
    record(change(&tenant, "unfreeze", &owner, None));
}

fn change<'a>(tenant: &'a TenantKey, action: &'static str, owner: &'a str, reason: Option<&'a str>) -> Change<'a> {
    let (paused, restore_point, lsn, cancelled) = (None, None, None, Vec::new());
    Change { tenant, action, from: owner, to: owner, paused, restore_point, lsn, reason, cancelled }
}
