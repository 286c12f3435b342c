//! Savepoints: a lock taken inside one goes with it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::Test;
use super::two_backends::{LOCK_NOT_AVAILABLE, NOT_OWNER, TwoBackends, is, write};
use crate::cluster::Cluster;

/// Tests of savepoints.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("rolled_back_savepoint_releases_its_tenants", rolled_back),
        Test::shared("tenant_moved_after_a_rolled_back_savepoint_is_checked_again", checked_again),
        Test::shared("tenant_written_before_the_savepoint_stays_locked", written_before),
        Test::shared("released_savepoint_keeps_its_tenants", released),
        Test::shared("deep_nesting_keeps_and_releases_by_level", deep_nesting),
        Test::shared("exception_blocks_cost_the_same_however_many", exception_blocks),
        Test::shared("exception_blocks_leave_no_locks", exception_blocks_leave_no_locks),
    ]
}

/// Writes a row without locking one that others might wait for.
fn insert(id: i32, tenant: i32) -> String {
    format!("INSERT INTO orders VALUES ({id}, {tenant})")
}

fn rolled_back(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}; SAVEPOINT s; {}", write(2), write(1)))?;
    ensure!(stage.tenant_locks()? == 2);
    writer.exec("ROLLBACK TO s")?;
    ensure!(stage.tenant_locks()? == 1);
    stage.cut_over(1, "rebuilt")?;
    writer.exec("COMMIT")?;
    stage.ensure_sound(1, "rebuilt")
}

fn checked_again(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut writer = stage.legacy()?;
        writer.exec(&format!("BEGIN ISOLATION LEVEL {isolation}; SAVEPOINT s; {}; ROLLBACK TO s", insert(1001, 1)))?;
        stage.cut_over(1, "rebuilt")?;
        is(&writer.refused(&insert(1001, 1))?, NOT_OWNER)?;
        writer.exec("ROLLBACK")?;
        stage.ensure_sound(1, "rebuilt")?;
        stage.cut_over(1, "legacy")?;
    }
    Ok(())
}

fn written_before(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s", write(1), insert(1001, 1)))?;
    ensure!(stage.tenant_locks()? == 1);
    is(&stage.operator()?.refused("SELECT holdfast.cutover('1', 'rebuilt', '50 ms')")?, LOCK_NOT_AVAILABLE)?;
    writer.exec(&format!("{}; COMMIT", insert(1001, 1)))
}

fn released(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    // Released into a savepoint that is kept, then into the transaction; a later one that rolls back changes nothing.
    writer.exec(&format!("BEGIN; SAVEPOINT a; SAVEPOINT b; {}; RELEASE b; RELEASE a", write(1)))?;
    writer.exec(&format!("SAVEPOINT c; {}; ROLLBACK TO c", insert(1001, 1)))?;
    is(&stage.operator()?.refused("SELECT holdfast.cutover('1', 'rebuilt', '50 ms')")?, LOCK_NOT_AVAILABLE)?;
    writer.exec("COMMIT")?;
    // Released into a savepoint that rolls back.
    writer.exec(&format!("BEGIN; SAVEPOINT a; SAVEPOINT b; {}; RELEASE b; ROLLBACK TO a", write(1)))?;
    ensure!(stage.tenant_locks()? == 0);
    stage.cut_over(1, "rebuilt")?;
    is(&writer.refused(&insert(1002, 1))?, NOT_OWNER)
}

fn deep_nesting(cluster: &Cluster) -> Result<()> {
    const DEPTH: i32 = 30;
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    writer.exec("BEGIN")?;
    for level in 1..=DEPTH {
        writer.exec(&format!("SAVEPOINT s{level}; {}", write(level)))?;
    }
    ensure!(stage.tenant_locks()? == i64::from(DEPTH));
    writer.exec("ROLLBACK TO s21")?;
    ensure!(stage.tenant_locks()? == 20);
    writer.exec("RELEASE s11")?;
    ensure!(stage.tenant_locks()? == 20);
    writer.exec("ROLLBACK TO s10")?;
    ensure!(stage.tenant_locks()? == 9);
    for tenant in [10, 15, 25] {
        stage.cut_over(tenant, "rebuilt")?;
        writer.exec("SAVEPOINT t")?;
        is(&writer.refused(&write(tenant))?, NOT_OWNER)?;
        writer.exec("ROLLBACK TO t")?;
    }
    writer.exec(&format!("{}; COMMIT", write(9)))?;
    stage.ensure_sound(15, "rebuilt")
}

/// Blocks of which every other one is undone. They insert: a row that one transaction updates again and again has a chain
/// of versions, which slows Postgres down all by itself.
fn blocks(count: i32) -> String {
    format!(
        "DO $$
         DECLARE first int := (SELECT max(id) FROM orders);
         BEGIN
             FOR n IN 1..{count} LOOP
                 BEGIN
                     INSERT INTO orders VALUES (first + n, 1 + n % 20);
                     IF n % 2 = 0 THEN RAISE 'undone'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END LOOP;
         END $$"
    )
}

fn exception_blocks(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    let mut time = |count| -> Result<f64> {
        let start = Instant::now();
        writer.exec(&blocks(count))?;
        Ok(start.elapsed().as_secs_f64())
    };
    time(100)?;
    let (few, many) = (time(1_000)?, time(10_000)?);
    println!("    1,000 exception blocks took {few:.2} s, 10,000 {many:.2} s");
    // Quadratic would be a hundredfold; ten times, and as much again for what other work does to the clock.
    ensure!(many < few * 40.0 + 1.0, "1,000 blocks took {few:.2} s, 10,000 {many:.2} s");
    Ok(())
}

fn exception_blocks_leave_no_locks(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "savepoints")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", blocks(10_000)))?;
    // Odd numbers are kept: 1 + n % 20 is even.
    ensure!(stage.tenant_locks()? == 10, "{} locks", stage.tenant_locks()?);
    stage.cut_over(1, "rebuilt")?;
    is(&stage.operator()?.refused("SELECT holdfast.cutover('2', 'rebuilt', '50 ms')")?, LOCK_NOT_AVAILABLE)?;
    writer.exec("COMMIT")?;
    stage.ensure_sound(2, "legacy")
}
