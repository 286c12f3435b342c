//! Rows that reach a table by COPY, by a foreign key's action, or through a partitioned table.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Outcome, Scene};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("copy_from_is_guarded_row_by_row", copy_from_is_guarded_row_by_row),
        Test::shared("foreign_key_actions_are_guarded", foreign_key_actions_are_guarded),
        Test::shared("partitions_are_guarded_whichever_way_they_came", partitions_are_guarded),
    ]
}

/// COPY as psql sends it; the SQLSTATE and rule if it is refused.
fn copy(cluster: &Cluster, scene: &Scene, into: &str, rows: &str) -> Result<Option<(String, String)>> {
    let mut command = cluster.command("psql");
    command.args(["-X", "-v", "VERBOSITY=verbose", "-U", &*scene.rebuilt, "-d", &*scene.database.name, "-f", "-"]);
    let output = cluster.output(command, &format!("COPY {into} FROM STDIN;\n{rows}\\.\n"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let Some((_, after)) = said.split_once("ERROR:  ") else { return Ok(None) };
    let rule = after.lines().find_map(|line| line.strip_prefix("CONSTRAINT NAME:  ")).unwrap_or(after);
    Ok(Some((after.chars().take(5).collect(), rule.to_owned())))
}

fn copy_from_is_guarded_row_by_row(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "ways_in")?;
    scene.operator()?.exec("SELECT holdfast.allow_writes('rebuilt', 'orders', '{insert}', '{id,tenant_id,note}')")?;
    let before = scene.contents()?;
    let cases = [
        ("orders (id, tenant_id)", "6\t20\n7\t10\n", "WG001", "not_owner"),
        ("orders (id, tenant_id)", "6\t20\n7\t50\n", "WG002", "tenant_frozen"),
        ("orders (id, tenant_id)", "6\t\\N\n", "WG011", "global_write"),
        ("orders (id, tenant_id, extra)", "6\t20\t1\n", "WG010", "outside_surface"),
        ("orders", "6\t20\tx\t1\n", "WG010", "outside_surface"),
        ("plans", "2\tx\n", "WG011", "global_write"),
        ("loose", "2\n", "WG010", "outside_surface"),
    ];
    for (into, rows, code, rule) in cases {
        let refusal = copy(cluster, &scene, into, rows)?;
        ensure!(refusal == Some((code.to_owned(), rule.to_owned())), "COPY {into}\n{rows}{refusal:?}");
    }
    ensure!(scene.contents()? == before);
    let two = copy(cluster, &scene, "orders (id, tenant_id, note)", "6\t20\tx\n7\t21\t\\N\n")?;
    ensure!(two == Some(("WG012".to_owned(), "cross_tenant".to_owned())), "{two:?}");
    let passed = copy(cluster, &scene, "orders (id, tenant_id, note)", "6\t20\tx\n7\t20\t\\N\n")?;
    ensure!(passed.is_none(), "{passed:?}");
    let copied: i64 = scene.operator()?.one("SELECT count(*) FROM orders WHERE id IN (6, 7)")?;
    ensure!(copied == 2, "{copied} rows copied");
    Ok(())
}

fn foreign_key_actions_are_guarded(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    scene.operator()?.exec(
        "CREATE TABLE tenants (id int PRIMARY KEY);
         CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE,
             tenant_id int REFERENCES tenants ON DELETE SET NULL ON UPDATE CASCADE);
         INSERT INTO tenants VALUES (10), (20), (21);
         INSERT INTO items VALUES (1, 2, 20), (2, 1, 10);
         CREATE TABLE stray (id int, order_id int REFERENCES orders ON DELETE CASCADE);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT holdfast.guard_table('items', 'tenant_id');
         SELECT holdfast.allow_writes('rebuilt', 'items');
         SELECT holdfast.exempt_table('tenants');
         SELECT holdfast.exempt_table('stray')",
    )?;
    let mut rebuilt = scene.rebuilt()?;
    let cascade = Refused("cascade");
    let cases = [
        ("DELETE FROM orders WHERE id = 2", Passes),
        ("UPDATE orders SET id = 200 WHERE id = 2", Passes),
        ("UPDATE items SET order_id = 1 WHERE id = 1", Passes),
        ("UPDATE tenants SET id = 21000 WHERE id = 21", Passes),
        ("UPDATE tenants SET id = 30 WHERE id = 10", cascade),
        ("UPDATE tenants SET id = 30 WHERE id = 20", cascade),
        ("DELETE FROM tenants WHERE id = 10", cascade),
        ("DELETE FROM tenants WHERE id = 20", Refused("global_write")),
    ];
    scene.judge(&mut rebuilt, &cases)?;
    // A row of another tenant that hangs on one of ours.
    scene.legacy()?.exec("UPDATE items SET order_id = 2 WHERE id = 2")?;
    scene.judge(&mut rebuilt, &[("DELETE FROM orders WHERE id = 2", cascade)])?;
    scene.legacy()?.exec("DELETE FROM items WHERE id = 2")?;
    scene.operator()?.exec("SELECT holdfast.unguard_table('stray')")?;
    scene.judge(&mut rebuilt, &[("DELETE FROM orders WHERE id = 2", Refused("outside_surface"))])
}

fn partitions_are_guarded(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE log (id int, tenant_id int, region text, day int) PARTITION BY LIST (region);
         CREATE TABLE log_eu PARTITION OF log FOR VALUES IN ('eu') PARTITION BY RANGE (day);
         CREATE TABLE log_eu_1 PARTITION OF log_eu FOR VALUES FROM (0) TO (10);
         CREATE TABLE log_us (day int, gone text, tenant_id int, also_gone int, region text, id int);
         ALTER TABLE log_us DROP COLUMN gone; ALTER TABLE log_us DROP COLUMN also_gone;
         ALTER TABLE log ATTACH PARTITION log_us FOR VALUES IN ('us');
         SELECT holdfast.guard_table('log', 'tenant_id');
         SELECT holdfast.allow_writes('rebuilt', 'log');
         CREATE TABLE log_eu_2 (gone int, tenant_id int, id int, day int, region text);
         ALTER TABLE log_eu_2 DROP COLUMN gone;
         ALTER TABLE log_eu ATTACH PARTITION log_eu_2 FOR VALUES FROM (10) TO (20);
         CREATE TABLE log_rest PARTITION OF log DEFAULT;
         INSERT INTO log VALUES (1, 10, 'eu', 1), (1, 10, 'eu', 11), (1, 10, 'us', 1), (1, 10, 'xx', 1);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
    )?;
    scene
        .rebuilt()?
        .exec("INSERT INTO log VALUES (2, 20, 'eu', 1), (2, 20, 'eu', 11), (2, 20, 'us', 1), (2, 20, 'xx', 1)")?;
    let places = [
        ("log", "eu", 1),
        ("log", "eu", 11),
        ("log", "us", 1),
        ("log", "xx", 1),
        ("log_eu", "eu", 1),
        ("log_eu", "eu", 11),
        ("log_eu_1", "eu", 1),
        ("log_eu_2", "eu", 11),
        ("log_us", "us", 1),
        ("log_rest", "xx", 1),
    ];
    let not_owner = Refused("not_owner");
    let mut cases = Vec::new();
    for (table, region, day) in places {
        let columns = "(id, tenant_id, region, day)";
        let filter = format!("region = '{region}' AND day = {day}");
        cases.extend([
            (format!("INSERT INTO {table} {columns} VALUES (3, 20, '{region}', {day})"), Passes),
            (format!("INSERT INTO {table} {columns} VALUES (3, 10, '{region}', {day})"), not_owner),
            (format!("UPDATE {table} SET id = 3 WHERE {filter} AND id = 2"), Passes),
            (format!("UPDATE {table} SET id = 3 WHERE {filter} AND id = 1"), not_owner),
            (format!("UPDATE {table} SET tenant_id = 10 WHERE {filter} AND id = 2"), not_owner),
            (format!("DELETE FROM {table} WHERE {filter} AND id = 2"), Passes),
            (format!("DELETE FROM {table} WHERE {filter} AND id = 1"), not_owner),
            (format!("DELETE FROM {table}"), Refused("unfiltered_write")),
            (format!("TRUNCATE {table}"), Refused("destructive_command")),
        ]);
        if table == "log" {
            for region in ["eu", "us", "yy"] {
                cases.push((format!("UPDATE log SET region = '{region}', day = 11 WHERE {filter} AND id = 2"), Passes));
                cases.push((
                    format!("UPDATE log SET region = '{region}', day = 11 WHERE {filter} AND id = 1"),
                    not_owner,
                ));
                cases.push((
                    format!("UPDATE log SET region = '{region}', tenant_id = 10 WHERE {filter} AND id = 2"),
                    not_owner,
                ));
            }
        }
    }
    let cases: Vec<(&str, Outcome)> = cases.iter().map(|(sql, outcome)| (sql.as_str(), *outcome)).collect();
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    let rows = "3\t20\teu\t1\n3\t20\tus\t1\n3\t10\teu\t11\n";
    let refusal = copy(cluster, &scene, "log (id, tenant_id, region, day)", rows)?;
    ensure!(refusal.is_some_and(|(code, _)| code == "WG001"));
    let unguarded =
        "SELECT count(*) FROM holdfast.coverage WHERE relation::text LIKE 'log%' AND guard IS DISTINCT FROM 'enabled'
        OR relation::text LIKE 'log%' AND class <> 'tenant'";
    ensure!(operator.one::<i64>(unguarded)? == 0);
    Ok(())
}
