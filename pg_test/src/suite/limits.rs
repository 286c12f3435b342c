//! Limits are kept exactly: rows and tenants are counted as they are written, whichever way, and the statement ends at
//! the first one over the limit.

use std::io::Write as _;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::scene::Scene;
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_big_delete_changes_nothing", a_big_delete_changes_nothing),
        Test::shared("a_statement_writes_the_limit_and_no_row_more", the_limit_and_no_row_more),
        Test::shared("copies_are_counted_row_by_row", copies_are_counted),
        Test::shared("statements_of_one_message_are_counted_apart", one_message),
        Test::shared("a_transaction_writes_the_limit_and_no_row_more", a_transaction),
        Test::shared("rows_that_a_savepoint_took_back_are_not_counted", savepoints),
        Test::shared("a_loop_that_swallows_refusals_writes_no_row_more", swallowed),
        Test::shared("errors_on_the_way_leave_no_row_uncounted", errors_on_the_way),
        Test::shared("deferred_triggers_belong_to_their_statement", deferred_triggers),
        Test::shared("a_statement_writes_one_tenant", one_tenant),
        Test::shared("limits_take_effect_at_the_next_statement", the_next_statement),
        Test::shared("a_proven_backend_is_not_limited", a_proven_backend),
        Test::shared("a_limit_that_is_observed_is_recorded_once", observed),
    ]
}

const LIMIT: u64 = 300;

/// Of the table `big` and of the children of a parent.
const MANY: u64 = 50_000;
const FEW: u64 = 5_000;

const TABLES: &str = "
    CREATE TABLE big (id int PRIMARY KEY, tenant_id int, note text) WITH (autovacuum_enabled = off);
    CREATE TABLE parents (id int PRIMARY KEY, tenant_id int);
    CREATE TABLE children (id int PRIMARY KEY, tenant_id int,
        parent_id int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE) WITH (autovacuum_enabled = off);
    CREATE TABLE parted (id int, tenant_id int, part int) PARTITION BY LIST (part);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
    CREATE TABLE echoed (id int PRIMARY KEY, tenant_id int);
    CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE big SET note = ''echo'' WHERE id = new.id; RETURN NULL; END';
    CREATE TRIGGER echo AFTER INSERT ON echoed FOR EACH ROW EXECUTE FUNCTION echo();
    CREATE FUNCTION remove(id int) RETURNS void LANGUAGE plpgsql AS 'BEGIN DELETE FROM big WHERE big.id = $1; END';
    CREATE FUNCTION remove_all() RETURNS void LANGUAGE plpgsql AS 'BEGIN DELETE FROM big WHERE id > 0; END';
    CREATE FUNCTION remove_in_sql() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM big WHERE id > 0; END;
    INSERT INTO big SELECT n, 20 FROM generate_series(1, :rows) n;
    INSERT INTO big VALUES (-21, 21);
    INSERT INTO parents VALUES (1, 20), (2, 20), (3, 20);
    INSERT INTO children SELECT n, 20, 1 FROM generate_series(1, :rows) n;
    INSERT INTO children SELECT 50000 + n, 20, 2 FROM generate_series(1, 299) n;
    INSERT INTO children SELECT 60000 + n, 20, 3 FROM generate_series(1, 300) n;
    INSERT INTO parted SELECT n, 20, 1 FROM generate_series(1, 1000) n;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC";

/// A scene with small tables for counting, and the limits that are given.
fn set(cluster: &Cluster, limits: &str) -> Result<Scene> {
    set_with(cluster, limits, FEW)
}

fn set_with(cluster: &Cluster, limits: &str, rows: u64) -> Result<Scene> {
    let scene = Scene::set(cluster, "limits")?;
    let mut operator = scene.operator()?;
    operator.exec(&TABLES.replace(":rows", &rows.to_string()))?;
    for table in ["big", "parents", "children", "parted", "echoed"] {
        operator.exec(&format!(
            "SELECT holdfast.guard_table('{table}', 'tenant_id'); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
    }
    if !limits.is_empty() {
        operator.exec(&format!("SELECT holdfast.set_limits('rebuilt', {limits})"))?;
    }
    Ok(scene)
}

/// A checksum of what is counted.
fn contents(scene: &Scene) -> Result<String> {
    let each = ["big", "parents", "children", "parted", "echoed"]
        .map(|table| format!("SELECT '{table}', count(*), sum(hashtext(t::text)) FROM {table} t"));
    Ok(format!("{:?}", scene.operator()?.rows(&each.join(" UNION ALL "))?))
}

/// Checks that a refusal says what was exceeded, by how much, and what of.
fn over(refusal: &Refusal, limit: u64, what: &str, sql: &str) -> Result<()> {
    let parts =
        [format!("Limit: {limit} per {what}."), format!("Count: {}.", limit + 1), "Rule: row_budget.".to_owned()];
    let detail = refusal.detail.as_deref().unwrap_or_default();
    ensure!(
        refusal.code == "WG013"
            && refusal.constraint.as_deref() == Some("row_budget")
            && parts.iter().all(|part| detail.contains(part))
            && refusal.hint.as_deref().is_some_and(|hint| hint.contains("set_limits('rebuilt', rows_per_")),
        "row_budget with {parts:?} expected: {sql}\n{refusal:?}"
    );
    Ok(())
}

/// Runs a statement that passes, in a transaction that is rolled back.
fn passes(session: &mut Session, sql: &str) -> Result<()> {
    session.exec("BEGIN")?;
    session.exec(sql)?;
    session.exec("ROLLBACK")
}

/// Runs a statement that is over the limit of rows for statements.
fn stops(session: &mut Session, limit: u64, sql: &str) -> Result<()> {
    over(&session.refused(sql)?, limit, "statement", sql)
}

fn a_big_delete_changes_nothing(cluster: &Cluster) -> Result<()> {
    let scene = set_with(cluster, "rows_per_statement => 300", MANY)?;
    let before = contents(&scene)?;
    let mut rebuilt = scene.rebuilt()?;
    let deletes = [
        "DELETE FROM big WHERE id > 0",
        "WITH gone AS (DELETE FROM big WHERE id > 0 RETURNING id) SELECT count(*) FROM gone",
        "DELETE FROM parents WHERE id = 1",
        "SELECT remove_all()",
        "SELECT remove_in_sql()",
        "SELECT remove(n) FROM generate_series(1, 50000) n",
        "DO 'BEGIN FOR n IN 1..50000 LOOP DELETE FROM big WHERE id = n; END LOOP; END'",
        "MERGE INTO big USING generate_series(1, 50000) n ON big.id = n WHEN MATCHED THEN DELETE",
        "EXPLAIN ANALYZE DELETE FROM big WHERE id > 0",
        "PREPARE p AS DELETE FROM big WHERE id > $1; EXECUTE p(0)",
    ];
    for delete in deletes {
        stops(&mut rebuilt, LIMIT, delete)?;
    }
    let analysed = "SELECT count(*) FROM pg_class WHERE relname IN ('big', 'children') AND reltuples <> -1";
    ensure!(scene.operator()?.one::<i64>(analysed)? == 0, "the tables were to be new to the planner");
    ensure!(contents(&scene)? == before, "the tables have changed");
    let recorded = scene.recorded(&rebuilt)?;
    let expected = vec![("row_budget".to_owned(), "refused".to_owned()); deletes.len()];
    ensure!(recorded == expected, "{recorded:?}");
    Ok(())
}

fn the_limit_and_no_row_more(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 300")?;
    let before = contents(&scene)?;
    let mut rebuilt = scene.rebuilt()?;
    // With {n} rows to write.
    let statements = [
        "INSERT INTO big SELECT 60000 + n, 20 FROM generate_series(1, {n}) n",
        "UPDATE big SET note = 'x' WHERE id BETWEEN 1 AND {n}",
        "DELETE FROM big WHERE id BETWEEN 1 AND {n}",
        "INSERT INTO big SELECT n, 20 FROM generate_series(1, {n}) n ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "INSERT INTO big SELECT 4900 + n, 20 FROM generate_series(1, {n}) n ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "MERGE INTO big USING generate_series(4901, 4900 + {n}) n ON big.id = n
         WHEN MATCHED AND n < 4950 THEN DELETE WHEN MATCHED THEN UPDATE SET note = 'x' WHEN NOT MATCHED THEN INSERT VALUES (n, 20)",
        "UPDATE parted SET part = 2 WHERE id BETWEEN 1 AND {n}",
        "WITH a AS (UPDATE big SET note = 'x' WHERE id BETWEEN 1 AND 200),
              b AS (INSERT INTO parted SELECT n, 20, 2 FROM generate_series(201, {n}) n) SELECT 1",
        "SELECT remove(n) FROM generate_series(1, {n}) n",
        "DO 'BEGIN FOR n IN 1..{n} LOOP PERFORM remove(n); END LOOP; END'",
    ];
    for statement in statements {
        let with = |n: u64| statement.replace("{n}", &n.to_string());
        passes(&mut rebuilt, &with(LIMIT)).context("at the limit")?;
        stops(&mut rebuilt, LIMIT, &with(LIMIT + 1))?;
    }
    // What it sets off counts: a row and 299 children, or 300; half of it by a trigger.
    passes(&mut rebuilt, "DELETE FROM parents WHERE id = 2")?;
    stops(&mut rebuilt, LIMIT, "DELETE FROM parents WHERE id = 3")?;
    passes(&mut rebuilt, "UPDATE parents SET id = 4 WHERE id = 2")?;
    stops(&mut rebuilt, LIMIT, "UPDATE parents SET id = 4 WHERE id = 3")?;
    passes(&mut rebuilt, "INSERT INTO echoed SELECT n, 20 FROM generate_series(1, 150) n")?;
    stops(&mut rebuilt, LIMIT, "INSERT INTO echoed SELECT n, 20 FROM generate_series(1, 151) n")?;
    ensure!(contents(&scene)? == before, "the tables have changed");
    // None at all.
    scene.operator()?.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 0)")?;
    stops(&mut rebuilt, 0, "UPDATE big SET note = 'x' WHERE id = 1")?;
    passes(&mut rebuilt, "UPDATE big SET note = 'x' WHERE id = 100000")
}

fn copies_are_counted(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 300")?;
    for (rows, refused) in [(LIMIT, false), (LIMIT + 1, true), (5000, true)] {
        let mut rebuilt = scene.rebuilt()?;
        rebuilt.exec("BEGIN")?;
        let text: String = (0..rows).map(|n| format!("{}\t20\n", 100_000 + n)).collect();
        let mut writer = rebuilt.copy_in("COPY big (id, tenant_id) FROM STDIN")?;
        // What the server thinks of it, it says at the end.
        let _ = writer.write_all(text.as_bytes());
        match writer.finish() {
            Ok(copied) => ensure!(copied == rows && !refused, "{copied} rows copied"),
            Err(error) => {
                let refusal = error.as_db_error().map(Refusal::from).context("not the server's error")?;
                over(&refusal, LIMIT, "statement", &format!("COPY of {rows} rows"))?;
                ensure!(refused);
            }
        }
    }
    Ok(())
}

fn one_message(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 300")?;
    let mut rebuilt = scene.rebuilt()?;
    let delete = |from: u64, to: u64| format!("DELETE FROM big WHERE id BETWEEN {from} AND {to}");
    rebuilt.exec(&format!("BEGIN; {}; {}; {}; ROLLBACK", delete(1, 300), delete(301, 600), delete(601, 900)))?;
    stops(&mut rebuilt, LIMIT, &format!("{}; {}", delete(1, 300), delete(301, 601)))?;
    // They were one transaction.
    ensure!(scene.operator()?.one::<i64>("SELECT count(*) FROM big")? == 5_001);
    // Each execution of what was prepared is one.
    rebuilt.exec("PREPARE p AS DELETE FROM big WHERE id BETWEEN $1 AND $2; BEGIN")?;
    for n in 0..7 {
        rebuilt.exec(&format!("EXECUTE p({}, {})", n * 300 + 1, n * 300 + 300))?;
    }
    rebuilt.exec("ROLLBACK")?;
    // So is each FETCH of a cursor that writes.
    rebuilt.exec("BEGIN; DECLARE c CURSOR FOR SELECT remove(n) FROM generate_series(1, 1000) n")?;
    rebuilt.exec("FETCH 300 FROM c; FETCH 300 FROM c")?;
    stops(&mut rebuilt, LIMIT, "FETCH 301 FROM c")?;
    rebuilt.exec("ROLLBACK")
}

fn a_transaction(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_transaction => 500")?;
    let mut rebuilt = scene.rebuilt()?;
    let next = "UPDATE big SET note = 'x' WHERE id = 1";
    for _ in 0..2 {
        rebuilt.exec("BEGIN; DELETE FROM big WHERE id BETWEEN 1 AND 300")?;
        rebuilt.exec("INSERT INTO big SELECT n, 20 FROM generate_series(1, 200) n")?;
        over(&rebuilt.refused(next)?, 500, "transaction", next)?;
        rebuilt.exec("ROLLBACK")?;
    }
    let at_once = "DELETE FROM big WHERE id BETWEEN 1 AND 501";
    over(&rebuilt.refused(at_once)?, 500, "transaction", at_once)?;
    // A procedure that commits begins another.
    scene.operator()?.exec(
        "CREATE PROCEDURE in_parts(rows int) LANGUAGE plpgsql AS 'BEGIN FOR part IN 0..2 LOOP
             UPDATE big SET note = ''part'' WHERE id BETWEEN part * 1000 + 1 AND part * 1000 + rows; COMMIT; END LOOP; END'",
    )?;
    rebuilt.exec("CALL in_parts(500)")?;
    over(&rebuilt.refused("CALL in_parts(501)")?, 500, "transaction", "CALL in_parts(501)")
}

fn savepoints(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_transaction => 500")?;
    let mut rebuilt = scene.rebuilt()?;
    let next = "UPDATE big SET note = 'x' WHERE id = 4000";
    rebuilt.exec("BEGIN; DELETE FROM big WHERE id BETWEEN 1 AND 300")?;
    for _ in 0..3 {
        rebuilt.exec("SAVEPOINT s; DELETE FROM big WHERE id BETWEEN 301 AND 500; ROLLBACK TO s")?;
    }
    rebuilt.exec("DELETE FROM big WHERE id BETWEEN 301 AND 400; SAVEPOINT t")?;
    rebuilt.exec("DELETE FROM big WHERE id BETWEEN 401 AND 500; RELEASE t; SAVEPOINT u")?;
    over(&rebuilt.refused(next)?, 500, "transaction", next)?;
    // What was refused is taken back too.
    rebuilt.exec("ROLLBACK TO u")?;
    over(&rebuilt.refused(next)?, 500, "transaction", next)?;
    rebuilt.exec("ROLLBACK TO s")?;
    rebuilt.exec("DELETE FROM big WHERE id BETWEEN 301 AND 500; SAVEPOINT v")?;
    over(&rebuilt.refused(next)?, 500, "transaction", next)?;
    rebuilt.exec("ROLLBACK")
}

fn swallowed(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 300")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec(
        "DO $$BEGIN FOR n IN 1..310 LOOP
             BEGIN DELETE FROM big WHERE id = n; EXCEPTION WHEN OTHERS THEN NULL; END;
         END LOOP; END$$",
    )?;
    let left: i64 = scene.operator()?.one("SELECT count(*) FROM big")?;
    ensure!(left == 5_001 - 300, "{} rows deleted", 5_001 - left);
    ensure!(scene.recorded(&rebuilt)?.len() == 10, "not every refusal is on record");
    Ok(())
}

fn one_tenant(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "")?;
    let before = contents(&scene)?;
    let mut rebuilt = scene.rebuilt()?;
    let both = [
        "UPDATE big SET note = 'x' WHERE id IN (1, -21)",
        "DELETE FROM big WHERE id IN (1, -21)",
        "INSERT INTO big VALUES (60001, 20), (60002, 21)",
        "UPDATE big SET tenant_id = 21 WHERE id = 1",
        "WITH a AS (DELETE FROM big WHERE id = 1) UPDATE big SET note = 'x' WHERE id = -21",
        "DO 'BEGIN DELETE FROM big WHERE id = 1; DELETE FROM big WHERE id = -21; END'",
        "SELECT remove(1), remove(-21)",
        "MERGE INTO big USING (VALUES (1), (-21)) v (n) ON id = n WHEN MATCHED THEN DELETE",
        "INSERT INTO big VALUES (1, 20), (-21, 21) ON CONFLICT (id) DO UPDATE SET note = 'x'",
    ];
    for sql in both {
        let refusal = rebuilt.refused(sql)?;
        let detail = refusal.detail.as_deref().unwrap_or_default();
        ensure!(
            refusal.code == "WG012"
                && refusal.constraint.as_deref() == Some("cross_tenant")
                && detail.contains("Limit: 1 per statement. Count: 2.")
                && detail.ends_with("Rule: cross_tenant."),
            "cross_tenant expected: {sql}\n{refusal:?}"
        );
    }
    ensure!(scene.recorded(&rebuilt)?.len() == both.len(), "not every refusal is on record");
    // One after the other is nothing to count.
    rebuilt.exec("BEGIN; DELETE FROM big WHERE id = 1; DELETE FROM big WHERE id = -21; ROLLBACK")?;
    ensure!(contents(&scene)? == before, "the tables have changed");
    scene.operator()?.exec("SELECT holdfast.set_limits('rebuilt', tenants_per_statement => 2)")?;
    for sql in both {
        passes(&mut rebuilt, sql)?;
    }
    Ok(())
}

fn the_next_statement(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "")?;
    let mut operator = scene.operator()?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("SET plan_cache_mode = force_generic_plan; PREPARE p AS DELETE FROM big WHERE id BETWEEN 1 AND $1")?;
    for _ in 0..2 {
        passes(&mut rebuilt, "EXECUTE p(301)")?;
        passes(&mut rebuilt, "SELECT remove_all()")?;
        operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 300)")?;
        stops(&mut rebuilt, LIMIT, "EXECUTE p(301)")?;
        stops(&mut rebuilt, LIMIT, "SELECT remove_all()")?;
        passes(&mut rebuilt, "EXECUTE p(300)")?;
        operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => -1)")?;
    }
    // In the middle of a transaction too.
    rebuilt.exec("BEGIN; EXECUTE p(301); SAVEPOINT s")?;
    operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 10)")?;
    stops(&mut rebuilt, 10, "UPDATE big SET note = 'x' WHERE id BETWEEN 1001 AND 1011")?;
    rebuilt.exec("ROLLBACK")
}

fn a_proven_backend(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 0, rows_per_transaction => 0, tenants_per_statement => 0")?;
    let mut operator = scene.operator()?;
    operator.exec("SELECT holdfast.set_limits('legacy', rows_per_statement => 0, rows_per_transaction => 0, tenants_per_statement => 0)")?;
    let mut legacy = scene.legacy()?;
    legacy.exec("BEGIN; INSERT INTO big SELECT 100000 + n, n + 1000 FROM generate_series(1, 2000) n")?;
    legacy.exec("UPDATE big SET note = 'x' WHERE id > 100000; DELETE FROM big WHERE id > 100000; ROLLBACK")
}

fn observed(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 300")?;
    scene.operator()?.exec("SELECT holdfast.set_mode('observe', rule => 'row_budget')")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("DELETE FROM big WHERE id BETWEEN 1 AND 1000")?;
    let recorded = scene.recorded(&rebuilt)?;
    ensure!(recorded == [("row_budget".to_owned(), "observed".to_owned())], "{recorded:?}");
    Ok(())
}

/// A row that is stopped on its way to another partition, tenants that were refused in a block.
fn errors_on_the_way(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 3")?;
    // The session's first guarded write is inside of a block.
    let sql = "DO $$BEGIN
        BEGIN UPDATE big SET note = 'a' WHERE id = 1; UPDATE big SET note = 'a' WHERE id = -21; EXCEPTION WHEN OTHERS THEN NULL; END;
        UPDATE big SET note = 'b' WHERE id = 1; UPDATE big SET note = 'b' WHERE id = -21; END$$";
    let refusal = scene.rebuilt()?.refused(sql)?;
    ensure!(refusal.code == "WG012", "{refusal:?}");
    let mut rebuilt = scene.rebuilt()?;
    let sql = "DO $$BEGIN FOR i IN 1..20 LOOP
        BEGIN UPDATE parted SET part = 99 WHERE id = 1; EXCEPTION WHEN check_violation THEN NULL; END;
        INSERT INTO parted VALUES (100000 + i, 20, 1); END LOOP; END$$";
    stops(&mut rebuilt, 3, sql)?;
    let written: i64 = rebuilt.one("SELECT count(*) FROM parted WHERE id > 100000")?;
    ensure!(written == 0, "{written} rows");
    Ok(())
}

fn deferred_triggers(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster, "rows_per_statement => 5")?;
    scene.operator()?.exec(
        "CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN FOR i IN 1..10 LOOP UPDATE big SET note = ''spread'' WHERE id = i; END LOOP; RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER spread AFTER INSERT ON echoed DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION spread()",
    )?;
    stops(&mut scene.rebuilt()?, 5, "INSERT INTO echoed VALUES (1, 20)")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("BEGIN; INSERT INTO echoed VALUES (1, 20)")?;
    stops(&mut rebuilt, 5, "COMMIT")?;
    let spread: i64 = rebuilt.one("SELECT count(*) FROM big WHERE note = 'spread'")?;
    ensure!(spread == 0, "{spread} rows");
    Ok(())
}
