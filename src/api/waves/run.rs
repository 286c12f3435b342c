//! What `CALL run_wave` does. The procedure itself is a loop in plpgsql that commits (sql/waves.sql); between its steps this
//! session remembers which wave it runs.

use std::cell::RefCell;

use pgrx::{JsonB, PgSqlErrorCode, pg_extern, search_path};
use serde::Deserialize;

use super::{Wave, attempt, execute, fetch, not_now, required, tell};
use crate::pg::audit::schedule;
use crate::pg::locks::{self, Tag};
use crate::pg::report::{error, warning};
use crate::pg::{handover, trigger};
use crate::policy::waves::{self, Left, Next, NotNow, Pace, State, TRIES};

/// How long a CALL waits until it looks again for tenants that it should try again, in milliseconds.
const MOMENT: i64 = 100;

/// How long a CALL that has begun waits for its turn, in milliseconds, if others have come in between.
const TURN: i64 = 10_000;

/// A CALL under way in this session.
struct Run {
    wave: Wave,
    /// One of as many as may run at a time.
    place: u32,
    /// Microseconds since 2000: what was tried before, others have tried.
    since: i64,
    pace: Pace,
    /// How many tenants were there to be moved when it began; how many it has moved.
    all: i64,
    moved: i64,
}

thread_local! {
    /// None is left behind by a CALL that ends; what one leaves that fails, the next replaces.
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// The next tenant that can be had, and nobody else is at; those that were tried come last. $2 is the stage, $3 when this
/// CALL began.
const PICK: &str = "
SELECT t.tenant FROM holdfast.wave_tenant t
WHERE t.wave_id = $1 AND t.state = 'waiting' AND ($2 OR t.canary)
    AND (t.tried_at IS NULL OR t.tried_at < timestamptz '2000-01-01 00:00:00+00' + $3 * interval '1 microsecond')
    AND EXISTS (SELECT FROM holdfast.wave w WHERE w.id = $1 AND w.state = 'moving')
ORDER BY t.position LIMIT 1 FOR UPDATE OF t SKIP LOCKED";

/// As above, of those that this CALL has tried.
const PICK_AGAIN: &str = "
SELECT t.tenant FROM holdfast.wave_tenant t
WHERE t.wave_id = $1 AND t.state = 'waiting' AND ($2 OR t.canary)
    AND t.tries < $3 AND t.tried_at < pg_catalog.clock_timestamp() - interval '1 second'
    AND EXISTS (SELECT FROM holdfast.wave w WHERE w.id = $1 AND w.state = 'moving')
ORDER BY t.tried_at, t.position LIMIT 1 FOR UPDATE OF t SKIP LOCKED";

const LEFT: &str = "
SELECT pg_catalog.jsonb_build_object(
    'state', w.state, 'stage', w.stage, 'reason', w.reason, 'until', pg_catalog.to_char(w.soaks_until, 'YYYY-MM-DD HH24:MI:SS'),
    'soak_left', EXTRACT(epoch FROM w.soaks_until - pg_catalog.clock_timestamp()),
    'waiting', pg_catalog.count(t.tenant),
    'untried', pg_catalog.count(t.tenant) FILTER (WHERE t.tried_at IS NULL OR t.tried_at < since),
    'again', pg_catalog.count(t.tenant) FILTER (WHERE t.tried_at >= since AND t.tries < $4),
    'problems', (pg_catalog.array_agg(pg_catalog.format('%s: %s', t.tenant, t.problem) ORDER BY t.position)
        FILTER (WHERE t.problem IS NOT NULL))[1:5])
FROM holdfast.wave w
CROSS JOIN (SELECT timestamptz '2000-01-01 00:00:00+00' + $3 * interval '1 microsecond') AS begun (since)
LEFT JOIN holdfast.wave_tenant t ON t.wave_id = w.id AND t.state = 'waiting' AND ($2 OR t.canary)
WHERE w.id = $1 GROUP BY w.id, since";

#[derive(Deserialize)]
struct Rest {
    state: String,
    stage: String,
    reason: Option<String>,
    until: Option<String>,
    soak_left: Option<f64>,
    waiting: i64,
    untried: i64,
    again: i64,
    problems: Option<Vec<String>>,
}

/// Begins a CALL: whether the wave may run, and whether there is room for one more.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn wave_begin(wave: Option<&str>) {
    if handover::is_in_block() {
        error(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "run_wave cannot run inside a transaction block",
            "It commits after each tenant, so that no writer waits for more than one.",
            "CALL it by itself, outside of BEGIN and COMMIT.",
        );
    }
    let wave = Wave::locked(required(wave, "wave"));
    let before = "SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(wave, state) ORDER BY id), '[]')
                  FROM holdfast.wave WHERE id < $1";
    let before = fetch::<JsonB>(before, &[wave.id.into()]).and_then(|json| serde_json::from_value(json.0).ok());
    let before: Vec<(String, String)> = before.unwrap_or_default();
    let before: Vec<_> = before.into_iter().filter_map(|(wave, state)| Some((wave, state.parse().ok()?))).collect();
    if let Err(why) = waves::may_run(wave.state(), &before) {
        refuse(&wave, why);
    }
    let Some(place) = free_place(&wave, 1) else {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("wave \"{}\" is being run already", wave.wave),
            format!("Its concurrency is {}: so many CALLs may run it at a time.", wave.concurrency),
            "See SELECT * FROM holdfast.wave_progress;",
        );
    };
    if wave.state() == State::Planned {
        execute(
            "UPDATE holdfast.wave SET state = 'moving', started_at = pg_catalog.clock_timestamp(),
                 watched_since = pg_catalog.clock_timestamp() WHERE id = $1",
            &[wave.id.into()],
        );
        tell(&wave.wave, State::Moving, None);
    }
    let since = trigger::now();
    let run = Run { wave, place, since, pace: Pace::begin(since), all: 0, moved: 0 };
    let all = run.rest().map_or(0, |rest| rest.waiting);
    RUN.with(|r| *r.borrow_mut() = Some(Run { all, ..run }));
}

/// Moves the next tenant of the wave that [`wave_begin`] was called for; false when there is nothing left to do.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn wave_step() -> bool {
    let Some(mut run) = RUN.with(|r| r.borrow_mut().take()) else {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "no wave is being run in this session",
            "",
            "CALL holdfast.run_wave(...), which calls this function.",
        );
    };
    let more = run.step();
    if more {
        RUN.with(|r| *r.borrow_mut() = Some(run));
    }
    more
}

impl Run {
    fn step(&mut self) -> bool {
        self.take_place();
        let (id, all) = (self.wave.id, self.wave.stage != "canaries");
        let tenant = fetch::<String>(PICK, &[id.into(), all.into(), self.since.into()])
            .or_else(|| fetch::<String>(PICK_AGAIN, &[id.into(), all.into(), TRIES.into()]));
        match tenant {
            Some(tenant) => {
                self.move_tenant(&tenant);
                if self.pace.is_due(self.moved, self.all, trigger::now()) {
                    pgrx::notice!("wave \"{}\": {} of {} tenants have moved", self.wave.wave, self.moved, self.all);
                }
                true
            }
            None => self.conclude(),
        }
    }

    /// Others may have come in between two steps: then this CALL waits for its turn.
    fn take_place(&mut self) {
        let until = trigger::now() + TURN * 1_000;
        loop {
            if let Some(place) = free_place(&self.wave, self.place) {
                self.place = place;
                return;
            }
            if trigger::now() > until {
                error(
                    PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                    format!("wave \"{}\" is being run by others", self.wave.wave),
                    format!("Its concurrency is {}.", self.wave.concurrency),
                    "Nothing is lost: they move its tenants.",
                );
            }
            locks::pause(5);
        }
    }

    /// Hands one tenant over, or notes why that couldn't be.
    fn move_tenant(&mut self, tenant: &str) {
        let wave = &self.wave;
        // A cutover that was made before would give its row once more; this wave has no part in it.
        let there = fetch::<String>("SELECT holdfast.owner_of($1)", &[tenant.into()]);
        let hand_over = || {
            fetch::<i64>(
                "SELECT epoch FROM holdfast.cutover($1, $2, $3 * interval '1 millisecond', $4)",
                &[tenant.into(), wave.to_backend.as_str().into(), wave.max_pause.into(), wave.require_ready.into()],
            );
            // Whoever aborts the wave waits for this transaction from here on; who did so meanwhile is heeded.
            let moving = "SELECT true FROM holdfast.wave WHERE id = $1 AND state = 'moving' FOR KEY SHARE";
            if fetch::<bool>(moving, &[wave.id.into()]).is_none() {
                let message = format!("wave \"{}\" is not moving any more", wave.wave);
                error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, "", "");
            }
            // Here, since writers are held by now: if max_pause ends in between, the handover is taken back.
            execute(
                "UPDATE holdfast.wave_tenant SET state = 'moved', moved_at = pg_catalog.clock_timestamp(),
                     tries = tries + 1, problem = NULL WHERE wave_id = $1 AND tenant = $2",
                &[wave.id.into(), tenant.into()],
            );
        };
        let moved = if there.as_ref() == Some(&wave.to_backend) {
            Err(format!("backend \"{}\" already owns tenant \"{tenant}\"", wave.to_backend))
        } else {
            attempt(wave.max_pause, hand_over).map_err(|problem| problem.told)
        };
        match moved {
            Ok(()) => self.moved += 1,
            Err(problem) => execute(
                "UPDATE holdfast.wave_tenant SET tried_at = pg_catalog.clock_timestamp(), problem = $4,
                     tries = CASE WHEN tried_at >= timestamptz '2000-01-01 00:00:00+00' + $3 * interval '1 microsecond'
                         THEN tries ELSE 0 END + 1,
                     state = CASE WHEN holdfast.owner_of(tenant) = $5 THEN 'skipped' ELSE state END
                 WHERE wave_id = $1 AND tenant = $2",
                &[wave.id.into(), tenant.into(), self.since.into(), problem.into(), wave.to_backend.as_str().into()],
            ),
        }
    }

    fn rest(&self) -> Option<Rest> {
        let all = self.wave.stage != "canaries";
        let rest = fetch::<JsonB>(LEFT, &[self.wave.id.into(), all.into(), self.since.into(), TRIES.into()])?;
        serde_json::from_value(rest.0).ok()
    }

    /// There is no tenant to pick.
    fn conclude(&self) -> bool {
        let name = &self.wave.wave;
        let Some(rest) = self.rest() else {
            error(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("wave \"{name}\" was dropped"), "", "");
        };
        let state = rest.state.parse().unwrap_or(State::Aborted);
        if rest.stage != self.wave.stage {
            pgrx::notice!("wave \"{name}\": its canaries have soaked meanwhile; CALL run_wave again for the others");
            return false;
        }
        let Rest { waiting, untried, again, .. } = rest;
        match waves::next(&Left { state, waiting, untried, again }) {
            Next::Soak => self.begin_soak(),
            Next::Wait => {
                locks::pause(MOMENT);
                true
            }
            Next::LeaveToOthers => {
                let are = if untried == 1 { "tenant is" } else { "tenants are" };
                pgrx::notice!("wave \"{name}\": {untried} {are} left to other sessions");
                false
            }
            Next::GiveUp => {
                let tenants = if waiting == 1 { "tenant" } else { "tenants" };
                warning(
                    format!("wave \"{name}\": {waiting} {tenants} could not be moved"),
                    rest.problems.unwrap_or_default().join("\n"),
                    "CALL run_wave again, or leave them out with skip_tenant.",
                );
                false
            }
            Next::Stop => self.stop(state, &rest),
        }
    }

    /// The step after the one that commits this sees it as everybody else does.
    fn begin_soak(&self) -> bool {
        let state = fetch::<String>(
            "UPDATE holdfast.wave SET state = 'soaking', soaks_until = pg_catalog.clock_timestamp() + soak
             WHERE id = $1 AND state = 'moving' AND stage = $2 RETURNING state",
            &[self.wave.id.into(), self.wave.stage.as_str().into()],
        );
        if state.is_some() {
            tell(&self.wave.wave, State::Soaking, None);
        }
        true
    }

    fn stop(&self, state: State, rest: &Rest) -> bool {
        let name = &self.wave.wave;
        match state {
            State::Soaking | State::Passed => {
                let left = rest.soak_left.unwrap_or(0.0).max(0.0) * 1e6;
                schedule::watch_within(left as i64);
                let who = if self.wave.stage == "canaries" { "its canaries" } else { "its tenants" };
                let until = rest.until.as_deref().unwrap_or("now");
                pgrx::notice!("wave \"{name}\": {who} have moved, and are watched until {until}");
                false
            }
            _ => error(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("wave \"{name}\" is {state}"),
                rest.reason.clone().unwrap_or_default(),
                "See SELECT * FROM holdfast.wave_tenants; and, for what named no tenant, holdfast.wave_refusals.",
            ),
        }
    }
}

/// One of the places that CALLs of a wave have, beginning with one of them; kept until the transaction ends.
fn free_place(wave: &Wave, first: u32) -> Option<u32> {
    let (id, all) = (wave.id.unsigned_abs(), wave.concurrency.unsigned_abs());
    std::iter::once(first).chain(1..=all).find(|place| locks::try_take(Tag::wave(id, *place)))
}

fn refuse(wave: &Wave, why: NotNow) -> ! {
    let (detail, hint) = match why {
        NotNow::Behind { wave, state } => (
            format!("Wave \"{wave}\" comes before it, and is {state}."),
            "A wave starts when those before it have passed, or were aborted.",
        ),
        NotNow::Soaking => (
            wave.until.as_ref().map_or(String::new(), |until| format!("Its tenants are watched until {until}.")),
            "The worker ends the soak; see SELECT * FROM holdfast.waves;",
        ),
        NotNow::Halted => (
            wave.reason.clone().unwrap_or_default(),
            "When that is settled: SELECT holdfast.resume_wave(...), or holdfast.abort_wave(...).",
        ),
        NotNow::Over => (String::new(), "Plan another one with SELECT holdfast.add_wave(...)."),
    };
    not_now(wave, &detail, hint)
}
