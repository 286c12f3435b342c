//! What makes a row pass without a closer look: the key that its tenant hangs on is that of the row before, or one that this
//! statement has seen.
//!
//! Everything here but [`Memo::of`] and [`Memory::remember`] runs for every row, in plain frames: it allocates nothing and
//! compares values where they lie.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::keys::{self, KeyColumn};
use super::known::{self, Basis, Known, Short};
use super::parents::LinkColumn;
use super::relation::Locate;
use super::session::Who;
use super::{columns, compat, tenants};
use crate::policy::backend::Trust;
use crate::policy::columns::KeyColumns;
use crate::policy::tenant::TenantType;

/// The longest raw key that is remembered from row to row, where it isn't one for [`Known`]; longer ones are looked up for
/// each row. Three columns of a few bytes fit, or two of type uuid.
const REMEMBERED: usize = 64;

/// Fills up.
const NO_COLUMN: KeyColumn = KeyColumn { attnum: 0, of: TenantType::Integer };

/// What must be the same in both rows.
#[derive(Clone, Copy)]
enum Memo {
    /// This column, of a type of this family: the tenant column, or a foreign key that consists of it.
    Column(c_int, TenantType),
    /// These columns.
    Columns(Columns),
    /// Nothing more: all rows of the table are of one tenant.
    Table,
    /// Nothing short of a look at the row.
    Nothing,
}

/// A key of several columns, without a pointer to them.
#[derive(Clone, Copy)]
struct Columns {
    count: usize,
    first: [KeyColumn; KeyColumns::MOST],
}

impl Columns {
    fn as_slice(&self) -> &[KeyColumn] {
        self.first.get(..self.count).unwrap_or_default()
    }
}

impl Memo {
    fn of(locate: &Locate) -> Memo {
        let own = |column: &KeyColumn| Some(*column);
        let of_parent = |c: &LinkColumn| Some(KeyColumn { attnum: c.attnum, of: columns::tenant_type(c.of)? });
        match locate {
            Locate::Columns(columns) => Memo::by(columns.iter().map(own)),
            Locate::Parent(link) => Memo::by(link.columns.iter().map(of_parent)),
            Locate::Constant(_) => Memo::Table,
            Locate::Nowhere => Memo::Nothing,
        }
    }

    /// By columns whose types can all be told.
    fn by(columns: impl ExactSizeIterator<Item = Option<KeyColumn>>) -> Memo {
        let (count, mut first) = (columns.len(), [NO_COLUMN; KeyColumns::MOST]);
        for (n, column) in columns.enumerate() {
            let (Some(place), Some(column)) = (first.get_mut(n), column) else { return Memo::Nothing };
            *place = column;
        }
        match count {
            0 => Memo::Nothing,
            1 => Memo::Column(c_int::from(first[0].attnum), first[0].of),
            _ => Memo::Columns(Columns { count, first }),
        }
    }
}

/// The keys of a statement's rows that passed.
#[derive(Clone, Copy)]
pub struct Memory {
    memo: Memo,
    /// What [`tenants::lost`] said when the first of them passed: it goes on when locks are gone that they passed under.
    lost: u64,
    /// Who the session is, where the column names the tenant, so that the keys are known to other tables as well.
    who: Option<u64>,
    /// Whether the statement's tenants are counted.
    counted: bool,
    /// Short keys of a single column; the last one alone, where others are known together with those of other tables.
    known: Known,
    /// Of the raw key of the last row, where it is of another kind; 0 = none.
    length: usize,
    last: [u8; REMEMBERED],
}

impl Memory {
    /// Of a table whose tenants nobody asks for.
    pub const NONE: Memory = Memory {
        memo: Memo::Nothing,
        lost: 0,
        who: None,
        counted: false,
        known: Known::NONE,
        length: 0,
        last: [0; REMEMBERED],
    };

    /// Of a table whose rows have their tenants there, for a session that is this one.
    pub fn of(locate: &Locate, who: &Who) -> Memory {
        let names_tenant = matches!(locate, Locate::Columns(_));
        Memory {
            memo: Memo::of(locate),
            lost: tenants::lost(),
            who: names_tenant.then_some(who.serial),
            counted: who.identity.trust() == Some(Trust::Unproven),
            ..Memory::NONE
        }
    }

    /// What keys of this type, and of tenants, have passed under.
    fn basis(&self, of: TenantType) -> Option<Basis> {
        Some(Basis::now(self.who?, of, self.counted))
    }

    /// Whether the row's tenant is one that is known to pass. A plain frame.
    ///
    /// # Safety
    /// The slot is one of the table's.
    pub unsafe fn passes(&mut self, slot: *mut pg_sys::TupleTableSlot) -> bool {
        if self.lost != tenants::lost() {
            return false;
        }
        // SAFETY: the caller gives a slot of the table that the columns are of.
        unsafe {
            let (attnum, of) = match &self.memo {
                Memo::Column(attnum, of) => (*attnum, *of),
                Memo::Columns(columns) => return self.passes_by(columns.as_slice(), slot),
                Memo::Table => return self.length > 0,
                Memo::Nothing => return false,
            };
            let Some(value) = column(slot, attnum) else { return false };
            match keys::exact(of, value) {
                Some(key) => self.known.has(key) || self.is_known_elsewhere(of, key),
                None => keys::is(&self.last[..self.length], of, value),
            }
        }
    }

    /// Whether another table's row, or partition's, or an earlier statement's has passed with this key. A plain frame.
    fn is_known_elsewhere(&mut self, of: TenantType, key: Short) -> bool {
        let known = self.basis(of).is_some_and(|basis| known::has_tenant(basis, key));
        if known {
            self.known.last = key;
        }
        known
    }

    unsafe fn passes_by(&self, columns: &[KeyColumn], slot: *mut pg_sys::TupleTableSlot) -> bool {
        let Some(mut rest) = keys::components(&self.last[..self.length]) else { return false };
        columns.iter().all(|key| {
            // SAFETY: as above.
            let value = unsafe { column(slot, c_int::from(key.attnum)) };
            let (Some(value), Some(component)) = (value, keys::next_component(&mut rest)) else { return false };
            // SAFETY: the value is one of this column.
            unsafe { keys::is(component, key.of, value) }
        })
    }

    /// Whether both versions of a row have the same key, so that one check is enough. A plain frame.
    ///
    /// # Safety
    /// The slots are of the table.
    pub unsafe fn same_tenant(&self, old: *mut pg_sys::TupleTableSlot, new: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: the caller gives slots of the table that the columns are of.
        unsafe {
            match &self.memo {
                Memo::Column(attnum, of) => same_value(*attnum, *of, old, new),
                Memo::Columns(columns) => {
                    columns.as_slice().iter().all(|key| same_value(c_int::from(key.attnum), key.of, old, new))
                }
                Memo::Table => true,
                Memo::Nothing => false,
            }
        }
    }

    /// Remembers a row that passed.
    ///
    /// # Safety
    /// The value is one of a row of the table; `memory` is the statement's.
    pub unsafe fn remember(
        &mut self,
        value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>,
        memory: pg_sys::MemoryContext,
    ) {
        if self.lost != tenants::lost() {
            self.known.clear();
            (self.lost, self.length) = (tenants::lost(), 0);
        }
        let raw = match &self.memo {
            Memo::Column(attnum, of) => {
                let Ok(attnum) = pg_sys::AttrNumber::try_from(*attnum) else { return };
                // SAFETY: the value is one of this column.
                if let Some(key) = value(attnum).and_then(|value| unsafe { keys::exact(*of, value) }) {
                    match self.basis(*of) {
                        Some(basis) => {
                            known::add_tenant(basis, key);
                            self.known.last = key;
                        }
                        // SAFETY: the caller's.
                        None => unsafe { self.known.add(key, memory) },
                    }
                    return;
                }
                keys::of_row(&[KeyColumn { attnum, of: *of }], value)
            }
            Memo::Columns(columns) => keys::of_row(columns.as_slice(), value),
            Memo::Table => {
                self.length = 1;
                return;
            }
            Memo::Nothing => return,
        };
        if let Some(raw) = raw.filter(|raw| raw.len() <= REMEMBERED) {
            self.last[..raw.len()].copy_from_slice(&raw);
            self.length = raw.len();
        }
    }
}

unsafe fn same_value(
    attnum: c_int,
    of: TenantType,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
) -> bool {
    // SAFETY: the callers give slots of the table, and the type of its column.
    unsafe {
        match (column(old, attnum), column(new, attnum)) {
            (None, None) => true,
            (Some(old), Some(new)) => keys::same(of, old, new),
            _ => false,
        }
    }
}

/// A column of a slot; none if it is null. A plain frame.
///
/// # Safety
/// The slot belongs to a relation that has the column.
pub unsafe fn column(slot: *mut pg_sys::TupleTableSlot, attnum: c_int) -> Option<pg_sys::Datum> {
    // SAFETY: slot_getsomeattrs_int makes the column valid, which the caller says there is.
    unsafe {
        if c_int::from((*slot).tts_nvalid) < attnum {
            compat::slot_getsomeattrs_int(slot, attnum);
        }
        let index = attnum as usize - 1;
        (!*(*slot).tts_isnull.add(index)).then(|| *(*slot).tts_values.add(index))
    }
}
