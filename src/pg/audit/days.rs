//! The partitions of the event table, one for each day (UTC), made before the day's first event is stored. That may not
//! hold up a refusal or lose an event: where it fails, events go to the overflow.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::Error;
use pgrx::{Spi, pg_sys};

use super::{drain, ledger};
use crate::pg::session;
use crate::policy::spool::Record;

/// In Postgres's unit of time.
const DAY: i64 = 86_400_000_000;

/// When to try again what failed.
const AGAIN: Duration = Duration::from_secs(60);

/// How many days are kept in mind.
const REMEMBERED: usize = 1_000;

thread_local! {
    /// The days that were looked after, and when to do so again; of the extension as it was found last, which may have come
    /// back without them.
    static SEEN: RefCell<BTreeMap<(u32, i64), Option<Instant>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The name of the partition that has an event.
macro_rules! day_of {
    ($at:literal) => {
        concat!("pg_catalog.to_char(", $at, " AT TIME ZONE 'UTC', '\"holdfast.event_\"YYYYMMDD')")
    };
}
pub(super) use day_of;

/// Likewise, without the schema.
pub(super) fn partition(at: i64) -> String {
    let (mut year, mut month, mut day) = (0, 0, 0);
    let julian = at.div_euclid(DAY) + i64::from(pg_sys::POSTGRES_EPOCH_JDATE);
    // SAFETY: a calculation, which writes to the places given. Timestamps reach no further than an i32 of days.
    unsafe { pg_sys::j2date(julian as i32, &raw mut year, &raw mut month, &raw mut day) };
    format!("event_{year:04}{month:02}{day:02}")
}

/// Whether there is a table of that name.
pub(super) fn is_there(partition: &str) -> bool {
    find(partition).is_some()
}

/// Keeps partitions and counts as they are until the transaction ends: nobody prunes meanwhile.
pub(super) fn keep() {
    if let Some(event) = find("event") {
        // SAFETY: inside a transaction, whose end releases it.
        unsafe { pg_sys::LockRelationOid(event, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) };
    }
}

fn find(table: &str) -> Option<pg_sys::Oid> {
    let (catalog, name) = (session::watched()?, CString::new(table).ok()?);
    // SAFETY: a look-up by name, inside a transaction.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), catalog.schema) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The commands that make the partition of the day that begins at $1, if it should be made. Not where partitions are
/// published under their own names: the subscriber has no such table, and would stop.
const PLAN: &str = concat!(
    "SELECT ARRAY[
    pg_catalog.format('CREATE TABLE %s (LIKE holdfast.event INCLUDING CONSTRAINTS, PRIMARY KEY (at, id)) WITH (fillfactor = 90)', name),
    pg_catalog.format('ALTER TABLE %s OWNER TO %I', name, pg_catalog.pg_get_userbyid(relowner)),
    pg_catalog.format('ALTER TABLE holdfast.event ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', name, $1,
        $1 + interval '24 hours'),
    name]
FROM (SELECT ",
    day_of!("$1"),
    " AS name) AS day, pg_catalog.pg_class
WHERE pg_class.oid = 'holdfast.event'::pg_catalog.regclass AND pg_catalog.to_regclass(name) IS NULL
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication p WHERE NOT p.pubviaroot AND (p.puballtables
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = pg_class.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n
            WHERE n.pnpubid = p.oid AND n.pnnspid = pg_class.relnamespace)))"
);

/// Whom default privileges have given a right to it.
const GRANTEES: &str = "
SELECT pg_catalog.array_agg(DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.format('%I', pg_catalog.pg_get_userbyid(grantee)) END)
FROM pg_catalog.pg_class, pg_catalog.aclexplode(relacl)
WHERE pg_class.oid = $1::pg_catalog.regclass AND grantee <> relowner";

/// Makes the partitions of those days that are new to this process, each in a transaction of its own.
pub(super) fn make_room(records: &[Record]) {
    let days: BTreeSet<i64> = records.iter().map(|record| record.event.at.div_euclid(DAY)).collect();
    let extension = session::watched().map_or(0, |catalog| catalog.extension.to_u32());
    for day in days {
        let known = SEEN.with_borrow(|seen| seen.get(&(extension, day)).copied());
        if known.is_some_and(|again| again.is_none_or(|again| again > Instant::now())) {
            continue;
        }
        let again = make(day).err().map(|reason| {
            pgrx::log!("holdfast: a day gets no partition, so its events go to holdfast.event_overflow: {reason}");
            Instant::now() + AGAIN
        });
        SEEN.with_borrow_mut(|seen| {
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            seen.insert((extension, day), again);
        });
    }
}

/// Makes a day's partition, unless it is there or can't be.
fn make(day: i64) -> Result<(), String> {
    let Ok(since) = TimestampWithTimeZone::try_from(day * DAY) else { return Ok(()) };
    let work = || {
        if ledger::exists()
            && let Err(failure) = commands(since)
        {
            pgrx::error!("{failure}");
        }
    };
    drain::transaction(work, |()| {}).map_err(|failure| failure.message)
}

/// In the way of what stores events, and in that of who reads them, is nothing of this.
fn commands(since: TimestampWithTimeZone) -> Result<(), Error> {
    let plan = optional(Spi::get_one_with_args::<Vec<String>>(PLAN, &[since.into()]))?;
    let Some([create, own, attach, name]) = plan.as_deref().and_then(|plan| plan.first_chunk()) else {
        return Ok(());
    };
    Spi::run("SET LOCAL lock_timeout = '200ms'")?;
    Spi::run(create)?;
    let grantees = Spi::get_one_with_args::<Vec<String>>(GRANTEES, &[name.as_str().into()]);
    for grantee in optional(grantees)?.unwrap_or_default() {
        Spi::run(&format!("REVOKE ALL ON {name} FROM {grantee}"))?;
    }
    Spi::run(own)?;
    Spi::run(attach)
}

/// No row is no value.
fn optional<T>(value: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match value {
        Err(Error::InvalidPosition) => Ok(None),
        value => value,
    }
}
