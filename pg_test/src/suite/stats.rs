//! The view `stats`: its figures are exact, and belong to one installation of the extension.

use anyhow::{Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::two_backends::{TwoBackends, write};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::wait::eventually;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_look_counts_once", every_look_counts_once),
        Test::shared("what_is_observed_or_off_or_behind_broken_glass_is_told_apart", outcomes_are_told_apart),
        Test::shared("what_is_rolled_back_was_looked_at_all_the_same", rolled_back),
        Test::shared("limits_count_rows", limits_count_rows),
        Test::shared("refused_agrees_with_the_record", refused_agrees_with_the_record),
        Test::shared("a_session_that_is_terminated_leaves_its_counts", a_terminated_session),
        Test::shared("a_claim_counts_for_the_backend_it_names", a_claim),
        Test::shared("an_extension_created_again_begins_anew", created_again),
        Test::shared("a_copied_or_renamed_database_shows_no_figures_of_another", copied_or_renamed),
        Test::shared("reset_begins_anew", reset_begins_anew),
        Test::own(
            "more_backends_than_there_is_room_for_are_counted_together",
            ClusterOptions::new(),
            too_many_backends,
        ),
        Test::own("counting_begins_with_the_server", ClusterOptions::new(), begins_with_the_server),
    ]
}

/// Of one rule: checked, passed, observed, refused, behind broken glass.
type Line = [i64; 5];

fn figures(session: &mut Session, backend: &str, rule: &str) -> Result<Line> {
    let sql = "SELECT checked, passed, observed, refused, break_glass FROM holdfast.stats
        WHERE coalesce(backend, 'nobody') = $1 AND rule = $2";
    match session.query_opt(sql, &[&backend, &rule])? {
        Some(row) => Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?]),
        None => Ok([0; 5]),
    }
}

fn expect(session: &mut Session, backend: &str, expected: &[(&str, Line)]) -> Result<()> {
    for (rule, expected) in expected {
        let found = figures(session, backend, rule)?;
        ensure!(found == *expected, "{backend} {rule}: {found:?}, not {expected:?}");
    }
    Ok(())
}

fn every_look_counts_once(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_limits('rebuilt', statement_timeout => '30 s')")?;
    dba.exec("SELECT holdfast.stats_reset()")?;
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.exec("INSERT INTO orders SELECT 2, n FROM generate_series(10, 19) n")?;
    // The tenant stays, so both versions of the row are one look.
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE tenant = 2 AND id < 15")?;
    rebuilt.refused(FOREIGN_WRITE)?;
    rebuilt.refused("INSERT INTO plans VALUES (1)")?;
    rebuilt.refused("UPDATE orders SET note = 'x'")?;
    rebuilt.refused("CREATE INDEX ON orders (note)")?;
    rebuilt.refused("SET statement_timeout = 0")?;
    rebuilt.exec("SET statement_timeout = '10 s'")?;
    rebuilt.exec("SELECT * FROM orders FOR UPDATE")?;
    // Ten rows inserted, six updated (five, and the one that was there), one refused.
    let (rows, kept) = ([17, 16, 0, 1, 0], [16, 16, 0, 0, 0]);
    let expected = [
        ("not_owner", rows),
        ("tenant_frozen", kept),
        ("cross_tenant", kept),
        ("outside_surface", [4, 4, 0, 0, 0]),
        ("global_write", [1, 0, 0, 1, 0]),
        ("unfiltered_write", [3, 2, 0, 1, 0]),
        ("destructive_command", [1, 0, 0, 1, 0]),
        ("row_budget", [0; 5]),
        ("forbidden_setting", [2, 1, 0, 1, 0]),
    ];
    expect(&mut dba, "rebuilt", &expected)?;
    // A row that moves is looked at for both tenants.
    guarded.legacy()?.exec("UPDATE orders SET tenant = 3 WHERE tenant = 1")?;
    expect(&mut dba, "legacy", &[("not_owner", [2, 2, 0, 0, 0]), ("cross_tenant", [0; 5])])
}

fn outcomes_are_told_apart(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    let mut rebuilt = guarded.rebuilt()?;
    dba.exec("SELECT holdfast.set_mode('observe', 'rebuilt')")?;
    // Both versions of the row are another's.
    rebuilt.exec("UPDATE orders SET tenant = 3 WHERE tenant = 1")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [2, 0, 2, 0, 0])])?;
    dba.exec("SELECT holdfast.set_mode('off', 'rebuilt', 'not_owner')")?;
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE tenant = 3")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [3, 1, 2, 0, 0])])?;
    dba.exec(&format!(
        "SELECT holdfast.set_mode('enforce', 'rebuilt', 'not_owner'), holdfast.grant_operator('{}')",
        guarded.rebuilt
    ))?;
    rebuilt.exec("SELECT holdfast.break_glass('a test')")?;
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE tenant = 3")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [4, 1, 2, 0, 1])])?;
    rebuilt.exec("SELECT holdfast.end_break_glass()")?;
    rebuilt.refused("UPDATE orders SET note = 'x' WHERE tenant = 3")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [5, 1, 2, 1, 1])])
}

fn rolled_back(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.exec(
        "BEGIN; SAVEPOINT a; INSERT INTO orders VALUES (2, 50); ROLLBACK TO a; INSERT INTO orders VALUES (2, 51)",
    )?;
    // Nothing is seen of a transaction before it ends.
    expect(&mut dba, "rebuilt", &[("not_owner", [0; 5])])?;
    rebuilt.exec("ROLLBACK")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [2, 2, 0, 0, 0])])?;
    // A refusal that the statement swallows is seen at once.
    rebuilt.exec(&format!(
        "BEGIN; DO $$BEGIN {FOREIGN_WRITE}; EXCEPTION WHEN OTHERS THEN NULL; END$$; INSERT INTO orders VALUES (2, 52)"
    ))?;
    ensure!(figures(&mut dba, "rebuilt", "not_owner")?[3] == 1);
    rebuilt.exec("PREPARE TRANSACTION 'stats'")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [4, 3, 0, 1, 0])])?;
    rebuilt.exec("ROLLBACK PREPARED 'stats'")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [4, 3, 0, 1, 0])])
}

fn limits_count_rows(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(
        "CREATE TABLE items (tenant int, id int, FOREIGN KEY (tenant, id) REFERENCES orders ON DELETE CASCADE);
         INSERT INTO items SELECT 2, 2 FROM generate_series(1, 3);
         SELECT holdfast.guard_table('items', 'tenant'); SELECT holdfast.allow_writes('rebuilt', 'items');
         SELECT holdfast.set_limits('rebuilt', rows_per_statement => 5)",
    )?;
    dba.exec(&format!("GRANT ALL ON items TO {}", guarded.rebuilt))?;
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.refused("INSERT INTO orders SELECT 2, n FROM generate_series(10, 19) n")?;
    expect(&mut dba, "rebuilt", &[("row_budget", [6, 5, 0, 1, 0]), ("cascade", [0; 5])])?;
    rebuilt.exec("DELETE FROM orders WHERE tenant = 2 AND id = 2")?;
    expect(&mut dba, "rebuilt", &[("row_budget", [10, 9, 0, 1, 0]), ("cascade", [3, 3, 0, 0, 0])])
}

fn refused_agrees_with_the_record(cluster: &Cluster) -> Result<()> {
    const EACH: usize = 40;
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let session = if n % 2 == 0 { guarded.rebuilt()? } else { guarded.legacy()? };
            Ok(session.start_with("SELECT 1", move |session| {
                let statements =
                    ["UPDATE orders SET note = 'x' WHERE tenant = 1", "UPDATE orders SET note = 'x' WHERE tenant = 2"];
                for sql in statements.iter().cycle().take(2 * EACH) {
                    // One of them is refused, whoever asks.
                    let _ = session.exec(sql);
                }
                Ok(())
            }))
        })
        .collect::<Result<_>>()?;
    for worker in workers {
        worker.finish()?.1?;
    }
    let mut dba = guarded.database.connect()?;
    let each = EACH as i64 * 2;
    for backend in ["rebuilt", "legacy"] {
        expect(&mut dba, backend, &[("not_owner", [2 * each, each, 0, each, 0])])?;
    }
    ensure!(guarded.recorded()?.0 == 2 * each);
    Ok(())
}

fn a_terminated_session(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.exec("BEGIN; INSERT INTO orders VALUES (2, 60)")?;
    dba.exec(&format!("SELECT pg_terminate_backend({}, 5000)", rebuilt.pid()))?;
    eventually("its counts", || Ok(figures(&mut dba, "rebuilt", "not_owner")? == [1, 1, 0, 0, 0]))
}

fn a_claim(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    let mut legacy = guarded.legacy()?;
    legacy.exec(
        "BEGIN; INSERT INTO orders VALUES (1, 70); SET LOCAL holdfast.backend = 'rebuilt'; INSERT INTO orders VALUES (2, 71);
         SET LOCAL holdfast.backend = ''; INSERT INTO orders VALUES (1, 72); COMMIT",
    )?;
    expect(&mut dba, "legacy", &[("not_owner", [2, 2, 0, 0, 0])])?;
    expect(&mut dba, "rebuilt", &[("not_owner", [1, 1, 0, 0, 0])])?;
    legacy.refused("SET holdfast.backend = 'nobody'; INSERT INTO orders VALUES (1, 73)")?;
    expect(&mut dba, "nobody", &[("unidentified", [1, 0, 0, 1, 0])])
}

fn created_again(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.exec("INSERT INTO orders VALUES (2, 60)")?;
    ensure!(figures(&mut dba, "rebuilt", "not_owner")?[0] == 1);
    dba.exec("SELECT holdfast.break_glass('again')")?;
    dba.exec("DROP EXTENSION holdfast CASCADE")?;
    rebuilt.exec("INSERT INTO orders VALUES (2, 61)")?;
    dba.exec("CREATE EXTENSION holdfast")?;
    ensure!(dba.rows("SELECT * FROM holdfast.stats")?.is_empty());
    dba.exec(&format!(
        "SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30), holdfast.add_identity('rebuilt', role => '{}');
         SELECT holdfast.guard_table('orders', 'tenant'); SELECT holdfast.allow_writes('rebuilt', 'orders')",
        guarded.rebuilt
    ))?;
    rebuilt.exec("INSERT INTO orders VALUES (2, 62)")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [1, 0, 1, 0, 0])])
}

fn copied_or_renamed(cluster: &Cluster) -> Result<()> {
    let mut guarded = Guarded::enforcing(cluster, "stats")?;
    guarded.rebuilt()?.exec("INSERT INTO orders VALUES (2, 60)")?;
    let name = guarded.database.name.clone();
    let mut elsewhere = cluster.endpoint().observe("postgres")?;
    eventually("the database to be left alone", || {
        Ok(elsewhere.batch_execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).is_ok())
    })?;
    let copy = cluster.existing_database(&format!("{name}_copy"));
    let rows = copy.connect()?.rows("SELECT * FROM holdfast.stats")?;
    elsewhere.batch_execute(&format!("DROP DATABASE {name}_copy WITH (FORCE)"))?;
    ensure!(rows.is_empty(), "{rows:?}");
    elsewhere.batch_execute(&format!("ALTER DATABASE {name} RENAME TO {name}_renamed"))?;
    guarded.database.name = format!("{name}_renamed");
    expect(&mut guarded.database.connect()?, "rebuilt", &[("not_owner", [1, 1, 0, 0, 0])])
}

fn reset_begins_anew(cluster: &Cluster) -> Result<()> {
    let (one, other) = (TwoBackends::begin(cluster, "stats")?, TwoBackends::begin(cluster, "stats")?);
    one.legacy()?.exec(&write(1))?;
    other.legacy()?.exec(&write(1))?;
    let mut operator = one.operator()?;
    let before: String = operator.one("SELECT max(since)::text FROM holdfast.stats")?;
    operator.exec("SELECT holdfast.stats_reset()")?;
    ensure!(operator.rows("SELECT * FROM holdfast.stats")?.is_empty());
    expect(&mut other.operator()?, "legacy", &[("not_owner", [1, 1, 0, 0, 0])])?;
    one.legacy()?.exec(&write(2))?;
    expect(&mut operator, "legacy", &[("not_owner", [1, 1, 0, 0, 0])])?;
    ensure!(operator.one::<bool>(&format!("SELECT min(since) > '{before}' FROM holdfast.stats"))?);
    Ok(())
}

/// Writes as each of 1,100 backends.
const CROWD: [&str; 4] = [
    "SELECT holdfast.add_backend('b' || n, 'unproven') FROM generate_series(1, 1100) n",
    "SELECT holdfast.allow_writes('b' || n, 'orders') FROM generate_series(1, 1100) n",
    "SELECT holdfast.set_mode('observe')",
    "DO $$ BEGIN FOR n IN 1..1100 LOOP
        PERFORM set_config('holdfast.backend', 'b' || n, false);
        INSERT INTO orders VALUES (1, 1000 + n);
     END LOOP; END $$",
];

fn too_many_backends(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    let mut dba = guarded.database.connect()?;
    for statement in CROWD {
        dba.exec(statement)?;
    }
    dba.exec("RESET holdfast.backend")?;
    let total = "SELECT sum(checked)::int8 FROM holdfast.stats WHERE rule = 'not_owner'";
    ensure!(dba.one::<i64>(total)? == 1100, "{}", dba.one::<i64>(total)?);
    let others = figures(&mut dba, "(others)", "not_owner")?;
    ensure!(others[0] > 0 && others[0] < 200 && others[2] == others[0], "{others:?}");
    // Where a database is gone its entries are free again.
    drop(dba);
    drop(guarded);
    let next = Guarded::enforcing(cluster, "stats")?;
    next.rebuilt()?.exec("INSERT INTO orders VALUES (2, 60)")?;
    expect(&mut next.database.connect()?, "rebuilt", &[("not_owner", [1, 1, 0, 0, 0])])
}

fn begins_with_the_server(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "stats")?;
    guarded.rebuilt()?.exec("INSERT INTO orders VALUES (2, 60)")?;
    cluster.restart(crate::cluster::Shutdown::Fast)?;
    let mut dba = guarded.database.connect()?;
    ensure!(dba.rows("SELECT * FROM holdfast.stats")?.is_empty());
    guarded.rebuilt()?.exec("INSERT INTO orders VALUES (2, 61)")?;
    expect(&mut dba, "rebuilt", &[("not_owner", [1, 1, 0, 0, 0])])?;
    ensure!(dba.one::<bool>("SELECT min(since) >= pg_postmaster_start_time() FROM holdfast.stats")?);
    Ok(())
}
