//! Commands: `unfiltered_write`, `destructive_command`.

use super::{Attempt, Refusal, Rule, name, table};

impl Refusal {
    /// `unfiltered_write`: every row of the table would be written.
    pub fn unfiltered_write(attempt: Attempt) -> Refusal {
        let message = format!("{} without a condition on table \"{}\"", attempt.command, table(&attempt));
        let hint = "Add a WHERE clause that limits the rows, for example to one tenant.".to_owned();
        Refusal::new(Rule::UnfilteredWrite, attempt, message, "No condition limits the rows of the table.", hint)
    }

    /// `destructive_command`. `object` is worded as Postgres words it, for example `table public.agents`.
    pub fn destructive_command(attempt: Attempt, object: &str) -> Refusal {
        let backend = name(&attempt.backend);
        let message = format!("backend \"{backend}\" may not {} {object}", attempt.command);
        let hint = "Have a database administrator run it through a role of a proven backend.".to_owned();
        Refusal::new(Rule::DestructiveCommand, attempt, message, "", hint)
    }
}
