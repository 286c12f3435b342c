//! Reads a table by scanning it, as Postgres reads its catalogs: no SPI, hence no planner, no privileges of the session's
//! role, no row security, no recursion into our own hooks, and always today's rows, whatever snapshot a REPEATABLE READ
//! transaction has.

use std::ptr;

use pgrx::{FromDatum, Inet, pg_sys};

use crate::policy::identity::Network;

/// A row, deformed.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// A column by its number in the table, from 1; none if it is null.
    pub fn datum(&self, attnum: pg_sys::AttrNumber) -> Option<pg_sys::Datum> {
        let index = usize::try_from(attnum).ok()?.checked_sub(1)?;
        if self.is_null(index) { None } else { self.values.get(index).copied() }
    }

    /// Whether a column, counted from 0, is null.
    pub fn is_null(&self, column: usize) -> bool {
        self.nulls.get(column).copied().unwrap_or(true)
    }

    /// A column, counted from 0, of a type that the caller knows.
    pub fn read<T: FromDatum>(&self, column: usize) -> Option<T> {
        let value = *self.values.get(column)?;
        // SAFETY: the callers name the column's type as it was declared.
        unsafe { T::from_datum(value, self.is_null(column)) }
    }

    /// A column, counted from 0, as text.
    pub fn text(&self, column: usize) -> Option<String> {
        self.read(column)
    }

    /// A column, counted from 0, as one of a list of words.
    pub fn parsed<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    /// A column, counted from 0, as an array of texts without its nulls.
    pub fn texts(&self, column: usize) -> Option<Vec<String>> {
        self.read::<Vec<Option<String>>>(column).map(|texts| texts.into_iter().flatten().collect())
    }

    /// A column, counted from 0; null is 0.
    pub fn int4(&self, column: usize) -> i32 {
        self.read(column).unwrap_or_default()
    }

    /// A column, counted from 0; null is 0.
    pub fn int8(&self, column: usize) -> i64 {
        self.read(column).unwrap_or_default()
    }

    /// A column, counted from 0; null is InvalidOid.
    pub fn oid(&self, column: usize) -> pg_sys::Oid {
        self.read(column).unwrap_or(pg_sys::InvalidOid)
    }

    /// A column, counted from 0, as a network.
    pub fn network(&self, column: usize) -> Option<Network> {
        Network::parse(&self.read::<Inet>(column)?.0)
    }
}

/// A condition of a scan: a column of the table equals a value.
pub struct Key {
    /// The column's number in the table, from 1.
    pub column: pg_sys::AttrNumber,
    /// The function of the equality operator, which takes the column's value first.
    pub function: pg_sys::Oid,
    /// The type of the value; InvalidOid = the index's own.
    pub of: pg_sys::Oid,
    /// The collation to compare by.
    pub collation: pg_sys::Oid,
    /// The value.
    pub value: pg_sys::Datum,
}

impl Key {
    /// A value; which column it is compared with must be said.
    pub fn of(value: pg_sys::Datum) -> Key {
        let none = pg_sys::InvalidOid;
        Key { column: 0, function: none, of: none, collation: none, value }
    }

    /// The key as a scan takes it.
    pub fn prepare(self) -> pg_sys::ScanKeyData {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: fills in the key; the function is looked up in the catalogs.
        unsafe {
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                0,
                self.column,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                self.of,
                self.collation,
                self.function,
                self.value,
            );
        }
        key
    }
}

/// Which rows a scan sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// Those committed by now, and those of this transaction's earlier commands: a fresh catalog snapshot.
    Snapshot,
    /// Those there at this moment, this very command's included. Under concurrent updates it may see a row twice or not at
    /// all, but it leaves no predicate locks in a SERIALIZABLE transaction.
    Instant,
    /// Those that this transaction has deleted or replaced.
    Replaced,
}

/// Scans a table by a snapshot.
pub fn scan(table: pg_sys::Oid, each: impl FnMut(&Row)) {
    scan_with(table, None, &mut [], AsOf::Snapshot, each);
}

/// Scans the rows that satisfy all keys, through an index if there is one.
pub fn scan_with(
    table: pg_sys::Oid,
    index: Option<pg_sys::Oid>,
    keys: &mut [pg_sys::ScanKeyData],
    as_of: AsOf,
    mut each: impl FnMut(&Row),
) {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: systable_beginscan is how the server reads a table by a given snapshot (a null one means a fresh catalog
    // snapshot; the others are constants); the keys live as long as the scan, and the tuple is deformed before the next is fetched. If an error is
    // raised in between, the resource owner closes scan and table.
    unsafe {
        let relation = pg_sys::try_table_open(table, lock);
        if relation.is_null() {
            // It is being dropped; its invalidation has just arrived.
            return;
        }
        let snapshot = match as_of {
            AsOf::Snapshot => ptr::null_mut(),
            AsOf::Instant => &raw mut pg_sys::SnapshotSelfData,
            AsOf::Replaced => &raw mut pg_sys::SnapshotAnyData,
        };
        let scan = pg_sys::systable_beginscan(
            relation,
            index.unwrap_or(pg_sys::InvalidOid),
            index.is_some(),
            snapshot,
            keys.len() as i32,
            keys.as_mut_ptr(),
        );
        let descriptor = (*relation).rd_att;
        let columns = usize::try_from((*descriptor).natts).unwrap_or(0);
        let mut row = Row { values: vec![pg_sys::Datum::from(0); columns], nulls: vec![true; columns] };
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            if as_of == AsOf::Replaced && !replaced_here(tuple) {
                continue;
            }
            pg_sys::heap_deform_tuple(tuple, descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            each(&row);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}

/// Whether this transaction has deleted or updated a version of a row.
unsafe fn replaced_here(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: the caller gives a tuple of a heap table, pinned by its scan.
    unsafe {
        let header = (*tuple).t_data;
        let bits = u32::from((*header).t_infomask);
        if bits & pg_sys::HEAP_XMAX_INVALID != 0 || bits & pg_sys::HEAP_XMAX_LOCK_ONLY != 0 {
            return false;
        }
        let by = if bits & pg_sys::HEAP_XMAX_IS_MULTI == 0 {
            (*header).t_choice.t_heap.t_xmax
        } else {
            pg_sys::HeapTupleGetUpdateXid(header)
        };
        pg_sys::TransactionIdIsCurrentTransactionId(by)
    }
}
