//! A session that writes tenants without end.

use anyhow::{Result, ensure};

use super::Figure;
use super::gauge::peak;
use crate::cluster::Cluster;
use crate::database::{Database, Role};
use crate::suite::two_backends::TwoBackends;
use crate::wait::eventually;

/// How many tenants a statement of the rebuilt backend may write; the rule is only observed, so it goes on.
const LIMIT: u32 = 1_000;

/// Where more tenants than this are written, whatever is bounded is full.
const ENOUGH_FOR_ALL: u32 = 300_000;

/// A migration with tables for all ways to a tenant.
struct Stage {
    database: Database,
    legacy: Role,
    rebuilt: Role,
}

impl Stage {
    /// Legacy owns tenants below zero; of those above, as many as are said are rebuilt's.
    fn set(cluster: &Cluster, listed: u32) -> Result<Stage> {
        let database = cluster.guarded_database("memory")?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        // Owners come as from a dump: those that are there before the migration is are no change of it.
        database.connect()?.exec(&format!(
            "CREATE TABLE orders (tenant int, note text);
             CREATE TABLE by_text (tenant text, note text);
             CREATE TABLE parents (id int PRIMARY KEY, tenant int);
             CREATE TABLE children (parent int REFERENCES parents);
             CREATE TABLE parted (tenant int, n int) PARTITION BY LIST (n);
             DO $$ BEGIN FOR n IN 0..39 LOOP
                 EXECUTE pg_catalog.format('CREATE TABLE parted_%s PARTITION OF parted FOR VALUES IN (%s)', n, n);
             END LOOP; END $$;
             INSERT INTO parents SELECT n, -n FROM generate_series(1, {listed}) n;
             SET check_function_bodies = off;
             INSERT INTO holdfast.ownership (tenant, owner, epoch, changed_at, changed_by)
                 SELECT n, 'rebuilt', 1, now(), session_user FROM generate_series(1, {listed}) n;
             RESET check_function_bodies;
             ANALYZE;
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {legacy}, {rebuilt};
             SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
             SELECT holdfast.add_identity('legacy', role => '{legacy}');
             SELECT holdfast.add_identity('rebuilt', role => '{rebuilt}');
             SELECT holdfast.guard_table(name::regclass, 'tenant') FROM unnest('{{orders,by_text,parents,parted}}'::text[]) name;
             SELECT holdfast.guard_table('children', via => 'parent');
             SELECT holdfast.allow_writes('rebuilt', 'orders');
             SELECT holdfast.set_limits('rebuilt', tenants_per_statement => {LIMIT}, rows_per_statement => 1000000000,
                 rows_per_transaction => 1000000000, cascade_rows => 1000000000, statement_timeout => '1 day');
             SELECT holdfast.set_mode('enforce');
             SELECT holdfast.set_mode('observe', 'rebuilt', 'cross_tenant')"
        ))?;
        Ok(Stage { database, legacy, rebuilt })
    }

    /// The most that a session of its own has while it runs statements, which must leave no tenant's lock behind.
    fn peak(&self, role: &Role, statements: &[String]) -> Result<u64> {
        let mut session = self.database.session().role(role).option("synchronous_commit", "off").connect()?;
        let pid = session.pid();
        let most = peak(|| Ok(vec![pid]), || statements.iter().try_for_each(|sql| session.exec(sql)))?;
        let left: i64 = self.database.connect()?.one(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid}"))?;
        ensure!(left == 0, "{left} locks are left by {statements:?}");
        Ok(most)
    }

    fn figure(&self, of: &str, role: &Role, once: u32, sql: impl Fn(u32) -> Vec<String>) -> Result<Figure> {
        Ok(Figure::new(of, self.peak(role, &sql(once))?, self.peak(role, &sql(2 * once))?))
    }
}

/// So many tenants, and twice as many.
pub fn measure(cluster: &Cluster, once: u32) -> Result<Vec<Figure>> {
    let stage = Stage::set(cluster, 2 * once)?;
    // A function in FROM would have its rows in memory.
    let at_once = |sign: &'static str| {
        move |n| {
            vec![format!("INSERT INTO orders SELECT {sign}n FROM (SELECT generate_series(1, {n}) AS n) AS numbers")]
        }
    };
    // By the thousand: Postgres itself keeps 24 bytes for each COMMIT until the DO has ended.
    let one_by_one = |sign: &'static str| {
        move |n| {
            let some = |first| {
                format!(
                    "DO $$ BEGIN FOR n IN {first}..{first} + 999 LOOP INSERT INTO orders VALUES ({sign}n); COMMIT;
                     END LOOP; END $$"
                )
            };
            (1..=n).step_by(1_000).map(some).collect()
        }
    };
    let mut figures = Vec::new();
    for (backend, role, sign) in [("legacy", &stage.legacy, "-"), ("rebuilt", &stage.rebuilt, "")] {
        let of = |how| format!("a session as {backend}, tenants {how}");
        figures.push(stage.figure(&of("in one statement"), role, once, at_once(sign))?);
        figures.push(stage.figure(&of("in transactions of their own"), role, once, one_by_one(sign))?);
    }
    if once > ENOUGH_FOR_ALL {
        // By the thousand: Postgres itself keeps a note of each row until the statement ends.
        let children = |n: u32| {
            vec![format!(
                "BEGIN; DO $$ BEGIN FOR n IN 1..{n} / 1000 LOOP
                     INSERT INTO children SELECT (n - 1) * 1000 + m FROM generate_series(1, 1000) m;
                 END LOOP; END $$; COMMIT"
            )]
        };
        let of = "a session as legacy, children of parents, in one transaction";
        figures.push(stage.figure(of, &stage.legacy, once, children)?);
    }
    partitions(&stage)?;
    Ok(figures)
}

/// Each partition sees all tenants, 10,000 of them; compared with one tenant.
fn partitions(stage: &Stage) -> Result<()> {
    /// What all tables of a process have together for keys, and what grows beside them.
    const MOST: u64 = (16 << 20) + (8 << 20);
    let sql = |tenants: u32| {
        [format!("INSERT INTO parted SELECT -(n / 40 % {tenants}), n % 40 FROM generate_series(1, 400000) n")]
    };
    let (one, many) = (stage.peak(&stage.legacy, &sql(1))?, stage.peak(&stage.legacy, &sql(10_000))?);
    println!("    40 partitions, one tenant: {one} bytes; 10,000 tenants: {many}");
    ensure!(many < one + MOST, "{one} bytes with one tenant, {many} with 10,000");
    Ok(())
}

/// Nobody limits how long a key is that is a text.
pub fn long_keys(cluster: &mut Cluster) -> Result<()> {
    let stage = Stage::set(cluster, 0)?;
    let sql =
        |n: u32| vec![format!("INSERT INTO by_text SELECT repeat('x', 8000) || n FROM generate_series(1, {n}) n")];
    stage.figure("a session as legacy, tenants with keys of 8 kB", &stage.legacy, 2_000, sql)?.judge()
}

/// Every transaction shares the lock on all tenants before it has too many of its own, and gives all of them back.
pub fn full_server(cluster: &mut Cluster) -> Result<()> {
    /// As many as the cluster has connections for, nearly.
    const SESSIONS: i32 = 84;
    let stage = TwoBackends::begin(cluster, "memory")?;
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let mut session = stage.legacy()?;
        let rows = format!("INSERT INTO orders SELECT n, n FROM generate_series({0}, {0} + 200) n", 1_000 * (n + 1));
        session.exec(&format!("BEGIN; SAVEPOINT s; {rows}"))?;
        sessions.push(session);
    }
    let most = i64::from(SESSIONS) * 33;
    ensure!(stage.tenant_locks()? <= most, "{} locks of {SESSIONS} transactions", stage.tenant_locks()?);
    // Nothing of 100 × 64 is in the way of others.
    stage
        .database
        .connect()?
        .exec("BEGIN; SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 2000) n; ROLLBACK")?;
    for (n, session) in sessions.iter_mut().enumerate() {
        session.exec(["COMMIT", "ROLLBACK", "ROLLBACK TO s"][n % 3])?;
    }
    eventually("the locks to go", || Ok(stage.tenant_locks()? == 0))?;
    stage.cut_over(50, "rebuilt")
}
