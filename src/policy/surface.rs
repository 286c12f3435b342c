//! The write surface: which tables, commands and columns a backend may write. Decided once per table and statement.

use std::fmt;
use std::str::FromStr;

use super::backend::{Trust, UnknownWord};
use super::columns::KeyColumns;
use super::identity::{Identity, Source};
use super::rules::{Attempt, Columns, Refusal, TableName};

/// A command that writes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WriteCommand {
    /// INSERT, COPY FROM, and the inserting part of MERGE and ON CONFLICT.
    Insert,
    /// UPDATE, and the updating part of MERGE and ON CONFLICT.
    Update,
    /// DELETE, and the deleting part of MERGE.
    Delete,
}

impl WriteCommand {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "insert, update, delete";

    /// As refusals and events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteCommand::Insert => "INSERT",
            WriteCommand::Update => "UPDATE",
            WriteCommand::Delete => "DELETE",
        }
    }

    /// As `allow_writes` takes it and `write_surface` shows it.
    pub fn word(self) -> &'static str {
        match self {
            WriteCommand::Insert => "insert",
            WriteCommand::Update => "update",
            WriteCommand::Delete => "delete",
        }
    }
}

impl fmt::Display for WriteCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WriteCommand {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word.to_ascii_lowercase().as_str() {
            "insert" => Ok(WriteCommand::Insert),
            "update" => Ok(WriteCommand::Update),
            "delete" => Ok(WriteCommand::Delete),
            _ => Err(UnknownWord),
        }
    }
}

/// What says whose a row of a tenant table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantSource {
    /// Columns of the row, most often one.
    Columns(KeyColumns),
    /// The parent row, to which a foreign key with this column leads.
    Parent(String),
    /// The table: all its rows belong to this tenant.
    Constant(String),
}

impl TenantSource {
    /// The columns that must not change their nature.
    pub fn columns(&self) -> &[String] {
        match self {
            TenantSource::Columns(columns) => columns.names(),
            TenantSource::Parent(column) => std::slice::from_ref(column),
            TenantSource::Constant(_) => &[],
        }
    }
}

/// Whose rows a table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableClass {
    /// Each row belongs to a tenant.
    Tenant(TenantSource),
    /// Rows belong to everybody.
    Global,
    /// Outside the guard, or private to one backend.
    Exempt {
        /// The backend it is private to.
        backend: Option<String>,
    },
    /// Nobody has said.
    Unclassified,
}

impl TableClass {
    /// Whether the table is guarded, so that a session of no backend may not write it.
    pub fn guarded(&self) -> bool {
        matches!(self, TableClass::Tenant(_) | TableClass::Global)
    }
}

/// Whether the guard of a table, its partitions and children included, can be relied on. From best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardState {
    /// It is there, enabled always, and the last to fire.
    Enabled,
    /// It isn't there yet: the table came out of a dump, which creates triggers after it has loaded the rows.
    Unrestored,
    /// It is there, but a trigger that fires after it could change the row again.
    Overtaken,
    /// It is there, but wouldn't fire in every session.
    Disabled,
    /// It isn't there.
    Missing,
    /// Nobody knows whose the rows are: the tenant column is gone, or its type or nature has changed.
    Columnless,
    /// Nobody knows whose the rows are: the foreign key that leads to their tenants is gone, or leads elsewhere.
    Pathless,
}

impl GuardState {
    /// As `coverage` shows it.
    pub fn word(self) -> &'static str {
        match self {
            GuardState::Enabled => "enabled",
            GuardState::Unrestored => "unrestored",
            GuardState::Overtaken => "overtaken",
            GuardState::Disabled => "disabled",
            GuardState::Missing => "missing",
            GuardState::Columnless => "columnless",
            GuardState::Pathless => "pathless",
        }
    }

    /// What a refusal says of it.
    pub fn predicate(self) -> &'static str {
        match self {
            GuardState::Enabled => "is enabled",
            GuardState::Unrestored => "is not restored yet",
            GuardState::Overtaken => "is not the last trigger to fire",
            GuardState::Disabled => "is disabled",
            GuardState::Missing => "is missing",
            GuardState::Columnless => "has lost its tenant column",
            GuardState::Pathless => "has lost the foreign key that leads to its tenants",
        }
    }
}

/// One table as a statement's write meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// The table that stands for it in policy, where that is another.
    pub classified: Option<TableName>,
    /// Whose rows it holds.
    pub class: TableClass,
    /// The state of its guard, that of its partitions and children included; read for guarded tables only.
    pub guard: GuardState,
    /// The child by inheritance that is guarded worse than the table itself, whose own guard's state is beside it.
    pub child: Option<(TableName, GuardState)>,
}

impl Table {
    /// The table as a statement meets it that doesn't reach its children by inheritance: INSERT, UPDATE ONLY. None where that
    /// makes no difference.
    pub fn without_children(&self) -> Option<Table> {
        let (_, own) = self.child.as_ref()?;
        Some(Table { guard: *own, child: None, ..self.clone() })
    }
}

/// What `allow_writes` allowed: one command on one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The backend.
    pub backend: String,
    /// The table's oid.
    pub relation: u32,
    /// The command.
    pub command: WriteCommand,
    /// The columns; none = all of them.
    pub columns: Option<Vec<String>>,
}

/// One command of a statement on one table, with the columns that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableWrite<'a> {
    /// The command.
    pub command: WriteCommand,
    /// The columns that it sets; empty for DELETE and for an INSERT of defaults only.
    pub columns: Vec<&'a str>,
}

/// Whether no rule of [`check_table`] can stop a session from writing a table, so that the columns needn't be looked up.
pub fn free_to_write(identity: &Identity, table: &Table) -> bool {
    identity.trust() == Some(Trust::Proven) && (!table.class.guarded() || table.guard == GuardState::Enabled)
}

/// Whether the row guard will see what this session writes, or needn't.
fn guard_suffices(identity: &Identity, table: &Table, writes: &[TableWrite]) -> bool {
    match table.guard {
        GuardState::Enabled => true,
        // Somebody is restoring the database: that inserts rows and does nothing else, and no unproven backend does it.
        GuardState::Unrestored => {
            identity.trust() == Some(Trust::Proven) && writes.iter().all(|w| w.command == WriteCommand::Insert)
        }
        GuardState::Overtaken
        | GuardState::Disabled
        | GuardState::Missing
        | GuardState::Columnless
        | GuardState::Pathless => false,
    }
}

/// The refusals that a write of a table earns before any row is seen, most telling first. `permissions` are those for
/// this table, whoever they are for. `login_role` is for the hint.
pub fn check_table(
    identity: &Identity,
    table: &Table,
    permissions: &[&Permission],
    writes: &[TableWrite],
    login_role: &str,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let attempt = |command: WriteCommand| Attempt {
        backend: identity.name().map(str::to_owned),
        command: command.as_str().to_owned(),
        table: Some(table.name.clone()),
        classified: table.classified.clone(),
        ..Attempt::default()
    };
    let Some(first) = writes.first().map(|w| w.command) else { return refusals };

    if table.class.guarded() && !guard_suffices(identity, table, writes) {
        refusals.push(Refusal::unreliable_guard(attempt(first), table));
    }
    match (identity.trust(), &table.class) {
        (_, TableClass::Exempt { backend: None }) | (Some(Trust::Proven), _) => {}
        (_, class) if identity.is_unidentified() && *class != TableClass::Unclassified => {
            refusals.push(unidentified(identity, attempt(first), login_role));
        }
        (_, TableClass::Exempt { backend: Some(only) }) if identity.name() == Some(only) => {}
        (None, _) => {}
        (Some(Trust::Retired), _) => refusals.push(Refusal::retired(attempt(first))),
        (Some(_), TableClass::Exempt { backend: Some(only) }) => {
            refusals.push(Refusal::private_to(attempt(first), only));
        }
        (Some(_), TableClass::Unclassified) => refusals.push(Refusal::unclassified(attempt(first))),
        (Some(_), class) => {
            for write in writes {
                let Some(columns) = outside(identity, permissions, write) else { continue };
                let refuse = match class {
                    TableClass::Global => Refusal::global_table,
                    _ => Refusal::outside_surface,
                };
                refusals.push(refuse(attempt(write.command), &columns));
            }
        }
    }
    refusals
}

/// `unidentified`, with the hint that helps: a session that has a base lost it to its own claim.
pub fn unidentified(identity: &Identity, attempt: Attempt, login_role: &str) -> Refusal {
    match (identity.source, &identity.base) {
        (Source::Lent, _) => Refusal::lent_session(attempt),
        (_, Some(_)) => Refusal::unknown_claim(attempt),
        (_, None) => Refusal::unidentified(attempt, login_role),
    }
}

/// What of `write` lies outside of what is allowed; `None` when nothing does.
fn outside<'a>(identity: &Identity, permissions: &[&'a Permission], write: &'a TableWrite<'a>) -> Option<Columns<'a>> {
    let permission =
        permissions.iter().find(|p| p.command == write.command && Some(p.backend.as_str()) == identity.name());
    match permission {
        None => Some(Columns::default()),
        Some(Permission { columns: None, .. }) => None,
        Some(Permission { columns: Some(allowed), .. }) => {
            let beyond: Vec<_> = write.columns.iter().copied().filter(|c| !allowed.iter().any(|a| a == c)).collect();
            let allowed = allowed.iter().map(String::as_str).collect();
            (!beyond.is_empty()).then_some(Columns { allowed, beyond })
        }
    }
}

#[cfg(test)]
#[path = "surface_tests.rs"]
mod tests;
