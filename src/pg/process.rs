//! What a server process keeps for itself.
//!
//! `thread_local!` would do, but a library that is loaded at run time reaches such a variable through a call of
//! `__tls_get_addr` each time: 40 of them in an UPDATE of one row. A static variable has a fixed address.

use std::ops::Deref;

/// A variable of the process. Its children begin with a copy of the postmaster's, as they do with all memory.
pub struct Own<T>(T);

// SAFETY: a server process has one thread; Postgres knows no others, and pgrx's guard lets no other call it.
unsafe impl<T> Sync for Own<T> {}

impl<T> Own<T> {
    /// One that begins with this value.
    pub const fn new(value: T) -> Own<T> {
        Own(value)
    }

    /// As `LocalKey::with`.
    #[inline]
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0)
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// As `thread_local!`, for a process.
macro_rules! process_local {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = const $value:block;)*) => {
        $($(#[$attribute])* static $name: $crate::pg::process::Own<$type> = $crate::pg::process::Own::new($value);)*
    };
}

pub(super) use process_local;
