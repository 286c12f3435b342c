//! Steps of the protocol left out or done wrongly, to see that the check notices.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A writer shares no lock (`tenants::hold` without `wait`).
    NoLock,
    /// A writer looks its tenant up before it shares the lock.
    LookBeforeLock,
    /// A writer reads the owner by its transaction's snapshot, not as of now (`Catalog::tenant_state`).
    StaleRead,
    /// A writer does not accept invalidations after it got the lock (`AcceptInvalidationMessages` in `tenants::hold`).
    InvalidationsNotAcceptedAfterLock,
    /// The same for the lock on all tenants (`tenants::share_all`).
    InvalidationsNotAcceptedAfterAll,
    /// What was checked in a savepoint stays checked when it rolls back (`tenants::subtransaction_ended`).
    CacheKeptAtSavepointRollback,
    /// The same for the lock on all tenants.
    AllKeptAtSavepointRollback,
    /// What was checked stays checked in the next transaction (`tenants::transaction_ended`).
    CacheKeptAtEnd,
    /// A cutover changes nothing in the relcache (`invalidation::holdfast_policy_changed`).
    NoInvalidation,
    /// A cutover's locks are released before its invalidation is sent: an own lock instead of one that Postgres releases.
    InvalidationAfterRelease,
    /// A cutover's locks are released when its row has changed, not when it has committed.
    ReleaseBeforeCommit,
    /// A cutover only shares the tenant's lock (`locks::exclude`).
    SharedByCutover,
    /// A cutover does not announce itself to those who share all tenants (`locks::intend`).
    NoIntentOnAll,
    /// A cutover decides by what it read before it had the lock (`session::load` in `handover::exclude_writers`).
    NoRereadUnderLock,
    /// A session goes on with what it knew under its share when it hands the tenant over itself (`tenants::forget`).
    KnownBeforeOwnHandover,
    /// A prepared transaction does not keep its locks: a lock of the session's.
    PreparedKeepsNoLock,
    /// A prepared transaction's locks do not outlive a crash.
    PreparedLockLostInCrash,
    /// A cutover waits like anybody else: no look every few milliseconds (`locks::DeadlockRecheck`), no stepping back.
    NoSteppingBack,
    /// A cutover that steps back stays in the queue.
    QueuedWhileSteppingBack,
}

/// The name of a property of [`Protocol`](crate::Protocol).
pub const OWNER_ALONE: &str = "only the owner's writes are committed";
/// Likewise.
pub const OWNER_WELCOME: &str = "the owner is never refused";
/// Likewise.
pub const HISTORY: &str = "history is what happened";
/// Likewise.
pub const WRITERS_FIRST: &str = "no writer is ended for a cutover";
/// Likewise.
pub const NO_STANDSTILL: &str = "nobody waits for ever";

impl Mutation {
    /// All of them, each with a scene in which it does harm, and what it breaks there.
    pub const HARM: [(Mutation, &str, &str); 20] = [
        (Mutation::NoLock, "savepoints", OWNER_ALONE),
        (Mutation::LookBeforeLock, "savepoints", OWNER_ALONE),
        (Mutation::StaleRead, "savepoints", OWNER_ALONE),
        (Mutation::InvalidationsNotAcceptedAfterLock, "savepoints", OWNER_ALONE),
        (Mutation::InvalidationsNotAcceptedAfterAll, "all tenants", OWNER_ALONE),
        (Mutation::CacheKeptAtSavepointRollback, "savepoints", OWNER_ALONE),
        (Mutation::AllKeptAtSavepointRollback, "all tenants", OWNER_ALONE),
        (Mutation::CacheKeptAtEnd, "savepoints", OWNER_ALONE),
        (Mutation::NoInvalidation, "savepoints", OWNER_ALONE),
        (Mutation::InvalidationAfterRelease, "savepoints", OWNER_ALONE),
        (Mutation::InvalidationAfterRelease, "savepoints", OWNER_WELCOME),
        (Mutation::ReleaseBeforeCommit, "savepoints", OWNER_ALONE),
        (Mutation::SharedByCutover, "savepoints", OWNER_ALONE),
        (Mutation::NoIntentOnAll, "all tenants", OWNER_ALONE),
        (Mutation::NoRereadUnderLock, "two operators", HISTORY),
        (Mutation::KnownBeforeOwnHandover, "an operator who writes", OWNER_ALONE),
        (Mutation::PreparedKeepsNoLock, "prepared transaction", OWNER_ALONE),
        (Mutation::PreparedLockLostInCrash, "prepared transaction", OWNER_ALONE),
        (Mutation::NoSteppingBack, "row locks", WRITERS_FIRST),
        (Mutation::QueuedWhileSteppingBack, "row locks", NO_STANDSTILL),
    ];
}
