//! The checks that look around: each is a function of what [`super::CHECKS`] calls by its name.

use serde::Deserialize;

use super::{Finding, amiss, count, fine, first};

/// What advisory checks are decided from: the columns of `api/readiness.sql`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Tables without a class.
    pub unclassified: Vec<String>,
    /// Those of them that have a tenant column of other tables.
    pub like_tenants: Vec<String>,
    /// Transactions of sessions that have written the tenant.
    pub open: Vec<String>,
    /// Prepared ones.
    pub prepared: Vec<String>,
    /// The setting.
    pub wal_level: String,
    /// Whether this is a standby.
    pub in_recovery: bool,
    /// The setting.
    pub archive_mode: String,
    /// The last segment that was archived, and how long ago.
    pub archived: Option<String>,
    /// Whether the last attempt failed.
    pub archive_fails: bool,
    /// How many segments wait to be archived.
    pub archive_waits: i64,
    /// Standbys and how far they are behind.
    pub standbys: Vec<Standby>,
    /// Replication slots that nobody reads.
    pub idle_slots: Vec<String>,
    /// Whether commits wait for a standby that isn't there.
    pub commits_hang: bool,
    /// What the receiver was or would have been refused of the tenant in the last hour, but for not owning it.
    pub refusals: Vec<String>,
    /// The freeze in force.
    pub freeze: Option<String>,
}

/// A standby or subscriber.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standby {
    /// Its name, and how far behind it is.
    pub told: String,
    /// Whether it keeps up.
    pub keeps_up: bool,
}

/// Advisory: an unproven backend is refused there anyway, and a scratch table should stop nobody's wave.
pub fn unclassified(s: &Surroundings) -> Finding {
    if s.unclassified.is_empty() {
        return fine("Every table has a class.");
    }
    let mut told = format!(
        "Nobody has said whose the rows of {} are: {}.",
        count(s.unclassified.len(), "table"),
        first(&s.unclassified, ", ")
    );
    if !s.like_tenants.is_empty() {
        told += &format!(" With a tenant column of other tables: {}.", first(&s.like_tenants, ", "));
    }
    amiss(told)
}

pub fn open_transactions(s: &Surroundings) -> Finding {
    match s.open.as_slice() {
        [] => fine("No open transaction has written the tenant."),
        open => amiss(format!("A cutover would wait for {}.", first(open, "; "))),
    }
}

pub fn prepared_transactions(s: &Surroundings) -> Finding {
    match s.prepared.as_slice() {
        [] => fine("No prepared transaction has written the tenant."),
        prepared => {
            amiss(format!("A cutover would wait for {}. Nothing but their end lets it go on.", first(prepared, "; ")))
        }
    }
}

pub fn restore_point(s: &Surroundings) -> Finding {
    if s.in_recovery {
        return amiss("This is a standby: nothing is handed over here.");
    }
    match s.wal_level.as_str() {
        "minimal" => amiss("wal_level is minimal: the log can't be replayed to a point before the cutover."),
        level => fine(format!("wal_level is {level}: the cutover names a restore point.")),
    }
}

pub fn archive(s: &Surroundings) -> Finding {
    if s.archive_mode == "off" {
        return amiss("archive_mode is off: the restore point can be reached only by a backup tool that streams.");
    }
    let Some(archived) = &s.archived else { return amiss("Nothing has been archived yet.") };
    let waiting = count(usize::try_from(s.archive_waits).unwrap_or_default(), "segment");
    let told = format!("The last archived segment is {archived}; {waiting} wait.");
    match (s.archive_fails, s.archive_waits) {
        (true, _) => amiss(format!("{told} The last attempt failed.")),
        // One or two are on their way on any busy server.
        (false, 3..) => amiss(told),
        (false, _) => fine(told),
    }
}

pub fn replication(s: &Surroundings) -> Finding {
    if s.commits_hang {
        return amiss(
            "Commits wait for a standby that isn't there (synchronous_standby_names): so would the cutover, with the \
             tenant's writers.",
        );
    }
    let told: Vec<String> = s.standbys.iter().map(|standby| standby.told.clone()).collect();
    let told = match told.as_slice() {
        [] => "No standby is connected.".to_owned(),
        told => format!("{}.", first(told, "; ")),
    };
    if !s.idle_slots.is_empty() {
        return amiss(format!("{told} Nobody reads replication slots {}.", first(&s.idle_slots, ", ")));
    }
    if s.standbys.iter().all(|standby| standby.keeps_up) { fine(told) } else { amiss(told) }
}

pub fn refusals(s: &Surroundings) -> Finding {
    match s.refusals.as_slice() {
        [] => fine("Nothing but its owner was in the receiver's way in the last hour."),
        refusals => amiss(format!(
            "In the last hour these stood in the receiver's way, and still would: {}.",
            first(refusals, ", ")
        )),
    }
}

pub fn freeze(s: &Surroundings) -> Finding {
    match &s.freeze {
        None => fine("The tenant is not frozen."),
        Some(reason) => {
            amiss(format!("The tenant is frozen ({reason}), and stays so: the receiver can't write it either."))
        }
    }
}
