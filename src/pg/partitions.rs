//! Partitions that come and go stay guarded: what is detached holds the same tenants' rows as before, and what is attached gets
//! its guard from the whole. A child by inheritance is a table of its own, to which Postgres gives no copy of the trigger: it
//! gets a guard like its parent's.

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use super::catalog::Classification;
use super::parents::ParentLink;
use super::session::{self, Session};
use super::types::Regclass;
use super::{columns, relation, report};
use crate::policy::columns::KeyColumns;
use crate::policy::surface::TableClass;

/// Guards a table as another is: the partitioned table that it has left. Whoever detached it needs no privilege for that.
pub fn keep_guard(session: &Session, table: pg_sys::Oid, as_is: pg_sys::Oid) {
    let Some(classification) = session.policy.classified.get(&as_is.to_u32()) else { return };
    let Classification { class, tenant_columns, via, tenant, .. } = classification;
    let table = Regclass(table);
    let columns = tenant_columns.as_ref().map(KeyColumns::unmistakable);
    succeed(session::operate(|| match class.as_str() {
        "tenant" => Spi::run_with_args(
            "SELECT holdfast.guard_table($1, $2, $3, $4)",
            &[table.into(), columns.as_deref().into(), via.as_deref().into(), tenant.as_deref().into()],
        ),
        "global" => Spi::run_with_args("SELECT holdfast.guard_global($1)", &[table.into()]),
        _ => Ok(()),
    }));
}

/// Guards a new child by inheritance as its parent is, unless somebody has said what it is, or nothing tells whose its rows are;
/// whether it did. What is temporary needs no guard.
pub fn guard_child(session: &Session, child: pg_sys::Oid, parent: pg_sys::Oid) -> bool {
    let Some(classification) = session.policy.classified.get(&parent.to_u32()) else { return false };
    let is_new = relation::facts(session, child).is_some_and(|r| r.table.class == TableClass::Unclassified);
    let columns = classification.tenant_columns.iter().flat_map(KeyColumns::names);
    let told = columns.clone().all(|column| columns::check(child, column).is_ok())
        && classification.via.as_ref().is_none_or(|via| ParentLink::find(child, via).is_ok());
    let can_be = is_new && told && relation::check_guardable(session, child).is_ok();
    if can_be {
        keep_guard(session, child, parent);
    }
    can_be
}

/// Takes the guard of its own from a table that is about to become part of a guarded one, whose trigger has the same name. Its
/// lock, which the transaction keeps, leaves no moment without a guard.
pub fn give_way(session: &Session, table: pg_sys::Oid, whole: pg_sys::Oid) {
    let guarded = |table| relation::facts(session, table).filter(|r| r.table.class.guarded());
    if guarded(whole).is_none() || guarded(table).is_none_or(|own| own.classified != table) {
        return;
    }
    let table = Regclass(table);
    succeed(session::operate(|| Spi::run_with_args("SELECT holdfast.unguard_table($1)", &[table.into()])));
}

fn succeed(outcome: Result<(), pgrx::spi::Error>) {
    if let Err(failure) = outcome {
        report::error(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("holdfast: {failure}"), "", "");
    }
}
