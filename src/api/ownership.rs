//! Ownership: who may write a tenant, cutover and back, freeze.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, default, name, pg_extern, search_path};

use super::{execute, facts, fetch, required};
use crate::pg::handover::{self, Exclusive, NoLock};
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::types::PgLsn;
use crate::pg::{keys, relation, trigger};
use crate::policy::ownership::{CutoverError, check_cutover};
use crate::policy::spelling::KeyTypes;
use crate::policy::tenant::TenantKey;

/// How long freeze() and unfreeze() wait for open transactions of the tenant, in milliseconds.
const FREEZE_PAUSE: i32 = 2_000;

/// How long rollback_cutover() waits likewise: as long as cutover() does by default.
const ROLLBACK_PAUSE: i32 = 2_000;

/// The longest key that can have a row of its own, in bytes: what fits an index entry whatever its bytes are.
const LONGEST_KEY: usize = 2_000;

/// tenant, from, to, epoch, pause, restore point, position in the log.
type HandedOver = (String, String, String, i64, Interval, Option<String>, PgLsn);

/// The backend that owns a tenant; NULL before a migration has begun.
#[pg_extern(stable, parallel_restricted)]
fn owner_of(tenant: Option<&str>) -> Option<String> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let state = session.catalog.committed_tenant_state(&tenant);
    state.and_then(|s| s.owner).or_else(|| session.policy.set.default_owner.clone())
}

/// Hands a tenant to another backend. Waits at most `max_pause` for open transactions that have written the tenant; new
/// writers are held meanwhile. One tenant a transaction.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns, and pgrx looks through no alias")]
fn cutover(
    tenant: Option<&str>,
    to_backend: Option<&str>,
    max_pause: default!(Option<Interval>, "'2 s'"),
    require_ready: default!(Option<bool>, "true"),
) -> TableIterator<
    'static,
    (
        name!(tenant, String),
        name!(from_backend, String),
        name!(to_backend, String),
        name!(epoch, i64),
        name!(paused, Interval),
        name!(restore_point, Option<String>),
        name!(lsn, PgLsn),
    ),
> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let to = required(to_backend, "to_backend");
    // The readiness checks come with `readiness()`; what a cutover can't do without is checked whatever is asked.
    let _ = required(require_ready, "require_ready");
    let pause = milliseconds(max_pause);
    let before = session.catalog.committed_tenant_state(&tenant);
    let from = before.and_then(|s| s.owner).or_else(|| session.policy.set.default_owner.clone());
    may_cut_over(&session, &tenant, from.as_deref(), to);

    TableIterator::once(hand_over(&tenant, |_| to.to_owned(), "cutover", pause))
}

/// Hands a tenant back to the backend that owned it before the last cutover.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "as above")]
fn rollback_cutover(
    tenant: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(tenant, String),
        name!(from_backend, String),
        name!(to_backend, String),
        name!(epoch, i64),
        name!(paused, Interval),
        name!(restore_point, Option<String>),
        name!(lsn, PgLsn),
    ),
> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let previous = |exclusive: &Exclusive| {
        let state = exclusive.state.as_ref();
        state.and_then(|s| s.previous_owner.clone()).unwrap_or_else(|| {
            error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("tenant \"{tenant}\" was never handed over"),
                "Nothing has changed.",
                "See SELECT * FROM holdfast.ownership_history;",
            )
        })
    };
    TableIterator::once(hand_over(&tenant, previous, "rollback", ROLLBACK_PAUSE))
}

/// Stops all writes to a tenant, until `until` or until it is unfrozen.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn freeze(tenant: Option<&str>, reason: Option<&str>, until: default!(Option<TimestampWithTimeZone>, "NULL")) {
    let reason = required(reason, "reason").trim();
    if reason.is_empty() {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "parameter \"reason\" must not be empty",
            "It is what refused clients and the audit show.",
            "",
        );
    }
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
    let exclusive = exclude(&tenant, FREEZE_PAUSE);
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
    record(&Change {
        tenant: &tenant,
        action: "freeze",
        from: &owner,
        to: &owner,
        reason: Some(reason),
        ..Change::none()
    });
}

/// Ends a freeze.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn unfreeze(tenant: Option<&str>) {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let exclusive = exclude(&tenant, FREEZE_PAUSE);
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
    record(&Change { tenant: &tenant, action: "unfreeze", from: &owner, to: &owner, ..Change::none() });
}

/// The change itself, forwards or back: lock, check again, change, record, tell.
fn hand_over(
    tenant: &TenantKey,
    receiver: impl FnOnce(&Exclusive) -> String,
    action: &'static str,
    pause: i32,
) -> HandedOver {
    let exclusive = exclude(tenant, pause);
    let from = owner_now(&exclusive, tenant);
    let to = &receiver(&exclusive);
    may_cut_over(&exclusive.session, tenant, Some(&from), to);
    let epoch = fetch::<i64>(
        "INSERT INTO holdfast.ownership (tenant, owner, previous_owner, epoch, changed_at, changed_by)
         VALUES ($1, $2, $3, 1, pg_catalog.clock_timestamp(), session_user)
         ON CONFLICT (tenant) DO UPDATE SET owner = excluded.owner, previous_owner = excluded.previous_owner,
             epoch = ownership.epoch + 1, changed_at = excluded.changed_at, changed_by = excluded.changed_by
         RETURNING epoch",
        &[key(tenant), to.as_str().into(), from.as_str().into()],
    )
    .unwrap_or_default();
    let restore_point = handover::restore_point(&format!("holdfast {action} {epoch} of {tenant}"));
    let lsn = handover::current_lsn();
    let paused = Interval::from_micros(trigger::now() - exclusive.since);
    record(&Change {
        tenant,
        action,
        from: &from,
        to,
        paused: Some(paused),
        restore_point: restore_point.as_deref(),
        reason: None,
    });
    (tenant.as_str().to_owned(), from, to.to_owned(), epoch, paused, restore_point, PgLsn(lsn))
}

struct Change<'a> {
    tenant: &'a TenantKey,
    action: &'static str,
    from: &'a str,
    to: &'a str,
    paused: Option<Interval>,
    restore_point: Option<&'a str>,
    reason: Option<&'a str>,
}

impl Change<'_> {
    fn none() -> Change<'static> {
        static NOBODY: std::sync::LazyLock<TenantKey> = std::sync::LazyLock::new(|| TenantKey::text(""));
        Change { tenant: &NOBODY, action: "", from: "", to: "", paused: None, restore_point: None, reason: None }
    }
}

fn record(change: &Change) {
    let epoch = fetch::<i64>(
        "INSERT INTO holdfast.ownership_change
             (at, tenant, action, from_backend, to_backend, epoch, paused, restore_point, lsn, reason, changed_by,
              set_role, application_name, client_addr)
         SELECT pg_catalog.clock_timestamp(), $1, $2, $3, $4, epoch, $5, $6, pg_catalog.pg_current_wal_insert_lsn(), $7,
             session_user, nullif(pg_catalog.current_setting('role'), 'none'),
             pg_catalog.current_setting('application_name'), pg_catalog.inet_client_addr()
         FROM holdfast.ownership WHERE tenant = $1
         RETURNING epoch",
        &[
            key(change.tenant),
            change.action.into(),
            change.from.into(),
            change.to.into(),
            change.paused.into(),
            change.restore_point.into(),
            change.reason.into(),
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

fn exclude(tenant: &TenantKey, pause: i32) -> Exclusive {
    match handover::exclude_writers(tenant, pause) {
        Ok(exclusive) => exclusive,
        Err(NoLock::OneTenantATransaction(other)) => error(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            format!("this transaction has already changed tenant \"{other}\""),
            "A tenant's writers are held until the transaction that hands it over ends.",
            "Commit after each tenant, for example with psql's \\gexec.",
        ),
        Err(NoLock::NotInstalled) => {
            error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the extension is being dropped", "", "")
        }
        Err(NoLock::TimedOut { tag, since }) => {
            let (high, low) = tag.halves();
            // What this transaction has seen of other sessions before may be old.
            execute("SELECT pg_catalog.pg_stat_clear_snapshot()", &[]);
            let holders = fetch::<String>(
                "SELECT holdfast.lock_holders($1, $2, $3, timestamptz '2000-01-01 00:00:00+00' + $4 * interval '1 microsecond')",
                &[i64::from(high).into(), i64::from(low).into(), i32::from(tag.class()).into(), since.into()],
            );
            let holders = holders.filter(|h| !h.is_empty());
            error(
                PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
                format!("tenant \"{tenant}\" could not be had within {pause} ms"),
                holders.map_or_else(
                    || "Open transactions that had written it have ended meanwhile.".to_owned(),
                    |holders| format!("Waited for {holders}."),
                ),
                "Nothing has changed. Retry with a longer max_pause, or when these transactions have ended.",
            )
        }
    }
}

fn owner_now(exclusive: &Exclusive, tenant: &TenantKey) -> String {
    let default = || exclusive.session.policy.set.default_owner.clone();
    let owner = exclusive.state.as_ref().and_then(|s| s.owner.clone()).or_else(default);
    owner.unwrap_or_else(|| no_migration(tenant))
}

fn may_cut_over(session: &Session, tenant: &TenantKey, from: Option<&str>, to: &str) {
    let (code, message, hint) = match check_cutover(&session.policy.set.backends, from, to) {
        Ok(()) => return,
        Err(CutoverError::UnknownBackend) => {
            super::known_backend(session, to);
            return;
        }
        Err(CutoverError::NoMigration) => no_migration(tenant),
        Err(CutoverError::Retired) => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("backend \"{to}\" is retired and may not own tenants"),
            "Bring it back with SELECT holdfast.set_trust(...), or name another backend.",
        ),
        Err(CutoverError::AlreadyOwner) => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("backend \"{to}\" already owns tenant \"{tenant}\""),
            "See SELECT * FROM holdfast.tenants;",
        ),
    };
    error(code, message, "Nothing has changed.", hint)
}

fn no_migration(tenant: &TenantKey) -> ! {
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("nobody owns tenant \"{tenant}\", because no migration has begun"),
        "",
        "Begin it with SELECT holdfast.begin_migration(...).",
    )
}

/// The tenant's canonical key: the input must be a value of a tenant column's type, or a row of several.
fn canonical(session: &Session, input: &str) -> TenantKey {
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

fn key<'a>(tenant: &TenantKey) -> pgrx::datum::DatumWithOid<'a> {
    tenant.as_str().into()
}

/// A pause in milliseconds, at least 1 and at most a day.
fn milliseconds(pause: Option<Interval>) -> i32 {
    let micros = required(pause, "max_pause").as_micros();
    match i32::try_from(micros / 1_000) {
        Ok(milliseconds @ 1..=86_400_000) => milliseconds,
        _ => error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "max_pause must be between 1 ms and 1 day",
            "It is how long writers of the tenant may be held.",
            "",
        ),
    }
}
