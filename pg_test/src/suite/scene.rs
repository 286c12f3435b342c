//! What the guard's tests share: a migration under way in a database of their own, and statements judged by what
//! becomes of them.
//!
//! | tenant | owner | state |
//! |---|---|---|
//! | 10, and whatever isn't listed | legacy | |
//! | 20, 21 | rebuilt | |
//! | 40 | legacy | frozen |
//! | 50 | rebuilt | frozen |

use anyhow::{Result, bail, ensure};

use crate::client::{Refusal, Rows, Session};
use crate::cluster::Cluster;
use crate::database::{Database, Role};

const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, note text, extra int);
    INSERT INTO orders VALUES (1, 10, 'a'), (2, 20, 'b'), (4, 40, 'd'), (5, 50, 'e'), (9, NULL, 'everybody');
    CREATE TABLE plans (id int PRIMARY KEY, name text);
    INSERT INTO plans VALUES (1, 'basic');
    CREATE TABLE loose (id int);
    CREATE TABLE sessions (id int);
    CREATE TABLE ledger (id int);
    GRANT ALL ON SCHEMA public TO PUBLIC;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC";

const POLICY: &str = "
    SELECT holdfast.guard_table('orders', 'tenant_id');
    SELECT holdfast.guard_global('plans');
    SELECT holdfast.exempt_table('sessions');
    SELECT holdfast.exempt_table('ledger', 'legacy');
    SELECT holdfast.allow_writes('rebuilt', 'orders')";

const OWNERSHIP: [&str; 6] = [
    "SELECT holdfast.cutover('20', 'rebuilt')",
    "SELECT holdfast.cutover('21', 'rebuilt')",
    "SELECT holdfast.cutover('50', 'rebuilt')",
    "SELECT holdfast.freeze('40', 'audit')",
    "SELECT holdfast.freeze('50', 'import')",
    "SELECT holdfast.set_mode('enforce')",
];

/// The state that every table of the policy is in, for "nothing has changed".
pub const POLICY_STATE: &str = "
    SELECT 'migration', t::text FROM holdfast.migration t UNION ALL
    SELECT 'backend', t::text FROM holdfast.backend t UNION ALL
    SELECT 'mode_override', t::text FROM holdfast.mode_override t UNION ALL
    SELECT 'identity', t::text FROM holdfast.identity t UNION ALL
    SELECT 'classified_table', t::text FROM holdfast.classified_table t UNION ALL
    SELECT 'write_permission', t::text FROM holdfast.write_permission t UNION ALL
    SELECT 'ownership', t::text FROM holdfast.ownership t UNION ALL
    SELECT 'ownership_change', t::text FROM holdfast.ownership_change t UNION ALL
    SELECT 'policy_change', t::text FROM holdfast.policy_change t UNION ALL
    SELECT 'trigger', tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text FROM pg_catalog.pg_trigger
        WHERE NOT tgisinternal
    ORDER BY 1, 2";

/// What the tables hold that the scene was set with.
pub const CONTENTS: &str = "
    SELECT 'orders', t::text FROM orders t UNION ALL SELECT 'plans', t::text FROM plans t UNION ALL
    SELECT 'loose', t::text FROM loose t UNION ALL SELECT 'ledger', t::text FROM ledger t ORDER BY 1, 2";

/// A migration in enforce mode; legacy and rebuilt each have a login role.
pub struct Scene {
    /// Dropped with the scene.
    pub database: Database,
    /// Legacy's login role.
    pub legacy: Role,
    /// The rebuilt backend's.
    pub rebuilt: Role,
}

impl Scene {
    /// Sets the scene.
    pub fn set(cluster: &Cluster, prefix: &str) -> Result<Scene> {
        let database = cluster.guarded_database(prefix)?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        let scene = Scene { database, legacy, rebuilt };
        let mut operator = scene.operator()?;
        operator.exec(TABLES)?;
        operator.exec("SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90)")?;
        operator.exec(&format!("SELECT holdfast.add_identity('legacy', role := '{}')", scene.legacy))?;
        operator.exec(&format!("SELECT holdfast.add_identity('rebuilt', role := '{}')", scene.rebuilt))?;
        operator.exec(POLICY)?;
        for change in OWNERSHIP {
            operator.exec(change)?;
        }
        Ok(scene)
    }

    /// A superuser, whom no identity rule names: the default backend, legacy.
    pub fn operator(&self) -> Result<Session> {
        self.database.connect()
    }

    /// A client of the legacy backend.
    pub fn legacy(&self) -> Result<Session> {
        self.database.connect_as(&self.legacy)
    }

    /// A client of the rebuilt backend.
    pub fn rebuilt(&self) -> Result<Session> {
        self.database.connect_as(&self.rebuilt)
    }

    /// The rules that stand in `blocked_writes` for a session, in their order, each with its outcome.
    pub fn recorded(&self, of: &Session) -> Result<Vec<(String, String)>> {
        let mut operator = self.operator()?;
        operator.exec("SELECT holdfast.flush_events()")?;
        // What is recorded because of break-glass alone has no rule.
        let sql = "SELECT coalesce(rule, ''), outcome FROM holdfast.blocked_writes WHERE pid = $1 ORDER BY id";
        let rows = operator.query(sql, &[&of.pid()])?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Runs what would damage the guard as a superuser in break-glass, in a transaction of its own.
    pub fn damage(&self, sql: &str) -> Result<()> {
        self.operator()?.exec(&in_break_glass(sql))
    }

    /// The policy and the guards, for comparing before and after.
    pub fn policy(&self) -> Result<Rows> {
        self.operator()?.rows(POLICY_STATE)
    }

    /// What the tables hold that the scene was set with.
    pub fn contents(&self) -> Result<Rows> {
        self.operator()?.rows(CONTENTS)
    }

    /// Runs each statement in a transaction that is rolled back. All cases that end otherwise than they should are told
    /// at once; then that the record has every refusal, in order, and that the tables hold what they held.
    pub fn judge(&self, session: &mut Session, cases: &[(&str, Outcome)]) -> Result<()> {
        let before = self.contents()?;
        let already = self.recorded(session)?.len();
        let (mut wrong, mut expected) = (Vec::new(), Vec::new());
        for (sql, outcome) in cases {
            session.exec("BEGIN")?;
            if let Err(error) = outcome.check(session, sql) {
                wrong.push(format!("{error:#}"));
            } else if let Outcome::Refused(rule) = outcome {
                expected.push(((*rule).to_owned(), "refused".to_owned()));
            }
            session.exec("ROLLBACK")?;
        }
        ensure!(wrong.is_empty(), "{} of {} cases:\n- {}", wrong.len(), cases.len(), wrong.join("\n- "));
        let recorded = self.recorded(session)?.split_off(already);
        ensure!(recorded == expected, "recorded {recorded:?}\nexpected {expected:?}");
        ensure!(self.contents()? == before, "the tables have changed");
        Ok(())
    }
}

/// Statements that run in break-glass, which ends with them.
pub fn in_break_glass(sql: &str) -> String {
    format!("BEGIN; SELECT holdfast.break_glass('a test', scope => 'transaction'); {sql}; COMMIT")
}

/// What should become of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It succeeds.
    Passes,
    /// The rule of this name refuses it.
    Refused(&'static str),
    /// Postgres refuses it with this SQLSTATE; the guard has nothing to say.
    Fails(&'static str),
}

impl Outcome {
    fn check(self, session: &mut Session, sql: &str) -> Result<()> {
        match self {
            Outcome::Passes => session.exec(sql),
            Outcome::Refused(rule) => refused_by(rule, &session.refused(sql)?, sql),
            Outcome::Fails(code) => {
                let refusal = session.refused(sql)?;
                ensure!(refusal.code == code, "{code} expected: {sql}\n{refusal:?}");
                Ok(())
            }
        }
    }
}

/// Checks what every refusal of a rule has: its SQLSTATE, the rule as constraint and in DETAIL, and a next step.
pub fn refused_by(rule: &str, refusal: &Refusal, sql: &str) -> Result<()> {
    let Some((_, sqlstate)) = SQLSTATES.iter().find(|(name, _)| *name == rule) else { bail!("no rule {rule}") };
    let named = format!("Rule: {rule}.");
    let complete = refusal.severity == "ERROR"
        && refusal.code == *sqlstate
        && refusal.constraint.as_deref() == Some(rule)
        && refusal.detail.as_deref().is_some_and(|detail| detail.ends_with(&named))
        && refusal.hint.as_deref().is_some_and(|hint| !hint.is_empty());
    ensure!(complete, "{rule} expected: {sql}\n{refusal:?}");
    Ok(())
}

/// The published contract: drivers and routers compare these.
const SQLSTATES: [(&str, &str); 12] = [
    ("not_owner", "WG001"),
    ("tenant_frozen", "WG002"),
    ("unidentified", "WG003"),
    ("outside_surface", "WG010"),
    ("global_write", "WG011"),
    ("cross_tenant", "WG012"),
    ("row_budget", "WG013"),
    ("cascade", "WG014"),
    ("unfiltered_write", "WG015"),
    ("destructive_command", "WG016"),
    ("forbidden_setting", "WG022"),
    ("guard_tampering", "WG023"),
];
