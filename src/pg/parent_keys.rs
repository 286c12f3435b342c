//! The columns by whose values rows of other tables refer to a table's rows, compared from an old version of a row to the new one.

use std::ffi::c_int;
use std::ptr;

use pgrx::pg_sys;

use super::memo::column;

/// One of them.
#[derive(Clone, Copy)]
struct KeyPart {
    attnum: c_int,
    /// As in pg_type.
    length: i16,
    by_value: bool,
}

/// Those that a statement may change.
#[derive(Clone, Copy)]
pub struct ParentKeys {
    /// Null as long as nobody has asked.
    parts: *const KeyPart,
    count: usize,
}

impl ParentKeys {
    /// Not asked for yet.
    pub const UNKNOWN: ParentKeys = ParentKeys { parts: ptr::null(), count: 0 };
    /// None.
    pub const NONE: ParentKeys = ParentKeys { parts: ptr::NonNull::dangling().as_ptr(), count: 0 };

    /// Whether somebody has asked.
    pub fn are_known(&self) -> bool {
        !self.parts.is_null()
    }

    /// Those of the relation of an UPDATE, in memory that lasts as long as they are used.
    ///
    /// # Safety
    /// A trigger's data, of an event UPDATE.
    pub unsafe fn find(data: &pg_sys::TriggerData, memory: pg_sys::MemoryContext) -> ParentKeys {
        // SAFETY: the trigger manager gives an open relation, whose columns these are.
        unsafe {
            if !may_change_keys(data) {
                return ParentKeys::NONE;
            }
            let keys = keys(data.tg_relation);
            let mut parts = Vec::new();
            let mut member = pg_sys::bms_next_member(keys, -1);
            while member >= 0 {
                let attnum = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
                let of = pg_sys::get_atttype((*data.tg_relation).rd_id, attnum as pg_sys::AttrNumber);
                let mut part = KeyPart { attnum, length: 0, by_value: false };
                pg_sys::get_typlenbyval(of, &mut part.length, &mut part.by_value);
                parts.push(part);
                member = pg_sys::bms_next_member(keys, member);
            }
            let place = pg_sys::MemoryContextAlloc(memory, parts.len() * size_of::<KeyPart>()).cast::<KeyPart>();
            ptr::copy_nonoverlapping(parts.as_ptr(), place, parts.len());
            ParentKeys { parts: place, count: parts.len() }
        }
    }

    /// Whether a row keeps its keys; not known to, if nobody has asked for them yet. A plain frame.
    ///
    /// # Safety
    /// The slots are the trigger's.
    pub unsafe fn stay(&self, old: *mut pg_sys::TupleTableSlot, new: *mut pg_sys::TupleTableSlot) -> bool {
        if self.parts.is_null() {
            return false;
        }
        // SAFETY: find() has written so many of them; the columns are the table's.
        unsafe {
            let parts = std::slice::from_raw_parts(self.parts, self.count);
            parts.iter().all(|part| part.is_same(column(old, part.attnum), column(new, part.attnum)))
        }
    }
}

impl KeyPart {
    /// Whether two values are the same to the byte. A plain frame; equal values that are stored in two ways are said to differ.
    ///
    /// # Safety
    /// They are the column's.
    unsafe fn is_same(&self, one: Option<pg_sys::Datum>, two: Option<pg_sys::Datum>) -> bool {
        let (Some(one), Some(two)) = (one, two) else { return one.is_none() && two.is_none() };
        if self.by_value {
            return one == two;
        }
        let bytes = |datum: pg_sys::Datum| {
            let start = datum.cast_mut_ptr::<u8>();
            // SAFETY: a value of this length, or one that says itself how long it is.
            unsafe {
                let length = match usize::try_from(self.length) {
                    Ok(length) => length,
                    Err(_) if self.length == -1 => pgrx::varsize_any(start.cast()),
                    Err(_) => std::ffi::CStr::from_ptr(start.cast()).count_bytes(),
                };
                std::slice::from_raw_parts(start, length)
            }
        };
        bytes(one) == bytes(two)
    }
}

/// The columns of the table's keys; a copy.
unsafe fn keys(relation: pg_sys::Relation) -> *mut pg_sys::Bitmapset {
    // SAFETY: the caller gives an open relation.
    unsafe { pg_sys::RelationGetIndexAttrBitmap(relation, pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_KEY) }
}

/// Whether an UPDATE may change a key: a column of it is named, or another trigger may write it.
///
/// # Safety
/// A trigger's data, of an event UPDATE.
pub unsafe fn may_change_keys(data: &pg_sys::TriggerData) -> bool {
    // SAFETY: the trigger manager gives an open relation, whose triggers include this one.
    unsafe {
        (*(*data.tg_relation).trigdesc).numtriggers > 1 && has_other_update_triggers(data.tg_relation)
            || pg_sys::bms_overlap(keys(data.tg_relation), data.tg_updatedcols)
    }
}

/// Whether triggers beside the guard see a row before it is updated, and may change its key.
unsafe fn has_other_update_triggers(relation: pg_sys::Relation) -> bool {
    const SEES_UPDATES: i16 =
        (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_UPDATE) as i16;
    // SAFETY: the caller gives a relation that has triggers.
    let triggers = unsafe {
        let descriptor = (*relation).trigdesc;
        std::slice::from_raw_parts((*descriptor).triggers, usize::try_from((*descriptor).numtriggers).unwrap_or(0))
    };
    triggers.iter().filter(|t| t.tgtype & SEES_UPDATES == SEES_UPDATES).count() > 1
}
