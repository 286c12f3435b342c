//! The write surface: what an unproven backend may write.

use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::guarding::classified;
use super::{affected, execute, facts, known_backend, parsed, required};
use crate::pg::report::error;
use crate::pg::types::Regclass;
use crate::pg::{columns, relation, session::Session};
use crate::policy::surface::{TableClass, WriteCommand};

/// Lets a backend run commands on a table; `columns` limits what INSERT may name and UPDATE may set. What was allowed for
/// these commands before is replaced.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn allow_writes(
    backend: Option<&str>,
    relation: Option<Regclass>,
    commands: default!(Option<Vec<Option<String>>>, "'{insert,update,delete}'"),
    columns: default!(Option<Vec<Option<String>>>, "NULL"),
) {
    let session = facts();
    let backend = known_backend(&session, required(backend, "backend"));
    let relation = classified(&session, required(relation, "relation"));
    let commands = commands_of(commands);
    let columns = columns.map(|columns| columns_of(&session, relation, columns));
    for command in commands {
        // DELETE names no columns.
        let columns = if command == WriteCommand::Delete { None } else { columns.clone() };
        execute(
            "INSERT INTO holdfast.write_permission (backend, relation, command, columns) VALUES ($1, $2, $3, $4)
             ON CONFLICT (backend, relation, command) DO UPDATE SET columns = excluded.columns",
            &[backend.into(), relation.into(), command.word().into(), columns.into()],
        );
    }
}

/// Takes commands on a table back from a backend.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disallow_writes(
    backend: Option<&str>,
    relation: Option<Regclass>,
    commands: default!(Option<Vec<Option<String>>>, "'{insert,update,delete}'"),
) {
    let session = facts();
    let backend = known_backend(&session, required(backend, "backend"));
    let relation = required(relation, "relation");
    let words: Vec<_> = commands_of(commands).into_iter().map(WriteCommand::word).collect();
    affected(
        "DELETE FROM holdfast.write_permission WHERE backend = $1 AND relation = $2 AND command = ANY ($3)",
        &[backend.into(), relation.into(), words.into()],
    );
}

fn commands_of(commands: Option<Vec<Option<String>>>) -> Vec<WriteCommand> {
    let commands = required(commands, "commands");
    if commands.is_empty() {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "parameter \"commands\" must not be empty",
            "",
            format!("Known are: {}.", WriteCommand::NAMES),
        );
    }
    commands.iter().map(|c| parsed(required(c.as_deref(), "commands"), "command", WriteCommand::NAMES)).collect()
}

fn columns_of(session: &Session, relation: Regclass, columns: Vec<Option<String>>) -> Vec<String> {
    let columns: Vec<_> = columns.into_iter().map(|c| required(c, "columns")).collect();
    if columns.is_empty() {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "parameter \"columns\" must not be empty",
            "A backend that may write no column may not write at all.",
            "Leave columns out to allow all, or use SELECT holdfast.disallow_writes(...).",
        );
    }
    for column in &columns {
        if !columns::exists(relation.0, column) {
            let table = relation::facts(session, relation.0).map(|r| r.table.name.to_string()).unwrap_or_default();
            error(
                PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                format!("column \"{column}\" of table \"{table}\" does not exist"),
                "",
                "Column names are taken as they are, without folding their case.",
            );
        }
    }
    columns
}

/// Whether a permission on a table of this class can have any effect.
pub(super) fn has_surface(class: &TableClass) -> bool {
    matches!(class, TableClass::Tenant(_) | TableClass::Global)
}
