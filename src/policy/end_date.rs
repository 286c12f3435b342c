//! A migration ends on a fixed date. Nothing happens on that day, but that somebody is told: a guard that stops by itself would
//! let everything pass, and one that stops everything would be an outage. Where the policy says so no more tenants are handed
//! over from then on; writers and ways back go on.

use std::fmt;
use std::str::FromStr;

use super::backend::UnknownWord;

/// From how many days before the end on.
pub const NEAR: i32 = 30;

/// What somebody should be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reminder {
    /// The end is so many days away; 0 = it is today.
    Near(i32),
    /// It was so many days ago.
    Passed(i32),
}

/// What to tell on a day. Both are days, counted from the same one.
pub fn reminder(ends_on: Option<i32>, today: i32) -> Option<Reminder> {
    match ends_on?.saturating_sub(today) {
        left @ 0..=NEAR => Some(Reminder::Near(left)),
        left if left < 0 => Some(Reminder::Passed(-left)),
        _ => None,
    }
}

/// What happens when the day has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenPassed {
    /// Somebody is told.
    #[default]
    Warn,
    /// Nothing is handed over any more, but back.
    RefuseCutovers,
}

impl WhenPassed {
    /// Every value, as an error message lists them.
    pub const NAMES: &str = "warn, refuse_cutovers";

    /// The word used in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            WhenPassed::Warn => "warn",
            WhenPassed::RefuseCutovers => "refuse_cutovers",
        }
    }
}

impl FromStr for WhenPassed {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "warn" => Ok(WhenPassed::Warn),
            "refuse_cutovers" => Ok(WhenPassed::RefuseCutovers),
            _ => Err(UnknownWord),
        }
    }
}

impl fmt::Display for Reminder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reminder::Near(0) => write!(f, "the migration ends today"),
            Reminder::Near(1) => write!(f, "the migration ends tomorrow"),
            Reminder::Near(days) => write!(f, "the migration ends in {days} days"),
            Reminder::Passed(1) => write!(f, "the migration should have ended yesterday; the guard goes on"),
            Reminder::Passed(days) => {
                write!(f, "the migration should have ended {days} days ago; the guard goes on")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_month_before_the_end_on() {
        let cases = [
            (None, None),
            (Some(131), None),
            (Some(130), Some(Reminder::Near(30))),
            (Some(100), Some(Reminder::Near(0))),
            (Some(99), Some(Reminder::Passed(1))),
            (Some(i32::MAX), None),
        ];
        for (ends_on, expected) in cases {
            assert_eq!(reminder(ends_on, 100), expected, "{ends_on:?}");
        }
    }

    #[test]
    fn words_round_trip() {
        for word in WhenPassed::NAMES.split(", ") {
            assert_eq!(word.parse::<WhenPassed>().map(WhenPassed::as_str), Ok(word));
        }
        assert_eq!("stop".parse::<WhenPassed>(), Err(UnknownWord));
    }

    #[test]
    fn a_reminder_is_a_clause() {
        let cases = [
            (Reminder::Near(0), "the migration ends today"),
            (Reminder::Near(12), "the migration ends in 12 days"),
            (Reminder::Passed(5), "the migration should have ended 5 days ago; the guard goes on"),
        ];
        for (reminder, expected) in cases {
            assert_eq!(reminder.to_string(), expected);
        }
    }
}
