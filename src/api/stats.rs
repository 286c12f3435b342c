//! What was counted: the view `stats`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern, search_path};

use super::facts;
use crate::pg::stats::{self, Counted};
use crate::policy::rules::Rule;

/// Shown as the backend of what could not be told apart.
pub(super) const OTHERS: &str = "(others)";

/// What the view `stats` shows: for each backend the rules that were asked.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn rule_counts() -> TableIterator<
    'static,
    (
        name!(backend, Option<String>),
        name!(rule, String),
        name!(checked, i64),
        name!(passed, i64),
        name!(observed, i64),
        name!(refused, i64),
        name!(break_glass, i64),
        name!(since, Option<TimestampWithTimeZone>),
    ),
> {
    let (counted, others) = stats::counted(&facts());
    let others = others.map(|others| Counted { backend: Some(OTHERS.to_owned()), ..others });
    let rows: Vec<_> = counted.into_iter().chain(others).flat_map(lines).collect();
    TableIterator::new(rows)
}

type Line = (Option<String>, String, i64, i64, i64, i64, i64, Option<TimestampWithTimeZone>);

fn lines(counted: Counted) -> impl Iterator<Item = Line> {
    let Counted { backend, since, tally } = counted;
    Rule::ALL.iter().filter_map(move |rule| {
        let figures = tally.of(*rule);
        (figures.checked > 0).then(|| {
            (
                backend.clone(),
                rule.name().to_owned(),
                figures.checked as i64,
                figures.passed as i64,
                figures.observed as i64,
                figures.refused as i64,
                figures.break_glass as i64,
                TimestampWithTimeZone::try_from(since).ok(),
            )
        })
    })
}

/// Begins to count anew in this database.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn stats_reset() {
    stats::reset(&facts());
}
