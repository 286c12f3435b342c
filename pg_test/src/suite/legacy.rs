//! The legacy backend doesn't notice: scripts of what applications, DBAs, migration tools and extensions do print the same,
//! character for character, on a server without the library and in a guarded database.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::platform::{OWNERSHIP, SCHEMA, policy};
use super::side_by_side::{Script, compare};
use crate::cluster::{Cluster, ClusterOptions};
use crate::wait::within;

const APPLICATION: &str = include_str!("legacy/application.sql");
const MAINTENANCE: &str = include_str!("legacy/maintenance.sql");
const MIGRATIONS: &str = include_str!("legacy/migrations.sql");
const EXTENSIONS: &str = include_str!("legacy/extensions.sql");

/// Legacy's login role, which owns the application's tables, as it does in real life.
const LEGACY: &str = "legacy_app";
const REBUILT: &str = "rebuilt_app";

/// Every script, in the states of a migration in which it must go unnoticed.
pub fn tests() -> Vec<Test> {
    let repack = options().set("autovacuum_naptime", "1s");
    vec![
        Test::own("an_application_that_owns_every_tenant", options(), an_application),
        Test::own("maintenance_while_tenants_move", options(), maintenance),
        Test::own("migrations_of_the_schema_while_preparing", options(), migrations),
        Test::own("extensions_come_and_go", options(), extensions),
        Test::own("dumps_while_everybody_writes", options(), dumps_while_everybody_writes),
        Test::own("repacking_under_load", repack, repacking).needs_module("pg_repack"),
    ]
}

fn options() -> ClusterOptions {
    ClusterOptions::new().set("lc_messages", "C").set("log_min_messages", "error")
}

/// How far the migration has come in the guarded database.
#[derive(Clone, Copy)]
enum State {
    /// Tables are guarded; there is no migration yet.
    Preparing,
    /// Begun; would-be refusals are recorded.
    Observing,
    /// Every tenant is still legacy's.
    Enforcing,
    /// Tenants have moved, others are frozen.
    Moving,
}

/// Runs a script on a server of the test's own without holdfast, and in each of the states with it.
fn unnoticed(with: &Cluster, role: &str, sql: &str, states: &[(&str, State)]) -> Result<()> {
    let without = Cluster::start(with.postgres(), options().preload(""))?;
    let script = |database| Script { database, role, variables: &[], environment: &[] };
    roles(&without)?;
    application(&without, "plain")?;
    let expected = script("plain").run(&without, sql)?;
    ensure!(expected.matches("== ").count() == sql.matches("\\echo == ").count(), "{expected}");
    roles(with)?;
    // A server with the library, in a database without the extension.
    application(with, "inert")?;
    compare("in a database without the extension", &expected, &script("inert").run(with, sql)?)?;
    for (name, state) in states {
        application(with, name)?;
        guard(with, name, *state)?;
        compare(name, &expected, &script(name).run(with, sql)?)?;
        let refused: i64 = with
            .endpoint()
            .observe(name)?
            .query_one(
                "SELECT holdfast.flush_events() * 0 + count(*) FROM holdfast.event WHERE outcome = 'refused'",
                &[],
            )?
            .try_get(0)?;
        ensure!(refused == 0, "{name}: {refused} refusals");
    }
    Ok(())
}

fn roles(cluster: &Cluster) -> Result<()> {
    let sql = format!("CREATE ROLE {LEGACY} LOGIN; CREATE ROLE {REBUILT} LOGIN");
    Ok(cluster.endpoint().observe("postgres")?.batch_execute(&sql)?)
}

/// A database with the application's tables, all owned by legacy's login role.
fn application(cluster: &Cluster, database: &str) -> Result<()> {
    let sql = format!("CREATE DATABASE {database} TEMPLATE template0 OWNER {LEGACY}");
    cluster.endpoint().observe("postgres")?.batch_execute(&sql)?;
    cluster.endpoint().observe(database)?.batch_execute(&format!("GRANT ALL ON SCHEMA public TO {LEGACY}"))?;
    let mut legacy = cluster.endpoint().config(database, LEGACY).connect(postgres::NoTls)?;
    legacy.batch_execute(SCHEMA)?;
    legacy.batch_execute(&format!(
        "GRANT ALL ON SCHEMA public, \"Billing Dept\", tenant_20 TO {REBUILT};
         GRANT ALL ON ALL TABLES IN SCHEMA public, \"Billing Dept\", tenant_20 TO {REBUILT};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {REBUILT}"
    ))?;
    Ok(())
}

fn guard(cluster: &Cluster, database: &str, state: State) -> Result<()> {
    let mut dba = cluster.endpoint().observe(database)?;
    dba.batch_execute("CREATE EXTENSION holdfast")?;
    let policy = policy(LEGACY, REBUILT);
    let policy = match state {
        // What can be said before there are backends.
        State::Preparing => policy
            .lines()
            .filter(|line| {
                ["guard_table", "guard_global", "exempt_table('sessions')"].iter().any(|call| line.contains(call))
            })
            .collect(),
        State::Observing => policy + "SELECT holdfast.set_mode('observe');",
        State::Enforcing | State::Moving => policy,
    };
    dba.batch_execute(&policy)?;
    if matches!(state, State::Observing | State::Moving) {
        for change in OWNERSHIP {
            dba.batch_execute(change)?;
        }
    }
    Ok(())
}

fn an_application(cluster: &mut Cluster) -> Result<()> {
    let states = [("preparing", State::Preparing), ("observing", State::Observing), ("enforcing", State::Enforcing)];
    unnoticed(cluster, LEGACY, APPLICATION, &states)
}

fn maintenance(cluster: &mut Cluster) -> Result<()> {
    unnoticed(cluster, LEGACY, MAINTENANCE, &[("enforcing", State::Enforcing), ("moving", State::Moving)])
}

fn migrations(cluster: &mut Cluster) -> Result<()> {
    unnoticed(cluster, LEGACY, MIGRATIONS, &[("preparing", State::Preparing), ("observing", State::Observing)])
}

fn extensions(cluster: &mut Cluster) -> Result<()> {
    unnoticed(cluster, "postgres", EXTENSIONS, &[("moving", State::Moving)])
}

/// Each role writes a tenant while `work` runs; afterwards all have written.
fn under_load(
    cluster: &Cluster,
    database: &str,
    writers: &[(&str, i32)],
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let load = |role: &str, tenant: i32| -> Result<_> {
        let mut client = cluster.endpoint().config(database, role).connect(postgres::NoTls)?;
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let handle = std::thread::spawn(move || -> Result<u64> {
            let mut rows = 0;
            // Until the sender is dropped.
            while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
                rows += client.execute("INSERT INTO orders (tenant_id, net) VALUES ($1, 1)", &[&tenant])?;
                rows +=
                    client.execute("UPDATE orders SET net = net + 1 WHERE tenant_id = $1 AND net < 3", &[&tenant])?;
                rows +=
                    client.execute("DELETE FROM orders WHERE tenant_id = $1 AND net > 2 AND id % 2 = 0", &[&tenant])?;
            }
            Ok(rows)
        });
        Ok((stop, handle))
    };
    let writers: Vec<_> =
        writers.iter().map(|(role, tenant)| Ok((*role, load(role, *tenant)?))).collect::<Result<_>>()?;
    let outcome = work();
    for (role, (stop, handle)) in writers {
        drop(stop);
        let rows = handle.join().ok().context("a writer panicked")?.with_context(|| role.to_owned())?;
        ensure!(rows > 20, "{role} wrote {rows} rows");
    }
    outcome
}

fn succeeds(cluster: &Cluster, mut command: Command, args: &[&str]) -> Result<()> {
    command.args(args);
    let output = cluster.output(command, "")?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn moving(cluster: &Cluster) -> Result<()> {
    roles(cluster)?;
    application(cluster, "moving")?;
    guard(cluster, "moving", State::Moving)
}

fn dumps_while_everybody_writes(cluster: &mut Cluster) -> Result<()> {
    moving(cluster)?;
    let folder = cluster.postgres().folder("dumps")?;
    under_load(cluster, "moving", &[(LEGACY, 10), (REBUILT, 20)], || {
        for n in 0..5 {
            let file = folder.join(n.to_string()).display().to_string();
            succeeds(
                cluster,
                cluster.command("pg_dump"),
                &["-Fd", "-j2", "--serializable-deferrable", "-f", &file, "moving"],
            )?;
            cluster
                .endpoint()
                .observe("postgres")?
                .batch_execute(&format!("CREATE DATABASE copy{n} TEMPLATE template0"))?;
            succeeds(cluster, cluster.command("pg_restore"), &["--exit-on-error", "-d", &format!("copy{n}"), &file])?;
            succeeds(cluster, cluster.command("vacuumdb"), &["--analyze", "--jobs=2", "moving"])?;
        }
        Ok(())
    })
}

/// pg_repack builds a copy, catches up by a log trigger, and swaps the files: the table keeps its number, so its guard.
fn repacking(cluster: &mut Cluster) -> Result<()> {
    moving(cluster)?;
    let mut dba = cluster.endpoint().observe("moving")?;
    dba.batch_execute("CREATE EXTENSION pg_repack")?;
    let coverage = "SELECT string_agg(c::text, ';' ORDER BY c::text) FROM holdfast.coverage c WHERE class = 'tenant'";
    let before: String = dba.query_one(coverage, &[])?.try_get(0)?;
    let file = "SELECT pg_relation_filenode('orders')::int8";
    let old: i64 = dba.query_one(file, &[])?.try_get(0)?;
    // The rebuilt backend may not write the log that pg_repack's trigger writes: an unclassified table.
    under_load(cluster, "moving", &[(LEGACY, 10)], || {
        for table in ["orders", "customers", "log_new_20", "vehicles"] {
            succeeds(cluster, cluster.command("pg_repack"), &["--no-order", "--table", table, "moving"])?;
        }
        Ok(())
    })?;
    ensure!(dba.query_one(file, &[])?.try_get::<_, i64>(0)? != old, "nothing was repacked");
    ensure!(dba.query_one(coverage, &[])?.try_get::<_, String>(0)? == before, "the guards have changed");
    // Autovacuum had its turn as well.
    within(Duration::from_secs(60), "autovacuum", || {
        let sql =
            "SELECT sum(autovacuum_count + autoanalyze_count) > 0 FROM pg_stat_user_tables WHERE schemaname = 'public'";
        Ok(dba.query_one(sql, &[])?.try_get(0)?)
    })?;
    for (role, tenant) in [(LEGACY, 20), (REBUILT, 10)] {
        let mut client = cluster.endpoint().config("moving", role).connect(postgres::NoTls)?;
        let refused = client.execute("DELETE FROM orders WHERE tenant_id = $1", &[&tenant]).err();
        let code = refused.as_ref().and_then(|error| error.code()).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("WG001"), "{role}: {refused:?}");
    }
    Ok(())
}
