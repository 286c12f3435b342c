//! Errors of Postgres pass through the hooks byte for byte.
//!
//! `foreign_errors/cases.sql` makes every kind of error a client may meet. psql runs it on a server without the library and
//! on servers with it, each time as both backends, and prints everything it is told: SQLSTATE, position, DETAIL, HINT,
//! CONTEXT, names, the place in Postgres's source.

use anyhow::{Result, ensure};

use super::Test;
use super::side_by_side::{Script, compare};
use crate::cluster::{Cluster, ClusterOptions};

const SETUP: &str = include_str!("foreign_errors/setup.sql");
const POLICY: &str = include_str!("foreign_errors/policy.sql");
const CASES: &str = include_str!("foreign_errors/cases.sql");

/// Modules that use the same hooks.
const NEIGHBOURS: &str = "pg_stat_statements,auto_explain,pgaudit";

/// Who runs a script.
#[derive(Clone, Copy)]
struct Backend {
    role: &'static str,
    /// The tenant it owns.
    tenant: &'static str,
    /// Whether only ownership binds it.
    proven: bool,
}

const DBA: Backend = Backend { role: "postgres", tenant: "1", proven: true };
const BACKENDS: [Backend; 2] = [
    Backend { role: "legacy_app", tenant: "1", proven: true },
    Backend { role: "rebuilt_app", tenant: "2", proven: false },
];

/// Errors are compared on a server without holdfast and with it.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("errors_pass_unchanged", options("holdfast"), errors_pass_unchanged),
        Test::own("errors_pass_unchanged_with_neighbours_below", below(), errors_pass_unchanged)
            .needs_module("pgaudit"),
        Test::own("errors_pass_unchanged_with_neighbours_above", above(), errors_pass_unchanged)
            .needs_module("pgaudit"),
    ]
}

fn below() -> ClusterOptions {
    options(&format!("{NEIGHBOURS},holdfast"))
}

fn above() -> ClusterOptions {
    options(&format!("holdfast,{NEIGHBOURS}"))
}

fn options(preload: &str) -> ClusterOptions {
    let options = ClusterOptions::new().preload(preload).set("lc_messages", "C").set("max_stack_depth", "200kB");
    match preload.contains("pgaudit") {
        true => options
            .set("pgaudit.log", "all")
            .set("auto_explain.log_min_duration", "0")
            .set("auto_explain.log_analyze", "on")
            .set("pg_stat_statements.track", "all"),
        false => options,
    }
}

fn errors_pass_unchanged(with: &mut Cluster) -> Result<()> {
    let mut dba = with.endpoint().observe("postgres")?;
    let preload: String = dba.query_one("SHOW shared_preload_libraries", &[])?.try_get(0)?;
    let others: Vec<&str> = preload.split(',').map(str::trim).filter(|library| *library != "holdfast").collect();
    let without = Cluster::start(with.postgres(), options(&others.join(",")))?;
    for cluster in [&*with, &without] {
        cluster.endpoint().observe("postgres")?.batch_execute("CREATE DATABASE shop TEMPLATE template0")?;
        succeed(cluster, "shop", SETUP)?;
    }
    succeed(with, "shop", POLICY)?;
    // The same tables in the same server, unguarded. The roles exist.
    with.endpoint().observe("postgres")?.batch_execute("CREATE DATABASE inert TEMPLATE template0")?;
    succeed(with, "inert", SETUP.split_once("-- roles end here").map_or(SETUP, |(_, tables)| tables))?;
    for backend in BACKENDS {
        let expected = psql(&without, "shop", backend, CASES)?;
        ensure!(expected.matches("LOCATION:").count() >= 150, "too few errors, see:\n{expected}");
        for (database, guarded) in [("shop", "guarded"), ("inert", "in a database without the extension")] {
            let actual = psql(with, database, backend, CASES)?;
            compare(&format!("as {}, {guarded}", backend.role), &expected, &actual)?;
        }
    }
    let mut dba = with.endpoint().observe("shop")?;
    let refused: i64 =
        dba.query_one("SELECT holdfast.flush_events() + count(*) FROM holdfast.event", &[])?.try_get(0)?;
    ensure!(refused == 0, "{refused} refusals among errors of Postgres");
    Ok(())
}

fn succeed(cluster: &Cluster, database: &str, sql: &str) -> Result<()> {
    script(database, DBA, |script| script.succeed(cluster, sql))
}

fn psql(cluster: &Cluster, database: &str, backend: Backend, sql: &str) -> Result<String> {
    script(database, backend, |script| script.run(cluster, sql))
}

/// The cases as a backend runs them; they know its tenant, and how to reach the database from beside.
fn script<T>(database: &str, backend: Backend, run: impl FnOnce(&Script) -> T) -> T {
    let Backend { role, tenant, proven } = backend;
    run(&Script {
        database,
        role,
        variables: &[("QUIET", "on"), ("tenant", tenant), ("proven", if proven { "true" } else { "false" })],
        environment: &[("ROLE", role), ("SHOP", database), ("TENANT", tenant)],
    })
}
