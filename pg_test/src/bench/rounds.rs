//! Turns of all contenders, round after round, so that each meets the same machine; and what they come to.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use statrs::statistics::{Data, OrderStatistics};

use super::Bench;
use super::contender::Contender;
use super::workload::{Budget, Turns, Workload};
use crate::ui::Step;

/// What a workload's rounds came to.
pub struct Outcome {
    /// The workload.
    pub workload: &'static Workload,
    /// For each contender, for each round, a value for each figure.
    pub values: BTreeMap<Contender, Vec<Vec<f64>>>,
}

/// A number, and within which bounds the middle half of its rounds was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The lower quartile.
    pub low: f64,
    /// The upper quartile.
    pub high: f64,
}

impl Summary {
    fn of(values: Vec<f64>) -> Summary {
        let mut data = Data::new(values);
        Summary { median: data.median(), low: data.lower_quartile(), high: data.upper_quartile() }
    }
}

/// How a budget was kept.
pub struct Verdict {
    /// The budget.
    pub budget: Budget,
    /// What it bounds.
    pub measured: Summary,
}

impl Verdict {
    /// Whether it was.
    pub fn is_kept(&self) -> bool {
        self.budget.bound.is_kept_by(self.measured.median)
    }
}

/// Lets contenders take turns. The first round warms up and doesn't count, unless it is all there is time for.
pub fn run(bench: &Bench, workload: &'static Workload, step: &Step) -> Result<Outcome> {
    let there: Vec<Contender> = bench.arena.contenders().collect();
    let contenders: Vec<_> = workload.contenders.iter().copied().filter(|c| there.contains(c)).collect();
    let (warm_up, rounds) = match (bench.course.quick, workload.turns) {
        (true, _) => (0, 1 + usize::from(!workload.budget.is_empty() && contenders.len() > 1)),
        (false, Turns::Many) => (1, bench.course.rounds),
        (false, Turns::Few) => (1, bench.course.rounds.div_ceil(2)),
        (false, Turns::One) => (0, 1),
    };
    let mut values: BTreeMap<Contender, Vec<Vec<f64>>> = BTreeMap::new();
    for round in 0..warm_up + rounds {
        for contender in &contenders {
            step.note(&format!("{}: round {} of {}, {}", workload.name, round + 1, warm_up + rounds, contender.name()));
            let value = (workload.turn)(bench, *contender)
                .with_context(|| format!("{} by {}", workload.name, contender.name()))?;
            if round >= warm_up {
                values.entry(*contender).or_default().push(value);
            }
        }
    }
    Ok(Outcome { workload, values })
}

impl Outcome {
    /// The one with which the others are compared.
    pub fn baseline(&self) -> Option<Contender> {
        self.workload.contenders.first().copied().filter(|first| self.values.contains_key(first))
    }

    /// A contender's figure.
    pub fn figure(&self, contender: Contender, figure: usize) -> Option<Summary> {
        Some(Summary::of(self.column(contender, figure)?))
    }

    /// A contender's figure relative to another's in the same round.
    pub fn ratio(&self, contender: Contender, against: Contender, figure: usize) -> Option<Summary> {
        let (ours, theirs) = (self.column(contender, figure)?, self.column(against, figure)?);
        Some(Summary::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect()))
    }

    /// The workload's budget, as far as those are there whom it is about.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |budget: &Budget| {
            let measured = match budget.against {
                Some(against) => self.ratio(budget.contender, against, budget.figure)?,
                None => self.figure(budget.contender, budget.figure)?,
            };
            Some(Verdict { budget: *budget, measured })
        };
        self.workload.budget.iter().filter_map(verdict).collect()
    }

    fn column(&self, contender: Contender, figure: usize) -> Option<Vec<f64>> {
        let rounds = self.values.get(&contender)?;
        rounds.iter().map(|round| round.get(figure).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::WORKLOADS;

    #[test]
    fn ratios_are_of_the_same_round() {
        let rounds = |values: [f64; 3]| values.map(|value| vec![value]).to_vec();
        let values = BTreeMap::from([
            (Contender::None, rounds([100.0, 200.0, 400.0])),
            (Contender::Legacy, rounds([90.0, 180.0, 360.0])),
        ]);
        let outcome = Outcome { workload: &WORKLOADS[0], values };
        let ratio = outcome.ratio(Contender::Legacy, Contender::None, 0);
        assert_eq!(ratio, Some(Summary { median: 0.9, low: 0.9, high: 0.9 }));
        assert_eq!(outcome.figure(Contender::None, 0).map(|f| f.median), Some(200.0));
        let kept: Vec<_> = outcome.verdicts().iter().map(Verdict::is_kept).collect();
        assert_eq!(kept, [false]);
    }
}
