//! Waves: tenants that are moved together and watched afterwards. This plans them and ends them; `run` moves their tenants,
//! `watch` is the worker's part.

mod run;
mod watch;

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{JsonB, PgSqlErrorCode, PgTryBuilder, default, pg_extern, search_path};
use serde::Deserialize;

use super::ownership::canonical;
use super::{affected, bounds, execute, facts, fetch, known_backend, parsed, required};
use crate::pg::handover;
use crate::pg::reading;
use crate::pg::report::{decode_sqlstate, error};
use crate::pg::session::Session;
use crate::pg::subtransaction::in_subtransaction;
use crate::pg::trigger;
use crate::policy::backend::Trust;
use crate::policy::ownership::{CutoverError, check_cutover};
use crate::policy::waves::{OnViolation, State};

/// In microseconds; from PostgreSQL 17 on an interval can be infinite, and such a time is no number.
const LONGEST_SOAK: i128 = 315_576_000_000_000;

/// Names of an error message: the first few of them.
const SHOWN: usize = 5;

/// A row of `holdfast.wave`, as [`WAVE`] reads it.
#[derive(Deserialize)]
struct Wave {
    id: i32,
    wave: String,
    to_backend: String,
    state: String,
    stage: String,
    concurrency: i32,
    /// In milliseconds.
    max_pause: f64,
    require_ready: bool,
    reason: Option<String>,
    until: Option<String>,
}

/// A wave by its name, for whom its row is locked.
const WAVE: &str = "
SELECT pg_catalog.jsonb_build_object('id', id, 'wave', wave, 'to_backend', to_backend, 'state', state, 'stage', stage,
    'concurrency', concurrency, 'max_pause', EXTRACT(epoch FROM max_pause) * 1000, 'require_ready', require_ready,
    'reason', reason, 'until', pg_catalog.to_char(soaks_until, 'YYYY-MM-DD HH24:MI:SS'))
FROM holdfast.wave WHERE wave = $1 FOR UPDATE";

impl Wave {
    /// The wave of this name. Nobody else changes it until the transaction ends.
    fn locked(name: &str) -> Wave {
        let wave = fetch::<JsonB>(WAVE, &[name.into()]).and_then(|json| serde_json::from_value(json.0).ok());
        wave.unwrap_or_else(|| {
            let known = fetch::<String>("SELECT pg_catalog.string_agg(wave, ', ' ORDER BY id) FROM holdfast.wave", &[]);
            error(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("wave \"{name}\" does not exist"),
                "",
                known.map_or("Plan one with SELECT holdfast.add_wave(...).".to_owned(), |known| {
                    format!("There are: {known}.")
                }),
            )
        })
    }

    fn state(&self) -> State {
        // The table has no others.
        self.state.parse().unwrap_or(State::Aborted)
    }
}

/// Plans to move tenants: those of a list, or those that a query gives. They are stored now, so that what will happen can
/// be seen before it does.
#[pg_extern]
#[allow(clippy::too_many_arguments, reason = "they are named, and have defaults")]
fn add_wave(
    wave: Option<&str>,
    tenants: default!(Option<Vec<Option<String>>>, "NULL"),
    query: default!(Option<&str>, "NULL"),
    to_backend: default!(Option<&str>, "NULL"),
    canaries: default!(Option<Vec<Option<String>>>, "NULL"),
    canary_count: default!(Option<i32>, "0"),
    soak: default!(Option<Interval>, "'1 day'"),
    max_refusals: default!(Option<i64>, "0"),
    max_invariant_violations: default!(Option<i64>, "0"),
    max_parity_mismatches: default!(Option<i64>, "0"),
    on_violation: default!(Option<&str>, "'freeze'"),
    concurrency: default!(Option<i32>, "1"),
    max_pause: default!(Option<Interval>, "'2 s'"),
    require_ready: default!(Option<bool>, "true"),
) -> i32 {
    let wave = bounds::name(wave, "wave").trim();
    let concurrency = required(concurrency, "concurrency");
    if !(1..=64).contains(&concurrency) {
        invalid("concurrency must be between 1 and 64", "It is how many CALLs may move tenants at a time.", "");
    }
    let (soak, max_pause) = (required(soak, "soak"), required(max_pause, "max_pause"));
    if !(0..=LONGEST_SOAK).contains(&soak.as_micros()) {
        invalid(
            "soak must be between 0 and 10 years",
            "It is how long a wave is watched before the next may start.",
            "",
        );
    }
    if !(1_000..=86_400_000_000).contains(&max_pause.as_micros()) {
        invalid("max_pause must be between 1 ms and 1 day", "It is how long writers of a tenant may be held.", "");
    }
    let limits = [
        (max_refusals, "max_refusals"),
        (max_invariant_violations, "max_invariant_violations"),
        (max_parity_mismatches, "max_parity_mismatches"),
    ]
    .map(|(limit, name)| {
        let limit = required(limit, name);
        if limit < 0 {
            invalid(&format!("{name} must not be negative"), "", "0 halts the wave at the first one.");
        }
        limit
    });
    let on_violation = required(on_violation, "on_violation");
    parsed::<OnViolation>(on_violation, "on_violation", OnViolation::NAMES);
    let require_ready = required(require_ready, "require_ready");

    let session = facts();
    let to = receiver(&session, to_backend);
    let planned = Plan::of(&session, tenants, query, canaries, required(canary_count, "canary_count"));
    planned.check(&session, to);

    if fetch::<bool>("SELECT EXISTS (SELECT FROM holdfast.wave WHERE wave = $1)", &[wave.into()]) == Some(true) {
        error(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("wave \"{wave}\" exists already"),
            "",
            "Forget it with SELECT holdfast.drop_wave(...), or choose another name.",
        );
    }
    let stage = if planned.canaries > 0 { "canaries" } else { "all" };
    let id = fetch::<i32>(
        "INSERT INTO holdfast.wave (wave, to_backend, stage, soak, max_refusals, max_invariant_violations,
             max_parity_mismatches, on_violation, concurrency, max_pause, require_ready)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id",
        &[
            wave.into(),
            to.into(),
            stage.into(),
            soak.into(),
            limits[0].into(),
            limits[1].into(),
            limits[2].into(),
            on_violation.into(),
            concurrency.into(),
            max_pause.into(),
            require_ready.into(),
        ],
    );
    let (canaries, all) = (planned.canaries as i64, planned.tenants.len() as i32);
    execute(
        "INSERT INTO holdfast.wave_tenant (wave_id, position, tenant, canary)
         SELECT $1, n, tenant, n <= $3 FROM pg_catalog.unnest($2::text[]) WITH ORDINALITY AS t (tenant, n)",
        &[id.into(), planned.tenants.into(), canaries.into()],
    );
    all
}

/// The backend that gets the tenants: the only one that it could be, unless it is named.
fn receiver<'a>(session: &'a Session, named: Option<&'a str>) -> &'a str {
    if let Some(named) = named {
        return known_backend(session, named);
    }
    let set = &session.policy.set;
    let others =
        set.backends.iter().filter(|b| b.trust != Trust::Retired && Some(&b.name) != set.default_owner.as_ref());
    let others: Vec<&str> = others.map(|b| b.name.as_str()).collect();
    match others.as_slice() {
        [only] => only,
        [] => error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "there is no backend that tenants could move to",
            "",
            "Begin a migration with SELECT holdfast.begin_migration(...).",
        ),
        several => invalid(
            "parameter \"to_backend\" must be given",
            &format!("Tenants could move to: {}.", several.join(", ")),
            "",
        ),
    }
}

/// The tenants of a wave in their order, canaries first.
struct Plan {
    tenants: Vec<String>,
    canaries: usize,
}

impl Plan {
    fn of(
        session: &Session,
        tenants: Option<Vec<Option<String>>>,
        query: Option<&str>,
        canaries: Option<Vec<Option<String>>>,
        canary_count: i32,
    ) -> Plan {
        let given = match (tenants, query) {
            (Some(tenants), None) => tenants,
            (None, Some(query)) => asked(query),
            _ => invalid(
                "a wave's tenants come from a list or from a query",
                "Exactly one of the parameters \"tenants\" and \"query\" must be given.",
                "",
            ),
        };
        let tenants = canonical_all(session, given, "tenants");
        if tenants.is_empty() {
            invalid("a wave must have tenants", "", "Look at what the query gives.");
        }
        let mut canaries = canonical_all(session, canaries.unwrap_or_default(), "canaries");
        let known: HashSet<&String> = tenants.iter().collect();
        let strangers: Vec<_> = canaries.iter().filter(|canary| !known.contains(canary)).cloned().collect();
        if !strangers.is_empty() {
            invalid(&format!("canaries that are not among the wave's tenants: {}", few(&strangers)), "", "");
        }
        let chosen: HashSet<String> = canaries.iter().cloned().collect();
        let mut rest: Vec<String> = tenants.into_iter().filter(|tenant| !chosen.contains(tenant)).collect();
        match usize::try_from(canary_count) {
            Ok(count) if count <= rest.len() => canaries.extend(rest.drain(..count)),
            _ => invalid(
                "canary_count must be between 0 and the number of the wave's other tenants",
                &format!("Besides those that are named there are {}.", rest.len()),
                "",
            ),
        }
        let count = canaries.len();
        canaries.append(&mut rest);
        Plan { tenants: canaries, canaries: count }
    }

    /// Refuses tenants that can't move, all of them at once.
    fn check(&self, session: &Session, to: &str) {
        let mut there = Vec::new();
        for tenant in &self.tenants {
            let state = session.catalog.committed_tenant_state(&canonical(session, tenant));
            let from = state.and_then(|s| s.owner).or_else(|| session.policy.set.default_owner.clone());
            match check_cutover(&session.policy.set.backends, from.as_deref(), to) {
                Ok(()) => {}
                Err(CutoverError::AlreadyOwner) => there.push(tenant.clone()),
                Err(CutoverError::NoMigration) => error(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    "nobody owns these tenants, because no migration has begun",
                    "",
                    "Begin it with SELECT holdfast.begin_migration(...).",
                ),
                Err(CutoverError::Retired | CutoverError::UnknownBackend) => error(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("backend \"{to}\" may not own tenants"),
                    "It is retired.",
                    "Bring it back with SELECT holdfast.set_trust(...), or name another backend.",
                ),
            }
        }
        if !there.is_empty() {
            error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("backend \"{to}\" already owns {}", few(&there)),
                "A wave moves tenants of another backend.",
                "Leave them out: ... WHERE holdfast.owner_of(tenant) <> '...'.",
            );
        }
        let elsewhere = fetch::<String>(
            "SELECT pg_catalog.string_agg(told, ', ') FROM (
                 SELECT pg_catalog.format('%s (%s)', t.tenant, w.wave) AS told
                 FROM holdfast.wave_tenant t JOIN holdfast.wave w ON w.id = t.wave_id
                 WHERE t.tenant = ANY ($1::text[]) AND t.state IN ('waiting', 'moved', 'offending')
                     AND w.state NOT IN ('passed', 'aborted')
                 ORDER BY w.id, t.position LIMIT 5) AS elsewhere",
            &[self.tenants.clone().into()],
        );
        if let Some(elsewhere) = elsewhere {
            error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("tenants are in other waves: {elsewhere}"),
                "A tenant waits in one wave at most.",
                "Leave them out, or take them out there with SELECT holdfast.skip_tenant(...).",
            );
        }
    }
}

/// What a query of the caller's gives: with the caller's rights and names, and nothing that it calls can write.
fn asked(query: &str) -> Vec<Option<String>> {
    let read = |row: &reading::Row| (row.columns(), row.spelled(0));
    let rows = reading::read_only(|| reading::rows(query, &[], read));
    if let Some((columns, _)) = rows.first().filter(|(columns, _)| *columns != 1) {
        invalid(
            "a wave's query must give one column",
            &format!("It gives {columns}."),
            "A tenant whose key has several columns is given as ROW(...)::text.",
        );
    }
    rows.into_iter().map(|(_, tenant)| tenant).collect()
}

/// Each tenant in its canonical form; neither null nor twice.
fn canonical_all(session: &Session, given: Vec<Option<String>>, what: &str) -> Vec<String> {
    let mut known = HashSet::with_capacity(given.len());
    let mut twice = BTreeSet::new();
    let mut tenants = Vec::with_capacity(given.len());
    for tenant in given {
        let Some(tenant) = tenant else {
            error(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{what} contain NULL"), "", "")
        };
        let tenant = canonical(session, &tenant).as_str().to_owned();
        if !known.insert(tenant.clone()) {
            twice.insert(tenant.clone());
        }
        tenants.push(tenant);
    }
    if !twice.is_empty() {
        let twice: Vec<_> = twice.into_iter().collect();
        invalid(&format!("{what} contain duplicates: {}", few(&twice)), "", "A query should say SELECT DISTINCT.");
    }
    tenants
}

/// Forgets a wave that has moved nobody, or that is over.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_wave(wave: Option<&str>) {
    let wave = Wave::locked(required(wave, "wave"));
    if wave.state() != State::Planned && !wave.state().is_over() {
        not_now(&wave, "It has begun.", "End it first: SELECT holdfast.abort_wave(...).");
    }
    execute("DELETE FROM holdfast.wave_tenant WHERE wave_id = $1", &[wave.id.into()]);
    execute("DELETE FROM holdfast.wave WHERE id = $1", &[wave.id.into()]);
}

/// Leaves a tenant that hasn't moved out of its wave, so that the others needn't wait for it.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn skip_tenant(wave: Option<&str>, tenant: Option<&str>) {
    let wave = Wave::locked(required(wave, "wave"));
    let tenant = canonical(&facts(), required(tenant, "tenant"));
    let skipped = affected(
        "UPDATE holdfast.wave_tenant SET state = 'skipped', problem = 'left out by ' || session_user
         WHERE wave_id = $1 AND tenant = $2 AND state = 'waiting' RETURNING 1",
        &[wave.id.into(), tenant.as_str().into()],
    );
    if skipped == 0 {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("tenant \"{tenant}\" does not wait in wave \"{}\"", wave.wave),
            "",
            "See SELECT * FROM holdfast.wave_tenants;",
        );
    }
}

/// Lets a halted wave go on. What clients did wrong before doesn't count any more; tenants that were frozen, and aren't any
/// more, are watched again with the others.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resume_wave(wave: Option<&str>) {
    let wave = Wave::locked(required(wave, "wave"));
    if wave.state() != State::Halted {
        not_now(&wave, "Only a halted wave can be resumed.", "See SELECT * FROM holdfast.waves;");
    }
    execute(
        "UPDATE holdfast.wave_tenant t SET state = 'moved', problem = NULL FROM holdfast.ownership o
         WHERE t.wave_id = $1 AND t.state = 'frozen' AND o.tenant = t.tenant AND o.owner = $2
             AND (o.freeze_reason IS NULL OR o.frozen_until <= pg_catalog.clock_timestamp())",
        &[wave.id.into(), wave.to_backend.as_str().into()],
    );
    execute(
        "UPDATE holdfast.wave SET state = 'moving', reason = NULL, soaks_until = NULL,
             watched_since = pg_catalog.clock_timestamp() WHERE id = $1",
        &[wave.id.into()],
    );
    tell(&wave.wave, State::Moving, None);
}

/// Ends a wave. Its tenants stay where they are, those that wait with their present owners; the next wave may start.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn abort_wave(wave: Option<&str>) {
    let wave = Wave::locked(required(wave, "wave"));
    if wave.state().is_over() {
        not_now(&wave, "It is over.", "");
    }
    execute(
        "UPDATE holdfast.wave SET state = 'aborted', soaks_until = NULL, ended_at = pg_catalog.clock_timestamp()
         WHERE id = $1",
        &[wave.id.into()],
    );
    tell(&wave.wave, State::Aborted, None);
}

fn not_now(wave: &Wave, detail: &str, hint: &str) -> ! {
    let message = format!("wave \"{}\" is {}", wave.wave, wave.state);
    error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, detail, hint)
}

/// Tells listeners of a wave's new state, when this transaction commits.
fn tell(wave: &str, state: State, reason: Option<&str>) {
    handover::notify(&serde_json::json!({
        "event": "wave",
        "wave": wave,
        "state": state.as_str(),
        "reason": reason,
    }));
}

fn invalid(message: &str, detail: &str, hint: &str) -> ! {
    error(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, detail, hint)
}

/// The first few of a list.
fn few(tenants: &[String]) -> String {
    let shown = tenants.iter().take(SHOWN).map(|tenant| format!("\"{tenant}\"")).collect::<Vec<_>>().join(", ");
    match tenants.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What is wrong with a tenant.
struct Problem {
    told: String,
    /// Whether it couldn't be had in time, and may be had later.
    busy: bool,
}

/// Does something to one tenant in a subtransaction, of which no more than `pause` milliseconds may be spent on holding its writers.
///
/// # Errors
/// What is wrong with this tenant. What is wrong with the session or the server is an error as ever.
fn attempt(pause: f64, work: impl FnOnce()) -> Result<(), Problem> {
    // What only a new transaction can put right, resources, the operator's intervention, the system, corruption.
    const NOT_ITS_OWN: [&str; 6] = ["40", "53", "57", "58", "F0", "XX"];
    const CANCELED: &str = "57014";
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    let until = trigger::now() + (pause * 1_000.0) as i64;
    in_subtransaction(AssertUnwindSafe(|| {
        let work = AssertUnwindSafe(work);
        PgTryBuilder::new(|| {
            let work = work;
            (work.0)();
            Ok(())
        })
        .catch_others(|caught| match &caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                let sqlstate = decode_sqlstate(report.sql_error_code() as i32);
                // A handover that has its tenant, but not enough of the pause left, is ended like this.
                let too_late = sqlstate == CANCELED && trigger::now() >= until;
                if !too_late && NOT_ITS_OWN.iter().any(|class| sqlstate.starts_with(class)) {
                    caught.rethrow()
                }
                let told = match (too_late, report.detail()) {
                    (true, _) => format!("it took longer than the {pause} ms of max_pause"),
                    (false, Some(detail)) => format!("{}: {detail}", report.message()),
                    (false, None) => report.message().to_owned(),
                };
                Err(Problem { told, busy: too_late || sqlstate == LOCK_NOT_AVAILABLE })
            }
            CaughtError::RustPanic { .. } => caught.rethrow(),
        })
        .execute()
    }))
}
