//! Counts the rows that one statement writes to one table, where rows are limited. A row counts once, whatever Postgres does
//! with it: a conflicting row is inserted, then updated; one that moves to another partition updated, deleted, then inserted.

use std::cell::Cell;

use pgrx::pg_sys;

use super::stats::Counts;
use super::{cascade, statement};
use crate::policy::limits::Limits;
use crate::policy::looks::Look;

/// The counter of one statement and table. Part of the row guard, so all of it is plain data.
#[derive(Clone, Copy)]
pub struct RowCount {
    /// Whether anything is limited.
    on: bool,
    /// Whether a foreign key led here.
    pub cascaded: bool,
    /// Whether an UPDATE after an INSERT is of the same row: ON CONFLICT.
    upserts: bool,
    last: Counted,
    statement: u64,
    cascade: u64,
    transaction: u64,
    /// Counts them for the view `stats`.
    looks: Option<&'static Cell<u64>>,
}

/// The last event that counted, for those that belong to the same row.
#[derive(Clone, Copy)]
enum Counted {
    Nothing,
    Insert,
    Update(pg_sys::ItemPointerData),
}

impl RowCount {
    /// Counts nothing.
    pub const OFF: RowCount = RowCount {
        on: false,
        cascaded: false,
        upserts: false,
        last: Counted::Nothing,
        statement: u64::MAX,
        cascade: u64::MAX,
        transaction: u64::MAX,
        looks: None,
    };

    /// For the statement that is running now.
    pub fn of(limits: &Limits, counts: &'static Counts) -> RowCount {
        statement::follow();
        let cascaded = cascade::is_running();
        RowCount {
            on: limits.count_rows(),
            cascaded,
            upserts: statement::frame().upserts,
            last: Counted::Nothing,
            statement: limits.rows_per_statement.unwrap_or(u64::MAX),
            cascade: limits.cascade_rows.unwrap_or(u64::MAX),
            transaction: limits.rows_per_transaction.unwrap_or(u64::MAX),
            looks: Some(counts.figure(Look::at_limited_row(cascaded))),
        }
    }

    /// Counts a row that is about to be written; whether a limit is passed. A plain frame.
    ///
    /// # Safety
    /// `row` is the trigger's.
    pub unsafe fn is_over(&mut self, event: pg_sys::TriggerEvent, row: pg_sys::HeapTuple) -> bool {
        // SAFETY: as above.
        if !self.on || !unsafe { self.is_another(event, row) } {
            return false;
        }
        if let Some(looks) = self.looks {
            looks.set(looks.get() + 1);
        }
        let rows = statement::count_row(self.cascaded);
        rows.statement > self.statement || rows.cascaded > self.cascade || rows.transaction > self.transaction
    }

    /// Whether an event is about another row than the one that was counted last. A plain frame.
    unsafe fn is_another(&mut self, event: pg_sys::TriggerEvent, row: pg_sys::HeapTuple) -> bool {
        let before = std::mem::replace(&mut self.last, Counted::Nothing);
        let moving = statement::moving(false);
        match event {
            pg_sys::TRIGGER_EVENT_INSERT => {
                self.last = Counted::Insert;
                !moving
            }
            pg_sys::TRIGGER_EVENT_UPDATE => {
                // SAFETY: an UPDATE has a row.
                self.last = Counted::Update(unsafe { (*row).t_self });
                !(self.upserts && matches!(before, Counted::Insert))
            }
            _ => {
                let same = match before {
                    Counted::Update(mut updated) => {
                        // SAFETY: a DELETE has a row; the function compares two valid pointers.
                        unsafe { pg_sys::ItemPointerEquals(&mut updated, &raw mut (*row).t_self) }
                    }
                    _ => false,
                };
                statement::moving(same);
                !same
            }
        }
    }
}
