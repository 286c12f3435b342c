//! Break-glass: an operator's session for which, for a while, no rule refuses and everything is recorded.

use std::fmt;
use std::str::FromStr;

use super::backend::UnknownWord;

/// For how long at most, in microseconds: a day.
pub const LONGEST: i64 = 86_400_000_000;

/// What break-glass lasts for, if its time isn't over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Until the session ends.
    Session,
    /// Until the transaction ends.
    Transaction,
}

impl Scope {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "session, transaction";
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Session => "session",
            Scope::Transaction => "transaction",
        })
    }
}

impl FromStr for Scope {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "session" => Ok(Scope::Session),
            "transaction" => Ok(Scope::Transaction),
            _ => Err(UnknownWord),
        }
    }
}

/// A broken glass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glass {
    /// Why, in the operator's words.
    pub reason: String,
    /// When its time is over, in microseconds since 2000-01-01 UTC.
    pub until: i64,
    /// What it lasts for.
    pub scope: Scope,
    /// The nesting level of the transaction that broke it, as long as that hasn't committed.
    pub uncommitted: Option<i32>,
}

impl Glass {
    /// Whether its time isn't over yet.
    pub fn holds(&self, now: i64) -> bool {
        now < self.until
    }

    /// What is left of it when the transaction commits.
    pub fn committed(self) -> Option<Glass> {
        (self.scope == Scope::Session).then_some(Glass { uncommitted: None, ..self })
    }

    /// What is left of it when the transaction rolls back: nothing that it began itself, because whoever undoes that
    /// doesn't expect it to last.
    pub fn rolled_back(self) -> Option<Glass> {
        (self.scope == Scope::Session && self.uncommitted.is_none()).then_some(self)
    }

    /// What is left of it when the subtransaction of a level ends.
    pub fn subtransaction_ended(self, level: i32, committed: bool) -> Option<Glass> {
        match self.uncommitted {
            Some(of) if of >= level && committed => Some(Glass { uncommitted: Some(level - 1), ..self }),
            Some(of) if of >= level => None,
            _ => Some(self),
        }
    }

    /// What the record says of a statement that no rule would have refused.
    pub fn note(&self) -> String {
        format!("in break-glass: {}", self.reason)
    }

    /// What the record says of its beginning. `duration` is in microseconds.
    pub fn began(&self, duration: i64) -> String {
        format!("broke the glass of the {} for {} s: {}", self.scope, duration / 1_000_000, self.reason)
    }

    /// What the record says of its end.
    pub fn ended(&self, how: End) -> String {
        let how = match how {
            End::Said => "ended break-glass",
            End::Expired => "the time of break-glass is over",
            End::Discarded => "break-glass ended by DISCARD ALL",
        };
        format!("{how}: {}", self.reason)
    }
}

/// How break-glass ended, where that is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By `end_break_glass`.
    Said,
    /// By the clock.
    Expired,
    /// By DISCARD ALL.
    Discarded,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glass(scope: Scope, uncommitted: Option<i32>) -> Glass {
        Glass { reason: "repair".into(), until: 100, scope, uncommitted }
    }

    #[test]
    fn it_ends_with_its_time_and_its_transaction() {
        use Scope::{Session, Transaction};
        assert!(glass(Session, None).holds(99) && !glass(Session, None).holds(100));
        // Scope, begun at, then: kept by COMMIT, by ROLLBACK.
        let cases = [
            (Session, None, true, true),
            (Session, Some(1), true, false),
            (Session, Some(3), true, false),
            (Transaction, Some(1), false, false),
        ];
        for (scope, begun, commit, rollback) in cases {
            let it = glass(scope, begun);
            assert_eq!(it.clone().committed().is_some(), commit, "{it:?}");
            assert_eq!(it.clone().rolled_back().is_some(), rollback, "{it:?}");
        }
        assert_eq!(glass(Session, Some(2)).committed(), Some(glass(Session, None)));
    }

    #[test]
    fn a_savepoint_takes_back_what_was_begun_inside_of_it() {
        let it = |begun| glass(Scope::Session, begun);
        assert_eq!(it(Some(3)).subtransaction_ended(3, false), None);
        assert_eq!(it(Some(3)).subtransaction_ended(2, false), None);
        assert_eq!(it(Some(3)).subtransaction_ended(3, true), Some(it(Some(2))));
        assert_eq!(it(Some(1)).subtransaction_ended(2, false), Some(it(Some(1))));
        assert_eq!(it(None).subtransaction_ended(2, false), Some(it(None)));
    }

    #[test]
    fn words_are_scopes() {
        for word in Scope::NAMES.split(", ") {
            assert_eq!(word.parse::<Scope>().map(|s| s.to_string()), Ok(word.to_owned()));
        }
        assert_eq!("for ever".parse::<Scope>(), Err(UnknownWord));
    }
}
