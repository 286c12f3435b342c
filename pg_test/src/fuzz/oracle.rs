//! What must not change, looked at after every statement: by the fuzzed session itself, since only it sees what its transaction has
//! changed, through functions of a superuser that it can't touch; and from outside.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use crate::client::{Refusal, Rows, Session};

const PROTECTED: &str = include_str!("protected.sql");

/// Everything outside of what the policy allows the fuzzed login, as it was at the start.
pub struct Oracle {
    pieces: Vec<Piece>,
}

struct Piece {
    name: &'static str,
    before: Rows,
    digest: Option<String>,
}

impl Oracle {
    /// Makes the functions and remembers how things are.
    pub fn new(observer: &mut Session) -> Result<Oracle> {
        // Objects get ascending numbers in a cluster as young as this; later ones are the fuzzed login's own.
        observer.exec("CREATE TABLE newest_of_all ()")?;
        let newest: i64 = observer.one("SELECT 'newest_of_all'::regclass::oid::int8")?;
        let mut pieces = Vec::new();
        let (mut digests, mut rows) = (String::new(), String::new());
        for line in PROTECTED.lines().filter(|line| !line.starts_with("--")) {
            let (name, query) = line.split_once('|').context("a line of protected.sql")?;
            let query = query.replace("{newest}", &newest.to_string());
            let separator = if digests.is_empty() { "" } else { ", " };
            // Writing to a String can't fail.
            let _ = write!(
                digests,
                "{separator}(SELECT md5(coalesce(string_agg(piece.row, chr(10) ORDER BY piece.row), '')) FROM ({query}) AS piece (row))"
            );
            let _ = writeln!(rows, "WHEN '{name}' THEN RETURN QUERY {query};");
            pieces.push(Piece { name, before: Rows::new(), digest: None });
        }
        // Their plans are kept, and made anew where a change of the catalogs asks for it.
        let as_superuser = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp";
        observer.exec(&format!(
            "CREATE SCHEMA oracle; GRANT USAGE ON SCHEMA oracle TO PUBLIC;
             CREATE FUNCTION oracle.digests() RETURNS SETOF text {as_superuser} AS
             $oracle$ BEGIN RETURN QUERY SELECT unnest(ARRAY[{digests}]); END $oracle$;
             CREATE FUNCTION oracle.rows(text) RETURNS SETOF text {as_superuser} AS
             $oracle$ BEGIN CASE $1 {rows} END CASE; END $oracle$"
        ))?;
        let mut oracle = Oracle { pieces };
        oracle.remember(observer)?;
        Ok(oracle)
    }

    /// What is now is what has to stay.
    pub fn remember(&mut self, observer: &mut Session) -> Result<()> {
        let now = digests(observer)?.context("outside of a transaction everything can be seen")?;
        for (piece, digest) in self.pieces.iter_mut().zip(now) {
            if piece.digest != digest {
                piece.before = rows(observer, piece.name)?;
                piece.digest = digest;
            }
        }
        Ok(())
    }

    /// What has changed since, as a session sees it; nothing, if all is well, or where the session's transaction has failed and
    /// sees nothing.
    pub fn changes(&self, session: &mut Session) -> Result<Vec<String>> {
        let Some(now) = digests(session)? else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        for (piece, digest) in self.pieces.iter().zip(now) {
            if piece.digest == digest {
                continue;
            }
            let after = rows(session, piece.name)?;
            let only_in = |these: &Rows, those: &Rows| -> Rows {
                these.iter().filter(|row| !those.contains(row)).take(5).cloned().collect()
            };
            let (gone, come) = (only_in(&piece.before, &after), only_in(&after, &piece.before));
            let (rows, now) = (piece.before.len(), after.len());
            changes.push(format!("{}: {rows} rows, now {now}; gone {gone:?}, come {come:?}", piece.name));
        }
        Ok(changes)
    }
}

/// A digest of each piece; none where the session's transaction has failed.
fn digests(session: &mut Session) -> Result<Option<Vec<Option<String>>>> {
    match session.rows("SELECT oracle.digests()") {
        Ok(rows) => Ok(Some(rows.into_iter().flatten().collect())),
        Err(error) => match Refusal::of(&error) {
            Some(refusal) if refusal.code == "25P02" => Ok(None),
            _ => bail!(error.context("looking at what must not change")),
        },
    }
}

fn rows(session: &mut Session, piece: &str) -> Result<Rows> {
    let mut rows = session.rows(&format!("SELECT oracle.rows('{piece}')"))?;
    rows.sort();
    Ok(rows)
}
