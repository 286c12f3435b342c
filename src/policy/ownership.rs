//! Who may write a tenant, and whether a cutover may start.

use super::backend::{Backend, Trust};
use super::identity::Identity;
use super::rules::{Attempt, Refusal};

/// What the ownership table says of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantState {
    /// The backend that owns it; none = the default owner.
    pub owner: Option<String>,
    /// The backend that owned it before, if it was ever handed over.
    pub previous_owner: Option<String>,
    /// Whether the last handover took one back.
    pub rolled_back: bool,
    /// The freeze it is under, if any.
    pub freeze: Option<Freeze>,
}

impl TenantState {
    /// The backend that a rollback leads to: the one before the last cutover, unless that was taken back already.
    pub fn way_back(&self) -> Option<&str> {
        self.previous_owner.as_deref().filter(|_| !self.rolled_back)
    }

    /// Whether a cutover takes the last handover back, as a rollback would, so that no rollback leads forward again. Where a
    /// tenant comes back to a backend of lesser trust, the migration goes on, and may be taken back itself.
    pub fn takes_back(&self, backends: &[Backend], from: &str, to: &str) -> bool {
        let trust = |name: &str| backends.iter().find(|b| b.name == name).map(|b| b.trust);
        self.way_back() == Some(to) && trust(from) <= trust(to)
    }
}

/// A freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Why.
    pub reason: String,
    /// When it ends by itself, in microseconds since the caller's epoch; none = when it is lifted.
    pub until: Option<i64>,
}

impl Freeze {
    /// Whether the freeze holds at `now`.
    pub fn holds(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is known of the tenant that a row belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    /// The tenant's canonical key.
    pub tenant: &'a str,
    /// The owner in force; none = nobody, because no migration has begun.
    pub owner: Option<&'a str>,
    /// A freeze in force.
    pub freeze: Option<&'a Freeze>,
}

/// Whether a session may write a row of a tenant: the row-level rules.
///
/// An unidentified session is judged by its statement (`unidentified`), not row by row.
pub fn check_row(identity: &Identity, owned: &Owned, attempt: impl FnOnce() -> Attempt) -> Option<Refusal> {
    let backend = identity.backend.as_ref()?;
    let described = || Attempt {
        backend: Some(backend.name.clone()),
        tenant: Some(owned.tenant.to_owned()),
        owner: owned.owner.map(str::to_owned),
        ..attempt()
    };
    let owner = owned.owner?;
    if owner != backend.name {
        return Some(Refusal::not_owner(described()));
    }
    owned.freeze.map(|freeze| Refusal::tenant_frozen(described(), &freeze.reason))
}

/// Whether a session may write a row that has no tenant.
pub fn check_global_row(
    identity: &Identity,
    tenant_column: &str,
    attempt: impl FnOnce() -> Attempt,
) -> Option<Refusal> {
    let backend = identity.backend.as_ref()?;
    if backend.trust == Trust::Proven {
        return None;
    }
    let attempt = Attempt { backend: Some(backend.name.clone()), ..attempt() };
    Some(Refusal::global_row(attempt, tenant_column))
}

/// Whether a session may write a row whose parent isn't there, so that nobody can tell its tenant yet.
pub fn check_orphan(identity: &Identity, via: &str, attempt: impl FnOnce() -> Attempt) -> Option<Refusal> {
    let backend = identity.backend.as_ref()?;
    if backend.trust == Trust::Proven {
        return None;
    }
    Some(Refusal::orphan(Attempt { backend: Some(backend.name.clone()), ..attempt() }, via))
}

/// Why a cutover can't be done at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutoverError {
    /// There is no such backend.
    UnknownBackend,
    /// The backend is retired.
    Retired,
    /// The tenant is there already.
    AlreadyOwner,
    /// No migration has begun, so there is no owner to take it from.
    NoMigration,
}

/// Whether a tenant owned by `from` may be handed to `to`.
///
/// # Errors
/// When the receiving backend isn't one that may own tenants, or is the owner already.
pub fn check_cutover(backends: &[Backend], from: Option<&str>, to: &str) -> Result<(), CutoverError> {
    let receiver = backends.iter().find(|b| b.name == to).ok_or(CutoverError::UnknownBackend)?;
    if receiver.trust == Trust::Retired {
        return Err(CutoverError::Retired);
    }
    match from {
        None => Err(CutoverError::NoMigration),
        Some(owner) if owner == to => Err(CutoverError::AlreadyOwner),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Source;
    use super::super::rules::Rule;
    use super::*;

    fn session(name: &str, trust: Trust) -> Identity {
        Identity { backend: Some(Backend { name: name.into(), trust }), base: None, source: Source::Default }
    }

    #[test]
    fn only_the_owner_writes_a_tenant_and_nobody_a_frozen_one() {
        let (legacy, rebuilt) = (session("legacy", Trust::Proven), session("rebuilt", Trust::Unproven));
        let nobody = Identity { backend: None, base: None, source: Source::Nothing };
        let freeze = Freeze { reason: "audit".into(), until: None };
        let cases = [
            (&legacy, Some("legacy"), None, None),
            (&legacy, Some("rebuilt"), None, Some(Rule::NotOwner)),
            (&rebuilt, Some("legacy"), None, Some(Rule::NotOwner)),
            (&rebuilt, Some("rebuilt"), None, None),
            (&legacy, Some("legacy"), Some(&freeze), Some(Rule::TenantFrozen)),
            (&rebuilt, Some("legacy"), Some(&freeze), Some(Rule::NotOwner)),
            (&nobody, Some("legacy"), None, None),
            (&legacy, None, None, None),
        ];
        for (identity, owner, freeze, expected) in cases {
            let owned = Owned { tenant: "42", owner, freeze };
            let refusal = check_row(identity, &owned, Attempt::default);
            assert_eq!(refusal.map(|r| r.rule), expected, "{identity:?} {owner:?} {freeze:?}");
        }
    }

    #[test]
    fn a_freeze_ends_at_its_time() {
        let until = |until| Freeze { reason: String::new(), until };
        let cases = [(None, i64::MAX, true), (Some(10), 9, true), (Some(10), 10, false)];
        for (end, now, expected) in cases {
            assert_eq!(until(end).holds(now), expected, "{end:?} at {now}");
        }
    }

    #[test]
    fn a_global_row_is_for_proven_backends() {
        let cases = [
            (Trust::Proven, None),
            (Trust::Unproven, Some(Rule::GlobalWrite)),
            (Trust::Retired, Some(Rule::GlobalWrite)),
        ];
        for (trust, expected) in cases {
            let refusal = check_global_row(&session("b", trust), "tenant_id", Attempt::default);
            assert_eq!(refusal.map(|r| r.rule), expected, "{trust}");
        }
    }

    #[test]
    fn a_cutover_needs_a_receiver_that_may_own() {
        let backend = |name: &str, trust| Backend { name: name.into(), trust };
        let backends =
            [backend("legacy", Trust::Proven), backend("rebuilt", Trust::Unproven), backend("old", Trust::Retired)];
        let cases = [
            (Some("legacy"), "rebuilt", Ok(())),
            (Some("rebuilt"), "legacy", Ok(())),
            (Some("legacy"), "legacy", Err(CutoverError::AlreadyOwner)),
            (Some("legacy"), "old", Err(CutoverError::Retired)),
            (Some("legacy"), "acme", Err(CutoverError::UnknownBackend)),
            (None, "rebuilt", Err(CutoverError::NoMigration)),
        ];
        for (from, to, expected) in cases {
            assert_eq!(check_cutover(&backends, from, to), expected, "{from:?} → {to}");
        }
    }

    #[test]
    fn a_cutover_along_the_way_back_takes_the_last_one_back() {
        let backends = [("legacy", Trust::Proven), ("batch", Trust::Proven), ("rebuilt", Trust::Unproven)]
            .map(|(name, trust)| Backend { name: name.into(), trust });
        let cases = [
            ("rebuilt", "legacy", false, true),
            ("rebuilt", "legacy", true, false),
            ("rebuilt", "batch", false, false),
            ("batch", "legacy", false, true),
        ];
        let state = |owner: &str, previous: &str, rolled_back| TenantState {
            owner: Some(owner.into()),
            previous_owner: Some(previous.into()),
            rolled_back,
            freeze: None,
        };
        for (from, to, rolled_back, expected) in cases {
            let taken_back = state(from, "legacy", rolled_back).takes_back(&backends, from, to);
            assert_eq!(taken_back, expected, "{from} → {to} {rolled_back}");
        }
        assert!(!state("legacy", "rebuilt", false).takes_back(&backends, "legacy", "rebuilt"));
    }
}
