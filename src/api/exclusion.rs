//! Having a tenant to oneself: how long to wait for it, who is in the way, and who is told to go.

use pgrx::PgSqlErrorCode;
use pgrx::datum::{DatumWithOid, Interval};

use super::{execute, fetch};
use crate::pg::handover::{self, Exclusive, NoLock};
use crate::pg::locks::Tag;
use crate::pg::report::{self, error};
use crate::pg::session::Session;
use crate::pg::{gucs, trigger};
use crate::policy::tenant::TenantKey;

/// How long writers may be held, and when those who are in the way are cancelled; both in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// In all, until the transaction ends.
    pub pause: i32,
    /// From asking for the tenant; none = never.
    pub cancel_after: Option<i32>,
}

impl Patience {
    /// Of a handover that is given so much time.
    pub fn of(max_pause: &Interval) -> Patience {
        match i32::try_from(max_pause.as_micros() / 1_000) {
            Ok(pause @ 1..=86_400_000) => Patience { pause, cancel_after: gucs::cancel_after() },
            _ => error(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "max_pause must be between 1 ms and 1 day",
                "It is how long writers of the tenant may be held.",
                "",
            ),
        }
    }
}

/// A tenant that nobody else can write until this transaction ends.
pub(super) struct Had {
    pub exclusive: Exclusive,
    /// When writers may be held no longer, in microseconds since 2000.
    pub until: i64,
    /// Whose transactions were cancelled for it.
    pub cancelled: Vec<String>,
}

/// After the first cancellation, how long those that came between are given, in milliseconds, however little was asked for.
const NEXT_GRACE: i32 = 50;

/// Takes the tenant's lock; an error if it can't be had in time.
pub(super) fn exclude(tenant: &TenantKey, patience: &Patience) -> Had {
    let since = trigger::now();
    let until = since + i64::from(patience.pause) * 1_000;
    let mut cancelled: Vec<String> = Vec::new();
    let mut grace = patience.cancel_after;
    loop {
        // Before asking: who comes while we queue waits behind us, and isn't a straggler when a turn ends and lets it pass.
        let stragglers = grace.map(|_| writers(tenant));
        let turn = grace.map_or(until, |grace| until.min(trigger::now() + i64::from(grace) * 1_000));
        match handover::exclude_writers(tenant, since, turn) {
            Ok(exclusive) => {
                tell(tenant, &cancelled);
                return Had { exclusive, until, cancelled };
            }
            Err(NoLock::TimedOut { tag }) if turn < until => {
                // Those who have written the tenant aren't in the way of who waits for who may own.
                if !tag.is_owners() {
                    cancelled.extend(cancel(tenant, stragglers.unwrap_or_default()));
                }
                grace = grace.map(|grace| grace.max(NEXT_GRACE));
            }
            Err(NoLock::TimedOut { tag }) => too_late(tenant, patience, tag, since, &cancelled),
            Err(NoLock::OneTenantATransaction(other)) => error(
                PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
                format!("this transaction has already changed tenant \"{other}\""),
                "A tenant's writers are held until the transaction that hands it over ends.",
                "Commit after each tenant, for example with psql's \\gexec.",
            ),
            Err(NoLock::NotInstalled) => being_dropped(),
        }
    }
}

fn being_dropped() -> ! {
    error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the extension is being dropped", "", "")
}

/// How long whoever changes who may own waits for handovers under way, in milliseconds. Those that come meanwhile queue behind, without
/// their tenants.
const HANDOVERS_PATIENCE: i32 = 10_000;

/// The facts, which no handover changes until this transaction ends.
pub(super) fn without_handovers() -> Session {
    match handover::exclude_handovers(HANDOVERS_PATIENCE) {
        Ok(session) => session,
        Err(NoLock::TimedOut { tag }) => {
            look_again();
            let holders = "SELECT pg_catalog.string_agg(description, '; ' ORDER BY began)
                           FROM holdfast.lock_holders($1, $2, $3)";
            error(
                PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
                "handovers are under way",
                fetch::<String>(holders, &tag_arguments(tag))
                    .map_or(String::new(), |holders| format!("Waited for {holders}.")),
                "Nothing has changed. Retry when these transactions have ended.",
            )
        }
        Err(NoLock::OneTenantATransaction(_) | NoLock::NotInstalled) => being_dropped(),
    }
}

/// The holders of a tenant's lock and of that on all tenants; `$1` to `$3` and `$4` to `$6` are their tags.
macro_rules! holders {
    () => {
        "(SELECT * FROM holdfast.lock_holders($1, $2, $3) UNION ALL SELECT * FROM holdfast.lock_holders($4, $5, $6))"
    };
}

/// A lock's tag as `lock_holders` takes it.
pub(super) fn tag_arguments(tag: Tag) -> [DatumWithOid<'static>; 3] {
    let (high, low) = tag.halves();
    [i64::from(high).into(), i64::from(low).into(), i32::from(tag.class()).into()]
}

fn both_tags(tenant: &TenantKey) -> Vec<DatumWithOid<'static>> {
    tag_arguments(Tag::tenant(tenant)).into_iter().chain(tag_arguments(Tag::all())).collect()
}

/// What this transaction has seen of other sessions before may be old.
fn look_again() {
    execute("SELECT pg_catalog.pg_stat_clear_snapshot()", &[]);
}

/// The sessions whose open transactions have written the tenant, or so many that nobody knows which: each as its process and its
/// transaction.
fn writers(tenant: &TenantKey) -> Vec<String> {
    look_again();
    fetch(
        concat!(
            "SELECT pg_catalog.array_agg(pid || ' ' || virtual_transaction) FROM ",
            holders!(),
            " AS holder WHERE writes AND pid IS NOT NULL"
        ),
        &both_tags(tenant),
    )
    .unwrap_or_default()
}

/// Ends those of the transactions that are still in the way. A session that idles in its transaction has nothing to cancel, so it is
/// terminated. What was done to whom.
fn cancel(tenant: &TenantKey, stragglers: Vec<String>) -> Vec<String> {
    if stragglers.is_empty() {
        return Vec::new();
    }
    look_again();
    let mut arguments = both_tags(tenant);
    arguments.push(stragglers.into());
    let cancelled: Vec<String> = fetch(
        concat!(
            // Settled first, so that nobody is signalled who isn't in the list.
            "WITH straggler AS MATERIALIZED (
                 SELECT DISTINCT ON (pid) * FROM ",
            holders!(),
            " AS holder WHERE writes AND pid || ' ' || virtual_transaction = ANY ($7)
             )
             SELECT pg_catalog.array_agg(pg_catalog.format('%s: %s', description,
                 CASE WHEN idle THEN 'terminated' ELSE 'cancelled' END) ORDER BY began)
             FROM straggler
             WHERE CASE WHEN idle THEN pg_catalog.pg_terminate_backend(pid) ELSE pg_catalog.pg_cancel_backend(pid) END"
        ),
        &arguments,
    )
    .unwrap_or_default();
    for one in &cancelled {
        report::log(&format!("holdfast: for the handover of tenant \"{tenant}\", {one}"), "");
    }
    cancelled
}

fn tell(tenant: &TenantKey, cancelled: &[String]) {
    if !cancelled.is_empty() {
        report::notice(
            format!("transactions that had written tenant \"{tenant}\" were cancelled: {}", cancelled.len()),
            format!("{}.", cancelled.join("; ")),
            "",
        );
    }
}

fn too_late(tenant: &TenantKey, patience: &Patience, tag: Tag, since: i64, cancelled: &[String]) -> ! {
    look_again();
    let mut arguments: Vec<DatumWithOid> = tag_arguments(tag).into();
    arguments.push(since.into());
    // Who queued behind us and has the lock by now was not in the way.
    let holders = fetch::<String>(
        "SELECT pg_catalog.string_agg(description, '; ' ORDER BY began) FROM holdfast.lock_holders($1, $2, $3)
         WHERE pid IS NULL OR began < timestamptz '2000-01-01 00:00:00+00' + $4 * interval '1 microsecond'",
        &arguments,
    );
    let mut detail = match holders {
        Some(holders) => format!("Waited for {holders}."),
        None => "Open transactions that had written it have ended meanwhile.".to_owned(),
    };
    if !cancelled.is_empty() {
        detail += &format!(" Meanwhile: {}.", cancelled.join("; "));
    }
    error(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        format!("tenant \"{tenant}\" could not be had within {} ms", patience.pause),
        detail,
        "Nothing has changed. Retry with a longer max_pause, or when these transactions have ended.",
    )
}
