//! The write surface: an unproven backend writes the tables, commands and columns that were allowed, and nothing else.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::Scene;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("the_surface_is_empty_until_something_is_allowed", empty_until_allowed),
        Test::shared("commands_are_allowed_one_by_one", commands_one_by_one),
        Test::shared("columns_outside_the_surface_are_named", columns_are_named),
        Test::shared("what_the_hint_says_to_type_works", the_hint_works),
        Test::shared("a_retired_backend_writes_nothing_but_exempt_tables", a_retired_backend),
        Test::shared("private_tables_are_for_their_backend", private_tables),
        Test::shared("a_permission_on_a_table_holds_for_its_partitions", partitions),
        Test::shared("views_are_judged_by_their_tables", views),
    ]
}

const OUTSIDE: super::scene::Outcome = Refused("outside_surface");

fn empty_until_allowed(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    scene.operator()?.exec("SELECT holdfast.disallow_writes('rebuilt', 'orders')")?;
    let cases = [
        ("INSERT INTO orders VALUES (6, 20)", OUTSIDE),
        ("UPDATE orders SET note = 'x' WHERE id = 2", OUTSIDE),
        ("DELETE FROM orders WHERE id = 2", OUTSIDE),
        ("INSERT INTO plans VALUES (2)", Refused("global_write")),
        ("CREATE TABLE made (id int); INSERT INTO made VALUES (1)", OUTSIDE),
        ("INSERT INTO sessions VALUES (1)", Passes),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn commands_one_by_one(cluster: &Cluster) -> Result<()> {
    let merge = "MERGE INTO orders o USING (VALUES (2)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = 'x' WHEN NOT MATCHED THEN INSERT VALUES (2, 20)";
    let upsert = "INSERT INTO orders VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET note = 'x'";
    let statements = [
        ("insert", "INSERT INTO orders VALUES (6, 20)"),
        ("update", "UPDATE orders SET note = 'x' WHERE id = 2"),
        ("delete", "DELETE FROM orders WHERE id = 2"),
        ("insert,update", upsert),
        ("insert,update", merge),
    ];
    for allowed in ["insert", "update", "delete", "insert,update", "insert,update,delete"] {
        let scene = Scene::set(cluster, "surface")?;
        let mut operator = scene.operator()?;
        operator.exec("SELECT holdfast.disallow_writes('rebuilt', 'orders')")?;
        operator.exec(&format!("SELECT holdfast.allow_writes('rebuilt', 'orders', '{{{allowed}}}')"))?;
        let listed: Vec<_> = allowed.split(',').collect();
        let cases = statements.map(|(needs, sql)| {
            (sql, if needs.split(',').all(|command| listed.contains(&command)) { Passes } else { OUTSIDE })
        });
        scene.judge(&mut scene.rebuilt()?, &cases).map_err(|error| error.context(format!("allowed: {allowed}")))?;
        let shown: String = operator.one(
            "SELECT string_agg(command, ',' ORDER BY array_position('{insert,update,delete}', command)) FROM holdfast.write_surface",
        )?;
        ensure!(shown == allowed, "{shown}");
    }
    Ok(())
}

fn columns_are_named(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    scene
        .operator()?
        .exec("SELECT holdfast.allow_writes('rebuilt', 'orders', '{insert,update}', '{id,tenant_id,note}')")?;
    let cases = [
        ("INSERT INTO orders (id, tenant_id) VALUES (6, 20)", Passes),
        ("INSERT INTO orders VALUES (6, 20, 'x')", Passes),
        ("UPDATE orders SET (note, tenant_id) = ('x', 20) WHERE id = 2", Passes),
        ("DELETE FROM orders WHERE extra IS NULL AND id = 2", Passes),
        ("INSERT INTO orders VALUES (6, 20, 'x', 1)", OUTSIDE),
        ("INSERT INTO orders (id, tenant_id, extra) VALUES (6, 20, DEFAULT)", OUTSIDE),
        ("UPDATE orders SET extra = 1 WHERE id = 2", OUTSIDE),
        ("UPDATE orders SET note = 'x', extra = extra WHERE id = 2", OUTSIDE),
        ("INSERT INTO orders (id, tenant_id) VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET note = 'x'", Passes),
        ("INSERT INTO orders (id, tenant_id) VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET extra = 1", OUTSIDE),
        (
            "MERGE INTO orders o USING (VALUES (2)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET extra = 1",
            OUTSIDE,
        ),
        (
            "MERGE INTO orders o USING (VALUES (6)) v (id) ON o.id = v.id WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (6, 20)",
            Passes,
        ),
    ];
    let mut rebuilt = scene.rebuilt()?;
    scene.judge(&mut rebuilt, &cases)?;
    let refusal = rebuilt.refused("UPDATE orders SET note = 'x', extra = 1 WHERE id = 2")?;
    ensure!(refusal.message == "backend \"rebuilt\" may not update table \"orders\"", "{refusal:?}");
    ensure!(refusal.detail.as_deref().is_some_and(|d| d.contains("Outside the write surface: extra.")), "{refusal:?}");
    Ok(())
}

/// Hints are commands to paste; pasted, the next attempt goes through and what was allowed before still is.
fn the_hint_works(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA \"Odd one\" CREATE TABLE \"It's \\ \"\"quoted\"\"\" (id int, \"Tenant, Id\" int, \"n}o{te\" text);
         GRANT ALL ON SCHEMA \"Odd one\" TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA \"Odd one\" TO PUBLIC;
         SELECT holdfast.disallow_writes('rebuilt', 'orders');
         SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', '{note}')",
    )?;
    let odd = "\"Odd one\".\"It's \\ \"\"quoted\"\"\"";
    operator.exec(&format!("SELECT holdfast.guard_table('{}', 'Tenant, Id')", odd.replace('\'', "''")))?;
    operator.exec(&format!(
        "SELECT holdfast.allow_writes('rebuilt', '{}', '{{insert}}', '{{id}}')",
        odd.replace('\'', "''")
    ))?;
    let writes = [
        "INSERT INTO plans VALUES (2, 'x')".to_owned(),
        "INSERT INTO orders VALUES (6, 20)".to_owned(),
        "UPDATE orders SET extra = 1 WHERE id = 2".to_owned(),
        format!("INSERT INTO {odd} VALUES (1, 20, 'x')"),
        format!("UPDATE {odd} SET \"n}}o{{te\" = 'x' WHERE \"Tenant, Id\" = 20"),
    ];
    let mut rebuilt = scene.rebuilt()?;
    for write in &writes {
        let hint = rebuilt.refused(write)?.hint.unwrap_or_default();
        let Some((_, command)) = hint.split_once(": ") else {
            anyhow::bail!("no command in the hint of {write}: {hint}")
        };
        operator.exec(command)?;
        rebuilt.exec(write)?;
    }
    // The columns that the hint added came to those that were there.
    rebuilt.exec("UPDATE orders SET note = 'y' WHERE id = 2")
}

fn a_retired_backend(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    let mut operator = scene.operator()?;
    for tenant in ["20", "21", "50"] {
        operator.exec(&format!("SELECT holdfast.rollback_cutover('{tenant}')"))?;
    }
    operator.exec("SELECT holdfast.set_trust('rebuilt', 'retired')")?;
    let cases = [
        ("SELECT * FROM orders FOR UPDATE", Passes),
        ("INSERT INTO sessions VALUES (1)", Passes),
        ("INSERT INTO orders VALUES (6, 20)", OUTSIDE),
        ("INSERT INTO loose VALUES (1)", OUTSIDE),
        ("INSERT INTO plans VALUES (1)", OUTSIDE),
        ("DELETE FROM ledger", OUTSIDE),
        ("TRUNCATE loose", Refused("destructive_command")),
    ];
    let mut rebuilt = scene.rebuilt()?;
    scene.judge(&mut rebuilt, &cases)?;
    let refusal = rebuilt.refused("INSERT INTO orders VALUES (6, 20)")?;
    ensure!(refusal.message == "backend \"rebuilt\" is retired and may not write", "{refusal:?}");
    Ok(())
}

fn private_tables(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    scene.operator()?.exec("SELECT holdfast.exempt_table('loose', 'rebuilt')")?;
    let own = [("INSERT INTO loose VALUES (1)", Passes), ("DELETE FROM loose", Passes), ("TRUNCATE loose", Passes)];
    scene.judge(&mut scene.rebuilt()?, &own)?;
    scene.judge(
        &mut scene.rebuilt()?,
        &[("INSERT INTO ledger VALUES (1)", OUTSIDE), ("SELECT * FROM ledger", Passes)],
    )?;
    // A proven backend is bound by ownership alone.
    scene.judge(&mut scene.legacy()?, &own)
}

fn partitions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    scene.operator()?.exec(
        "CREATE TABLE log (id int, tenant_id int, note text) PARTITION BY LIST (id);
         CREATE TABLE log_1 (extra int, note text, tenant_id int, id int);
         ALTER TABLE log_1 DROP COLUMN extra; ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES IN (1);
         CREATE TABLE prices (id int, price int) PARTITION BY LIST (id);
         CREATE TABLE prices_1 PARTITION OF prices FOR VALUES IN (1);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT holdfast.guard_table('log', 'tenant_id'); SELECT holdfast.guard_global('prices');
         SELECT holdfast.allow_writes('rebuilt', 'log', '{insert}', '{id,tenant_id}')",
    )?;
    let cases = [
        ("INSERT INTO log VALUES (1, 20)", Passes),
        ("INSERT INTO log_1 (id, tenant_id) VALUES (1, 20)", Passes),
        ("INSERT INTO log VALUES (1, 20, 'x')", OUTSIDE),
        ("INSERT INTO log_1 (id, tenant_id, note) VALUES (1, 20, 'x')", OUTSIDE),
        ("DELETE FROM log_1 WHERE id = 1", OUTSIDE),
        ("INSERT INTO prices VALUES (1, 1)", Refused("global_write")),
        ("INSERT INTO prices_1 VALUES (1, 1)", Refused("global_write")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    scene.operator()?.exec("SELECT holdfast.allow_writes('rebuilt', 'prices')")?;
    scene.judge(&mut scene.rebuilt()?, &[("INSERT INTO prices_1 VALUES (1, 1)", Passes)])
}

fn views(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "surface")?;
    scene.operator()?.exec(
        "CREATE VIEW all_plans AS SELECT * FROM plans; CREATE VIEW all_orders AS SELECT * FROM orders;
         CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM orders;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT holdfast.allow_writes('rebuilt', 'orders', '{insert,update}', '{id,tenant_id}')",
    )?;
    let cases = [
        ("INSERT INTO all_plans VALUES (2, 'x')", Refused("global_write")),
        ("INSERT INTO all_orders (id, tenant_id) VALUES (6, 20)", Passes),
        ("INSERT INTO all_orders (id, tenant_id, note) VALUES (6, 20, 'x')", OUTSIDE),
        ("UPDATE all_orders SET note = 'x' WHERE id = 2", OUTSIDE),
        ("UPDATE all_orders SET tenant_id = 21", Refused("unfiltered_write")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}
