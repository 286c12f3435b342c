//! What changes after the set-up shows in `coverage` at once, and is no hole meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_change_is_a_finding_at_once", every_change_is_a_finding),
        Test::shared("a_new_table_is_closed_to_the_unproven_backend", new_tables),
        Test::shared("an_attached_partition_is_never_a_hole", attached_partitions),
        Test::shared("a_detached_partition_is_closed", detached_partitions),
        Test::shared("a_dropped_table_is_forgotten", dropped_tables),
        Test::shared("a_table_dropped_unseen_is_a_finding_until_it_is_unguarded", tables_dropped_unseen),
        Test::shared("status_counts_what_coverage_shows", status),
    ]
}

const TABLES: &str = "
    CREATE TABLE items (id int PRIMARY KEY, order_id int CONSTRAINT order_fk REFERENCES orders);
    CREATE TABLE log (id int, tenant_id int) PARTITION BY LIST (id);
    CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
    SELECT holdfast.guard_table('items', via := 'order_id');
    SELECT holdfast.guard_table('log', 'tenant_id');
    SELECT holdfast.allow_writes('rebuilt', 'log')";

/// A child that comes while the guard is off.
const HEIR: &str =
    "SELECT holdfast.set_mode('off'); CREATE TABLE heir () INHERITS (orders); SELECT holdfast.set_mode('enforce')";

/// The finding of a table as another session sees it, and the state of its guard.
fn finding(observer: &mut Session, table: &str) -> Result<(String, String)> {
    let sql = "SELECT coalesce(finding, ''), coalesce(guard, '') FROM holdfast.coverage WHERE relation::text = $1";
    let rows = observer.query(sql, &[&table])?;
    ensure!(rows.len() == 1, "{} rows for {table}", rows.len());
    Ok((rows[0].try_get(0)?, rows[0].try_get(1)?))
}

fn every_change_is_a_finding(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    // Its caches know the tables as they were.
    let mut observer = scene.operator()?;
    superuser.exec(TABLES)?;
    let sound = "SELECT count(*) FROM holdfast.coverage WHERE finding IS NOT NULL AND relation <> 'loose'::regclass";
    ensure!(observer.one::<i64>(sound)? == 0);
    // (change, table, finding, guard, repair)
    let cases = [
        ("CREATE TABLE fresh (id int)", "fresh", "not classified", "", "DROP TABLE fresh"),
        (
            "CREATE SCHEMA later CREATE TABLE fresh (tenant_id int)",
            "later.fresh",
            "not classified; its tenant_id is a tenant column elsewhere",
            "",
            "DROP SCHEMA later CASCADE",
        ),
        (
            HEIR,
            "heir",
            "not classified; guard its parent orders again",
            "",
            "SELECT holdfast.guard_table('orders', 'tenant_id'); SELECT holdfast.unguard_table('heir'); DROP TABLE heir",
        ),
        (HEIR, "orders", "a table that inherits from it has no guard; guard it again", "missing", "DROP TABLE heir"),
        // Whoever may write orders would write everybody's rows through it.
        (
            "CREATE TABLE heir () INHERITS (orders); SELECT holdfast.guard_global('heir')",
            "orders",
            "a table that inherits from it has no guard; guard it again",
            "missing",
            "SELECT holdfast.guard_table('orders', 'tenant_id'); SELECT holdfast.unguard_table('heir'); DROP TABLE heir",
        ),
        (
            "ALTER TABLE log_1 DISABLE TRIGGER ALL",
            "log",
            "its guard is disabled",
            "disabled",
            "SELECT holdfast.guard_table('log', 'tenant_id')",
        ),
        (
            "ALTER TABLE plans ADD tenant_id int",
            "plans",
            "global; its tenant_id is a tenant column elsewhere",
            "enabled",
            "ALTER TABLE plans DROP tenant_id",
        ),
        (
            "ALTER TABLE orders DISABLE TRIGGER \"~holdfast_guard\"",
            "orders",
            "its guard is disabled",
            "disabled",
            "SELECT holdfast.guard_table('orders', 'tenant_id')",
        ),
        (
            "DROP TRIGGER \"~holdfast_guard\" ON orders",
            "orders",
            "its guard is missing",
            "missing",
            "SELECT holdfast.guard_table('orders', 'tenant_id')",
        ),
        (
            "DROP TRIGGER \"~holdfast_guard\" ON plans",
            "plans",
            "its guard is missing",
            "missing",
            "SELECT holdfast.guard_global('plans')",
        ),
        (
            "ALTER TABLE log_1 DISABLE TRIGGER ALL",
            "log_1",
            "its guard is disabled",
            "disabled",
            "SELECT holdfast.guard_table('log', 'tenant_id')",
        ),
        (
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER \"~~late\" BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION late()",
            "orders",
            "its guard is not the last trigger to fire",
            "overtaken",
            "DROP TRIGGER \"~~late\" ON orders",
        ),
        (
            "ALTER TABLE orders RENAME tenant_id TO t",
            "orders",
            "its tenant column is gone",
            "columnless",
            "ALTER TABLE orders RENAME t TO tenant_id",
        ),
        (
            "ALTER TABLE orders ALTER tenant_id TYPE numeric",
            "orders",
            "its tenant column has changed its nature",
            "columnless",
            "ALTER TABLE orders ALTER tenant_id TYPE int",
        ),
        (
            "ALTER TABLE items DROP CONSTRAINT order_fk",
            "items",
            "by its order_id no tenant can be found any more",
            "pathless",
            "ALTER TABLE items ADD CONSTRAINT order_fk FOREIGN KEY (order_id) REFERENCES orders",
        ),
        (
            "ALTER TABLE log DETACH PARTITION log_1",
            "log_1",
            // Postgres takes the guard along with the partition.
            "not classified; its tenant_id is a tenant column elsewhere",
            "",
            "ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES IN (1)",
        ),
        (
            "DELETE FROM holdfast.classified_table WHERE relation = 'log'::regclass",
            "log_1",
            "not classified, but it has a guard",
            "",
            "SELECT holdfast.guard_table('log', 'tenant_id')",
        ),
    ];
    for (change, table, expected, guard, repair) in cases {
        // The change is a superuser's, who could be stopped as well; what matters is that it shows.
        superuser.exec("SELECT holdfast.set_mode('off')")?;
        superuser.exec(change)?;
        let found = finding(&mut observer, table)?;
        ensure!(found == (expected.to_owned(), guard.to_owned()), "{change}\n{found:?}");
        superuser.exec(repair)?;
        superuser.exec("SELECT holdfast.set_mode('enforce')")?;
        ensure!(observer.one::<i64>(sound)? == 0, "after {repair}: {:?}", finding(&mut observer, table));
    }
    Ok(())
}

fn new_tables(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("INSERT INTO orders VALUES (100, 20)")?;
    superuser.exec("CREATE TABLE fresh (id int, tenant_id int); GRANT ALL ON fresh TO PUBLIC")?;
    let write = "INSERT INTO fresh VALUES (1, 20)";
    refused_by("outside_surface", &rebuilt.refused(write)?, write)?;
    scene.legacy()?.exec(write)?;
    // A column that came later isn't among those that were allowed.
    superuser.exec("SELECT holdfast.allow_writes('rebuilt', 'orders', columns := '{id,tenant_id,note}')")?;
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE id = 100")?;
    superuser.exec("ALTER TABLE orders ADD later int")?;
    let write = "UPDATE orders SET later = 1 WHERE id = 100";
    refused_by("outside_surface", &rebuilt.refused(write)?, write)
}

/// Writers go on, through the parent and straight into the partition, while partitions come and go.
fn attached_partitions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    superuser.exec(TABLES)?;
    let done = Arc::new(AtomicBool::new(false));
    let writer = |target: &'static str| -> Result<_> {
        let done = Arc::clone(&done);
        Ok(scene.rebuilt()?.start_with(target, move |session| {
            let (mut refused, mut closed) = (0_u32, 0_u32);
            while !done.load(Ordering::Relaxed) || refused == 0 {
                // Legacy's tenant: whatever the moment, it is not for the rebuilt backend to write.
                let refusal = session.refused(&format!("INSERT INTO {target} VALUES (2, 10)"))?;
                match refusal.code.as_str() {
                    "WG001" => refused += 1,
                    // Not attached: no partition for the row, or a table that nobody has classified.
                    "23514" | "WG010" => closed += 1,
                    code => anyhow::bail!("{code}: {refusal:?}"),
                }
            }
            Ok((refused, closed))
        }))
    };
    superuser.exec("CREATE TABLE log_2 (id int, tenant_id int); GRANT ALL ON log_2 TO PUBLIC")?;
    let writers = [writer("log")?, writer("log_2")?];
    for _ in 0..30 {
        superuser.exec("BEGIN; ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)")?;
        // Seen from inside, it is what the whole is already.
        ensure!(finding(&mut superuser, "log_2")? == (String::new(), "enabled".to_owned()));
        superuser.exec("COMMIT")?;
        superuser.exec("ALTER TABLE log DETACH PARTITION log_2")?;
    }
    superuser.exec("ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)")?;
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        let (_, counts) = writer.finish()?;
        let (refused, closed) = counts?;
        ensure!(refused > 0, "{refused} refused by the owner, {closed} closed");
    }
    ensure!(superuser.one::<i64>("SELECT count(*) FROM log")? == 0);
    scene.legacy()?.exec("INSERT INTO log VALUES (2, 10)")?;
    scene.rebuilt()?.exec("INSERT INTO log VALUES (2, 20)")
}

fn detached_partitions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    superuser.exec(TABLES)?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("INSERT INTO log_1 VALUES (1, 20)")?;
    superuser.exec("ALTER TABLE log DETACH PARTITION log_1")?;
    let write = "INSERT INTO log_1 VALUES (1, 20)";
    // Guarded for itself, it is what it was; what was allowed on the whole isn't allowed on it.
    let mut legacy = scene.legacy()?;
    refused_by("not_owner", &legacy.refused(write)?, write)?;
    refused_by("outside_surface", &rebuilt.refused(write)?, write)?;
    superuser.exec("SELECT holdfast.allow_writes('rebuilt', 'log_1')")?;
    rebuilt.exec(write)?;
    let write = "INSERT INTO log_1 VALUES (1, 10)";
    refused_by("not_owner", &rebuilt.refused(write)?, write)?;
    // It comes back and goes again, by an owner who may not call the guard's functions.
    superuser.exec(&format!("ALTER TABLE log OWNER TO {0}; ALTER TABLE log_1 OWNER TO {0}", scene.legacy))?;
    legacy.exec("ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES IN (1)")?;
    ensure!(legacy.one::<String>("SELECT current_user::text")? == scene.legacy.to_string());
    for write in ["INSERT INTO log_1 VALUES (1, 20)", "INSERT INTO log VALUES (1, 20)"] {
        refused_by("not_owner", &legacy.refused(write)?, write)?;
    }
    legacy.exec("ALTER TABLE log DETACH PARTITION log_1 CONCURRENTLY")?;
    let write = "INSERT INTO log_1 VALUES (1, 20)";
    refused_by("not_owner", &legacy.refused(write)?, write)
}

/// Another table may get its number.
fn dropped_tables(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    superuser.exec(TABLES)?;
    superuser.exec(&format!(
        "CREATE SCHEMA app CREATE TABLE one (tenant_id int) CREATE TABLE two (id int); SELECT holdfast.guard_table('app.one', 'tenant_id');
         SELECT holdfast.exempt_table('app.two'); SELECT holdfast.allow_writes('rebuilt', 'app.one');
         ALTER SCHEMA app OWNER TO {0}; ALTER TABLE app.one OWNER TO {0}; ALTER TABLE app.two OWNER TO {0};
         ALTER TABLE log OWNER TO {0}; ALTER TABLE log_1 OWNER TO {0}; ALTER TABLE ledger OWNER TO {0}",
        scene.legacy
    ))?;
    let known =
        "SELECT (SELECT count(*) FROM holdfast.classified_table), (SELECT count(*) FROM holdfast.write_permission)";
    let before = superuser.rows(known)?;
    let left = "SELECT (SELECT count(*) FROM holdfast.classified_table c WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = c.relation))
                     + (SELECT count(*) FROM holdfast.write_permission w WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = w.relation))";
    let mut legacy = scene.legacy()?;
    // What is taken back is as it was.
    legacy.exec("BEGIN; DROP TABLE log; DROP SCHEMA app CASCADE; ROLLBACK")?;
    legacy.exec("DO 'BEGIN BEGIN DROP TABLE log; RAISE ''no''; EXCEPTION WHEN raise_exception THEN NULL; END; CREATE TABLE x (id int); END'")?;
    ensure!(superuser.rows(known)? == before);
    // By an owner who may not call the guard's functions, nor write its tables.
    for drop in [
        "ALTER TABLE log DETACH PARTITION log_1; DROP TABLE log_1",
        "DROP TABLE log",
        "DROP SCHEMA app CASCADE",
        "DO 'BEGIN DROP TABLE ledger; END'",
    ] {
        legacy.exec(drop)?;
        ensure!(superuser.one::<i64>(left)? == 0, "{drop}");
    }
    let logged = "SELECT count(*) FROM holdfast.policy_change WHERE subject = 'classified_table' AND action = 'delete' AND changed_by = $1";
    ensure!(superuser.query(logged, &[&scene.legacy.to_string()])?[0].try_get::<_, i64>(0)? == 5);
    superuser.exec("SELECT holdfast.set_mode('off'); DROP TABLE items, plans; SELECT holdfast.set_mode('enforce')")?;
    ensure!(superuser.one::<i64>(left)? == 0);
    ensure!(superuser.rows("SELECT FROM holdfast.coverage WHERE finding LIKE 'dropped%'")?.is_empty());
    Ok(())
}

/// One that was dropped where nobody saw it: while holdfast.enabled was off.
fn tables_dropped_unseen(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    let oid = 4_000_000_000_u32;
    scene.damage(&format!(
        "INSERT INTO holdfast.classified_table (relation, class, tenant_column, classified_oid) VALUES ({oid}, 'tenant', 't', {oid})"
    ))?;
    let (found, _) = finding(&mut superuser, &oid.to_string())?;
    ensure!(found == format!("dropped; SELECT holdfast.unguard_table({oid})"), "{found}");
    superuser.exec(&format!("SELECT holdfast.unguard_table({oid})"))?;
    ensure!(superuser.rows("SELECT FROM holdfast.coverage WHERE finding LIKE 'dropped%'")?.is_empty());
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "coverage")?;
    let mut superuser = scene.operator()?;
    let tables = "SELECT value FROM holdfast.status WHERE item = 'tables'";
    let told: String = superuser.one(tables)?;
    ensure!(told == "5 in all, 1 unclassified, 0 with a broken guard", "{told}");
    superuser.exec(
        "SELECT holdfast.set_mode('off'); ALTER TABLE orders DISABLE TRIGGER ALL; CREATE TABLE fresh (id int);
         CREATE TABLE brief (t int); SELECT holdfast.guard_table('brief', 't'); DROP TABLE brief",
    )?;
    let told: String = superuser.one(tables)?;
    ensure!(told == "6 in all, 2 unclassified, 1 with a broken guard", "{told}");
    // Whoever may read the view may call what it asks.
    let auditor = scene.database.role("auditor")?;
    superuser.exec(&format!("SELECT holdfast.grant_auditor('{auditor}')"))?;
    let mut auditor = scene.database.connect_as(&auditor)?;
    ensure!(auditor.one::<String>(tables)? == told);
    Ok(())
}
