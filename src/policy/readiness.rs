//! Whether a tenant is ready to be handed over: the one list of all that is asked.
//!
//! An *essential* check asks what only the policy and a few cheap facts tell. A handover asks all of them twice, before its lock
//! and under it, and those that block refuse it. Which do is for the policy to say ([`PolicySet::checks`]); by default, those
//! without which a cutover is never right. An *advisory* check looks around: at sessions, the log, standbys, the record. It may
//! take its time, is asked by `readiness()` alone, and never blocks: what it finds is for a person to judge, and much of it
//! anybody could bring about, who should not be able to keep tenants from being moved.
//!
//! The way back must be open when everything else is broken. So a handover to a backend of higher trust, or back to one of the
//! same, is refused only if the receiver itself couldn't write the tenant.
//!
//! A new check is a line in [`CHECKS`] and a function; what it needs to know is a field of [`Essentials`] or
//! [`Surroundings`], which `api/readiness.rs` fills.

mod advisory;

pub use advisory::{Standby, Surroundings};

use super::backend::{Backend, Trust};
use super::end_date::{self, Reminder, WhenPassed};
use super::mode::Mode;
use super::ownership::{CutoverError, check_cutover};
use super::rules::Rule;
use super::set::PolicySet;
use super::surface::GuardState;

/// Every check, in the order in which they are shown.
pub const CHECKS: &[Check] = &[
    essential(RECEIVER, Ways::All, Blocks, receiver),
    essential("receiver_identity", Ways::All, Tells, receiver_identity),
    essential("receiver_surface", Ways::All, Tells, receiver_surface),
    essential("owner_identity", Ways::Forward, Tells, owner_identity),
    essential("tenant_tables", Ways::Forward, Tells, tenant_tables),
    essential("guards", Ways::Forward, Blocks, guards),
    essential("enforced", Ways::Forward, Tells, enforced),
    essential("way_back", Ways::Forward, Tells, way_back),
    essential("soak", Ways::Forward, Blocks, soak),
    essential("invariants", Ways::Forward, Blocks, invariants),
    essential("parity", Ways::Forward, Blocks, parity),
    essential("end_date", Ways::Forward, AtTheEnd, end_date),
    advisory("unclassified", advisory::unclassified),
    advisory("open_transactions", advisory::open_transactions),
    advisory("prepared_transactions", advisory::prepared_transactions),
    advisory("restore_point", advisory::restore_point),
    advisory("archive", advisory::archive),
    advisory("replication", advisory::replication),
    advisory("refusals", advisory::refusals),
    advisory("freeze", advisory::freeze),
];

/// A question about a handover.
pub struct Check {
    /// A word that doesn't change.
    pub name: &'static str,
    asks: Asks,
}

enum Asks {
    Essential(Ways, ByDefault, fn(&Essentials) -> Finding),
    Advisory(fn(&Surroundings) -> Finding),
}

/// Which handovers a check may block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ways {
    /// Every one.
    All,
    /// All but a way back.
    Forward,
}

/// What comes of a failure unless the policy says otherwise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByDefault {
    Blocks,
    Tells,
    /// As `set_end_date` was told.
    AtTheEnd,
}
use ByDefault::{AtTheEnd, Blocks, Tells};

/// The check that nobody can do without.
const RECEIVER: &str = "receiver";

const fn essential(name: &'static str, ways: Ways, by_default: ByDefault, judge: fn(&Essentials) -> Finding) -> Check {
    Check { name, asks: Asks::Essential(ways, by_default, judge) }
}

const fn advisory(name: &'static str, judge: fn(&Surroundings) -> Finding) -> Check {
    Check { name, asks: Asks::Advisory(judge) }
}

/// What essential checks are decided from. A handover gathers it twice, so it must be had within microseconds.
pub struct Essentials<'a> {
    /// The policy.
    pub policy: &'a PolicySet,
    /// The database's name: identity rules may name another.
    pub database: &'a str,
    /// Whether `holdfast.enabled` is on.
    pub enabled: bool,
    /// The owner.
    pub from: Option<&'a str>,
    /// The backend that is to own the tenant.
    pub to: &'a str,
    /// Whether that backend had the tenant before the last cutover.
    pub was_owner: bool,
    /// The guarded tables.
    pub tables: Tables,
    /// Today, in days since 2000.
    pub today: i32,
    /// The canaries.
    pub soak: &'a Soak,
}

/// The guarded tables, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Oids of the tenant tables, in order.
    pub tenant: Vec<u32>,
    /// Tables whose guard isn't whole.
    pub damaged: Vec<(String, GuardState)>,
}

/// Whether those that go before this tenant have gone well for long enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Soak {
    /// The tenant is in no wave, so nobody goes before it.
    InNoWave,
    /// It is over; a sentence.
    Fulfilled(String),
    /// It isn't; a sentence.
    Pending(String),
}

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether all is well.
    pub ok: bool,
    /// Why, in sentences.
    pub detail: String,
}

fn fine(detail: impl Into<String>) -> Finding {
    Finding { ok: true, detail: detail.into() }
}

fn amiss(detail: impl Into<String>) -> Finding {
    Finding { ok: false, detail: detail.into() }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The check's name.
    pub name: &'static str,
    /// Whether all is well.
    pub ok: bool,
    /// Whether a failure refuses the handover.
    pub blocking: bool,
    /// Why, in sentences.
    pub detail: String,
}

/// What all checks find.
pub fn readiness(essentials: &Essentials, surroundings: &Surroundings) -> Vec<Row> {
    let row = |check: &Check| {
        let (blocking, finding) = match check.asks {
            Asks::Essential(ways, by_default, judge) => {
                (essentials.blocked_by(check.name, ways, by_default), judge(essentials))
            }
            Asks::Advisory(judge) => (false, judge(surroundings)),
        };
        Row { name: check.name, ok: finding.ok, blocking, detail: finding.detail }
    };
    CHECKS.iter().map(row).collect()
}

/// What refuses the handover.
pub fn obstacles(essentials: &Essentials) -> Vec<Row> {
    let obstacle = |check: &Check| match check.asks {
        Asks::Essential(ways, by_default, judge) if essentials.blocked_by(check.name, ways, by_default) => {
            let Finding { ok, detail } = judge(essentials);
            (!ok).then_some(Row { name: check.name, ok, blocking: true, detail })
        }
        _ => None,
    };
    CHECKS.iter().filter_map(obstacle).collect()
}

/// The checks that the policy may have block, or not.
pub fn configurable() -> Vec<&'static str> {
    let essential = CHECKS.iter().filter(|check| matches!(check.asks, Asks::Essential(..)));
    essential.map(|check| check.name).filter(|name| *name != RECEIVER).collect()
}

impl Essentials<'_> {
    fn backend(&self, name: &str) -> Option<&Backend> {
        self.policy.backends.iter().find(|b| b.name == name)
    }

    fn trust(&self, name: &str) -> Option<Trust> {
        self.backend(name).map(|b| b.trust)
    }

    /// Whether the tenant goes where it is safer: to a backend of higher trust, or back to one of the same.
    fn goes_back(&self) -> bool {
        let (from, to) = (self.from.and_then(|from| self.trust(from)), self.trust(self.to));
        from < to || self.was_owner && from == to
    }

    fn blocked_by(&self, check: &str, ways: Ways, by_default: ByDefault) -> bool {
        let chosen = self.policy.checks.iter().find(|(name, _)| name == check).map(|(_, blocking)| *blocking);
        let by_default = || match by_default {
            Blocks => true,
            Tells => false,
            AtTheEnd => self.policy.when_passed == WhenPassed::RefuseCutovers,
        };
        chosen.unwrap_or_else(by_default) && (ways == Ways::All || !self.goes_back())
    }

    /// What tells sessions of a backend apart that isn't said by themselves.
    fn proof(&self, backend: &str) -> Finding {
        let here = |database: &Option<String>| database.as_deref().is_none_or(|name| name == self.database);
        // A role that is gone has no name.
        let rules = self.policy.identities.iter().find(|rule| {
            rule.backend == backend
                && rule.application_name.is_none()
                && here(&rule.database)
                && !rule.left_behind
                && rule.role.as_deref() != Some("")
        });
        if let Some(rule) = rules {
            let role = rule.role.as_ref().map(|role| format!(", role \"{role}\"")).unwrap_or_default();
            return fine(format!("\"{backend}\" is known by identity rule {}{role}.", rule.id));
        }
        if let Some(key) = self.policy.keys.iter().find(|key| key.backend == backend) {
            return fine(format!("\"{backend}\" is known by tokens of key \"{}\".", key.label));
        }
        if self.policy.default_backend.as_deref() == Some(backend) {
            return fine(format!("\"{backend}\" is the default backend: whoever no identity rule names."));
        }
        amiss(format!(
            "Nothing but claims tells sessions of \"{backend}\": add_identity() by role, or add_key(), makes it provable."
        ))
    }

    /// Whether a backend may write any tenant table.
    fn surface(&self, backend: &str) -> Finding {
        match self.trust(backend) {
            Some(Trust::Proven) => return fine(format!("\"{backend}\" is proven, and bound by no write surface.")),
            Some(Trust::Unproven) => {}
            Some(Trust::Retired) => return amiss(format!("\"{backend}\" is retired, and may not write.")),
            None => return amiss(format!("\"{backend}\" is not registered.")),
        }
        let tables = &self.tables.tenant;
        let allowed = self.policy.permissions.iter().filter(|p| p.backend == backend).map(|p| p.relation);
        let allowed: std::collections::BTreeSet<u32> =
            allowed.filter(|relation| tables.binary_search(relation).is_ok()).collect();
        let told = format!("\"{backend}\" may write {} of {}.", allowed.len(), count(tables.len(), "tenant table"));
        if allowed.is_empty() { amiss(format!("{told} allow_writes() opens them.")) } else { fine(told) }
    }
}

/// A number of things.
fn count(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// A number of things, and the verb for it.
fn are(n: usize, thing: &str) -> String {
    format!("{} {}", count(n, thing), if n == 1 { "is" } else { "are" })
}

/// The first few of a list.
fn first(of: &[String], separator: &str) -> String {
    const SHOWN: usize = 5;
    let rest = of.len().saturating_sub(SHOWN);
    let shown = of.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(separator);
    if rest == 0 { shown } else { format!("{shown}{separator}and {rest} more") }
}

fn receiver(e: &Essentials) -> Finding {
    let to = e.to;
    match check_cutover(&e.policy.backends, e.from, to) {
        Ok(()) => fine(format!("\"{to}\" may own tenants.")),
        Err(CutoverError::AlreadyOwner) => amiss(format!("\"{to}\" owns the tenant already.")),
        Err(CutoverError::Retired) => amiss(format!("\"{to}\" is retired.")),
        Err(CutoverError::UnknownBackend) => amiss(format!("\"{to}\" is not registered.")),
        Err(CutoverError::NoMigration) => amiss("No migration has begun, so nobody owns the tenant."),
    }
}

fn receiver_identity(e: &Essentials) -> Finding {
    e.proof(e.to)
}

fn receiver_surface(e: &Essentials) -> Finding {
    e.surface(e.to)
}

fn owner_identity(e: &Essentials) -> Finding {
    e.from.map_or_else(|| amiss("Nobody owns the tenant."), |from| e.proof(from))
}

fn tenant_tables(e: &Essentials) -> Finding {
    match e.tables.tenant.len() {
        0 => amiss("No table is guarded by tenant: a cutover binds nobody. See guard_table()."),
        tables => fine(format!("{} guarded.", are(tables, "tenant table"))),
    }
}

fn guards(e: &Essentials) -> Finding {
    let damaged = &e.tables.damaged;
    if damaged.is_empty() {
        return fine("No guard is damaged.");
    }
    let damaged: Vec<String> = damaged.iter().map(|(name, state)| format!("{name} ({})", state.word())).collect();
    amiss(format!("The guard of these tables is damaged: {}. guard_table() repairs.", first(&damaged, ", ")))
}

fn enforced(e: &Essentials) -> Finding {
    if !e.enabled {
        return amiss("holdfast.enabled is off: every write passes.");
    }
    // Whoever isn't stopped by these rules goes on writing the tenant.
    let others = e.policy.backends.iter().filter(|b| b.name != e.to && b.trust != Trust::Retired);
    let not_owner = others.map(|b| (format!("not_owner for \"{}\"", b.name), Some(&*b.name), Rule::NotOwner));
    let unidentified = ("unidentified for sessions of no backend".to_owned(), None, Rule::Unidentified);
    let loose: Vec<String> = not_owner
        .chain([unidentified])
        .map(|(told, backend, rule)| (told, e.policy.modes.of(backend, rule)))
        .filter(|(_, mode)| *mode != Mode::Enforce)
        .map(|(told, mode)| format!("{told} ({mode})"))
        .collect();
    match loose.is_empty() {
        true => fine("The rules not_owner and unidentified are enforced."),
        false => amiss(format!(
            "Not enforced: {}; who isn't stopped could go on writing the tenant. See set_mode().",
            loose.join(", ")
        )),
    }
}

fn way_back(e: &Essentials) -> Finding {
    let Some(from) = e.from else { return amiss("Nobody owns the tenant, so there is no way back.") };
    let surface = e.surface(from);
    match surface.ok {
        true => fine(format!("rollback_cutover() would hand the tenant back to \"{from}\".")),
        false => amiss(format!("\"{from}\" could not write the tenant after a rollback. {}", surface.detail)),
    }
}

fn soak(e: &Essentials) -> Finding {
    match e.soak {
        Soak::InNoWave => fine("The tenant is in no wave."),
        Soak::Fulfilled(told) => fine(told),
        Soak::Pending(told) => amiss(told),
    }
}

/// Nothing is asked yet, and the detail says so. Invariants that tenants can break bring a field of [`Essentials`] with them.
fn invariants(_: &Essentials) -> Finding {
    fine("Not asked: this version keeps no invariants.")
}

/// As for [`invariants`].
fn parity(_: &Essentials) -> Finding {
    fine("Not asked: this version compares no reads.")
}

fn end_date(e: &Essentials) -> Finding {
    let Some(ends_on) = e.policy.ends_on else { return fine("The migration has no end date.") };
    match end_date::reminder(Some(ends_on), e.today) {
        Some(Reminder::Passed(days)) => {
            let refused = match e.policy.when_passed {
                WhenPassed::Warn => "",
                WhenPassed::RefuseCutovers => " Only ways back are open; set_end_date() names another day.",
            };
            amiss(format!("The migration should have ended {} ago.{refused}", count_days(days)))
        }
        _ => fine(format!("The migration ends in {}.", count_days(ends_on.saturating_sub(e.today)))),
    }
}

fn count_days(days: i32) -> String {
    count(usize::try_from(days).unwrap_or_default(), "day")
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
