//! Events counted by the hour, and by all that a DBA groups them by.

use std::collections::BTreeMap;

use serde::Serialize;

use super::events::Outcome;
use super::flood::Arrival;

/// In Postgres's unit of time.
const HOUR: i64 = 3_600_000_000;

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Group<'a> {
    /// When the hour began, in microseconds since 2000-01-01 UTC.
    pub hour: i64,
    /// The session's backend.
    pub backend: Option<&'a str>,
    /// The rule's name.
    pub rule: Option<&'a str>,
    /// What became of the statement, as [`Outcome::as_str`] has it.
    pub outcome: &'static str,
    /// The table's schema.
    pub schema_name: Option<&'a str>,
    /// The table's name.
    pub table_name: Option<&'a str>,
    /// The tenant's canonical key.
    pub tenant: Option<&'a str>,
}

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HourCount<'a> {
    /// Of what.
    #[serde(flatten)]
    pub group: Group<'a>,
    /// How many refusals and would-be refusals.
    pub occurrences: i64,
    /// When the first was, in microseconds since 2000-01-01 UTC.
    pub first_at: i64,
    /// When the last was.
    pub last_at: i64,
}

/// Counts a batch: each group once. An event that stands for several counts in the hour of its first.
pub fn count<'a>(batch: &[Arrival<'a>]) -> Vec<HourCount<'a>> {
    let mut counts: BTreeMap<Group<'a>, HourCount<'a>> = BTreeMap::new();
    for Arrival { event, occurrences, last_at, .. } in batch {
        let group = Group {
            hour: event.at.div_euclid(HOUR) * HOUR,
            backend: event.backend.as_deref(),
            rule: event.rule.as_deref(),
            outcome: Outcome::as_str(event.outcome),
            schema_name: event.schema.as_deref(),
            table_name: event.table.as_deref(),
            tenant: event.tenant.as_deref(),
        };
        let none = HourCount { group, occurrences: 0, first_at: event.at, last_at: *last_at };
        let count = counts.entry(group).or_insert(none);
        count.occurrences += occurrences;
        count.first_at = count.first_at.min(event.at);
        count.last_at = count.last_at.max(*last_at);
    }
    counts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::events::{Event, Origin};

    fn event(at: i64, tenant: &str) -> Event {
        Event {
            at,
            outcome: Outcome::Refused,
            rule: Some("not_owner".to_owned()),
            sqlstate: Some("WG001".to_owned()),
            backend: Some("rebuilt".to_owned()),
            command: "UPDATE".to_owned(),
            schema: Some("public".to_owned()),
            table: Some("orders".to_owned()),
            tenant: Some(tenant.to_owned()),
            owner: Some("legacy".to_owned()),
            message: "refused".to_owned(),
            origin: Origin::default(),
        }
    }

    #[test]
    fn each_group_is_counted_once() {
        let events =
            [event(HOUR + 5, "a"), event(HOUR + 3, "a"), event(2 * HOUR, "a"), event(-1, "a"), event(HOUR, "b")];
        let times = [(1, HOUR + 5), (4, 3 * HOUR), (1, 2 * HOUR), (1, -1), (2, HOUR)];
        let batch: Vec<_> = { events.iter().zip(times) }
            .map(|(event, (occurrences, last_at))| Arrival { event, id: 0, occurrences, last_at })
            .collect();
        let counted: Vec<_> = { count(&batch).into_iter() }
            .map(|c| (c.group.hour / HOUR, c.group.tenant.unwrap_or_default(), c.occurrences, c.first_at, c.last_at))
            .collect();
        let expected = [
            (-1, "a", 1, -1, -1),
            (1, "a", 5, HOUR + 3, 3 * HOUR),
            (1, "b", 2, HOUR, HOUR),
            (2, "a", 1, 2 * HOUR, 2 * HOUR),
        ];
        assert_eq!(counted, expected);
    }
}
