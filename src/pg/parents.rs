//! The tenant of a row whose table has none of its own: a foreign key leads to the parent row, whose tenant it is, at any
//! depth.
//!
//! A writer of such a row shares the lock of its parent's tenant. What happens to the parent until the transaction ends is
//! the subject of [`super::children`].

use std::ffi::{CString, c_int};
use std::rc::Rc;

use pgrx::pg_sys;

use super::relation::{self, Locate, Relation};
use super::scan::{AsOf, Key, scan_with};
use super::session::Session;
use super::tenants::{self, Tenant};
use super::{children, compat, keys};

/// A foreign key that leads to the tenants of a table's rows.
pub struct ParentLink {
    /// The table that it refers to.
    pub parent: pg_sys::Oid,
    /// The constraint.
    pub constraint: pg_sys::Oid,
    /// Its columns.
    pub columns: Vec<LinkColumn>,
    /// The tables that hold the parent's rows.
    leaves: Vec<Leaf>,
}

/// A table that holds rows of the parent: itself, or a partition.
struct Leaf {
    table: pg_sys::Oid,
    /// Its part of the index.
    index: pg_sys::Oid,
    /// The numbers of the columns referred to, in the order of [`ParentLink::columns`].
    attnums: Vec<pg_sys::AttrNumber>,
}

/// A column of a foreign key.
pub struct LinkColumn {
    /// Its number in the referring table.
    pub attnum: pg_sys::AttrNumber,
    /// Its type.
    pub of: pg_sys::Oid,
    /// The number of the column that it refers to.
    parent_attnum: pg_sys::AttrNumber,
    /// The function that tells whether a key of the parent equals it.
    equals: pg_sys::Oid,
    /// The type that this function takes it as, where it isn't the parent's own.
    as_type: pg_sys::Oid,
    collation: pg_sys::Oid,
}

/// Why a column leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLink {
    /// The table has no such column.
    NoColumn,
    /// No foreign key has it.
    NoForeignKey,
    /// Several foreign keys have it, and they lead to different tables.
    Ambiguous,
    /// A column of the foreign key is generated: it has its value only after the guard has seen the row.
    Generated,
    /// The types of the two sides can't be compared without a conversion.
    Types,
}

impl ParentLink {
    /// The foreign key of a table that has a column.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(table: pg_sys::Oid, column: &str) -> Result<ParentLink, NoLink> {
        let name = CString::new(column).map_err(|_| NoLink::NoColumn)?;
        // SAFETY: a syscache look-up inside a transaction; a missing column has number 0.
        let attnum = unsafe { pg_sys::get_attnum(table, name.as_ptr()) };
        if attnum <= 0 {
            return Err(NoLink::NoColumn);
        }
        let mut keys: Vec<_> = foreign_keys(table)
            .into_iter()
            .filter(|key| key.conkey.iter().take(key.nkeys as usize).any(|c| *c == attnum))
            .collect();
        // A foreign key to a partitioned table has a copy for each partition; the whole is meant.
        let targets: Vec<_> = keys.iter().map(|key| key.confrelid).collect();
        keys.retain(|key| !relation::ancestors(key.confrelid).iter().any(|above| targets.contains(above)));
        if keys.iter().any(|key| key.nkeys == 1) {
            keys.retain(|key| key.nkeys == 1);
        }
        let Some(key) = keys.iter().min_by_key(|key| key.conoid.to_u32()) else { return Err(NoLink::NoForeignKey) };
        if keys.iter().any(|other| other.confrelid != key.confrelid) {
            return Err(NoLink::Ambiguous);
        }
        ParentLink::of(table, key)
    }

    fn of(table: pg_sys::Oid, key: &pg_sys::ForeignKeyCacheInfo) -> Result<ParentLink, NoLink> {
        let mut columns = Vec::new();
        for n in 0..key.nkeys as usize {
            // SAFETY: syscache look-ups of a constraint, its operators and columns, which exist while it does.
            let column = unsafe {
                if pg_sys::get_attgenerated(table, key.conkey[n]) != 0 {
                    return Err(NoLink::Generated);
                }
                let (of, parent_of) =
                    (pg_sys::get_atttype(table, key.conkey[n]), pg_sys::get_atttype(key.confrelid, key.confkey[n]));
                let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                pg_sys::op_input_types(key.conpfeqop[n], &mut left, &mut right);
                let same = pg_sys::getBaseType(of) == pg_sys::getBaseType(parent_of);
                if !same && !pg_sys::IsBinaryCoercible(of, right) {
                    return Err(NoLink::Types);
                }
                let (mut ignored, mut modifier, mut collation) = (of, 0, pg_sys::InvalidOid);
                pg_sys::get_atttypetypmodcoll(
                    key.confrelid,
                    key.confkey[n],
                    &mut ignored,
                    &mut modifier,
                    &mut collation,
                );
                LinkColumn {
                    attnum: key.conkey[n],
                    of,
                    parent_attnum: key.confkey[n],
                    equals: pg_sys::get_opcode(key.conpfeqop[n]),
                    as_type: if same { pg_sys::InvalidOid } else { right },
                    collation,
                }
            };
            columns.push(column);
        }
        let index = referenced_index(key.conoid).ok_or(NoLink::NoForeignKey)?;
        // An index takes the conditions of a scan in its own order.
        let order = columns_of_index(index);
        columns.sort_by_key(|column| order.iter().position(|attnum| *attnum == column.parent_attnum));
        let leaves = leaves(key.confrelid, index, &columns);
        Ok(ParentLink { parent: key.confrelid, constraint: key.conoid, columns, leaves })
    }

    /// Where it leads, and by which columns on either side.
    pub fn course(&self) -> (pg_sys::Oid, Vec<(pg_sys::AttrNumber, pg_sys::AttrNumber)>) {
        (self.parent, self.columns.iter().map(|column| (column.attnum, column.parent_attnum)).collect())
    }

    /// Identifies the parent of a row within a transaction; none if the foreign key is null.
    pub fn key(&self, value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>) -> Option<Vec<u8>> {
        let mut key = self.constraint.to_u32().to_ne_bytes().to_vec();
        for column in &self.columns {
            keys::append_bytes(&mut key, column.of, value(column.attnum)?);
        }
        Some(key)
    }

    /// The columns of a foreign key that [`ParentLink::key`] made into bytes, each with its number.
    pub fn values(&self, key: &[u8]) -> Vec<(pg_sys::AttrNumber, pg_sys::Datum)> {
        let mut rest = key.get(size_of::<u32>()..).unwrap_or_default();
        self.columns.iter().filter_map(|c| Some((c.attnum, keys::take_value(&mut rest, c.of)?))).collect()
    }

    /// Reads the parent row as it is now.
    pub fn read(&self, session: &Session, value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>) -> Whose {
        // First without a snapshot, which costs more and leaves predicate locks in a SERIALIZABLE transaction; but under
        // concurrent updates only a snapshot is sure to find the row.
        self.read_as_of(session, value, AsOf::Instant)
            .or_else(|| self.read_as_of(session, value, AsOf::Snapshot))
            // Where a foreign key deletes the children, the parent is gone already.
            .or_else(|| self.read_as_of(session, value, AsOf::Replaced))
            .unwrap_or(Whose::Nobodys)
    }

    fn read_as_of(
        &self,
        session: &Session,
        value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
        as_of: AsOf,
    ) -> Option<Whose> {
        let mut found = None;
        for leaf in &self.leaves {
            let Some(parent) = relation::facts(session, leaf.table) else { continue };
            let key = |(column, attnum): (&LinkColumn, &pg_sys::AttrNumber)| {
                let value = value(column.attnum)?;
                let (function, of, collation) = (column.equals, column.as_type, column.collation);
                Some(Key { column: *attnum, function, of, collation, value }.prepare())
            };
            let mut scan_keys: Vec<_> = self.columns.iter().zip(&leaf.attnums).filter_map(key).collect();
            scan_with(leaf.table, Some(leaf.index), &mut scan_keys, as_of, |row| {
                found = Some(whose(session, &parent, &|attnum| row.datum(attnum)));
            });
            if found.is_some() {
                break;
            }
        }
        found
    }
}

/// The tables that hold a parent's rows, each with its part of the index.
fn leaves(parent: pg_sys::Oid, index: pg_sys::Oid, columns: &[LinkColumn]) -> Vec<Leaf> {
    // SAFETY: a syscache look-up.
    let kind = |table| unsafe { pg_sys::get_rel_relkind(table) } as u8;
    let leaf = |table, index| Leaf {
        table,
        index,
        // SAFETY: syscache look-ups; a partition has all columns of its parent, under other numbers.
        attnums: (columns.iter().map(|column| column.parent_attnum))
            .map(|attnum| unsafe { pg_sys::get_attnum(table, pg_sys::get_attname(parent, attnum, false)) })
            .collect(),
    };
    if kind(parent) != pg_sys::RELKIND_PARTITIONED_TABLE {
        return vec![leaf(parent, index)];
    }
    let with_index = |table| {
        // Level by level: an index knows only the one right above.
        let mut above = relation::ancestors(table);
        above.truncate(above.iter().position(|a| *a == parent)?);
        let mut down = above.into_iter().rev().chain([table]);
        Some(leaf(table, down.try_fold(index, |index, partition| part_of(partition, index))?))
    };
    let tables = relation::inheritors(parent).into_iter();
    tables.filter(|table| kind(*table) == pg_sys::RELKIND_RELATION).filter_map(with_index).collect()
}

/// A partition's part of an index of the whole.
fn part_of(partition: pg_sys::Oid, index: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a relcache look-up gives null or a pinned entry, which is released before the function ends.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(partition);
        if entry.is_null() {
            return None;
        }
        let part = compat::guarded(|| compat::index_get_partition(entry, index));
        pg_sys::RelationClose(entry);
        (part != pg_sys::InvalidOid).then_some(part)
    }
}

/// The foreign keys of a table, copied out of the relcache.
fn foreign_keys(table: pg_sys::Oid) -> Vec<pg_sys::ForeignKeyCacheInfo> {
    // SAFETY: a relcache look-up gives null or a pinned entry; its list may go with the next invalidation, so it is copied
    // before anything else is called.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(table);
        if entry.is_null() {
            return Vec::new();
        }
        let list = pg_sys::RelationGetFKeyList(entry);
        let keys = (0..compat::list_length(list))
            .map(|n| *compat::list_nth(list, n).cast::<pg_sys::ForeignKeyCacheInfo>())
            .collect();
        pg_sys::RelationClose(entry);
        keys
    }
}

/// The index that a foreign key refers to.
fn referenced_index(constraint: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up; the tuple is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::CONSTROID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, constraint.into());
        if tuple.is_null() {
            return None;
        }
        let mut null = false;
        let index = pg_sys::SysCacheGetAttr(cache, tuple, compat::CONSTRAINT_INDEX, &mut null);
        pg_sys::ReleaseSysCache(tuple);
        (!null && index.value() != 0).then(|| pg_sys::Oid::from(index.value() as u32))
    }
}

/// The numbers of an index's columns in its table.
fn columns_of_index(index: pg_sys::Oid) -> Vec<pg_sys::AttrNumber> {
    // SAFETY: a relcache look-up gives null or a pinned entry, whose index has as many columns as it says.
    unsafe {
        let entry = pg_sys::RelationIdGetRelation(index);
        if entry.is_null() {
            return Vec::new();
        }
        let form = (*entry).rd_index;
        let columns = (*form).indkey.values.as_slice(usize::try_from((*form).indnatts).unwrap_or(0)).to_vec();
        pg_sys::RelationClose(entry);
        columns
    }
}

/// Whose a row is.
pub enum Whose {
    /// A tenant's, by its raw key.
    Tenants(Vec<u8>),
    /// Everybody's: a column of the key, or on the way to it, is null.
    Everybodys,
    /// A parent on the way isn't there, so nobody can tell yet.
    Nobodys,
}

/// Whose a row is now, without a lock that keeps it so. `value` gives the row's columns by their numbers.
pub fn whose(
    session: &Session,
    relation: &Relation,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) -> Whose {
    match &relation.locate {
        Locate::Nowhere => Whose::Everybodys,
        Locate::Constant(tenant) => Whose::Tenants(keys::constant(tenant)),
        Locate::Columns(columns) => keys::of_row(columns, value).map_or(Whose::Everybodys, Whose::Tenants),
        Locate::Parent(link) => {
            let Some(key) = link.key(value) else { return Whose::Everybodys };
            match children::known(&key) {
                Some(raw) => Whose::Tenants(raw.to_vec()),
                None => {
                    children::begin();
                    link.read(session, value)
                }
            }
        }
    }
}

/// The tenant of a row, with its lock held.
///
/// # Errors
/// The row is everybody's, or nobody's.
pub fn hold_tenant(
    session: &Session,
    relation: &Relation,
    value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
) -> Result<(Vec<u8>, Rc<Tenant>), Whose> {
    match whose(session, relation, value) {
        Whose::Tenants(raw) => {
            let tenant = tenants::hold(session, &raw);
            Ok((raw, tenant))
        }
        other => Err(other),
    }
}
