//! Attempts to get a row past the guard by changing the table around it. Whatever was done to a guarded table, here in
//! break-glass because it is refused otherwise (tamper_commands.rs), a write of another owner's tenant is refused, by the
//! row guard or as `guard_tampering`.

use anyhow::{Result, bail, ensure};

use super::Test;
use super::scene::{Scene, in_break_glass, refused_by};
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
        Test::shared("children_are_guarded_as_they_come", children_that_come),
        Test::shared("an_unguarded_child_closes_what_reaches_it", unguarded_child),
        Test::shared("children_that_nothing_can_guard_are_refused", unguardable_children),
        Test::shared("temporary_children_are_passed_over", temporary_children),
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
            refused_by("guard_tampering", &refusal, write)?;
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
    stays_refused(&mut superuser, "INSERT INTO more VALUES (70, 20)")?;
    let off = "SET session_replication_role = replica";
    scene.damage(&format!("{off}; ALTER TABLE more DISABLE TRIGGER ALL; INSERT INTO more VALUES (70, 20)"))?;
    stays_refused(&mut superuser, "UPDATE orders SET note = 'x' WHERE id = 70")?;
    stays_refused(&mut superuser, "DELETE FROM orders WHERE id = 70")
}

/// What a backend's nightly job makes of its own tables goes on as before, and is no way around the guard.
fn children_that_come(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec(&format!(
        "CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders);
         SELECT holdfast.guard_table('items', via := 'order_id');
         ALTER TABLE orders OWNER TO {0}; ALTER TABLE plans OWNER TO {0}; ALTER TABLE items OWNER TO {0};
         GRANT CREATE ON DATABASE {1} TO {0}",
        scene.legacy, scene.database.name
    ))?;
    let mut legacy = scene.legacy()?;
    // (how the child comes, its name, its parent, what writes another's row to it)
    let cases = [
        ("CREATE TABLE late () INHERITS (orders)", "late", "orders", "VALUES (80, 20)"),
        ("CREATE TABLE later () INHERITS (late)", "later", "late", "VALUES (80, 20)"),
        ("CREATE TABLE joins (LIKE orders); ALTER TABLE joins INHERIT orders", "joins", "orders", "VALUES (80, 20)"),
        ("DO 'BEGIN CREATE TABLE done () INHERITS (orders); END'", "done", "orders", "VALUES (80, 20)"),
        ("CREATE SCHEMA own CREATE TABLE late () INHERITS (public.orders)", "own.late", "orders", "VALUES (80, 20)"),
        // Its columns tell, and they do in the other parent too.
        ("CREATE TABLE of_both () INHERITS (plans, orders)", "of_both", "orders", "(tenant_id) VALUES (20)"),
        (
            "CREATE TABLE part (PRIMARY KEY (id), FOREIGN KEY (order_id) REFERENCES orders) INHERITS (items)",
            "part",
            "items",
            "VALUES (80, 2)",
        ),
    ];
    for (how, child, parent, theirs) in cases {
        legacy.exec(how)?;
        let found: String = superuser.one(&format!(
            "SELECT class || ' ' || guard FROM holdfast.coverage WHERE relation = '{child}'::regclass"
        ))?;
        ensure!(found == "tenant enabled", "{how}: {found}");
        let write = format!("INSERT INTO {child} {theirs}");
        refused_by("not_owner", &legacy.refused(&write)?, &write)?;
        legacy.exec(&format!(
            "BEGIN; DELETE FROM {parent} WHERE id = 1; UPDATE {parent} SET id = 1 WHERE id = 1; ROLLBACK"
        ))?;
    }
    legacy.exec("CREATE TABLE more_plans () INHERITS (plans)")?;
    let guarded = "SELECT guard FROM holdfast.coverage WHERE relation = 'more_plans'::regclass AND class = 'global'";
    ensure!(superuser.one::<String>(guarded)? == "enabled");
    legacy.exec("INSERT INTO orders VALUES (81, 10); INSERT INTO late VALUES (82, 10); UPDATE orders SET note = 'x' WHERE id = 82")?;
    // A change that is taken back takes the child's guard with it.
    legacy.exec("BEGIN; CREATE TABLE brief () INHERITS (orders); ROLLBACK")?;
    let findings =
        superuser.rows("SELECT FROM holdfast.coverage WHERE finding IS NOT NULL AND relation <> 'loose'::regclass")?;
    ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}

/// One that came while nobody looked keeps nobody from the rows of its parent.
fn unguarded_child(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let mut rebuilt = scene.rebuilt()?;
    superuser.exec(
        "SELECT holdfast.set_mode('off'); CREATE TABLE heir () INHERITS (orders); SELECT holdfast.set_mode('enforce');
         INSERT INTO orders VALUES (71, 10); COPY orders (id, tenant_id) FROM PROGRAM 'echo 72,10' (FORMAT csv);
         UPDATE ONLY orders SET note = 'x' WHERE id = 71; DELETE FROM ONLY orders WHERE id = 71",
    )?;
    rebuilt.exec("UPDATE ONLY orders SET note = 'x' WHERE id = 2 AND tenant_id = 20")?;
    for session in [&mut superuser, &mut rebuilt] {
        for write in ["UPDATE orders SET note = 'x' WHERE id = 2 AND tenant_id = 20", "DELETE FROM orders WHERE id = 2"]
        {
            let refusal = session.refused(write)?;
            refused_by("guard_tampering", &refusal, write)?;
            ensure!(
                refusal.message == "the guard of table \"heir\", which inherits from table \"orders\", is missing",
                "{}",
                refusal.message
            );
        }
    }
    let told: String = superuser.one("SELECT detail FROM holdfast.readiness('10', 'rebuilt') WHERE name = 'guards'")?;
    ensure!(told.contains("damaged: public.heir (missing)"), "{told}");
    // Nor does it keep others from coming.
    superuser.exec("CREATE TABLE sound () INHERITS (orders)")?;
    superuser.exec("SELECT holdfast.guard_table('orders', 'tenant_id'); UPDATE orders SET note = 'x' WHERE id = 1")
}

/// Such a child would close its parent.
fn unguardable_children(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    superuser.exec(
        "CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders);
         SELECT holdfast.guard_table('items', via := 'order_id');
         CREATE TABLE everybodys (LIKE orders); SELECT holdfast.guard_global('everybodys');
         CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far",
    )?;
    for (command, child) in [
        ("CREATE TABLE astray () INHERITS (items)", "public.astray"),
        ("ALTER TABLE everybodys INHERIT orders", "public.everybodys"),
        ("CREATE FOREIGN TABLE far () INHERITS (orders) SERVER far", "public.far"),
    ] {
        let refusal = superuser.refused(command)?;
        refused_by("guard_tampering", &refusal, command)?;
        let why = format!("Afterwards table \"{child}\", which inherits from it, would not be guarded as it is.");
        let detail = refusal.detail.unwrap_or_default();
        ensure!(detail.contains(&why), "{detail}");
    }
    superuser.exec("INSERT INTO items VALUES (1, 1); UPDATE orders SET note = 'x' WHERE id = 1")
}

fn temporary_children(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let mut other = scene.operator()?;
    other.exec("CREATE TEMP TABLE brief () INHERITS (orders); INSERT INTO brief VALUES (90, 20)")?;
    other.exec("INSERT INTO orders VALUES (91, 10); UPDATE orders SET note = 'x' WHERE id IN (90, 91)")?;
    superuser.exec("UPDATE orders SET note = 'y' WHERE id = 91; SELECT holdfast.guard_table('orders', 'tenant_id')")?;
    ensure!(
        superuser.one::<i64>("SELECT count(*) FROM holdfast.classified_table WHERE relation::text LIKE '%brief'")? == 0
    );
    Ok(())
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
