//! Whether a tenant is ready to be handed over. What is asked, and what the answers mean, is in `policy::readiness`; here are the
//! facts.

use std::cell::Cell;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{JsonB, PgSqlErrorCode, name, pg_extern, search_path};

use super::exclusion::tag_arguments;
use super::ownership::{canonical, key, no_migration, owner_in};
use super::{execute, facts, fetch, fetch_again, known_backend, required};
use crate::pg::locks::Tag;
use crate::pg::prepared::Prepared;
use crate::pg::report::error;
use crate::pg::session::{self, Session};
use crate::pg::{end_date, gucs, relation};
use crate::policy::ownership::TenantState;
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
    let previous = state.as_ref().and_then(TenantState::way_back);
    let handover = Handover { from: &from, to, previous, soak: &soak(&session, &tenant) };
    let rows = with_essentials(&session, &handover, |facts| readiness::readiness(facts, &surroundings(&tenant, to)));
    TableIterator::new(rows.into_iter().map(|row| (row.name.to_owned(), row.ok, row.blocking, row.detail)))
}

/// Raises an error unless the tenant is ready. Asked before the lock, and again under it: nothing of it waits, and after the first
/// time all that it reads is in this process's caches.
pub(super) fn demand(session: &Session, tenant: &TenantKey, handover: &Handover) {
    let obstacles = with_essentials(session, handover, readiness::obstacles);
    let to = handover.to;
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
             holdfast.cutover({tenant_literal}, {to_literal}, require_ready => false)."
        ),
    )
}

/// What is to be judged.
pub(super) struct Handover<'a> {
    pub from: &'a str,
    pub to: &'a str,
    /// To whom a rollback leads.
    pub previous: Option<&'a str>,
    pub soak: &'a Soak,
}

fn with_essentials<R>(session: &Session, handover: &Handover, judge: impl FnOnce(&Essentials) -> R) -> R {
    judge(&Essentials {
        policy: &session.policy.set,
        database: &session::database_name(),
        enabled: gucs::enabled(),
        from: Some(handover.from),
        to: handover.to,
        was_owner: handover.previous == Some(handover.to),
        tables: tables(session),
        today: end_date::today(),
        soak: handover.soak,
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
            let name = table.child.as_ref().map_or(&table.name, |(child, _)| child).to_string();
            tables.damaged.push((name, table.guard));
        }
    }
    // A child by inheritance is found by itself and by its parents.
    tables.damaged.sort_by(|one, other| one.0.cmp(&other.0));
    tables.damaged.dedup_by(|one, other| one.0 == other.0);
    tables
}

/// What is said of tenant `$1`, if it is in a wave; with a mark before it if that is what it waits for.
const SOAK_SQL: &str = "
SELECT coalesce(
     (SELECT pg_catalog.format('!Wave \"%s\", which goes before the tenant''s, is in state %s.', before.wave, before.state)
      FROM holdfast.wave before WHERE before.id < w.id AND before.state NOT IN ('passed', 'aborted')
      ORDER BY before.id LIMIT 1),
     CASE WHEN w.state = 'halted' OR w.state = 'halting'
         THEN pg_catalog.format('!Its wave \"%s\" was halted.', w.wave) END,
     CASE WHEN w.stage = 'canaries' AND NOT t.canary
         THEN pg_catalog.format('!The canaries of its wave \"%s\" have not soaked yet.', w.wave) END,
     pg_catalog.format('Nobody goes before it in its wave \"%s\" any more.', w.wave))
 FROM holdfast.wave_tenant t JOIN holdfast.wave w ON w.id = t.wave_id
 WHERE t.tenant = $1 AND t.state = 'waiting' AND w.state NOT IN ('passed', 'aborted')
 ORDER BY w.id LIMIT 1";

thread_local! {
    static SOAK: Cell<Option<Prepared>> = const { Cell::new(None) };
}

/// What the tenant's wave waits for: the waves before it, and its own canaries.
pub(super) fn soak(session: &Session, tenant: &TenantKey) -> Soak {
    if !session.policy.set.waves_open {
        return Soak::InNoWave;
    }
    let waits = fetch_again::<String>(&SOAK, SOAK_SQL, &[key(tenant)]);
    match waits {
        None => Soak::InNoWave,
        Some(told) => match told.strip_prefix('!') {
            Some(told) => Soak::Pending(told.to_owned()),
            None => Soak::Fulfilled(told),
        },
    }
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

/// Has a check of readiness() block handovers, or not; NULL = as by default.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_check(name: Option<&str>, blocking: Option<bool>) {
    let name = required(name, "name");
    let known = readiness::configurable();
    if !known.contains(&name) {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("check \"{name}\" can't be set"),
            "",
            format!("These can: {}.", known.join(", ")),
        );
    }
    match blocking {
        Some(blocking) => execute(
            "INSERT INTO holdfast.readiness_check (name, blocking) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET blocking = excluded.blocking",
            &[name.into(), blocking.into()],
        ),
        None => execute("DELETE FROM holdfast.readiness_check WHERE name = $1", &[name.into()]),
    }
}
