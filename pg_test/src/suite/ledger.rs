//! What clients know of their refusals, to be held against the record.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};

use crate::database::Database;

/// What an attempt was at, in the record's own words; enough to find it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The rule that refuses it.
    pub rule: String,
    /// `schema.table`.
    pub relation: String,
    /// The tenant's key; empty where the rule doesn't look at tenants.
    pub tenant: String,
}

impl Subject {
    /// A subject.
    pub fn new(rule: &str, relation: &str, tenant: &str) -> Subject {
        Subject { rule: rule.to_owned(), relation: relation.to_owned(), tenant: tenant.to_owned() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.rule, self.relation, self.tenant)
    }
}

/// Attempts at one subject.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    told: u64,
    untold: u64,
}

/// Attempts by subject, those whose refusal the client was told of and those whose outcome it never learnt.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    attempts: BTreeMap<Subject, Attempts>,
}

/// How a ledger and the record agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreement {
    /// Refusals that clients were told of; the record has each of them once.
    pub told: u64,
    /// Attempts whose outcome no client learnt.
    pub untold: u64,
    /// Those of them that the record has.
    pub untold_recorded: u64,
}

impl Ledger {
    /// A client was told of so many refusals.
    pub fn told(&mut self, subject: Subject, count: u64) {
        self.attempts.entry(subject).or_default().told += count;
    }

    /// A client made so many attempts and lost the connection, or its statement, before it learnt of their outcome.
    pub fn untold(&mut self, subject: Subject, count: u64) {
        self.attempts.entry(subject).or_default().untold += count;
    }

    /// Adds another client's.
    pub fn add(&mut self, other: Ledger) {
        for (subject, attempts) in other.attempts {
            let entry = self.attempts.entry(subject).or_default();
            entry.told += attempts.told;
            entry.untold += attempts.untold;
        }
    }

    /// Holds it against the record, which must have every refusal that a client was told of exactly once, and at most one
    /// for each attempt whose outcome no client learnt. What else was refused there, the record mustn't know.
    pub fn check(&self, database: &Database) -> Result<Agreement> {
        let (mut agreement, mut wrong) = (Agreement::default(), Vec::new());
        let mut recorded = recorded(database)?;
        for (subject, attempts) in &self.attempts {
            let recorded = recorded.remove(subject).unwrap_or_default();
            let Attempts { told, untold } = *attempts;
            if recorded < told || recorded > told + untold {
                wrong.push(format!("{subject}: {recorded} recorded, {told} told, {untold} of unknown outcome"));
            }
            agreement.told += told;
            agreement.untold += untold;
            agreement.untold_recorded += recorded.saturating_sub(told);
        }
        wrong.extend(recorded.into_iter().map(|(subject, count)| format!("{subject}: {count} recorded, never tried")));
        let shown = wrong.len().min(20);
        ensure!(
            wrong.is_empty(),
            "the record is wrong about {} of {} subjects:\n- {}",
            wrong.len(),
            self.attempts.len(),
            wrong[..shown].join("\n- ")
        );
        Ok(agreement)
    }
}

/// The counted occurrences of refusals on record, by subject.
fn recorded(database: &Database) -> Result<BTreeMap<Subject, u64>> {
    let sql = "SELECT rule, coalesce(relation, ''), coalesce(tenant, ''), sum(occurrences)::int8
               FROM holdfast.blocked_writes WHERE outcome = 'refused' GROUP BY 1, 2, 3";
    let rows = database.connect()?.query(sql, &[])?;
    let mut recorded = BTreeMap::new();
    for row in rows {
        let subject = Subject { rule: row.try_get(0)?, relation: row.try_get(1)?, tenant: row.try_get(2)? };
        recorded.insert(subject, u64::try_from(row.try_get::<_, i64>(3)?)?);
    }
    Ok(recorded)
}
