//! What came of all statements.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};

/// The rules whose refusals random statements must run into. One that stays away says that the fuzzer has gone blind.
const EXPECTED: [&str; 12] =
    ["WG001", "WG002", "WG003", "WG010", "WG011", "WG012", "WG013", "WG014", "WG015", "WG016", "WG022", "WG023"];

/// So long it takes until each has come up.
const LONG_ENOUGH: Duration = Duration::from_secs(300);

/// Counts of what was sent and of what came of it.
#[derive(Default)]
pub struct Tally {
    /// Databases that were played on.
    pub rounds: u64,
    /// How often the oracle looked.
    pub looks: u64,
    /// sqlsmith's queries; none where it isn't installed.
    pub random: Option<u64>,
    passed: u64,
    codes: BTreeMap<String, u64>,
}

impl Tally {
    /// A statement that succeeded.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// A statement that failed, with its SQLSTATE.
    pub fn fail(&mut self, code: &str) {
        *self.codes.entry(code.to_owned()).or_default() += 1;
    }

    /// All statements.
    pub fn statements(&self) -> u64 {
        self.passed + self.codes.values().sum::<u64>()
    }

    /// Each rule has refused something, if there was time enough.
    pub fn ensure_complete(&self, time: Duration) -> Result<()> {
        let missing: Vec<_> = EXPECTED.into_iter().filter(|code| !self.codes.contains_key(*code)).collect();
        ensure!(time < LONG_ENOUGH || missing.is_empty(), "no statement was refused with {}", missing.join(", "));
        Ok(())
    }

    fn of(&self, refusals: bool) -> (u64, String) {
        let codes = || self.codes.iter().filter(|(code, _)| code.starts_with("WG") == refusals);
        let each: Vec<String> = codes().map(|(code, count)| format!("{code} {count}")).collect();
        (codes().map(|(_, count)| count).sum(), each.join(", "))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((refused, rules), (failed, errors)) = (self.of(true), self.of(false));
        writeln!(
            f,
            "{} rounds, {} statements, {} looks at what must not change",
            self.rounds,
            self.statements(),
            self.looks
        )?;
        writeln!(f, "passed: {}", self.passed)?;
        writeln!(f, "refused: {refused} ({rules})")?;
        writeln!(f, "failed for reasons of Postgres's own: {failed} ({errors})")?;
        match self.random {
            Some(queries) => write!(f, "sqlsmith: {queries} queries"),
            None => write!(f, "sqlsmith isn't installed; its part was left out (apt-get install sqlsmith)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_never_refuses_is_missed_after_a_while() {
        let mut tally = Tally::default();
        for code in EXPECTED.into_iter().skip(1) {
            tally.fail(code);
        }
        assert!(tally.ensure_complete(Duration::from_secs(60)).is_ok());
        assert!(tally.ensure_complete(LONG_ENOUGH).is_err());
        tally.fail(EXPECTED[0]);
        assert!(tally.ensure_complete(LONG_ENOUGH).is_ok());
    }
}
