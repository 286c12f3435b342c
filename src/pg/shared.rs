//! Shared memory: reserved while the server loads the library, laid out at each of its starts, a crash restart included, and there
//! for as long as it runs.

use std::ffi::{CStr, c_int};
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::{audit, end_date, parent_changes, stats};

/// Everything that lies in shared memory.
static REGIONS: [&Region; 5] =
    [&audit::QUEUE, &audit::schedule::REGION, &stats::REGION, &end_date::REGION, &parent_changes::REGION];

/// A piece of shared memory.
pub struct Region {
    /// Unique in the server.
    pub name: &'static CStr,
    /// In bytes. Settings have their values when it is asked.
    pub size: fn() -> usize,
    /// How many LWLocks belong to it: Postgres's tranche of its name.
    pub locks: c_int,
    /// Lays it out, where that takes more than zeros. Nobody else is there yet; the address has the size asked for.
    pub lay_out: Option<unsafe fn(*mut u8)>,
    /// Tells this process, and those that will be forked from it, where it is.
    pub attach: fn(*mut u8),
}

static NEXT_REQUEST: OnceCell<pg_sys::shmem_request_hook_type> = OnceCell::new();
static NEXT_STARTUP: OnceCell<pg_sys::shmem_startup_hook_type> = OnceCell::new();

/// Called once, from `_PG_init`.
pub fn install() {
    // SAFETY: _PG_init runs on the postmaster's only thread.
    unsafe {
        let _ = NEXT_REQUEST.set(pg_sys::shmem_request_hook);
        let _ = NEXT_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_request_hook = Some(request);
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: this hook is the place for such requests.
    unsafe {
        if let Some(Some(next)) = NEXT_REQUEST.get() {
            next();
        }
        for region in REGIONS {
            pg_sys::RequestAddinShmemSpace((region.size)());
            if region.locks > 0 {
                pg_sys::RequestNamedLWLockTranche(region.name.as_ptr(), region.locks);
            }
        }
    }
}

/// Runs at start-up and again after a crash restart.
#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: each region gets memory of the size that it asked for, which is written under Postgres's own lock.
    unsafe {
        if let Some(Some(next)) = NEXT_STARTUP.get() {
            next();
        }
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        for region in REGIONS {
            let (mut found, size) = (false, (region.size)());
            let memory = pg_sys::ShmemInitStruct(region.name.as_ptr(), size, &mut found).cast::<u8>();
            if !found {
                ptr::write_bytes(memory, 0, size);
                if let Some(lay_out) = region.lay_out {
                    lay_out(memory);
                }
            }
            (region.attach)(memory);
        }
        pg_sys::LWLockRelease(lock);
    }
}

/// `AddinShmemInitLock` of storage/lwlocknames.h, the same in all supported versions.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// A lock of a region's tranche, for its `lay_out`.
///
/// # Safety
/// The region has asked for more than `n` locks.
pub unsafe fn lock(name: &CStr, n: usize) -> *mut pg_sys::LWLock {
    // SAFETY: the tranche has as many locks as were asked for.
    unsafe { &raw mut (*pg_sys::GetNamedLWLockTranche(name.as_ptr()).add(n)).lock }
}
