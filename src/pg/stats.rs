//! Counts how often rules were asked, and what came of it, for the view `stats`.
//!
//! A session counts in its own memory and adds to shared memory when its transaction ends, and before it raises a refusal.
//! `Shared::lock` protects which backend an entry is for; the figures are atomics that everybody adds to. An entry that is given to
//! another backend gets another `generation`, so that what a session still holds for the former one is dropped.

use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::compat;
use super::process::process_local;
use super::session::Session;
use super::shared::{self, Region};
use crate::policy::looks::{Ending, Look, RULES, Tally};
use crate::policy::rules::Rule;

/// How many backends of all databases are told apart; the others are counted together.
const ENTRIES: usize = 1_024;

const NAME: &std::ffi::CStr = c"holdfast stats";

/// A backend of an installation of the extension: one that is dropped and created again begins anew.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    /// InvalidOid = the entry is unused.
    database: pg_sys::Oid,
    extension: pg_sys::Oid,
    /// Of the backend's name; 0 = sessions of no backend.
    backend: u64,
}

impl Key {
    const UNUSED: Key = Key { database: pg_sys::InvalidOid, extension: pg_sys::InvalidOid, backend: 0 };

    fn of(extension: pg_sys::Oid, backend: Option<&str>) -> Key {
        // SAFETY: a plain read.
        Key { database: unsafe { pg_sys::MyDatabaseId }, extension, backend: backend.map_or(0, hash) }
    }
}

fn hash(backend: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    backend.hash(&mut hasher);
    hasher.finish().max(1)
}

#[repr(C)]
struct Entry {
    /// Read and written with the lock held.
    key: Cell<Key>,
    generation: AtomicU64,
    since: AtomicI64,
    /// When figures came in last, whatever has been reset since; 0 = never.
    seen: AtomicI64,
    looks: [AtomicU64; Look::COUNT],
    endings: [[AtomicU64; Ending::COUNT]; RULES],
}

impl Entry {
    fn clear(&self) {
        for figure in self.looks.iter().chain(self.endings.iter().flatten()) {
            figure.store(0, Ordering::Relaxed);
        }
        // SAFETY: has no precondition.
        self.since.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
    }

    fn tally(&self) -> Tally {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Tally {
            looks: self.looks.each_ref().map(read),
            endings: self.endings.each_ref().map(|e| e.each_ref().map(read)),
        }
    }
}

#[repr(C)]
struct Shared {
    lock: *mut pg_sys::LWLock,
    /// When this memory was laid out, which a crash of the server does anew.
    begun: AtomicI64,
    /// For whom there was no entry left; its key stays unused.
    others: Entry,
    /// How many of the entries have ever been used: the others needn't be looked at. Protected by the lock, too.
    touched: Cell<usize>,
    entries: [Entry; ENTRIES],
}

/// What this process has counted for a backend since its transaction began. Lives as long as the process.
pub struct Counts {
    key: Key,
    entry: Option<(&'static Entry, u64)>,
    looks: [Cell<u64>; Look::COUNT],
    endings: [[Cell<u64>; Ending::COUNT]; RULES],
    /// Whether anything is in `endings`.
    ended: Cell<bool>,
    /// The rule that was broken first in the look that is being taken.
    broken: Cell<Option<Rule>>,
    /// Whether a look is being taken; figures are right only when it has ended.
    looking: Cell<bool>,
    /// Whether that look ends in a refusal, which others should see counted as soon as they hear of it.
    refuses: Cell<bool>,
}

process_local! {
    static SHARED: Cell<*const Shared> = const { Cell::new(ptr::null()) };
    /// A process has few: one for each backend that it has ever been.
    static COUNTS: RefCell<Vec<&'static Counts>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Zero is a valid value of nearly all of it.
pub static REGION: Region = Region {
    name: NAME,
    size: || size_of::<Shared>(),
    locks: 1,
    lay_out: Some(lay_out),
    attach: |memory| SHARED.set(memory.cast()),
};

unsafe fn lay_out(memory: *mut u8) {
    // SAFETY: zeroed memory of this size, which nobody else sees yet.
    unsafe {
        let shared = memory.cast::<Shared>();
        (*shared).lock = shared::lock(NAME, 0);
        (*shared).begun.store(pg_sys::GetCurrentTimestamp(), Ordering::Relaxed);
        (*shared).others.clear();
    }
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or shared memory that lasts as long as the process.
    unsafe { SHARED.get().as_ref() }
}

/// Runs `work` on the entries that are or were used, with the lock held. `work` must not call anything that can raise an error.
fn locked<R>(shared: &'static Shared, mode: pg_sys::LWLockMode::Type, work: impl FnOnce(&'static [Entry]) -> R) -> R {
    // SAFETY: the lock was made by Postgres, and is released below, as `work` raises no error.
    unsafe { pg_sys::LWLockAcquire(shared.lock, mode) };
    let result = work(shared.entries.split_at(shared.touched.get().min(ENTRIES)).0);
    // SAFETY: as above.
    unsafe { pg_sys::LWLockRelease(shared.lock) };
    result
}

/// Where sessions of a backend count. Needs a transaction.
pub fn counts_of(extension: pg_sys::Oid, backend: Option<&str>) -> &'static Counts {
    let key = Key::of(extension, backend);
    if let Some(counts) = COUNTS.with(|c| c.borrow().iter().copied().find(|c| c.key == key)) {
        return counts;
    }
    if !REGISTERED.replace(true) {
        // SAFETY: a function of this library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(transaction_ended), ptr::null_mut()) };
    }
    let entry = shared().map(|shared| {
        let entry = find_or_claim(shared, key).unwrap_or(&shared.others);
        (entry, entry.generation.load(Ordering::Relaxed))
    });
    let counts = Counts {
        key,
        entry,
        looks: Default::default(),
        endings: Default::default(),
        ended: Cell::new(false),
        broken: Cell::new(None),
        looking: Cell::new(false),
        refuses: Cell::new(false),
    };
    // Row guards and sessions keep references to it.
    let counts: &'static Counts = Box::leak(Box::new(counts));
    COUNTS.with(|c| c.borrow_mut().push(counts));
    counts
}

fn find_or_claim(shared: &'static Shared, key: Key) -> Option<&'static Entry> {
    use pg_sys::LWLockMode::{LW_EXCLUSIVE, LW_SHARED};
    let of = |key| move |entry: &&Entry| entry.key.get() == key;
    if let Some(entry) = locked(shared, LW_SHARED, |entries| entries.iter().find(of(key))) {
        return Some(entry);
    }
    let claim = || {
        locked(shared, LW_EXCLUSIVE, |entries| {
            let known = entries.iter().find(of(key));
            known.or_else(|| {
                let entry = entries.iter().find(of(Key::UNUSED)).or_else(|| {
                    let next = shared.entries.get(entries.len())?;
                    shared.touched.set(entries.len() + 1);
                    Some(next)
                })?;
                entry.clear();
                entry.seen.store(0, Ordering::Relaxed);
                entry.key.set(key);
                Some(entry)
            })
        })
    };
    claim().or_else(|| if evict(shared, key) { claim() } else { None })
}

/// Frees entries of databases that are gone, and of the extension as it was here before; whether there were any.
fn evict(shared: &'static Shared, key: Key) -> bool {
    let mut databases = Vec::with_capacity(ENTRIES);
    locked(shared, pg_sys::LWLockMode::LW_SHARED, |entries| {
        databases.extend(entries.iter().map(|e| e.key.get().database))
    });
    databases.sort_unstable_by_key(|database| database.to_u32());
    databases.dedup();
    // SAFETY: a look-up by oid inside a transaction; a missing database gives null.
    databases.retain(|database| unsafe { pg_sys::get_database_name(*database) }.is_null());
    locked(shared, pg_sys::LWLockMode::LW_EXCLUSIVE, |entries| {
        let mut freed = false;
        for entry in entries {
            let of = entry.key.get();
            let outdated = of.database == key.database && of.extension != key.extension;
            if of != Key::UNUSED && (outdated || databases.contains(&of.database)) {
                entry.generation.fetch_add(1, Ordering::Relaxed);
                entry.key.set(Key::UNUSED);
                freed = true;
            }
        }
        freed
    })
}

impl Counts {
    /// The figure of a look, for those who add to it often. It is this process's own memory.
    pub fn figure(&'static self, look: Look) -> &'static Cell<u64> {
        &self.looks[look as usize]
    }

    /// A look that found every rule kept. A plain frame.
    pub fn passed(&self, look: Look) {
        add(&self.looks[look as usize], 1);
    }

    /// Takes a look.
    pub fn look<R>(&self, look: Look, take: impl FnOnce() -> R) -> R {
        add(&self.looks[look as usize], 1);
        self.broken.set(None);
        self.looking.set(true);
        let result = take();
        self.looking.set(false);
        if let Some(rule) = self.broken.take() {
            self.broke(look, rule);
        }
        if self.refuses.take() {
            self.publish();
        }
        result
    }

    /// A look that was counted ends with a rule that is broken: it counts for those before.
    pub fn broke(&self, look: Look, broken: Rule) {
        let figure = &self.looks[look as usize];
        figure.set(figure.get().wrapping_sub(1));
        for kept in look.kept_before(broken) {
            add(&self.endings[*kept as usize][Ending::Passed as usize], 1);
        }
        self.ended.set(true);
    }

    /// What came of a rule that is broken.
    pub fn ended(&self, broken: Rule, ending: Ending) {
        add(&self.endings[broken as usize][ending as usize], 1);
        self.ended.set(true);
        self.broken.set(self.broken.get().or(Some(broken)));
        if ending == Ending::Refused {
            match self.looking.get() {
                true => self.refuses.set(true),
                false => self.publish(),
            }
        }
    }

    /// Adds what was counted to what everybody sees. Touches memory only.
    fn publish(&self) {
        let shared = self.entry.filter(|(entry, of)| entry.generation.load(Ordering::Relaxed) == *of);
        let any = Cell::new(false);
        let give = |own: &Cell<u64>, all: Option<&AtomicU64>| {
            let count = own.take();
            if let (true, Some(all)) = (count != 0, all) {
                all.fetch_add(count, Ordering::Relaxed);
                any.set(true);
            }
        };
        for (n, own) in self.looks.iter().enumerate() {
            give(own, shared.map(|(entry, _)| &entry.looks[n]));
        }
        if self.ended.take() {
            for (rule, own) in self.endings.iter().enumerate() {
                for (n, own) in own.iter().enumerate() {
                    give(own, shared.map(|(entry, _)| &entry.endings[rule][n]));
                }
            }
        }
        if let (true, Some((entry, _))) = (any.get(), shared) {
            // SAFETY: has no precondition, and raises no error. It is when the statement began, which costs nothing to ask.
            entry.seen.store(unsafe { compat::GetCurrentStatementStartTimestamp() }, Ordering::Relaxed);
        }
    }
}

fn add(figure: &Cell<u64>, count: u64) {
    figure.set(figure.get().wrapping_add(count));
}

/// A session's own process ends with its transaction rolled back, so nothing but a kill leaves counts behind.
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        publish();
    }
}

fn publish() {
    COUNTS.with(|counts| {
        if let Ok(counts) = counts.try_borrow() {
            for counts in counts.iter() {
                // An error may have ended a look.
                counts.looking.set(false);
                counts.refuses.set(false);
                counts.publish();
            }
        }
    });
}

/// What was counted for one backend.
pub struct Counted {
    /// Its name; none = sessions of no backend.
    pub backend: Option<String>,
    /// Since when, in microseconds since 2000.
    pub since: i64,
    /// What.
    pub tally: Tally,
}

/// What was counted in this database, for backends that are registered, and for no backend; then for those of all databases
/// that no entry was left for.
pub fn counted(session: &Session) -> (Vec<Counted>, Option<Counted>) {
    publish();
    let Some(shared) = shared() else { return (Vec::new(), None) };
    let names = session.policy.set.backends.iter().map(|b| Some(b.name.as_str())).chain([None]);
    let keys: Vec<(Option<&str>, Key)> = names.map(|name| (name, Key::of(session.catalog.extension, name))).collect();
    let mut found = Vec::with_capacity(keys.len());
    locked(shared, pg_sys::LWLockMode::LW_SHARED, |entries| {
        for (name, key) in &keys {
            if let Some(entry) = entries.iter().find(|e| e.key.get() == *key) {
                found.push((*name, entry.since.load(Ordering::Relaxed), entry.tally()));
            }
        }
    });
    let counted =
        |(name, since, tally): (Option<&str>, i64, Tally)| Counted { backend: name.map(str::to_owned), since, tally };
    let others = shared.others.tally();
    let others = (others != Tally::EMPTY).then(|| (None, shared.others.since.load(Ordering::Relaxed), others));
    (found.into_iter().map(counted).collect(), others.map(counted))
}

/// When a session of a backend last wrote a guarded table, or tried to, in this database; and since when that is known. Both in
/// microseconds since 2000.
pub fn last_seen(session: &Session, backend: &str) -> (Option<i64>, i64) {
    publish();
    let Some(shared) = shared() else { return (None, i64::MAX) };
    let key = Key::of(session.catalog.extension, Some(backend));
    let seen = locked(shared, pg_sys::LWLockMode::LW_SHARED, |entries| {
        entries.iter().find(|entry| entry.key.get() == key).map(|entry| entry.seen.load(Ordering::Relaxed))
    });
    (seen.filter(|at| *at != 0), shared.begun.load(Ordering::Relaxed))
}

/// Begins to count anew in this database.
pub fn reset(session: &Session) {
    publish();
    let Some(shared) = shared() else { return };
    let (here, extension) = (Key::of(session.catalog.extension, None).database, session.catalog.extension);
    locked(shared, pg_sys::LWLockMode::LW_EXCLUSIVE, |entries| {
        entries
            .iter()
            .filter(|e| (e.key.get().database, e.key.get().extension) == (here, extension))
            .for_each(Entry::clear);
    });
}
