//! Where the extension isn't, or is switched off, nothing changes; where it comes and goes, sessions notice.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::database::Database;
use crate::wait::eventually;

/// Of databases with and without the extension in a server that loads the library.
pub fn tests() -> Vec<Test> {
    let own = ClusterOptions::new;
    vec![
        Test::shared("database_without_the_extension_is_left_alone", database_without_the_extension),
        Test::shared("databases_are_copied_and_dropped", databases_are_copied_and_dropped),
        Test::own("single_user_mode_is_not_guarded", own(), single_user_mode_is_not_guarded),
        Test::own("parallel_queries_run_on_guarded_tables", own(), parallel_queries_run_on_guarded_tables),
        Test::own("autovacuum_works_on_guarded_tables", often_vacuumed(), autovacuum_works_on_guarded_tables),
        Test::shared("aborted_transactions_take_their_commands", aborted_transactions),
        Test::shared("extension_comes_and_goes_under_sessions", extension_comes_and_goes),
        Test::shared("rolled_back_extension_guards_nothing", rolled_back_extension),
        Test::shared("rolled_back_drop_still_guards", rolled_back_drop),
        Test::own("switched_off_guard_lets_everything_pass", own(), switched_off_guard),
        Test::own("template_carries_the_extension", own(), template_carries_the_extension),
    ]
}

fn often_vacuumed() -> ClusterOptions {
    let options = ClusterOptions::new().set("autovacuum_naptime", "1s").set("autovacuum_vacuum_threshold", "1");
    options.set("autovacuum_vacuum_scale_factor", "0").set("autovacuum_analyze_threshold", "1")
}

fn database_without_the_extension(cluster: &Cluster) -> Result<()> {
    // A neighbour in the same server has a policy that would refuse all of this.
    let _guarded = Guarded::enforcing(cluster, "inert")?;
    let database = cluster.database("inert")?;
    let role = database.role("inert")?;
    database.connect()?.exec(&format!("GRANT ALL ON SCHEMA public TO {role}"))?;
    let mut session = database.connect_as(&role)?;
    session.exec(
        "CREATE TABLE orders (tenant int, id int, note text);
         INSERT INTO orders SELECT 1, n FROM generate_series(1, 1000) n;
         UPDATE orders SET note = 'x';
         DELETE FROM orders WHERE id % 2 = 0;
         CREATE TABLE other AS SELECT * FROM orders;
         CREATE VIEW seen AS SELECT * FROM other;
         TRUNCATE orders, other;
         ALTER TABLE orders ADD COLUMN more int;
         DROP TABLE other CASCADE;
         DROP OWNED BY CURRENT_USER",
    )?;
    session.exec("BEGIN; CREATE TABLE t (id int)")?;
    session.refused("SELECT 1 / 0")?;
    ensure!(session.refused("DROP TABLE t")?.code == "25P02");
    session.exec("ROLLBACK")?;
    for sql in ["SET holdfast.backend = 'anything'", "RESET ALL", "DISCARD ALL"] {
        session.exec(sql)?;
    }
    ensure!(session.one::<bool>("SELECT to_regnamespace('holdfast') IS NULL")?);
    Ok(())
}

fn databases_are_copied_and_dropped(cluster: &Cluster) -> Result<()> {
    let mut observer = cluster.endpoint().observe("postgres")?;
    let guarded = Guarded::enforcing(cluster, "inert")?;
    let name = guarded.database.name.clone();
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    observer.batch_execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"))?;
    // The copy has the policy too. It knows backends by role, not by database, so the refusal is the same.
    let mut client = cluster.endpoint().config(&format!("{name}_copy"), &guarded.rebuilt).connect(postgres::NoTls)?;
    let refused = client.batch_execute(FOREIGN_WRITE);
    let code = refused.as_ref().err().and_then(|error| error.code()).map(|code| code.code().to_owned());
    drop(client);
    observer.batch_execute(&format!("ALTER DATABASE {name}_copy RENAME TO {name}_other"))?;
    observer.batch_execute(&format!("DROP DATABASE {name}_other"))?;
    ensure!(code.as_deref() == Some("WG001"), "{refused:?}");
    ensure!(guarded.recorded()?.0 == 1, "the copy's event is not ours");
    Ok(())
}

fn single_user_mode_is_not_guarded(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    cluster.stop(Shutdown::Fast)?;
    let mut single: Command = cluster.postgres().server_command("postgres");
    single.arg("--single").arg("-D").arg(cluster.data_dir()).arg(&guarded.database.name);
    let output = cluster.output(
        single,
        "UPDATE orders SET note = 'single' WHERE tenant = 2\n\
         SELECT note FROM orders WHERE tenant = 2\n\
         INSERT INTO orders VALUES (NULL, 1)\n\
         SELECT backend FROM holdfast.backends\n\
         CREATE TABLE made (id int)\n\
         INSERT INTO made VALUES (1)\n\
         TRUNCATE made\n\
         DROP TABLE made\n",
    )?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.contains("note = \"single\""), "{said}");
    ensure!(
        !said.contains("WG0") && !said.contains("PANIC") && said.contains("violates not-null constraint"),
        "{said}"
    );
    cluster.start_again()?;
    let mut rebuilt = guarded.rebuilt()?;
    ensure!(rebuilt.one::<String>("SELECT note FROM orders WHERE tenant = 2")? == "single");
    ensure!(rebuilt.refused(FOREIGN_WRITE)?.code == "WG001");
    Ok(())
}

fn parallel_queries_run_on_guarded_tables(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    guarded.legacy()?.exec("INSERT INTO orders SELECT 1, n FROM generate_series(2, 50000) n")?;
    guarded.database.connect()?.exec("ANALYZE orders")?;
    for mut session in [guarded.legacy()?, guarded.rebuilt()?] {
        session.exec(
            "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off",
        )?;
        let plan = session.rows("EXPLAIN (ANALYZE) SELECT count(*), max(note) FROM orders")?;
        let plan = format!("{plan:?}");
        ensure!(plan.contains("Workers Launched: ") && !plan.contains("Workers Launched: 0"), "{plan}");
        ensure!(session.one::<i64>("SELECT count(*) FROM orders WHERE id % 7 >= 0")? == 50_001);
        // The leader writes what its workers read.
        session.exec("CREATE TEMP TABLE copy AS SELECT * FROM orders; CREATE INDEX ON copy (id)")?;
    }
    Ok(())
}

fn autovacuum_works_on_guarded_tables(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    guarded.legacy()?.exec(
        "INSERT INTO orders SELECT 1, n FROM generate_series(2, 5000) n; DELETE FROM orders WHERE tenant = 1 AND id > 9",
    )?;
    let mut dba = guarded.database.connect()?;
    eventually("autovacuum", || {
        dba.one(
            "SELECT autovacuum_count > 0 AND autoanalyze_count > 0 FROM pg_stat_user_tables WHERE relname = 'orders'",
        )
    })?;
    ensure!(!cluster.log()?.contains("ERROR:"), "{}", cluster.log()?);
    Ok(())
}

fn aborted_transactions(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    for mut session in [guarded.legacy()?, guarded.rebuilt()?, guarded.database.connect()?] {
        session.exec("BEGIN; SAVEPOINT s")?;
        session.refused("SELECT 1 / 0")?;
        for sql in [
            "SELECT 1",
            FOREIGN_WRITE,
            "TRUNCATE orders",
            "DROP TABLE orders",
            "DROP TABLE missing",
            "SET work_mem = '1MB'",
            "SELECT holdfast.current_backend()",
            "EXPLAIN DELETE FROM orders",
            "COPY orders FROM STDIN",
            "DEALLOCATE nothing",
        ] {
            let refusal = session.refused(sql)?;
            ensure!(refusal.code == "25P02", "{sql}: {refusal:?}");
        }
        session.exec("ROLLBACK TO s; SELECT count(*) FROM orders; RELEASE s")?;
        session.refused("SELECT 1 / 0")?;
        session.exec("COMMIT; BEGIN")?;
        session.refused("SELECT 1 / 0")?;
        session.exec("ROLLBACK AND CHAIN; SELECT 1; COMMIT")?;
        session.exec("BEGIN")?;
        session.refused("SELECT 1 / 0")?;
        session.exec("PREPARE TRANSACTION 'none'")?;
    }
    ensure!(guarded.recorded()?.0 == 0, "refused nothing itself");
    Ok(())
}

const DISGUARD: &str =
    "SELECT holdfast.break_glass('the end', scope => 'transaction'); DROP EXTENSION holdfast CASCADE";

fn install(role: &str) -> String {
    format!(
        "CREATE EXTENSION holdfast;
         SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
         SELECT holdfast.add_identity('rebuilt', role => '{role}');
         SELECT holdfast.guard_table('orders', 'tenant');
         SELECT holdfast.allow_writes('rebuilt', 'orders');
         SELECT holdfast.set_mode('enforce')"
    )
}

fn plain(cluster: &Cluster) -> Result<(Database, crate::database::Role)> {
    let database = cluster.database("inert")?;
    let role = database.role("rebuilt")?;
    database.connect()?.exec(&format!(
        "CREATE TABLE orders (tenant int, id int, note text); INSERT INTO orders VALUES (1, 1); GRANT ALL ON orders TO {role}"
    ))?;
    Ok((database, role))
}

fn extension_comes_and_goes(cluster: &Cluster) -> Result<()> {
    let (database, role) = plain(cluster)?;
    let mut client = database.connect_as(&role)?;
    let mut dba = database.connect()?;
    let write = client.prepare(FOREIGN_WRITE)?;
    client.execute(&write, &[])?;
    for round in 1..=3 {
        dba.exec(&install(&role))?;
        let refused = client.execute(&write, &[]).err();
        let code = refused.as_ref().and_then(|error| error.code()).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("WG001"), "round {round}: {refused:?}");
        let refusal = client.refused("TRUNCATE orders")?;
        ensure!(refusal.code == "WG016", "round {round}: {refusal:?}");
        ensure!(dba.one::<i64>("SELECT count(*) FROM holdfast.blocked_writes")? == 2);
        // A session that is in the middle of a transaction when it goes.
        client.exec("BEGIN; SELECT FROM orders; SELECT holdfast.current_backend(); COMMIT; BEGIN; SELECT 1")?;
        dba.exec(DISGUARD)?;
        client.exec(
            "UPDATE orders SET note = 'y' WHERE tenant = 1; COMMIT; TRUNCATE orders; INSERT INTO orders VALUES (1, 1)",
        )?;
        ensure!(client.execute(&write, &[])? == 1);
        dba.exec("UPDATE orders SET note = 'dba'")?;
    }
    Ok(())
}

fn rolled_back_extension(cluster: &Cluster) -> Result<()> {
    let (database, role) = plain(cluster)?;
    let mut client = database.connect_as(&role)?;
    let mut dba = database.connect()?;
    client.exec(FOREIGN_WRITE)?;
    dba.exec(&format!("BEGIN; {}", install(&role)))?;
    ensure!(dba.one::<String>("SELECT holdfast.current_backend()")? == "legacy", "complete within its transaction");
    ensure!(client.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'ownership'")? == 0);
    dba.exec("ROLLBACK")?;
    client.exec(FOREIGN_WRITE)?;
    dba.exec("UPDATE orders SET note = 'z'; BEGIN; SAVEPOINT s")?;
    dba.exec(&install(&role))?;
    dba.exec(
        "ROLLBACK TO s; UPDATE orders SET note = 'zz'; TRUNCATE orders; INSERT INTO orders VALUES (1, 1); COMMIT",
    )?;
    dba.exec(&install(&role))?;
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    Ok(())
}

fn rolled_back_drop(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    let (mut client, mut dba) = (guarded.rebuilt()?, guarded.database.connect()?);
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    dba.exec(&format!("BEGIN; {DISGUARD}; UPDATE orders SET note = 'dropped'"))?;
    dba.exec("ROLLBACK; UPDATE orders SET note = 'not dropped' WHERE tenant = 1")?;
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    ensure!(
        dba.refused("UPDATE orders SET note = 'x' WHERE tenant = 2")?.code == "WG001",
        "a superuser is legacy here"
    );
    // And the two that break-glass leaves: its beginning, and the DROP.
    ensure!(guarded.recorded()?.0 == 5);
    Ok(())
}

fn switched_off_guard(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "inert")?;
    let mut client = guarded.rebuilt()?;
    ensure!(client.refused("SET holdfast.enabled = off")?.code == "55P02");
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    cluster.reload(&[("holdfast.enabled", "off")])?;
    client.exec(FOREIGN_WRITE)?;
    client
        .exec("DELETE FROM orders; TRUNCATE orders; INSERT INTO orders VALUES (1, 1); INSERT INTO plans VALUES (1)")?;
    cluster.reload(&[("holdfast.enabled", "on")])?;
    ensure!(client.refused(FOREIGN_WRITE)?.code == "WG001");
    ensure!(client.refused("TRUNCATE orders")?.code == "WG016");
    ensure!(client.refused("INSERT INTO plans VALUES (2)")?.code == "WG011");
    ensure!(guarded.recorded()?.0 == 4, "{:?}", guarded.recorded()?);
    Ok(())
}

fn template_carries_the_extension(cluster: &mut Cluster) -> Result<()> {
    cluster.endpoint().observe("template1")?.batch_execute(
        "CREATE EXTENSION holdfast;
         CREATE ROLE rebuilt LOGIN;
         CREATE TABLE orders (tenant int, note text);
         GRANT ALL ON orders TO rebuilt;
         SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
         SELECT holdfast.add_identity('rebuilt', role => 'rebuilt');
         SELECT holdfast.guard_table('orders', 'tenant');
         SELECT holdfast.allow_writes('rebuilt', 'orders');
         SELECT holdfast.set_mode('enforce')",
    )?;
    let mut observer = cluster.endpoint().observe("postgres")?;
    for name in ["one", "two"] {
        observer.batch_execute(&format!("CREATE DATABASE {name}"))?;
        let mut client = cluster.endpoint().config(name, "rebuilt").connect(postgres::NoTls)?;
        let refused = client.batch_execute("INSERT INTO orders VALUES (1)").err();
        let code = refused.as_ref().and_then(|error| error.code()).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("WG001"), "{refused:?}");
        let sql = "SELECT count(*) FROM holdfast.blocked_writes";
        let recorded: i64 = cluster.endpoint().observe(name)?.query_one(sql, &[])?.try_get(0)?;
        ensure!(recorded == 1, "{recorded}");
    }
    Ok(())
}
