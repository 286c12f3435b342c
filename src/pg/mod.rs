//! Everything that touches Postgres. All unsafe code of the extension is here.
//!
//! | module | does |
//! |---|---|
//! | [`hooks`] | save the previous hook, check, forward |
//! | [`trigger`] | the row guard |
//! | [`row_count`] | counts its rows |
//! | [`cascade`] | how foreign keys led to a row |
//! | [`memo`] | what makes a row pass without a closer look |
//! | [`known`] | the keys of a statement's rows that passed |
//! | [`keys`] | tenant keys as they lie in rows |
//! | [`columns`] | which columns can name a tenant |
//! | [`children`] | whether parents are still what they were when the transaction ends |
//! | [`parent_changes`] | counts the transactions that change parents, and keeps moves from commits of children |
//! | [`parent_keys`] | whether a parent keeps its keys |
//! | [`parents`] | the tenant of a row by its foreign key |
//! | [`shared`] | shared memory |
//! | [`stats`] | counts what rules were asked, and what came of it |
//! | [`statement`] | counts what a statement of the client writes |
//! | [`tenants`] | the writer's side of the ownership protocol |
//! | [`handover`] | the exclusive side: cutover, freeze |
//! | [`bounded`] | how long its transaction may go on |
//! | [`subtransaction`] | work that may fail without failing the transaction |
//! | [`locks`] | tenant locks |
//! | [`prepared`] | statements that are planned once |
//! | [`session`] | who this session is; the policy in force |
//! | [`settings`] | keeps settings within their bounds |
//! | [`partitions`] | guards partitions that come and go |
//! | [`relation`] | whose rows a table holds |
//! | [`innocent`] | writes of it that break no rule |
//! | [`plan`] | what a plan tree says |
//! | [`scan`] | reads tables without SPI |
//! | [`catalog`] | the extension's tables |
//! | [`reading`] | queries of users that change nothing |
//! | [`invalidation`] | when to read them again |
//! | [`audit`] | hands events to the worker, which commits them |
//! | [`dropped`] | forgets tables that are gone |
//! | [`end_date`] | reminds of the migration's end |
//! | [`glass`] | break-glass of this session |
//! | [`policy_log`] | writes down who changed the policy |
//! | [`process`] | what a process keeps for itself |
//! | [`query_text`] | what an event keeps of the client's statement |
//! | [`report`] | raises a refusal |
//! | [`types`] | SQL types that pgrx lacks |
//! | [`gucs`] | the settings |
//! | [`compat`] | what differs between Postgres versions, or is missing from the bindings |
#![allow(unsafe_code, reason = "this is the layer that calls Postgres; the others can't")]

pub mod audit;
pub mod bounded;
pub mod cascade;
pub mod catalog;
pub mod children;
pub mod columns;
pub mod compat;
pub mod credential;
pub mod dropped;
pub mod end_date;
pub mod glass;
pub mod gucs;
pub mod handover;
pub mod hooks;
pub mod innocent;
pub mod invalidation;
pub mod keys;
pub mod known;
pub mod locks;
pub mod memo;
pub mod parent_changes;
pub mod parent_keys;
pub mod parents;
pub mod partitions;
pub mod plan;
pub mod policy_log;
pub mod prepared;
pub mod process;
pub mod query_text;
pub mod reading;
pub mod relation;
pub mod report;
pub mod row_count;
pub mod scan;
pub mod session;
pub mod settings;
pub mod shared;
pub mod statement;
pub mod stats;
pub mod subtransaction;
pub mod tenants;
pub mod trigger;
pub mod types;

/// Refuses to be loaded into a running session: the guard must be in every session, and its shared memory can only be had
/// when the server starts.
pub fn require_preload() {
    use pgrx::pg_sys;
    use pgrx::pg_sys::panic::ErrorReport;
    // SAFETY: a plain read of the server's global.
    if unsafe { !pg_sys::process_shared_preload_libraries_in_progress } {
        ErrorReport::new(
            pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "holdfast must be loaded through shared_preload_libraries",
            "_PG_init",
        )
        .set_detail("A guard that is loaded later would miss the sessions that were there before.")
        .set_hint("Add to postgresql.conf: shared_preload_libraries = 'holdfast', then restart the server.")
        .report(pgrx::PgLogLevel::ERROR);
    }
}
