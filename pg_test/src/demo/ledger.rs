//! What the clients were told: their own record of every attempt, kept outside the database.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use postgres::Error;
use postgres::error::{DbError, SqlState};

use super::backend::Backend;

/// The rule by which a router knows that it asked the wrong backend.
pub const NOT_OWNER: &str = "not_owner";

/// A table whose rows say in which operation they were written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// homeowners
    Homeowners,
    /// properties
    Properties,
    /// valuations
    Valuations,
    /// messages
    Messages,
    /// documents
    Documents,
    /// appointments
    Appointments,
    /// notification_preferences
    Preferences,
    /// activity_log, all partitions
    Activity,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 8] = [
        Table::Homeowners,
        Table::Properties,
        Table::Valuations,
        Table::Messages,
        Table::Documents,
        Table::Appointments,
        Table::Preferences,
        Table::Activity,
    ];

    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Table::Homeowners => "homeowners",
            Table::Properties => "properties",
            Table::Valuations => "valuations",
            Table::Messages => "messages",
            Table::Documents => "documents",
            Table::Appointments => "appointments",
            Table::Preferences => "notification_preferences",
            Table::Activity => "activity_log",
        }
    }

    /// The SQL of a row's key as one bigint.
    pub fn key(self) -> &'static str {
        match self {
            Table::Valuations => "property_id",
            Table::Appointments => "homeowner_id",
            Table::Preferences => "homeowner_id * 2 + (channel = 'sms')::int",
            _ => "id",
        }
    }
}

/// A row that an operation wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Written {
    /// Where it stands.
    pub table: Table,
    /// Its key there.
    pub key: i64,
}

/// How an attempt ended, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT succeeded.
    Committed,
    /// The guard refused it, by this rule.
    Refused(String),
    /// PostgreSQL asks to try again: a deadlock, a serialization failure, a lock not had in time.
    TryAgain(String),
    /// The connection broke: nobody knows.
    Unknown(String),
    /// Any other error.
    Failed(String),
}

impl Outcome {
    /// Reads the outcome of an attempt off its error.
    pub fn of(error: &Error) -> Outcome {
        let Some(database) = error.as_db_error() else {
            let lost = error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>());
            let outcome = if lost { Outcome::Unknown } else { Outcome::Failed };
            return outcome(format!("{error:?}"));
        };
        let code = database.code();
        let again =
            [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::LOCK_NOT_AVAILABLE];
        match rule_of(database) {
            Some(rule) => Outcome::Refused(rule.to_owned()),
            None if again.contains(code) => Outcome::TryAgain(code.code().to_owned()),
            None => Outcome::Failed(describe(database)),
        }
    }
}

/// The rule by which the guard refused, as a driver reads it: without parsing text.
fn rule_of(error: &DbError) -> Option<&str> {
    error.code().code().starts_with("WG").then(|| error.constraint().unwrap_or_default())
}

fn describe(error: &DbError) -> String {
    let mut text = format!("{} {}", error.code().code(), error.message());
    for part in [error.detail(), error.hint(), error.where_()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

/// An attempt and how it ended.
#[derive(Clone, Debug)]
pub struct Told {
    /// The operation's id.
    pub id: i64,
    /// The brokerage it was for.
    pub tenant: i32,
    /// Who tried.
    pub backend: Backend,
    /// What it wrote, had it committed.
    pub written: Vec<Written>,
    /// How it ended.
    pub outcome: Outcome,
    /// Sent on purpose to a backend that doesn't own the tenant.
    pub misdirected: bool,
}

/// A count of refusals in the terms of `blocked_writes`: backend, rule and, where the client knows it, tenant.
pub type RefusalCounts = BTreeMap<(String, String, Option<String>), i64>;

/// Everything the clients were told.
#[derive(Default)]
pub struct Ledger {
    next: AtomicI64,
    told: Mutex<Vec<Told>>,
    refusals: Mutex<RefusalCounts>,
}

impl Ledger {
    /// A new operation id.
    pub fn next_id(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Notes how an attempt ended.
    pub fn note(&self, told: Told) {
        if let Outcome::Refused(rule) = &told.outcome {
            self.note_refusal(told.backend, rule, Some(told.tenant));
        }
        self.told.lock().push(told);
    }

    /// Notes a refusal by itself; `tenant` where the refused statement was about one.
    pub fn note_refusal(&self, backend: Backend, rule: &str, tenant: Option<i32>) {
        let tenant = tenant.filter(|_| rule == NOT_OWNER).map(|tenant| tenant.to_string());
        let key = (backend.name().to_owned(), rule.to_owned(), tenant);
        *self.refusals.lock().entry(key).or_default() += 1;
    }

    /// Hands over everything noted so far.
    pub fn close(self) -> (Vec<Told>, RefusalCounts) {
        (self.told.into_inner(), self.refusals.into_inner())
    }
}
