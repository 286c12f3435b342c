//! A row from which others have their tenants gives way to another tenant's, or moves, while those others are being committed.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::Cluster;
use crate::wait::within;

/// Tests of parents that change hands.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("no_parent_is_replaced_beside_a_prepared_child", beside_a_prepared_child),
        Test::shared("a_parent_replaced_by_its_own_tenants_disturbs_nobody", by_its_own_tenants),
        Test::shared("a_prepared_move_keeps_children_from_committing", prepared_moves),
        Test::shared("who_waits_for_a_move_holds_up_no_children", waiting_moves),
        Test::shared("a_merge_that_inserts_first_may_still_remove_parents", merged),
    ]
}

/// Nobody deletes them with the parent.
const GOODS: &str = "
    CREATE TABLE goods (id int PRIMARY KEY, order_id int REFERENCES orders DEFERRABLE, note text);
    GRANT ALL ON goods TO PUBLIC;
    SELECT holdfast.set_mode('off');
    INSERT INTO orders SELECT n, CASE WHEN n < 510 THEN 20 WHEN n < 520 THEN 21 ELSE 10 END FROM generate_series(500, 529) n;
    INSERT INTO goods SELECT n, n FROM generate_series(500, 529) n;
    SELECT holdfast.set_mode('enforce');
    SELECT holdfast.guard_table('goods', via => 'order_id');
    SELECT holdfast.allow_writes('rebuilt', 'goods');
    SELECT holdfast.set_limits('rebuilt', tenants_per_statement => 2)";

fn set(cluster: &Cluster) -> Result<Scene> {
    let scene = Scene::set(cluster, "replaced")?;
    scene.operator()?.exec(GOODS)?;
    Ok(scene)
}

/// A name for a prepared transaction, of which the cluster knows all.
fn name(scene: &Scene, n: usize) -> String {
    format!("{} {n}", scene.database.name)
}

fn refused_in_time(session: &mut Session, sql: &str) -> Result<()> {
    let refusal = session.refused(sql)?;
    ensure!(refusal.code == "55P03" && refusal.hint.is_some_and(|hint| hint.contains("pg_prepared_xacts")), "{sql}");
    Ok(())
}

fn tenant_of(operator: &mut Session, order: usize) -> Result<i32> {
    operator.one(&format!("SELECT tenant_id FROM orders WHERE id = {order}"))
}

fn beside_a_prepared_child(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut writer, mut other, mut operator) = (scene.rebuilt()?, scene.rebuilt()?, scene.operator()?);
    other.exec("SET holdfast.hold_timeout = '200 ms'")?;
    let replacing = [
        (500, "DELETE FROM orders WHERE id = 500; INSERT INTO orders VALUES (500, 21)"),
        (
            501,
            "WITH gone AS (DELETE FROM orders WHERE id = 501 RETURNING id) INSERT INTO orders SELECT id, 21 FROM gone",
        ),
        // 512 is the other tenant's.
        (
            502,
            "UPDATE goods SET order_id = 513 WHERE id = 512; UPDATE orders SET id = CASE id WHEN 502 THEN 1502 ELSE 502 END WHERE id IN (502, 512)",
        ),
        (503, "UPDATE orders SET tenant_id = 21 WHERE id = 503"),
    ];
    for (order, replace) in replacing {
        let gid = name(&scene, order);
        writer.exec(&format!("BEGIN; UPDATE goods SET note = 'x' WHERE id = {order}; PREPARE TRANSACTION '{gid}'"))?;
        let replace = format!("BEGIN; SET CONSTRAINTS ALL DEFERRED; {replace}");
        other.exec(&replace)?;
        refused_in_time(&mut other, "COMMIT")?;
        ensure!(tenant_of(&mut operator, order)? == 20, "{replace}");
        writer.exec(&format!("COMMIT PREPARED '{gid}'"))?;
        other.exec(&format!("{replace}; COMMIT"))?;
        ensure!(tenant_of(&mut operator, order)? == 21, "{replace}");
    }
    Ok(())
}

fn by_its_own_tenants(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut writer, mut other) = (scene.rebuilt()?, scene.rebuilt()?);
    let gid = name(&scene, 0);
    writer.exec(&format!("BEGIN; UPDATE goods SET note = 'x' WHERE id = 500; PREPARE TRANSACTION '{gid}'"))?;
    other.exec(
        "SET holdfast.hold_timeout = '200 ms'; BEGIN; SET CONSTRAINTS ALL DEFERRED;
         DELETE FROM orders WHERE id IN (500, 501); INSERT INTO orders VALUES (500, 20), (501, 20);
         UPDATE orders SET note = 'y', id = id WHERE id = 500; COMMIT",
    )?;
    // Nor is it one that other tenants' rows come first, or go alone.
    other.exec(
        "BEGIN; INSERT INTO orders VALUES (600, 21), (601, 20); DELETE FROM orders WHERE id = 600;
         DELETE FROM orders WHERE id = 601; COMMIT",
    )?;
    writer.exec(&format!("COMMIT PREPARED '{gid}'"))
}

fn prepared_moves(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut legacy, mut child, mut operator) = (scene.legacy()?, scene.legacy()?, scene.operator()?);
    child.exec("SET holdfast.hold_timeout = '200 ms'")?;
    let gid = name(&scene, 0);
    legacy.exec(&format!("BEGIN; UPDATE orders SET tenant_id = 15 WHERE id = 520; PREPARE TRANSACTION '{gid}'"))?;
    refused_in_time(&mut child, "INSERT INTO goods VALUES (1000, 520)")?;
    legacy.exec(&format!("COMMIT PREPARED '{gid}'"))?;
    child.exec("INSERT INTO goods VALUES (1000, 520)")?;
    // Who was at it before the move was prepared looks again.
    child.exec("BEGIN; INSERT INTO goods VALUES (1001, 521)")?;
    legacy.exec(&format!("BEGIN; UPDATE orders SET tenant_id = 16 WHERE id = 521; PREPARE TRANSACTION '{gid}'"))?;
    legacy.exec(&format!("COMMIT PREPARED '{gid}'"))?;
    operator.exec("SELECT holdfast.cutover('16', 'rebuilt', require_ready => false)")?;
    refused_by("not_owner", &child.refused("COMMIT")?, "COMMIT")?;
    // The unproven backend can't leave such a lock behind.
    let mut rebuilt = scene.rebuilt()?;
    let prepare = format!("PREPARE TRANSACTION '{gid}'");
    for moves in [
        "UPDATE orders SET tenant_id = 21 WHERE id = 500",
        "SET CONSTRAINTS ALL DEFERRED; DELETE FROM orders WHERE id = 500; INSERT INTO orders VALUES (500, 21)",
    ] {
        rebuilt.exec(&format!("BEGIN; {moves}"))?;
        let refusal = rebuilt.refused(&prepare)?;
        ensure!(refusal.code == "0A000" && refusal.detail.is_some() && refusal.hint.is_some(), "{refusal:?}");
    }
    let left = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    ensure!(operator.one::<i64>(left)? == 0 && tenant_of(&mut operator, 500)? == 20);
    operator.exec("SELECT holdfast.set_mode('observe')")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec(&format!("BEGIN; UPDATE orders SET tenant_id = 21 WHERE id = 500; {prepare}"))?;
    rebuilt.exec(&format!("COMMIT PREPARED '{gid}'"))
}

fn waiting_moves(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut writer, mut child, mut operator) = (scene.rebuilt()?, scene.legacy()?, scene.operator()?);
    child.exec("SET holdfast.hold_timeout = '10 s'")?;
    let (written, moved) = (name(&scene, 0), name(&scene, 1));
    for (order, end) in [(520, "COMMIT".to_owned()), (521, format!("PREPARE TRANSACTION '{moved}'"))] {
        writer.exec(&format!("BEGIN; UPDATE goods SET note = 'x' WHERE id = 500; PREPARE TRANSACTION '{written}'"))?;
        let mut mover = scene.legacy()?;
        mover.exec("SET holdfast.hold_timeout = '60 s'")?;
        mover.exec(&format!("BEGIN; UPDATE orders SET tenant_id = 15 WHERE id = {order}"))?;
        let waits = format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {}", mover.pid());
        let mut mover = mover.start(&end);
        for round in 0..3 {
            within(Duration::from_secs(30), "the move to wait", || {
                Ok(operator.one::<Option<bool>>(&waits)? == Some(true))
            })?;
            child.exec(&format!("UPDATE goods SET note = 'round {round}' WHERE id = 529"))?;
        }
        ensure!(!mover.is_finished(), "it didn't wait");
        writer.exec(&format!("COMMIT PREPARED '{written}'"))?;
        mover.finish()?.1?;
        if order == 521 {
            operator.exec(&format!("COMMIT PREPARED '{moved}'"))?;
        }
        ensure!(tenant_of(&mut operator, order)? == 15);
    }
    Ok(())
}

/// A statement's guard begins with what comes first.
fn merged(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let (mut child, mut legacy, mut rebuilt) = (scene.legacy()?, scene.legacy()?, scene.rebuilt()?);
    let mut operator = scene.operator()?;
    operator.exec("DELETE FROM goods WHERE id = 520")?;
    child.exec("BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO goods VALUES (1000, 520)")?;
    legacy.exec(
        "MERGE INTO orders o USING (VALUES (1, 700), (2, 520) ORDER BY 1) AS v (n, id) ON o.id = v.id
         WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (v.id, 10)",
    )?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM orders WHERE id IN (700, 520)")? == 1);
    rebuilt.exec("INSERT INTO orders VALUES (520, 20)")?;
    refused_by("not_owner", &child.refused("COMMIT")?, "COMMIT")
}
