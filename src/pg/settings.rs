//! Keeps the settings of an unproven session within their bounds, also where nobody asked before they were set: by the
//! startup packet, ALTER ROLE and ALTER DATABASE, postgresql.conf, and by RESET and DISCARD, which go back to these.
//!
//! What a session goes back to is brought down itself, without a transaction, as the server does it for its own workers. So
//! RESET, DISCARD ALL and a rollback can't lead beyond a bound, and none of them fails. When the bound is lifted, or the
//! session belongs to a proven backend again, it goes back to what it was.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int};
use std::rc::Rc;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use super::process::process_local;
use super::session::{self, Session, Who};
use super::{audit, compat, glass};
use crate::policy::mode::Mode;
use crate::policy::rules::Rule;
use crate::policy::setting::{self, Bound, Setting};

/// How many settings are looked after.
pub const COUNT: usize = Setting::ALL.len();

/// A setting's entry in the server's table; null where this version has no such setting.
#[derive(Clone, Copy)]
pub struct Entry(*mut pg_sys::config_generic);

// SAFETY: the table is filled before the first session starts and stays where it is; each process has one thread.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

static ENTRIES: OnceCell<[Entry; COUNT]> = OnceCell::new();

process_local! {
    /// What the session would go back to by itself, for settings that were brought down.
    static OWN: Cell<[Option<c_int>; COUNT]> = const { Cell::new([None; COUNT]) };
    /// What was found when everything was last as it should be.
    static SETTLED: RefCell<Option<Settled>> = const { RefCell::new(None) };
    /// Whether it is on record that the client asked for it.
    static TOLD: Cell<[bool; COUNT]> = const { Cell::new([false; COUNT]) };
}

/// Who the session was, and which values its settings had; none where nobody asks for the values.
struct Settled {
    who: Rc<Who>,
    values: Option<[Option<Values>; COUNT]>,
}

/// A setting's three values, where it is a number to the server: whole numbers, booleans and enums.
#[derive(Clone, Copy, PartialEq)]
struct Values {
    /// In force.
    current: c_int,
    /// What RESET goes back to.
    fallback: c_int,
    built_in: c_int,
}

/// Finds the settings. Called once, from `_PG_init`.
pub fn find() -> [Entry; COUNT] {
    let entries = Setting::ALL.map(|setting| {
        let name = CString::new(setting.name()).unwrap_or_default();
        // SAFETY: the server has built its table before it loads libraries.
        Entry(unsafe { compat::find_setting(&name) })
    });
    // set() fails only when called twice, and then the first value is the right one.
    let _ = ENTRIES.set(entries);
    entries
}

impl Entry {
    /// The server's entry and its type.
    pub fn get(self) -> Option<(*mut pg_sys::config_generic, pg_sys::config_type::Type)> {
        // SAFETY: null or an entry, see above.
        unsafe { self.0.as_ref() }.map(|entry| (self.0, entry.vartype))
    }

    #[inline]
    fn values(self) -> Option<Values> {
        use pg_sys::config_type::{PGC_BOOL, PGC_ENUM, PGC_INT};
        // SAFETY: an entry is cast to the type that it names; its variable is the server's own.
        unsafe {
            Some(match self.get()? {
                (entry, PGC_BOOL) => {
                    let entry = &*entry.cast::<pg_sys::config_bool>();
                    let [current, fallback, built_in] =
                        [*entry.variable, entry.reset_val, entry.boot_val].map(c_int::from);
                    Values { current, fallback, built_in }
                }
                (entry, PGC_INT) => {
                    let entry = &*entry.cast::<pg_sys::config_int>();
                    Values { current: *entry.variable, fallback: entry.reset_val, built_in: entry.boot_val }
                }
                (entry, PGC_ENUM) => {
                    let entry = &*entry.cast::<pg_sys::config_enum>();
                    Values { current: *entry.variable, fallback: entry.reset_val, built_in: entry.boot_val }
                }
                _ => return None,
            })
        }
    }

    /// A value as SQL spells it.
    pub fn spell(self, value: c_int) -> String {
        use pg_sys::config_type::{PGC_BOOL, PGC_ENUM};
        match self.get() {
            Some((_, PGC_BOOL)) => if value == 0 { "off" } else { "on" }.to_owned(),
            // SAFETY: an entry is cast to the type that it names; the value is one of its own.
            Some((entry, PGC_ENUM)) => unsafe {
                session::text(pg_sys::config_enum_lookup_by_value(entry.cast(), value))
            },
            _ => value.to_string(),
        }
    }

    /// The built-in value as SQL spells it.
    pub fn built_in(self) -> String {
        match (self.values(), self.get()) {
            (Some(values), _) => self.spell(values.built_in),
            // SAFETY: an entry is cast to the type that it names; its text is null or a C string.
            (None, Some((entry, pg_sys::config_type::PGC_STRING))) => unsafe {
                session::text((*entry.cast::<pg_sys::config_string>()).boot_val)
            },
            _ => String::new(),
        }
    }

    /// The value within a bound that is nearest to this one.
    pub fn bring_to(self, bound: Bound, value: c_int) -> c_int {
        self.values().map_or(value, |values| bound.nearest(value, values.built_in))
    }

    /// Whether the client itself asked for what the session goes back to.
    fn asked_by_client(self) -> bool {
        // SAFETY: as in get().
        unsafe { self.0.as_ref() }.is_some_and(|entry| entry.reset_source == pg_sys::GucSource::PGC_S_CLIENT)
    }

    fn set(self, value: c_int, source: pg_sys::GucSource::Type) {
        let value = CString::new(self.spell(value)).unwrap_or_default();
        // SAFETY: the entry's name and a value of its own, as a superuser: who the session is allowed to be is another
        // matter. Below PGC_S_SESSION it changes what the session goes back to, outside of any transaction.
        unsafe {
            let superuser = pg_sys::GucContext::PGC_SUSET;
            let action = pg_sys::GucAction::GUC_ACTION_SET;
            pg_sys::set_config_option((*self.0).name, value.as_ptr(), superuser, source, action, true, 0, false);
        }
    }
}

/// Whether a setting may be beyond a bound, or be held within one: a few loads, for sessions of which that is known. A plain
/// frame.
pub fn may_need_holding() -> bool {
    (is_held() || session::may_cap_times() || any_loosened()) && !is_settled()
}

/// Whether the session is who it was when [`hold`] last looked, and its settings are as it left them.
fn is_settled() -> bool {
    // SAFETY: inside a transaction; nothing here needs to be dropped if it raises an error.
    unsafe {
        if !compat::IsTransactionState() {
            return false;
        }
        // A cap that others set counts from this statement on.
        compat::AcceptInvalidationMessages();
    }
    !glass::may_be_broken()
        && SETTLED.with(|settled| {
            settled.try_borrow().is_ok_and(|settled| {
                settled.as_ref().is_some_and(|then| {
                    session::is_still(&then.who) && then.values.is_none_or(|values| are_in_force(&values))
                })
            })
        })
}

/// Whether the settings have these values still; as they were found, so that what each is needn't be asked again.
fn are_in_force(values: &[Option<Values>; COUNT]) -> bool {
    let entries = ENTRIES.get().map_or(&[][..], |entries| entries);
    entries.iter().zip(values).all(|(entry, then)| entry.values() == *then)
}

fn all_values() -> [Option<Values>; COUNT] {
    ENTRIES.get().map_or([None; COUNT], |entries| entries.map(Entry::values))
}

fn settle(who: &Rc<Who>, values: Option<[Option<Values>; COUNT]>) {
    let settled = Settled { who: Rc::clone(who), values };
    // What was there before is dropped after the borrow.
    drop(SETTLED.with(|cell| cell.replace(Some(settled))));
}

fn is_held() -> bool {
    OWN.with(|own| own.get().iter().any(Option::is_some))
}

fn any_loosened() -> bool {
    let entries = ENTRIES.get().map_or(&[][..], |entries| entries);
    let mut loosened = Setting::ALL.iter().zip(entries).filter(|(setting, _)| matches!(setting, Setting::BuiltIn(_)));
    loosened.any(|(_, entry)| entry.values().is_some_and(|values| values.current != values.built_in))
}

/// Brings settings down to their bounds, and back where there is no bound any more.
#[pg_guard]
pub extern "C-unwind" fn hold() {
    // SAFETY: plain reads of the process's state.
    let elsewhere =
        unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER || pg_sys::IsInParallelMode() };
    if elsewhere || session::only_observed() {
        return;
    }
    let (Some(session), Some(entries)) = (session::current(), ENTRIES.get()) else { return };
    let identity = &session.who.identity;
    if !identity.is_bound_by_every_rule() && !is_held() {
        return settle(&session.who, None);
    }
    // Behind broken glass an operator sets what the repair needs.
    let mode = match glass::may_be_broken() && glass::broken(&session).is_some() {
        true => Mode::Off,
        false => session.policy.set.modes.of(identity.name(), Rule::ForbiddenSetting),
    };
    // SAFETY: a plain read.
    let before = unsafe { pg_sys::StatementTimeout };
    for (place, entry) in entries.iter().enumerate() {
        hold_one(&session, mode, place, *entry);
    }
    // SAFETY: plain reads; the timer of a client's statement is disabled when it ends, by the server.
    unsafe {
        let after = pg_sys::StatementTimeout;
        if after > 0 && (before == 0 || after < before) && !pg_sys::MyProcPort.is_null() {
            compat::guarded(|| compat::enable_timeout_after(compat::STATEMENT_TIMEOUT, after));
        }
    }
    if !glass::may_be_broken() {
        settle(&session.who, Some(all_values()));
    }
}

fn hold_one(session: &Session, mode: Mode, place: usize, entry: Entry) {
    let (setting, identity) = (Setting::ALL[place], &session.who.identity);
    let Some(values) = entry.values() else { return };
    let limits = session.policy.set.limits_of(identity.name().unwrap_or_default());
    let bound = setting.bound(identity, limits).filter(|_| mode != Mode::Off);
    let mut own = OWN.with(Cell::get);
    let wanted = own[place].unwrap_or(values.fallback);
    let nearest = |value| bound.map_or(value, |bound| entry.bring_to(bound, value));
    if let Some(bound) = bound.filter(|_| nearest(wanted) != wanted && entry.asked_by_client()) {
        tell_once(session, place, entry, bound, wanted);
    }
    let held = if mode == Mode::Enforce { nearest(wanted) } else { wanted };
    if held != values.fallback {
        entry.set(held, pg_sys::GucSource::PGC_S_OVERRIDE);
    }
    own[place] = (held != wanted).then_some(wanted);
    OWN.with(|cell| cell.set(own));
    // What the session set when it was free to.
    let Some(current) = entry.values().map(|values| values.current) else { return };
    if mode == Mode::Enforce && nearest(current) != current {
        entry.set(nearest(current), pg_sys::GucSource::PGC_S_SESSION);
    }
}

/// Records what the client asked for when it connected. It is too late to refuse it.
fn tell_once(session: &Session, place: usize, entry: Entry, bound: Bound, value: c_int) {
    let mut told = TOLD.with(Cell::get);
    if told[place] {
        return;
    }
    told[place] = true;
    TOLD.with(|cell| cell.set(told));
    let identity = &session.who.identity;
    let refusal = setting::forbidden(identity, Setting::ALL[place], bound, &entry.spell(value), &entry.built_in());
    audit::settle(session, refusal);
}
