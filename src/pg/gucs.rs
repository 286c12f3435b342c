//! The settings. Few, and none of them lets a user out of the guard: policy lives in tables.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

/// The way out when everything else fails. Default on. Only postgresql.conf or the command line set it, so that no
/// session can.
static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The claim: the backend a session says it belongs to. It can only restrict, hence any user may set it. Default empty.
static BACKEND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// How long a writer is held by a cutover of its tenant, in milliseconds. Default 5 s; any user may set it, since it only
/// bounds the user's own wait.
static HOLD_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);

/// After what time a handover cancels the transactions that keep it waiting, in milliseconds; -1 = never, which is the default. Only
/// operators hand over, so it is of no use to anybody else.
static CANCEL_AFTER: GucSetting<i32> = GucSetting::<i32>::new(-1);

/// How long a refusal waits until its event is committed, in milliseconds. Default 5 s.
static AUDIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);

/// How many events may wait for the worker at once; each takes 4 kB of shared memory. Default 1,024.
static AUDIT_QUEUE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1_024);

/// How large a database's spool may grow, in megabytes. Default 64.
static AUDIT_SPOOL_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64);

/// How much of the client's statement an event keeps. Default normalized: data of the applications, passwords among them,
/// stay out of a table that auditors read.
static AUDIT_QUERY: GucSetting<AuditQuery> = GucSetting::<AuditQuery>::new(AuditQuery::normalized);

/// How long events are kept, in minutes; 0 = for ever. Default 90 days.
static AUDIT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(90 * 24 * 60);

/// Values of `holdfast.audit_query`, spelled as SQL spells them.
#[allow(non_camel_case_types, reason = "pgrx takes the value's name from the variant's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum AuditQuery {
    /// Nothing of it.
    none,
    /// Its shape: without literals and comments.
    normalized,
    /// All of it, as far as it fits.
    full,
}

/// Defines the settings. Called once, from `_PG_init`.
pub fn define() {
    GucRegistry::define_bool_guc(
        c"holdfast.enabled",
        c"Guards writes; off lets everything pass.",
        c"The way out when everything else fails. Change it in postgresql.conf and reload.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"holdfast.backend",
        c"The backend that this session says it belongs to.",
        c"A claim can move a session to a backend of lower trust, never to a higher one.",
        &BACKEND,
        GucContext::Userset,
        GucFlags::REPORT,
    );
    GucRegistry::define_int_guc(
        c"holdfast.hold_timeout",
        c"How long a writer is held by a cutover of its tenant.",
        c"After this time it gets a retryable error (SQLSTATE 55P03).",
        &HOLD_TIMEOUT,
        1,
        3_600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"holdfast.cancel_after",
        c"After what time a handover cancels the transactions that keep it waiting.",
        c"Sessions that idle in theirs are terminated. -1 cancels nobody.",
        &CANCEL_AFTER,
        -1,
        86_400_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"holdfast.audit_timeout",
        c"How long a refusal waits until its event is committed.",
        c"After this time the session writes the event to the spool and raises the refusal.",
        &AUDIT_TIMEOUT,
        1,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"holdfast.audit_queue_size",
        c"How many events may wait for the worker at once.",
        c"Each takes 4 kB of shared memory.",
        &AUDIT_QUEUE_SIZE,
        16,
        65_536,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"holdfast.audit_spool_size",
        c"How large the spool of a database may grow.",
        c"Events go there that the worker can't commit in time. Beyond it they are kept in memory while there is room.",
        &AUDIT_SPOOL_SIZE,
        1,
        1_048_576,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_enum_guc(
        c"holdfast.audit_query",
        c"How much of the client's statement an event keeps.",
        c"none; normalized: without literals and comments; or full.",
        &AUDIT_QUERY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"holdfast.audit_retention",
        c"How long events are kept.",
        c"Older ones are removed, whole days at a time; 0 keeps them for ever.",
        &AUDIT_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
    );
    // SAFETY: called once at load, on the postmaster's only thread.
    unsafe { pgrx::pg_sys::MarkGUCPrefixReserved(c"holdfast".as_ptr()) };
}

/// `holdfast.enabled`. Asked by every hook, so it is read where it lies.
pub fn enabled() -> bool {
    // SAFETY: the setting's variable, which only this process changes.
    unsafe { *ENABLED.as_ptr() }
}

/// `holdfast.backend`, none when empty.
pub fn claimed_backend() -> Option<String> {
    BACKEND.get().map(|s| s.to_string_lossy().into_owned()).filter(|s| !s.is_empty())
}

/// Whether `holdfast.backend` is this, without a copy of it.
pub fn claims(backend: Option<&str>) -> bool {
    // SAFETY: the setting's current value, null or a C string; nothing changes it meanwhile.
    let claimed = unsafe {
        let value = *BACKEND.as_ptr();
        if value.is_null() { &[] } else { CStr::from_ptr(value).to_bytes() }
    };
    claimed == backend.unwrap_or_default().as_bytes()
}

/// `holdfast.hold_timeout`, in milliseconds.
pub fn hold_timeout() -> i32 {
    HOLD_TIMEOUT.get()
}

/// `holdfast.cancel_after`, in milliseconds; none = never.
pub fn cancel_after() -> Option<i32> {
    Some(CANCEL_AFTER.get()).filter(|after| *after >= 0)
}

/// `holdfast.audit_timeout`, in milliseconds.
pub fn audit_timeout() -> i32 {
    AUDIT_TIMEOUT.get()
}

/// `holdfast.audit_queue_size`, in events.
pub fn audit_queue_size() -> usize {
    usize::try_from(AUDIT_QUEUE_SIZE.get()).unwrap_or(16)
}

/// `holdfast.audit_spool_size`, in bytes.
pub fn audit_spool_size() -> u64 {
    u64::try_from(AUDIT_SPOOL_SIZE.get()).unwrap_or(1) << 20
}

/// `holdfast.audit_query`.
pub fn audit_query() -> AuditQuery {
    AUDIT_QUERY.get()
}

/// `holdfast.audit_retention`, in minutes; 0 = for ever.
pub fn audit_retention() -> i32 {
    AUDIT_RETENTION.get()
}
