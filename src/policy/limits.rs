//! How much a backend may write.

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
