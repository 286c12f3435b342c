//! The verdict over the rows; the extension isn't asked.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::writer::{PARTS, Shape, Tally};
use super::{CUTOVERS, TENANT};
use crate::suite::two_backends::TwoBackends;

struct Operation {
    id: i64,
    sequence: i64,
    written_by: String,
}

/// The first few are enough to see what is wrong.
const SHOWN: usize = 5;

/// Fails unless every row was written by its time's owner and every acknowledged commit is there.
pub fn judge(stage: &TwoBackends, tally: &Tally) -> Result<()> {
    let mut session = stage.operator()?;
    let mut operations = Vec::new();
    for row in session.query("SELECT id, sequence, written_by::text FROM operation ORDER BY sequence", &[])? {
        operations.push(Operation { id: row.try_get(0)?, sequence: row.try_get(1)?, written_by: row.try_get(2)? });
    }
    let mut marks: Vec<(i64, String)> = Vec::new();
    for row in session.query("SELECT sequence, owner FROM mark ORDER BY epoch", &[])? {
        marks.push((row.try_get(0)?, row.try_get(1)?));
    }
    ensure!(u64::try_from(marks.len())? == CUTOVERS, "{} marks of {CUTOVERS} cutovers", marks.len());
    ensure!(marks.windows(2).all(|pair| pair[0].0 <= pair[1].0), "the counter went back");

    // One order, without a gap: nothing that was counted is lost.
    let counted: i64 = session.one(&format!("SELECT n FROM counter WHERE tenant = {TENANT}"))?;
    ensure!(operations.iter().map(|o| o.sequence).eq(1..=counted), "the operations' numbers aren't 1 to {counted}");

    // Written by who owned the tenant then.
    let mut foreign = Vec::new();
    let mut mark = 0;
    for operation in &operations {
        while marks.get(mark).is_some_and(|(sequence, _)| *sequence < operation.sequence) {
            mark += 1;
        }
        let owner = if mark == 0 { "legacy" } else { &marks[mark - 1].1 };
        if operation.written_by != **stage.role(owner) {
            foreign.push(format!("{} (number {}, owner {owner})", operation.id, operation.sequence));
        }
    }
    let (count, first) = (foreign.len(), &foreign[..foreign.len().min(SHOWN)]);
    ensure!(count == 0, "{count} operations were not committed by the owner: {first:?}");

    // What clients were told, and nothing else.
    let there: BTreeSet<i64> = operations.iter().map(|o| o.id).collect();
    let told: BTreeSet<i64> = tally.committed.keys().copied().collect();
    let lost: Vec<_> = told.difference(&there).take(SHOWN).collect();
    ensure!(lost.is_empty(), "acknowledged but not there: {lost:?}");
    let untold: Vec<_> = there.difference(&told).take(SHOWN).collect();
    ensure!(untold.is_empty(), "there but not acknowledged: {untold:?}");

    let copied = i64::from(PARTS) * count_of(tally, |shape| shape == Shape::Copy);
    ensure!(session.one::<i64>("SELECT count(*) FROM part")? == copied, "rows of COPY are missing or too many");
    let strangers: i64 = session.one(
        "SELECT count(*) FROM part p LEFT JOIN operation o ON o.id = p.operation WHERE o.written_by IS DISTINCT FROM p.written_by",
    )?;
    ensure!(strangers == 0, "{strangers} rows of COPY are not of their operation's writer");
    let hits = count_of(tally, Shape::hits_a_slot);
    ensure!(session.one::<i64>("SELECT sum(hits)::int8 FROM slot")? == hits, "updates of the hot rows were lost");
    let deadlocks: i64 = session.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")?;
    ensure!(deadlocks == 0, "{deadlocks} deadlocks");
    Ok(())
}

fn count_of(tally: &Tally, which: impl Fn(Shape) -> bool) -> i64 {
    tally.committed.values().filter(|(_, shape)| which(*shape)).fold(0, |sum, _| sum + 1)
}
