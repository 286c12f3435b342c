//! Which writes of a table are known to break no rule that needs no row, so that most statements needn't be judged again.
//!
//! What a session may write follows from who it is, from the table and from the policy. It is remembered with the table's
//! facts, which are forgotten when the table or the policy changes, and for a [`Who`], which there is one of for each policy and
//! each thing that the session has been; the memory keeps it, so that no other takes its address.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys;

use super::compat::RequestedWrite;
use super::session::Who;

/// How many kinds of writes are remembered for a table; the oldest goes first.
const MOST: usize = 8;

/// The kinds of writes that passed.
#[derive(Default)]
pub struct Innocent(RefCell<Vec<Write>>);

struct Write {
    who: Rc<Who>,
    permissions: u32,
    inserted: Box<[pg_sys::bitmapword]>,
    updated: Box<[pg_sys::bitmapword]>,
}

impl Innocent {
    /// Whether a write is known to break no rule. A plain frame.
    ///
    /// # Safety
    /// The write's sets of columns are valid.
    pub unsafe fn has(&self, who: &Rc<Who>, write: &RequestedWrite) -> bool {
        // SAFETY: the caller's.
        let (inserted, updated) = unsafe { (words(write.inserted), words(write.updated)) };
        self.0.borrow().iter().any(|known| {
            Rc::ptr_eq(&known.who, who)
                && known.permissions == write.permissions
                && *known.inserted == *inserted
                && *known.updated == *updated
        })
    }

    /// Remembers one. Statements that write several tables are judged each time, so it may be known.
    ///
    /// # Safety
    /// As for [`Innocent::has`].
    pub unsafe fn add(&self, who: &Rc<Who>, write: &RequestedWrite) {
        // SAFETY: the caller's.
        if unsafe { self.has(who, write) } {
            return;
        }
        // SAFETY: the caller's.
        let (inserted, updated) = unsafe { (words(write.inserted).into(), words(write.updated).into()) };
        let mut known = self.0.borrow_mut();
        if known.len() >= MOST {
            known.remove(0);
        }
        known.push(Write { who: who.clone(), permissions: write.permissions, inserted, updated });
    }
}

unsafe fn words<'a>(set: *mut pg_sys::Bitmapset) -> &'a [pg_sys::bitmapword] {
    // SAFETY: null, which is empty, or a set with as many words as it says, which stays as it is while the statement is prepared.
    unsafe { set.as_ref().map_or(&[], |set| set.words.as_slice(usize::try_from(set.nwords).unwrap_or(0))) }
}
