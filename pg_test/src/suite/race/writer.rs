//! One writer: transactions of every shape, each of which takes the next number of the tenant's counter.
//!
//! All lock a slot first and the counter last, so that no deadlock is of their own making.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use postgres::{Error, Statement};

use super::baton::Baton;
use super::{SLOTS, TENANT};
use crate::client::Session;
use crate::suite::two_backends::NOT_OWNER;

/// Rows that a COPY writes.
pub const PARTS: i32 = 5;
/// Longer than the driver needs between two cutovers.
const PATIENCE: Duration = Duration::from_secs(1);
/// Shorter than the driver waits for a commit.
const LINGER: Duration = Duration::from_millis(20);

/// The shape of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    SingleStatement,
    Prepared,
    SavepointRolledBack,
    SavepointReleased,
    RepeatableRead,
    Copy,
    TwoPhase,
    TwoPhaseRolledBack,
    OnConflict,
    ExceptionBlock,
}

impl Shape {
    const ALL: [Shape; 10] = [
        Shape::SingleStatement,
        Shape::Prepared,
        Shape::SavepointRolledBack,
        Shape::SavepointReleased,
        Shape::RepeatableRead,
        Shape::Copy,
        Shape::TwoPhase,
        Shape::TwoPhaseRolledBack,
        Shape::OnConflict,
        Shape::ExceptionBlock,
    ];

    /// Whether it counts in a slot, too.
    pub fn hits_a_slot(self) -> bool {
        !matches!(self, Shape::SingleStatement | Shape::RepeatableRead | Shape::Copy)
    }
}

/// What writers were told.
#[derive(Default)]
pub struct Tally {
    /// Operations that were acknowledged as committed, with their writer's backend.
    pub committed: BTreeMap<i64, (&'static str, Shape)>,
    /// Attempts refused with WG001.
    pub refused: u64,
    /// Attempts that ended in Postgres's own serialization failure.
    pub conflicts: u64,
    /// How long the committed transactions took.
    pub latencies: Vec<Duration>,
    /// The same, of those during which a cutover began or ended.
    pub held: Vec<Duration>,
    /// Commits by shape.
    pub by_kind: BTreeMap<Shape, u64>,
}

impl Tally {
    /// Adds another writer's.
    pub fn add(&mut self, other: Tally) {
        self.committed.extend(other.committed);
        self.refused += other.refused;
        self.conflicts += other.conflicts;
        self.latencies.extend(other.latencies);
        self.held.extend(other.held);
        for (shape, count) in other.by_kind {
            *self.by_kind.entry(shape).or_default() += count;
        }
    }
}

/// Statements planned once; with force_generic_plan their plans are cached ones.
struct Statements {
    touch: Statement,
    upsert: Statement,
    stamp: Statement,
}

/// A writer of one backend.
pub struct Writer {
    number: u64,
    backend: &'static str,
    database: String,
    baton: Baton,
}

impl Writer {
    pub fn new(number: u64, backend: &'static str, database: String, baton: Baton) -> Writer {
        Writer { number, backend, database, baton }
    }

    /// Writes until the race ends.
    pub fn run(self, session: &mut Session) -> Result<Tally> {
        let statements = Statements {
            touch: session.prepare("UPDATE slot SET hits = hits + 1 WHERE tenant = $1 AND slot = $2")?,
            upsert: session.prepare(
                "INSERT INTO slot VALUES ($1, $2, 1) ON CONFLICT (tenant, slot) DO UPDATE SET hits = slot.hits + 1",
            )?,
            stamp: session.prepare(
                "WITH next AS (UPDATE counter SET n = n + 1 WHERE tenant = $1 RETURNING n)
                 INSERT INTO operation (id, tenant, sequence) SELECT $2, $1, n FROM next",
            )?,
        };
        // A seed a writer: the shapes come in the same order in every run.
        let mut random = fastrand::Rng::with_seed(self.number);
        let mut tally = Tally::default();
        let mut id = i64::try_from(self.number)? * 1_000_000;
        while let Some(phase) = self.baton.phase() {
            id += 1;
            let shape = random.choice(Shape::ALL).unwrap_or(Shape::Prepared);
            let start = Instant::now();
            match self.attempt(session, &statements, shape, id, &mut random) {
                Ok(()) => {
                    self.baton.committed(self.backend);
                    let took = start.elapsed();
                    tally.latencies.push(took);
                    if self.baton.phase().is_some_and(|now| now != phase) {
                        tally.held.push(took);
                    }
                    *tally.by_kind.entry(shape).or_default() += 1;
                    if shape != Shape::TwoPhaseRolledBack {
                        tally.committed.insert(id, (self.backend, shape));
                    }
                }
                Err(error) => match error.code().map(|code| code.code()) {
                    Some(NOT_OWNER) => {
                        tally.refused += 1;
                        session.batch_execute("ROLLBACK")?;
                        self.baton.wait_for_change(phase, PATIENCE);
                    }
                    Some("40001") => {
                        tally.conflicts += 1;
                        session.batch_execute("ROLLBACK")?;
                    }
                    _ => {
                        self.baton.end();
                        return Err(anyhow!(error)).with_context(|| format!("{shape:?} by {}", self.backend));
                    }
                },
            }
        }
        Ok(tally)
    }

    fn attempt(
        &self,
        session: &mut Session,
        statements: &Statements,
        shape: Shape,
        id: i64,
        random: &mut fastrand::Rng,
    ) -> Result<(), Error> {
        let slot = random.i32(1..=SLOTS);
        let touch = |session: &mut Session| session.execute(&statements.touch, &[&TENANT, &slot]);
        let stamp = |session: &mut Session| session.execute(&statements.stamp, &[&TENANT, &id]);
        match shape {
            Shape::SingleStatement => stamp(session).map(drop),
            Shape::Prepared => {
                session.batch_execute("BEGIN")?;
                touch(session)?;
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::SavepointRolledBack => {
                session.batch_execute(&format!(
                    "BEGIN; SAVEPOINT s; INSERT INTO operation (id, tenant, sequence) VALUES (-{id}, {TENANT}, 0)"
                ))?;
                // Between the two the tenant is free and may be handed over.
                session.batch_execute("ROLLBACK TO s")?;
                touch(session)?;
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::SavepointReleased => {
                session.batch_execute("BEGIN; SAVEPOINT a; SAVEPOINT b")?;
                touch(session)?;
                session.batch_execute("RELEASE b; SAVEPOINT c; ROLLBACK TO c; RELEASE a")?;
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::RepeatableRead => {
                session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM counter")?;
                if let Some(phase) = self.baton.phase().filter(|_| random.bool()) {
                    self.baton.wait_for_change(phase, LINGER);
                }
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::Copy => {
                session.batch_execute("BEGIN")?;
                copy(session, id)?;
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::TwoPhase | Shape::TwoPhaseRolledBack => {
                let gid = format!("{}_{id}", self.database);
                session.batch_execute("BEGIN")?;
                touch(session)?;
                stamp(session)?;
                session.batch_execute(&format!("PREPARE TRANSACTION '{gid}'"))?;
                let end = if shape == Shape::TwoPhase { "COMMIT" } else { "ROLLBACK" };
                session.batch_execute(&format!("{end} PREPARED '{gid}'"))
            }
            Shape::OnConflict => {
                session.batch_execute("BEGIN")?;
                session.execute(&statements.upsert, &[&TENANT, &slot])?;
                stamp(session)?;
                session.batch_execute("COMMIT")
            }
            Shape::ExceptionBlock => session.batch_execute(&format!("SELECT write_in_block({id}, {slot})")),
        }
    }
}

fn copy(session: &mut Session, id: i64) -> Result<(), Error> {
    let mut rows = String::new();
    for n in 1..=PARTS {
        rows.push_str(&format!("{id}\t{n}\t{TENANT}\n"));
    }
    let mut copy = session.copy_in("COPY part (operation, n, tenant) FROM STDIN")?;
    // What is buffered can't fail to be written; what the server says comes with the end.
    let _ = copy.write_all(rows.as_bytes());
    copy.finish().map(drop)
}
