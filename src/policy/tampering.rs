//! `guard_tampering` by commands: nobody takes the guard apart, or writes its tables, but by its own functions. It binds
//! every backend, and sessions of none.

use super::backend::Trust;
use super::identity::Identity;
use super::rules::{Attempt, Refusal, TableName};
use super::surface::{GuardState, WriteCommand};

/// What a command has left of a table's guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The table.
    pub table: &'a TableName,
    /// Its guard before the command.
    pub before: GuardState,
    /// And after it.
    pub after: GuardState,
    /// The child by inheritance whose guard that is, where it isn't the table's own.
    pub child: Option<&'a TableName>,
}

/// Whether a command may leave a guard behind like this. One that was damaged before may be changed: its table takes no
/// writes anyway, and repairs and restores go through states that aren't whole.
pub fn check_change(identity: &Identity, command: &str, change: &Change) -> Option<Refusal> {
    let damaged = change.before == GuardState::Enabled && change.after != GuardState::Enabled;
    damaged.then(|| Refusal::damaged_guard(attempt(identity, command, Some(change.table)), change.after, change.child))
}

/// A command that changes a part of the guard: a table, view, function, trigger of the extension, its schema, itself.
/// `object` is worded as Postgres words it.
pub fn check_part(identity: &Identity, command: &str, object: &str) -> Refusal {
    Refusal::part_of_guard(attempt(identity, command, None), object)
}

/// A command that rewrites a column which tells rows their tenants.
pub fn check_column(identity: &Identity, command: &str, table: &TableName, column: &str) -> Refusal {
    let object = format!("column \"{column}\" of table \"{}\"", table.name);
    Refusal::part_of_guard(attempt(identity, command, Some(table)), &object)
}

/// A command that puts something into the extension's schema, where it could be taken for a part of it.
pub fn check_newcomer(identity: &Identity, command: &str, object: &str) -> Refusal {
    Refusal::newcomer(attempt(identity, command, None), object)
}

/// Whether a statement may write a table of the extension.
///
/// A dump carries the policy as rows, and whoever restores it loads them into the fresh extension's empty tables.
/// `restoring`: whether that may be so.
pub fn check_own_table(
    identity: &Identity,
    command: WriteCommand,
    table: &TableName,
    restoring: bool,
) -> Option<Refusal> {
    let restores = command == WriteCommand::Insert && may_restore(identity, restoring);
    (!restores).then(|| Refusal::own_table(attempt(identity, command.as_str(), Some(table))))
}

/// Whether a command may empty a table of the extension, as pg_restore with several jobs does before it loads one.
/// `restoring`: whether that may be so, and nothing is there that would be lost.
pub fn check_own_emptied(attempt: Attempt, identity: &Identity, restoring: bool) -> Option<Refusal> {
    (!may_restore(identity, restoring)).then(|| Refusal::own_table(attempt))
}

/// Whether a command may change a table of the extension: one that gives a partition of the event table its key back comes
/// out of a dump when the policy may be there already. `restoring`: whether that may be so.
pub fn check_own_structure(identity: &Identity, command: &str, object: &str, restoring: bool) -> Option<Refusal> {
    (!may_restore(identity, restoring)).then(|| check_part(identity, command, object))
}

fn may_restore(identity: &Identity, restoring: bool) -> bool {
    restoring && !matches!(identity.trust(), Some(Trust::Unproven | Trust::Retired))
}

/// What a GRANT or REVOKE is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// A table, view or sequence of the extension.
    Table,
    /// A function of the extension.
    Function,
    /// Its schema.
    Schema,
}

/// A GRANT or REVOKE on a part of the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// What it is on.
    pub on: Granted,
    /// Whether privileges are taken away.
    pub revoke: bool,
    /// The privileges in small letters; none = all.
    pub privileges: Option<Vec<&'a str>>,
    /// Whether everybody gets them.
    pub to_public: bool,
}

/// Whether a GRANT opens more of the extension than `grant_operator` does. The same as that, and taking away, may pass: a
/// dump replays the privileges of operators and auditors one by one.
pub fn check_grant(identity: &Identity, command: &str, grant: &Grant, object: &str) -> Option<Refusal> {
    let only = |privilege: &str| grant.privileges.as_ref().is_some_and(|all| all.iter().all(|p| *p == privilege));
    let harmless = grant.revoke
        || match grant.on {
            Granted::Table => only("select") && !grant.to_public,
            Granted::Function => !grant.to_public,
            Granted::Schema => only("usage"),
        };
    (!harmless).then(|| check_part(identity, command, object))
}

fn attempt(identity: &Identity, command: &str, table: Option<&TableName>) -> Attempt {
    Attempt {
        backend: identity.name().map(str::to_owned),
        command: command.to_owned(),
        table: table.cloned(),
        ..Attempt::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::Backend;
    use super::super::identity::Source;
    use super::super::rules::Rule;
    use super::*;

    fn session(trust: Trust) -> Identity {
        Identity { backend: Some(Backend { name: "it".into(), trust }), base: None, source: Source::Default }
    }

    fn table() -> TableName {
        TableName { schema: "holdfast".into(), name: "ownership".into() }
    }

    #[test]
    fn a_whole_guard_stays_whole() {
        use GuardState::*;
        let cases = [
            (Enabled, Enabled, false),
            (Enabled, Disabled, true),
            (Enabled, Missing, true),
            (Enabled, Overtaken, true),
            (Enabled, Columnless, true),
            // Dropped after a restore.
            (Enabled, Unrestored, true),
            (Unrestored, Disabled, false),
            (Missing, Disabled, false),
            (Disabled, Missing, false),
        ];
        for (before, after, refused) in cases {
            for trust in [Trust::Proven, Trust::Unproven] {
                let change = Change { table: &table(), before, after, child: None };
                let refusal = check_change(&session(trust), "ALTER TABLE", &change);
                assert_eq!(refusal.map(|r| r.rule), refused.then_some(Rule::GuardTampering), "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn own_tables_take_rows_in_a_restore_only() {
        use WriteCommand::{Delete, Insert, Update};
        let cases = [
            (Trust::Proven, Insert, true, false),
            (Trust::Proven, Insert, false, true),
            (Trust::Proven, Update, true, true),
            (Trust::Proven, Delete, true, true),
            (Trust::Unproven, Insert, true, true),
            (Trust::Retired, Insert, true, true),
        ];
        for (trust, command, restoring, refused) in cases {
            let refusal = check_own_table(&session(trust), command, &table(), restoring);
            assert_eq!(refusal.is_some(), refused, "{trust} {command} {restoring}");
        }
        let nobody = Identity { backend: None, base: None, source: Source::Nothing };
        assert_eq!(check_own_table(&nobody, Insert, &table(), true), None);
    }

    #[test]
    fn own_tables_get_their_keys_back_in_a_restore_only() {
        for (trust, restoring, refused) in
            [(Trust::Proven, true, false), (Trust::Proven, false, true), (Trust::Unproven, true, true)]
        {
            let refusal = check_own_structure(&session(trust), "ALTER TABLE", "table holdfast.event_1", restoring);
            assert_eq!(refusal.is_some(), refused, "{trust} {restoring}");
        }
    }

    #[test]
    fn grants_open_what_operators_have_and_no_more() {
        use Granted::{Function, Schema, Table};
        let some = |privileges: &'static [&'static str]| Some(privileges.to_vec());
        let cases = [
            (Table, false, some(&["select"]), false, false),
            (Table, false, some(&["select", "insert"]), false, true),
            (Table, false, some(&["select"]), true, true),
            (Table, false, None, false, true),
            (Table, true, None, false, false),
            (Function, false, some(&["execute"]), false, false),
            (Function, false, None, false, false),
            (Function, false, some(&["execute"]), true, true),
            (Schema, false, some(&["usage"]), true, false),
            (Schema, false, some(&["create"]), false, true),
            (Schema, false, None, false, true),
        ];
        for (on, revoke, privileges, to_public, refused) in cases {
            let grant = Grant { on, revoke, privileges, to_public };
            let refusal = check_grant(&session(Trust::Proven), "GRANT", &grant, "it");
            assert_eq!(refusal.is_some(), refused, "{grant:?}");
        }
    }
}
