//! How much a backend may write.

use super::backend::Trust;
use super::identity::Identity;
use super::rules::{Attempt, Refusal};

/// A backend's limits; none = unlimited. They bind unproven backends only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of guarded tables that a statement may write, with all that it sets off.
    pub rows_per_statement: Option<u64>,
    /// Rows of guarded tables that a transaction may write.
    pub rows_per_transaction: Option<u64>,
    /// Tenants whose rows a statement may write.
    pub tenants_per_statement: Option<u64>,
    /// Rows that the foreign keys of a statement may reach.
    pub cascade_rows: Option<u64>,
    /// The longest `statement_timeout` that a session may set, in milliseconds.
    pub statement_timeout: Option<u64>,
    /// The longest `lock_timeout`, in milliseconds.
    pub lock_timeout: Option<u64>,
    /// The longest `idle_in_transaction_session_timeout`, in milliseconds.
    pub idle_in_transaction_timeout: Option<u64>,
}

impl Limits {
    /// Of a backend for which nothing was set: one tenant a statement.
    pub const DEFAULT: Limits = Limits {
        rows_per_statement: None,
        rows_per_transaction: None,
        tenants_per_statement: Some(1),
        cascade_rows: None,
        statement_timeout: None,
        lock_timeout: None,
        idle_in_transaction_timeout: None,
    };
}

impl Limits {
    /// Whether the times that a session may set are limited.
    pub fn caps_times(&self) -> bool {
        self.statement_timeout.or(self.lock_timeout).or(self.idle_in_transaction_timeout).is_some()
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// What rows are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One statement of the client, with all that it sets off.
    Statement,
    /// One transaction.
    Transaction,
}

/// Rows written so far, with the one that is about to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// By the statement.
    pub statement: u64,
    /// By the statement through foreign keys.
    pub cascaded: u64,
    /// By the transaction.
    pub transaction: u64,
}

/// A limit that is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// `rows_per_statement` or `rows_per_transaction`.
    Rows(Scope, u64),
    /// `cascade_rows`.
    CascadeRows(u64),
}

impl Limits {
    /// Whether rows are limited at all.
    pub fn count_rows(&self) -> bool {
        self.rows_per_statement.is_some() || self.rows_per_transaction.is_some() || self.cascade_rows.is_some()
    }

    /// The first limit that `rows` pass, if any. `news` = only those passed by the last row itself, so that what is merely
    /// observed is recorded once and not for every row beyond.
    pub fn passed(&self, rows: &Rows, news: bool) -> Option<Passed> {
        let over = |count: u64, limit: Option<u64>| {
            limit.filter(|limit| if news { count == limit.saturating_add(1) } else { count > *limit })
        };
        over(rows.cascaded, self.cascade_rows)
            .map(Passed::CascadeRows)
            .or_else(|| over(rows.statement, self.rows_per_statement).map(|l| Passed::Rows(Scope::Statement, l)))
            .or_else(|| over(rows.transaction, self.rows_per_transaction).map(|l| Passed::Rows(Scope::Transaction, l)))
    }
}

/// `cross_tenant`: whether a statement may write one more tenant, its `count`th.
pub fn check_tenants(
    identity: &Identity,
    limits: &Limits,
    count: u64,
    attempt: impl FnOnce() -> Attempt,
) -> Option<Refusal> {
    let backend = identity.backend.as_ref().filter(|b| b.trust == Trust::Unproven)?;
    let limit = limits.tenants_per_statement?;
    // Recorded once for each statement, also where it goes on.
    (count == limit.saturating_add(1))
        .then(|| Refusal::cross_tenant(Attempt { backend: Some(backend.name.clone()), ..attempt() }, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_passed_by_the_first_row_beyond() {
        let limits = Limits {
            rows_per_statement: Some(2),
            rows_per_transaction: Some(5),
            cascade_rows: Some(1),
            ..Limits::DEFAULT
        };
        let rows = |statement, cascaded, transaction| Rows { statement, cascaded, transaction };
        let statement = Some(Passed::Rows(Scope::Statement, 2));
        let transaction = Some(Passed::Rows(Scope::Transaction, 5));
        let cases = [
            (rows(2, 1, 5), None, None),
            (rows(3, 0, 3), statement, statement),
            (rows(4, 0, 4), statement, None),
            (rows(1, 0, 6), transaction, transaction),
            (rows(2, 2, 2), Some(Passed::CascadeRows(1)), Some(Passed::CascadeRows(1))),
        ];
        for (rows, passed, news) in cases {
            assert_eq!(limits.passed(&rows, false), passed, "{rows:?}");
            assert_eq!(limits.passed(&rows, true), news, "{rows:?}");
            assert_eq!(Limits::DEFAULT.passed(&rows, false), None);
        }
    }
}
