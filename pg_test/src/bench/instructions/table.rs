//! The counts that are kept in the repository, as a table that a diff shows well.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::callgrind::Count;
use crate::bench::contender::{Contender, House};
use crate::setup::workspace;

/// What may come on top before it counts as worse. Holdfast's own instructions are nearly the same each time. What it makes others
/// execute is a difference of two servers, whose layouts of memory and hash tables differ from run to run, by up to this part of all.
const TOLERANCE: f64 = 0.05;
const TOLERATED: i64 = 60;
const BLUR: f64 = 0.03;

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
        let mut text = format!("Instructions at {} and now ({}), added at all and own:\n", known.commit, self.commit);
        for change in self.changes(known) {
            let _ = writeln!(text, "{change}");
        }
        text
    }

    /// What Holdfast costs more than it did, beyond the tolerance.
    pub fn worse_than(&self, known: &Table) -> Vec<String> {
        let ours = |change: &Change| change.row.contender.house() == House::Holdfast;
        self.changes(known)
            .filter(|change| ours(change) && change.is_worse())
            .map(|change| change.to_string())
            .collect()
    }

    fn changes(&self, known: &Table) -> impl Iterator<Item = Change<'_>> {
        self.rows.iter().filter_map(move |row| {
            let before = known.same_row(row)?;
            Some(Change { row, added: (known.added(before)?, self.added(row)?), own: (before.each.own, row.each.own) })
        })
    }
}

/// What has become of a row: before, now.
struct Change<'a> {
    row: &'a Row,
    added: (i64, i64),
    own: (i64, i64),
}

impl Change<'_> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a tolerance")]
    fn is_worse(&self) -> bool {
        let part = |of: i64, ratio: f64| (of as f64 * ratio) as i64;
        let tolerated = |before: i64| TOLERATED.max(part(before, TOLERANCE));
        let (own, added) = (self.own.1 - self.own.0, self.added.1 - self.added.0);
        own > tolerated(self.own.0) || added > tolerated(self.added.0).max(part(self.row.each.all, BLUR))
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((added_before, added), (own_before, own)) = (self.added, self.own);
        let Row { case, contender, .. } = self.row;
        write!(f, "{added_before:>8} {added:>8} {own_before:>8} {own:>8}  {case} ({})", contender.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(guarded: i64) -> Table {
        table_with(guarded, 7)
    }

    fn table_with(guarded: i64, own: i64) -> Table {
        let row = |contender, all, own| Row { case: "row".to_owned(), contender, each: Count { all, own } };
        let rows = vec![row(Contender::None, 1_000, 0), row(Contender::Legacy, guarded, own)];
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
        assert_eq!(table_with(1_200, 100).worse_than(&table(1_200)).len(), 1);
    }
}
