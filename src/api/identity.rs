//! Identity: the rules that say which backend a session belongs to, and the answer.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{Inet, PgSqlErrorCode, default, name, pg_extern, search_path};

use super::glass::broken_until;
use super::{affected, bounds, facts, fetch, known_backend, required};
use crate::pg::report::error;
use crate::pg::session;
use crate::policy::identity::{Identity, Source};

/// Adds an identity rule; its number. A condition left out holds for every session; at least one must be given.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_identity(
    backend: Option<&str>,
    role: default!(Option<&str>, "NULL"),
    database: default!(Option<&str>, "NULL"),
    application_name: default!(Option<&str>, "NULL"),
    client_network: default!(Option<Inet>, "NULL"),
    priority: default!(Option<i32>, "100"),
) -> i64 {
    let session = facts();
    let backend = known_backend(&session, required(backend, "backend"));
    let priority = required(priority, "priority");
    let application_name = bounds::pattern(application_name, "application_name");
    if role.is_none() && database.is_none() && application_name.is_none() && client_network.is_none() {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "an identity rule needs a condition",
            "Without one it would match every session.",
            "Give a role, database, application_name or client_network, or use SELECT holdfast.set_default_backend(...).",
        );
    }
    exists(role, "role", "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)");
    exists(database, "database", "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)");
    let network = client_network.map(|n| n.0);
    fetch(
        "INSERT INTO holdfast.identity (backend, role, database, application_name, client_network, priority, role_name)
         VALUES ($1, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $2), $3, $4, pg_catalog.network($5::pg_catalog.inet), $6, $2) RETURNING id",
        &[backend.into(), role.into(), database.into(), application_name.into(), network.into(), priority.into()],
    )
    .unwrap_or_default()
}

fn exists(name: Option<&str>, what: &str, query: &str) {
    let Some(name) = name else { return };
    if fetch::<bool>(query, &[name.into()]) != Some(true) {
        error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("{what} \"{name}\" does not exist"),
            "",
            format!("The name is taken as it is, without folding its case; create the {what} first."),
        );
    }
}

/// Removes an identity rule.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_identity(id: Option<i64>) {
    let id = required(id, "id");
    if affected("DELETE FROM holdfast.identity WHERE id = $1 RETURNING id", &[id.into()]) == 0 {
        error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("identity rule {id} does not exist"),
            "",
            "See SELECT * FROM holdfast.identities;",
        );
    }
}

/// The backend of this session; NULL = unidentified.
#[pg_extern(stable, parallel_restricted)]
fn current_backend() -> Option<String> {
    backend(&session::load()?.who.identity)
}

/// Who this session is, and why.
#[pg_extern(stable, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn whoami() -> TableIterator<
    'static,
    (
        name!(backend, Option<String>),
        name!(trust, Option<String>),
        name!(source, String),
        name!(base_backend, Option<String>),
        name!(session_role, String),
        name!(application_name, Option<String>),
        name!(client_addr, Option<Inet>),
        name!(mode, String),
        name!(break_glass_until, Option<TimestampWithTimeZone>),
    ),
> {
    let session = facts();
    let identity = &session.who.identity;
    TableIterator::once((
        backend(identity),
        identity.trust().map(|t| t.as_str().to_owned()),
        source(identity.source),
        identity.base.clone(),
        session.who.login_role.clone(),
        session::application_name(),
        session::client_address().map(|a| Inet(a.to_string())),
        session.policy.set.modes.general(identity.name()).as_str().to_owned(),
        broken_until(&session),
    ))
}

/// The backend, if the session may act for it.
fn backend(identity: &Identity) -> Option<String> {
    identity.name().filter(|_| !identity.is_unidentified()).map(str::to_owned)
}

fn source(source: Source) -> String {
    match source {
        Source::Rule(id) => format!("identity rule {id}"),
        Source::Default => "default backend".to_owned(),
        Source::Token => "token".to_owned(),
        Source::Setting => "setting holdfast.backend".to_owned(),
        Source::Nothing => "no identity rule matches, and there is no default backend".to_owned(),
        Source::Unknown => "setting holdfast.backend names no backend".to_owned(),
        Source::Lent => "code that runs in the course of maintenance belongs to no backend".to_owned(),
    }
}
