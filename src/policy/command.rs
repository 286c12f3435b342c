//! Commands and plans that an unproven backend may not run.

use super::backend::Trust;
use super::identity::Identity;
use super::rules::{Attempt, Refusal, TableName};
use super::surface::{self, TableClass};

/// A command that does more than write rows, as the guard judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// As refusals and events name it: `DROP`, `ALTER TABLE`, `setval`.
    pub name: &'a str,
    /// What it can do harm to.
    pub reach: Reach,
}

/// What a command can do harm to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its targets: TRUNCATE, DROP, ALTER, GRANT, a trigger, a rule, a policy.
    Targets,
    /// Its targets if they are classified, because somebody relies on them then: an index, a partition, a child, a foreign
    /// key to them.
    ClassifiedTargets,
    /// Whoever waits for a lock of this strength on its targets; strengths as Postgres numbers them.
    Lock(i32),
    /// Sessions. Whether Postgres itself confines the role to sessions of its own.
    Sessions {
        /// It does.
        confined: bool,
    },
    /// More than objects of this database: files, programs, roles, replication, the server.
    Beyond,
}

/// ROW EXCLUSIVE: the strongest lock that writing rows takes by itself.
pub const ROW_EXCLUSIVE: i32 = 3;

/// The object of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As Postgres describes it, for example `table public.agents`.
    pub description: String,
    /// The table that it is or is part of, where there is one.
    pub table: Option<(TableName, TableClass)>,
    /// Whether only this session can see it.
    pub temporary: bool,
}

/// `destructive_command`: whether the session may run the command on the target; none = the command has no target that
/// could be the session's own.
///
/// `unidentified`: a session of no backend leaves guarded tables alone. `login_role` is for the hint.
pub fn check_destructive(
    identity: &Identity,
    command: Command,
    target: Option<&Target>,
    login_role: &str,
) -> Option<Refusal> {
    let table = target.and_then(|t| t.table.as_ref());
    let class = table.map(|(_, class)| class);
    let harmless = match command.reach {
        Reach::Lock(strength) => strength <= ROW_EXCLUSIVE,
        Reach::ClassifiedTargets => class.is_none_or(|class| *class == TableClass::Unclassified),
        Reach::Sessions { confined } => confined,
        Reach::Targets | Reach::Beyond => false,
    };
    if harmless || target.is_some_and(|t| t.temporary) {
        return None;
    }
    let attempt = || Attempt {
        backend: identity.name().map(str::to_owned),
        command: command.name.to_owned(),
        table: table.map(|(name, _)| name.clone()),
        ..Attempt::default()
    };
    let Some(backend) = &identity.backend else {
        let guarded = class.is_some_and(TableClass::guarded);
        return guarded.then(|| surface::unidentified(identity, attempt(), login_role));
    };
    if backend.trust == Trust::Proven {
        return None;
    }
    // A backend does as it likes with what is its own.
    if let Some(TableClass::Exempt { backend: Some(only) }) = class
        && *only == backend.name
        && !identity.is_unidentified()
    {
        return None;
    }
    Some(Refusal::destructive_command(attempt(), target.map(|t| t.description.as_str())))
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

    fn on(class: Option<TableClass>) -> Target {
        Target { description: "it".into(), table: class.map(|c| (name(), c)), temporary: false }
    }

    const DROP: Command = Command { name: "DROP", reach: Reach::Targets };

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
            let refusal = check_destructive(&session(trust), DROP, Some(&on(class.clone())), "rb");
            assert_eq!(refusal.map(|r| r.rule), expected, "{trust} {class:?}");
            let temporary = Target { temporary: true, ..on(class) };
            assert_eq!(check_destructive(&session(trust), DROP, Some(&temporary), "rb"), None);
        }
    }

    #[test]
    fn a_command_is_judged_by_what_it_reaches() {
        let refused = Some(Rule::DestructiveCommand);
        let (global, loose) = (Some(on(Some(TableClass::Global))), Some(on(Some(TableClass::Unclassified))));
        let own = Some(on(Some(TableClass::Exempt { backend: Some("rebuilt".into()) })));
        let cases = [
            (Reach::Beyond, None, refused),
            (Reach::Targets, None, refused),
            (Reach::Targets, own.clone(), None),
            (Reach::ClassifiedTargets, global.clone(), refused),
            (Reach::ClassifiedTargets, loose.clone(), None),
            (Reach::ClassifiedTargets, own.clone(), None),
            (Reach::Lock(ROW_EXCLUSIVE), global.clone(), None),
            (Reach::Lock(ROW_EXCLUSIVE + 1), global, refused),
            (Reach::Lock(ROW_EXCLUSIVE + 1), loose, refused),
            (Reach::Lock(ROW_EXCLUSIVE + 1), own, None),
            (Reach::Sessions { confined: true }, None, None),
            (Reach::Sessions { confined: false }, None, refused),
        ];
        for (reach, target, expected) in cases {
            let command = Command { name: "X", reach };
            let refusal = check_destructive(&session(Trust::Unproven), command, target.as_ref(), "rb");
            assert_eq!(refusal.map(|r| r.rule), expected, "{reach:?} {target:?}");
            assert_eq!(check_destructive(&session(Trust::Proven), command, target.as_ref(), "rb"), None);
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
            let refusal = check_destructive(&nobody, DROP, Some(&on(class.clone())), "bob");
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
