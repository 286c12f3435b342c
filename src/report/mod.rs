//! The page that `report_html()` gives: where the migration stands, for a DBA and for a manager. Facts in, HTML out; what the
//! facts are, `api/report.sql` says.
//!
//! One file without anything from elsewhere. The template escapes whatever it is given, and [`Text`] cuts and cleans what users
//! may have supplied; the page's own policy forbids scripts and requests on top of that.

mod chart;
mod text;

use askama::Template;
use serde::Deserialize;

use text::Text;

/// What the page tells.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The database's name.
    database: Text,
    /// When, in words.
    written_at: String,
    /// The server's version.
    server_version: String,
    /// The extension's.
    version: String,
    /// None before the first policy.
    migration: Option<Migration>,
    /// Modes of backends and rules that differ from the migration's.
    exceptions: List<Exception>,
    /// Who owns tenants that are listed.
    owners: List<Owner>,
    /// Tenants that the default owner doesn't own any more.
    moved: i64,
    /// How that came about, in steps of equal length.
    moves: Vec<Moves>,
    /// Those that aren't over, then the latest that are.
    waves: List<Wave>,
    /// The time that refusals are counted for, in words.
    counted_since: String,
    /// Refusals by rule, most frequent first.
    rules: List<Rule>,
    /// Refusals as time went by, in steps of equal length.
    refusals: Vec<Refusals>,
    /// What was refused most.
    frequent: List<Frequent>,
    /// What `coverage` finds.
    findings: List<Finding>,
    /// What `check_setup` finds.
    setup: List<SetUp>,
    /// The newest entries of the policy log.
    log: List<Entry>,
}

/// The first of many.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    first: Vec<T>,
    total: usize,
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List { first: Vec::new(), total: 0 }
    }
}

impl<T> List<T> {
    fn more(&self) -> usize {
        self.total.saturating_sub(self.first.len())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migration {
    phase: String,
    mode: String,
    begun_on: Option<String>,
    ends_on: Option<String>,
    days_left: Option<i64>,
    default_owner: Option<Text>,
}

impl Migration {
    fn end(&self) -> String {
        match self.days_left {
            None => String::new(),
            Some(0) => "ends today".to_owned(),
            Some(1) => "1 day left".to_owned(),
            Some(days @ 2..) => format!("{days} days left"),
            Some(-1) => "over since yesterday".to_owned(),
            Some(days) => format!("over for {} days", days.saturating_neg()),
        }
    }

    fn is_urgent(&self) -> bool {
        self.days_left.is_some_and(|days| days < 14)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    backend: Option<Text>,
    rule: Option<Text>,
    mode: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    owner: Text,
    trust: Option<String>,
    tenants: i64,
    frozen: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moves {
    at: String,
    cutovers: i64,
    rollbacks: i64,
    /// Tenants that the default owner doesn't own any more.
    moved: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wave {
    wave: Text,
    to_backend: Text,
    state: String,
    tenants: i64,
    percent: Option<i64>,
    moved: i64,
    waiting: i64,
    skipped: i64,
    /// Frozen, or handed back.
    stopped: i64,
    reason: Option<Text>,
}

impl Wave {
    /// Its state, as a severity has it.
    fn severity(&self) -> &'static str {
        match self.state.as_str() {
            "halting" | "halted" => "error",
            "aborted" => "warning",
            _ => "notice",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    rule: String,
    refused: i64,
    observed: i64,
    in_break_glass: i64,
    last_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusals {
    at: String,
    refused: i64,
    observed: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frequent {
    backend: Option<Text>,
    rule: String,
    relation: Option<Text>,
    occurrences: i64,
    last_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    relation: Text,
    class: String,
    finding: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetUp {
    severity: String,
    finding: String,
    detail: Text,
    hint: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    at: String,
    changed_by: Text,
    what: String,
    object: Option<Text>,
    old: Option<Text>,
    new: Option<Text>,
    application_name: Option<Text>,
    client_addr: Option<String>,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    facts: &'a Facts,
    refused: i64,
    observed: i64,
    /// Of the most frequent rule: what a bar of full width stands for.
    most: i64,
    moves_chart: Option<String>,
    refusals_chart: Option<String>,
}

impl Page<'_> {
    /// The newest steps in which something happened, and how many more there are.
    fn recent<T>(steps: &[T], happened: impl Fn(&T) -> bool) -> (Vec<&T>, usize) {
        let mut recent: Vec<&T> = steps.iter().rev().filter(|step| happened(step)).collect();
        let more = recent.len().saturating_sub(STEPS);
        recent.truncate(STEPS);
        (recent, more)
    }

    fn recent_moves(&self) -> (Vec<&Moves>, usize) {
        Page::recent(&self.facts.moves, |step| step.cutovers + step.rollbacks > 0)
    }

    fn recent_refusals(&self) -> (Vec<&Refusals>, usize) {
        Page::recent(&self.facts.refusals, |step| step.refused + step.observed > 0)
    }

    /// How long a bar is, in percent.
    fn share(&self, rule: &Rule) -> i64 {
        (rule.refused + rule.observed + rule.in_break_glass).saturating_mul(100) / self.most.max(1)
    }
}

/// How many steps of a chart its table has.
const STEPS: usize = 12;

/// The page.
///
/// # Errors
/// When the template can't be filled, which a `String` never refuses.
pub fn render(facts: &Facts) -> Result<String, askama::Error> {
    let sum = |of: fn(&Rule) -> i64| facts.rules.first.iter().map(of).sum();
    let total = |rule: &Rule| rule.refused + rule.observed + rule.in_break_glass;
    let any_move = facts.moves.iter().any(|step| step.cutovers + step.rollbacks > 0);
    let any_refusal = facts.refusals.iter().any(|step| step.refused + step.observed > 0);
    Page {
        facts,
        refused: sum(|rule| rule.refused),
        observed: sum(|rule| rule.observed),
        most: facts.rules.first.iter().map(total).max().unwrap_or(0),
        moves_chart: any_move.then(|| chart::moves(&facts.moves)).flatten(),
        refusals_chart: any_refusal.then(|| chart::refusals(&facts.refusals)).flatten(),
    }
    .render()
}

#[cfg(test)]
mod tests;
