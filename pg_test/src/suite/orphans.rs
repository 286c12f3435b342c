//! Rows that are written before their parents, which a deferred foreign key allows: whose they are is known at the commit.

use anyhow::{Result, ensure};

use super::Test;
use super::paths::TREE;
use super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

/// Tests of rows that wait for their parents.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_child_written_before_its_parent_is_checked_at_commit", before_the_parent),
        Test::shared("a_parent_that_came_and_went_with_a_savepoint_is_looked_for_again", came_and_went),
        Test::shared("a_child_that_there_is_no_room_to_remember_does_not_commit", no_room),
    ]
}

fn before_the_parent(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec("ALTER TABLE items ALTER CONSTRAINT items_order_id_fkey DEFERRABLE INITIALLY DEFERRED")?;
    let mut legacy = scene.legacy()?;
    legacy.exec(
        "BEGIN; INSERT INTO items VALUES (1000, 100), (1001, 100); INSERT INTO orders VALUES (100, 10); COMMIT",
    )?;
    legacy.exec("BEGIN; SAVEPOINT s; INSERT INTO items VALUES (1002, 777); ROLLBACK TO s; COMMIT")?;
    // Its parent turns out to be rebuilt's.
    for (n, end) in ["COMMIT", "PREPARE TRANSACTION 'orphan'"].into_iter().enumerate() {
        legacy.exec(&format!("BEGIN; SAVEPOINT s; INSERT INTO items VALUES ({}, {}); RELEASE s", 2000 + n, 200 + n))?;
        scene.rebuilt()?.exec(&format!("INSERT INTO orders VALUES ({}, 20)", 200 + n))?;
        refused_by("not_owner", &legacy.refused(end)?, end)?;
    }
    let left: i64 = operator.one("SELECT count(*) FROM items WHERE order_id IN (200, 201, 777)")?;
    ensure!(left == 0, "{left} rows");
    ensure!(operator.one::<i64>("SELECT count(*) FROM items WHERE order_id = 100")? == 2);
    let recorded = scene.recorded(&legacy)?;
    ensure!(recorded.len() == 2 && recorded.iter().all(|(rule, _)| rule == "not_owner"), "{recorded:?}");
    // A parent that never comes is the foreign key's business.
    let refusal = legacy.refused("INSERT INTO items VALUES (3000, 3000)")?;
    ensure!(refusal.code == "23503", "{refusal:?}");
    Ok(())
}

fn came_and_went(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec("ALTER TABLE items ALTER CONSTRAINT items_order_id_fkey DEFERRABLE INITIALLY DEFERRED")?;
    let mut legacy = scene.legacy()?;
    for (order, then) in [(500, ""), (501, "INSERT INTO items VALUES (5003, 501)")] {
        legacy.exec(&format!(
            "BEGIN; INSERT INTO items VALUES (5{order}, {order});
             SAVEPOINT outer_one; SAVEPOINT inner_one;
             INSERT INTO orders VALUES ({order}, 10); INSERT INTO items VALUES (6{order}, {order});
             RELEASE inner_one; ROLLBACK TO outer_one"
        ))?;
        scene.rebuilt()?.exec(&format!("INSERT INTO orders VALUES ({order}, 20)"))?;
        let last = if then.is_empty() { "COMMIT" } else { then };
        refused_by("not_owner", &legacy.refused(last)?, last)?;
        legacy.exec("ROLLBACK")?;
    }
    let left: i64 = operator.one("SELECT count(*) FROM items WHERE order_id IN (500, 501)")?;
    ensure!(left == 0, "{left} rows");
    // What it found out before the savepoint still holds.
    legacy.exec(
        "BEGIN; INSERT INTO orders VALUES (502, 10); INSERT INTO items VALUES (5020, 502); SAVEPOINT s;
         INSERT INTO items VALUES (5021, 502); ROLLBACK TO s; INSERT INTO items VALUES (5022, 502); COMMIT",
    )?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM items WHERE order_id = 502")? == 2);
    Ok(())
}

/// 32 MB of long keys are remembered; short ones have room of their own.
fn no_room(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE tags (name text PRIMARY KEY, tenant_id int);
         CREATE TABLE tagged (n int, tag text REFERENCES tags DEFERRABLE INITIALLY DEFERRED);
         GRANT ALL ON tags, tagged TO PUBLIC;
         SELECT holdfast.guard_table('tags', 'tenant_id');
         SELECT holdfast.guard_table('tagged', via => 'tag');
         SELECT holdfast.allow_writes('rebuilt', 'tags')",
    )?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    let passing = |megabytes: i32, tag: &str| {
        format!(
            "BEGIN; INSERT INTO tagged SELECT 0, repeat('x', {megabytes} * 1024 * 1024); DELETE FROM tagged;
             INSERT INTO tagged VALUES (1, '{tag}')"
        )
    };
    legacy.exec(&passing(33, "long"))?;
    rebuilt.exec("INSERT INTO tags VALUES ('long', 20)")?;
    let refusal = legacy.refused("COMMIT")?;
    ensure!(refusal.code == "54000" && refusal.hint.is_some(), "{refusal:?}");
    legacy.exec(&passing(31, "short"))?;
    rebuilt.exec("INSERT INTO tags VALUES ('short', 20)")?;
    refused_by("not_owner", &legacy.refused("COMMIT")?, "COMMIT")?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM tagged")? == 0);
    // Where nothing is refused, this isn't either.
    operator.exec("SELECT holdfast.set_mode('observe')")?;
    legacy.exec(&format!("{}; COMMIT", passing(33, "long")))?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM tagged")? == 1);
    Ok(())
}
