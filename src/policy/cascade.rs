//! What a DELETE takes with it through foreign keys.
//!
//! Postgres follows foreign keys by triggers that are queued: those of all rows of one level fire, row by row and in the
//! order of their names, before those of the rows that they took. The same is done here, so that a NO ACTION key whose
//! rows would have gone by another way, had that way been quicker, is found to stop the DELETE as it would.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

/// A row by its place: the table that stores it, block and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// The table's oid; a partition's where the row is in one.
    pub table: u32,
    /// The block.
    pub block: u32,
    /// The place in the block.
    pub offset: u16,
}

/// A row that a foreign key reached, or that the DELETE itself takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub row: RowId,
    /// Whose it is, if anybody's.
    pub tenant: Option<Rc<str>>,
}

/// What happened to a referenced row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// It was deleted.
    Delete,
    /// A column of it was set.
    Update,
}

/// What a foreign key does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// CASCADE.
    Cascade,
    /// SET NULL.
    SetNull,
    /// SET DEFAULT.
    SetDefault,
    /// RESTRICT, or NO ACTION checked at once.
    Refuse,
    /// NO ACTION checked at the end of the transaction.
    RefuseLater,
}

/// A foreign key as the rows of one referenced table meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The constraint.
    pub id: u32,
    /// The referencing table, as users name it.
    pub child: u32,
    /// Its columns.
    pub referencing: Vec<String>,
    /// The columns that they refer to, in the same order.
    pub referenced: Vec<String>,
    /// What it does.
    pub reaction: Reaction,
    /// The referencing columns that SET NULL and SET DEFAULT set.
    pub sets: Vec<String>,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It goes.
    Delete,
    /// It loses its parent.
    SetNull,
    /// It gets another parent.
    SetDefault,
    /// It stays, and makes the DELETE fail.
    Restricted,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Delete => "delete",
            Effect::SetNull => "set null",
            Effect::SetDefault => "set default",
            Effect::Restricted => "restricted",
        })
    }
}

/// Where the rows and keys are.
pub trait Source {
    /// The foreign keys that react to an event on rows of a table, in the order in which they do.
    fn keys(&mut self, table: u32, event: Event) -> Rc<[Key]>;

    /// The rows that refer to `rows` by a key, each with the position in `rows` of the row that it refers to.
    fn referencing(&mut self, table: u32, key: &Key, rows: &[RowId]) -> Vec<(usize, Found)>;
}

/// Some rows of one table that share a way, a fate and a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// The tables from the one deleted from to this one, as users name them.
    pub path: Vec<u32>,
    /// What becomes of the rows.
    pub effect: Effect,
    /// Whose they are.
    pub tenant: Option<Rc<str>>,
    /// How many.
    pub rows: u64,
    /// One of them.
    pub example: RowId,
}

/// A way to a table: the way before it, and the table.
struct Way {
    before: Option<usize>,
    table: u32,
    depth: usize,
}

/// A row's part in a level: the way to it, and the columns that were set unless it was deleted.
struct Happening {
    row: RowId,
    way: usize,
    set: Option<(Effect, Rc<[String]>)>,
}

/// What has become of a row so far.
#[derive(Default)]
struct Fate {
    deleted: bool,
    set: Vec<String>,
    counted: Vec<Effect>,
}

/// One effect on one row.
struct Outcome {
    found: Found,
    way: usize,
    effect: Effect,
}

struct Following<'a, S: Source> {
    source: &'a mut S,
    ways: Vec<Way>,
    known_ways: HashMap<(Option<usize>, u32), usize>,
    fates: HashMap<RowId, Fate>,
    outcomes: Vec<Outcome>,
    checked_later: Vec<(usize, Rc<[String]>, Found)>,
    next: Vec<Happening>,
}

/// A row that a key reaches from a happening of the level.
struct Reached {
    happening: usize,
    order: usize,
    key: (Rc<[Key]>, usize),
    found: Found,
}

/// Everything that deleting `first` would take, each row with its table as users name it: by depth, then in the order in
/// which it was found, then by effect and tenant.
pub fn follow<S: Source>(source: &mut S, first: Vec<(u32, Found)>) -> Vec<Consequence> {
    let mut following = Following {
        source,
        ways: Vec::new(),
        known_ways: HashMap::new(),
        fates: HashMap::new(),
        outcomes: Vec::new(),
        checked_later: Vec::new(),
        next: Vec::new(),
    };
    for (table, found) in first {
        let way = following.way(None, table);
        following.delete(found, way);
    }
    while !following.next.is_empty() {
        following.level();
    }
    following.check_later();
    following.summary()
}

impl<S: Source> Following<'_, S> {
    fn level(&mut self) {
        let happenings = std::mem::take(&mut self.next);
        let mut reached = self.reach(&happenings);
        // As the queue has them. The sort is stable, so the rows that one key reaches from one row keep their order.
        reached.sort_by_key(|r| (r.happening, r.order));
        for Reached { happening, key: (keys, position), found, .. } in reached {
            if let (Some(cause), Some(key)) = (happenings.get(happening), keys.get(position)) {
                self.react(cause, key, found);
            }
        }
    }

    /// What the keys reach from the rows of a level, each table and key asked once.
    fn reach(&mut self, happenings: &[Happening]) -> Vec<Reached> {
        // By table and by the columns that were set.
        let mut groups = BTreeMap::<_, Vec<usize>>::new();
        for (position, happening) in happenings.iter().enumerate() {
            let columns = happening.set.as_ref().map(|(_, columns)| columns.clone());
            groups.entry((happening.row.table, columns)).or_default().push(position);
        }
        let mut reached = Vec::new();
        for ((table, set), positions) in groups {
            let event = if set.is_some() { Event::Update } else { Event::Delete };
            let keys = self.source.keys(table, event);
            let rows: Vec<RowId> = positions.iter().filter_map(|p| happenings.get(*p)).map(|h| h.row).collect();
            for (order, key) in keys.iter().enumerate() {
                let touched = set.as_ref().is_none_or(|set| key.referenced.iter().any(|c| set.contains(c)));
                if !touched {
                    continue;
                }
                for (at, found) in self.source.referencing(table, key, &rows) {
                    if let Some(happening) = positions.get(at) {
                        let key = (keys.clone(), order);
                        reached.push(Reached { happening: *happening, order, key, found });
                    }
                }
            }
        }
        reached
    }

    fn react(&mut self, cause: &Happening, key: &Key, found: Found) {
        if !self.still_refers(found.row, &key.referencing) {
            return;
        }
        let way = self.way(Some(cause.way), key.child);
        match (key.reaction, &cause.set) {
            (Reaction::Cascade, None) => self.delete(found, way),
            (Reaction::Cascade, Some((effect, columns))) => {
                // The new key is passed on, column by column.
                let pairs = key.referencing.iter().zip(&key.referenced);
                let follow = pairs.filter(|(_, referenced)| columns.contains(referenced)).map(|(column, _)| column);
                self.set(found, way, *effect, follow.cloned().collect());
            }
            (Reaction::SetNull, _) => self.set(found, way, Effect::SetNull, key.sets.clone()),
            (Reaction::SetDefault, _) => self.set(found, way, Effect::SetDefault, key.sets.clone()),
            (Reaction::Refuse, _) => self.count(found, way, Effect::Restricted),
            (Reaction::RefuseLater, _) => self.checked_later.push((way, key.referencing.clone().into(), found)),
        }
    }

    /// Whether a row is still there, and no column of the key has been set since.
    fn still_refers(&self, row: RowId, referencing: &[String]) -> bool {
        self.fates.get(&row).is_none_or(|fate| !fate.deleted && !referencing.iter().any(|c| fate.set.contains(c)))
    }

    fn delete(&mut self, found: Found, way: usize) {
        let fate = self.fates.entry(found.row).or_default();
        if !std::mem::replace(&mut fate.deleted, true) {
            self.next.push(Happening { row: found.row, way, set: None });
            self.count(found, way, Effect::Delete);
        }
    }

    fn set(&mut self, found: Found, way: usize, effect: Effect, columns: Vec<String>) {
        self.fates.entry(found.row).or_default().set.extend(columns.iter().cloned());
        self.next.push(Happening { row: found.row, way, set: Some((effect, columns.into())) });
        self.count(found, way, effect);
    }

    /// Counts a row once for an effect, by the way on which it was reached first.
    fn count(&mut self, found: Found, way: usize, effect: Effect) {
        let counted = &mut self.fates.entry(found.row).or_default().counted;
        if !counted.contains(&effect) {
            counted.push(effect);
            self.outcomes.push(Outcome { found, way, effect });
        }
    }

    fn check_later(&mut self) {
        for (way, referencing, found) in std::mem::take(&mut self.checked_later) {
            if self.still_refers(found.row, &referencing) {
                self.count(found, way, Effect::Restricted);
            }
        }
    }

    fn way(&mut self, before: Option<usize>, table: u32) -> usize {
        let depth = before.and_then(|before| self.ways.get(before)).map_or(0, |way| way.depth + 1);
        let ways = &mut self.ways;
        *self.known_ways.entry((before, table)).or_insert_with(|| {
            ways.push(Way { before, table, depth });
            ways.len() - 1
        })
    }

    fn summary(self) -> Vec<Consequence> {
        type Group = (usize, usize, Effect, Option<Rc<str>>);
        let mut groups: BTreeMap<Group, (u64, RowId)> = BTreeMap::new();
        for Outcome { found, way, effect } in self.outcomes {
            let gone = self.fates.get(&found.row).is_some_and(|fate| fate.deleted);
            // What is deleted in the end wasn't set to anything.
            if gone && matches!(effect, Effect::SetNull | Effect::SetDefault) {
                continue;
            }
            let depth = self.ways.get(way).map_or(0, |way| way.depth);
            groups.entry((depth, way, effect, found.tenant)).or_insert((0, found.row)).0 += 1;
        }
        let path = |way| {
            let mut tables = Vec::new();
            let mut at = Some(way);
            while let Some(way) = at.and_then(|at: usize| self.ways.get(at)) {
                tables.push(way.table);
                at = way.before;
            }
            tables.reverse();
            tables
        };
        let told = |((_, way, effect, tenant), (rows, example))| Consequence {
            path: path(way),
            effect,
            tenant,
            rows,
            example,
        };
        groups.into_iter().map(told).collect()
    }
}

/// Tables longer than this are told with the middle left out.
const LONGEST_PATH: usize = 12;

/// A path as users read it: `orders → order_items → shipments`.
pub fn told(tables: &[String]) -> String {
    const ARROW: &str = " → ";
    if tables.len() <= LONGEST_PATH {
        return tables.join(ARROW);
    }
    let half = LONGEST_PATH / 2;
    let (start, end) = (&tables[..half], &tables[tables.len() - half..]);
    let left_out = tables.len() - LONGEST_PATH;
    format!("{}{ARROW}… {left_out} more …{ARROW}{}", start.join(ARROW), end.join(ARROW))
}

#[cfg(test)]
#[path = "cascade_tests.rs"]
mod tests;
