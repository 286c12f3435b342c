//! Whose rows the tables of a schema hold, as far as their columns and foreign keys tell.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::columns::KeyColumns;
use super::surface::{TableClass, TenantSource};

/// The tenant columns that were asked for, in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Columns {
    /// The table doesn't have all of these names.
    Missing,
    /// They can be tenant columns.
    Fit,
    /// They can't; why, as a clause.
    Unfit(String),
}

/// A foreign key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Its columns.
    pub columns: Vec<String>,
    /// The table that it leads to; the whole where it leads to a partition.
    pub parent: u32,
    /// The columns there.
    pub referenced: Vec<String>,
    /// Why the columns there can't be tenant columns, if they can't; as a clause.
    pub unfit: Option<String>,
    /// Whether a row may do without a parent.
    pub nullable: bool,
    /// Those of its columns that can be tenant columns.
    pub fit: Vec<String>,
    /// The column by which `guard_table` finds this foreign key and no other; none where no column does.
    pub named_by: Option<String>,
}

/// What is known of a table. Besides those of the schema these are the tables of others that foreign keys lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether it is in the schema, so that there is something to propose.
    pub asked: bool,
    /// How it is classified already.
    pub class: TableClass,
    /// The extension that it belongs to.
    pub extension: Option<String>,
    /// The tables that it inherits from.
    pub inherits: Vec<u32>,
    /// The tenant columns.
    pub columns: Columns,
    /// Its foreign keys.
    pub keys: Vec<ForeignKey>,
}

/// What is to be done about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is classified.
    Keep,
    /// Classify it as proposed.
    Guard,
    /// A human must say.
    Decide,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Keep => "keep",
            Action::Guard => "guard",
            Action::Decide => "decide",
        })
    }
}

/// What is proposed for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The table.
    pub table: u32,
    /// Its class; unclassified where a human must say.
    pub class: TableClass,
    /// What is to be done.
    pub action: Action,
    /// Why, as a sentence.
    pub reason: String,
}

/// A foreign key that leads to tenants.
struct Way<'a> {
    key: &'a ForeignKey,
    /// How many foreign keys there are to the nearest table that tells the tenant by itself.
    length: usize,
    /// The tables in which it can end.
    ends: BTreeSet<u32>,
}

struct Schema<'a> {
    tables: BTreeMap<u32, &'a Table>,
    asked: &'a KeyColumns,
    decided: BTreeMap<u32, Proposal>,
}

/// What to make of each table of a schema, parents before children. `asked` are the tenant columns; `tenant` says that all
/// tables belong to one tenant.
pub fn propose(tables: &[Table], asked: &KeyColumns, tenant: Option<&str>) -> Vec<Proposal> {
    let by_oid: BTreeMap<u32, &Table> = tables.iter().map(|table| (table.oid, table)).collect();
    let mut schema = Schema { tables: by_oid, asked, decided: BTreeMap::new() };
    for table in tables {
        if let Some(proposal) = schema.by_itself(table, tenant) {
            schema.decided.insert(table.oid, proposal);
        }
    }
    schema.registers();
    schema.by_columns();
    let by_keys: Vec<Proposal> =
        { tables.iter() }.filter(|t| !schema.decided.contains_key(&t.oid)).map(|table| schema.by_keys(table)).collect();
    schema.decided.extend(by_keys.into_iter().map(|proposal| (proposal.table, proposal)));
    schema.families();
    schema.unsettle();

    let mut proposals: Vec<(usize, &str, Proposal)> = Vec::new();
    for table in tables.iter().filter(|table| table.asked) {
        if let Some(proposal) = schema.decided.get(&table.oid) {
            proposals.push((schema.chain(table.oid).len(), &table.name, proposal.clone()));
        }
    }
    proposals.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    proposals.into_iter().map(|(_, _, proposal)| proposal).collect()
}

impl Schema<'_> {
    /// What a table tells without its foreign keys.
    fn by_itself(&self, table: &Table, tenant: Option<&str>) -> Option<Proposal> {
        let (asked, noun) = (self.asked, self.asked.noun());
        if table.class != TableClass::Unclassified {
            let reason = "It is classified already.".to_owned();
            return Some(Proposal { table: table.oid, class: table.class.clone(), action: Action::Keep, reason });
        }
        if !table.asked {
            let reason = format!("Table {} of another schema isn't classified.", table.name);
            return Some(decide(table, reason));
        }
        if let Some(extension) = &table.extension {
            return Some(decide(table, format!("It belongs to the extension {extension}.")));
        }
        if let Some(tenant) = tenant {
            let reason = format!("Every table of this schema belongs to tenant \"{tenant}\".");
            return Some(guard(table, TableClass::Tenant(TenantSource::Constant(tenant.to_owned())), reason));
        }
        match &table.columns {
            Columns::Fit => Some(by_columns(table, asked, format!("It has the {noun} {asked}."))),
            Columns::Unfit(why) => {
                Some(decide(table, format!("Its {noun} {asked} can't be the tenant {noun}: {why}.")))
            }
            Columns::Missing => None,
        }
    }

    /// The tables in which each tenant has a row: tenant columns refer to their key.
    fn registers(&mut self) {
        // By table: the keys, each with what is wrong with it, and who refers to them.
        let mut found = BTreeMap::<_, (BTreeSet<_>, Vec<&str>)>::new();
        for table in self.tables.values() {
            let own = match self.decided.get(&table.oid).map(|p| &p.class) {
                Some(TableClass::Tenant(TenantSource::Columns(columns))) => columns.names(),
                _ => continue,
            };
            for key in &table.keys {
                if key.columns.len() == own.len()
                    && !self.decided.contains_key(&key.parent)
                    && let Some(referenced) = counterparts(own, &key.columns, &key.referenced)
                {
                    let (keys, referring) = found.entry(key.parent).or_default();
                    keys.insert((KeyColumns::of(referenced), key.unfit.as_ref()));
                    referring.push(&table.name);
                }
            }
        }
        for (oid, (keys, referring)) in found {
            let Some(table) = self.tables.get(&oid) else { continue };
            let keys: Vec<_> = keys.into_iter().collect();
            let proposal = match keys.as_slice() {
                [(key, None)] => {
                    let (referring, noun) = (listed(&referring), key.noun());
                    by_columns(table, key, format!("The tenant columns of {referring} refer to its {noun} {key}."))
                }
                [(key, Some(why))] => {
                    let be = if key.names().len() == 1 { "be a tenant column" } else { "be tenant columns" };
                    decide(table, format!("Tenant columns refer to its {} {key}, which can't {be}: {why}.", key.noun()))
                }
                keys => {
                    let name = |(key, _): &(KeyColumns, _)| match key.names() {
                        [only] => only.clone(),
                        _ => format!("({key})"),
                    };
                    let names: Vec<String> = keys.iter().map(name).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    decide(
                        table,
                        format!("Tenant columns refer to its columns {}; which is the tenant?", listed(&names)),
                    )
                }
            };
            self.decided.insert(oid, proposal);
        }
    }

    /// The tables that have a tenant column under another name: all ways to tenants say so.
    fn by_columns(&mut self) {
        loop {
            let mut found = Vec::new();
            for table in self.tables.values().filter(|table| !self.decided.contains_key(&table.oid)) {
                let ways: Vec<Way> = table.keys.iter().filter_map(|key| self.way(table.oid, key)).collect();
                let columns: BTreeSet<Option<KeyColumns>> = ways.iter().map(|way| self.tenant_in(way.key)).collect();
                if let (Some(way), Some(Some(_)), 1) = (ways.first(), columns.first(), columns.len()) {
                    found.extend(self.refers(table, way.key));
                }
            }
            if found.is_empty() {
                return;
            }
            self.decided.extend(found.into_iter().map(|proposal| (proposal.table, proposal)));
        }
    }

    /// The columns of a foreign key that hold the tenant itself.
    fn tenant_in(&self, key: &ForeignKey) -> Option<KeyColumns> {
        let TableClass::Tenant(TenantSource::Columns(tenant)) = &self.decided.get(&key.parent)?.class else {
            return None;
        };
        let columns = counterparts(tenant.names(), &key.referenced, &key.columns)?;
        columns.iter().all(|column| key.fit.contains(column)).then(|| KeyColumns::of(columns))
    }

    fn refers(&self, table: &Table, key: &ForeignKey) -> Option<Proposal> {
        let columns = self.tenant_in(key)?;
        let parent = self.name(key.parent);
        let reason = match columns.names() {
            [column] => format!("Its column {column} refers to the tenant column of {parent}."),
            _ => format!("Its columns {columns} refer to the tenant columns of {parent}."),
        };
        Some(by_columns(table, &columns, reason))
    }

    /// What the foreign keys of a table tell.
    fn by_keys(&self, table: &Table) -> Proposal {
        let ways: Vec<Way> = table.keys.iter().filter_map(|key| self.way(table.oid, key)).collect();
        let certain: Vec<&Way> = ways.iter().filter(|way| !way.key.nullable).collect();
        let ends = certain.iter().flat_map(|way| &way.ends).collect::<BTreeSet<_>>();
        let length = certain.iter().map(|way| way.length).min();
        let shortest: Vec<&Way> = certain.iter().copied().filter(|way| Some(way.length) == length).collect();
        let chosen = match (ways.as_slice(), certain.as_slice(), shortest.as_slice()) {
            ([], ..) => return self.global(table),
            ([only], ..) => (only, ""),
            (_, [only], _) => (*only, "; it is the only one that is never null"),
            (_, [_, ..], [shortest]) if ends.len() == 1 => (*shortest, "; longer ways end in the same table"),
            _ => {
                let ways: Vec<String> = ways.iter().map(|way| self.described(way)).collect();
                return decide(table, format!("Several foreign keys lead to tenants: {}.", ways.join("; ")));
            }
        };
        let (way, because) = chosen;
        if let Some(proposal) = self.refers(table, way.key) {
            return proposal;
        }
        let Some(column) = &way.key.named_by else {
            return decide(table, format!("No column names its foreign key ({}) alone.", way.key.columns.join(", ")));
        };
        let nullable = if way.key.nullable { "; a row where it is null belongs to everybody" } else { "" };
        let reason =
            format!("Its tenant is that of its row in {}, by {column}{because}{nullable}.", self.name(way.key.parent));
        guard(table, TableClass::Tenant(TenantSource::Parent(column.to_owned())), reason)
    }

    fn global(&self, table: &Table) -> Proposal {
        let (asked, noun) = (self.asked, self.asked.noun());
        let referring: Vec<&str> = { self.tables.values() }
            .filter(|other| other.oid != table.oid && other.keys.iter().any(|key| key.parent == table.oid))
            .map(|other| other.name.as_str())
            .collect();
        let referred = match referring.as_slice() {
            [] => "nothing refers to it".to_owned(),
            [one] => format!("{one} refers to it"),
            several => format!("{} refer to it", listed(several)),
        };
        let reason = format!("It has no {noun} {asked}, and no foreign key of it leads to a tenant; {referred}.");
        guard(table, TableClass::Global, reason)
    }

    /// Where a foreign key leads, looked at without coming back to its own table.
    fn way<'k>(&self, from: u32, key: &'k ForeignKey) -> Option<Way<'k>> {
        let (mut ends, mut length) = (BTreeSet::new(), None);
        let mut seen = BTreeSet::from([from]);
        let mut queue = VecDeque::from([(key.parent, 1)]);
        while let Some((oid, steps)) = queue.pop_front() {
            if !seen.insert(oid) {
                continue;
            }
            match self.decided.get(&oid).map(|proposal| &proposal.class) {
                Some(TableClass::Global | TableClass::Exempt { .. }) => {}
                // Also one that must be decided: it may turn out to be a tenant's.
                Some(_) => {
                    ends.insert(oid);
                    length.get_or_insert(steps);
                }
                None => {
                    let keys = self.tables.get(&oid).map(|table| table.keys.as_slice()).unwrap_or_default();
                    queue.extend(keys.iter().map(|key| (key.parent, steps + 1)));
                }
            }
        }
        length.map(|length| Way { key, length, ends })
    }

    fn described(&self, way: &Way) -> String {
        let nullable = if way.key.nullable { ", nullable" } else { "" };
        format!("{} → {}{nullable}", way.key.columns.join(", "), self.name(way.key.parent))
    }

    /// A table is classified with its inheritance children, so it must be what they are.
    fn families(&mut self) {
        let mut torn = Vec::new();
        for table in self.tables.values() {
            for parent in table.inherits.iter().filter_map(|parent| self.tables.get(parent)) {
                let (Some(of_child), Some(of_parent)) = (self.decided.get(&table.oid), self.decided.get(&parent.oid))
                else {
                    continue;
                };
                if of_child.class == of_parent.class {
                    continue;
                }
                if of_child.action == Action::Guard {
                    let reason = format!("It inherits from {}, but tells its tenants in another way.", parent.name);
                    torn.push(decide(table, reason));
                }
                if of_parent.action == Action::Guard {
                    let reason =
                        format!("Table {} inherits from it, but tells its tenants in another way.", table.name);
                    torn.push(decide(parent, reason));
                }
            }
        }
        self.decided.extend(torn.into_iter().map(|proposal| (proposal.table, proposal)));
    }

    /// Makes undecided what hangs on something that is.
    fn unsettle(&mut self) {
        let unsettled: Vec<Proposal> = self.tables.values().filter_map(|table| self.unsettled(table)).collect();
        self.decided.extend(unsettled.into_iter().map(|proposal| (proposal.table, proposal)));
    }

    fn unsettled(&self, table: &Table) -> Option<Proposal> {
        let chain = self.chain(table.oid);
        let (via, end) = (chain.get(1)?, self.decided.get(chain.last()?)?);
        let reason = match (&end.class, end.action) {
            (_, Action::Decide) => {
                let (via, end) = (self.name(*via), self.name(end.table));
                format!("Its tenant is that of its row in {via}, but {end} must be classified first.")
            }
            (TableClass::Tenant(TenantSource::Parent(_)), Action::Guard) => {
                format!("Its foreign key to {} leads back to itself.", self.name(*via))
            }
            _ => return None,
        };
        Some(decide(table, reason))
    }

    /// The tables on the way from one to its tenant, by the columns that were chosen; it ends where it would go round.
    fn chain(&self, from: u32) -> Vec<u32> {
        let mut chain = vec![from];
        let mut at = from;
        while let Some(TableClass::Tenant(TenantSource::Parent(column))) = self.decided.get(&at).map(|p| &p.class) {
            let key = self.tables.get(&at).and_then(|table| {
                table.keys.iter().find(|key| key.named_by.as_ref() == Some(column) && key.parent != at)
            });
            match key {
                Some(key) if !chain.contains(&key.parent) => at = key.parent,
                _ => break,
            }
            chain.push(at);
        }
        chain
    }

    fn name(&self, oid: u32) -> &str {
        self.tables.get(&oid).map_or("another table", |table| &table.name)
    }
}

fn guard(table: &Table, class: TableClass, reason: String) -> Proposal {
    Proposal { table: table.oid, class, action: Action::Guard, reason }
}

fn by_columns(table: &Table, columns: &KeyColumns, reason: String) -> Proposal {
    guard(table, TableClass::Tenant(TenantSource::Columns(columns.clone())), reason)
}

fn decide(table: &Table, reason: String) -> Proposal {
    Proposal { table: table.oid, class: TableClass::Unclassified, action: Action::Decide, reason }
}

/// What stands in `to` where each of `columns` stands in `from`; none unless all do.
fn counterparts(columns: &[String], from: &[String], to: &[String]) -> Option<Vec<String>> {
    let counterpart = |column: &String| Some(to.get(from.iter().position(|other| other == column)?)?.clone());
    columns.iter().map(counterpart).collect()
}

/// A few names, and how many more there are.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 3;
    match names.len().checked_sub(MOST) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MOST].join(", ")),
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
