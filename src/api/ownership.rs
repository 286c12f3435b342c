//! Ownership: who may write a tenant; what its changes have in common.

use std::cell::Cell;

use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, pg_extern};

use super::{facts, fetch_again, required};
use crate::pg::handover::{self, Exclusive};
use crate::pg::prepared::Prepared;
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::types::PgLsn;
use crate::pg::{keys, relation};
use crate::policy::ownership::TenantState;
use crate::policy::spelling::KeyTypes;
use crate::policy::tenant::TenantKey;

/// The longest key that can have a row of its own, in bytes: what fits an index entry whatever its bytes are.
const LONGEST_KEY: usize = 2_000;

/// The backend that owns a tenant; NULL before a migration has begun.
#[pg_extern(stable, parallel_restricted)]
fn owner_of(tenant: Option<&str>) -> Option<String> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    owner_in(&session, session.catalog.committed_tenant_state(&tenant).as_ref())
}

/// The owner that a tenant's row and the policy make; none before a migration.
pub(super) fn owner_in(session: &Session, state: Option<&TenantState>) -> Option<String> {
    state.and_then(|s| s.owner.clone()).or_else(|| session.policy.set.default_owner.clone())
}

/// The owner as it is under the lock.
pub(super) fn owner_now(exclusive: &Exclusive, tenant: &TenantKey) -> String {
    owner_in(&exclusive.session, exclusive.state.as_ref()).unwrap_or_else(|| no_migration(tenant))
}

pub(super) fn no_migration(tenant: &TenantKey) -> ! {
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("nobody owns tenant \"{tenant}\", because no migration has begun"),
        "",
        "Begin it with SELECT holdfast.begin_migration(...).",
    )
}

/// A line of the history.
pub(super) struct Change<'a> {
    pub tenant: &'a TenantKey,
    pub action: &'static str,
    pub from: &'a str,
    pub to: &'a str,
    pub paused: Option<Interval>,
    pub restore_point: Option<&'a str>,
    pub lsn: Option<u64>,
    pub reason: Option<&'a str>,
    /// Whose transactions were cancelled for it.
    pub cancelled: Vec<String>,
}

const RECORD_SQL: &str = "
INSERT INTO holdfast.ownership_change
     (at, tenant, action, from_backend, to_backend, epoch, paused, restore_point, lsn, reason, cancelled, changed_by,
      set_role, application_name, client_addr)
 SELECT pg_catalog.clock_timestamp(), $1, $2, $3, $4, epoch, $5, $6,
     coalesce($7, pg_catalog.pg_current_wal_insert_lsn()), $8, $9,
     session_user, nullif(pg_catalog.current_setting('role'), 'none'),
     pg_catalog.current_setting('application_name'), pg_catalog.inet_client_addr()
 FROM holdfast.ownership WHERE tenant = $1
 RETURNING epoch";

thread_local! {
    static RECORD: Cell<Option<Prepared>> = const { Cell::new(None) };
}

/// Writes it, and tells those who listen.
pub(super) fn record(change: Change) {
    let epoch = fetch_again::<i64>(
        &RECORD,
        RECORD_SQL,
        &[
            key(change.tenant),
            change.action.into(),
            change.from.into(),
            change.to.into(),
            change.paused.into(),
            change.restore_point.into(),
            change.lsn.map(PgLsn).into(),
            change.reason.into(),
            Some(change.cancelled).filter(|cancelled| !cancelled.is_empty()).into(),
        ],
    );
    handover::notify(&serde_json::json!({
        "event": change.action,
        "tenant": change.tenant.as_str(),
        "from": change.from,
        "to": change.to,
        "epoch": epoch,
    }));
}

/// The tenant's canonical key: the input must be a value of a tenant column's type, or a row of several.
pub(super) fn canonical(session: &Session, input: &str) -> TenantKey {
    let mut types = KeyTypes::default();
    for oid in session.policy.classified.keys() {
        if let Some(relation) = relation::facts(session, Oid::from(*oid)) {
            types.add(&relation.key_types());
        }
    }
    let key = types.canonical(input, &keys::fold).unwrap_or_else(|wrong| {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!("\"{input}\" is not a tenant key"),
            format!("It is {}.", wrong.join(", and ")),
            if types.of_several_columns() {
                "Give the key as the tenant column holds it, one of several columns as a row: ROW(...)::text."
            } else {
                "Give the key as the tenant column holds it."
            },
        )
    });
    if key.as_str().len() > LONGEST_KEY {
        error(
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("a tenant key of {} bytes is too long", key.as_str().len()),
            format!("Keys of up to {LONGEST_KEY} bytes can be handed over or frozen."),
            "Rows with longer keys stay with the default owner.",
        );
    }
    key
}

/// It as an argument.
pub(super) fn key<'a>(tenant: &TenantKey) -> pgrx::datum::DatumWithOid<'a> {
    tenant.as_str().into()
}
