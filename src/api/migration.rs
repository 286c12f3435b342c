//! Migration: begin it, register backends, set modes.

use pgrx::datum::Date;
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::ending::{refuse_owner, settle_phase};
use super::exclusion::without_handovers;
use super::{affected, bounds, execute, facts, fetch, known_backend, parsed, required};
use crate::pg::handover::notify;
use crate::pg::report::error;
use crate::policy::backend::Trust;
use crate::policy::mode::Mode;
use crate::policy::rules::Rule;

/// Begins the migration: registers both backends, makes `legacy` the default backend and the default owner, and observes.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn begin_migration(legacy: Option<&str>, rebuilt: Option<&str>, ends_on: Option<Date>) {
    let (legacy, rebuilt) = (bounds::name(legacy, "legacy"), bounds::name(rebuilt, "rebuilt"));
    let ends_on = required(ends_on, "ends_on");
    if legacy == rebuilt {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the legacy and the rebuilt backend must differ",
            format!("Both are called \"{legacy}\"."),
            "",
        );
    }
    check_end(ends_on);
    if let Some(phase) =
        fetch::<String>("SELECT phase FROM holdfast.migration WHERE phase <> 'preparing' FOR UPDATE", &[])
    {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a migration has already begun",
            format!("It is in phase \"{phase}\"."),
            "See SELECT * FROM holdfast.status;",
        );
    }
    for (backend, trust) in [(legacy, Trust::Proven), (rebuilt, Trust::Unproven)] {
        execute(
            "INSERT INTO holdfast.backend (backend, trust) VALUES ($1, $2)
             ON CONFLICT (backend) DO UPDATE SET trust = excluded.trust",
            &[backend.into(), trust.as_str().into()],
        );
    }
    execute(
        "INSERT INTO holdfast.migration (phase, mode, default_backend, default_owner, begun_at, ends_on)
         VALUES ('shared', 'observe', $1, $1, pg_catalog.now(), $2)
         ON CONFLICT (singleton) DO UPDATE SET phase = excluded.phase, mode = excluded.mode,
             default_backend = excluded.default_backend, default_owner = excluded.default_owner,
             begun_at = excluded.begun_at, ends_on = excluded.ends_on",
        &[legacy.into(), ends_on.into()],
    );
    notify(&serde_json::json!({ "event": "migration", "phase": "shared", "legacy": legacy, "rebuilt": rebuilt }));
}

/// Registers a backend.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_backend(backend: Option<&str>, trust: Option<&str>) {
    let backend = bounds::name(backend, "backend");
    let trust: Trust = parsed(required(trust, "trust"), "trust", Trust::NAMES);
    let added = affected(
        "INSERT INTO holdfast.backend (backend, trust) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING backend",
        &[backend.into(), trust.as_str().into()],
    );
    if added == 0 {
        error(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("backend \"{backend}\" already exists"),
            "",
            "Change its trust with SELECT holdfast.set_trust(...).",
        );
    }
    settle_phase();
}

/// Changes how far a backend is trusted. A backend that owns tenants can't be retired.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_trust(backend: Option<&str>, trust: Option<&str>) {
    let (backend, trust) = (required(backend, "backend"), required(trust, "trust"));
    let trust: Trust = parsed(trust, "trust", Trust::NAMES);
    let session = if trust == Trust::Retired { without_handovers() } else { facts() };
    let backend = known_backend(&session, backend);
    if trust == Trust::Retired {
        refuse_owner(&session, backend);
    }
    execute("UPDATE holdfast.backend SET trust = $2 WHERE backend = $1", &[backend.into(), trust.as_str().into()]);
    settle_phase();
}

/// Sets the backend of sessions that no identity rule matches; NULL = none: they may not write guarded tables.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_default_backend(backend: Option<&str>) {
    let session = facts();
    let backend = backend.map(|b| known_backend(&session, b));
    execute(
        "INSERT INTO holdfast.migration (default_backend) VALUES ($1)
         ON CONFLICT (singleton) DO UPDATE SET default_backend = excluded.default_backend",
        &[backend.into()],
    );
}

/// Sets the mode: everywhere, or for a backend, a rule, or both. NULL with a backend or a rule takes that exception back.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_mode(mode: Option<&str>, backend: default!(Option<&str>, "NULL"), rule: default!(Option<&str>, "NULL")) {
    let session = facts();
    let mode: Option<Mode> = mode.map(|m| parsed(m, "mode", Mode::NAMES));
    let backend = backend.map(|b| known_backend(&session, b));
    let rule: Option<Rule> = rule.map(|r| {
        let names: Vec<_> = Rule::ALL.iter().map(|r| r.name()).collect();
        parsed(r, "rule", &names.join(", "))
    });
    let (word, rule) = (mode.map(Mode::as_str), rule.map(Rule::name));
    if backend.is_none() && rule.is_none() {
        execute(
            "INSERT INTO holdfast.migration (mode) VALUES ($1)
             ON CONFLICT (singleton) DO UPDATE SET mode = excluded.mode",
            &[required(word, "mode").into()],
        );
    } else {
        execute(
            "DELETE FROM holdfast.mode_override
             WHERE backend IS NOT DISTINCT FROM $1 AND rule IS NOT DISTINCT FROM $2",
            &[backend.into(), rule.into()],
        );
        if word.is_some() {
            execute(
                "INSERT INTO holdfast.mode_override (backend, rule, mode) VALUES ($1, $2, $3)",
                &[backend.into(), rule.into(), word.into()],
            );
        }
    }
    notify(&serde_json::json!({ "event": "mode", "mode": word, "backend": backend, "rule": rule }));
}

/// The day by which a migration should end must be yet to come, and one that somebody can have meant.
pub(super) fn check_end(ends_on: Date) {
    let message = match fetch::<i32>(
        "SELECT CASE WHEN $1 <= current_date THEN -1 WHEN $1 > current_date + interval '10 years' THEN 1 ELSE 0 END",
        &[ends_on.into()],
    ) {
        Some(0) => return,
        Some(1) => "a migration must end within 10 years",
        _ => "a migration must end in the future",
    };
    error(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message,
        "",
        "Give the day by which the guard should be gone, for example current_date + 90.",
    );
}
