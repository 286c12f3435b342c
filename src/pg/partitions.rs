//! Partitions that come and go stay guarded: what is detached holds the same tenants' rows as before, and what is attached gets
//! its guard from the whole.

use pgrx::{PgSqlErrorCode, Spi, pg_sys};

use super::catalog::Classification;
use super::session::{self, Session};
use super::types::Regclass;
use super::{relation, report};
use crate::policy::columns::KeyColumns;

/// Guards a table as the partitioned table was that it has left. Whoever detached it needs no privilege for that.
pub fn keep_guard(session: &Session, table: pg_sys::Oid, left: pg_sys::Oid) {
    let Some(classification) = session.policy.classified.get(&left.to_u32()) else { return };
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
