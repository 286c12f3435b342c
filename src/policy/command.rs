//! Commands and plans that an unproven backend may not run.

use super::backend::Trust;
use super::identity::Identity;
use super::rules::{Attempt, Refusal, TableName};
use super::surface::{self, TableClass};

/// A command that destroys more than rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestructiveCommand {
    /// TRUNCATE of one table, named or reached by CASCADE.
    Truncate,
    /// DROP of one object, named or reached by CASCADE.
    Drop,
}

impl DestructiveCommand {
    /// As refusals and events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            DestructiveCommand::Truncate => "TRUNCATE",
            DestructiveCommand::Drop => "DROP",
        }
    }
}

/// The object of a destructive command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As Postgres describes it, for example `table public.agents`.
    pub description: String,
    /// The table, where it is one.
    pub table: Option<(TableName, TableClass)>,
}

/// `destructive_command`: whether the session may run the command on the target.
///
/// `unidentified`: a session of no backend leaves guarded tables alone. `login_role` is for the hint.
pub fn check_destructive(
    identity: &Identity,
    command: DestructiveCommand,
    target: &Target,
    login_role: &str,
) -> Option<Refusal> {
    let table = target.table.as_ref();
    let attempt = || Attempt {
        backend: identity.name().map(str::to_owned),
        command: command.as_str().to_owned(),
        table: table.map(|(name, _)| name.clone()),
        ..Attempt::default()
    };
    let Some(backend) = &identity.backend else {
        let guarded = table.is_some_and(|(_, class)| class.guarded());
        return guarded.then(|| surface::unidentified(identity, attempt(), login_role));
    };
    if backend.trust == Trust::Proven {
        return None;
    }
    // A backend does as it likes with what is its own.
    if let Some((_, TableClass::Exempt { backend: Some(only) })) = table
        && *only == backend.name
    {
        return None;
    }
    Some(Refusal::destructive_command(attempt(), &target.description))
}

/// `unfiltered_write`: whether the session may run an UPDATE or DELETE that no condition limits.
pub fn check_unfiltered(identity: &Identity, command: &str, table: &TableName, class: &TableClass) -> Option<Refusal> {
    let backend = identity.backend.as_ref()?;
    if !identity.is_bound_by_every_rule() || matches!(class, TableClass::Exempt { .. }) {
        return None;
    }
    let attempt = Attempt {
        backend: Some(backend.name.clone()),
        command: command.to_owned(),
        table: Some(table.clone()),
        ..Attempt::default()
    };
    Some(Refusal::unfiltered_write(attempt))
}

#[cfg(test)]
mod tests {
    use super::super::backend::Backend;
    use super::super::identity::Source;
    use super::super::rules::Rule;
    use super::*;

    fn session(trust: Trust) -> Identity {
        Identity { backend: Some(Backend { name: "rebuilt".into(), trust }), base: None, source: Source::Default }
    }

    fn name() -> TableName {
        TableName { schema: "public".into(), name: "agents".into() }
    }

    #[test]
    fn destructive_commands_are_for_proven_backends_and_own_tables() {
        let private = |backend: &str| TableClass::Exempt { backend: Some(backend.into()) };
        let refused = Some(Rule::DestructiveCommand);
        let cases = [
            (Trust::Proven, Some(TableClass::Global), None),
            (Trust::Unproven, Some(TableClass::Global), refused),
            (Trust::Unproven, Some(TableClass::Unclassified), refused),
            (Trust::Unproven, Some(TableClass::Exempt { backend: None }), refused),
            (Trust::Unproven, Some(private("legacy")), refused),
            (Trust::Unproven, Some(private("rebuilt")), None),
            (Trust::Unproven, None, refused),
            (Trust::Retired, Some(TableClass::Global), refused),
        ];
        for (trust, class, expected) in cases {
            for command in [DestructiveCommand::Truncate, DestructiveCommand::Drop] {
                let target = Target { description: "it".into(), table: class.clone().map(|c| (name(), c)) };
                let refusal = check_destructive(&session(trust), command, &target, "rb");
                assert_eq!(refusal.map(|r| r.rule), expected, "{trust} {command:?} {class:?}");
            }
        }
    }

    #[test]
    fn a_session_of_no_backend_leaves_guarded_tables_alone() {
        let nobody = Identity { backend: None, base: None, source: Source::Nothing };
        let cases = [
            (Some(TableClass::Global), Some(Rule::Unidentified)),
            (Some(TableClass::Unclassified), None),
            (Some(TableClass::Exempt { backend: None }), None),
            (None, None),
        ];
        for (class, expected) in cases {
            let target = Target { description: "it".into(), table: class.clone().map(|c| (name(), c)) };
            let refusal = check_destructive(&nobody, DestructiveCommand::Drop, &target, "bob");
            assert_eq!(refusal.map(|r| r.rule), expected, "{class:?}");
        }
    }

    #[test]
    fn writes_without_a_condition_are_for_proven_backends_and_exempt_tables() {
        let cases = [
            (Trust::Proven, TableClass::Global, None),
            (Trust::Unproven, TableClass::Global, Some(Rule::UnfilteredWrite)),
            (Trust::Unproven, TableClass::Unclassified, Some(Rule::UnfilteredWrite)),
            (Trust::Unproven, TableClass::Exempt { backend: None }, None),
        ];
        for (trust, class, expected) in cases {
            let refusal = check_unfiltered(&session(trust), "DELETE", &name(), &class);
            assert_eq!(refusal.map(|r| r.rule), expected, "{trust} {class:?}");
        }
    }
}
