//! Handing a tenant over: cutover, and back.

use std::cell::Cell;

use pgrx::datum::Interval;
use pgrx::iter::TableIterator;
use pgrx::{PgSqlErrorCode, Spi, default, name, pg_extern, search_path};

use super::exclusion::{Had, Patience, exclude};
use super::ownership::{Change, canonical, key, no_migration, owner_in, owner_now, record};
use super::readiness::{Handover, demand, soak};
use super::{facts, fetch_again, internal, required};
use crate::pg::prepared::Prepared;
use crate::pg::report::{error, notice};
use crate::pg::session::{self, Session};
use crate::pg::types::PgLsn;
use crate::pg::{bounded, gucs, handover, trigger};
use crate::policy::ownership::{CutoverError, TenantState, check_cutover};
use crate::policy::readiness::Soak;
use crate::policy::tenant::TenantKey;

/// How long rollback_cutover() may hold writers, in milliseconds: as long as cutover() by default.
const ROLLBACK_PAUSE: i32 = 2_000;

/// tenant, from, to, epoch, pause, restore point, position in the log.
pub(super) type HandedOver = (String, String, String, i64, Interval, Option<String>, PgLsn);

/// Hands a tenant to another backend. Waits at most `max_pause` for open transactions that have written the tenant; new
/// writers are held meanwhile. One tenant a transaction.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns, and pgrx looks through no alias")]
fn cutover(
    tenant: Option<&str>,
    to_backend: Option<&str>,
    max_pause: default!(Option<Interval>, "'2 s'"),
    require_ready: default!(Option<bool>, "true"),
) -> TableIterator<
    'static,
    (
        name!(tenant, String),
        name!(from_backend, String),
        name!(to_backend, String),
        name!(epoch, i64),
        name!(paused, Interval),
        name!(restore_point, Option<String>),
        name!(lsn, PgLsn),
    ),
> {
    let session = facts();
    let tenant = canonical(&session, required(tenant, "tenant"));
    let to = required(to_backend, "to_backend");
    let ready = required(require_ready, "require_ready");
    let patience = Patience::of(&required(max_pause, "max_pause"));
    TableIterator::once(Order { tenant: &tenant, way: Way::To(to), ready, patience, reason: None }.carry_out(&session))
}

/// Hands a tenant back to the backend that owned it before the last cutover. As cutover() to that backend otherwise.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "as above")]
fn rollback_cutover(
    tenant: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(tenant, String),
        name!(from_backend, String),
        name!(to_backend, String),
        name!(epoch, i64),
        name!(paused, Interval),
        name!(restore_point, Option<String>),
        name!(lsn, PgLsn),
    ),
> {
    TableIterator::once(hand_back(required(tenant, "tenant"), None))
}

/// Hands a tenant back, for a reason that the history shows.
pub(super) fn hand_back(tenant: &str, reason: Option<&str>) -> HandedOver {
    let session = facts();
    let tenant = canonical(&session, tenant);
    let patience = Patience { pause: ROLLBACK_PAUSE, cancel_after: gucs::cancel_after() };
    Order { tenant: &tenant, way: Way::Back, ready: true, patience, reason }.carry_out(&session)
}

/// Where a tenant goes.
#[derive(Clone, Copy)]
enum Way<'a> {
    To(&'a str),
    /// To whom it was taken from by the last cutover.
    Back,
}

impl Way<'_> {
    /// As the history calls it.
    fn action(self) -> &'static str {
        match self {
            Way::To(_) => "cutover",
            Way::Back => "rollback",
        }
    }
}

/// Gives tenant `$1` to backend `$2`, from `$3`; `$4` if that takes a handover back.
const CHANGE_SQL: &str = "
INSERT INTO holdfast.ownership (tenant, owner, previous_owner, epoch, changed_at, changed_by, rolled_back)
VALUES ($1, $2, $3, 1, pg_catalog.clock_timestamp(), session_user, $4)
ON CONFLICT (tenant) DO UPDATE SET owner = excluded.owner, previous_owner = excluded.previous_owner,
    epoch = ownership.epoch + 1, changed_at = excluded.changed_at, changed_by = excluded.changed_by,
    rolled_back = excluded.rolled_back
RETURNING epoch";

thread_local! {
    static CHANGE: Cell<Option<Prepared>> = const { Cell::new(None) };
}

/// What an operator asks for.
struct Order<'a> {
    tenant: &'a TenantKey,
    way: Way<'a>,
    /// Whether readiness is required.
    ready: bool,
    patience: Patience,
    /// Why, if it is said.
    reason: Option<&'a str>,
}

/// What is left to do.
enum Next {
    HandTo(String),
    /// Nothing: this very order was carried out before, and this came of it.
    Nothing(Box<HandedOver>),
}

impl Order<'_> {
    /// Checks, locks, checks again, changes, records, tells.
    fn carry_out(&self, session: &Session) -> HandedOver {
        // What can be told without holding anybody up; and all facts are at hand for the look under the lock.
        let before = session.catalog.committed_tenant_state(self.tenant);
        let from = owner_in(session, before.as_ref()).unwrap_or_else(|| no_migration(self.tenant));
        // Waves wait for a wave, not for a tenant's lock, so one look is enough.
        let soak = self.ready.then(|| soak(session, self.tenant));
        if let Next::Nothing(done) = self.next(session, &from, before.as_ref(), soak.as_ref()) {
            return *done;
        }
        let had = exclude(self.tenant, &self.patience);
        // Its writers are held from here on, also where nothing is left to do.
        bounded::bind_transaction(had.until);
        let state = had.exclusive.state.as_ref();
        let from = owner_now(&had.exclusive, self.tenant);
        match self.next(&had.exclusive.session, &from, state, soak.as_ref()) {
            Next::HandTo(to) => {
                let backends = &had.exclusive.session.policy.set.backends;
                let back = matches!(self.way, Way::Back) || state.is_some_and(|s| s.takes_back(backends, &from, &to));
                self.change(&had, &from, &to, back)
            }
            Next::Nothing(done) => *done,
        }
    }

    /// What there is to do, checked. Readiness is required where the tenant's soak is known.
    fn next(&self, session: &Session, from: &str, state: Option<&TenantState>, soak: Option<&Soak>) -> Next {
        let previous = state.and_then(TenantState::way_back);
        let to = match (self.way, previous) {
            (Way::To(to), _) => to,
            (Way::Back, Some(previous)) => previous,
            (Way::Back, None) => {
                return Next::Nothing(self.carried_out().unwrap_or_else(|| never_handed_over(self.tenant)));
            }
        };
        if from == to
            && let Some(done) = self.carried_out()
        {
            return Next::Nothing(done);
        }
        may_cut_over(session, self.tenant, from, to);
        if let Some(soak) = soak {
            demand(session, self.tenant, &Handover { from, to, previous, soak });
        }
        Next::HandTo(to.to_owned())
    }

    fn change(&self, had: &Had, from: &str, to: &str, back: bool) -> HandedOver {
        let (tenant, action) = (self.tenant, self.way.action());
        let epoch = fetch_again::<i64>(&CHANGE, CHANGE_SQL, &[key(tenant), to.into(), from.into(), back.into()])
            .unwrap_or_default();
        let restore_point = handover::restore_point(&format!("holdfast {action} {epoch} of {tenant}"));
        let lsn = handover::current_lsn();
        let paused = Interval::from_micros(trigger::now() - had.exclusive.since);
        record(Change {
            tenant,
            action,
            from,
            to,
            paused: Some(paused),
            restore_point: restore_point.as_deref(),
            lsn: Some(lsn),
            reason: self.reason,
            cancelled: had.cancelled.clone(),
        });
        // What is left by now is what later statements get.
        bounded::bind_transaction(had.until);
        (tenant.as_str().to_owned(), from.to_owned(), to.to_owned(), epoch, paused, restore_point, PgLsn(lsn))
    }

    /// The tenant's last handover, if it is what is asked for now: somebody asks again because he never heard the answer. Doing
    /// nothing is what makes that safe; above all a second rollback must not lead forward again.
    fn carried_out(&self) -> Option<Box<HandedOver>> {
        let to = match self.way {
            Way::To(to) => Some(to),
            Way::Back => None,
        };
        let query = || {
            Spi::connect_mut(|client| {
                let rows = client.update(LAST_HANDOVER, Some(1), &[key(self.tenant), to.into()])?;
                if rows.is_empty() {
                    return Ok(None);
                }
                let row = rows.first();
                let handed_over = (
                    self.tenant.as_str().to_owned(),
                    row.get::<String>(1)?.unwrap_or_default(),
                    row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<i64>(3)?.unwrap_or_default(),
                    row.get::<Interval>(4)?.unwrap_or_else(|| Interval::from_micros(0)),
                    row.get::<String>(5)?,
                    PgLsn(u64::try_from(row.get::<i64>(6)?.unwrap_or_default()).unwrap_or_default()),
                );
                Ok(Some((handed_over, row.get::<String>(7)?.unwrap_or_default())))
            })
        };
        let (handed_over, told) = session::operate(query).unwrap_or_else(|failure| internal(failure))?;
        notice(
            format!("backend \"{}\" owns tenant \"{}\" already", handed_over.2, self.tenant),
            format!("Nothing has changed. This is the {told}."),
            "",
        );
        Some(Box::new(handed_over))
    }
}

/// The last handover of tenant `$1`: to backend `$2`, or if that is null one that took another back.
const LAST_HANDOVER: &str = "
SELECT c.from_backend, c.to_backend, c.epoch, c.paused, c.restore_point, (c.lsn - '0/0')::bigint,
    format('%s of %s by %s', c.action, date_trunc('second', c.at), c.changed_by)
FROM holdfast.ownership_change c
JOIN holdfast.ownership o ON o.tenant = c.tenant AND o.epoch = c.epoch AND o.owner = c.to_backend
WHERE c.tenant = $1 AND c.action IN ('cutover', 'rollback')
  AND CASE WHEN $2 IS NULL THEN o.rolled_back ELSE c.to_backend = $2 END
ORDER BY c.id DESC LIMIT 1";

fn never_handed_over(tenant: &TenantKey) -> ! {
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("tenant \"{tenant}\" was never handed over"),
        "Nothing has changed.",
        "See SELECT * FROM holdfast.ownership_history;",
    )
}

fn may_cut_over(session: &Session, tenant: &TenantKey, from: &str, to: &str) {
    let (message, hint) = match check_cutover(&session.policy.set.backends, Some(from), to) {
        Ok(()) => return,
        Err(CutoverError::UnknownBackend) => {
            super::known_backend(session, to);
            return;
        }
        Err(CutoverError::NoMigration) => no_migration(tenant),
        Err(CutoverError::Retired) => (
            format!("backend \"{to}\" is retired and may not own tenants"),
            "Bring it back with SELECT holdfast.set_trust(...), or name another backend.",
        ),
        Err(CutoverError::AlreadyOwner) => {
            (format!("backend \"{to}\" already owns tenant \"{tenant}\""), "See SELECT * FROM holdfast.tenants;")
        }
    };
    error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, "Nothing has changed.", hint)
}
