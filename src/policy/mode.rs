//! Whether a broken rule is ignored, recorded or refused.

use std::fmt;
use std::str::FromStr;

use super::backend::UnknownWord;
use super::rules::Rule;

/// What happens when a rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    #[default]
    Off,
    /// An event is recorded; the statement goes on.
    Observe,
    /// An event is recorded, then the statement is refused.
    Enforce,
}

impl Mode {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "off, observe, enforce";

    /// The word used in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "off" => Ok(Mode::Off),
            "observe" => Ok(Mode::Observe),
            "enforce" => Ok(Mode::Enforce),
            _ => Err(UnknownWord),
        }
    }
}

/// An exception from the global mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The backend it is for; none = every backend.
    pub backend: Option<String>,
    /// The rule it is for; none = every rule.
    pub rule: Option<Rule>,
    /// The mode there.
    pub mode: Mode,
}

/// The global mode and its exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Where no override applies.
    pub global: Mode,
    /// The exceptions, in any order.
    pub overrides: Vec<Override>,
}

impl Modes {
    /// The mode of `rule` for `backend`. The most specific setting wins: backend and rule, rule, backend, global.
    pub fn of(&self, backend: Option<&str>, rule: Rule) -> Mode {
        let specificity = |o: &&Override| (o.rule.is_some(), o.backend.is_some());
        self.concerning(backend)
            .filter(|o| o.rule.is_none_or(|r| r == rule))
            .max_by_key(specificity)
            .map_or(self.global, |o| o.mode)
    }

    /// The mode for `backend` of rules that have no setting of their own.
    pub fn general(&self, backend: Option<&str>) -> Mode {
        let settings = self.concerning(backend).filter(|o| o.rule.is_none());
        settings.max_by_key(|o| o.backend.is_some()).map_or(self.global, |o| o.mode)
    }

    /// Whether no rule at all is on for `backend`, so that its writes need not be looked at.
    pub fn all_off(&self, backend: Option<&str>) -> bool {
        self.general(backend) == Mode::Off
            && self.concerning(backend).filter(|o| o.rule.is_some()).all(|o| o.mode == Mode::Off)
    }

    fn concerning<'a>(&'a self, backend: Option<&str>) -> impl Iterator<Item = &'a Override> {
        self.overrides.iter().filter(move |o| o.backend.as_deref().is_none_or(|b| Some(b) == backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(backend: Option<&str>, rule: Option<Rule>, mode: Mode) -> Override {
        Override { backend: backend.map(str::to_owned), rule, mode }
    }

    #[test]
    fn the_most_specific_setting_wins() {
        use Mode::*;
        let (new, not_owner) = (Some("rebuilt"), Some(Rule::NotOwner));
        let cases: &[(&[Override], Mode)] = &[
            (&[], Observe),
            (&[over(new, None, Enforce)], Enforce),
            (&[over(Some("legacy"), None, Enforce)], Observe),
            (&[over(None, not_owner, Off)], Off),
            (&[over(None, Some(Rule::GlobalWrite), Off)], Observe),
            (&[over(new, None, Enforce), over(None, not_owner, Off)], Off),
            (&[over(new, not_owner, Enforce), over(new, None, Off), over(None, not_owner, Off)], Enforce),
        ];
        for (overrides, expected) in cases {
            let modes = Modes { global: Observe, overrides: overrides.to_vec() };
            assert_eq!(modes.of(new, Rule::NotOwner), *expected, "{overrides:?}");
        }
    }

    #[test]
    fn all_off_means_every_rule_is_off_for_the_backend() {
        use Mode::*;
        let new = Some("rebuilt");
        let cases: &[(Mode, &[Override], bool)] = &[
            (Off, &[], true),
            (Enforce, &[], false),
            (Enforce, &[over(new, None, Off)], true),
            (Enforce, &[over(Some("legacy"), None, Off)], false),
            (Off, &[over(None, Some(Rule::NotOwner), Observe)], false),
            (Off, &[over(Some("legacy"), Some(Rule::NotOwner), Observe)], true),
        ];
        for (global, overrides, expected) in cases {
            let modes = Modes { global: *global, overrides: overrides.to_vec() };
            assert_eq!(modes.all_off(new), *expected, "{global} {overrides:?}");
        }
    }
}
