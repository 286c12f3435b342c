//! `unfiltered_write`: UPDATE and DELETE that no condition limits, in every shape that the planner gives them.

mod tables;

use anyhow::{Result, ensure};

use super::Test;
use super::scene::refused_by;
use crate::client::Session;
use crate::cluster::Cluster;
use tables::database;

const RULE: &str = "unfiltered_write";

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("conditions_that_limit_nothing", conditions_that_limit_nothing),
        Test::shared("conditions_that_limit", conditions_that_limit),
        Test::shared("joins_without_a_link", joins_without_a_link),
        Test::shared("joins_that_limit", joins_that_limit),
        Test::shared("merges_and_conflicts_over_everything", merges_and_conflicts_over_everything),
        Test::shared("partitions_and_children", partitions_and_children),
        Test::shared("parameters_of_generic_plans", parameters_of_generic_plans),
        Test::shared("views_policies_and_cursors", views_policies_and_cursors),
        Test::shared("every_way_to_run_it", every_way_to_run_it),
    ]
}

/// What the planner may be kept from, so that it takes another plan.
const PLANS: [&[&str]; 7] = [
    &[],
    &["seqscan"],
    &["seqscan", "indexscan", "indexonlyscan"],
    &["hashjoin"],
    &["hashjoin", "mergejoin"],
    &["mergejoin", "nestloop"],
    &["hashjoin", "nestloop"],
];

/// Each statement by each plan, in a transaction that is rolled back.
fn judge(session: &mut Session, statements: &[&str], refused: bool) -> Result<()> {
    let mut wrong = Vec::new();
    for statement in statements {
        for kept_from in PLANS {
            session.exec("BEGIN")?;
            for plan in kept_from {
                session.exec(&format!("SET LOCAL enable_{plan} = off"))?;
            }
            let outcome = match refused {
                true => session.refused(statement).and_then(|refusal| refused_by(RULE, &refusal, statement)),
                false => session.exec(statement),
            };
            session.exec("ROLLBACK")?;
            if let Err(error) = outcome {
                wrong.push(format!("without {kept_from:?}: {error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} wrong:\n- {}", wrong.len(), wrong.join("\n- "));
    Ok(())
}

fn refused(cluster: &Cluster, statements: &[&str]) -> Result<()> {
    let (_database, mut session) = database(cluster)?;
    judge(&mut session, statements, true)
}

fn pass(cluster: &Cluster, statements: &[&str]) -> Result<()> {
    let (_database, mut session) = database(cluster)?;
    judge(&mut session, statements, false)
}

fn conditions_that_limit_nothing(cluster: &Cluster) -> Result<()> {
    refused(
        cluster,
        &[
            "DELETE FROM orders",
            "UPDATE orders SET note = 'x'",
            "UPDATE ONLY orders SET note = 'x'",
            "DELETE FROM orders RETURNING *",
            "DELETE FROM orders WHERE true",
            "DELETE FROM orders WHERE 1 = 1",
            "DELETE FROM orders WHERE 1 = 1 OR id = 3",
            "DELETE FROM orders WHERE NOT false AND 'a' LIKE 'a'",
            "DELETE FROM orders WHERE id = id",
            "DELETE FROM orders WHERE id = id AND tenant = tenant AND true",
            "DELETE FROM orders WHERE id <= id",
            "DELETE FROM orders WHERE id >= id",
            "DELETE FROM orders WHERE id BETWEEN id AND id",
            "DELETE FROM orders WHERE id IS NOT NULL",
            "DELETE FROM orders WHERE code IS NOT NULL",
            "DELETE FROM orders WHERE NOT (id IS NULL)",
            "DELETE FROM orders WHERE id IS NOT DISTINCT FROM id",
            "DELETE FROM orders WHERE note IS NOT DISTINCT FROM note",
            "DELETE FROM orders WHERE (id, tenant) = (id, tenant)",
            "DELETE FROM orders WHERE ctid = ctid",
            "DELETE FROM orders WHERE ctid IS NOT NULL",
            "DELETE FROM orders WHERE tableoid = tableoid",
            "DELETE FROM orders o WHERE o = o",
            "DELETE FROM orders WHERE coalesce(note, '') = coalesce(note, '')",
            "DELETE FROM orders WHERE coalesce(note = note, true)",
            "DELETE FROM orders WHERE coalesce(note, code) IS NOT NULL",
            "DELETE FROM orders WHERE (id = id) IS TRUE",
            "DELETE FROM orders WHERE (note = note) IS NOT FALSE",
            "DELETE FROM orders WHERE (id > 3) IS NOT UNKNOWN",
            "DELETE FROM orders WHERE note IS NULL OR note IS NOT NULL",
            "DELETE FROM orders WHERE id = 3 OR id <> 3",
            "DELETE FROM orders WHERE id > 3 OR NOT id > 3",
            "DELETE FROM orders WHERE id = ANY (ARRAY[id, 3])",
            "DELETE FROM orders WHERE id IN (id)",
            "DELETE FROM orders WHERE id <> ALL ('{}')",
            "DELETE FROM orders WHERE NOT id = ANY ('{}'::int[])",
            "DELETE FROM orders WHERE code LIKE '%'",
            "DELETE FROM orders WHERE code ILIKE '%%'",
            "DELETE FROM orders WHERE CASE WHEN id > 3 THEN true ELSE id = id END",
            "DELETE FROM orders WHERE now() > '2001-01-01'",
            "DELETE FROM orders WHERE EXISTS (SELECT FROM flags)",
            "DELETE FROM orders WHERE (SELECT count(*) FROM flags) > 0",
            "DELETE FROM orders WHERE current_user IS NOT NULL",
            "DELETE FROM flags WHERE flag IS NOT NULL",
        ],
    )
}

fn conditions_that_limit(cluster: &Cluster) -> Result<()> {
    pass(
        cluster,
        &[
            "UPDATE orders SET note = 'x' WHERE id = 1",
            "UPDATE orders SET note = 'x' WHERE tenant = 1",
            "UPDATE orders SET note = 'x' WHERE tenant = 1 AND true",
            "UPDATE orders SET note = 'x' WHERE id = id AND id = 3",
            "UPDATE orders SET note = 'x' WHERE note IS NULL",
            "UPDATE orders SET note = 'x' WHERE note IS NOT NULL",
            "UPDATE orders SET note = 'x' WHERE note IS NOT NULL AND id > 3",
            "UPDATE orders SET note = 'x' WHERE code IS NOT NULL AND id > 3",
            "UPDATE orders SET note = 'x' WHERE note = note",
            "UPDATE orders SET note = 'x' WHERE (note <> 'x') IS NOT TRUE",
            "UPDATE orders SET note = 'x' WHERE note IS DISTINCT FROM 'x'",
            "UPDATE orders SET note = 'x' WHERE id = tenant",
            "UPDATE orders SET note = 'x' WHERE id <> id",
            "UPDATE orders SET note = 'x' WHERE id < id",
            "UPDATE orders SET note = 'x' WHERE id IS NULL",
            "UPDATE orders SET note = 'x' WHERE false",
            "UPDATE orders SET note = 'x' WHERE id = 3 OR id <> 4",
            "UPDATE orders SET note = 'x' WHERE note = 'x' OR note <> 'x'",
            "UPDATE orders SET note = 'x' WHERE id > 3 OR tenant = 2",
            "UPDATE orders SET note = 'x' WHERE id IN (1, 2, 3)",
            "UPDATE orders SET note = 'x' WHERE id = ANY ('{}')",
            "UPDATE orders SET note = 'x' WHERE id <> ALL ('{1}')",
            "UPDATE orders SET note = 'x' WHERE id = ANY (ARRAY[tenant, 3])",
            "UPDATE orders SET note = 'x' WHERE code LIKE 'c1%'",
            "UPDATE orders SET note = 'x' WHERE code LIKE '_%'",
            "UPDATE orders SET note = 'x' WHERE note LIKE '%'",
            "UPDATE orders SET note = 'x' WHERE coalesce(note, 'x') = 'x'",
            "UPDATE orders SET note = 'x' WHERE coalesce(note, 'x') = coalesce(note, 'y')",
            "UPDATE orders SET note = 'x' WHERE CASE WHEN id > 3 THEN true ELSE false END",
            "UPDATE orders SET note = 'x' WHERE tags = '{a}'",
            "UPDATE orders SET note = 'x' WHERE tags @> '{a}'",
            "UPDATE orders SET note = 'x' WHERE 'a' = ANY (tags)",
            "UPDATE orders o SET note = 'x' WHERE o IS NOT NULL",
            "UPDATE orders SET note = 'x' WHERE positive(id)",
            "UPDATE orders SET note = 'x' WHERE random() < 0.5",
            "UPDATE orders SET note = 'x' WHERE ctid = '(0,1)'",
            "UPDATE orders SET note = 'x' WHERE ctid > '(0,1)'",
            "UPDATE orders SET note = 'x' WHERE id = (SELECT max(order_id) FROM flags)",
            "UPDATE flags SET flag = true WHERE flag",
            "UPDATE flags SET flag = true WHERE NOT flag",
            "UPDATE flags SET flag = true WHERE flag IS NOT TRUE",
            "INSERT INTO orders VALUES (1, 1, 'c1') ON CONFLICT (id) DO UPDATE SET note = 'x'",
        ],
    )
}

fn joins_without_a_link(cluster: &Cluster) -> Result<()> {
    refused(
        cluster,
        &[
            "UPDATE orders SET note = 'x' FROM flags",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.id = 1",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE o.id = o.id",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.id = f.id",
            "UPDATE orders o SET note = 'x' FROM flags f, more m WHERE m.flag_id = f.id",
            "UPDATE orders o SET note = 'x' FROM flags f JOIN more m ON m.flag_id = f.id",
            "UPDATE orders o SET note = 'x' FROM flags f LEFT JOIN more m ON m.flag_id = f.id WHERE m.flag_id IS NULL",
            "UPDATE orders o SET note = f.flag::text FROM flags f WHERE f.id = 1 AND o.id IS NOT NULL",
            "DELETE FROM orders USING more WHERE more.note = 'm'",
            "DELETE FROM orders o USING orders other WHERE other.id = 1",
            "DELETE FROM orders o USING orders other WHERE other.id = o.id",
            "DELETE FROM orders o USING orders other WHERE other.id = o.id AND other.code = o.code",
            "DELETE FROM orders WHERE id IN (SELECT id FROM orders)",
            "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY code)",
            "DELETE FROM orders WHERE id IN (SELECT DISTINCT id FROM orders)",
            "DELETE FROM orders WHERE id IN (SELECT id FROM orders GROUP BY id)",
            "DELETE FROM orders WHERE tenant IN (SELECT tenant FROM orders)",
            "DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE id = id)",
            "DELETE FROM orders o WHERE EXISTS (SELECT FROM orders other WHERE other.id = o.id)",
            "WITH ids AS (SELECT id FROM orders) DELETE FROM orders WHERE id IN (SELECT id FROM ids)",
            "WITH ids AS MATERIALIZED (SELECT id FROM orders) DELETE FROM orders WHERE id IN (SELECT id FROM ids)",
            "DELETE FROM orders WHERE ctid IN (SELECT ctid FROM orders)",
            "DELETE FROM orders o USING all_orders v WHERE v.id = o.id",
        ],
    )
}

fn joins_that_limit(cluster: &Cluster) -> Result<()> {
    pass(
        cluster,
        &[
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.order_id = o.id",
            "UPDATE orders o SET note = 'x' FROM flags f, more m WHERE f.order_id = o.id AND m.flag_id = f.id",
            "UPDATE orders o SET note = 'x' FROM flags f, more m WHERE f.order_id = o.id",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.order_id > o.id",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.order_id = o.id OR f.flag",
            "UPDATE orders o SET note = 'x' FROM (VALUES (1, 'a'), (2, 'b')) v(id, note) WHERE v.id = o.id",
            "UPDATE orders o SET note = 'x' FROM unnest('{1,2}'::int[]) v WHERE v = o.id",
            "UPDATE orders o SET note = 'x' FROM generate_series(1, 3) v WHERE v = o.id",
            "UPDATE orders o SET note = 'x' FROM orders other WHERE other.id = o.id AND other.note IS NULL",
            "UPDATE orders o SET note = 'x' FROM orders other WHERE other.id = o.id + 1",
            "UPDATE orders o SET note = 'x' FROM orders other WHERE other.id = o.tenant",
            "UPDATE orders o SET note = 'x' FROM orders other WHERE other.id = o.id AND other.id > o.tenant",
            "UPDATE orders o SET note = 'x' FROM orders other, flags f WHERE other.id = o.id AND f.order_id = other.id",
            "UPDATE orders o SET note = 'x' FROM orders other WHERE other.note = o.note",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT order_id FROM flags)",
            "UPDATE orders SET note = 'x' WHERE id NOT IN (SELECT order_id FROM flags)",
            "UPDATE orders o SET note = 'x' WHERE EXISTS (SELECT FROM flags f WHERE f.order_id = o.id)",
            "UPDATE orders o SET note = 'x' WHERE NOT EXISTS (SELECT FROM flags f WHERE f.order_id = o.id)",
            "UPDATE orders o SET note = 'x' WHERE NOT EXISTS (SELECT FROM orders other WHERE other.id = o.id)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders LIMIT 3)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders LIMIT 3 FOR UPDATE SKIP LOCKED)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders FOR UPDATE SKIP LOCKED)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders WHERE note IS NULL)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT max(id) FROM orders GROUP BY note)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders GROUP BY id HAVING count(*) > 1)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT DISTINCT ON (note) id FROM orders)",
            "UPDATE orders SET note = 'x' WHERE note IN (SELECT note FROM orders)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT tenant FROM orders)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders TABLESAMPLE BERNOULLI (50))",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM orders EXCEPT SELECT order_id FROM flags)",
            "UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM noted_orders)",
            "UPDATE orders o SET note = 'x' FROM flags f WHERE f.id = 1 AND random() < 0.5",
            "WITH ids AS MATERIALIZED (SELECT id FROM orders WHERE id < 4)
             UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM ids)",
            "WITH RECURSIVE up AS (SELECT 1 AS id UNION ALL SELECT o.id FROM orders o JOIN up ON o.id = up.id + 1)
             UPDATE orders SET note = 'x' WHERE id IN (SELECT id FROM up)",
            "WITH gone AS (DELETE FROM flags WHERE id = 2 RETURNING order_id)
             UPDATE orders SET note = 'x' WHERE id IN (SELECT order_id FROM gone)",
        ],
    )
}

fn merges_and_conflicts_over_everything(cluster: &Cluster) -> Result<()> {
    let (_database, mut session) = database(cluster)?;
    let unfiltered = [
        "MERGE INTO orders o USING flags f ON true WHEN MATCHED THEN UPDATE SET note = 'x'",
        "MERGE INTO orders o USING flags f ON true WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING flags f ON o.id = o.id WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING flags f ON f.id = 1 WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING flags f ON o.id IS NOT NULL AND f.flag WHEN MATCHED AND true THEN DELETE",
        "MERGE INTO orders o USING flags f ON true WHEN MATCHED THEN DELETE
            WHEN NOT MATCHED THEN INSERT VALUES (99, 1, 'c99')",
        "MERGE INTO orders o USING flags f ON true WHEN MATCHED AND o.id = 3 THEN UPDATE SET note = 'x'
            WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING flags f ON true WHEN MATCHED AND o.id = o.id THEN DELETE",
        "MERGE INTO orders o USING orders s ON s.id = o.id WHEN MATCHED THEN UPDATE SET note = 'x'",
        "MERGE INTO orders o USING orders s ON s.id = o.id WHEN MATCHED THEN DELETE
            WHEN NOT MATCHED THEN INSERT VALUES (99, 1, 'c99')",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "INSERT INTO orders (id, tenant, code) SELECT id, 1, 'x' FROM orders ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (code) DO UPDATE SET note = 'x' WHERE orders.id = orders.id",
        "INSERT INTO orders SELECT o.* FROM orders o, flags ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "WITH gone AS (DELETE FROM flags RETURNING id) SELECT count(*) FROM gone",
        "WITH gone AS (DELETE FROM flags RETURNING order_id) UPDATE orders SET note = 'x' WHERE id = 1",
        "WITH gone AS (DELETE FROM flags RETURNING order_id)
            INSERT INTO more SELECT order_id FROM gone",
    ];
    judge(&mut session, &unfiltered, true)?;
    let limited = [
        "MERGE INTO orders o USING flags f ON f.order_id = o.id WHEN MATCHED THEN UPDATE SET note = 'x'",
        "MERGE INTO orders o USING flags f ON f.order_id = o.id WHEN MATCHED THEN UPDATE SET note = 'x'
            WHEN NOT MATCHED THEN INSERT VALUES (f.id + 90, 1, 'c' || (f.id + 90))",
        "MERGE INTO orders o USING (VALUES (3, 'x')) v(id, note) ON v.id = o.id WHEN MATCHED THEN UPDATE SET note = v.note
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 1, 'c3', v.note)",
        "MERGE INTO orders o USING (SELECT 1) s ON o.id = 3 WHEN MATCHED THEN DELETE",
        "MERGE INTO orders o USING (SELECT 1) s ON true WHEN MATCHED AND o.id = 3 THEN UPDATE SET note = 'x'",
        "MERGE INTO orders o USING (SELECT 1) s ON true WHEN MATCHED AND o.id > 3 THEN DO NOTHING
            WHEN MATCHED THEN UPDATE SET note = 'x'",
        "MERGE INTO orders o USING (SELECT 1) s ON true WHEN MATCHED THEN DO NOTHING",
        "MERGE INTO orders o USING (SELECT 1) s ON false WHEN MATCHED THEN DELETE
            WHEN NOT MATCHED THEN INSERT VALUES (99, 1, 'c99')",
        "MERGE INTO orders o USING orders s ON s.id = o.id AND s.note IS NULL WHEN MATCHED THEN UPDATE SET note = 'x'",
        "INSERT INTO orders SELECT * FROM orders WHERE id = 3 ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET note = 'x' WHERE orders.id = 3",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO NOTHING",
        "INSERT INTO orders SELECT id + 1000, tenant, code || 'x' FROM orders ON CONFLICT (id) DO UPDATE SET note = 'x'",
        "INSERT INTO orders SELECT order_id, 1, 'c' || order_id FROM flags ON CONFLICT (id) DO UPDATE SET note = 'x'",
    ];
    judge(&mut session, &limited, false)
}

fn partitions_and_children(cluster: &Cluster) -> Result<()> {
    let (_database, mut session) = database(cluster)?;
    let unfiltered = [
        "DELETE FROM parted",
        "UPDATE parted SET note = 'x'",
        "UPDATE parted SET note = 'x' WHERE id = id",
        "UPDATE parted SET note = 'x' WHERE tenant IS NOT NULL",
        "UPDATE parted SET note = 'x' FROM flags WHERE flags.id = 1",
        "DELETE FROM parted_1",
        "DELETE FROM parted_2 WHERE id = id",
        "DELETE FROM parted WHERE (tenant, id) IN (SELECT tenant, id FROM parted)",
        "DELETE FROM parent",
        "DELETE FROM ONLY parent",
        "DELETE FROM child WHERE id = id",
        "MERGE INTO parted p USING flags ON true WHEN MATCHED THEN DELETE",
    ];
    judge(&mut session, &unfiltered, true)?;
    let limited = [
        "UPDATE parted SET note = 'x' WHERE tenant = 1",
        "UPDATE parted SET note = 'x' WHERE tenant IN (1, 2)",
        "UPDATE parted SET note = 'x' WHERE tenant = 7",
        "UPDATE parted SET note = 'x' WHERE id = 3",
        "UPDATE parted SET note = 'x' FROM flags WHERE flags.id = parted.id",
        "UPDATE parted SET note = 'x' WHERE (tenant, id) IN (SELECT tenant, id FROM parted_1)",
        "UPDATE parent SET note = 'x' WHERE id = 3",
        "UPDATE parted SET note = 'x' WHERE note IS NULL",
    ];
    judge(&mut session, &limited, false)?;
    session.exec("SET enable_partitionwise_join = on")?;
    judge(&mut session, &unfiltered, true)?;
    judge(&mut session, &limited, false)
}

/// A generic plan keeps conditions that a custom plan would lose.
fn parameters_of_generic_plans(cluster: &Cluster) -> Result<()> {
    let (_database, mut session) = database(cluster)?;
    let cases = [
        ("(int) AS DELETE FROM orders WHERE $1 IS NULL OR id = $1", "NULL", "3"),
        ("(int) AS DELETE FROM orders WHERE id = coalesce($1, id)", "NULL", "3"),
        ("(int) AS DELETE FROM orders WHERE $1 = 0 OR id = $1", "0", "3"),
        ("(boolean) AS DELETE FROM orders WHERE $1 OR id = 3", "true", "false"),
        ("(int[]) AS DELETE FROM orders WHERE id <> ALL ($1)", "'{}'", "'{1}'"),
        ("(text) AS DELETE FROM orders WHERE code LIKE '%' || $1 || '%'", "''", "'c1'"),
        ("(text) AS DELETE FROM orders WHERE code LIKE $1", "'%'", "'c1'"),
        ("(text) AS DELETE FROM orders WHERE CASE $1 WHEN 'one' THEN id = 1 ELSE true END", "'all'", "'one'"),
        (
            "(int) AS UPDATE orders o SET note = 'x' FROM flags f WHERE f.id = 1 AND ($1 IS NULL OR o.id = $1)",
            "NULL",
            "3",
        ),
        ("(int) AS DELETE FROM parted WHERE $1 IS NULL OR id = $1", "NULL", "3"),
    ];
    for mode in ["force_generic_plan", "force_custom_plan"] {
        session.exec(&format!("SET plan_cache_mode = {mode}"))?;
        for (number, (statement, unlimited, limited)) in cases.iter().enumerate() {
            session.exec(&format!("DELETE FROM flags WHERE order_id < 99; PREPARE s{number} {statement}"))?;
            judge(&mut session, &[&format!("EXECUTE s{number}({unlimited})")], true)?;
            judge(&mut session, &[&format!("EXECUTE s{number}({limited})")], false)?;
            session.exec("DEALLOCATE ALL")?;
            session.exec("INSERT INTO flags VALUES (1, 1, true)")?;
        }
        let block = |value: &str| {
            format!("DO $$ DECLARE one int := {value}; BEGIN DELETE FROM orders WHERE one IS NULL OR id = one; END $$")
        };
        session.exec("DELETE FROM flags WHERE order_id < 99")?;
        judge(&mut session, &[&block("NULL")], true)?;
        judge(&mut session, &[&block("3")], false)?;
        session.exec("INSERT INTO flags VALUES (1, 1, true)")?;
        // Over the wire, with the parameter bound by the client.
        session.exec("BEGIN")?;
        let sql = "UPDATE orders SET note = 'x' WHERE $1::int IS NULL OR id = $1";
        ensure!(session.execute(sql, &[&Some(3)])? == 1);
        let error = session.execute(sql, &[&None::<i32>]).err();
        let code = error.as_ref().and_then(postgres::Error::code).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("WG015"), "{mode}: {error:?}");
        session.exec("ROLLBACK")?;
    }
    Ok(())
}

fn views_policies_and_cursors(cluster: &Cluster) -> Result<()> {
    let (database, mut session) = database(cluster)?;
    let mut dba = database.connect()?;
    judge(&mut session, &["DELETE FROM all_orders", "UPDATE all_orders SET note = 'x' WHERE id = id"], true)?;
    let limited = [
        "UPDATE noted_orders SET note = 'y'",
        "UPDATE barred SET note = 'y'",
        "UPDATE barred SET note = 'y' WHERE id = id",
        "UPDATE all_orders SET note = 'y' WHERE id = 3",
        "DECLARE one CURSOR FOR SELECT * FROM orders FOR UPDATE; FETCH one; UPDATE orders SET note = 'x' WHERE CURRENT OF one",
        "EXPLAIN DELETE FROM orders",
    ];
    judge(&mut session, &limited, false)?;
    // A policy's condition is one.
    dba.exec(
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE POLICY few ON orders USING (id > 3)",
    )?;
    judge(&mut session, &["UPDATE orders SET note = 'x'"], false)?;
    dba.exec("DROP POLICY few ON orders; CREATE POLICY every ON orders USING (true)")?;
    judge(&mut session, &["UPDATE orders SET note = 'x'"], true)
}

fn every_way_to_run_it(cluster: &Cluster) -> Result<()> {
    let (database, mut session) = database(cluster)?;
    let mut dba = database.connect()?;
    dba.exec(
        "CREATE FUNCTION by_sql() RETURNS void LANGUAGE sql AS 'UPDATE orders SET note = ''x''';
         CREATE FUNCTION by_body() RETURNS void LANGUAGE sql BEGIN ATOMIC UPDATE orders SET note = 'x'; END;
         CREATE FUNCTION by_plpgsql() RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET note = ''x''; END';
         CREATE FUNCTION by_definer() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE orders SET note = ''x''';
         CREATE VIEW button AS SELECT 1 AS press;
         CREATE RULE pressed AS ON UPDATE TO button DO INSTEAD UPDATE orders SET note = 'x';
         GRANT ALL ON button TO PUBLIC",
    )?;
    let ways = [
        "UPDATE orders SET note = 'x'",
        "EXPLAIN ANALYZE UPDATE orders SET note = 'x'",
        "PREPARE every AS UPDATE orders SET note = 'x'; EXECUTE every",
        "DO 'BEGIN UPDATE orders SET note = ''x''; END'",
        "SELECT by_sql()",
        "SELECT by_body()",
        "SELECT by_plpgsql()",
        "SELECT by_definer()",
        "UPDATE button SET press = 1",
        "COPY (UPDATE orders SET note = 'x' RETURNING id) TO STDOUT",
        "WITH changed AS (UPDATE orders SET note = 'x' RETURNING id) SELECT count(*) FROM changed",
    ];
    for way in ways {
        session.exec("BEGIN")?;
        let refusal = session.refused(way)?;
        refused_by(RULE, &refusal, way)?;
        ensure!(refusal.message == "UPDATE without a condition on table \"orders\"", "{refusal:?}");
        ensure!(
            refusal.table.as_deref() == Some("orders") && refusal.schema.as_deref() == Some("public"),
            "{refusal:?}"
        );
        session.exec("ROLLBACK; DEALLOCATE ALL")?;
    }
    let sql = "SELECT count(*) FROM holdfast.blocked_writes WHERE rule = 'unfiltered_write' AND outcome = 'refused'";
    ensure!(dba.one::<i64>(sql)? == ways.len() as i64);
    // A proven backend may.
    dba.exec("SELECT holdfast.set_trust('rebuilt', 'proven')")?;
    for way in ways {
        session
            .exec(&format!("BEGIN; {way}; ROLLBACK"))
            .or_else(|error| if way.starts_with("COPY") { Ok(()) } else { Err(error) })?;
        session.exec("ROLLBACK; DEALLOCATE ALL")?;
    }
    Ok(())
}
