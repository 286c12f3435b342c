//! What a DBA should look at before trusting the guard, and from time to time. A check is a query: each row that it gives is a
//! finding.

mod audit;
mod identity;
mod policy;
mod server;

use pgrx::iter::TableIterator;
use pgrx::{Spi, name, pg_extern, search_path};

use super::internal;
use crate::pg::session;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// Writes may pass that shouldn't, or events may be lost.
    Error,
    /// It stands, but by less than it should.
    Warning,
    /// Good to know.
    Notice,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// A check.
struct Check {
    severity: Severity,
    /// What it finds, in a word that doesn't change.
    finding: &'static str,
    /// Gives a detail and a hint, both sentences, for each finding. `$1` is the library's version.
    sql: &'static str,
}

const fn check(severity: Severity, finding: &'static str, sql: &'static str) -> Check {
    Check { severity, finding, sql }
}

/// The first names of many, and that there are more; for queries that group all rows.
macro_rules! listed {
    ($name:literal) => {
        concat!(
            "array_to_string((array_agg(",
            $name,
            " ORDER BY ",
            $name,
            "))[1:5], ', ') || CASE WHEN count(*) > 5 THEN format(' and %s more', count(*) - 5) ELSE '' END"
        )
    };
}
use listed;

/// One row for each finding, the most urgent first.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn check_setup()
-> TableIterator<'static, (name!(severity, String), name!(finding, String), name!(detail, String), name!(hint, String))>
{
    let checks = [server::CHECKS, audit::CHECKS, identity::CHECKS, policy::CHECKS];
    let mut found: Vec<_> = checks.into_iter().flatten().flat_map(run).collect();
    found.sort_by_key(|(severity, ..)| *severity);
    TableIterator::new(
        found
            .into_iter()
            .map(|(severity, finding, detail, hint)| (severity.as_str().to_owned(), finding.to_owned(), detail, hint)),
    )
}

fn run(check: &Check) -> Vec<(Severity, &'static str, String, String)> {
    let version = if check.sql.contains("$1") { vec![env!("CARGO_PKG_VERSION").into()] } else { Vec::new() };
    let rows = session::operate(|| {
        Spi::connect(|client| {
            let rows = client.select(check.sql, None, &version)?;
            rows.map(|row| Ok((row.get::<String>(1)?.unwrap_or_default(), row.get::<String>(2)?.unwrap_or_default())))
                .collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    });
    match rows {
        Ok(rows) => rows.into_iter().map(|(detail, hint)| (check.severity, check.finding, detail, hint)).collect(),
        Err(failure) => internal(failure),
    }
}
