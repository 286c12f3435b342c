//! The counts that are kept in the repository, as a table that a diff shows well.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::callgrind::Count;
use crate::bench::contender::Contender;
use crate::setup::workspace;

/// What may come on top before it counts as worse: layouts of memory and hash tables differ from run to run.
const TOLERANCE: f64 = 0.05;
const TOLERATED: i64 = 60;

/// Counts of one run.
pub struct Table {
    /// The commit that was measured.
    pub commit: String,
    /// The server.
    pub server: String,
    /// The counts.
    pub rows: Vec<Row>,
}

/// What one unit of a case costs a contender.
pub struct Row {
    /// The case.
    pub case: String,
    /// Who.
    pub contender: Contender,
    /// Instructions for each unit.
    pub each: Count,
}

impl Table {
    fn file() -> PathBuf {
        workspace().join("pg_test/src/bench/instructions.md")
    }

    /// The one in the repository.
    pub fn read() -> Result<Table> {
        let text = fs::read_to_string(Table::file()).context("no counts to compare with; `--accept` keeps some")?;
        Table::parse(&text).context("instructions.md isn't as `cargo pg-bench --accept` writes it")
    }

    fn parse(text: &str) -> Option<Table> {
        let noted = |what: &str| text.lines().find_map(|line| Some(line.strip_prefix(what)?.trim().to_owned()));
        let (commit, server) = (noted("Commit:")?, noted("Server:")?);
        let mut rows = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('|')).skip(2) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [case, contender, all, _, own] = cells.as_slice() else { return None };
            let contender = Contender::from_str(contender, false).ok()?;
            let each = Count { all: all.parse().ok()?, own: own.parse().ok()? };
            rows.push(Row { case: (*case).to_owned(), contender, each });
        }
        Some(Table { commit, server, rows })
    }

    /// Makes this the one in the repository.
    pub fn write(&self) -> Result<()> {
        Ok(fs::write(Table::file(), self.markdown())?)
    }

    /// As the repository has it.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# Instructions\n\n\
             Counted by callgrind for one unit of each kind of work, in the session's server process. Written by\n\
             `cargo pg-bench --accept`, compared by `cargo pg-bench --check`. *Added*: more than without holdfast, whoever\n\
             executes them; *own*: in holdfast's library.\n\n\
             Commit: {}\nServer: {}\n\n\
             | work | contender | instructions | added | own |\n|---|---|---:|---:|---:|\n",
            self.commit, self.server
        );
        for row in &self.rows {
            let Row { case, contender, each } = row;
            let added = self.added(row).map_or_else(|| "–".to_owned(), |added| added.to_string());
            // Writing to a String can't fail.
            let _ = writeln!(text, "| {case} | {} | {} | {added} | {} |", contender.name(), each.all, each.own);
        }
        text
    }

    /// What a row has more than its case has without a guard.
    fn added(&self, row: &Row) -> Option<i64> {
        let without = self.rows.iter().find(|other| other.case == row.case && other.contender == Contender::None)?;
        (row.contender != Contender::None).then(|| row.each.all - without.each.all)
    }

    fn same_row(&self, row: &Row) -> Option<&Row> {
        self.rows.iter().find(|other| other.case == row.case && other.contender == row.contender)
    }

    /// What has changed, a line each.
    pub fn compared_with(&self, known: &Table) -> String {
        let mut text = format!("Added instructions, at {} and now ({}):\n", known.commit, self.commit);
        for row in &self.rows {
            let before = known.same_row(row).and_then(|before| known.added(before));
            if let (Some(before), Some(now)) = (before, self.added(row)) {
                let _ = writeln!(text, "{before:>8} {now:>8}  {} ({})", row.case, row.contender.name());
            }
        }
        text
    }

    /// What Holdfast costs more than it did, beyond the tolerance.
    pub fn worse_than(&self, known: &Table) -> Vec<String> {
        let worse = |row: &&Row| {
            let before = known.same_row(row).and_then(|before| known.added(before));
            let (Some(before), Some(now)) = (before, self.added(row)) else { return false };
            row.contender.house() == crate::bench::contender::House::Holdfast
                && now - before > TOLERATED.max((before as f64 * TOLERANCE) as i64)
        };
        let told = |row: &Row| {
            let before = known.same_row(row).and_then(|before| known.added(before)).unwrap_or_default();
            let now = self.added(row).unwrap_or_default();
            format!("  {} ({}): {before} before, {now} now", row.case, row.contender.name())
        };
        self.rows.iter().filter(worse).map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(guarded: i64) -> Table {
        let row = |contender, all| Row { case: "row".to_owned(), contender, each: Count { all, own: 7 } };
        let rows = vec![row(Contender::None, 1_000), row(Contender::Legacy, guarded)];
        Table { commit: "abc".to_owned(), server: "15".to_owned(), rows }
    }

    #[test]
    fn a_table_reads_what_it_writes() {
        let read = Table::parse(&table(1_200).markdown());
        let counts = read.map(|table| table.rows.iter().map(|row| row.each.all).collect::<Vec<_>>());
        assert_eq!(counts, Some(vec![1_000, 1_200]));
    }

    #[test]
    fn what_is_added_counts_and_not_the_whole() {
        assert!(table(1_240).worse_than(&table(1_200)).is_empty());
        assert_eq!(table(1_300).worse_than(&table(1_200)).len(), 1);
        assert!(table(1_000).worse_than(&table(1_200)).is_empty());
    }
}
