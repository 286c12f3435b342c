//! Whether a tenant is ready to be handed over. What is asked, and what the answers mean, is in `policy::readiness`; here are the
//! facts.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode, name, pg_extern, search_path};

use super::exclusion::tag_arguments;
use super::ownership::{canonical, key, no_migration, owner_in};
use super::{facts, fetch, known_backend, required};
use crate::pg::locks::Tag;
use crate::pg::report::error;
use crate::pg::session::{self, Session};
use crate::pg::{end_date, gucs, relation};
use crate::policy::readiness::{self, Essentials, Soak, Surroundings, Tables};
use crate::policy::rules::literal;
use crate::policy::surface::{GuardState, TableClass};
use crate::policy::tenant::TenantKey;

/// Whether a tenant is ready to be handed to a backend: a row for each check. Changes nothing and locks nobody out.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn readiness(
    tenant: Option<&str>,
    to_backend: Option<&str>,
) -> TableIterator<'static, (name!(name, String), name!(ok, bool), name!(blocking, bool), name!(detail, String))> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let to = known_backend(&session, required(to_backend, "to_backend"));
    let state = session.catalog.committed_tenant_state(&tenant);
    let from = owner_in(&session, state.as_ref()).unwrap_or_else(|| no_migration(&tenant));
    let previous = state.as_ref().and_then(|s| s.previous_owner.as_deref());
    let rows = with_essentials(&session, &tenant, &from, to, previous, |essentials| {
        readiness::readiness(essentials, &surroundings(&tenant, to))
    });
    TableIterator::new(rows.into_iter().map(|row| (row.name.to_owned(), row.ok, row.blocking, row.detail)))
}

/// Raises an error unless the tenant is ready. Asked before the lock, and again under it: nothing of it waits, and after the first
/// time all that it reads is in this process's caches.
pub(super) fn demand(session: &Session, tenant: &TenantKey, from: &str, to: &str, previous: Option<&str>) {
    let obstacles = with_essentials(session, tenant, from, to, previous, readiness::obstacles);
    if obstacles.is_empty() {
        return;
    }
    let failed: Vec<String> = obstacles.iter().map(|row| format!("{}: {}", row.name, row.detail)).collect();
    let (tenant_literal, to_literal) = (literal(tenant.as_str()), literal(to));
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("tenant \"{tenant}\" is not ready to be handed to backend \"{to}\""),
        format!("{} Nothing has changed.", failed.join(" ")),
        format!(
            "See SELECT * FROM holdfast.readiness({tenant_literal}, {to_literal}); what can't wait goes with \
             require_ready => false."
        ),
    )
}

fn with_essentials<R>(
    session: &Session,
    tenant: &TenantKey,
    from: &str,
    to: &str,
    previous: Option<&str>,
    judge: impl FnOnce(&Essentials) -> R,
) -> R {
    judge(&Essentials {
        policy: &session.policy.set,
        database: &session::database_name(),
        enabled: gucs::enabled(),
        from: Some(from),
        to,
        was_owner: previous == Some(to),
        tables: tables(session),
        today: end_date::today(),
        soak: soak(session, tenant),
    })
}

/// The guarded tables as writes of them would meet them.
fn tables(session: &Session) -> Tables {
    let mut tables = Tables::default();
    for oid in session.policy.classified.keys() {
        // A table that was dropped takes no rows.
        let Some(relation) = relation::facts(session, Oid::from(*oid)) else { continue };
        let table = &relation.table;
        if matches!(table.class, TableClass::Tenant(_)) {
            tables.tenant.push(*oid);
        }
        if table.class.guarded() && table.guard != GuardState::Enabled {
            tables.damaged.push((table.name.to_string(), table.guard));
        }
    }
    tables
}

/// What the tenant's wave waits for.
fn soak(_session: &Session, _tenant: &TenantKey) -> Soak {
    Soak::InNoWave
}

/// What only a look around tells.
fn surroundings(tenant: &TenantKey, to: &str) -> Surroundings {
    let mut arguments = vec![key(tenant), to.into()];
    arguments.extend(tag_arguments(Tag::tenant(tenant)));
    arguments.extend(tag_arguments(Tag::all()));
    let facts = fetch::<JsonB>(include_str!("readiness.sql"), &arguments);
    let facts = facts.map(|facts| serde_json::from_value(facts.0).map_err(|failure| failure.to_string()));
    match facts {
        Some(Ok(facts)) => facts,
        failure => error(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("holdfast: readiness could not be looked at: {failure:?}"),
            "",
            "",
        ),
    }
}
