//! `cascade_preview` tells what a DELETE takes, and takes nothing itself.

mod generated;

use anyhow::{Result, ensure};

use super::Test;
use crate::client::{Rows, Session};
use crate::cluster::Cluster;
use crate::database::Database;
use generated::Generated;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("the_preview_is_what_delete_does_on_generated_schemas", generated_schemas),
        Test::shared("paths_tenants_and_keys_are_named", paths_tenants_and_keys),
        Test::shared("inheritance_children_have_keys_of_their_own", inheritance),
        Test::shared("keys_that_are_set_are_followed_on", keys_that_are_set),
        Test::shared("a_predicate_is_one_condition", predicates),
        Test::shared("a_predicate_that_writes_is_stopped", predicates_that_write),
        Test::shared("it_reads_with_the_callers_rights", rights),
        Test::shared("it_takes_no_lock_but_access_share_and_fires_nothing", locks),
        Test::shared("it_sees_what_its_transaction_sees", snapshots),
    ]
}

const SHOP: &str = "
    CREATE TABLE orders (brokerage int, id int, PRIMARY KEY (brokerage, id));
    CREATE TABLE order_items (id int PRIMARY KEY, brokerage int, order_id int,
        FOREIGN KEY (brokerage, order_id) REFERENCES orders ON DELETE CASCADE);
    CREATE TABLE shipments (item int REFERENCES order_items ON DELETE CASCADE, brokerage int);
    CREATE TABLE notes (id int PRIMARY KEY, item int REFERENCES order_items ON DELETE SET NULL);
    CREATE TABLE invoices (\"in\" text PRIMARY KEY, item int REFERENCES order_items);
    INSERT INTO orders VALUES (7, 1), (7, 2), (8, 3);
    INSERT INTO order_items VALUES (10, 7, 1), (11, 7, 1), (20, 7, 2), (30, 8, 3);
    INSERT INTO shipments VALUES (10, 7), (30, 8), (30, NULL);
    INSERT INTO notes VALUES (1, 10), (2, 10), (3, 20);
    INSERT INTO invoices VALUES ('2026-1', 30)";

const CLASSES: &str = "
    SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
    SELECT holdfast.guard_table(t, 'brokerage') FROM unnest('{orders,order_items,shipments}'::regclass[]) t";

fn shop(cluster: &Cluster) -> Result<(Database, Session)> {
    let database = cluster.guarded_database("preview")?;
    let mut operator = database.connect()?;
    operator.exec(SHOP)?;
    operator.exec(CLASSES)?;
    Ok((database, operator))
}

/// Rows as `a|b|c`, nulls empty.
fn lines(rows: &Rows) -> Vec<String> {
    let line = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.clone().unwrap_or_default()).collect::<Vec<_>>().join("|")
    };
    rows.iter().map(line).collect()
}

fn preview(session: &mut Session, arguments: &str) -> Result<Vec<String>> {
    Ok(lines(&session.rows(&format!("SELECT * FROM holdfast.cascade_preview({arguments})"))?))
}

fn told(session: &mut Session, arguments: &str, expected: &[&str]) -> Result<()> {
    let told = preview(session, arguments)?;
    ensure!(told == expected, "{arguments}\ntold:\n{}\nexpected:\n{}", told.join("\n"), expected.join("\n"));
    Ok(())
}

fn generated_schemas(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("preview")?;
    let mut session = database.connect()?;
    let (mut passed, mut stopped, mut deep) = (0, 0, 0);
    for seed in 1..=10 {
        let generated = Generated::create(&mut session, seed)?;
        for predicate in ["id = 4", "id IN (5, 6, 7)", "id > 0 AND tenant_id = 1", "id > 0"] {
            for table in 0..generated.tables() {
                let (preview, depth) = generated.preview(&mut session, table, predicate)?;
                match generated.delete(&mut session, table, predicate)? {
                    Some(taken) => {
                        passed += 1;
                        ensure!(
                            preview == taken,
                            "seed {seed}, {predicate} of t{table}\npreview {preview:#?}\nDELETE {taken:#?}\n{}",
                            generated.ddl()
                        );
                        deep += i32::from(depth >= 4);
                    }
                    None => {
                        stopped += 1;
                        ensure!(
                            preview.keys().any(|(_, action, _)| action == "restricted"),
                            "seed {seed}: {predicate} of t{table} fails, but the preview says {preview:#?}\n{}",
                            generated.ddl()
                        );
                    }
                }
            }
        }
        generated.drop(&mut session)?;
    }
    ensure!(passed > 30 && stopped > 20 && deep > 5, "{passed} pass, {stopped} are stopped, {deep} go deep");
    Ok(())
}

fn paths_tenants_and_keys(cluster: &Cluster) -> Result<()> {
    let (_database, mut operator) = shop(cluster)?;
    told(
        &mut operator,
        "'orders', 'id IN (1, 3)'",
        &[
            "0|orders|orders|delete|7|1|brokerage = 7, id = 1",
            "0|orders|orders|delete|8|1|brokerage = 8, id = 3",
            "1|orders → order_items|order_items|delete|7|2|id = 10",
            "1|orders → order_items|order_items|delete|8|1|id = 30",
            "2|orders → order_items → shipments|shipments|delete||1|ctid = (0,3)",
            "2|orders → order_items → shipments|shipments|delete|7|1|ctid = (0,1)",
            "2|orders → order_items → shipments|shipments|delete|8|1|ctid = (0,2)",
            "2|orders → order_items → notes|notes|set null||2|id = 1",
            "2|orders → order_items → invoices|invoices|restricted||1|\"in\" = 2026-1",
        ],
    )?;
    told(&mut operator, "'orders', 'id = 99'", &[])?;
    // Without a predicate, the whole table.
    told(
        &mut operator,
        "'shipments'",
        &[
            "0|shipments|shipments|delete||1|ctid = (0,3)",
            "0|shipments|shipments|delete|7|1|ctid = (0,1)",
            "0|shipments|shipments|delete|8|1|ctid = (0,2)",
        ],
    )?;
    // Keys that are switched off aren't followed, by DELETE neither.
    operator.exec("ALTER TABLE order_items DISABLE TRIGGER ALL")?;
    told(&mut operator, "'order_items', 'id = 30'", &["0|order_items|order_items|delete|8|1|id = 30"])
}

fn inheritance(cluster: &Cluster) -> Result<()> {
    let (_database, mut operator) = shop(cluster)?;
    operator.exec(
        "CREATE TABLE old_orders (PRIMARY KEY (brokerage, id)) INHERITS (orders);
         CREATE TABLE old_items (old_brokerage int, old_order int,
             FOREIGN KEY (old_brokerage, old_order) REFERENCES old_orders ON DELETE CASCADE);
         INSERT INTO old_orders VALUES (7, 1), (9, 9);
         INSERT INTO old_items VALUES (7, 1), (9, 9);
         SELECT holdfast.guard_table('orders', 'brokerage')",
    )?;
    // DELETE FROM orders takes the rows of its children, whose foreign keys are their own.
    told(
        &mut operator,
        "'orders', 'brokerage = 7 AND id = 1 OR id = 9'",
        &[
            "0|orders|orders|delete|7|1|brokerage = 7, id = 1",
            "0|old_orders|old_orders|delete|7|1|brokerage = 7, id = 1",
            "0|old_orders|old_orders|delete|9|1|brokerage = 9, id = 9",
            "1|orders → order_items|order_items|delete|7|2|id = 10",
            "1|old_orders → old_items|old_items|delete||2|ctid = (0,1)",
            "2|orders → order_items → shipments|shipments|delete|7|1|ctid = (0,1)",
            "2|orders → order_items → notes|notes|set null||2|id = 1",
        ],
    )
}

fn keys_that_are_set(cluster: &Cluster) -> Result<()> {
    let (_database, mut operator) = shop(cluster)?;
    operator.exec(
        "CREATE TABLE places (id int PRIMARY KEY);
         CREATE TABLE desks (place int UNIQUE REFERENCES places ON DELETE SET NULL);
         CREATE TABLE lamps (desk int REFERENCES desks (place) ON UPDATE CASCADE);
         CREATE TABLE chairs (place int NOT NULL REFERENCES places ON DELETE SET NULL);
         INSERT INTO places VALUES (1), (2);
         INSERT INTO desks VALUES (1), (2);
         INSERT INTO lamps VALUES (1), (1), (2);
         INSERT INTO chairs VALUES (2)",
    )?;
    told(
        &mut operator,
        "'places', 'id = 1'",
        &[
            "0|places|places|delete||1|id = 1",
            "1|places → desks|desks|set null||1|ctid = (0,1)",
            "2|places → desks → lamps|lamps|set null||2|ctid = (0,1)",
        ],
    )?;
    // What can't be null stops the DELETE.
    ensure!(operator.refused("DELETE FROM places WHERE id = 2")?.code == "23502");
    let told = preview(&mut operator, "'places', 'id = 2'")?;
    ensure!(told.contains(&"1|places → chairs|chairs|restricted||1|ctid = (0,1)".to_owned()), "{told:?}");
    Ok(())
}

fn predicates(cluster: &Cluster) -> Result<()> {
    let (_database, mut operator) = shop(cluster)?;
    for (predicate, code) in [
        ("x); DROP TABLE y; --", "42601"),
        ("true; DROP TABLE notes", "42601"),
        ("true;", "42601"),
        ("true) UNION SELECT (1", "42601"),
        ("true UNION SELECT", "42601"),
        ("true) OR (true", "42601"),
        ("true ORDER BY 1", "42601"),
        ("true LIMIT 1", "42601"),
        ("true FOR UPDATE", "42601"),
        ("true GROUP BY id", "42601"),
        ("true HAVING true", "42601"),
        ("true WINDOW w AS ()", "42601"),
        ("true /*", "42601"),
        ("'", "42601"),
        ("", "42601"),
        ("CURRENT OF c", "42601"),
        ("id", "42804"),
        ("nothing = 1", "42703"),
        ("count(*) > 0", "42803"),
        ("EXISTS (SELECT FROM notes FOR UPDATE)", "0A000"),
        ("id = $1", "42P02"),
    ] {
        let call = format!("SELECT * FROM holdfast.cascade_preview('orders', {})", literal(predicate));
        let refusal = operator.refused(&call)?;
        ensure!(refusal.code == code, "{predicate}: {refusal:?}");
        if code == "42601" {
            ensure!(refusal.message == "parameter \"predicate\" is not one condition", "{predicate}: {refusal:?}");
        }
    }
    for (predicate, orders) in [
        ("true -- all of them", 3),
        ("orders.id = 1 /* this */", 1),
        ("id = 1 OR brokerage = 8", 2),
        ("(brokerage, id) IN (SELECT brokerage, order_id FROM order_items)", 3),
        ("NULL", 0),
    ] {
        let sql = "SELECT coalesce(sum(rows), 0)::bigint FROM holdfast.cascade_preview('orders', $1) WHERE depth = 0";
        let told: i64 = operator.query_one(sql, &[&predicate])?.try_get(0)?;
        ensure!(told == orders, "{predicate}: {told}");
    }
    for (relation, code) in
        [("'holdfast.status'", "42809"), ("'orders_pkey'", "42809"), ("99", "42P01"), ("NULL", "22004")]
    {
        let refusal = operator.refused(&format!("SELECT * FROM holdfast.cascade_preview({relation})"))?;
        ensure!(refusal.code == code, "{relation}: {refusal:?}");
    }
    Ok(())
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn predicates_that_write(cluster: &Cluster) -> Result<()> {
    let (_database, mut operator) = shop(cluster)?;
    operator.exec(
        "CREATE SEQUENCE numbers;
         CREATE FUNCTION clear() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN DELETE FROM notes; RETURN true; END';
         CREATE FUNCTION clear_quietly() RETURNS boolean STABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM clear(); RETURN true; EXCEPTION WHEN others THEN RETURN false; END'",
    )?;
    let contents = "SELECT * FROM notes ORDER BY id";
    let before = operator.rows(contents)?;
    for predicate in ["clear()", "nextval('numbers') > 0", "EXISTS (SELECT FROM clear() c WHERE c)"] {
        let call = format!("SELECT * FROM holdfast.cascade_preview('orders', {})", literal(predicate));
        let refusal = operator.refused(&call)?;
        ensure!(refusal.code == "25006", "{predicate}: {refusal:?}");
        // Also where the transaction has written already, and afterwards it may write again.
        operator.exec("BEGIN; INSERT INTO notes VALUES (50); SAVEPOINT s")?;
        ensure!(operator.refused(&call)?.code == "25006");
        operator.exec("ROLLBACK TO s; INSERT INTO notes VALUES (51)")?;
        operator.rows("SELECT * FROM holdfast.cascade_preview('orders')")?;
        operator.exec("INSERT INTO notes VALUES (52); ROLLBACK")?;
    }
    told(&mut operator, "'orders', 'clear_quietly()'", &[])?;
    ensure!(operator.rows(contents)? == before, "the notes have changed");
    operator.exec("INSERT INTO notes VALUES (53)")
}

fn rights(cluster: &Cluster) -> Result<()> {
    let (database, mut operator) = shop(cluster)?;
    let (reader, anybody) = (database.role("reader")?, database.role("anybody")?);
    operator.exec(&format!("GRANT EXECUTE ON FUNCTION holdfast.cascade_preview TO {reader}; GRANT SELECT ON orders, order_items TO {reader}"))?;
    let call = "SELECT * FROM holdfast.cascade_preview('orders', 'id = 1')";
    ensure!(database.connect_as(&anybody)?.refused(call)?.code == "42501");
    let mut session = database.connect_as(&reader)?;
    ensure!(session.refused(call)?.code == "42501");
    operator.exec(&format!("GRANT SELECT ON shipments, notes, invoices TO {reader}"))?;
    session.rows(call)?;
    // The predicate may read what its author may read, and no more.
    operator.exec("CREATE TABLE secrets (id int)")?;
    let curious = "SELECT * FROM holdfast.cascade_preview('orders', 'EXISTS (SELECT FROM secrets)')";
    ensure!(session.refused(curious)?.code == "42501");
    // Rows that a policy hides would be taken all the same, so the answer would be wrong.
    operator.exec("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")?;
    ensure!(session.refused(call)?.code == "42501");
    Ok(())
}

fn locks(cluster: &Cluster) -> Result<()> {
    let (database, mut operator) = shop(cluster)?;
    // Whoever writes isn't in the way.
    let mut writer = database.connect()?;
    writer.exec("BEGIN; LOCK TABLE orders, order_items, notes, shipments IN EXCLUSIVE MODE")?;
    operator.exec("BEGIN")?;
    ensure!(preview(&mut operator, "'orders'")?.len() > 5);
    let modes = operator
        .rows("SELECT DISTINCT mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'")?;
    ensure!(lines(&modes) == ["AccessShareLock"], "{modes:?}");
    let assigned: bool = operator.one("SELECT pg_current_xact_id_if_assigned() IS NULL")?;
    ensure!(assigned, "the preview has taken a transaction id");
    operator.exec("COMMIT")?;
    writer.exec("ROLLBACK")?;
    operator.exec("SELECT holdfast.set_mode('enforce'); SELECT holdfast.set_default_backend('rebuilt')")?;
    ensure!(preview(&mut operator, "'orders'")?.len() > 5);
    let events: i64 =
        operator.one("SELECT holdfast.flush_events() + (SELECT count(*) FROM holdfast.blocked_writes)")?;
    ensure!(events == 0, "{events} events");
    Ok(())
}

fn snapshots(cluster: &Cluster) -> Result<()> {
    let (database, mut operator) = shop(cluster)?;
    let orders = "SELECT coalesce(sum(rows), 0)::bigint FROM holdfast.cascade_preview('orders') WHERE depth = 0";
    operator.exec("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    ensure!(operator.one::<i64>(orders)? == 3);
    database.connect()?.exec("INSERT INTO orders VALUES (9, 90)")?;
    ensure!(operator.one::<i64>(orders)? == 3);
    operator.exec("INSERT INTO orders VALUES (9, 91)")?;
    ensure!(operator.one::<i64>(orders)? == 4);
    operator.exec("ROLLBACK")?;
    ensure!(operator.one::<i64>(orders)? == 4);
    Ok(())
}
