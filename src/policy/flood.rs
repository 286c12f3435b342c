//! Floods: of events that are alike in all that a DBA would group them by, the first few of a minute stand alone and the
//! rest is counted in the last of those. What is counted is exact; who is forgotten only stands alone once more.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::events::Event;

/// How many alike events of a minute have rows of their own.
pub const ALONE: u32 = 16;

/// In Postgres's unit of time.
const MINUTE: i64 = 60_000_000;

/// Where an event's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// Its time.
    pub at: i64,
    /// Its number.
    pub id: i64,
}

/// An event that is to be stored, under the number that its row would have.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The event.
    pub event: &'a Event,
    /// The number.
    pub id: i64,
    /// How many it stands for already.
    pub occurrences: i64,
    /// When the last of them was.
    pub last_at: i64,
}

impl Arrival<'_> {
    /// The row that it would be.
    pub fn row(&self) -> RowId {
        RowId { at: self.event.at, id: self.id }
    }
}

/// A number of occurrences, and the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which of the arrivals is the sample.
    pub arrival: usize,
    /// How many.
    pub occurrences: i64,
    /// When the last was.
    pub last_at: i64,
}

impl Count {
    fn of(arrival: usize, arrived: &Arrival) -> Count {
        Count { arrival, occurrences: arrived.occurrences, last_at: arrived.last_at }
    }

    fn add(&mut self, arrived: &Arrival) {
        self.occurrences += arrived.occurrences;
        self.last_at = self.last_at.max(arrived.last_at);
    }
}

/// What becomes of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Arrivals that become rows, with what was added to them at once.
    pub rows: Vec<Count>,
    /// What is added to rows that are there since an earlier batch.
    pub additions: Vec<(RowId, Count)>,
}

/// Two hashes with secrets of their own: events that differ are never alike.
type Key = (u64, u64, i64);

#[derive(Clone, Copy, Debug)]
struct Flood {
    alone: u32,
    /// The row that takes the rest.
    last: RowId,
}

/// The floods of late, as far as `capacity` goes.
pub struct Floods {
    capacity: usize,
    recent: HashMap<Key, Flood>,
    /// Those that weren't met since `recent` was empty: the next to be forgotten.
    older: HashMap<Key, Flood>,
    secrets: (RandomState, RandomState),
}

impl Floods {
    /// None yet. At most twice `capacity` are remembered.
    pub fn new(capacity: usize) -> Floods {
        let secrets = (RandomState::new(), RandomState::new());
        Floods { capacity, recent: HashMap::new(), older: HashMap::new(), secrets }
    }

    /// Decides which events of a batch become rows.
    pub fn place(&mut self, batch: &[Arrival]) -> Placement {
        let mut placement = Placement::default();
        let mut rows: HashMap<RowId, usize> = HashMap::new();
        let mut additions: HashMap<RowId, usize> = HashMap::new();
        for (n, arrived) in batch.iter().enumerate() {
            let row = arrived.row();
            let Some(target) = self.meet(self.key(arrived.event), row) else {
                rows.insert(row, placement.rows.len());
                placement.rows.push(Count::of(n, arrived));
                continue;
            };
            if let Some(row) = rows.get(&target) {
                placement.rows[*row].add(arrived);
            } else if let Some(addition) = additions.get(&target) {
                placement.additions[*addition].1.add(arrived);
            } else {
                additions.insert(target, placement.additions.len());
                placement.additions.push((target, Count::of(n, arrived)));
            }
        }
        placement
    }

    /// The row to which this event was to be added is gone: the event takes its place.
    pub fn replace(&mut self, event: &Event, row: RowId) {
        let key = self.key(event);
        self.remember(key, Flood { alone: ALONE, last: row });
    }

    /// The row to add an event to; none if it stands alone, as `row`.
    fn meet(&mut self, key: Key, row: RowId) -> Option<RowId> {
        let known = self.recent.get(&key).or_else(|| self.older.get(&key)).copied();
        let flood = match known {
            Some(flood) if flood.alone >= ALONE => flood,
            Some(flood) => Flood { alone: flood.alone + 1, last: row },
            None => Flood { alone: 1, last: row },
        };
        self.remember(key, flood);
        (flood.last != row).then_some(flood.last)
    }

    fn remember(&mut self, key: Key, flood: Flood) {
        if self.recent.len() >= self.capacity && !self.recent.contains_key(&key) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, flood);
    }

    fn key(&self, event: &Event) -> Key {
        let origin = &event.origin;
        let alike = (
            (&event.backend, &event.rule, event.outcome, &event.command),
            (&event.schema, &event.table, &event.tenant),
            (&origin.role, &origin.application_name, &origin.client),
            // It names what has no field of its own: what a command would have dropped, the setting, the function.
            &event.message,
        );
        (self.secrets.0.hash_one(alike), self.secrets.1.hash_one(alike), event.at.div_euclid(MINUTE))
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::{Origin, Outcome};
    use super::*;

    fn event(tenant: &str, at: i64) -> Event {
        Event {
            at,
            outcome: Outcome::Refused,
            rule: Some("not_owner".into()),
            sqlstate: Some("WG001".into()),
            backend: Some("rebuilt".into()),
            command: "UPDATE".into(),
            schema: Some("public".into()),
            table: Some("orders".into()),
            tenant: Some(tenant.into()),
            owner: Some("legacy".into()),
            message: String::new(),
            origin: Origin::default(),
        }
    }

    /// Places events numbered from `first`.
    fn place(floods: &mut Floods, first: i64, events: &[Event]) -> Placement {
        let arrivals: Vec<_> =
            (first..).zip(events).map(|(id, event)| Arrival { event, id, occurrences: 1, last_at: event.at }).collect();
        floods.place(&arrivals)
    }

    fn total(placement: &Placement) -> i64 {
        let added = placement.additions.iter().map(|(_, count)| count.occurrences);
        placement.rows.iter().map(|count| count.occurrences).chain(added).sum()
    }

    #[test]
    fn the_first_of_a_minute_stand_alone_and_the_last_of_them_takes_the_rest() {
        let mut floods = Floods::new(100);
        let events: Vec<_> = (0..40).map(|n| event("1", n)).collect();
        let placement = place(&mut floods, 100, &events);
        assert_eq!(placement.rows.len(), ALONE as usize);
        assert_eq!(placement.rows[14], Count { arrival: 14, occurrences: 1, last_at: 14 });
        assert_eq!(placement.rows[15], Count { arrival: 15, occurrences: 25, last_at: 39 });
        assert_eq!(placement.additions, []);
        let placement = place(&mut floods, 200, &events[..3]);
        let last = RowId { at: 15, id: 115 };
        assert_eq!(placement.rows, []);
        assert_eq!(placement.additions, [(last, Count { arrival: 0, occurrences: 3, last_at: 2 })]);
    }

    #[test]
    fn each_minute_begins_anew_and_older_ones_are_still_known() {
        let mut floods = Floods::new(100);
        let (this, next): (Vec<_>, Vec<_>) = (0..20).map(|n| (event("1", n), event("1", MINUTE + n))).unzip();
        assert_eq!(place(&mut floods, 1, &this).rows.len(), 16);
        assert_eq!(place(&mut floods, 101, &next).rows.len(), 16);
        assert_eq!(place(&mut floods, 201, &this).additions.len(), 1);
        let before_the_epoch: Vec<_> = [-1, -2].map(|at| event("1", at)).into();
        assert_eq!(place(&mut floods, 301, &before_the_epoch).rows.len(), 2);
    }

    #[test]
    fn what_differs_is_kept_apart() {
        let (same, role) = (event("1", 1), Origin { role: "other".into(), ..Origin::default() });
        let (client, named) = (
            Origin { client: Some("10.0.0.1".into()), ..Origin::default() },
            Origin { application_name: "other".into(), ..Origin::default() },
        );
        let different = [
            event("2", 1),
            Event { tenant: None, ..same.clone() },
            Event { schema: None, ..same.clone() },
            Event { table: Some("plans".into()), ..same.clone() },
            Event { rule: None, ..same.clone() },
            Event { outcome: Outcome::Observed, ..same.clone() },
            Event { backend: None, ..same.clone() },
            Event { command: "DELETE".into(), ..same.clone() },
            Event { origin: role, ..same.clone() },
            Event { origin: client, ..same.clone() },
            Event { origin: named, ..same.clone() },
            Event { message: "another object".into(), ..same.clone() },
        ];
        let mut floods = Floods::new(100);
        place(&mut floods, 1, &vec![same.clone(); 20]);
        assert_eq!(place(&mut floods, 100, &different).rows.len(), different.len());
        // Whose pid or statement differs is alike.
        let origin = Origin { pid: 9, query: Some("UPDATE".into()), ..Origin::default() };
        let alike = Event { origin, owner: None, ..same };
        assert_eq!(place(&mut floods, 200, &[alike]).additions.len(), 1);
    }

    #[test]
    fn a_row_that_is_gone_is_replaced() {
        let mut floods = Floods::new(100);
        place(&mut floods, 1, &vec![event("1", 1); 16]);
        let again = event("1", 2);
        floods.replace(&again, RowId { at: 2, id: 50 });
        let placement = place(&mut floods, 51, &[again]);
        assert_eq!(placement.additions[0].0, RowId { at: 2, id: 50 });
    }

    #[test]
    fn memory_is_bounded_and_counts_are_exact() {
        let mut floods = Floods::new(10);
        let mut counted = 0;
        for round in 0..50 {
            let events: Vec<_> = (0..30).map(|n| event(&(n % 25).to_string(), round)).collect();
            counted += total(&place(&mut floods, round * 100, &events));
            assert!(floods.recent.len() <= 10 && floods.older.len() <= 10);
        }
        assert_eq!(counted, 1_500);
        // One that comes again and again isn't forgotten.
        let mut floods = Floods::new(10);
        place(&mut floods, 1, &vec![event("busy", 0); 16]);
        for n in 0..100 {
            place(&mut floods, 100, &[event(&n.to_string(), 0)]);
            assert_eq!(place(&mut floods, 100, &[event("busy", 0)]).additions.len(), 1, "{n}");
        }
    }
}
