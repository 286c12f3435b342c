//! Attempts to get a row past the guard by changing the table around it. Whatever was done to a guarded table, here in
//! break-glass because it is refused otherwise (tamper_commands.rs), a write of another owner's tenant is refused, by the
//! row guard or as `guard_tampering`.

use anyhow::{Result, bail, ensure};

use super::Test;
use super::scene::{Scene, in_break_glass};
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_damaged_guard_stops_all_writes", a_damaged_guard_stops_all_writes),
        Test::shared("a_damaged_guard_of_a_partition_stops_writes_through_the_parent", damaged_partition),
        Test::shared("a_partition_classified_before_it_was_attached_is_guarded", classified_partition),
        Test::shared("a_trigger_that_sorts_after_the_guard_doesnt_get_rows_past_it", later_trigger),
        Test::shared("a_guard_renamed_to_sort_first_doesnt_let_rows_past", renamed_guard),
        Test::shared("rows_of_inheritance_children_are_guarded", inheritance_children),
        Test::shared("a_renamed_tenant_column_doesnt_open_the_table", renamed_column),
        Test::shared("a_dropped_tenant_column_doesnt_open_the_table", dropped_column),
        Test::shared("a_retyped_tenant_column_doesnt_open_the_table", retyped_column),
        Test::shared("a_regenerated_tenant_column_doesnt_open_the_table", regenerated_column),
        Test::shared("a_renamed_extension_schema_doesnt_open_the_database", renamed_schema),
        Test::shared("guard_table_repairs_what_was_damaged", guard_table_repairs),
    ]
}

/// Legacy's write of rebuilt's tenant, which must not be done, whichever rule says so.
fn stays_refused(session: &mut Session, sql: &str) -> Result<()> {
    let refusal = session.refused(sql)?;
    let Some(rule) = refusal.constraint.as_deref() else { bail!("refused by something else: {sql}\n{refusal:?}") };
    ensure!(matches!(rule, "not_owner" | "guard_tampering"), "refused by another rule: {sql}\n{refusal:?}");
    Ok(())
}

fn a_damaged_guard_stops_all_writes(cluster: &Cluster) -> Result<()> {
    let damages = [
        ("ALTER TABLE orders DISABLE TRIGGER \"~holdfast_guard\"", "disabled"),
        ("ALTER TABLE orders DISABLE TRIGGER ALL", "disabled"),
        ("ALTER TABLE orders ENABLE TRIGGER \"~holdfast_guard\"", "disabled"),
        ("ALTER TABLE orders ENABLE REPLICA TRIGGER \"~holdfast_guard\"", "disabled"),
        ("DROP TRIGGER \"~holdfast_guard\" ON orders", "missing"),
        (
            "CREATE OR REPLACE TRIGGER \"~holdfast_guard\" BEFORE INSERT ON orders FOR EACH ROW
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "missing",
        ),
        (
            "CREATE OR REPLACE TRIGGER \"~holdfast_guard\" BEFORE INSERT OR UPDATE OF note OR DELETE ON orders FOR EACH ROW
             EXECUTE FUNCTION holdfast.guard_row(); ALTER TABLE orders ENABLE ALWAYS TRIGGER \"~holdfast_guard\"",
            "disabled",
        ),
        (
            "CREATE OR REPLACE TRIGGER \"~holdfast_guard\" BEFORE INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW
             WHEN (pg_trigger_depth() > 5) EXECUTE FUNCTION holdfast.guard_row();
             ALTER TABLE orders ENABLE ALWAYS TRIGGER \"~holdfast_guard\"",
            "disabled",
        ),
    ];
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let writes = [
        "INSERT INTO orders VALUES (6, 10)",
        "UPDATE orders SET note = 'x' WHERE id = 1",
        "DELETE FROM orders WHERE false",
    ];
    for (damage, state) in damages {
        superuser.exec(&in_break_glass(damage))?;
        for write in writes {
            let refusal = superuser.refused(write)?;
            super::scene::refused_by("guard_tampering", &refusal, write)?;
            ensure!(refusal.message == format!("the guard of table \"orders\" is {state}"), "{damage}\n{refusal:?}");
            ensure!(
                refusal.hint.as_deref()
                    == Some("Put it back: SELECT holdfast.guard_table('public.orders', 'tenant_id');")
            );
        }
        let guard: String = superuser.one("SELECT guard FROM holdfast.coverage WHERE relation = 'orders'::regclass")?;
        ensure!(
            guard == state || damage.contains("OF note") || damage.contains("WHEN"),
            "coverage says {guard}: {damage}"
        );
        superuser.exec("SELECT count(*) FROM orders; SELECT holdfast.guard_table('orders', 'tenant_id')")?;
        superuser.exec("UPDATE orders SET note = 'a' WHERE id = 1")?;
        stays_refused(&mut superuser, "UPDATE orders SET note = 'x' WHERE id = 2")?;
    }
    Ok(())
}

const LOG: &str = "
    CREATE TABLE log (id int, tenant_id int) PARTITION BY LIST (id);
    CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
    SELECT holdfast.guard_table('log', 'tenant_id')";

fn damaged_partition(cluster: &Cluster) -> Result<()> {
    for damage in [
        "ALTER TABLE log_1 DISABLE TRIGGER \"~holdfast_guard\"",
        "ALTER TABLE log_1 DISABLE TRIGGER ALL",
        "ALTER TABLE log_1 ENABLE TRIGGER \"~holdfast_guard\"; SET session_replication_role = replica",
    ] {
        let scene = Scene::set(cluster, "tampering")?;
        let mut superuser = scene.operator()?;
        superuser.exec(LOG)?;
        superuser.exec(&in_break_glass(damage))?;
        stays_refused(&mut superuser, "INSERT INTO log_1 VALUES (1, 20)")?;
        stays_refused(&mut superuser, "INSERT INTO log VALUES (1, 20)")?;
        // What the refusal says to type puts it back.
        let refusal = superuser.refused("INSERT INTO log_1 VALUES (1, 10)")?;
        let hint = refusal.hint.unwrap_or_default();
        superuser.exec(hint.trim_start_matches("Put it back: "))?;
        superuser.exec("INSERT INTO log_1 VALUES (1, 10)")?;
    }
    Ok(())
}

fn classified_partition(cluster: &Cluster) -> Result<()> {
    for class in
        ["holdfast.guard_global('log_2')", "holdfast.exempt_table('log_2')", "holdfast.exempt_table('log_2', 'legacy')"]
    {
        let scene = Scene::set(cluster, "tampering")?;
        let mut superuser = scene.operator()?;
        superuser.exec(LOG)?;
        superuser.exec("CREATE TABLE log_2 (id int, tenant_id int)")?;
        superuser.exec(&format!("SELECT {class}"))?;
        superuser.exec("ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)")?;
        stays_refused(&mut superuser, "INSERT INTO log VALUES (2, 20)")?;
        // What had a guard of its own has given it up.
        if !class.contains("global") {
            superuser.exec("SELECT holdfast.unguard_table('log_2')")?;
        }
        stays_refused(&mut superuser, "INSERT INTO log VALUES (2, 20)")?;
    }
    Ok(())
}

const MOVE: &str = "
    CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.tenant_id := 20; RETURN new; END'";

fn later_trigger(cluster: &Cluster) -> Result<()> {
    for name in ["~zz", "~holdfast_guard_not", "é", "\u{10FFFF}"] {
        let scene = Scene::set(cluster, "tampering")?;
        let mut superuser = scene.operator()?;
        superuser.exec(MOVE)?;
        scene.damage(&format!(
            "CREATE TRIGGER \"{name}\" BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION move()"
        ))?;
        stays_refused(&mut superuser, "INSERT INTO orders VALUES (6, 10)")?;
        stays_refused(&mut superuser, "UPDATE orders SET note = 'x' WHERE id = 1")?;
    }
    Ok(())
}

fn renamed_guard(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec(MOVE)?;
    superuser.exec("CREATE TRIGGER b BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION move()")?;
    scene.damage("ALTER TRIGGER \"~holdfast_guard\" ON orders RENAME TO a")?;
    stays_refused(&mut superuser, "INSERT INTO orders VALUES (6, 10)")
}

fn inheritance_children(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec(
        "CREATE TABLE parents (id int, tenant_id int); CREATE TABLE children () INHERITS (parents);
         INSERT INTO children VALUES (1, 20)",
    )?;
    // Either the child is guarded with the parent, or a parent can't be guarded and the DBA is told why.
    match superuser.exec("SELECT holdfast.guard_table('parents', 'tenant_id')") {
        Err(_) => {}
        Ok(()) => {
            stays_refused(&mut superuser, "UPDATE parents SET id = 2")?;
            stays_refused(&mut superuser, "DELETE FROM parents WHERE id = 1")?;
            stays_refused(&mut superuser, "INSERT INTO children VALUES (2, 20)")?;
        }
    }
    // A child that comes later.
    superuser.exec("CREATE TABLE more () INHERITS (orders)")?;
    superuser.exec("INSERT INTO more VALUES (70, 20)").or_else(|_| {
        superuser.exec("SET session_replication_role = replica; ALTER TABLE more DISABLE TRIGGER ALL")?;
        superuser.exec("INSERT INTO more VALUES (70, 20); RESET session_replication_role")
    })?;
    stays_refused(&mut superuser, "UPDATE orders SET note = 'x' WHERE id = 70")?;
    stays_refused(&mut superuser, "DELETE FROM orders WHERE id = 70")
}

/// Changes the tenant column of a guarded table; then legacy must not write rebuilt's row, and is told what is wrong.
fn column_changed(cluster: &Cluster, change: &str) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec("DELETE FROM orders WHERE tenant_id IS NULL")?;
    if superuser.exec(&in_break_glass(change)).is_err() {
        superuser.exec("ROLLBACK")?;
        // Refusing the DDL itself is as good.
        return Ok(());
    }
    for sql in [
        "UPDATE orders SET note = 'x' WHERE id = 2",
        "DELETE FROM orders WHERE id = 2",
        "INSERT INTO orders (id) VALUES (7)",
    ] {
        stays_refused(&mut superuser, sql)?;
        stays_refused(&mut scene.legacy()?, sql)?;
    }
    Ok(())
}

fn renamed_column(cluster: &Cluster) -> Result<()> {
    column_changed(cluster, "ALTER TABLE orders RENAME tenant_id TO brokerage_id")
}

fn dropped_column(cluster: &Cluster) -> Result<()> {
    column_changed(cluster, "ALTER TABLE orders DROP COLUMN tenant_id")
}

fn retyped_column(cluster: &Cluster) -> Result<()> {
    column_changed(cluster, "ALTER TABLE orders ALTER COLUMN tenant_id TYPE numeric")
}

fn regenerated_column(cluster: &Cluster) -> Result<()> {
    column_changed(
        cluster,
        "ALTER TABLE orders DROP COLUMN tenant_id; ALTER TABLE orders ADD COLUMN tenant_id int GENERATED ALWAYS AS (id * 10) STORED",
    )
}

fn renamed_schema(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let write = "UPDATE orders SET note = 'x' WHERE id = 2";
    if scene.damage("ALTER SCHEMA holdfast RENAME TO loosefast").is_ok() {
        stays_refused(&mut superuser, write)?;
    }
    stays_refused(&mut scene.operator()?, write)
}

fn guard_table_repairs(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec(LOG)?;
    scene.damage("ALTER TABLE log_1 DISABLE TRIGGER ALL")?;
    superuser.exec("SELECT holdfast.guard_table('log', 'tenant_id')")?;
    let guards = "SELECT string_agg(guard, ',') FROM holdfast.coverage WHERE relation::text LIKE 'log%'";
    ensure!(superuser.one::<String>(guards)? == "enabled,enabled");
    stays_refused(&mut superuser, "INSERT INTO log VALUES (1, 20)")
}
