//! The keys of rows that passed: most statements know one, a bulk load some thousands.
//!
//! A key is 16 bytes that stand for a value exactly ([`super::keys::exact`]). [`Known::has`] runs for every row, in plain frames.
//!
//! Where a row names its tenant, what was found out about it has nothing to do with the table: it follows from the tenant, whose
//! lock is held, from who the session is, and for those whose tenants are counted from the statement. So these keys are kept for all
//! tables and partitions together, for as long as that [`Basis`] lasts.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::{mem, ptr};

use pgrx::pg_sys;

use super::process::process_local;
use super::{statement, tenants};
use crate::policy::tenant::TenantType;

/// A key. Not a number of 128 bits: Postgres's memory is aligned to 8 bytes.
pub type Short = [u64; 2];

/// No value's key.
pub const NO_KEY: Short = [u64::MAX; 2];

/// Slots of the table when a second key comes.
const FEWEST: usize = 64;

/// It grows to four times as many, and no further than this, 1 MB: then it begins anew, and rows are looked up in the session's own
/// cache.
const MOST: usize = FEWEST << 10;

/// How many slots all tables of a process have together, 16 MB, beyond what each may have in any case: a statement writes to as
/// many tables as there are partitions.
const ALL: usize = 16 * MOST;

/// What keys that passed have in common. If anything of it is another, they are nothing to go by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// Who the session was, by [`super::session::Who::serial`]; another policy makes it another.
    pub who: u64,
    /// The type that the keys stand for.
    pub of: TenantType,
    /// The client's statement; 0 = any of the transaction.
    statement: u64,
    /// What [`tenants::lost`] said: it goes on when locks are gone that the keys passed under, and when the transaction ends.
    lost: u64,
}

impl Basis {
    /// As it is now. `counted` says whether the statement's tenants are counted. A plain frame.
    pub fn now(who: u64, of: TenantType, counted: bool) -> Basis {
        Basis { who, of, statement: if counted { statement::number() } else { 0 }, lost: tenants::lost() }
    }
}

process_local! {
    /// The keys of tenants, whatever the table, that passed last.
    static TENANTS: RefCell<Option<(Basis, Known)>> = const { RefCell::new(None) };
    /// Of [`ALL`], the slots that are taken.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// Whether a tenant's key is known to pass. A plain frame.
pub fn has_tenant(basis: Basis, key: Short) -> bool {
    TENANTS.try_borrow_mut().is_ok_and(|mut tenants| match tenants.as_mut() {
        Some((of, known)) => *of == basis && known.has(key),
        None => false,
    })
}

/// A tenant's key passes.
pub fn add_tenant(basis: Basis, key: Short) {
    // It isn't borrowed while memory is allocated: that may fail.
    let mut known = match TENANTS.take() {
        Some((of, known)) if of == basis => known,
        Some((_, mut old)) => {
            old.clear();
            old
        }
        None => Known::NONE,
    };
    // SAFETY: that context lasts as long as the process.
    unsafe { known.add(key, pg_sys::TopMemoryContext) };
    TENANTS.replace(Some((basis, known)));
}

/// Gives slots back when the memory goes that they are in.
#[repr(C)]
struct Lease {
    callback: pg_sys::MemoryContextCallback,
    slots: usize,
}

/// Runs while an error is dealt with, or a statement ends: it only touches this process's memory.
unsafe extern "C-unwind" fn give_back(lease: *mut c_void) {
    // SAFETY: lease() registered it with a lease of the same memory, which is still there.
    let slots = unsafe { (*lease.cast::<Lease>()).slots };
    TAKEN.set(TAKEN.get() - slots);
}

/// A set of keys in the statement's memory. Without a destructor: it goes with that.
#[derive(Clone, Copy)]
pub struct Known {
    /// The key of the last row.
    pub last: Short,
    /// A hash table with linear probing, never more than half full; null as long as one key is all there is.
    slots: *mut Short,
    /// Of them, a power of two.
    capacity: usize,
    count: usize,
    /// For what it takes of [`ALL`]; null as long as that is nothing.
    lease: *mut Lease,
}

impl Known {
    /// Of none.
    pub const NONE: Known =
        Known { last: NO_KEY, slots: ptr::null_mut(), capacity: 0, count: 0, lease: ptr::null_mut() };

    /// Whether the key is among them. A plain frame.
    pub fn has(&mut self, key: Short) -> bool {
        if key == self.last {
            return key != NO_KEY;
        }
        if self.slots.is_null() {
            return false;
        }
        // SAFETY: place() gives one of the slots.
        let found = unsafe { *self.slots.add(self.place(key)) } == key;
        if found {
            self.last = key;
        }
        found
    }

    /// Adds a key.
    ///
    /// # Safety
    /// `memory` lasts as long as this is used.
    pub unsafe fn add(&mut self, key: Short, memory: pg_sys::MemoryContext) {
        let first = mem::replace(&mut self.last, key);
        if first == NO_KEY || first == key {
            return;
        }
        if self.slots.is_null() {
            // SAFETY: the caller's.
            unsafe { self.resize(FEWEST, memory) };
            self.put(first);
        } else if self.count * 2 >= self.capacity {
            // SAFETY: the caller's; the old slots came from there.
            unsafe {
                let (slots, capacity) = (self.slots, self.capacity);
                if capacity < MOST && self.lease(capacity * 4, memory) {
                    self.resize(capacity * 4, memory);
                    (0..capacity).map(|n| *slots.add(n)).filter(|old| *old != NO_KEY).for_each(|old| self.put(old));
                } else {
                    self.resize(capacity, memory);
                }
                pg_sys::pfree(slots.cast());
            }
        }
        self.put(key);
    }

    /// Takes all of them out.
    pub fn clear(&mut self) {
        if !self.slots.is_null() {
            // SAFETY: resize() allocated it.
            unsafe { pg_sys::pfree(self.slots.cast()) };
        }
        if !self.lease.is_null() {
            // SAFETY: lease() made it, and it is there as long as the slots' memory.
            let slots = unsafe { mem::take(&mut (*self.lease).slots) };
            TAKEN.set(TAKEN.get() - slots);
        }
        *self = Known { lease: self.lease, ..Known::NONE };
    }

    /// Whether it may have so many slots, more than it has.
    unsafe fn lease(&mut self, capacity: usize, memory: pg_sys::MemoryContext) -> bool {
        // SAFETY: the caller gives the context of the slots; the lease is in it, so that it is there when the callback runs.
        unsafe {
            if self.lease.is_null() {
                self.lease = pg_sys::MemoryContextAllocZero(memory, size_of::<Lease>()).cast();
                (*self.lease).callback.func = Some(give_back);
                (*self.lease).callback.arg = self.lease.cast();
                pg_sys::MemoryContextRegisterResetCallback(memory, &raw mut (*self.lease).callback);
            }
            let more = capacity - (*self.lease).slots;
            if TAKEN.get() + more > ALL {
                return false;
            }
            TAKEN.set(TAKEN.get() + more);
            (*self.lease).slots = capacity;
            true
        }
    }

    unsafe fn resize(&mut self, capacity: usize, memory: pg_sys::MemoryContext) {
        // SAFETY: the caller gives a context; NO_KEY is all bits set.
        unsafe {
            self.slots = pg_sys::MemoryContextAlloc(memory, capacity * size_of::<Short>()).cast();
            ptr::write_bytes(self.slots.cast::<u8>(), u8::MAX, capacity * size_of::<Short>());
        }
        (self.capacity, self.count) = (capacity, 0);
    }

    fn put(&mut self, key: Short) {
        // SAFETY: place() gives one of the slots.
        let slot = unsafe { &mut *self.slots.add(self.place(key)) };
        self.count += usize::from(*slot != key);
        *slot = key;
    }

    /// The slot where a key is, or would be. A plain frame.
    fn place(&self, key: Short) -> usize {
        let folded = key[0] ^ key[1].rotate_left(32);
        // Fibonacci hashing: the top bits of the product, and only they, depend on all bits of the key.
        let product = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = (product >> (u64::BITS - self.capacity.trailing_zeros())) as usize;
        loop {
            // SAFETY: within the capacity; a slot is free, because they are never more than half full.
            let slot = unsafe { *self.slots.add(place) };
            if slot == key || slot == NO_KEY {
                return place;
            }
            place = (place + 1) & (self.capacity - 1);
        }
    }
}
