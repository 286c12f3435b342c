//! How much: `cross_tenant`, `row_budget`, `cascade`.

use super::{Attempt, Refusal, Rule, literal, name};
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
}

/// `1 row`, `2 rows`.
fn count(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}
