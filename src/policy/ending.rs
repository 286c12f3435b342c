//! The end of a migration: when a backend may be retired, and when the guard may be lifted for good.

use std::fmt;

use super::backend::{Backend, Trust};

/// What tells that a backend is still in use. Times are in microseconds since the caller's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Sessions that belong to it now, described.
    pub connected: Vec<String>,
    /// When a session of it last wrote a guarded table, or tried to, as far as is known.
    pub wrote: Option<i64>,
    /// Since when that is known; it is forgotten with the server's memory.
    pub watched_since: i64,
    /// When the last hour ended in which something of it was recorded. This survives a restart.
    pub recorded_until: Option<i64>,
}

/// Why a backend isn't taken for gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// These sessions belong to it.
    Connected(Vec<String>),
    /// It wrote so many microseconds ago.
    Wrote(i64),
    /// Something of it was recorded so many microseconds ago, at most.
    Recorded(i64),
    /// Nobody has watched for long enough; for so many microseconds only.
    Unwatched(i64),
}

/// Why a backend can't be retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unretirable {
    /// It owns so many tenants by name.
    Owns(i64),
    /// It owns every tenant that has no row of its own.
    DefaultOwner,
    /// Sessions that no identity rule matches belong to it.
    DefaultBackend,
    /// No other backend is left that could write.
    Last,
    /// It may still be in use.
    Seen(Seen),
}

/// Whether a backend may be retired at `now`: it has nothing left, and nobody has seen it for `unseen_for`.
///
/// # Errors
/// What is in the way, the first thing to put right first.
pub fn check_retirement(
    backend: &str,
    standing: &Standing,
    signs: Signs,
    unseen_for: i64,
    now: i64,
) -> Result<(), Unretirable> {
    check_owns_nothing(backend, standing)?;
    if standing.default_backend.as_deref() == Some(backend) {
        return Err(Unretirable::DefaultBackend);
    }
    if standing.in_use().all(|other| other == backend) {
        return Err(Unretirable::Last);
    }
    seen(signs, unseen_for, now).map_or(Ok(()), |seen| Err(Unretirable::Seen(seen)))
}

/// Whether no tenant would be left that nobody may write if a backend were retired.
///
/// # Errors
/// What it owns.
pub fn check_owns_nothing(backend: &str, standing: &Standing) -> Result<(), Unretirable> {
    if let Some((_, tenants)) = standing.owners.iter().find(|(owner, _)| owner == backend) {
        return Err(Unretirable::Owns(*tenants));
    }
    if standing.default_owner.as_deref() == Some(backend) {
        return Err(Unretirable::DefaultOwner);
    }
    Ok(())
}

/// Whether a backend was seen lately. What a server's memory says is exact, as far back as it goes; before that only what was
/// recorded is known.
fn seen(signs: Signs, unseen_for: i64, now: i64) -> Option<Seen> {
    let since = now.saturating_sub(unseen_for);
    let lately = |at: &i64| *at > since;
    if !signs.connected.is_empty() {
        return Some(Seen::Connected(signs.connected));
    }
    if let Some(at) = signs.wrote.filter(lately) {
        return Some(Seen::Wrote(now.saturating_sub(at)));
    }
    if signs.watched_since <= since {
        return None;
    }
    match signs.recorded_until.filter(lately) {
        Some(at) => Some(Seen::Recorded(now.saturating_sub(at).max(0))),
        None => Some(Seen::Unwatched(now.saturating_sub(signs.watched_since))),
    }
}

/// Who there is, and who owns what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The registered backends.
    pub backends: Vec<Backend>,
    /// Backends that own tenants by name, and how many.
    pub owners: Vec<(String, i64)>,
    /// The owner of all others; none before a migration.
    pub default_owner: Option<String>,
    /// The backend of sessions that no rule matches.
    pub default_backend: Option<String>,
    /// Waves that are under way.
    pub waves: Vec<String>,
}

impl Standing {
    /// The backends that may still write.
    pub fn in_use(&self) -> impl Iterator<Item = &str> {
        self.backends.iter().filter(|backend| backend.trust != Trust::Retired).map(|backend| backend.name.as_str())
    }
}

/// Why a migration can't be finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It hasn't begun.
    NoMigration,
    /// These waves are under way.
    Waves(Vec<String>),
    /// More than one backend owns tenants: a sentence for each.
    Owners(Vec<String>),
    /// These backends don't own anything, and could write everything as soon as nothing is refused.
    InUse(Vec<String>),
}

/// Whether the migration may be finished: one backend owns everything, and no other is in use.
///
/// # Errors
/// What is left to do.
pub fn check_finish(standing: &Standing) -> Result<(), Unfinished> {
    let Some(default) = &standing.default_owner else { return Err(Unfinished::NoMigration) };
    if !standing.waves.is_empty() {
        return Err(Unfinished::Waves(standing.waves.clone()));
    }
    let others: Vec<_> = standing.owners.iter().filter(|(owner, _)| owner != default).collect();
    if !others.is_empty() {
        let listed = others.iter().map(|(owner, tenants)| format!("\"{owner}\" owns {}", Tenants(*tenants)));
        let rest = format!("\"{default}\" owns those that are not listed");
        return Err(Unfinished::Owners(listed.chain([rest]).collect()));
    }
    let others: Vec<_> = standing.in_use().filter(|backend| backend != default).map(str::to_owned).collect();
    if others.is_empty() { Ok(()) } else { Err(Unfinished::InUse(others)) }
}

/// So many tenants, in words.
pub struct Tenants(pub i64);

impl fmt::Display for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tenant{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// A span of time as people say it, in its largest whole unit.
pub struct Span(pub i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0) / 1_000_000;
        let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
        let (size, unit) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "second"));
        let count = seconds / size;
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;
    const NOW: i64 = 1_000 * DAY;

    /// Legacy is proven, rebuilt owns everything.
    fn moved() -> Standing {
        let backend = |name: &str, trust| Backend { name: name.into(), trust };
        Standing {
            backends: vec![backend("legacy", Trust::Proven), backend("rebuilt", Trust::Unproven)],
            owners: vec![("rebuilt".into(), 7)],
            default_owner: Some("rebuilt".into()),
            default_backend: None,
            waves: Vec::new(),
        }
    }

    /// Nobody there for ten days.
    fn quiet() -> Signs {
        Signs { watched_since: NOW - 10 * DAY, ..Signs::default() }
    }

    fn retire(backend: &str, standing: &Standing, signs: Signs) -> Result<(), Unretirable> {
        check_retirement(backend, standing, signs, DAY, NOW)
    }

    #[test]
    fn who_has_something_left_is_not_retired() {
        let legacy = || Some("legacy".to_owned());
        assert_eq!(retire("legacy", &moved(), quiet()), Ok(()));
        assert_eq!(retire("rebuilt", &moved(), quiet()), Err(Unretirable::Owns(7)));
        let owner = Standing { default_owner: legacy(), ..moved() };
        assert_eq!(retire("legacy", &owner, quiet()), Err(Unretirable::DefaultOwner));
        let backend = Standing { default_backend: legacy(), ..moved() };
        assert_eq!(retire("legacy", &backend, quiet()), Err(Unretirable::DefaultBackend));
        let alone = Standing { backends: moved().backends[..1].to_vec(), ..moved() };
        assert_eq!(retire("legacy", &alone, quiet()), Err(Unretirable::Last));
    }

    #[test]
    fn who_was_seen_lately_is_not_retired() {
        let connected = vec!["pid 1".to_owned()];
        let young = NOW - DAY / 2;
        let cases = [
            (quiet(), None),
            (Signs { wrote: Some(NOW - 2 * DAY), ..quiet() }, None),
            (Signs { wrote: Some(NOW - DAY / 4), ..quiet() }, Some(Seen::Wrote(DAY / 4))),
            (Signs { connected: connected.clone(), ..quiet() }, Some(Seen::Connected(connected))),
            // Memory that goes back far enough knows better than the record, whose hours are whole.
            (Signs { recorded_until: Some(NOW - DAY / 2), ..quiet() }, None),
            (Signs { watched_since: young, ..quiet() }, Some(Seen::Unwatched(DAY / 2))),
            (
                Signs { watched_since: young, recorded_until: Some(NOW - DAY / 3), ..quiet() },
                Some(Seen::Recorded(DAY / 3)),
            ),
            (Signs { watched_since: young, recorded_until: Some(NOW + 1), ..quiet() }, Some(Seen::Recorded(0))),
        ];
        for (signs, expected) in cases {
            let answer = retire("legacy", &moved(), signs.clone());
            assert_eq!(answer, expected.map_or(Ok(()), |seen| Err(Unretirable::Seen(seen))), "{signs:?}");
        }
        // Who says so wants no look at the past.
        let just = Signs { wrote: Some(NOW - 1), watched_since: NOW - 1, ..Signs::default() };
        assert_eq!(check_retirement("legacy", &moved(), just, 0, NOW), Ok(()));
    }

    #[test]
    fn a_migration_is_finished_when_one_backend_is_left() {
        let retired = |mut standing: Standing| {
            standing.backends[0].trust = Trust::Retired;
            standing
        };
        assert_eq!(check_finish(&retired(moved())), Ok(()));
        assert_eq!(check_finish(&moved()), Err(Unfinished::InUse(vec!["legacy".into()])));
        assert_eq!(check_finish(&Standing::default()), Err(Unfinished::NoMigration));
        let waves = Standing { waves: vec!["first".into()], ..retired(moved()) };
        assert_eq!(check_finish(&waves), Err(Unfinished::Waves(vec!["first".into()])));
        let shared = Standing { default_owner: Some("legacy".into()), ..moved() };
        let told = ["\"rebuilt\" owns 7 tenants", "\"legacy\" owns those that are not listed"];
        assert_eq!(check_finish(&shared), Err(Unfinished::Owners(told.map(str::to_owned).to_vec())));
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let cases = [(-1, "0 seconds"), (1_000_000, "1 second"), (90_000_000, "1 minute"), (3 * DAY, "3 days")];
        for (span, expected) in cases {
            assert_eq!(Span(span).to_string(), expected);
        }
    }
}
