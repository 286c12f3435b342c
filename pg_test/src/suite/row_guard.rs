//! Every way to write a row meets the row guard.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Outcome, Scene, refused_by};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_statement_that_writes_rows", every_statement_that_writes_rows),
        Test::shared("code_in_the_database_is_no_way_around", code_in_the_database_is_no_way_around),
        Test::shared("cached_plans_see_a_cutover_and_a_policy_change", cached_plans_see_changes),
        Test::shared("the_guard_sees_the_row_as_other_triggers_leave_it", the_guard_sees_the_final_row),
        Test::shared("a_changed_role_changes_nothing", a_changed_role_changes_nothing),
        Test::shared("replica_mode_doesnt_switch_the_guard_off", replica_mode),
        Test::shared("a_refused_statement_keeps_nothing_a_savepoint_the_rest", savepoints_keep_the_rest),
        Test::shared("owners_are_forgotten_with_the_savepoint_that_changed_them", owners_are_forgotten),
        Test::shared("a_statement_of_very_many_tenants_meets_those_of_others", very_many_tenants),
    ]
}

/// More tenants than a statement remembers, each twice, in keys that differ at their ends only; among them, late, another's.
fn very_many_tenants(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE accounts (id int, tenant text); GRANT ALL ON accounts TO PUBLIC;
         SELECT holdfast.guard_table('accounts', 'tenant')",
    )?;
    operator.exec("SELECT holdfast.cutover('acct 39999', 'rebuilt', require_ready => false)")?;
    let mut legacy = scene.legacy()?;
    let insert = |tenants: u32| {
        format!("INSERT INTO accounts SELECT n, 'acct ' || n % {tenants} FROM generate_series(1, 2 * {tenants} - 1) n")
    };
    legacy.exec(&insert(39_999))?;
    let sql = insert(40_000);
    refused_by("not_owner", &legacy.refused(&sql)?, &sql)?;
    let written: i64 = legacy.one("SELECT count(*) FROM accounts")?;
    ensure!(written == 79_997, "{written} rows");
    Ok(())
}

fn every_statement_that_writes_rows(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let not_owner = Refused("not_owner");
    let cases = [
        ("INSERT INTO orders SELECT 100 + n, 20 FROM generate_series(1, 50) AS n", Passes),
        ("INSERT INTO orders SELECT 100 + n, 20 + n / 50 * 10 FROM generate_series(1, 50) AS n", not_owner),
        ("INSERT INTO orders VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET note = 'x'", Passes),
        ("INSERT INTO orders VALUES (2, 20) ON CONFLICT DO NOTHING", Passes),
        ("INSERT INTO orders VALUES (1, 20) ON CONFLICT DO NOTHING", Passes),
        ("INSERT INTO orders VALUES (1, 20) ON CONFLICT (id) DO UPDATE SET note = 'x'", not_owner),
        ("INSERT INTO orders VALUES (1, 20) ON CONFLICT (id) DO UPDATE SET tenant_id = excluded.tenant_id", not_owner),
        ("INSERT INTO orders VALUES (2, 10) ON CONFLICT DO NOTHING", not_owner),
        ("INSERT INTO orders VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET tenant_id = 10", not_owner),
        ("INSERT INTO orders VALUES (1, 20) ON CONFLICT (id) DO UPDATE SET note = 'x' WHERE false", Passes),
        (
            "MERGE INTO orders o USING (VALUES (2)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = 'x'",
            Passes,
        ),
        (
            "MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = 'x'",
            not_owner,
        ),
        (
            "MERGE INTO orders o USING (VALUES (2)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET tenant_id = 10",
            not_owner,
        ),
        ("MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN DELETE", not_owner),
        ("MERGE INTO orders o USING (VALUES (1)) v (id) ON o.id = v.id WHEN MATCHED THEN DO NOTHING", Passes),
        (
            "MERGE INTO orders o USING (VALUES (6, 20)) v (id, t) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.t)",
            Passes,
        ),
        (
            "MERGE INTO orders o USING (VALUES (6, 10)) v (id, t) ON o.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.t)",
            not_owner,
        ),
        (
            "MERGE INTO orders o USING plans p ON o.id = p.id + 1 WHEN MATCHED AND o.tenant_id = 10 THEN DELETE WHEN MATCHED THEN UPDATE SET note = 'x'",
            Passes,
        ),
        ("WITH d AS (DELETE FROM orders WHERE id = 1 RETURNING id) SELECT * FROM d", not_owner),
        (
            "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) INSERT INTO orders SELECT id + 100, 20 FROM d",
            Passes,
        ),
        (
            "WITH d AS (DELETE FROM orders WHERE id = 2 RETURNING id) INSERT INTO orders SELECT id + 100, 10 FROM d",
            not_owner,
        ),
        ("WITH unused AS (UPDATE orders SET note = 'x' WHERE id = 1) SELECT 1", not_owner),
        ("UPDATE orders o SET note = p.name FROM plans p WHERE p.id = o.id", not_owner),
        ("DELETE FROM orders WHERE ctid = (SELECT ctid FROM orders WHERE id = 1)", not_owner),
        (
            "DECLARE c CURSOR FOR SELECT * FROM orders WHERE id = 2 FOR UPDATE; FETCH c; UPDATE orders SET note = 'x' WHERE CURRENT OF c",
            Passes,
        ),
        (
            "DECLARE c CURSOR FOR SELECT * FROM orders WHERE id = 1 FOR UPDATE; FETCH c; UPDATE orders SET note = 'x' WHERE CURRENT OF c",
            not_owner,
        ),
        (
            "DECLARE c CURSOR FOR SELECT * FROM orders WHERE id = 1; FETCH c; DELETE FROM orders WHERE CURRENT OF c",
            not_owner,
        ),
        ("PREPARE p (int) AS DELETE FROM orders WHERE id = $1; EXECUTE p (2); EXECUTE p (1)", not_owner),
        ("CREATE TEMP TABLE t AS SELECT 1; DO $$ BEGIN UPDATE orders SET note = 'x' WHERE id = 1; END $$", not_owner),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn code_in_the_database_is_no_way_around(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    scene.operator()?.exec(
        "CREATE VIEW order_notes AS SELECT id, tenant_id, note FROM orders WHERE id < 100;
         CREATE VIEW nested AS SELECT * FROM order_notes WITH CHECK OPTION;
         CREATE VIEW ruled AS SELECT id FROM orders;
         CREATE RULE forget AS ON DELETE TO ruled DO INSTEAD DELETE FROM orders WHERE id = old.id;
         CREATE RULE spread AS ON INSERT TO sessions DO ALSO INSERT INTO orders VALUES (new.id, 10);
         CREATE VIEW triggered AS SELECT id, tenant_id FROM orders;
         CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN UPDATE orders SET note = ''x'' WHERE id = old.id; RETURN new; END';
         CREATE TRIGGER instead INSTEAD OF UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION instead();
         CREATE FUNCTION atomic(i int) RETURNS void LANGUAGE sql BEGIN ATOMIC UPDATE orders SET note = 'x' WHERE id = i; END;
         CREATE FUNCTION inlined(i int) RETURNS SETOF int LANGUAGE sql AS 'DELETE FROM orders WHERE id = i RETURNING id';
         CREATE FUNCTION scripted(i int) RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET note = ''x'' WHERE id = i; END';
         CREATE FUNCTION dynamic(i int) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE 'DELETE FROM orders WHERE id = $1' USING i; END$$;
         CREATE FUNCTION privileged(i int) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public
             AS 'UPDATE orders SET note = ''x'' WHERE id = i';
         CREATE FUNCTION claiming(i int) RETURNS void LANGUAGE sql SECURITY DEFINER SET holdfast.backend = 'legacy'
             AS 'UPDATE public.orders SET note = ''x'' WHERE id = i';
         CREATE PROCEDURE stepwise(i int) LANGUAGE plpgsql AS 'BEGIN UPDATE orders SET note = ''x'' WHERE id = i; END';
         CREATE FUNCTION swallowing(i int) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN DELETE FROM orders WHERE id = i; RETURN 'deleted'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
    )?;
    let bodies = [
        "UPDATE order_notes SET note = 'x' WHERE id = {}",
        "UPDATE nested SET note = 'x' WHERE id = {}",
        "DELETE FROM nested WHERE id = {}",
        "DELETE FROM ruled WHERE id = {}",
        "UPDATE triggered SET tenant_id = 20 WHERE id = {}",
        "SELECT atomic({})",
        "SELECT inlined({})",
        "SELECT scripted({})",
        "SELECT dynamic({})",
        "SELECT privileged({})",
        "SELECT claiming({})",
        "CALL stepwise({})",
    ];
    let of = |id: &str| bodies.map(|body| body.replace("{}", id));
    let (foreign, own) = (of("1"), of("2"));
    let mut cases: Vec<(&str, Outcome)> = foreign.iter().map(|sql| (sql.as_str(), Refused("not_owner"))).collect();
    cases.extend(own.iter().map(|sql| (sql.as_str(), Passes)));
    cases.push(("INSERT INTO nested VALUES (6, 20)", Passes));
    cases.push(("INSERT INTO nested VALUES (6, 10)", Refused("not_owner")));
    cases.push(("INSERT INTO sessions VALUES (6)", Refused("not_owner")));
    let mut rebuilt = scene.rebuilt()?;
    scene.judge(&mut rebuilt, &cases)?;

    ensure!(rebuilt.one::<String>("SELECT swallowing(1)")? == "WG001");
    ensure!(rebuilt.one::<String>("SELECT note FROM orders WHERE id = 1")? == "a");
    let recorded = scene.recorded(&rebuilt)?;
    ensure!(recorded.last().is_some_and(|(rule, _)| rule == "not_owner"), "recorded though swallowed: {recorded:?}");
    Ok(())
}

fn cached_plans_see_changes(cluster: &Cluster) -> Result<()> {
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        let scene = Scene::set(cluster, "row_guard")?;
        let mut operator = scene.operator()?;
        let mut rebuilt = scene.database.session().role(&scene.rebuilt).option("plan_cache_mode", mode).connect()?;
        rebuilt.exec("PREPARE note (int) AS UPDATE orders SET note = note || 'x' WHERE id = $1")?;
        let (mine, yours) = ("EXECUTE note (2)", "EXECUTE note (1)");
        // Six rounds: from the sixth on a plan may be generic.
        for _ in 0..6 {
            rebuilt.exec(mine)?;
            refused_by("not_owner", &rebuilt.refused(yours)?, yours)?;
        }
        operator.exec("SELECT holdfast.cutover('10', 'rebuilt')")?;
        rebuilt.exec(yours)?;
        operator.exec("SELECT holdfast.rollback_cutover('10')")?;
        refused_by("not_owner", &rebuilt.refused(yours)?, yours)?;
        let changes = [
            ("SELECT holdfast.freeze('20', 'x')", Some("tenant_frozen")),
            ("SELECT holdfast.unfreeze('20')", None),
            ("SELECT holdfast.disallow_writes('rebuilt', 'orders', '{update}')", Some("outside_surface")),
            ("SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', '{extra}')", Some("outside_surface")),
            ("SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', '{note}')", None),
            ("SELECT holdfast.guard_global('orders')", None),
            ("SELECT holdfast.disallow_writes('rebuilt', 'orders')", Some("global_write")),
            ("SELECT holdfast.unguard_table('orders')", Some("outside_surface")),
            ("SELECT holdfast.exempt_table('orders')", None),
            ("SELECT holdfast.guard_table('orders', 'tenant_id')", Some("outside_surface")),
            ("SELECT holdfast.set_trust('rebuilt', 'proven')", None),
            ("SELECT holdfast.guard_table('orders', 'extra')", None),
            ("SELECT holdfast.guard_table('orders', 'id')", Some("not_owner")),
        ];
        for (change, rule) in changes {
            operator.exec(change)?;
            match rule {
                None => rebuilt.exec(mine)?,
                Some(rule) => refused_by(rule, &rebuilt.refused(mine)?, change)?,
            }
        }
    }
    Ok(())
}

fn the_guard_sees_the_final_row(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    scene.operator()?.exec(
        "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF new.note = ''foreign'' THEN new.tenant_id := 10; ELSIF new.note = ''own'' THEN new.tenant_id := 20; END IF; RETURN new; END';
         CREATE TRIGGER \"zz move\" BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION move();
         CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF new.note = ''skip'' THEN RETURN NULL; END IF; RETURN new; END';
         CREATE TRIGGER \"aa skip\" BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION skip()",
    )?;
    let cases = [
        ("INSERT INTO orders VALUES (6, 20, 'foreign')", Refused("not_owner")),
        ("INSERT INTO orders VALUES (6, 10, 'own')", Passes),
        ("UPDATE orders SET note = 'foreign' WHERE id = 2", Refused("not_owner")),
        ("UPDATE orders SET note = 'own', tenant_id = 10 WHERE id = 2", Passes),
        ("UPDATE orders SET note = 'own' WHERE id = 1", Refused("not_owner")),
        ("INSERT INTO orders VALUES (6, 10, 'skip')", Passes),
        (
            "INSERT INTO orders VALUES (2, 10, 'own') ON CONFLICT (id) DO UPDATE SET note = 'foreign'",
            Refused("not_owner"),
        ),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn a_changed_role_changes_nothing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    scene.operator()?.exec(&format!("GRANT {} TO {}", scene.legacy, scene.rebuilt))?;
    let (legacy, rebuilt) = (&scene.legacy, &scene.rebuilt);
    let write = "UPDATE orders SET note = 'x' WHERE id = 1";
    let ways = [
        format!("SET ROLE {legacy}"),
        format!("SET LOCAL ROLE {legacy}"),
        "RESET ALL".to_owned(),
        format!("SET SESSION AUTHORIZATION {rebuilt}"),
        "RESET SESSION AUTHORIZATION".to_owned(),
        "SET holdfast.backend = 'legacy'".to_owned(),
        "SELECT set_config('holdfast.backend', 'legacy', false)".to_owned(),
        "UPDATE pg_settings SET setting = 'legacy' WHERE name = 'holdfast.backend'".to_owned(),
        "SET application_name = 'legacy'".to_owned(),
        "SET search_path = pg_temp, public".to_owned(),
    ];
    let statements: Vec<String> = ways.iter().map(|way| format!("{way}; {write}")).collect();
    let cases: Vec<(&str, Outcome)> = statements.iter().map(|sql| (sql.as_str(), Refused("not_owner"))).collect();
    let mut client = scene.rebuilt()?;
    scene.judge(&mut client, &cases)?;
    client.exec("DISCARD ALL")?;
    scene.judge(&mut client, &[(write, Refused("not_owner"))])?;
    // A superuser who becomes the rebuilt backend's role is bound like it, and back again afterwards.
    let becoming = format!("SET SESSION AUTHORIZATION {rebuilt}; {write}");
    scene.judge(&mut scene.operator()?, &[(&becoming, Refused("not_owner")), (write, Passes)])
}

fn replica_mode(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let mut superuser = scene.operator()?;
    superuser.exec("SET session_replication_role = replica")?;
    let cases = [
        ("UPDATE orders SET note = 'x' WHERE id = 1", Passes),
        ("UPDATE orders SET note = 'x' WHERE id = 2", Refused("not_owner")),
        ("UPDATE orders SET note = 'x' WHERE id = 4", Refused("tenant_frozen")),
    ];
    scene.judge(&mut superuser, &cases)
}

fn savepoints_keep_the_rest(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("BEGIN; UPDATE orders SET note = 'kept' WHERE id = 2; SAVEPOINT s")?;
    rebuilt.refused("INSERT INTO orders VALUES (6, 20), (7, 10)")?;
    rebuilt.exec("ROLLBACK TO s; INSERT INTO orders VALUES (8, 20); COMMIT")?;
    let rows = rebuilt.rows("SELECT id, note FROM orders WHERE id IN (2, 6, 7, 8) ORDER BY id")?;
    ensure!(rows == [[Some("2".to_owned()), Some("kept".to_owned())], [Some("8".to_owned()), None]], "{rows:?}");
    Ok(())
}

fn owners_are_forgotten(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "row_guard")?;
    let mut legacy = scene.operator()?;
    let write = "UPDATE orders SET note = note || 'x' WHERE id = 1";
    legacy.exec("BEGIN; SAVEPOINT s; SELECT holdfast.cutover('10', 'rebuilt'); SAVEPOINT t")?;
    refused_by("not_owner", &legacy.refused(write)?, write)?;
    legacy.exec("ROLLBACK TO s")?;
    legacy.exec(write)?;
    legacy.exec("COMMIT")?;
    legacy.exec(write)?;
    ensure!(legacy.one::<String>("SELECT note FROM orders WHERE id = 1")? == "axx");
    // With the savepoint went the cutover, so another tenant may be handed over.
    legacy.exec("BEGIN; SAVEPOINT s; SELECT holdfast.cutover('10', 'rebuilt'); ROLLBACK TO s")?;
    legacy.exec("SELECT holdfast.cutover('11', 'rebuilt'); COMMIT")
}
