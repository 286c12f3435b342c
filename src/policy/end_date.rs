//! A migration ends on a fixed date. Nothing happens on that day, but that somebody is told: a guard that stops by itself would
//! let everything pass, and one that stops everything would be an outage.

use std::fmt;

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
