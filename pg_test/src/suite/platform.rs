//! An application's database with everything in it that dumps, replicas and maintenance jobs deal with, guarded or not.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use postgres::SimpleQueryMessage;

use crate::client::{Refusal, Rows, Session};
use crate::cluster::Cluster;
use crate::database::{Database, Role};

/// The application's tables and rows.
pub const SCHEMA: &str = include_str!("platform/schema.sql");

const POLICY: &str = include_str!("platform/policy.sql");

/// Each in a transaction of its own, as a handover wants it. Tenants of bytea and uuid columns have names of their own. A backend
/// is only observed, which readiness minds.
pub const OWNERSHIP: [&str; 8] = [
    "SELECT holdfast.cutover('20', 'rebuilt', require_ready => false)",
    "SELECT holdfast.cutover('00000000-0000-0000-0000-00000000000b', 'rebuilt', require_ready => false)",
    "SELECT holdfast.cutover('\\x0b', 'rebuilt', require_ready => false)",
    "SELECT holdfast.cutover(ROW('eu, west', 20)::text, 'rebuilt', require_ready => false)",
    "SELECT holdfast.cutover('30', 'rebuilt', require_ready => false)",
    "SELECT holdfast.rollback_cutover('30')",
    "SELECT holdfast.freeze('40', 'audit')",
    "SELECT holdfast.freeze('50', 'import', '2099-01-01')",
];

/// The policy and the guards, with names where the catalog has numbers.
pub const POLICY_STATE: &str = "
    SELECT 'migration', t::text FROM holdfast.migration t UNION ALL
    SELECT 'backend', t::text FROM holdfast.backend t UNION ALL
    SELECT 'mode_override', t::text FROM holdfast.mode_override t UNION ALL
    SELECT 'identity', t::text FROM holdfast.identity t UNION ALL
    SELECT 'classified_table', (to_jsonb(t) - 'classified_oid')::text FROM holdfast.classified_table t UNION ALL
    SELECT 'write_permission', t::text FROM holdfast.write_permission t UNION ALL
    SELECT 'backend_limit', t::text FROM holdfast.backend_limit t UNION ALL
    SELECT 'ownership', t::text FROM holdfast.ownership t UNION ALL
    SELECT 'ownership_change', t::text FROM holdfast.ownership_change t UNION ALL
    SELECT 'policy_change', t::text FROM holdfast.policy_change t UNION ALL
    SELECT 'coverage', t::text FROM holdfast.coverage t UNION ALL
    SELECT 'trigger', tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text FROM pg_catalog.pg_trigger
        WHERE NOT tgisinternal
    ORDER BY 1, 2";

/// Makes a query for what all tables of the application hold, each row with its table, wherever it lies.
const CONTENTS: &str = "
    SELECT string_agg(format('SELECT %L, t::text FROM ONLY %s AS t', oid::regclass, oid::regclass), ' UNION ALL ') || ' ORDER BY 1, 2'
    FROM pg_catalog.pg_class
    WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('public', '\"Billing Dept\"', 'tenant_20')";

/// Writes of every kind, most of which are refused to one backend or to both.
pub const WRITES: [&str; 43] = [
    "UPDATE orders SET note = 'x' WHERE tenant_id = 10",
    "UPDATE orders SET note = 'x' WHERE tenant_id = 20",
    "UPDATE orders SET note = 'x' WHERE tenant_id = 30",
    "UPDATE orders SET note = 'x' WHERE tenant_id = 40",
    "UPDATE orders SET tenant_id = 20 WHERE tenant_id = 10",
    "UPDATE orders SET note = 'x' WHERE tenant_id IS NULL",
    "DELETE FROM orders WHERE tenant_id = 20",
    "DELETE FROM orders",
    "INSERT INTO orders (tenant_id) VALUES (20)",
    "INSERT INTO orders (tenant_id) VALUES (50)",
    "TRUNCATE orders",
    "UPDATE customers SET name = 'x' WHERE tenant_id = 20",
    "UPDATE customers SET id = 99 WHERE tenant_id = 20",
    "DELETE FROM customers WHERE tenant_id = 20",
    "UPDATE order_items SET what = 'x' WHERE order_id IN (SELECT id FROM orders WHERE tenant_id = 10)",
    "UPDATE order_items SET what = 'x' WHERE order_id IN (SELECT id FROM orders WHERE tenant_id = 20)",
    "UPDATE order_items SET order_id = 1 WHERE order_id IN (SELECT id FROM orders WHERE tenant_id = 20)",
    "DELETE FROM shipments WHERE id = 1",
    "DELETE FROM shipments WHERE item_id IN (SELECT i.id FROM order_items i JOIN orders o ON o.id = i.order_id AND tenant_id = 20)",
    "UPDATE tenant_20.settings SET value = 'red' WHERE name = 'colour'",
    "UPDATE by_bigint SET id = id WHERE tenant = 20",
    "UPDATE by_smallint SET id = id WHERE tenant = 20",
    "UPDATE by_uuid SET id = id WHERE tenant = '00000000-0000-0000-0000-00000000000a'",
    "UPDATE by_uuid SET id = id WHERE tenant = '00000000-0000-0000-0000-00000000000b'",
    "UPDATE by_text SET id = id WHERE tenant = '20'",
    "UPDATE by_varchar SET id = id WHERE tenant = '20'",
    "UPDATE by_domain SET id = id WHERE tenant = '20'",
    "UPDATE by_bytea SET id = id WHERE tenant = '\\x0a'",
    "UPDATE by_bytea SET id = id WHERE tenant = '\\x0b'",
    "UPDATE by_pair SET id = id WHERE (\"Area\", tenant) = ('eu, west', 20)",
    "UPDATE by_pair SET id = id WHERE tenant = 20",
    "UPDATE by_pair SET \"Area\" = 'us' WHERE id = 2",
    "INSERT INTO \"Billing Dept\".\"Invoice \"\"2\"\"\" VALUES (3, 20, 1)",
    "UPDATE \"Billing Dept\".\"Invoice \"\"2\"\"\" SET total = 0 WHERE \"Tenant Id\" = 10",
    "INSERT INTO log VALUES (20, '2024-06-06', 'x')",
    "INSERT INTO log_new_20 VALUES (20, '2024-06-06', 'x')",
    "INSERT INTO log_old VALUES (10, '2020-06-06', 'x')",
    "UPDATE vehicles SET wheels = 3 WHERE tenant_id = 20",
    "UPDATE assets SET name = 'x' WHERE tenant_id = 10",
    "INSERT INTO plans VALUES (4, 'x')",
    "INSERT INTO sessions VALUES (9, now())",
    "INSERT INTO ledger VALUES (9, 'x')",
    "DROP TABLE orders",
];

/// The policy for these login roles: in enforce mode, every tenant is legacy's.
pub fn policy(legacy: &str, rebuilt: &str) -> String {
    POLICY.replace("{legacy}", legacy).replace("{rebuilt}", rebuilt)
}

/// A platform in a database of its own.
pub struct Platform {
    /// Dropped with the platform.
    pub database: Database,
    /// Legacy's login role.
    pub legacy: Role,
    /// The rebuilt backend's.
    pub rebuilt: Role,
}

impl Platform {
    /// With a migration under way, in enforce mode.
    pub fn guarded(cluster: &Cluster, prefix: &str) -> Result<Platform> {
        let platform = Platform::unguarded(cluster, prefix)?;
        platform.guard(&platform.database)?;
        Ok(platform)
    }

    /// Without holdfast.
    pub fn unguarded(cluster: &Cluster, prefix: &str) -> Result<Platform> {
        let database = cluster.database(prefix)?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        let platform = Platform { database, legacy, rebuilt };
        let mut dba = platform.database.connect()?;
        dba.exec(SCHEMA)?;
        dba.exec(&platform.grants())?;
        Ok(platform)
    }

    /// Creates the extension and sets the policy in a database with the platform's tables.
    pub fn guard(&self, database: &Database) -> Result<()> {
        let mut dba = database.connect()?;
        dba.exec("CREATE EXTENSION holdfast")?;
        dba.exec(&policy(&self.legacy, &self.rebuilt))?;
        for change in OWNERSHIP {
            dba.exec(change)?;
        }
        Ok(())
    }

    /// Both backends have every privilege on the application's tables; what stops them is the guard.
    fn grants(&self) -> String {
        let mut grants = String::new();
        for schema in ["public", "\"Billing Dept\"", "tenant_20"] {
            for what in [
                format!("SCHEMA {schema}"),
                format!("ALL TABLES IN SCHEMA {schema}"),
                format!("ALL SEQUENCES IN SCHEMA {schema}"),
            ] {
                // Writing to a String can't fail.
                let _ = writeln!(grants, "GRANT ALL ON {what} TO {}, {};", self.legacy, self.rebuilt);
            }
        }
        grants
    }

    /// What becomes of each of the [`WRITES`] in `database`, as both backends: two databases with the same policy and the
    /// same rows give the same.
    pub fn verdicts(&self, database: &Database) -> Result<Vec<String>> {
        let mut verdicts = Vec::new();
        for role in [&self.legacy, &self.rebuilt] {
            let mut session = database.connect_as(role)?;
            for sql in WRITES {
                verdicts.push(format!("{role}: {sql}: {}", verdict(&mut session, sql)?));
            }
        }
        Ok(verdicts)
    }
}

/// What the application's tables hold.
pub fn contents(session: &mut Session) -> Result<Rows> {
    let query: String = session.one(CONTENTS)?;
    session.rows(&query)
}

/// What becomes of a statement, in a transaction that is rolled back.
pub fn verdict(session: &mut Session, sql: &str) -> Result<String> {
    session.exec("BEGIN")?;
    let outcome = match session.simple_query(sql) {
        Ok(messages) => format!("{:?}", messages.iter().filter_map(rows).collect::<Vec<_>>()),
        Err(error) => {
            let refusal = error.as_db_error().map(Refusal::from);
            format!("{:?}", refusal.with_context(|| format!("{sql}: {error}"))?)
        }
    };
    session.exec("ROLLBACK")?;
    Ok(outcome)
}

fn rows(message: &SimpleQueryMessage) -> Option<u64> {
    match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    }
}
