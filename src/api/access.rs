//! Access: who may change the policy, who may read the record.

use pgrx::spi::quote_identifier;
use pgrx::{PgSqlErrorCode, pg_extern, search_path};
use serde_json::json;

use super::{execute, fetch, required};
use crate::pg::policy_log;
use crate::pg::report::error;

/// Lets a role call every function and procedure of this schema and read every view.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn grant_operator(role: Option<&str>) {
    let role = existing(role);
    execute(&format!("GRANT USAGE ON SCHEMA holdfast TO {role}"), &[]);
    execute(&format!("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA holdfast TO {role}"), &[]);
    grant_views(&role);
    policy_log::note("access", "grant", &json!({ "role": role, "as": "operator" }));
}

/// Lets a role read every view of this schema.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn grant_auditor(role: Option<&str>) {
    let role = existing(role);
    execute(&format!("GRANT USAGE ON SCHEMA holdfast TO {role}"), &[]);
    let read = "holdfast.flush_events(), holdfast.metrics(), holdfast.check_setup(), holdfast.report_html(), \
                holdfast.readiness(text, text)";
    // For the views coverage, stats and status: functions in views run with the reader's rights.
    let shown =
        "holdfast.guard_state(regclass), holdfast.rule_counts(), holdfast.audit_health(), holdfast.table_counts()";
    let functions = format!("{read}, {shown}");
    execute(&format!("GRANT EXECUTE ON FUNCTION {functions} TO {role}"), &[]);
    grant_views(&role);
    policy_log::note("access", "grant", &json!({ "role": role, "as": "auditor" }));
}

/// Views only: they show what an auditor should see, and nothing can be written through them.
fn grant_views(role: &str) {
    let views = fetch::<String>(
        "SELECT pg_catalog.string_agg(pg_catalog.format('%I.%I', schemaname, viewname), ', ')
         FROM pg_catalog.pg_views WHERE schemaname = 'holdfast'",
        &[],
    );
    if let Some(views) = views {
        execute(&format!("GRANT SELECT ON {views} TO {role}"), &[]);
    }
}

/// A role that exists, quoted.
fn existing(role: Option<&str>) -> String {
    let role = required(role, "role");
    if fetch::<bool>("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", &[role.into()]) != Some(true)
    {
        error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("role \"{role}\" does not exist"),
            "",
            "The name is taken as it is, without folding its case.",
        );
    }
    quote_identifier(role)
}
