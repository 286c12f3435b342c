//! Settings that an unproven backend may not loosen.

use super::identity::Identity;
use super::limits::Limits;
use super::rules::{Attempt, Refusal};

/// A setting that is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A time that `set_limits` caps.
    Timeout(Timeout),
    /// One that loosens a guard of the server wherever it differs from its built-in value.
    BuiltIn(&'static str),
}

/// The settings that `set_limits` caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `statement_timeout`.
    Statement,
    /// `lock_timeout`.
    Lock,
    /// `idle_in_transaction_session_timeout`.
    IdleInTransaction,
}

impl Setting {
    /// All of them. Those of the second kind switch off triggers and foreign keys, let catalogs be changed by hand, pass over
    /// damaged pages and the owners of large objects, or load libraries.
    pub const ALL: [Setting; 11] = [
        Setting::Timeout(Timeout::Statement),
        Setting::Timeout(Timeout::Lock),
        Setting::Timeout(Timeout::IdleInTransaction),
        Setting::BuiltIn("session_replication_role"),
        Setting::BuiltIn("allow_system_table_mods"),
        Setting::BuiltIn("zero_damaged_pages"),
        Setting::BuiltIn("ignore_checksum_failure"),
        Setting::BuiltIn("lo_compat_privileges"),
        Setting::BuiltIn("session_preload_libraries"),
        Setting::BuiltIn("local_preload_libraries"),
        Setting::BuiltIn("dynamic_library_path"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Setting::Timeout(timeout) => timeout.setting(),
            Setting::BuiltIn(name) => name,
        }
    }

    /// Within which bound a session may set it; none = as it likes.
    pub fn bound(self, identity: &Identity, limits: &Limits) -> Option<Bound> {
        if !identity.is_bound_by_every_rule() {
            return None;
        }
        match self {
            Setting::Timeout(timeout) => timeout.cap(limits).map(Bound::AtMost),
            Setting::BuiltIn(_) => Some(Bound::BuiltIn),
        }
    }
}

impl Timeout {
    /// The cap, in milliseconds; none = none.
    pub fn cap(self, limits: &Limits) -> Option<i32> {
        let cap = match self {
            Timeout::Statement => limits.statement_timeout,
            Timeout::Lock => limits.lock_timeout,
            Timeout::IdleInTransaction => limits.idle_in_transaction_timeout,
        };
        cap.map(|cap| i32::try_from(cap).unwrap_or(i32::MAX))
    }

    /// The setting's name.
    pub fn setting(self) -> &'static str {
        match self {
            Timeout::Statement => "statement_timeout",
            Timeout::Lock => "lock_timeout",
            Timeout::IdleInTransaction => "idle_in_transaction_session_timeout",
        }
    }

    /// The parameter of `set_limits`.
    pub fn parameter(self) -> &'static str {
        match self {
            Timeout::Statement => "statement_timeout",
            Timeout::Lock => "lock_timeout",
            Timeout::IdleInTransaction => "idle_in_transaction_timeout",
        }
    }
}

/// What a session may set a setting to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// One millisecond to this many: zero would switch the timeout off.
    AtMost(i32),
    /// The value that is built in.
    BuiltIn,
}

impl Bound {
    /// The value within the bound that is nearest to `value`.
    pub fn nearest(self, value: i32, built_in: i32) -> i32 {
        match self {
            Bound::AtMost(cap) if (1..=cap).contains(&value) => value,
            Bound::AtMost(cap) => cap,
            Bound::BuiltIn => built_in,
        }
    }
}

/// `forbidden_setting`: what is said of a session that sets a setting to a value beyond its bound. `built_in` is the built-in
/// value as text.
pub fn forbidden(identity: &Identity, setting: Setting, bound: Bound, value: &str, built_in: &str) -> Refusal {
    let attempt = Attempt {
        backend: identity.name().map(str::to_owned),
        command: format!("SET {}", setting.name()),
        ..Attempt::default()
    };
    match (setting, bound) {
        (Setting::Timeout(timeout), Bound::AtMost(cap)) => Refusal::timeout_beyond_cap(attempt, timeout, value, cap),
        _ => Refusal::setting_not_built_in(attempt, setting.name(), value, built_in),
    }
}

#[cfg(test)]
mod tests {
    use super::super::backend::{Backend, Trust};
    use super::super::identity::Source;
    use super::super::rules::Rule;
    use super::*;

    const STATEMENT: Setting = Setting::Timeout(Timeout::Statement);
    const LOCK: Setting = Setting::Timeout(Timeout::Lock);
    const ROLE: Setting = Setting::BuiltIn("session_replication_role");

    fn session(trust: Trust) -> Identity {
        Identity { backend: Some(Backend { name: "rebuilt".into(), trust }), base: None, source: Source::Default }
    }

    #[test]
    fn only_unproven_backends_are_bound_and_timeouts_only_where_capped() {
        let limits = Limits { statement_timeout: Some(10_000), ..Limits::DEFAULT };
        let cases = [
            (Trust::Proven, STATEMENT, None),
            (Trust::Proven, ROLE, None),
            (Trust::Unproven, STATEMENT, Some(Bound::AtMost(10_000))),
            (Trust::Unproven, LOCK, None),
            (Trust::Unproven, ROLE, Some(Bound::BuiltIn)),
            (Trust::Retired, STATEMENT, Some(Bound::AtMost(10_000))),
        ];
        for (trust, setting, expected) in cases {
            assert_eq!(setting.bound(&session(trust), &limits), expected, "{trust} {setting:?}");
        }
        let nobody = Identity { backend: None, base: None, source: Source::Nothing };
        assert_eq!(ROLE.bound(&nobody, &limits), None);
        let huge = Limits { lock_timeout: Some(u64::MAX), ..Limits::DEFAULT };
        assert_eq!(LOCK.bound(&session(Trust::Unproven), &huge), Some(Bound::AtMost(i32::MAX)));
    }

    #[test]
    fn off_is_beyond_every_cap() {
        let cases = [
            (Bound::AtMost(500), 0, 500),
            (Bound::AtMost(500), 1, 1),
            (Bound::AtMost(500), 500, 500),
            (Bound::AtMost(500), 501, 500),
            (Bound::BuiltIn, 1, 7),
            (Bound::BuiltIn, 7, 7),
        ];
        for (bound, value, expected) in cases {
            assert_eq!(bound.nearest(value, 7), expected, "{bound:?} {value}");
        }
    }

    #[test]
    fn the_hint_says_what_may_be_set() {
        let who = session(Trust::Unproven);
        let refusal = forbidden(&who, STATEMENT, Bound::AtMost(500), "0", "0");
        assert_eq!(refusal.rule, Rule::ForbiddenSetting);
        assert_eq!(refusal.message, "backend \"rebuilt\" may not set parameter \"statement_timeout\" to \"0\"");
        assert!(refusal.hint.contains("set_limits('rebuilt', statement_timeout => '...')"), "{}", refusal.hint);
        let refusal = forbidden(&who, ROLE, Bound::BuiltIn, "replica", "origin");
        assert!(refusal.hint.contains("\"origin\""), "{}", refusal.hint);
    }
}
