//! Who is compared: Holdfast in each state that it can be in, and what a user would do instead.

use clap::ValueEnum;

use super::arena::Scale;

/// A way to guard tenants, or not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Contender {
    /// PostgreSQL as it comes
    None,
    /// Holdfast in shared_preload_libraries, not created in the database
    Preloaded,
    /// created, and no policy
    Created,
    /// everything guarded; the session is the proven backend's
    Legacy,
    /// as legacy, with a million tenants registered instead of ten
    Crowded,
    /// everything guarded and every rule on; the session is the unproven backend's
    Rebuilt,
    /// a row trigger that never fires: what PostgreSQL itself takes for any
    Idle,
    /// a row trigger in PL/pgSQL with the same guarantee: advisory lock and owner look-up
    Plpgsql,
    /// statement triggers that lock whole tables
    Statement,
    /// row level security with a look-up in the owner table
    Rls,
    /// pgaudit, logging writes: the audit part alone
    Pgaudit,
}

/// A cluster: what is preloaded is the same for all of its databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum House {
    /// Nothing.
    Plain,
    /// Holdfast.
    Holdfast,
    /// pgaudit.
    Pgaudit,
}

impl House {
    /// shared_preload_libraries.
    pub fn libraries(self) -> &'static str {
        match self {
            House::Plain => "",
            House::Holdfast => "holdfast",
            House::Pgaudit => "pgaudit",
        }
    }
}

impl Contender {
    /// All, in the order in which they take turns.
    pub fn all() -> &'static [Contender] {
        Contender::value_variants()
    }

    /// As the command line and the tables call it; the name of its database, too.
    pub fn name(self) -> &'static str {
        match self {
            Contender::None => "none",
            Contender::Preloaded => "preloaded",
            Contender::Created => "created",
            Contender::Legacy => "legacy",
            Contender::Crowded => "crowded",
            Contender::Rebuilt => "rebuilt",
            Contender::Idle => "idle",
            Contender::Plpgsql => "plpgsql",
            Contender::Statement => "statement",
            Contender::Rls => "rls",
            Contender::Pgaudit => "pgaudit",
        }
    }

    /// What it is.
    pub fn description(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Its cluster.
    pub fn house(self) -> House {
        use Contender::{Created, Crowded, Idle, Legacy, None, Pgaudit, Plpgsql, Preloaded, Rebuilt, Rls, Statement};
        match self {
            None | Idle | Plpgsql | Statement | Rls => House::Plain,
            Preloaded | Created | Legacy | Crowded | Rebuilt => House::Holdfast,
            Pgaudit => House::Pgaudit,
        }
    }

    /// What makes a database with the tables its own.
    pub fn setup(self, scale: &Scale) -> String {
        let ours = |owner: &str, registered: u32| {
            let sql = include_str!("sql/holdfast.sql").replace("$OWNER", owner);
            sql.replace("$REGISTERED", &registered.to_string())
        };
        let own = |guard: &str| include_str!("sql/owners.sql").to_owned() + guard;
        let sql = match self {
            Contender::None | Contender::Preloaded => String::new(),
            Contender::Created => "CREATE EXTENSION holdfast".to_owned(),
            Contender::Legacy => ours("legacy", 10),
            Contender::Crowded => ours("legacy", scale.registered),
            Contender::Rebuilt => ours("rebuilt", scale.tenants),
            Contender::Idle => include_str!("sql/idle.sql").to_owned(),
            Contender::Plpgsql => own(include_str!("sql/plpgsql.sql")),
            Contender::Statement => include_str!("sql/statement.sql").to_owned(),
            Contender::Rls => own(include_str!("sql/rls.sql")),
            Contender::Pgaudit => "CREATE EXTENSION pgaudit; ALTER ROLE app SET pgaudit.log = 'write'".to_owned(),
        };
        scale.fill_in(&sql)
    }
}
