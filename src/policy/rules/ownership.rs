//! Whose tenant it is: `not_owner`, `tenant_frozen`, `unidentified`.

use super::{Attempt, Refusal, Rule, literal, name, table};

impl Refusal {
    /// `not_owner`: the tenant belongs to another backend.
    pub fn not_owner(attempt: Attempt) -> Refusal {
        let (backend, tenant, owner) = (name(&attempt.backend), name(&attempt.tenant), name(&attempt.owner));
        let message = format!("backend \"{backend}\" may not write tenant \"{tenant}\"");
        let hint = format!(
            "Retry on backend \"{owner}\", or hand the tenant over: SELECT holdfast.cutover({}, {});",
            literal(tenant),
            literal(backend)
        );
        Refusal::new(Rule::NotOwner, attempt, message, "", hint)
    }

    /// `tenant_frozen`: nobody may write the tenant now.
    pub fn tenant_frozen(attempt: Attempt, reason: &str) -> Refusal {
        let tenant = name(&attempt.tenant);
        let message = format!("tenant \"{tenant}\" is frozen");
        let hint = format!(
            "Retry when the freeze has ended; an operator ends it with SELECT holdfast.unfreeze({});",
            literal(tenant)
        );
        let reason = format!("The tenant is frozen: {reason}.");
        Refusal::new(Rule::TenantFrozen, attempt, message, &reason, hint)
    }

    /// `unidentified`: the session's own claim names no backend.
    pub fn unknown_claim(attempt: Attempt) -> Refusal {
        let message = "the setting holdfast.backend names no backend, so this session may not write guarded tables";
        let hint = "Name a registered backend, or none: RESET holdfast.backend;".to_owned();
        Refusal::new(Rule::Unidentified, attempt, message.to_owned(), "", hint)
    }

    /// `unidentified`: no identity rule matches and there is no default backend.
    pub fn unidentified(attempt: Attempt, login_role: &str) -> Refusal {
        let message = format!("role \"{login_role}\" belongs to no backend and may not write guarded tables");
        let hint =
            format!("Say which backend it is: SELECT holdfast.add_identity('...', role => {});", literal(login_role));
        Refusal::new(Rule::Unidentified, attempt, message, "", hint)
    }

    /// `unidentified`: the code of a table's owner, run by whoever maintains the table.
    pub fn lent_session(attempt: Attempt) -> Refusal {
        let message = "code that runs in the course of maintenance may not write guarded tables";
        let reason = "Expressions of indexes, statistics and materialized views are their owner's code in somebody else's session, so nobody can tell which backend writes.";
        let hint = "Write the table from a session of its own.".to_owned();
        Refusal::new(Rule::Unidentified, attempt, message.to_owned(), reason, hint)
    }

    /// `not_owner`: TRUNCATE reaches every tenant, and some belong to another backend or are frozen.
    pub fn truncate_reaches(attempt: Attempt) -> Refusal {
        let backend = name(&attempt.backend);
        let message =
            format!("backend \"{backend}\" may not TRUNCATE table \"{}\" of other owners' tenants", table(&attempt));
        let reason = match &attempt.tenant {
            Some(tenant) => format!("It may hold rows of tenant \"{tenant}\", among others."),
            None => "It may hold rows of every tenant that was never handed over.".to_owned(),
        };
        let reason = reason.as_str();
        let hint = "Delete the rows of your own tenants instead: DELETE ... WHERE names them.".to_owned();
        Refusal::new(Rule::NotOwner, attempt.clone(), message, reason, hint)
    }
}
