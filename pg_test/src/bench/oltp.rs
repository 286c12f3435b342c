//! Short transactions, by pgbench.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::contender::Contender;

/// A script that pgbench has itself.
pub fn built_in(bench: &Bench, contender: Contender, script: &str, clients: u32) -> Result<Vec<f64>> {
    run(bench, contender, clients, &["-b", script])
}

/// UPDATEs of rows at random, each a transaction.
pub fn updates(bench: &Bench, contender: Contender, clients: u32) -> Result<Vec<f64>> {
    let rows = bench.arena.scale.rows;
    let script = format!("\\set id random(1, {rows})\nUPDATE items SET amount = amount + 1 WHERE id = :id;\n");
    custom(bench, contender, clients, &script, &[])
}

/// The same for rows of a single tenant.
pub fn updates_of_one_tenant(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let rows = bench.arena.scale.rows;
    let script = format!("\\set id random(1, {rows})\nUPDATE hot SET amount = amount + 1 WHERE id = :id;\n");
    custom(bench, contender, 8, &script, &[])
}

/// Connections that ask for one row and go.
pub fn connections(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    custom(bench, contender, 1, "SELECT amount FROM items WHERE id = 1;\n", &["-C"])
}

/// Any script.
pub fn custom(bench: &Bench, contender: Contender, clients: u32, script: &str, more: &[&str]) -> Result<Vec<f64>> {
    let file = bench.folder.join("script.sql");
    fs::write(&file, script).with_context(|| file.display().to_string())?;
    let file = file.display().to_string();
    run(bench, contender, clients, &[&["-f", &file], more].concat())
}

fn run(bench: &Bench, contender: Contender, clients: u32, more: &[&str]) -> Result<Vec<f64>> {
    let (clients, threads) = (clients.to_string(), clients.min(2).to_string());
    let seconds = bench.course.seconds.to_string();
    let arguments = ["-n", "-M", "prepared", "-U", "app", "-c", &clients, "-j", &threads, "-T", &seconds];
    let arguments = [&arguments, more, &[contender.name()]].concat();
    let output = bench.arena.cluster(contender)?.run("pgbench", &arguments)?;
    let told = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || told.contains("aborted") {
        bail!("pgbench: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let tps = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    Ok(vec![tps.with_context(|| format!("pgbench told no tps:\n{told}"))?])
}
