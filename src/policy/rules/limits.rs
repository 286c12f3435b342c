//! How much: `cross_tenant`, `row_budget`, `cascade`.

use super::{Attempt, Refusal, Rule, literal, name, table};
use crate::policy::limits::Scope;

impl Refusal {
    /// `cross_tenant`: the statement has come to one tenant more than it may write.
    pub fn cross_tenant(attempt: Attempt, limit: u64) -> Refusal {
        let backend = name(&attempt.backend);
        let message = format!("a statement of backend \"{backend}\" writes more than {}", count(limit, "tenant"));
        let reason = format!("Limit: {limit} per statement. Count: {}.", limit.saturating_add(1));
        let hint = format!(
            "Write one tenant at a time, or raise the limit: SELECT holdfast.set_limits({}, tenants_per_statement => ...);",
            literal(backend)
        );
        Refusal::new(Rule::CrossTenant, attempt, message, &reason, hint)
    }

    /// `row_budget`: the statement or the transaction has come to one row more than it may write.
    pub fn row_budget(attempt: Attempt, scope: Scope, limit: u64) -> Refusal {
        let backend = name(&attempt.backend);
        let (what, parameter) = match scope {
            Scope::Statement => ("statement", "rows_per_statement"),
            Scope::Transaction => ("transaction", "rows_per_transaction"),
        };
        let message = format!("a {what} of backend \"{backend}\" writes more than {}", count(limit, "row"));
        let reason = format!("Limit: {limit} per {what}. Count: {}.", limit.saturating_add(1));
        let hint = format!(
            "Write fewer rows at a time, or raise the limit: SELECT holdfast.set_limits({}, {parameter} => ...);",
            literal(backend)
        );
        Refusal::new(Rule::RowBudget, attempt, message, &reason, hint)
    }

    /// `cascade`: foreign keys lead the statement further than it may go.
    pub fn cascade(attempt: Attempt, reached: Reached, way: &Way) -> Refusal {
        let backend = name(&attempt.backend);
        let beyond = match reached {
            Reached::Tenant => "rows of another tenant".to_owned(),
            Reached::Global => format!("global table \"{}\"", table(&attempt)),
            Reached::Rows(limit) => format!("more than {}", count(limit, "row")),
        };
        let message = format!("a statement of backend \"{backend}\" cascades to {beyond}");
        let mut reason = format!("Path: {}.", way.path.join(" \u{2192} "));
        if let Some(row) = &way.row {
            reason.push_str(&format!(" First row: {row}."));
        }
        if let Reached::Rows(limit) = reached {
            reason.push_str(&format!(" Limit: {limit} per statement. Count: {}.", limit.saturating_add(1)));
        }
        let hint = match reached {
            Reached::Rows(_) => format!(
                "Write fewer rows at a time, or raise the limit: SELECT holdfast.set_limits({}, cascade_rows => ...);",
                literal(backend)
            ),
            _ => "See first what a DELETE takes with it: SELECT * FROM holdfast.cascade_preview(...);".to_owned(),
        };
        Refusal::new(Rule::Cascade, attempt, message, &reason, hint)
    }
}

/// What a cascade must not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// A tenant that isn't the statement's, or isn't the backend's.
    Tenant,
    /// A table whose rows belong to everybody.
    Global,
    /// One row more than this limit.
    Rows(u64),
}

/// How a cascade came there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The tables, from the one that the statement names to the one that it reached.
    pub path: Vec<String>,
    /// The row, by its primary key.
    pub row: Option<String>,
}

/// `1 row`, `2 rows`.
fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}
