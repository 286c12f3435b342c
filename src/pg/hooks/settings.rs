//! The check hooks of settings that an unproven backend may not loosen. Whichever way a value is proposed, it passes them:
//! SET, SET LOCAL, set_config(), UPDATE of pg_settings, a function's SET clause (when it is made and when it is called), ALTER
//! ROLE and ALTER DATABASE. What has no such call is up to `pg::settings`.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};

use crate::pg::report::{self, Report};
use crate::pg::settings::{self, COUNT, Entry};
use crate::pg::{audit, session};
use crate::policy::looks::Look;
use crate::policy::setting::{self, Bound, Setting};

/// The server's own check hook of a setting.
#[derive(Clone, Copy)]
enum Next {
    Bool(pg_sys::GucBoolCheckHook),
    Int(pg_sys::GucIntCheckHook),
    Enum(pg_sys::GucEnumCheckHook),
    String(pg_sys::GucStringCheckHook),
    /// This version has no such setting.
    Missing,
}

static NEXT: OnceCell<[(Entry, Next); COUNT]> = OnceCell::new();

/// An instance of a hook for each setting, since a hook isn't told which setting it is asked about.
macro_rules! for_each_setting {
    ($hook:ident) => {
        [
            $hook::<0>,
            $hook::<1>,
            $hook::<2>,
            $hook::<3>,
            $hook::<4>,
            $hook::<5>,
            $hook::<6>,
            $hook::<7>,
            $hook::<8>,
            $hook::<9>,
            $hook::<10>,
        ]
    };
}

pub(super) fn install() {
    type Hook<T> = unsafe extern "C-unwind" fn(*mut T, *mut *mut c_void, pg_sys::GucSource::Type) -> bool;
    let bools: [Hook<bool>; COUNT] = for_each_setting!(check_bool);
    let ints: [Hook<c_int>; COUNT] = for_each_setting!(check_int);
    let enums: [Hook<c_int>; COUNT] = for_each_setting!(check_enum);
    let strings: [Hook<*mut c_char>; COUNT] = for_each_setting!(check_string);
    let entries = settings::find();
    let mut next = entries.map(|entry| (entry, Next::Missing));
    for (place, (entry, before)) in next.iter_mut().enumerate() {
        use pg_sys::config_type::{PGC_BOOL, PGC_ENUM, PGC_INT, PGC_STRING};
        // SAFETY: _PG_init runs on the postmaster's only thread; an entry is cast to the type that it names.
        unsafe {
            *before = match entry.get() {
                Some((entry, PGC_BOOL)) => {
                    Next::Bool((*entry.cast::<pg_sys::config_bool>()).check_hook.replace(bools[place]))
                }
                Some((entry, PGC_INT)) => {
                    Next::Int((*entry.cast::<pg_sys::config_int>()).check_hook.replace(ints[place]))
                }
                Some((entry, PGC_ENUM)) => {
                    Next::Enum((*entry.cast::<pg_sys::config_enum>()).check_hook.replace(enums[place]))
                }
                Some((entry, PGC_STRING)) => {
                    Next::String((*entry.cast::<pg_sys::config_string>()).check_hook.replace(strings[place]))
                }
                _ => Next::Missing,
            };
        }
    }
    // set() fails only when called twice, and then the first value is the right one.
    let _ = NEXT.set(next);
}

fn next<const N: usize>() -> Next {
    NEXT.get().map_or(Next::Missing, |next| next[N].1)
}

/// Whether somebody is setting it, rather than a session or the server starting up.
fn is_asked(source: pg_sys::GucSource::Type) -> bool {
    source >= pg_sys::GucSource::PGC_S_INTERACTIVE && !session::inert()
}

/// A plain frame.
unsafe extern "C-unwind" fn check_bool<const N: usize>(
    value: *mut bool,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: forwards what Postgres gave. An error leaves nothing behind: a hook may raise one.
    unsafe {
        if let Next::Bool(Some(next)) = next::<N>()
            && !next(value, extra, source)
        {
            return false;
        }
        if is_asked(source) {
            report::raise(check_number(N as c_int, c_int::from(*value)));
        }
        true
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn check_int<const N: usize>(
    value: *mut c_int,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above.
    unsafe {
        if let Next::Int(Some(next)) = next::<N>()
            && !next(value, extra, source)
        {
            return false;
        }
        if is_asked(source) {
            report::raise(check_number(N as c_int, *value));
        }
        true
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn check_enum<const N: usize>(
    value: *mut c_int,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above.
    unsafe {
        if let Next::Enum(Some(next)) = next::<N>()
            && !next(value, extra, source)
        {
            return false;
        }
        if is_asked(source) {
            report::raise(check_number(N as c_int, *value));
        }
        true
    }
}

/// A plain frame.
unsafe extern "C-unwind" fn check_string<const N: usize>(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as above; Postgres frees the value when an error passes.
    unsafe {
        if let Next::String(Some(next)) = next::<N>()
            && !next(value, extra, source)
        {
            return false;
        }
        if is_asked(source) {
            report::raise(check_text(N as c_int, *value));
        }
        true
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_number(place: c_int, value: c_int) -> *const Report {
    let spell = |entry: Entry| entry.spell(value);
    check(place, |entry, bound| entry.bring_to(bound, value) == value, spell)
}

#[pg_guard]
unsafe extern "C-unwind" fn check_text(place: c_int, value: *const c_char) -> *const Report {
    // SAFETY: a C string or null.
    let value = unsafe { session::text(value) };
    check(place, |entry, _| value == entry.built_in(), |_| value.clone())
}

/// `forbidden_setting`: asks the policy about one setting.
fn check(place: c_int, allows: impl Fn(Entry, Bound) -> bool, spell: impl Fn(Entry) -> String) -> *const Report {
    let found =
        usize::try_from(place).ok().and_then(|place| Some((Setting::ALL.get(place)?, NEXT.get()?.get(place)?.0)));
    let (Some((setting, entry)), Some(session)) = (found, session::current().filter(|s| !s.who.all_off)) else {
        return ptr::null();
    };
    let identity = &session.who.identity;
    let limits = session.policy.set.limits_of(identity.name().unwrap_or_default());
    let Some(bound) = setting.bound(identity, limits) else { return ptr::null() };
    session.who.counts.look(Look::Setting, || {
        if allows(entry, bound) {
            return ptr::null();
        }
        let refusal = setting::forbidden(identity, *setting, bound, &spell(entry), &entry.built_in());
        audit::settle(&session, refusal)
    })
}
