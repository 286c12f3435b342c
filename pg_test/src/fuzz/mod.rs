//! A fuzzer: the rebuilt login runs whatever a seed makes of it, against a server in enforce mode. After every statement, within
//! its transaction and after it, nothing outside of what the policy allows may have changed, and after every episode, which is a few
//! statements and usually one transaction, legacy must get on with its work. Limits change as it goes. In rounds with an odd seed the
//! login is also a member of the role that owns the tables.
//!
//! A round has a database and a seed of its own, which is what to repeat it with.

mod commands;
mod oracle;
mod random_queries;
mod statements;
mod tables;
mod tally;

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::client::{Refusal, Session};
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Role;
use crate::setup::Postgres;
use crate::suite::platform::Platform;
use crate::ui::{Step as Progress, Ui};
use oracle::Oracle;
use statements::{Episode, Statements, Step};
use tally::Tally;

const EXTRAS: &str = include_str!("extras.sql");
const OWNER: &str = include_str!("owner.sql");
const WITNESS: &str = include_str!("witness.sql");

/// How long a round takes: long enough for sessions to grow old, short enough to be repeated.
const EPISODES: u32 = 400;

/// For how many of them limits stay as they are.
const LIMITED: u32 = 10;

/// A statement that waits for itself in another session, or runs for ever, is part of the game.
const PATIENCE: &str = "SET statement_timeout = '3s'; SET lock_timeout = '500ms'";

/// How long to fuzz, and from where.
#[derive(Clone, Copy, Debug)]
pub struct FuzzOptions {
    /// Rounds are begun for so long.
    pub minutes: u64,
    /// The first round's seed; a random one if none.
    pub seed: Option<u64>,
}

/// Runs rounds until the time is over; an error at the first that changed what it must not.
pub fn run(postgres: &Postgres, options: FuzzOptions, ui: &Ui) -> Result<()> {
    let first = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    let began = Instant::now();
    let time = Duration::from_secs(options.minutes * 60);
    let mut tally = Tally::default();
    ui.step(&format!("Fuzzing for {} minutes, from seed {first}", options.minutes), |progress| {
        for round in 0.. {
            let seed = first.wrapping_add(round);
            play(postgres, seed, &mut tally, progress)
                .with_context(|| format!("repeat it with: cargo verify --fuzz 1 --seed {seed}"))?;
            if began.elapsed() >= time {
                break;
            }
        }
        Ok(())
    })?;
    println!("{tally}");
    tally.ensure_complete(time)
}

fn play(postgres: &Postgres, seed: u64, tally: &mut Tally, progress: &Progress) -> Result<()> {
    let options = ClusterOptions::new()
        .set("log_error_verbosity", "verbose")
        .set("deadlock_timeout", "100ms")
        // Refusals are what most statements end in.
        .set("log_min_messages", "error");
    let cluster = Cluster::start(postgres, options)?;
    let (platform, mut dba) = stage(&cluster, seed)?;
    let mut oracle = Oracle::new(&mut dba)?;
    let mut witness = login(&platform, &platform.legacy)?;
    let mut player = Player { session: login(&platform, &platform.rebuilt)?, prepared: None, tally };
    let mut statements = Statements::new(seed);
    for episode in 0..EPISODES {
        if episode % LIMITED == 0 {
            dba.exec(&format!("SELECT holdfast.set_limits('rebuilt', {})", statements.limits()))?;
            oracle.remember(&mut dba)?;
        }
        let Episode { steps, tolerant } = statements.episode();
        let mut told = String::new();
        for step in &steps {
            // Outside of a transaction it fails, which does nothing.
            let savepoint = tolerant && player.session.batch_execute("SAVEPOINT each").is_ok();
            let succeeded = player.take(&platform, step, &mut told)?;
            if savepoint && !succeeded {
                let _ = player.session.batch_execute("ROLLBACK TO each");
            }
            player.look(&platform, &oracle).with_context(|| format!("in episode {episode} of seed {seed}:\n{told}"))?;
        }
        // An episode that failed half-way leaves its transaction open.
        player.session.exec("ROLLBACK").or_else(|_| player.reconnect(&platform))?;
        let after = || format!("after episode {episode} of seed {seed}:\n{told}");
        witness.exec(WITNESS).with_context(|| format!("legacy is hindered {}", after()))?;
        unchanged(oracle.changes(&mut dba)?).with_context(after)?;
        progress.note(&format!("seed {seed}, episode {episode}, {} statements", player.tally.statements()));
    }
    drop(player);
    let queries = random_queries::run(&cluster, &platform, seed)?;
    if let Some(queries) = queries {
        *tally.random.get_or_insert(0) += queries;
        unchanged(oracle.changes(&mut dba)?).with_context(|| format!("after sqlsmith with seed {seed}"))?;
    }
    tally.rounds += 1;
    sound(&cluster)
}

/// A guarded database in which the rebuilt login has every privilege that isn't ownership, and the DBA's session.
fn stage(cluster: &Cluster, seed: u64) -> Result<(Platform, Session)> {
    let platform = Platform::unguarded(cluster, "fuzz")?;
    let mut dba = platform.database.connect()?;
    dba.exec(EXTRAS)?;
    platform.guard(&platform.database)?;
    dba.exec(&format!(
        "CREATE SCHEMA mine AUTHORIZATION {role}; GRANT CREATE ON SCHEMA public TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}, {legacy}; GRANT ALL ON LARGE OBJECT 4242 TO {role};
         GRANT ALL ON DATABASE {name} TO {role}; SELECT holdfast.set_mode(NULL, 'rebuilt', 'unfiltered_write');
         SELECT holdfast.break_glass('privileges that no role should have');
         GRANT ALL ON SCHEMA holdfast TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA holdfast TO {role};
         SELECT holdfast.end_break_glass()",
        role = platform.rebuilt,
        legacy = platform.legacy,
        name = platform.database.name,
    ))?;
    if seed % 2 == 1 {
        let owner = platform.database.role("owner")?;
        dba.exec(&OWNER.replace("{owner}", &owner).replace("{rebuilt}", &platform.rebuilt))?;
    }
    for handover in ["cutover('60', 'rebuilt')", "cutover('70', 'rebuilt')", "freeze('70', 'audit')"] {
        dba.exec(&format!("SELECT holdfast.{handover}"))?;
    }
    Ok((platform, dba))
}

fn unchanged(changes: Vec<String>) -> Result<()> {
    ensure!(changes.is_empty(), "what must not change has changed:\n{}", changes.join("\n"));
    Ok(())
}

fn login(platform: &Platform, role: &Role) -> Result<Session> {
    let mut session = platform.database.connect_as(role)?;
    session.exec(PATIENCE)?;
    Ok(session)
}

/// The login that means harm.
struct Player<'a> {
    session: Session,
    prepared: Option<(String, postgres::Statement)>,
    tally: &'a mut Tally,
}

impl Player<'_> {
    fn reconnect(&mut self, platform: &Platform) -> Result<()> {
        self.session = login(platform, &platform.rebuilt)?;
        self.prepared = None;
        Ok(())
    }

    /// Nothing has changed that must not, as far as this session can see.
    fn look(&mut self, platform: &Platform, oracle: &Oracle) -> Result<()> {
        if self.session.is_closed() {
            self.reconnect(platform)?;
        }
        self.tally.looks += 1;
        unchanged(oracle.changes(&mut self.session)?)
    }

    /// Sends a step, and writes down what came of it; whether it succeeded.
    fn take(&mut self, platform: &Platform, step: &Step, told: &mut String) -> Result<bool> {
        if self.session.is_closed() {
            self.reconnect(platform)?;
        }
        let (sql, outcome) = match step {
            Step::Reconnect => {
                self.reconnect(platform)?;
                told.push_str("-- reconnect\n");
                return Ok(true);
            }
            Step::Run(sql) => (sql.clone(), self.session.batch_execute(sql)),
            Step::Prepare(sql) => (format!("PREPARE: {sql}"), self.prepare(sql)),
            Step::Execute => {
                let Some((sql, statement)) = &self.prepared else { return Ok(true) };
                (format!("EXECUTE: {sql}"), self.session.query(statement, &[]).map(drop))
            }
            Step::Copy(sql, rows) => (format!("{sql};\n{rows}\\."), self.copy(sql, rows)),
        };
        if matches!(step, Step::Copy(..)) && outcome.is_err() {
            // When a COPY fails before it takes rows, the driver takes one answer too many for each later request's.
            self.reconnect(platform)?;
        }
        // What the step may have reset or changed.
        let _ = self.session.batch_execute(PATIENCE);
        let succeeded = outcome.is_ok();
        let said = match outcome {
            Ok(()) => {
                self.tally.pass();
                "ok".to_owned()
            }
            Err(error) => match error.as_db_error().map(Refusal::from) {
                Some(refusal) => {
                    self.tally.fail(&refusal.code);
                    format!("{} {}", refusal.code, refusal.message)
                }
                None => {
                    self.tally.fail("no answer");
                    error.to_string()
                }
            },
        };
        // Writing to a String can't fail.
        let _ = writeln!(told, "{sql}; -- {said}");
        Ok(succeeded)
    }

    fn prepare(&mut self, sql: &str) -> Result<(), postgres::Error> {
        self.prepared = None;
        self.prepared = Some((sql.to_owned(), self.session.prepare(sql)?));
        Ok(())
    }

    fn copy(&mut self, sql: &str, rows: &str) -> Result<(), postgres::Error> {
        let mut writer = self.session.copy_in(sql)?;
        // What goes wrong here is told by finish().
        let _ = writer.write_all(rows.as_bytes());
        writer.finish().map(drop)
    }
}

/// No process has crashed, nothing in us has panicked, and nobody met an internal error.
fn sound(cluster: &Cluster) -> Result<()> {
    let crashes = cluster.crashes(0)?;
    ensure!(crashes.is_empty(), "the server crashed:\n{}", crashes.join("\n"));
    let log = cluster.log()?;
    let strange = internal_errors(&log);
    ensure!(strange.is_empty(), "internal errors:\n{}", strange.join("\n"));
    Ok(())
}

/// Internal errors that may be our doing.
fn internal_errors(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if line.contains("panicked") {
            found.push(*line);
            continue;
        }
        if !line.contains(" XX00") || KNOWN.iter().any(|known| line.contains(known)) {
            continue;
        }
        // sqlsmith looks for such errors in Postgres itself, and finds them. Where the error was raised follows.
        let ours = lines.iter().skip(n).take(8).any(|line| line.contains("LOCATION:") && line.contains(".rs:"));
        if ours || !line.contains(" sqlsmith") || LOST.iter().any(|lost| line.contains(lost)) {
            found.push(*line);
        }
    }
    found
}

/// Internal errors that Postgres raises by itself.
const KNOWN: [&str; 1] = ["tuple concurrently updated"];

/// What becomes of a catalog or a plan that somebody damaged.
const LOST: [&str; 4] = ["cache lookup failed", "could not open relation", "unrecognized node", "unexpected"];

#[cfg(test)]
mod tests {
    use super::internal_errors;

    #[test]
    fn errors_of_ours_are_told_from_those_that_sqlsmith_finds_in_postgres() {
        let theirs = "x [1] r@d sqlsmith::dut ERROR:  XX000: invalid typmod\nx [1] r@d LOCATION:  f, date.c:7\n";
        let ours = "x [1] r@d sqlsmith::dut ERROR:  XX000: no entry\nx [1] r@d LOCATION:  f, src/pg/plan.rs:7\n";
        let lost = "x [1] r@d sqlsmith::dut ERROR:  XX000: cache lookup failed for type 7\n";
        let plain = "x [1] r@d  ERROR:  XX000: invalid typmod\n";
        for (log, expected) in [(theirs, 0), (ours, 1), (lost, 1), (plain, 1)] {
            assert_eq!(internal_errors(log).len(), expected, "{log}");
        }
    }
}
