//! What may be written at all: `outside_surface`, `global_write`.

use super::{Attempt, Columns, Refusal, Rule, literal, name, not_allowed, table, table_literal, verb};

impl Refusal {
    /// `outside_surface`: the table is guarded, but this command (or these columns) were not allowed.
    pub fn outside_surface(attempt: Attempt, columns: &Columns) -> Refusal {
        let (message, hint) = not_allowed(&attempt, columns);
        let reason = match columns.beyond.as_slice() {
            [] => String::new(),
            beyond => format!("Outside the write surface: {}.", beyond.join(", ")),
        };
        Refusal::new(Rule::OutsideSurface, attempt, message, &reason, hint)
    }

    /// `outside_surface`: nobody has said yet what the table is.
    pub fn unclassified(attempt: Attempt) -> Refusal {
        let (message, _) = not_allowed(&attempt, &Columns::default());
        let table = table_literal(&attempt);
        let hint = format!(
            "Classify the table first: SELECT holdfast.guard_table({table}, tenant_column => '...'); or holdfast.guard_global({table}), or holdfast.exempt_table({table})."
        );
        Refusal::new(Rule::OutsideSurface, attempt, message, "The table is unclassified.", hint)
    }

    /// `outside_surface`: the backend is retired.
    pub fn retired(attempt: Attempt) -> Refusal {
        let backend = name(&attempt.backend);
        let message = format!("backend \"{backend}\" is retired and may not write");
        let hint =
            format!("Stop its clients, or bring it back: SELECT holdfast.set_trust({}, 'unproven');", literal(backend));
        Refusal::new(Rule::OutsideSurface, attempt, message, "", hint)
    }

    /// `outside_surface`: the table is private to another backend.
    pub fn private_to(attempt: Attempt, other: &str) -> Refusal {
        let (message, _) = not_allowed(&attempt, &Columns::default());
        let reason = format!("The table is private to backend \"{other}\".");
        Refusal::new(Rule::OutsideSurface, attempt, message, &reason, format!("Write it through backend \"{other}\"."))
    }

    /// `global_write`: a table whose rows belong to everybody.
    pub fn global_table(attempt: Attempt, columns: &Columns) -> Refusal {
        let backend = name(&attempt.backend);
        let message = format!("backend \"{backend}\" may not {} global table \"{}\"", verb(&attempt), table(&attempt));
        let (_, hint) = not_allowed(&attempt, columns);
        Refusal::new(Rule::GlobalWrite, attempt, message, "Rows of the table belong to every tenant.", hint)
    }

    /// `global_write`: a row of a tenant table that has no tenant.
    pub fn global_row(attempt: Attempt, tenant_column: &str) -> Refusal {
        let backend = name(&attempt.backend);
        let message =
            format!("backend \"{backend}\" may not {} global rows of table \"{}\"", attempt.command, table(&attempt));
        let reason = format!("Column \"{tenant_column}\" is null, so the row belongs to every tenant.");
        let hint = format!("Set \"{tenant_column}\", or have a proven backend write the row.");
        Refusal::new(Rule::GlobalWrite, attempt, message, &reason, hint)
    }

    /// `global_write`: a row whose parent, which would say whose it is, isn't there yet.
    pub fn orphan(attempt: Attempt, via: &str) -> Refusal {
        let backend = name(&attempt.backend);
        let message = format!(
            "backend \"{backend}\" may not {} rows of table \"{}\" before their parents",
            attempt.command,
            table(&attempt)
        );
        let reason = format!("Column \"{via}\" refers to no row, so nobody can tell whose the row is.");
        let hint = "Write the parent row first, or have a proven backend write the row.".to_owned();
        Refusal::new(Rule::GlobalWrite, attempt, message, &reason, hint)
    }
}
