//! Statements that write many rows. They are rolled back, so that each turn finds what the one before found.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context, Result};
use procfs::process::Process;

use super::Bench;
use super::contender::Contender;
use crate::client::Session;

/// A statement that writes a table: its time, and its processor time in the server.
pub fn statement(bench: &Bench, contender: Contender, table: &str, sql: &str) -> Result<Vec<f64>> {
    let sql = bench.arena.scale.fill_in(sql);
    turn(bench, contender, table, |session| session.exec(&sql))
}

/// COPY of as many rows as the scale says, of so many tenants by turns.
pub fn copy(bench: &Bench, contender: Contender, table: &str, tenants: u32) -> Result<Vec<f64>> {
    let mut rows = String::new();
    for row in 1..=bench.arena.scale.rows {
        let tenant = if tenants > 1 { row % tenants } else { 1 };
        // Writing to a String can't fail.
        let _ = writeln!(rows, "-{row}\t{tenant}\t{row}\tnote");
    }
    turn(bench, contender, table, |session| {
        let mut copy = session.copy_in(&format!("COPY {table} (id, tenant, amount, note) FROM STDIN"))?;
        copy.write_all(rows.as_bytes())?;
        copy.finish()?;
        Ok(())
    })
}

fn turn(
    bench: &Bench,
    contender: Contender,
    table: &str,
    work: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut session = bench.arena.session(contender)?;
    session.exec("BEGIN")?;
    let (before, start) = (processor_time(session.pid())?, Instant::now());
    work(&mut session)?;
    let (time, after) = (start.elapsed(), processor_time(session.pid())?);
    session.exec("ROLLBACK")?;
    bench.arena.admin(contender)?.exec(&format!("VACUUM {table}"))?;
    Ok(vec![time.as_secs_f64(), after - before])
}

/// Seconds that a process has had a processor.
fn processor_time(pid: i32) -> Result<f64> {
    let stat = Process::new(pid).and_then(|process| process.stat()).context("reading /proc")?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}
