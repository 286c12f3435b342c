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
    pub fn destructive_command(attempt: Attempt, object: Option<&str>) -> Refusal {
        let (backend, command) = (name(&attempt.backend), &attempt.command);
        let what = match object {
            Some(object) if matches!(command.as_str(), "DROP" | "TRUNCATE") => format!("{command} {object}"),
            Some(object) => format!("run {command} on {object}"),
            None => format!("run {command}"),
        };
        let message = format!("backend \"{backend}\" may not {what}");
        let hint = "Have a database administrator run it through a role of a proven backend.".to_owned();
        Refusal::new(Rule::DestructiveCommand, attempt, message, "", hint)
    }
}
