//! Application backends and how far each is trusted.

use std::fmt;
use std::str::FromStr;

/// How far a backend is trusted. The order is the order of trust: a claim may only move a session to a lesser value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// May not write guarded tables at all.
    Retired,
    /// Every rule binds it.
    Unproven,
    /// Only ownership (and the rules that bind everybody) bind it.
    Proven,
}

impl Trust {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "proven, unproven, retired";

    /// The word used in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Trust::Retired => "retired",
            Trust::Unproven => "unproven",
            Trust::Proven => "proven",
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no value of an enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

impl FromStr for Trust {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "retired" => Ok(Trust::Retired),
            "unproven" => Ok(Trust::Unproven),
            "proven" => Ok(Trust::Proven),
            _ => Err(UnknownWord),
        }
    }
}

/// A registered application backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique in the database.
    pub name: String,
    /// How far it is trusted.
    pub trust: Trust,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_ordered_and_round_trips() {
        assert!(Trust::Retired < Trust::Unproven && Trust::Unproven < Trust::Proven);
        for word in Trust::NAMES.split(", ") {
            assert_eq!(word.parse::<Trust>().map(Trust::as_str), Ok(word));
        }
        assert_eq!("trusted".parse::<Trust>(), Err(UnknownWord));
    }
}
