//! What a DBA sees in psql: views that fit the window.

use anyhow::{Context, Result, ensure};

use super::Test;
use crate::cluster::{Cluster, ClusterOptions};

const SCHEMA: &str = include_str!("../demo/schema.sql");
const SEED: &str = include_str!("../demo/seed.sql");
const ROLES: &str = include_str!("../demo/roles.sql");
const POLICY: &str = include_str!("../demo/policy.sql");

/// What one line can't hold. As README.md says, psql shows these as records.
const WIDE: [&str; 4] = ["blocked_writes", "blocked_summary", "ownership_history", "policy_log"];

/// What README.md advises to set in psql.
const RECORDS: [&str; 3] = ["\\x auto", "\\pset format wrapped", "\\pset columns 120"];

/// Columns of a window.
const WIDTH: usize = 120;

pub fn tests() -> Vec<Test> {
    vec![Test::own("views_fit_the_window", ClusterOptions::new(), views_fit_the_window)]
}

/// What happens in a migration, the longest of it.
const HISTORY: &str = "
    SELECT holdfast.set_limits('rebuilt', rows_per_statement => 300, statement_timeout => '30 s',
        idle_in_transaction_timeout => '1 min');
    SELECT holdfast.set_mode('observe', 'legacy', 'destructive_command');
    SELECT holdfast.freeze('40', 'nightly import', now() + interval '90 minutes')";

fn views_fit_the_window(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.database("estate")?;
    let mut dba = database.connect()?;
    for (name, sql) in [("schema", SCHEMA), ("seed", &SEED.replace(":tenants", "50")), ("roles", ROLES)] {
        dba.exec(sql).with_context(|| name)?;
    }
    dba.exec("CREATE EXTENSION holdfast")?;
    dba.exec(POLICY)?;
    dba.exec(HISTORY)?;
    let mut rebuilt = database.connect_as("rebuilt_app")?;
    rebuilt.exec("UPDATE notification_preferences SET brokerage_id = brokerage_id WHERE brokerage_id = 7")?;
    dba.exec("SELECT holdfast.set_mode('enforce')")?;
    let mut operator = database.connect_as("migration_operator")?;
    for tenant in 1..30 {
        operator.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt')"))?;
    }
    rebuilt.refused("DELETE FROM notification_preferences WHERE brokerage_id = 40")?;
    dba.exec("SELECT holdfast.flush_events()")?;

    let views = dba.rows("SELECT viewname FROM pg_catalog.pg_views WHERE schemaname = 'holdfast' ORDER BY 1")?;
    let mut wrong = Vec::new();
    for view in views.into_iter().flatten().flatten() {
        let mut psql = cluster.command("psql");
        if WIDE.contains(&&*view) {
            psql.args(RECORDS.map(|setting| ["-c", setting]).as_flattened());
        }
        psql.args(["-X", "-d", &database.name, "-c", &format!("SELECT * FROM holdfast.{view}")]);
        psql.env("PGUSER", "postgres").env("LC_ALL", "C.UTF-8");
        let output = String::from_utf8(cluster.output(psql, "")?.stdout)?;
        ensure!(output.lines().count() > 3, "{view} shows nothing:\n{output}");
        let widest = output.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        if widest.chars().count() > WIDTH {
            wrong.push(format!("{view}, {} columns:\n{widest}\n\n{output}", widest.chars().count()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
