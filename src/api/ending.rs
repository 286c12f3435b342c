//! The end of a migration: its date, retiring a backend, lifting the guard, and what stays when the extension goes.

use pgrx::datum::{Date, DatumWithOid, Interval};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, Spi, default, name, pg_extern, search_path};

use super::exclusion::without_handovers;
use super::{execute, fetch, guarding, internal, known_backend, parsed, required};
use crate::pg::handover::notify;
use crate::pg::locks::TableLock;
use crate::pg::report::error;
use crate::pg::session::{self, Session};
use crate::pg::{stats, trigger};
use crate::policy::backend::Trust;
use crate::policy::end_date::WhenPassed;
use crate::policy::ending::{Seen, Signs, Span, Standing, Tenants, Unfinished, Unretirable};
use crate::policy::ending::{check_finish, check_owns_nothing, check_retirement};
use crate::policy::identity::{Claims, Login};

/// How many sessions an error names.
const NAMED: usize = 5;

/// Sets the day by which the migration should end, and what happens when it has passed: `warn`, or `refuse_cutovers`, which
/// refuses new ones and nothing else.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_end_date(ends_on: Option<Date>, when_passed: default!(Option<&str>, "'warn'")) {
    let ends_on = required(ends_on, "ends_on");
    let when_passed: WhenPassed = parsed(required(when_passed, "when_passed"), "when_passed", WhenPassed::NAMES);
    super::migration::check_end(ends_on);
    execute(
        "INSERT INTO holdfast.migration (ends_on, when_passed) VALUES ($1, $2)
         ON CONFLICT (singleton) DO UPDATE SET ends_on = excluded.ends_on, when_passed = excluded.when_passed",
        &[ends_on.into(), when_passed.as_str().into()],
    );
}

/// Sets the backend that owns every tenant without a row of its own. They change hands at once: writers of tenant tables are
/// waited for, politely, and held until the transaction ends.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn set_default_owner(backend: Option<&str>) {
    let backend = required(backend, "backend");
    let session = without_handovers();
    let backend = known_backend(&session, backend);
    let of = session.policy.set.backends.iter().find(|b| b.name == backend);
    if of.is_some_and(|b| b.trust == Trust::Retired) {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("backend \"{backend}\" is retired and may not own tenants"),
            "Nothing has changed.",
            "Bring it back with SELECT holdfast.set_trust(...), or name another backend.",
        );
    }
    let mut locked = Vec::new();
    loop {
        // Whoever guards a table meanwhile has done so before its lock is ours.
        let tables = tenant_tables();
        if tables == locked {
            break;
        }
        guarding::lock_all(&tables, TableLock::ShareRowExclusive);
        locked = tables;
    }
    execute("UPDATE holdfast.migration SET default_owner = $1", &[backend.into()]);
    notify(&serde_json::json!({ "event": "default_owner", "to": backend }));
}

fn tenant_tables() -> Vec<Oid> {
    let tables = fetch::<Vec<Option<Oid>>>(
        "SELECT pg_catalog.array_agg(relation::pg_catalog.oid ORDER BY relation) FROM holdfast.classified_table c
         WHERE class = 'tenant' AND EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = c.relation)",
        &[],
    );
    tables.into_iter().flatten().flatten().collect()
}

/// Retires a backend that owns nothing and wasn't seen for `unseen_for`: it may write nothing guarded any more.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn retire(backend: Option<&str>, unseen_for: default!(Option<Interval>, "'1 day'")) {
    let backend = required(backend, "backend");
    let unseen_for = required(unseen_for, "unseen_for").as_micros();
    let session = without_handovers();
    let backend = known_backend(&session, backend);
    let standing = standing(&session);
    if standing.in_use().all(|other| other != backend) {
        return;
    }
    let Ok(unseen_for) = i64::try_from(unseen_for.max(0)) else {
        return refuse_retirement(backend, Unretirable::Seen(Seen::Unwatched(0)));
    };
    match check_retirement(backend, &standing, signs(&session, backend), unseen_for, trigger::now()) {
        Ok(()) => {
            execute("UPDATE holdfast.backend SET trust = 'retired' WHERE backend = $1", &[backend.into()]);
            settle_phase();
            notify(&serde_json::json!({ "event": "retired", "backend": backend }));
        }
        Err(why) => refuse_retirement(backend, why),
    }
}

/// Refuses to retire a backend whose tenants nobody could write then. The facts are those without handovers.
pub(super) fn refuse_owner(session: &Session, backend: &str) {
    if let Err(why) = check_owns_nothing(backend, &standing(session)) {
        refuse_retirement(backend, why);
    }
}

fn refuse_retirement(backend: &str, why: Unretirable) {
    let (code, message, detail, hint) = match why {
        Unretirable::Owns(tenants) => (
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("backend \"{backend}\" still owns tenants"),
            format!(
                "It owns {}; a retired backend may not write, so they could not be written at all.",
                Tenants(tenants)
            ),
            "Hand them over first: SELECT holdfast.cutover(...); see the view holdfast.tenants.",
        ),
        Unretirable::DefaultOwner => (
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("backend \"{backend}\" still owns tenants"),
            "It is the default owner: every tenant that the view holdfast.tenants doesn't list belongs to it."
                .to_owned(),
            "Name another one: SELECT holdfast.set_default_owner('...').",
        ),
        Unretirable::DefaultBackend => (
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            format!("backend \"{backend}\" is the default backend"),
            "Sessions that no identity rule matches belong to it, and could write nothing guarded any more.".to_owned(),
            "Name another one: SELECT holdfast.set_default_backend('...'); NULL for none.",
        ),
        Unretirable::Last => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("backend \"{backend}\" is the last one in use"),
            "Nobody could write what is guarded.".to_owned(),
            "To end the migration: SELECT holdfast.finish_migration();",
        ),
        Unretirable::Seen(seen) => {
            let (detail, hint) = told(&seen);
            (PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, format!("backend \"{backend}\" may still be in use"), detail, hint)
        }
    };
    error(code, message, detail, hint)
}

fn told(seen: &Seen) -> (String, &'static str) {
    const EARLIER: &str = "Find out what still writes as it; or say how long is long enough, with unseen_for.";
    match seen {
        Seen::Connected(sessions) => {
            let more = sessions.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let named = sessions.get(..NAMED.min(sessions.len())).unwrap_or_default().join("; ");
            (format!("Sessions of it are connected: {named}{more}."), "End them, and what opens them.")
        }
        Seen::Wrote(ago) => (format!("It wrote guarded tables, or tried to, {} ago.", Span(*ago)), EARLIER),
        Seen::Recorded(ago) => (
            format!(
                "A refusal, or what would be one, was recorded of it within the hour that ended {} ago.",
                Span(*ago)
            ),
            EARLIER,
        ),
        Seen::Unwatched(so_long) => (
            format!("The server has watched for {} only, since it started.", Span(*so_long)),
            "Try again later; or say how long is long enough, with unseen_for.",
        ),
    }
}

/// Ends the migration: nothing is refused or recorded any more. The guard's triggers and the extension stay until they are
/// dropped, which is a step by itself.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn finish_migration() {
    let session = without_handovers();
    if let Err(why) = check_finish(&standing(&session)) {
        refuse_finish(&why);
    }
    execute("UPDATE holdfast.migration SET phase = 'finished', mode = 'off' WHERE phase <> 'finished'", &[]);
    execute("DELETE FROM holdfast.mode_override", &[]);
    notify(&serde_json::json!({ "event": "migration", "phase": "finished" }));
}

fn refuse_finish(why: &Unfinished) -> ! {
    let (message, detail, hint) = match why {
        Unfinished::NoMigration => ("no migration has begun", String::new(), "See SELECT * FROM holdfast.status;"),
        Unfinished::Waves(waves) => (
            "a wave is under way",
            format!("Under way: {}.", waves.join(", ")),
            "Let it end, or abort it; see SELECT * FROM holdfast.waves;",
        ),
        Unfinished::Owners(owners) => (
            "more than one backend owns tenants",
            format!("Backend {}.", owners.join("; backend ")),
            "Hand tenants over until one backend owns all; set_default_owner() says whose those are that are not listed.",
        ),
        Unfinished::InUse(backends) => (
            "another backend is still in use",
            format!("When nothing is refused any more, these could write everything: {}.", backends.join(", ")),
            "Retire each first: SELECT holdfast.retire('...').",
        ),
    };
    error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, detail, hint)
}

/// What would become of everything that has to do with the extension if it were dropped: a row each, with the statement that
/// takes it away beforehand or, where it stays, afterwards.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn uninstall_preview() -> TableIterator<
    'static,
    (name!(kind, String), name!(object, String), name!(fate, String), name!(statement, Option<String>)),
> {
    let rows = session::operate(|| {
        Spi::connect(|client| {
            let rows = client.select(include_str!("uninstall_preview.sql"), None, &[])?;
            let text = |row: &pgrx::spi::SpiHeapTupleData, n| row.get::<String>(n);
            rows.map(|row| {
                let word = |n| Ok::<_, pgrx::spi::Error>(text(&row, n)?.unwrap_or_default());
                Ok((word(1)?, word(2)?, word(3)?, text(&row, 4)?))
            })
            .collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    });
    match rows {
        Ok(rows) => TableIterator::new(rows),
        Err(failure) => internal(failure),
    }
}

/// The phase follows from how many backends are in use.
pub(super) fn settle_phase() {
    execute(
        "UPDATE holdfast.migration SET phase = settled.phase
         FROM (SELECT CASE WHEN pg_catalog.count(*) = 1 THEN 'single' ELSE 'shared' END AS phase
               FROM holdfast.backend WHERE trust <> 'retired') AS settled
         WHERE migration.phase IN ('shared', 'single') AND migration.phase <> settled.phase",
        &[],
    );
}

fn standing(session: &Session) -> Standing {
    let set = &session.policy.set;
    Standing {
        backends: set.backends.clone(),
        owners: session.catalog.owners().into_iter().collect(),
        default_owner: set.default_owner.clone(),
        default_backend: set.default_backend.clone(),
        waves: waves(),
    }
}

/// What the server knows of a backend's sessions: who is connected, by what a session of theirs would be; and the rest.
fn signs(session: &Session, backend: &str) -> Signs {
    let set = &session.policy.set;
    let sessions: Vec<(Login, i32)> = rows_of(
        "SELECT usename::pg_catalog.text, datname::pg_catalog.text, application_name, pg_catalog.host(client_addr), pid
         FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
             AND datname = pg_catalog.current_database()
         ORDER BY backend_start",
        |row| {
            let text = |n| row.get::<String>(n);
            let client = text(4)?.and_then(|address| address.parse().ok());
            let (role, database) = (text(1)?.unwrap_or_default(), text(2)?.unwrap_or_default());
            let login = Login { role, database, application_name: text(3)?.unwrap_or_default(), client };
            Ok((login, row.get(5)?.unwrap_or_default()))
        },
    );
    let belongs = |login: &Login| {
        let claims = Claims { application_name: login.application_name.clone(), ..Claims::default() };
        set.identify(login, None, &claims).name() == Some(backend)
    };
    let described = |(login, pid): (Login, i32)| {
        format!("pid {pid} (application_name \"{}\", role {})", login.application_name, login.role)
    };
    let (wrote, watched_since) = stats::last_seen(session, backend);
    let recorded_until = fetch::<i64>(
        "SELECT (EXTRACT(epoch FROM pg_catalog.max(hour) + interval '1 hour' - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint
         FROM holdfast.event_hour WHERE backend = $1",
        &[backend.into()],
    );
    Signs {
        connected: sessions.into_iter().filter(|(login, _)| belongs(login)).map(described).collect(),
        wrote,
        watched_since,
        recorded_until,
    }
}

/// The waves that are under way.
fn waves() -> Vec<String> {
    let under_way = "SELECT wave FROM holdfast.wave WHERE state IN ('moving', 'soaking', 'halting') ORDER BY id";
    rows_of(under_way, |row| Ok(row.get(1)?.unwrap_or_default()))
}

/// The rows of a query of ours, each made into something.
fn rows_of<T>(sql: &str, each: impl Fn(&pgrx::spi::SpiHeapTupleData) -> Result<T, pgrx::spi::Error>) -> Vec<T> {
    let none: &[DatumWithOid] = &[];
    let rows = session::operate(|| {
        Spi::connect(|client| client.select(sql, None, none)?.map(|row| each(&row)).collect::<Result<Vec<T>, _>>())
    });
    match rows {
        Ok(rows) => rows,
        Err(failure) => internal(failure),
    }
}
