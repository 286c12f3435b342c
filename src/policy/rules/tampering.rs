//! `guard_tampering`.

use super::{Attempt, Refusal, Rule, literal, table, table_literal};
use crate::policy::surface::{GuardState, TableClass, TenantSource};

impl Refusal {
    /// `guard_tampering`: the table is registered, but its trigger can't be relied on.
    pub fn guard_tampering(attempt: Attempt, state: GuardState, class: &TableClass) -> Refusal {
        let message = format!("the guard of table \"{}\" {}", table(&attempt), state.predicate());
        let relation = table_literal(&attempt);
        let put_back = match class {
            TableClass::Tenant(TenantSource::Column(column)) => {
                format!("SELECT holdfast.guard_table({relation}, {});", literal(column))
            }
            TableClass::Tenant(TenantSource::Parent(via)) => {
                format!("SELECT holdfast.guard_table({relation}, via => {});", literal(via))
            }
            TableClass::Tenant(TenantSource::Constant(tenant)) => {
                format!("SELECT holdfast.guard_table({relation}, tenant => {});", literal(tenant))
            }
            _ => format!("SELECT holdfast.guard_global({relation});"),
        };
        let hint = match state {
            GuardState::Overtaken => format!(
                "Drop the triggers that fire after it, or rename them so that they sort before it; if it was renamed itself: {put_back}"
            ),
            GuardState::Pathless => {
                format!("Name a column of the foreign key that leads to a guarded table now: {put_back}")
            }
            GuardState::Columnless => format!("Name the column that holds the tenant now: {put_back}"),
            _ => format!("Put it back: {put_back}"),
        };
        Refusal::new(Rule::GuardTampering, attempt, message, "", hint)
    }
}
