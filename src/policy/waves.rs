//! Waves: tenants that are moved together, canaries first, and then watched for a while. What state follows which, and when
//! a wave must stop.
//!
//! planned → moving → soaking → passed; where there are canaries they move and soak first, and the wave is moving again for the
//! rest. Whatever passes a limit makes it halting until the offending tenants are dealt with, then halted; from there
//! somebody lets it go on, or ends it.

use std::fmt;
use std::str::FromStr;

use super::backend::UnknownWord;

/// How often a tenant that can't be had is tried by one CALL.
pub const TRIES: i32 = 3;

/// Where a wave stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has happened yet.
    Planned,
    /// Tenants move.
    Moving,
    /// They have moved and are watched.
    Soaking,
    /// A limit was passed; offending tenants are being dealt with.
    Halting,
    /// They are. Somebody must decide.
    Halted,
    /// All is well.
    Passed,
    /// Somebody has ended it.
    Aborted,
}

impl State {
    /// Every state, in the order of a wave's life.
    pub const ALL: [State; 7] =
        [State::Planned, State::Moving, State::Soaking, State::Halting, State::Halted, State::Passed, State::Aborted];

    /// The word used in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Moving => "moving",
            State::Soaking => "soaking",
            State::Halting => "halting",
            State::Halted => "halted",
            State::Passed => "passed",
            State::Aborted => "aborted",
        }
    }

    /// Whether the worker must look after it.
    pub fn is_watched(self) -> bool {
        matches!(self, State::Moving | State::Soaking | State::Halting)
    }

    /// Whether the next wave may start.
    pub fn is_over(self) -> bool {
        matches!(self, State::Passed | State::Aborted)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        State::ALL.into_iter().find(|state| state.as_str() == word).ok_or(UnknownWord)
    }
}

/// What is done to a tenant whose client does too much wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// Nobody writes it until somebody has looked.
    Freeze,
    /// It goes back to its previous owner.
    Rollback,
}

impl OnViolation {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "freeze, rollback";
}

impl FromStr for OnViolation {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "freeze" => Ok(OnViolation::Freeze),
            "rollback" => Ok(OnViolation::Rollback),
            _ => Err(UnknownWord),
        }
    }
}

/// Why a wave can't be run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// An earlier one isn't over.
    Behind {
        /// Its name.
        wave: String,
        /// Where it stands.
        state: State,
    },
    /// Its tenants soak.
    Soaking,
    /// It was halted.
    Halted,
    /// It is over.
    Over,
}

/// Whether a wave may be run. `before` are the waves that were added earlier.
///
/// # Errors
/// Why not.
pub fn may_run(state: State, before: &[(String, State)]) -> Result<(), NotNow> {
    match state {
        State::Planned => match before.iter().find(|(_, state)| !state.is_over()) {
            Some((wave, state)) => Err(NotNow::Behind { wave: wave.clone(), state: *state }),
            None => Ok(()),
        },
        State::Moving => Ok(()),
        State::Soaking => Err(NotNow::Soaking),
        State::Halting | State::Halted => Err(NotNow::Halted),
        State::Passed | State::Aborted => Err(NotNow::Over),
    }
}

/// What is left of a stage when no tenant could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where the wave stands.
    pub state: State,
    /// Tenants that haven't moved.
    pub waiting: i64,
    /// Those of them that this CALL hasn't tried, and can't, as others are at them.
    pub untried: i64,
    /// Those of them that this CALL should try again in a moment.
    pub again: i64,
}

/// How a CALL goes on when there is no tenant to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// All have moved: they soak from now on.
    Soak,
    /// It waits a moment.
    Wait,
    /// Others see to the rest.
    LeaveToOthers,
    /// It has tried the rest often enough.
    GiveUp,
    /// The wave isn't moving any more.
    Stop,
}

/// Decides it.
pub fn next(left: &Left) -> Next {
    match left {
        Left { state, .. } if *state != State::Moving => Next::Stop,
        Left { waiting: 0, .. } => Next::Soak,
        Left { again: 1.., .. } => Next::Wait,
        Left { untried: 1.., .. } => Next::LeaveToOthers,
        _ => Next::GiveUp,
    }
}

/// How much a tenant's client may do wrong; and how much it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// What it was refused, or would have been.
    pub refusals: i64,
    /// Rows that break an invariant.
    pub invariant_violations: i64,
    /// Reads that differ between the backends.
    pub parity_mismatches: i64,
}

impl Wrongs {
    /// What of `self` is more than `limits` allow, as a phrase; none if nothing is.
    pub fn beyond(&self, limits: &Wrongs) -> Option<String> {
        let kinds = [
            (self.refusals, limits.refusals, "refusal"),
            (self.invariant_violations, limits.invariant_violations, "invariant violation"),
            (self.parity_mismatches, limits.parity_mismatches, "parity mismatch"),
        ];
        let beyond = kinds.into_iter().filter(|(number, limit, _)| number > limit);
        let told: Vec<String> = beyond
            .map(|(number, limit, kind)| {
                let plural = match (number, kind.ends_with("ch")) {
                    (1, _) => "",
                    (_, true) => "es",
                    (_, false) => "s",
                };
                format!("{number} {kind}{plural}, {limit} allowed")
            })
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// A tenant of a wave, or no tenant, and what its client did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// None: of these things nobody can tell the tenant.
    pub tenant: Option<String>,
    /// What was counted.
    pub wrongs: Wrongs,
}

/// What becomes of a wave that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It is halted.
    Halt {
        /// Why, for the wave.
        reason: String,
        /// The tenants to be dealt with, each with what its client did. Others keep their state.
        offenders: Vec<(String, String)>,
    },
    /// The soak is over: whoever isn't a canary may move.
    MoveRest,
    /// The soak is over, and so is the wave.
    Pass,
    /// Nothing before this time, if there is one.
    GoOn(Option<i64>),
}

/// Looks at a wave. `soaks_until`: if it soaks; `rest`: whether there are tenants that haven't had their turn.
pub fn watch(limits: &Wrongs, watched: &[Watched], soaks_until: Option<i64>, rest: bool, now: i64) -> Outlook {
    let mut offenders = Vec::new();
    let mut reasons = Vec::new();
    for Watched { tenant, wrongs } in watched {
        match (wrongs.beyond(limits), tenant) {
            (Some(what), Some(tenant)) => {
                reasons.push(format!("tenant \"{tenant}\": {what}"));
                offenders.push((tenant.clone(), what));
            }
            (Some(what), None) => reasons.push(format!("statements that name no tenant: {what}")),
            (None, _) => {}
        }
    }
    if !reasons.is_empty() {
        // One line of a log: of hundreds, the first few tell enough.
        let (shown, more) = (reasons.len().min(5), reasons.len().saturating_sub(5));
        let mut reason = reasons[..shown].join("; ");
        if more > 0 {
            reason.push_str(&format!("; and {more} more"));
        }
        return Outlook::Halt { reason, offenders };
    }
    match soaks_until {
        Some(until) if until > now => Outlook::GoOn(Some(until)),
        Some(_) if rest => Outlook::MoveRest,
        Some(_) => Outlook::Pass,
        None => Outlook::GoOn(None),
    }
}

/// How a CALL tells of its progress: neither a line for each tenant of thousands nor silence for an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    told_at: i64,
    told: i64,
}

impl Pace {
    /// At most one line in this time, in microseconds.
    const SECOND: i64 = 1_000_000;

    /// A CALL begins.
    pub fn begin(now: i64) -> Pace {
        Pace { told_at: now, told: 0 }
    }

    /// Whether to tell that so many of `all` are done: every twentieth part, or every ten seconds.
    pub fn is_due(&mut self, done: i64, all: i64, now: i64) -> bool {
        let waited = now - self.told_at;
        let due = waited >= Self::SECOND && (done - self.told) * 20 >= all || waited >= 10 * Self::SECOND;
        if due {
            *self = Pace { told_at: now, told: done };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for word in OnViolation::NAMES.split(", ") {
            assert!(word.parse::<OnViolation>().is_ok());
        }
        assert_eq!("done".parse::<State>(), Err(UnknownWord));
    }

    #[test]
    fn a_wave_runs_when_the_waves_before_it_are_over() {
        let behind = |wave: &str, state| Err(NotNow::Behind { wave: wave.to_owned(), state });
        let cases = [
            (State::Planned, vec![], Ok(())),
            (State::Planned, vec![("a", State::Passed), ("b", State::Aborted)], Ok(())),
            (State::Planned, vec![("a", State::Passed), ("b", State::Soaking)], behind("b", State::Soaking)),
            (State::Planned, vec![("a", State::Halted)], behind("a", State::Halted)),
            // One that has begun goes on.
            (State::Moving, vec![("a", State::Halted)], Ok(())),
            (State::Soaking, vec![], Err(NotNow::Soaking)),
            (State::Halting, vec![], Err(NotNow::Halted)),
            (State::Halted, vec![], Err(NotNow::Halted)),
            (State::Passed, vec![], Err(NotNow::Over)),
            (State::Aborted, vec![], Err(NotNow::Over)),
        ];
        for (state, before, expected) in cases {
            let before: Vec<_> = before.into_iter().map(|(wave, state)| (wave.to_owned(), state)).collect();
            assert_eq!(may_run(state, &before), expected, "{state} after {before:?}");
        }
    }

    #[test]
    fn the_soak_begins_when_nobody_is_left() {
        let cases = [
            ((State::Moving, 0, 0, 0), Next::Soak),
            ((State::Moving, 3, 0, 1), Next::Wait),
            ((State::Moving, 3, 2, 1), Next::Wait),
            ((State::Moving, 3, 2, 0), Next::LeaveToOthers),
            ((State::Moving, 3, 0, 0), Next::GiveUp),
            ((State::Halted, 3, 0, 3), Next::Stop),
            ((State::Soaking, 0, 0, 0), Next::Stop),
        ];
        for ((state, waiting, untried, again), expected) in cases {
            assert_eq!(next(&Left { state, waiting, untried, again }), expected, "{state} {waiting} {untried} {again}");
        }
    }

    fn watched(tenant: Option<&str>, refusals: i64) -> Watched {
        Watched { tenant: tenant.map(str::to_owned), wrongs: Wrongs { refusals, ..Wrongs::default() } }
    }

    #[test]
    fn a_limit_is_each_tenants_and_a_halt_names_the_offenders_alone() {
        let limits = Wrongs { refusals: 2, ..Wrongs::default() };
        let halt = |reason: &str, offenders: &[(&str, &str)]| Outlook::Halt {
            reason: reason.to_owned(),
            offenders: offenders.iter().map(|(t, w)| ((*t).to_owned(), (*w).to_owned())).collect(),
        };
        let cases = [
            (vec![], Outlook::GoOn(Some(100))),
            (vec![watched(Some("1"), 2), watched(Some("2"), 2)], Outlook::GoOn(Some(100))),
            (
                vec![watched(Some("1"), 2), watched(Some("2"), 3)],
                halt("tenant \"2\": 3 refusals, 2 allowed", &[("2", "3 refusals, 2 allowed")]),
            ),
            (vec![watched(None, 3)], halt("statements that name no tenant: 3 refusals, 2 allowed", &[])),
        ];
        for (counted, expected) in cases {
            assert_eq!(watch(&limits, &counted, Some(100), false, 50), expected, "{counted:?}");
        }
    }

    #[test]
    fn a_soak_ends_at_its_time() {
        let cases = [
            (None, false, Outlook::GoOn(None)),
            (Some(101), true, Outlook::GoOn(Some(101))),
            (Some(100), true, Outlook::MoveRest),
            (Some(100), false, Outlook::Pass),
        ];
        for (until, rest, expected) in cases {
            assert_eq!(watch(&Wrongs::default(), &[], until, rest, 100), expected, "{until:?} {rest}");
        }
    }

    #[test]
    fn a_reason_is_a_line() {
        let wrongs = Wrongs { refusals: 1, invariant_violations: 2, parity_mismatches: 3 };
        let told = "1 refusal, 0 allowed; 2 invariant violations, 0 allowed; 3 parity mismatches, 0 allowed";
        assert_eq!(wrongs.beyond(&Wrongs::default()).as_deref(), Some(told));
        let many: Vec<_> = (0..8).map(|n| watched(Some(&n.to_string()), 1)).collect();
        let outlook = watch(&Wrongs::default(), &many, None, false, 0);
        let halted = |reason: &str, offenders: usize| reason.ends_with("; and 3 more") && offenders == 8;
        assert!(
            matches!(&outlook, Outlook::Halt { reason, offenders } if halted(reason, offenders.len())),
            "{outlook:?}"
        );
    }

    #[test]
    fn progress_is_told_now_and_then() {
        let mut pace = Pace::begin(0);
        let second = 1_000_000;
        let cases = [
            (1, 100, second / 2, false),
            (5, 100, second, true),
            (9, 100, 3 * second, false),
            (10, 100, 3 * second, true),
            (11, 100, 12 * second, false),
            (11, 100, 13 * second, true),
        ];
        for (done, all, now, expected) in cases {
            assert_eq!(pace.is_due(done, all, now), expected, "{done} of {all} at {now}");
        }
    }
}
