//! Nothing a client says brings the server down, and refusing leaves nothing behind.

use anyhow::{Context, Result, ensure};
use procfs::process::Process;

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

const COMMANDS: &str = include_str!("crash_safety/commands.sql");

/// What a session may grow by, in bytes: a little for caches, nothing that adds up.
const SLACK: u64 = 1 << 20;

/// The harness fails a test whose server crashed.
pub fn tests() -> Vec<Test> {
    let own = ClusterOptions::new;
    vec![
        Test::own("every_command_is_survived", own(), every_command_is_survived),
        Test::own("random_statements_are_survived", own(), random_statements_are_survived),
        Test::shared("refusals_in_one_statement_leak_nothing", refusals_in_one_statement),
        Test::shared("refusals_over_a_session_leak_nothing", refusals_over_a_session),
        Test::shared("observed_writes_leak_nothing", observed_writes),
    ]
}

/// Who runs a batch of statements.
#[derive(Clone, Copy, Debug)]
enum Who {
    Legacy,
    Rebuilt,
    Unidentified,
}

impl Who {
    const ALL: [Who; 3] = [Who::Rebuilt, Who::Unidentified, Who::Legacy];

    /// A database whose every table may be written over, and the login role.
    fn prepare(self, cluster: &Cluster, superuser: bool) -> Result<(Guarded, String)> {
        let guarded = Guarded::enforcing(cluster, "crash")?;
        let mut dba = guarded.database.connect()?;
        let role = match self {
            Who::Legacy => guarded.legacy.to_string(),
            Who::Rebuilt => guarded.rebuilt.to_string(),
            Who::Unidentified => guarded.database.role("stranger")?.to_string(),
        };
        if matches!(self, Who::Unidentified) {
            dba.exec("SELECT holdfast.set_default_backend(NULL)")?;
        }
        dba.exec(&format!("GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))?;
        if superuser {
            dba.exec(&format!("ALTER ROLE {role} SUPERUSER"))?;
        }
        Ok((guarded, role))
    }
}

/// Runs statements through psql, which says so when the connection is lost.
fn run(cluster: &Cluster, guarded: &Guarded, role: &str, sql: &str) -> Result<()> {
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-q", "-f", "-", "-U", role, "-d", &guarded.database.name]);
    let output = cluster.output(psql, &format!("{sql}\n\\echo done\n"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let lost = ["server closed the connection", "XX000", "panicked", "PANIC"];
    let seen: Vec<_> = errors.lines().filter(|line| lost.iter().any(|sign| line.contains(sign))).collect();
    ensure!(seen.is_empty(), "as {role}: {}", seen.join("\n"));
    ensure!(output.status.success() && printed.trim_end().ends_with("done"), "psql ended early as {role}: {errors}");
    Ok(())
}

fn every_command_is_survived(cluster: &mut Cluster) -> Result<()> {
    // A superuser gets furthest in each command; without that, permissions end most of them.
    for (who, superuser) in Who::ALL.map(|who| (who, true)).into_iter().chain([(Who::Rebuilt, false)]) {
        let (guarded, role) = who.prepare(cluster, superuser)?;
        let sql = COMMANDS.replace("ROLENAME", &role).replace("DATABASENAME", &guarded.database.name);
        let (sql, end) = sql.split_once("-- the end").context("no end")?;
        run(cluster, &guarded, &role, sql).with_context(|| format!("{who:?}, superuser: {superuser}"))?;
        let refused = guarded.recorded()?.0;
        ensure!(matches!(who, Who::Legacy) || refused >= 10, "{who:?}: the guard was off, {refused} refusals");
        run(cluster, &guarded, &role, end).with_context(|| format!("{who:?}, superuser: {superuser}"))?;
    }
    internal_errors(cluster)
}

fn internal_errors(cluster: &Cluster) -> Result<()> {
    let log = cluster.log()?;
    let signs = ["panicked", "RefCell", "could not find", "cache lookup failed"];
    let found: Vec<_> = log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign))).collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

fn random_statements_are_survived(cluster: &mut Cluster) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(20_240_229);
    for who in Who::ALL {
        let (guarded, role) = who.prepare(cluster, true)?;
        let statements: Vec<String> = (0..600).map(|_| statement(&mut random)).collect();
        let sql = format!("SET statement_timeout = '2s';\n{}", statements.join(";\n"));
        run(cluster, &guarded, &role, &(sql + ";\nROLLBACK;"))?;
    }
    Ok(())
}

/// A statement that may or may not make sense.
fn statement(random: &mut fastrand::Rng) -> String {
    const STARTS: [&str; 36] = [
        "DROP",
        "DROP",
        "ALTER",
        "CREATE",
        "COMMENT ON",
        "TRUNCATE",
        "TRUNCATE TABLE ONLY",
        "LOCK",
        "ANALYZE",
        "REINDEX",
        "CLUSTER",
        "REFRESH MATERIALIZED VIEW",
        "EXPLAIN DELETE FROM",
        "EXPLAIN ANALYZE DELETE FROM",
        "DELETE FROM",
        "UPDATE",
        "INSERT INTO",
        "COPY",
        "GRANT ALL ON",
        "REVOKE ALL ON",
        "REASSIGN OWNED BY",
        "DROP OWNED BY",
        "SET",
        "RESET",
        "SHOW",
        "PREPARE",
        "EXECUTE",
        "DEALLOCATE",
        "DECLARE",
        "FETCH",
        "SAVEPOINT",
        "ROLLBACK TO",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "MERGE INTO",
    ];
    const KINDS: [&str; 28] = [
        "TABLE",
        "VIEW",
        "INDEX",
        "SEQUENCE",
        "FUNCTION",
        "PROCEDURE",
        "TRIGGER",
        "RULE",
        "POLICY",
        "SCHEMA",
        "TYPE",
        "DOMAIN",
        "ROLE",
        "USER",
        "EXTENSION",
        "DATABASE",
        "CAST",
        "OPERATOR",
        "AGGREGATE",
        "MATERIALIZED VIEW",
        "",
        "FOREIGN TABLE",
        "STATISTICS",
        "COLLATION",
        "PUBLICATION",
        "SUBSCRIPTION",
        "EVENT TRIGGER",
        "TRANSFORM",
    ];
    const NAMES: [&str; 20] = [
        "orders",
        "plans",
        "public.orders",
        "holdfast.event",
        "missing",
        "a.b.c",
        "\"Od d\"",
        "CURRENT_USER",
        "ALL",
        "orders, plans",
        "(int AS text)",
        "f(int)",
        "pg_class",
        "IF EXISTS missing",
        "IF EXISTS a.b",
        "t ON orders",
        "IF NOT EXISTS made",
        "CONCURRENTLY missing",
        "SESSION_USER",
        "pg_temp.t",
    ];
    const TAILS: [&str; 24] = [
        "",
        "",
        "",
        "CASCADE",
        "RESTRICT",
        "(id int)",
        "ADD COLUMN x int",
        "DROP COLUMN note",
        "RENAME TO other",
        "SET note = DEFAULT",
        "IS NULL",
        "DEFAULT VALUES",
        "SELECT 1, 2",
        "WHERE false",
        "FROM 'missing'",
        "TO STDOUT",
        "TO CURRENT_USER",
        "AS SELECT 1",
        "AS SELECT * FROM orders",
        "DISABLE TRIGGER ALL",
        "ENABLE RULE r",
        "DETACH PARTITION p",
        "USING plans ON true WHEN MATCHED THEN DELETE",
        "IN EXCLUSIVE MODE NOWAIT",
    ];
    let mut pick = |from: &[&'static str]| from[random.usize(..from.len())];
    format!("{} {} {} {}", pick(&STARTS), pick(&KINDS), pick(&NAMES), pick(&TAILS))
}

/// What the process holds beside shared memory: what it asked Postgres for, and all of it.
fn memory(session: &mut Session) -> Result<(u64, u64)> {
    let contexts: i64 = session.one("SELECT sum(total_bytes)::int8 FROM pg_backend_memory_contexts")?;
    Ok((contexts.unsigned_abs(), private_memory(session.pid())?))
}

fn private_memory(pid: i32) -> Result<u64> {
    Ok(Process::new(pid)?.status()?.rssanon.context("no RssAnon")? * 1024)
}

/// Runs `warm_up`, then `work`, and compares what the process holds.
fn leaks_nothing(session: &mut Session, warm_up: &str, work: &str) -> Result<()> {
    session.exec(warm_up)?;
    let before = memory(session)?;
    session.exec(work)?;
    let after = memory(session)?;
    ensure!(after.0 <= before.0 + SLACK && after.1 <= before.1 + SLACK, "(contexts, all) {before:?} → {after:?}");
    Ok(())
}

/// A loop of refusals that plpgsql swallows.
fn swallowing(rounds: u32) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 1..{rounds} LOOP
             BEGIN {FOREIGN_WRITE}; EXCEPTION WHEN SQLSTATE 'WG001' THEN NULL; END;
         END LOOP; END $$"
    )
}

fn refusals_in_one_statement(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "crash")?;
    let mut session = guarded.rebuilt()?;
    guarded.database.connect()?.exec(&format!("GRANT pg_read_all_stats TO {}", guarded.rebuilt))?;
    // Each waits for a commit; a few thousand are enough to see a leak of a kilobyte.
    leaks_nothing(&mut session, &swallowing(500), &swallowing(3_000))?;
    ensure!(guarded.recorded()?.0 == 3_500, "{:?}", guarded.recorded()?);
    Ok(())
}

fn refusals_over_a_session(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "crash")?;
    let mut session = guarded.rebuilt()?;
    let pid = session.pid();
    let refused =
        [FOREIGN_WRITE, "TRUNCATE orders", "DROP TABLE orders", "DELETE FROM orders", "INSERT INTO plans VALUES (1)"];
    let mut all = |rounds: u32| -> Result<()> {
        for n in 0..rounds {
            let sql = refused[n as usize % refused.len()];
            ensure!(session.refused(sql)?.code.starts_with("WG"), "{sql}");
        }
        Ok(())
    };
    all(200)?;
    let before = private_memory(pid)?;
    all(1_500)?;
    let after = private_memory(pid)?;
    ensure!(after <= before + SLACK, "{before} → {after}");
    ensure!(guarded.recorded()?.0 == 1_700, "{:?}", guarded.recorded()?);
    Ok(())
}

fn observed_writes(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "crash")?;
    guarded.database.connect()?.exec("SELECT holdfast.set_mode('observe')")?;
    let mut session = guarded.rebuilt()?;
    guarded.database.connect()?.exec(&format!("GRANT pg_read_all_stats TO {}", guarded.rebuilt))?;
    let observing = |start: u32, rounds: u32| {
        format!("DO $$ BEGIN FOR n IN 1..{rounds} LOOP INSERT INTO orders VALUES (1, {start} + n); END LOOP; END $$")
    };
    leaks_nothing(&mut session, &observing(100, 2_000), &observing(10_000, 20_000))?;
    guarded.database.connect()?.exec("SELECT holdfast.flush_events()")?;
    ensure!(guarded.recorded()?.0 == 22_000, "{:?}", guarded.recorded()?);
    Ok(())
}
