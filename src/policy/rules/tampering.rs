//! `guard_tampering`.

use super::{Attempt, Refusal, Rule, literal, table, table_literal};
use crate::policy::surface::GuardState;

impl Refusal {
    /// `guard_tampering`: the table is registered, but its trigger can't be relied on.
    pub fn guard_tampering(attempt: Attempt, state: GuardState, tenant_column: &str) -> Refusal {
        let message = format!("the guard of table \"{}\" {}", table(&attempt), state.predicate());
        let put_back = format!("SELECT holdfast.guard_table({}, {});", table_literal(&attempt), literal(tenant_column));
        let hint = match state {
            GuardState::Overtaken => format!(
                "Drop the triggers that fire after it, or rename them so that they sort before it; if it was renamed itself: {put_back}"
            ),
            GuardState::Columnless => format!("Name the column that holds the tenant now: {put_back}"),
            _ => format!("Put it back: {put_back}"),
        };
        Refusal::new(Rule::GuardTampering, attempt, message, "", hint)
    }
}
