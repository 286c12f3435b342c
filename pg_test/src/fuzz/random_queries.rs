//! sqlsmith, where it is installed: random queries over the whole catalog, as the rebuilt login.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::setup::on_path;
use crate::suite::platform::Platform;

/// How many queries of it a round has.
const QUERIES: u64 = 1_000;

/// Runs it; returns how many queries it sent, nothing where it isn't installed.
pub fn run(cluster: &Cluster, platform: &Platform, seed: u64) -> Result<Option<u64>> {
    let Some(program) = on_path("sqlsmith") else { return Ok(None) };
    let target = format!(
        "host={} port={} user={} dbname={} options='-c statement_timeout=500 -c lock_timeout=200'",
        cluster.socket_dir().display(),
        cluster.port(),
        platform.rebuilt,
        platform.database.name
    );
    let mut command: Command = cluster.postgres().server_command(program);
    command.arg(format!("--target={target}")).arg(format!("--seed={}", seed % u64::from(i32::MAX.cast_unsigned())));
    command.arg(format!("--max-queries={QUERIES}")).arg("--exclude-catalog");
    let output = cluster.output(command, "")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sqlsmith: {}", said.trim_end());
    Ok(Some(QUERIES))
}
