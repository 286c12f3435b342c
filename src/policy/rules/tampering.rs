//! `guard_tampering`.

use super::{Attempt, Refusal, Rule, TableName, literal, table, table_literal};
use crate::policy::surface::{GuardState, Table, TableClass, TenantSource};

impl Refusal {
    /// `guard_tampering`: the table is registered, but its trigger can't be relied on.
    pub fn unreliable_guard(attempt: Attempt, written: &Table) -> Refusal {
        let state = written.guard;
        let message = match &written.child {
            Some((child, _)) => format!(
                "the guard of table \"{}\", which inherits from table \"{}\", {}",
                child.name,
                table(&attempt),
                state.predicate()
            ),
            None => format!("the guard of table \"{}\" {}", table(&attempt), state.predicate()),
        };
        let relation = table_literal(&attempt);
        let put_back = match &written.class {
            TableClass::Tenant(TenantSource::Columns(columns)) => {
                format!("SELECT holdfast.guard_table({relation}, {});", literal(&columns.to_string()))
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

    /// `guard_tampering`: a command that would leave the table worse guarded than it found it, or `child`, which inherits from
    /// it.
    pub fn damaged_guard(attempt: Attempt, after: GuardState, child: Option<&TableName>) -> Refusal {
        let message = format!("{} would damage the guard of table \"{}\"", attempt.command, table(&attempt));
        // By DISABLE TRIGGER as by ENABLE TRIGGER, which leaves it out of replication's sessions.
        let disabled = after == GuardState::Disabled;
        let left = if disabled { "would not fire in every session" } else { after.predicate() };
        let named = if disabled {
            "Name the triggers that are meant, in place of ALL or USER. Otherwise: take"
        } else {
            "Take"
        };
        let (reason, hint) = match child {
            Some(child) => (
                format!("Afterwards table \"{child}\", which inherits from it, would not be guarded as it is."),
                format!("Guard table \"{child}\" as the other one is before it inherits from that."),
            ),
            None => (
                format!("Afterwards the guard of the table {left}."),
                format!(
                    "{named} the table out of the guard first: SELECT holdfast.unguard_table({}); or run it in break-glass: {BREAK_GLASS}",
                    table_literal(&attempt)
                ),
            ),
        };
        Refusal::new(Rule::GuardTampering, attempt, message, &reason, hint)
    }

    /// `guard_tampering`: a command that would change a part of the extension. `object` is worded as Postgres words it.
    pub fn part_of_guard(attempt: Attempt, object: &str) -> Refusal {
        let message = format!("{} would change {object}, which is part of the guard", attempt.command);
        let hint = format!("An operator runs it in break-glass: {BREAK_GLASS}");
        Refusal::new(Rule::GuardTampering, attempt, message, "", hint)
    }

    /// `guard_tampering`: a command that would add something to the extension's schema.
    pub fn newcomer(attempt: Attempt, object: &str) -> Refusal {
        let message = format!("{} would put {object} into the schema of the guard", attempt.command);
        let hint = "Name another schema, one of the application.".to_owned();
        Refusal::new(Rule::GuardTampering, attempt, message, "", hint)
    }

    /// `guard_tampering`: a table of the extension, written by hand.
    pub fn own_table(attempt: Attempt) -> Refusal {
        let message = format!("table \"{}\" is written by the functions of its schema only", table(&attempt));
        let hint = format!("Call the function that does what you want, or run it in break-glass: {BREAK_GLASS}");
        Refusal::new(Rule::GuardTampering, attempt, message, "", hint)
    }
}

const BREAK_GLASS: &str = "SELECT holdfast.break_glass('...');";
