//! What a session remembers, so that it needn't ask again, never outlives the reason for it.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_tenant_that_passed_in_one_table_passes_as_the_same_session_only", another_backend),
        Test::shared("a_tenant_whose_lock_is_gone_is_looked_at_again_in_every_table", another_owner),
        Test::shared("a_parents_key_is_no_tenants", a_parents_key),
        Test::shared("tenants_that_a_savepoint_took_back_count_again", taken_back),
        Test::shared("a_write_that_was_allowed_is_judged_by_todays_policy", todays_policy),
        Test::shared("a_column_is_known_by_what_it_is_called_now", renamed),
    ]
}

/// The scene with a second table, which the rebuilt backend may write.
fn set(cluster: &Cluster) -> Result<Scene> {
    let scene = Scene::set(cluster, "remembered")?;
    scene.operator()?.exec(
        "CREATE TABLE more (id int PRIMARY KEY, tenant_id int, note text);
         GRANT ALL ON more TO PUBLIC;
         SELECT holdfast.guard_table('more', 'tenant_id');
         SELECT holdfast.allow_writes('rebuilt', 'more')",
    )?;
    Ok(scene)
}

fn another_backend(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut legacy = scene.legacy()?;
    legacy.exec(
        "BEGIN; UPDATE orders SET note = 'x' WHERE id = 1; SET LOCAL holdfast.backend = 'rebuilt'; SAVEPOINT s",
    )?;
    for sql in ["INSERT INTO more VALUES (1, 10)", "UPDATE orders SET note = 'y' WHERE id = 1"] {
        refused_by("not_owner", &legacy.refused(sql)?, sql)?;
        legacy.exec("ROLLBACK TO s")?;
    }
    legacy.exec("SET LOCAL holdfast.backend = ''; INSERT INTO more VALUES (1, 10); COMMIT")
}

fn another_owner(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut legacy = scene.legacy()?;
    legacy.exec("BEGIN; SAVEPOINT s; UPDATE orders SET note = 'x' WHERE id = 1; ROLLBACK TO s")?;
    scene.operator()?.exec("SELECT holdfast.cutover('10', 'rebuilt')")?;
    let sql = "INSERT INTO more VALUES (1, 10)";
    refused_by("not_owner", &legacy.refused(sql)?, sql)?;
    legacy.exec("ROLLBACK")
}

fn a_parents_key(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    scene.operator()?.exec(
        "CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES orders);
         GRANT ALL ON children TO PUBLIC;
         SELECT holdfast.guard_table('children', via => 'parent')",
    )?;
    scene.rebuilt()?.exec("INSERT INTO orders VALUES (10, 20)")?;
    let mut legacy = scene.legacy()?;
    // Tenant 10 is legacy's; order 10 is tenant 20's.
    legacy.exec("BEGIN; INSERT INTO more VALUES (1, 10)")?;
    let sql = "INSERT INTO children VALUES (1, 10)";
    refused_by("not_owner", &legacy.refused(sql)?, sql)?;
    legacy.exec("ROLLBACK")
}

fn taken_back(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "SELECT holdfast.cutover('22', 'rebuilt'); SELECT holdfast.set_limits('rebuilt', tenants_per_statement => 2)",
    )?;
    let mut rebuilt = scene.rebuilt()?;
    // The lock of tenant 21 is held from before the savepoint that takes its row back.
    rebuilt.exec("BEGIN; INSERT INTO more VALUES (1, 21)")?;
    let three = "DO $$ BEGIN
            INSERT INTO more VALUES (2, 20);
            BEGIN
                INSERT INTO more VALUES (3, 21);
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
            INSERT INTO orders VALUES (3, 21);
            INSERT INTO orders VALUES (6, 22);
        END $$";
    refused_by("cross_tenant", &rebuilt.refused(three)?, three)?;
    rebuilt.exec("ROLLBACK")
}

fn todays_policy(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut operator, mut rebuilt) = (scene.operator()?, scene.rebuilt()?);
    rebuilt
        .exec("SET plan_cache_mode = force_generic_plan; PREPARE p AS UPDATE orders SET note = 'x' WHERE id = $1")?;
    for _ in 0..2 {
        rebuilt.exec("BEGIN; EXECUTE p(2); EXECUTE p(2); SAVEPOINT s")?;
        operator.exec("SELECT holdfast.disallow_writes('rebuilt', 'orders')")?;
        refused_by("outside_surface", &rebuilt.refused("EXECUTE p(2)")?, "EXECUTE p(2)")?;
        operator.exec("SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', '{note}')")?;
        rebuilt.exec("ROLLBACK TO s; EXECUTE p(2); COMMIT; EXECUTE p(2)")?;
        let others = "UPDATE orders SET note = 'x', extra = 1 WHERE id = 2";
        refused_by("outside_surface", &rebuilt.refused(others)?, others)?;
    }
    Ok(())
}

fn renamed(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut operator, mut rebuilt) = (scene.operator()?, scene.rebuilt()?);
    operator.exec("SELECT holdfast.disallow_writes('rebuilt', 'orders')")?;
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', '{note}')")?;
    for _ in 0..3 {
        rebuilt.exec("UPDATE orders SET note = 'x' WHERE id = 2")?;
    }
    scene.damage("ALTER TABLE orders RENAME note TO remark; ALTER TABLE orders RENAME extra TO note")?;
    let sql = "UPDATE orders SET remark = 'x' WHERE id = 2";
    refused_by("outside_surface", &rebuilt.refused(sql)?, sql)?;
    rebuilt.exec("UPDATE orders SET note = 1 WHERE id = 2")?;
    let kept: i32 = operator.one("SELECT note FROM orders WHERE id = 2")?;
    ensure!(kept == 1, "what is allowed is written");
    Ok(())
}
