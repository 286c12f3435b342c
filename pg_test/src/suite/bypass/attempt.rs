//! An attempt, made along every path that it can take, and judged by the client's error, the record and what has changed.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, bail};
use postgres::types::Type;

use super::paths::{Kind, Path, Protocol, Rights, Statement, Way, in_plpgsql};
use super::stage::{Recorded, Stage};
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;

/// What should come of an attempt. Whatever it is, nothing has changed afterwards.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// One of these rules refuses it, and that is on record. Which comes first is promised only where one is given. Who
    /// lacks the privileges may hear of that instead (42501), which needs no record.
    Refused(&'static [&'static str], Privileged),
    /// Postgres refuses it with this SQLSTATE.
    Fails(&'static str),
    /// It succeeds.
    Passes,
}

/// Who has the privileges that Postgres asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// Everybody.
    All,
    /// The rebuilt backend, whose table it is.
    Rebuilt,
    /// Legacy, whose table it is.
    Legacy,
    /// Superusers.
    Nobody,
}

impl Privileged {
    fn includes(self, rights: Rights) -> bool {
        match rights {
            Rights::Superuser => true,
            Rights::Legacy => matches!(self, Privileged::All | Privileged::Legacy),
            Rights::Own => matches!(self, Privileged::All | Privileged::Rebuilt),
        }
    }
}

impl Expected {
    /// Refused by this rule, whose privileges everybody has.
    pub const fn refused(rules: &'static [&'static str]) -> Expected {
        Expected::Refused(rules, Privileged::All)
    }

    fn describe(self) -> String {
        match self {
            Expected::Refused(rules, _) => rules.join(" or "),
            Expected::Fails(code) => code.to_owned(),
            Expected::Passes => "success".to_owned(),
        }
    }
}

/// An attempt.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// What it tries.
    pub name: &'static str,
    /// How; `{10}` is a parameter where there can be one.
    pub sql: &'static str,
    kind: Kind,
    expected: Expected,
    impossible: &'static [Path],
}

impl Attempt {
    /// An attempt.
    pub const fn new(kind: Kind, name: &'static str, sql: &'static str, expected: Expected) -> Attempt {
        Attempt { name, sql, kind, expected, impossible: &[] }
    }

    /// It can't take these paths.
    pub const fn not_by(mut self, paths: &'static [Path]) -> Attempt {
        self.impossible = paths;
        self
    }

    fn paths(&self) -> impl Iterator<Item = Path> + '_ {
        self.kind.paths().filter(|path| !self.impossible.contains(path))
    }
}

/// What came of an attempt.
struct Outcome {
    error: Option<Refusal>,
    recorded: Vec<Recorded>,
}

/// What ended otherwise than expected, and along which paths.
#[derive(Default)]
struct Findings {
    made: usize,
    wrong: BTreeMap<(&'static str, String), Vec<Path>>,
}

impl Findings {
    fn tell(&mut self, attempt: &Attempt, path: Path, verdict: Result<(), String>, changed: &[String]) {
        self.made += 1;
        let mut said: Vec<_> = verdict.err().into_iter().collect();
        if !changed.is_empty() {
            said.push(format!("CHANGED, by this path or one before it: {}", changed.join(", ")));
        }
        if !said.is_empty() {
            let what = format!("{}\n    {}", attempt.sql, said.join("; "));
            self.wrong.entry((attempt.name, what)).or_default().push(path);
        }
    }

    fn conclude(self) -> Result<()> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        let line = |((name, what), paths): (&(&str, String), &Vec<Path>)| format!("- {name}: {what}\n    by {paths:?}");
        let lines: Vec<_> = self.wrong.iter().map(line).collect();
        let wrong: usize = self.wrong.values().map(Vec::len).sum();
        bail!("{wrong} of {} ended otherwise than expected:\n{}", self.made, lines.join("\n"));
    }
}

/// Makes all attempts along all their paths; tells of all that ended otherwise than expected at once.
pub fn make(cluster: &Cluster, attempts: &[Attempt]) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let mut findings = Findings::default();
    make_cached(&mut stage, attempts, &mut findings)?;
    let has_dblink = stage.has_dblink;
    for attempt in attempts {
        let mut session = stage.rebuilt()?;
        let statement = Statement::parse(&stage.fill(attempt.sql));
        let to_be_had = |path: &Path| *path != Path::Dblink || has_dblink;
        let mut paths = attempt.paths().filter(to_be_had).peekable();
        while let Some(path) = paths.next() {
            let Some(way) = Way::along(path, attempt.kind, &statement) else { continue };
            let (verdict, ended) = match take(&mut stage, &mut session, &way) {
                Ok(outcome) => (judge(attempt.expected, path, &way, &outcome), outcome.error.is_some()),
                Err(error) => {
                    // What is on record of it is not the next path's.
                    stage.recorded()?;
                    (Err(format!("couldn't be made: {error:#}")), false)
                }
            };
            // Nothing of one path may help or hinder the next, or keep locks on what is looked at now.
            // The client library loses the thread when a COPY is refused before it begins.
            if verdict.is_err() || attempt.kind == Kind::Copy || session.is_closed() {
                session = stage.rebuilt()?;
            }
            // What ended in an error as it should is looked at together with the other paths.
            let look = verdict.is_err() || !ended || paths.peek().is_none();
            let changed = if look { stage.changed() } else { Vec::new() };
            findings.tell(attempt, path, verdict, &changed);
            if !changed.is_empty() {
                // One way is enough to know that the attempt succeeds.
                stage = Stage::set(cluster)?;
                break;
            }
        }
    }
    findings.conclude()
}

/// Plans and functions that were cached while everything was allowed, used when it no longer is.
fn make_cached(stage: &mut Stage, attempts: &[Attempt], findings: &mut Findings) -> Result<()> {
    let cached = |attempt: &&Attempt| attempt.paths().any(|path| path == Path::CachedPlan);
    let attempts: Vec<_> = attempts.iter().filter(cached).collect();
    let mut session = stage.rebuilt()?;
    session.exec("SET plan_cache_mode = force_generic_plan")?;
    stage.operate("SELECT holdfast.set_mode('observe')")?;
    let mut ways = Vec::new();
    for (n, attempt) in attempts.iter().enumerate() {
        let statement = Statement::parse(&stage.fill(attempt.sql));
        let (parameters, arguments) = (statement.parameters(), statement.arguments());
        let body = in_plpgsql(attempt.kind, &statement.parameterised);
        session
            .exec(&format!(
                "PREPARE plan_{n}{parameters} AS {};
                 CREATE FUNCTION pg_temp.function_{n}({}) RETURNS void LANGUAGE plpgsql AS $try$BEGIN {body}; END$try$",
                statement.parameterised,
                parameters.trim_matches(['(', ')'])
            ))
            .context(attempt.sql)?;
        let decisive = [
            (Path::CachedPlan, format!("EXECUTE plan_{n}{arguments}")),
            (Path::CachedExplained, format!("EXPLAIN ANALYZE EXECUTE plan_{n}{arguments}")),
            (Path::CachedFunction, format!("SELECT pg_temp.function_{n}({})", arguments.trim_matches(['(', ')']))),
        ];
        for (path, sql) in decisive {
            // Two that Postgres itself refuses are as cached as others.
            for _ in 0..2 {
                session.exec("BEGIN")?;
                let _ = session.batch_execute(&sql);
                session.exec("ROLLBACK")?;
            }
            ways.push((*attempt, path, Way { decisive: sql, times: 1, ..Way::default() }));
        }
    }
    stage.operate("SELECT holdfast.flush_events(); SELECT holdfast.set_mode('enforce')")?;
    stage.recorded()?;
    // The mode has changed there and back, which the policy's log holds.
    let mut changed = stage.changed();
    changed.retain(|what| !what.starts_with("holdfast.policy_change"));
    if !changed.is_empty() {
        bail!("observing changed {changed:?}");
    }
    stage.baseline = stage.contents()?;
    let mut ways = ways.into_iter().peekable();
    while let Some((attempt, path, way)) = ways.next() {
        let outcome = take(stage, &mut session, &way)?;
        let verdict = judge(attempt.expected, path, &way, &outcome);
        let look = verdict.is_err() || outcome.error.is_none() || ways.peek().is_none();
        let changed = if look { stage.changed() } else { Vec::new() };
        if !changed.is_empty() {
            stage.baseline = stage.contents()?;
        }
        findings.tell(attempt, path, verdict, &changed);
    }
    Ok(())
}

fn take(stage: &mut Stage, session: &mut Session, way: &Way) -> Result<Outcome> {
    if let Some(carrier) = &way.carrier {
        stage.operate(carrier).context("the carrier")?;
    }
    for sql in &way.before {
        session.exec(&stage.fill(sql))?;
    }
    let error = send(stage, session, way)?;
    for sql in &way.after {
        session.exec(&stage.fill(sql))?;
    }
    if let Some(completion) = &way.completion {
        stage.operate(completion)?;
    }
    Ok(Outcome { error, recorded: stage.recorded()? })
}

/// Sends what decides; the server's error, if it has one.
fn send(stage: &mut Stage, session: &mut Session, way: &Way) -> Result<Option<Refusal>> {
    let result = match &way.protocol {
        Protocol::Simple => session.batch_execute(&way.decisive),
        Protocol::Extended(None) => session.execute(&way.decisive, &[]).map(drop),
        Protocol::Extended(Some(argument)) => session.query_typed(&way.decisive, &[(argument, Type::INT4)]).map(drop),
        Protocol::CopyOut => return copy_out(session, &way.decisive),
        Protocol::CopyIn(query) => {
            let mut rows = Vec::new();
            stage.observer.copy_out(query)?.read_to_end(&mut rows)?;
            session.copy_in(&way.decisive).and_then(|mut writer| {
                // What the server thinks of it, it says at the end.
                let _ = writer.write_all(&rows);
                writer.finish().map(drop)
            })
        }
    };
    refusal_or(result.map_err(anyhow::Error::from))
}

/// COPY ... TO STDOUT, whose error may come before the first row or after it.
fn copy_out(session: &mut Session, sql: &str) -> Result<Option<Refusal>> {
    let result = match session.copy_out(sql) {
        Ok(mut reader) => reader.read_to_end(&mut Vec::new()).map(drop).map_err(|error| match error.downcast() {
            Ok::<postgres::Error, _>(cause) => cause.into(),
            Err(error) => error.into(),
        }),
        Err(error) => Err(error.into()),
    };
    refusal_or(result)
}

/// Tells what the server said from what went wrong otherwise.
fn refusal_or(result: Result<()>) -> Result<Option<Refusal>> {
    match result {
        Ok(()) => Ok(None),
        Err(error) => Refusal::of(&error).map(Some).ok_or(error),
    }
}

fn judge(expected: Expected, path: Path, way: &Way, outcome: &Outcome) -> Result<(), String> {
    let rules: Vec<_> = outcome.recorded.iter().map(|event| event.rule.as_str()).collect();
    let refused_by = |allowed: &[&str]| {
        let on_record = rules.len() == way.times && rules.iter().all(|rule| allowed.contains(rule));
        let as_told = match (&outcome.error, outcome.recorded.first()) {
            (Some(error), Some(event)) => {
                error.code == event.sqlstate
                    && (!path.keeps_fields() || error.constraint.as_deref() == Some(&*event.rule))
            }
            (None, _) => way.swallowed,
            _ => false,
        };
        on_record && as_told
    };
    let fails_with = |code: &str| match &outcome.error {
        Some(error) => rules.is_empty() && error.code == code,
        None => rules.is_empty() && way.swallowed,
    };
    let as_expected = match expected {
        Expected::Refused(allowed, privileged) => {
            refused_by(allowed) || !privileged.includes(path.rights()) && fails_with("42501")
        }
        Expected::Fails(code) => fails_with(code),
        Expected::Passes => outcome.error.is_none() && rules.is_empty(),
    };
    if as_expected {
        return Ok(());
    }
    let told = match &outcome.error {
        Some(error) => format!("{} {}", error.code, error.message),
        None => "success".to_owned(),
    };
    Err(format!("expected {}, got {told}, recorded {rules:?}", expected.describe()))
}
