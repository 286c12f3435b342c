//! The SQL functions, one file per part of the contract. They check their arguments, call `policy` and `pg`, and change
//! the policy tables through SPI.
//!
//! All but the four that sql/comments_and_grants.sql names are for operators: nobody else may execute them. They pin their
//! search_path, and their statements run as the extension's owner (`session::operate`). An argument that must not be null is
//! an `Option` all the same, so that NULL is an error and not, as it would be for a STRICT function, silently nothing.

mod access;
mod audit;
mod bounds;
mod cascade;
mod check_setup;
mod coverage;
mod cutover;
mod ending;
mod exclusion;
mod freeze;
mod glass;
mod guard_schema;
mod guarding;
mod identity;
mod keys;
mod limits;
mod metrics;
mod migration;
mod ownership;
mod readiness;
mod report;
mod stats;
mod surface;
mod waves;

use std::cell::Cell;
use std::thread::LocalKey;

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiTupleTable;
use pgrx::{FromDatum, IntoDatum, PgSqlErrorCode, Spi};

use crate::pg::prepared::Prepared;
use crate::pg::report::error;
use crate::pg::session::{self, Session};

/// The argument, which must not be null.
fn required<T>(argument: Option<T>, name: &str) -> T {
    match argument {
        Some(value) => value,
        None => error(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("parameter \"{name}\" must not be null"),
            "",
            "",
        ),
    }
}

/// A word that must be one of a list.
fn parsed<T: std::str::FromStr>(word: &str, what: &str, known: &str) -> T {
    match word.parse() {
        Ok(value) => value,
        Err(_) => error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("unknown {what} \"{word}\""),
            "",
            format!("Known are: {known}."),
        ),
    }
}

/// The session's facts, fresh.
fn facts() -> Session {
    match session::load() {
        Some(session) => session,
        None => error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the extension holdfast is not complete in this database",
            "",
            "Run CREATE EXTENSION holdfast.",
        ),
    }
}

/// A registered backend's name.
fn known_backend<'a>(session: &Session, backend: &'a str) -> &'a str {
    if !session.policy.set.knows(backend) {
        let mut known: Vec<_> = session.policy.set.backends.iter().map(|b| b.name.as_str()).collect();
        known.sort_unstable();
        let hint = match known.as_slice() {
            [] => {
                "Register backends with SELECT holdfast.begin_migration(...) or holdfast.add_backend(...).".to_owned()
            }
            known => {
                format!("Registered are: {}. Register another with SELECT holdfast.add_backend(...).", known.join(", "))
            }
        };
        error(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("backend \"{backend}\" does not exist"), "", hint);
    }
    backend
}

/// Runs a statement of ours. A failure is a bug or a damaged installation, and its own error has been raised by then.
fn execute(sql: &str, arguments: &[DatumWithOid]) {
    if let Err(failure) = session::operate(|| Spi::run_with_args(sql, arguments)) {
        internal(failure);
    }
}

/// Runs a statement of ours that gives one value.
fn fetch<T: FromDatum + IntoDatum>(sql: &str, arguments: &[DatumWithOid]) -> Option<T> {
    match session::operate(|| Spi::get_one_with_args(sql, arguments)) {
        Ok(value) => value,
        Err(pgrx::spi::Error::InvalidPosition) => None,
        Err(failure) => internal(failure),
    }
}

/// Where a statement stays that runs often; see [`fetch_again`].
type Kept = LocalKey<Cell<Option<Prepared>>>;

/// Runs a statement of ours that gives one value, and keeps its plan for the next time.
fn fetch_again<T: FromDatum + IntoDatum>(
    kept: &'static Kept,
    sql: &'static str,
    arguments: &[DatumWithOid],
) -> Option<T> {
    /// Puts it back, also when an error comes by.
    struct Borrowed(&'static Kept, Option<Prepared>);
    impl Drop for Borrowed {
        fn drop(&mut self) {
            self.0.set(self.1.take());
        }
    }
    let mut borrowed = Borrowed(kept, kept.take());
    let statement = borrowed.1.get_or_insert_with(|| Prepared::new(sql));
    match session::operate(|| statement.run(arguments, |rows| rows.first().get_one())) {
        Ok(value) => value,
        Err(pgrx::spi::Error::InvalidPosition) => None,
        Err(failure) => internal(failure),
    }
}

/// Runs a statement of ours that changes rows; how many.
fn affected(sql: &str, arguments: &[DatumWithOid]) -> usize {
    let count = |rows: SpiTupleTable| rows.len();
    let changed = session::operate(|| Spi::connect_mut(|client| client.update(sql, None, arguments).map(count)));
    match changed {
        Ok(rows) => rows,
        Err(failure) => internal(failure),
    }
}

fn internal(failure: pgrx::spi::Error) -> ! {
    error(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("holdfast: {failure}"), "", "")
}
