//! The worker's part: what clients of moved tenants do wrong, and what is done about it. Each call does one thing, so that no
//! transaction has more than one tenant's lock.

use pgrx::{JsonB, PgSqlErrorCode, pg_extern, search_path};
use serde::Deserialize;

use super::super::{bounds, cutover, internal};
use super::{attempt, execute, fetch, tell};
use crate::pg::report::error;
use crate::policy::waves::{OnViolation, Outlook, State, Watched, Wrongs, watch};

/// At once, or as long as it takes a tenant's writers to end their transactions; in microseconds.
const NOW: i64 = 0;
const SOON: i64 = 1_000_000;

/// What freeze() and rollback_cutover() may take, in milliseconds.
const PAUSE: f64 = 2_000.0;

/// Where no event says so, what is counted elsewhere is looked at so often.
const ROUND: i64 = 60_000_000;

/// A wave that is watched, its row locked. Whose row somebody else has is left for later.
const WATCHED: &str = "
SELECT pg_catalog.jsonb_build_object(
    'id', w.id, 'wave', w.wave, 'state', w.state, 'on_violation', w.on_violation, 'max_refusals', w.max_refusals,
    'max_invariant_violations', w.max_invariant_violations, 'max_parity_mismatches', w.max_parity_mismatches,
    'soak_left', CASE WHEN w.state = 'soaking'
        THEN (EXTRACT(epoch FROM w.soaks_until - pg_catalog.clock_timestamp()) * 1000000)::bigint END,
    'to_backend', w.to_backend, 'rest', EXISTS (
        SELECT FROM holdfast.wave_tenant t WHERE t.wave_id = w.id AND t.state = 'waiting'))
FROM holdfast.wave w WHERE w.state IN ('moving', 'soaking', 'halting') AND w.id > $1
ORDER BY w.id LIMIT 1 FOR NO KEY UPDATE OF w SKIP LOCKED";

/// What the clients of its tenants did wrong, by tenant. Invariants and parity join here.
const WRONGS: &str = "
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(r.tenant, r.refusals) ORDER BY t.position), '[]')
FROM holdfast.wave_refusals r LEFT JOIN holdfast.wave_tenant t ON t.wave_id = $1 AND t.tenant = r.tenant
WHERE r.wave = $2 AND (r.tenant IS NULL OR t.state = 'moved') AND r.refusals > 0";

#[derive(Deserialize)]
struct Row {
    id: i32,
    wave: String,
    to_backend: String,
    state: String,
    on_violation: String,
    max_refusals: i64,
    max_invariant_violations: i64,
    max_parity_mismatches: i64,
    soak_left: Option<i64>,
    rest: bool,
}

/// Looks after the waves that are watched. Returns in how many microseconds to call it again, NULL when nothing is
/// watched.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn watch_waves() -> Option<i64> {
    let mut next: Option<i64> = None;
    let mut after = 0;
    while let Some(row) = fetch::<JsonB>(WATCHED, &[after.into()]) {
        let row: Row = match serde_json::from_value(row.0) {
            Ok(row) => row,
            Err(_) => internal(pgrx::spi::Error::InvalidPosition),
        };
        after = row.id;
        let look = if row.state == State::Halting.as_str() { deal_with_one(&row) } else { look_at(&row) };
        if look == NOW {
            return Some(NOW);
        }
        next = Some(next.map_or(look, |next| next.min(look)));
    }
    let busy = "SELECT pg_catalog.count(*) FROM holdfast.wave WHERE state IN ('moving', 'soaking', 'halting')";
    let watched = fetch::<i64>(busy, &[]).unwrap_or(0) > 0;
    next.or(watched.then_some(SOON))
}

/// Whether the wave may go on.
fn look_at(row: &Row) -> i64 {
    // Who was taken back by hand isn't this wave's any more: its new owner must not be stopped for what the old one does.
    execute(
        "UPDATE holdfast.wave_tenant t SET state = 'returned', problem = pg_catalog.format('handed to %s', o.owner)
         FROM holdfast.ownership o
         WHERE t.wave_id = $1 AND t.state = 'moved' AND o.tenant = t.tenant AND o.owner <> $2",
        &[row.id.into(), row.to_backend.as_str().into()],
    );
    let wrongs = fetch::<JsonB>(WRONGS, &[row.id.into(), row.wave.as_str().into()]);
    let wrongs: Vec<(Option<String>, i64)> =
        wrongs.and_then(|json| serde_json::from_value(json.0).ok()).unwrap_or_default();
    let watched: Vec<Watched> = wrongs
        .into_iter()
        .map(|(tenant, refusals)| Watched { tenant, wrongs: Wrongs { refusals, ..Wrongs::default() } })
        .collect();
    let limits = Wrongs {
        refusals: row.max_refusals,
        invariant_violations: row.max_invariant_violations,
        parity_mismatches: row.max_parity_mismatches,
    };
    match watch(&limits, &watched, row.soak_left, row.rest, 0) {
        Outlook::GoOn(left) => left.map_or(ROUND, |left| left.clamp(1, ROUND)),
        Outlook::Pass => {
            execute(
                "UPDATE holdfast.wave SET state = 'passed', soaks_until = NULL, ended_at = pg_catalog.clock_timestamp()
                 WHERE id = $1",
                &[row.id.into()],
            );
            tell(&row.wave, State::Passed, None);
            NOW
        }
        Outlook::MoveRest => {
            execute(
                "UPDATE holdfast.wave SET state = 'moving', stage = 'all', soaks_until = NULL WHERE id = $1",
                &[row.id.into()],
            );
            tell(&row.wave, State::Moving, None);
            NOW
        }
        Outlook::Halt { reason, offenders } => {
            halt(row, &reason, offenders);
            NOW
        }
    }
}

/// Stops the wave, and names those that are to be dealt with.
fn halt(row: &Row, reason: &str, offenders: Vec<(String, String)>) {
    let (tenants, problems): (Vec<String>, Vec<String>) = offenders.into_iter().unzip();
    execute(
        "UPDATE holdfast.wave_tenant t SET state = 'offending', problem = o.problem, tries = 0, tried_at = NULL
         FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[])) AS o (tenant, problem)
         WHERE t.wave_id = $1 AND t.tenant = o.tenant",
        &[row.id.into(), tenants.into(), problems.into()],
    );
    execute(
        "UPDATE holdfast.wave SET state = 'halting', reason = $2, soaks_until = NULL WHERE id = $1",
        &[row.id.into(), reason.into()],
    );
    tell(&row.wave, State::Halting, Some(reason));
}

/// Freezes the next offending tenant of a wave, or hands it back. When there is none any more, the wave is halted.
fn deal_with_one(row: &Row) -> i64 {
    let next = "SELECT t.tenant FROM holdfast.wave_tenant t WHERE t.wave_id = $1 AND t.state = 'offending'
                ORDER BY t.tried_at NULLS FIRST, t.position LIMIT 1";
    let Some(tenant) = fetch::<String>(next, &[row.id.into()]) else {
        execute("UPDATE holdfast.wave SET state = 'halted' WHERE id = $1", &[row.id.into()]);
        tell(&row.wave, State::Halted, None);
        return NOW;
    };
    let back = row.on_violation.parse() == Ok(OnViolation::Rollback);
    let owner = "SELECT holdfast.owner_of($1) = $2";
    let has_left = fetch::<bool>(owner, &[tenant.as_str().into(), row.to_backend.as_str().into()]) != Some(true);
    let dealt_with = if has_left { Ok(back) } else { stop(row, &tenant, back) };
    let returned = has_left || matches!(dealt_with, Ok(true));
    let tried = dealt_with.err();
    execute(
        "UPDATE holdfast.wave_tenant SET tried_at = pg_catalog.clock_timestamp(), tries = tries + 1,
             state = CASE WHEN $3 IS NOT NULL THEN state WHEN $4 THEN 'returned' ELSE 'frozen' END
         WHERE wave_id = $1 AND tenant = $2",
        &[row.id.into(), tenant.as_str().into(), tried.as_deref().into(), returned.into()],
    );
    match tried {
        None => NOW,
        Some(why) => {
            pgrx::log!("holdfast: wave \"{}\": tenant \"{tenant}\" can't be stopped yet: {why}", row.wave);
            SOON
        }
    }
}

/// Hands a tenant back, if the policy says so and the way is open, or freezes it; which of them.
///
/// # Errors
/// Why neither could be done.
fn stop(row: &Row, tenant: &str, back: bool) -> Result<bool, String> {
    let closed = if back {
        match attempt(PAUSE, || still_its(row, tenant, hand_back(row, tenant))) {
            Ok(()) => return Ok(true),
            Err(problem) if problem.busy => return Err(problem.told),
            // Its previous owner may have been retired meanwhile. That is no reason to let the client go on.
            Err(problem) => Some(problem.told),
        }
    } else {
        None
    };
    let freeze = || {
        freeze(row, tenant, closed.as_deref());
        still_its(row, tenant, fetch::<String>("SELECT holdfast.owner_of($1)", &[tenant.into()]));
    };
    attempt(PAUSE, freeze).map(|()| false).map_err(|problem| problem.told)
}

/// From whom it was taken.
fn hand_back(row: &Row, tenant: &str) -> Option<String> {
    let (_, from, ..) = cutover::hand_back(tenant, Some(bounds::cut(&halted_for(row, tenant))));
    Some(from)
}

/// Why the wave was halted, as far as this tenant had to do with it.
fn halted_for(row: &Row, tenant: &str) -> String {
    let problem = "SELECT problem FROM holdfast.wave_tenant WHERE wave_id = $1 AND tenant = $2";
    let problem = fetch::<String>(problem, &[row.id.into(), tenant.into()]).unwrap_or_default();
    format!("wave \"{}\" was halted: {problem}", row.wave)
}

/// Under the tenant's lock it is certain whose it was; if it has been somebody else's meanwhile, what was done is taken back, and the
/// next try finds that it has left.
fn still_its(row: &Row, tenant: &str, owner: Option<String>) {
    if owner.as_ref() != Some(&row.to_backend) {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("backend \"{}\" doesn't own tenant \"{tenant}\" any more", row.to_backend),
            "",
            "",
        );
    }
}

/// Somebody may have frozen it already.
fn freeze(row: &Row, tenant: &str, closed: Option<&str>) {
    let frozen = "SELECT EXISTS (SELECT FROM holdfast.ownership WHERE tenant = $1 AND freeze_reason IS NOT NULL
                      AND (frozen_until IS NULL OR frozen_until > pg_catalog.clock_timestamp()))";
    if fetch::<bool>(frozen, &[tenant.into()]) == Some(true) {
        return;
    }
    let back = closed.map_or(String::new(), |why| format!("; it could not be handed back: {why}"));
    let reason = halted_for(row, tenant) + &back;
    execute("SELECT holdfast.freeze($1, $2)", &[tenant.into(), bounds::cut(&reason).into()]);
}
