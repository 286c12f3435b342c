//! What is never refused, in enforce mode, whoever asks.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Fails, Passes, Refused};
use super::scene::Scene;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("explain_runs_nothing_so_it_passes", explain_runs_nothing_so_it_passes),
        Test::shared("reads_and_row_locks_pass", reads_and_row_locks_pass),
        Test::shared("temporary_tables_are_free", temporary_tables_are_free),
    ]
}

fn explain_runs_nothing_so_it_passes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let cases = [
        ("EXPLAIN UPDATE plans SET name = 'x'", Passes),
        ("EXPLAIN DELETE FROM orders", Passes),
        ("EXPLAIN (VERBOSE) INSERT INTO loose VALUES (1)", Passes),
        ("EXPLAIN ANALYZE UPDATE plans SET name = 'x' WHERE id = 1", Refused("global_write")),
        ("EXPLAIN ANALYZE DELETE FROM orders", Refused("unfiltered_write")),
        ("EXPLAIN ANALYZE INSERT INTO orders VALUES (6, 10)", Refused("not_owner")),
        ("EXPLAIN SELECT * FROM nothing", Fails("42P01")),
        ("UPDATE plans SET name = 'x' WHERE id = 1", Refused("global_write")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn reads_and_row_locks_pass(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let cases = [
        ("SELECT * FROM orders", Passes),
        ("SELECT * FROM orders FOR UPDATE", Passes),
        ("SELECT * FROM plans FOR NO KEY UPDATE", Passes),
        ("SELECT * FROM ledger FOR SHARE", Passes),
        ("SELECT * FROM loose, orders FOR KEY SHARE OF orders", Passes),
        ("LOCK TABLE orders IN ROW EXCLUSIVE MODE", Passes),
        ("COPY (SELECT * FROM orders) TO STDOUT WITH (FORMAT nothing)", Fails("22023")),
        ("DECLARE c CURSOR FOR SELECT * FROM orders FOR UPDATE; FETCH ALL FROM c", Passes),
        ("SELECT * INTO TEMP copied FROM orders", Passes),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn temporary_tables_are_free(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec(
        "CREATE TEMP TABLE t (id serial PRIMARY KEY, tenant_id int, note text UNIQUE);
         CREATE TEMP TABLE u (id int REFERENCES t ON DELETE CASCADE);
         CREATE INDEX ON t (tenant_id);
         CREATE TEMP VIEW v AS SELECT * FROM t;
         INSERT INTO t (tenant_id) VALUES (10), (20), (NULL);
         UPDATE t SET tenant_id = 10; INSERT INTO u VALUES (1);
         DELETE FROM v; TRUNCATE t, u;
         DROP VIEW v; ALTER TABLE t DROP COLUMN note; DROP TABLE u; DROP TABLE t;
         CREATE TEMP TABLE copied ON COMMIT DROP AS SELECT * FROM orders;
         CREATE TEMP TABLE kept AS TABLE orders; DISCARD TEMP",
    )?;
    let recorded = scene.recorded(&rebuilt)?;
    ensure!(recorded.is_empty(), "{recorded:?}");
    Ok(())
}
