//! What must not change, looked at as superuser after every statement.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::client::{Rows, Session};

const PROTECTED: &str = include_str!("protected.sql");

/// Everything outside of what the policy allows the fuzzed login, as it was at the start.
pub struct Oracle {
    observer: Session,
    pieces: Vec<Piece>,
    digests: String,
}

struct Piece {
    name: &'static str,
    query: String,
    before: Rows,
    digest: Option<String>,
}

impl Oracle {
    /// Remembers how things are.
    pub fn new(mut observer: Session) -> Result<Oracle> {
        // Objects get ascending numbers in a cluster as young as this; later ones are the fuzzed login's own.
        observer.exec("CREATE TABLE newest_of_all ()")?;
        let newest: i64 = observer.one("SELECT 'newest_of_all'::regclass::oid::int8")?;
        let mut pieces = Vec::new();
        let mut digests = String::new();
        for line in PROTECTED.lines().filter(|line| !line.starts_with("--")) {
            let (name, query) = line.split_once('|').context("a line of protected.sql")?;
            let query = query.replace("{newest}", &newest.to_string());
            let separator = if digests.is_empty() { "SELECT " } else { ", " };
            // Writing to a String can't fail.
            let _ = write!(
                digests,
                "{separator}(SELECT md5(coalesce(string_agg(piece.row, chr(10) ORDER BY piece.row), '')) FROM ({query}) AS piece (row))"
            );
            let before = sorted(observer.rows(&query).with_context(|| name)?);
            pieces.push(Piece { name, query, before, digest: None });
        }
        let mut oracle = Oracle { observer, pieces, digests };
        let now = oracle.digests_now()?;
        for (piece, digest) in oracle.pieces.iter_mut().zip(now) {
            piece.digest = digest;
        }
        Ok(oracle)
    }

    /// What has changed since; nothing, if all is well.
    pub fn changes(&mut self) -> Result<Vec<String>> {
        let now = self.digests_now()?;
        let mut changes = Vec::new();
        for (piece, digest) in self.pieces.iter().zip(now) {
            if piece.digest == digest {
                continue;
            }
            let after = sorted(self.observer.rows(&piece.query)?);
            let only_in = |these: &Rows, those: &Rows| -> Rows {
                these.iter().filter(|row| !those.contains(row)).take(5).cloned().collect()
            };
            let (gone, come) = (only_in(&piece.before, &after), only_in(&after, &piece.before));
            let (rows, now) = (piece.before.len(), after.len());
            changes.push(format!("{}: {rows} rows, now {now}; gone {gone:?}, come {come:?}", piece.name));
        }
        Ok(changes)
    }

    fn digests_now(&mut self) -> Result<Vec<Option<String>>> {
        Ok(self.observer.rows(&self.digests)?.into_iter().flatten().collect())
    }
}

fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}
