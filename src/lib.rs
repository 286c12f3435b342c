//! Holdfast guards one shared database while tenants move from a legacy to a rebuilt backend.
//!
//! | module | is |
//! |---|---|
//! | [`policy`] | what is allowed: pure decisions, no Postgres |
//! | [`pg`] | everything that touches Postgres: hooks, row guard, locks, worker; all unsafe code |
//! | [`report`] | the page of `report_html()`: facts in, HTML out |
//! | [`api`] | the SQL functions; short, they call the others |
//!
//! Dependencies point one way: `api` → `pg` → `policy`. ARCHITECTURE.md follows a statement through them.

pub mod api;
pub mod pg;
pub mod policy;
pub mod report;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", bootstrap);
pgrx::extension_sql_file!("../sql/waves.sql", name = "waves", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["waves"]);
pgrx::extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = ["triggers", guard_state, table_counts, rule_counts, audit_health]
);
pgrx::extension_sql_file!("../sql/policy_log.sql", name = "policy_log", requires = ["views"]);
pgrx::extension_sql_file!("../sql/comments_and_grants.sql", name = "comments_and_grants", finalize);

/// Runs when Postgres loads the library.
#[allow(non_snake_case, unsafe_code, reason = "the name that Postgres looks for")]
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::require_preload();
    pg::gucs::define();
    pg::shared::install();
    pg::audit::install();
    pg::hooks::install();
}
