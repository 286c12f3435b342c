//! Figures for people and for machines.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::arena::Scale;
use super::contender::Contender;
use super::machine::Machine;
use super::rounds::{Outcome, Summary, Verdict};
use super::workload::Bound;

/// All that a run came to.
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What of.
    pub scale: Scale,
    /// How many rounds counted, and how long a turn of pgbench took.
    pub rounds: usize,
    /// In seconds.
    pub seconds: u64,
    /// What.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Markdown: who was compared, the comparison, what isn't one, the budget.
    pub fn markdown(&self) -> String {
        let parts = [self.notes(), self.legend(), self.comparison(), self.alone(), self.budget()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn notes(&self) -> String {
        let settings: Vec<_> = self.scale.settings().map(|(name, value)| format!("`{name} = {value}`")).collect();
        format!(
            "Measured at commit {} by `cargo pg-bench` on {}.\n\
             Up to {} rounds of turns ({} s each where pgbench sets the pace), tables of {} rows, settings {}; `fsync = off` but for \
             what is called durable. Medians; in brackets the middle half of the rounds.\n",
            self.machine.commit,
            self.machine.sentence(),
            self.rounds,
            self.seconds,
            self.scale.rows,
            settings.join(", "),
        )
    }

    fn contenders(&self) -> Vec<Contender> {
        let takes_part = |c: &Contender| self.outcomes.iter().any(|outcome| outcome.values.contains_key(c));
        Contender::all().iter().copied().filter(takes_part).collect()
    }

    fn legend(&self) -> String {
        let mut text = String::from("| contender | is |\n|---|---|\n");
        for contender in self.contenders() {
            // Writing to a String can't fail, here and below.
            let _ = writeln!(text, "| {} | {} |", contender.name(), contender.description());
        }
        text
    }

    fn comparison(&self) -> String {
        let compared = |outcome: &&Outcome| outcome.values.len() > 1 && outcome.baseline() == Some(Contender::None);
        let outcomes: Vec<_> = self.outcomes.iter().filter(compared).collect();
        let others: Vec<_> = self.contenders().into_iter().filter(|c| *c != Contender::None).collect();
        if outcomes.is_empty() {
            return String::new();
        }
        let names: Vec<_> = others.iter().map(|c| c.name()).collect();
        let mut text = format!("| work | none | {} |\n|---|---:|{}\n", names.join(" | "), "---:|".repeat(others.len()));
        for outcome in outcomes {
            for (place, figure) in outcome.workload.figures.iter().enumerate() {
                let Some(none) = outcome.figure(Contender::None, place) else { continue };
                let _ = write!(text, "| {} | {} {} |", title(outcome, place), number(none.median), figure.unit);
                for contender in &others {
                    let ratio = outcome.ratio(*contender, Contender::None, place);
                    let _ = write!(
                        text,
                        " {} |",
                        ratio.map_or_else(String::new, |ratio| format!("{} ×", spread(ratio, 2)))
                    );
                }
                text.push('\n');
            }
        }
        text
    }

    fn alone(&self) -> String {
        let alone: Vec<_> = self.outcomes.iter().filter(|o| o.baseline() != Some(Contender::None)).collect();
        if alone.is_empty() {
            return String::new();
        }
        let mut text = String::from("| work | contender | |\n|---|---|---:|\n");
        for outcome in alone {
            for contender in outcome.values.keys() {
                for (place, figure) in outcome.workload.figures.iter().enumerate() {
                    let Some(summary) = outcome.figure(*contender, place) else { continue };
                    let digits = if summary.median < 10.0 { 2 } else { 0 };
                    let (title, name) = (title(outcome, place), contender.name());
                    let _ = writeln!(text, "| {title} | {name} | {} {} |", spread(summary, digits), figure.unit);
                }
            }
        }
        text
    }

    /// The verdicts, the workload's title with each.
    pub fn verdicts(&self) -> Vec<(String, Verdict)> {
        let of = |outcome: &Outcome| {
            let titled = |verdict: Verdict| (title(outcome, verdict.budget.figure), verdict);
            outcome.verdicts().into_iter().map(titled).collect::<Vec<_>>()
        };
        self.outcomes.iter().flat_map(of).collect()
    }

    fn budget(&self) -> String {
        let verdicts = self.verdicts();
        if verdicts.is_empty() {
            return String::new();
        }
        let mut text = String::from("| budget | contender | limit | measured | |\n|---|---|---:|---:|---|\n");
        for (title, verdict) in verdicts {
            let budget = verdict.budget;
            let whom = match budget.against {
                Some(against) => format!("{} : {}", budget.contender.name(), against.name()),
                None => budget.contender.name().to_owned(),
            };
            let limit = match budget.bound {
                Bound::AtLeast(least) => format!("≥ {least}"),
                Bound::AtMost(most) => format!("≤ {most}"),
            };
            let kept = if verdict.is_kept() { "kept" } else { "**not kept**" };
            let _ = writeln!(text, "| {title} | {whom} | {limit} | {} | {kept} |", spread(verdict.measured, 3));
        }
        text
    }

    /// JSON: everything, each round's values included.
    pub fn json(&self) -> Value {
        let settings: Map<String, Value> = self.scale.settings().map(|(n, v)| (n.to_owned(), json!(v))).collect();
        let workloads: Vec<Value> = self.outcomes.iter().map(workload).collect();
        json!({
            "machine": self.machine.json(), "rounds": self.rounds, "seconds": self.seconds,
            "rows": self.scale.rows, "settings": settings, "workloads": workloads,
        })
    }
}

fn workload(outcome: &Outcome) -> Value {
    let figures: Vec<_> = outcome.workload.figures.iter().map(|f| json!({"of": f.of, "unit": f.unit})).collect();
    let contenders: Map<String, Value> =
        outcome.values.iter().map(|(c, rounds)| (c.name().to_owned(), json!(rounds))).collect();
    let budget: Vec<_> = outcome
        .verdicts()
        .iter()
        .map(|v| json!({"contender": v.budget.contender.name(), "measured": v.measured.median, "kept": v.is_kept()}))
        .collect();
    json!({"name": outcome.workload.name, "figures": figures, "rounds": contenders, "budget": budget})
}

fn title(outcome: &Outcome, figure: usize) -> String {
    match outcome.workload.figures.get(figure).map_or("", |figure| figure.of) {
        "" => outcome.workload.title.to_owned(),
        of => format!("{}: {of}", outcome.workload.title),
    }
}

fn spread(summary: Summary, digits: usize) -> String {
    let Summary { median, low, high } = summary;
    if low == high {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}
