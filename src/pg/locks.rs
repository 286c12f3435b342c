//! Tenant locks: transaction-level heavyweight locks of a class of their own.
//!
//! A writer shares its tenant's lock; a cutover takes it exclusively. Past a threshold a writer shares the lock on *all
//! tenants* instead, which every cutover meets with an intent lock. Order: the tenant first, then all; whoever holds
//! "all" waits for no tenant.
//!
//! Before both, a cutover shares the lock on *who may own*, which whoever retires a backend takes exclusively. So it waits for
//! that while it holds nobody up.
//!
//! They are advisory locks to Postgres, so that it lists them in `pg_locks`, keeps them for prepared transactions and
//! looks for deadlocks. The application's own have 1 or 2 in the tag's fourth field, so the classes never meet.

use std::ffi::CString;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use super::compat;
use super::subtransaction::in_subtransaction;
use crate::policy::tenant::TenantKey;

/// The fourth field of a tenant's lock tag; `objsubid` in `pg_locks`.
pub const TENANT_CLASS: u16 = 0x4846;
/// The fourth field of the tag of the lock on all tenants.
pub const ALL_CLASS: u16 = 0x4847;

/// The fourth field of the tag of the lock on moves of parents.
pub const MOVES_CLASS: u16 = 0x4848;

/// The fourth field of the tag of the places that CALLs of run_wave have.
pub const WAVE_CLASS: u16 = 0x4849;

/// The fourth field of the tag of the lock on who may own tenants.
pub const OWNERS_CLASS: u16 = 0x484A;

/// How long who asks politely stays in a queue.
const MOMENT: Patience = Patience { milliseconds: 50 };

/// Writers share.
const SHARE: pg_sys::LOCKMODE = pg_sys::ShareLock as pg_sys::LOCKMODE;
/// Held by a cutover on its tenant: conflicts with writers and with other cutovers of that tenant.
const EXCLUSIVE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
/// Held by a cutover on "all": conflicts with a writer's share of it, not with other cutovers.
const INTENT: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

/// How long a lock may be waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// In milliseconds, at least 1.
    pub milliseconds: i32,
}

/// A lock that could not be had in time. Nothing is held or queued for it any more.
#[derive(Clone, Copy, Debug)]
pub struct TimedOut;

/// Why the exclusive side did not get a lock. Nothing is held or queued for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHad {
    /// Not in time.
    TimedOut,
    /// It was part of a deadlock that no order of the queue resolves, and stepped back.
    Deadlock,
}

/// A lock's tag.
#[derive(Clone, Copy)]
pub struct Tag(pg_sys::LOCKTAG);

impl Tag {
    /// Of a tenant.
    pub fn tenant(tenant: &TenantKey) -> Tag {
        let hash = tenant.lock_hash();
        Tag::new((hash >> 32) as u32, hash as u32, TENANT_CLASS)
    }

    /// Of all tenants.
    pub fn all() -> Tag {
        Tag::new(0, 0, ALL_CLASS)
    }

    /// Of the commits that move parents.
    pub fn moves() -> Tag {
        Tag::new(0, 0, MOVES_CLASS)
    }

    /// Of a place among those that run a wave.
    pub fn wave(wave: u32, place: u32) -> Tag {
        Tag::new(wave, place, WAVE_CLASS)
    }

    /// Of who may own tenants, and who owns those that have no row.
    pub fn owners() -> Tag {
        Tag::new(0, 0, OWNERS_CLASS)
    }

    /// Whether it is that.
    pub fn is_owners(self) -> bool {
        self.0.locktag_field4 == OWNERS_CLASS
    }

    fn new(field2: u32, field3: u32, class: u16) -> Tag {
        Tag(pg_sys::LOCKTAG {
            // SAFETY: a plain read of the process's database.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: field2,
            locktag_field3: field3,
            locktag_field4: class,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        })
    }

    /// The tag's class; `objsubid` in `pg_locks`.
    pub fn class(&self) -> u16 {
        self.0.locktag_field4
    }

    /// The two halves of the hash, as `classid` and `objid` of `pg_locks` show them.
    pub fn halves(&self) -> (u32, u32) {
        (self.0.locktag_field2, self.0.locktag_field3)
    }
}

/// Shares a lock until the (sub)transaction ends, waiting behind a cutover at most as long as `patience` says.
///
/// # Errors
/// [`TimedOut`]; the caller must raise an error, since Postgres's own was caught without a subtransaction.
pub fn share(tag: Tag, patience: Patience) -> Result<(), TimedOut> {
    if try_share(tag) { Ok(()) } else { wait_for(tag, SHARE, patience) }
}

/// Gives back a lock that [`share`] took.
pub fn give_back(tag: Tag) {
    // SAFETY: the tag is a valid one of the advisory lock method; a lock that isn't held gives a warning.
    unsafe { pg_sys::LockRelease(&tag.0, SHARE, false) };
}

/// Whether this transaction shares a lock.
pub fn is_shared(tag: Tag) -> bool {
    compat::is_locked(&tag.0, SHARE)
}

/// Takes a tenant's lock exclusively until the transaction ends.
///
/// # Errors
/// [`NotHad`]; the caller must roll its subtransaction back.
pub fn exclude(tag: Tag, patience: Patience) -> Result<(), NotHad> {
    wait_stepping_back(tag, EXCLUSIVE, patience)
}

/// Announces a cutover to those who share all tenants.
///
/// # Errors
/// As for [`exclude`].
pub fn intend(patience: Patience) -> Result<(), NotHad> {
    wait_stepping_back(Tag::all(), INTENT, patience)
}

/// Sees to it that who may own doesn't change under a handover.
///
/// # Errors
/// As for [`exclude`].
pub fn settle_owners(patience: Patience) -> Result<(), NotHad> {
    if try_share(Tag::owners()) { Ok(()) } else { wait_stepping_back(Tag::owners(), SHARE, patience) }
}

/// Takes a lock exclusively without stepping back from a deadlock.
///
/// # Errors
/// [`TimedOut`]; as for [`share`].
pub fn take(tag: Tag, patience: Patience) -> Result<(), TimedOut> {
    wait_for(tag, EXCLUSIVE, patience)
}

/// As [`take`], but never for longer than a moment in the way of those who want to share it: whoever has it may keep it for
/// long.
///
/// # Errors
/// As for [`take`].
pub fn take_by_turns(tag: Tag, patience: Patience) -> Result<(), TimedOut> {
    // SAFETY: a plain read of the setting.
    let theirs = unsafe { pg_sys::LockTimeout };
    let all = if theirs > 0 { theirs.min(patience.milliseconds) } else { patience.milliseconds };
    let until = Instant::now() + Duration::from_millis(all.unsigned_abs().into());
    loop {
        // What was caught of an error has to be rolled back.
        if try_take(tag) || in_subtransaction(|| take(tag, MOMENT)).is_ok() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(TimedOut);
        }
        pause(MOMENT.milliseconds.into());
    }
}

/// Shares a lock if it can be had at once; whether it could.
pub fn try_share(tag: Tag) -> bool {
    try_lock(tag, SHARE)
}

/// Whether no command on a database waits for everybody to leave it: takes the lock that every session takes when it connects,
/// if it can be had at once.
pub fn may_use_database(database: pg_sys::Oid) -> bool {
    let tag = Tag(pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    });
    try_lock(tag, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)
}

/// Takes a lock exclusively if it can be had at once; whether it could.
pub fn try_take(tag: Tag) -> bool {
    try_lock(tag, EXCLUSIVE)
}

fn try_lock(tag: Tag, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: the tag is a valid one of the advisory lock method. Without waiting, which also respects those who queue.
    let result = unsafe { pg_sys::LockAcquire(&tag.0, mode, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Waits so that a deadlock with writers costs the cutover its turn, and no writer its transaction.
fn wait_stepping_back(tag: Tag, mode: pg_sys::LOCKMODE, patience: Patience) -> Result<(), NotHad> {
    let recheck = DeadlockRecheck::start();
    PgTryBuilder::new(|| wait_for(tag, mode, patience).map_err(|TimedOut| NotHad::TimedOut))
        .catch_when(PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED, |_| Err(NotHad::Deadlock))
        .finally(|| recheck.stop())
        .execute()
}

/// What DDL a table is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableLock {
    /// CREATE TRIGGER and ENABLE TRIGGER: writers wait, readers don't.
    ShareRowExclusive,
    /// DROP TRIGGER: everybody waits.
    AccessExclusive,
}

/// Locks tables and their partitions for DDL without ever standing in the way: a lock request that queues behind a long
/// transaction would make everybody else queue behind it. So it asks for a moment, lets go of everything, the tables that
/// were had included, and asks again.
///
/// # Errors
/// The table that wasn't had in the last of `attempts`.
pub fn lock_tables_politely(tables: &[pg_sys::Oid], lock: TableLock, attempts: u32) -> Result<(), pg_sys::Oid> {
    let mode = match lock {
        TableLock::ShareRowExclusive => pg_sys::ShareRowExclusiveLock,
        TableLock::AccessExclusive => pg_sys::AccessExclusiveLock,
    } as pg_sys::LOCKMODE;
    let lock = |table: pg_sys::Oid| {
        within(MOMENT, || {
            // SAFETY: takes locks by oid, which needs no more than that; the second call locks what inherits from the first's
            // table.
            unsafe {
                pg_sys::LockRelationOid(table, mode);
                compat::guarded(|| compat::find_all_inheritors(table, mode, std::ptr::null_mut()));
            }
        })
    };
    let all = || tables.iter().try_for_each(|table| lock(*table).map_err(|TimedOut| *table));
    let mut outcome = in_subtransaction(all);
    for attempt in 1..attempts {
        if outcome.is_ok() {
            break;
        }
        pause(50 << (attempt - 1).min(4));
        outcome = in_subtransaction(all);
    }
    outcome
}

/// Sleeps, interruptibly.
pub fn pause(milliseconds: i64) {
    let events = (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: waits on the process's own latch, as any session may.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

fn wait_for(tag: Tag, mode: pg_sys::LOCKMODE, patience: Patience) -> Result<(), TimedOut> {
    within(patience, || {
        // SAFETY: the tag is a valid one of the advisory lock method.
        unsafe { pg_sys::LockAcquire(&tag.0, mode, false, false) };
    })
}

/// Waits for a lock under Postgres's own `lock_timeout`, set for this wait alone; a shorter one of the user stays in force
/// and its error passes unchanged.
pub fn within(patience: Patience, lock: impl FnOnce() + UnwindSafe + RefUnwindSafe) -> Result<(), TimedOut> {
    // SAFETY: a plain read of the setting.
    let theirs = unsafe { pg_sys::LockTimeout };
    if theirs > 0 && theirs <= patience.milliseconds {
        lock();
        return Ok(());
    }
    let milliseconds = CString::new(patience.milliseconds.max(1).to_string()).unwrap_or_default();
    // SAFETY: a GUC nest level of our own: the old value comes back at AtEOXact_GUC, or by itself when an error unwinds the
    // (sub)transaction.
    let nest = unsafe {
        let nest = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            milliseconds.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        nest
    };
    let locked = PgTryBuilder::new(|| {
        lock();
        Ok(())
    })
    .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| Err(TimedOut))
    .execute();
    // SAFETY: closes the level opened above.
    unsafe { pg_sys::AtEOXact_GUC(true, nest) };
    locked
}

/// While a cutover waits for its tenant, looks for a deadlock every few milliseconds instead of once after
/// `deadlock_timeout`.
///
/// The cutover itself makes the cycles that matter: writer A shares the tenant and waits for a row that writer B has
/// locked, and B queues for the tenant behind the cutover, which waits for A. Postgres's detector resolves that without
/// an error, by letting B pass the cutover in the queue, but looks only once and a second late; until then the tenant's
/// writers would stand still.
struct DeadlockRecheck {
    timeout: i32,
    log_lock_waits: bool,
}

impl DeadlockRecheck {
    const EVERY_MS: i32 = 5;

    fn start() -> DeadlockRecheck {
        thread_local! {
            static TIMEOUT: std::cell::OnceCell<i32> = const { std::cell::OnceCell::new() };
        }
        // SAFETY: RegisterTimeout takes the next free id of this process and a handler that only sets flags; with
        // log_lock_waits every look would be logged, so it is off meanwhile.
        unsafe {
            let timeout = TIMEOUT.with(|t| {
                *t.get_or_init(|| compat::RegisterTimeout(compat::USER_TIMEOUT, Some(compat::CheckDeadLockAlert)))
            });
            let first = pg_sys::GetCurrentTimestamp() + i64::from(Self::EVERY_MS) * 1_000;
            compat::enable_timeout_every(timeout, first, Self::EVERY_MS);
            let log_lock_waits = pg_sys::log_lock_waits;
            pg_sys::log_lock_waits = false;
            DeadlockRecheck { timeout, log_lock_waits }
        }
    }

    fn stop(&self) {
        // SAFETY: undoes what start() did.
        unsafe {
            compat::disable_timeout(self.timeout, false);
            pg_sys::log_lock_waits = self.log_lock_waits;
        }
    }
}
