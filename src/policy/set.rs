//! All of a database's policy, as one value.

use super::backend::Backend;
use super::end_date::WhenPassed;
use super::identity::{Claims, Identity, IdentityRule, Login, identify};
use super::limits::Limits;
use super::mode::{Mode, Modes};
use super::rules::Refusal;
use super::surface::Permission;
use super::token::{Credential, PublicKey};

/// What the policy tables say, but for the tables' classes, which are looked up one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The registered backends.
    pub backends: Vec<Backend>,
    /// The identity rules, in any order.
    pub identities: Vec<IdentityRule>,
    /// The keys that tokens are signed with.
    pub keys: Vec<PublicKey>,
    /// The backend of sessions that no rule matches.
    pub default_backend: Option<String>,
    /// The owner of tenants that have no row of their own.
    pub default_owner: Option<String>,
    /// The day on which the migration under way should end, in days since 2000.
    pub ends_on: Option<i32>,
    /// What happens when it has passed.
    pub when_passed: WhenPassed,
    /// The modes.
    pub modes: Modes,
    /// The write surface of all backends.
    pub permissions: Vec<Permission>,
    /// The limits that were set, by backend.
    pub limits: Vec<(String, Limits)>,
    /// Readiness checks that don't block, or do, as they would by default; by name.
    pub checks: Vec<(String, bool)>,
    /// Whether there are waves that aren't over.
    pub waves_open: bool,
    /// Whether there are some that the worker must look after.
    pub waves_watched: bool,
}

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Pass,
    /// Record it and go on.
    Record,
    /// Record it, then raise it.
    Refuse,
}

impl PolicySet {
    /// Which backend a session belongs to.
    pub fn identify(&self, login: &Login, credential: Option<&Credential>, claims: &Claims) -> Identity {
        let default = self.default_backend.as_deref();
        identify(&self.backends, &self.identities, default, login, credential, claims)
    }

    /// Whether it names registered backends only. While a dump is restored, tables of the policy come in any order, and
    /// nothing can be decided from some of them.
    pub fn is_complete(&self) -> bool {
        [&self.default_backend, &self.default_owner].into_iter().flatten().all(|backend| self.knows(backend))
    }

    /// Whether a backend of this name is registered.
    pub fn knows(&self, backend: &str) -> bool {
        self.backends.iter().any(|b| b.name == backend)
    }

    /// What the mode in force makes of a refusal.
    pub fn verdict(&self, refusal: &Refusal) -> Verdict {
        match self.modes.of(refusal.attempt.backend.as_deref(), refusal.rule) {
            Mode::Off => Verdict::Pass,
            Mode::Observe => Verdict::Record,
            Mode::Enforce => Verdict::Refuse,
        }
    }

    /// The limits of a backend.
    pub fn limits_of(&self, backend: &str) -> &Limits {
        self.limits.iter().find(|(of, _)| of == backend).map_or(&Limits::DEFAULT, |(_, limits)| limits)
    }

    /// Whether the times that a session may set are limited for any backend.
    pub fn caps_times(&self) -> bool {
        self.limits.iter().any(|(_, limits)| limits.caps_times())
    }

    /// What was allowed on one table.
    pub fn permissions_on(&self, relation: u32) -> Vec<&Permission> {
        self.permissions.iter().filter(|p| p.relation == relation).collect()
    }
}
