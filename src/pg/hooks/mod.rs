//! The hooks. Each does three things: saves the previous hook, checks, forwards.
//!
//! Every hook is a plain frame (see `compat`) around a guarded `check`: errors of Postgres and of other extensions pass
//! through it as a longjmp, untouched, and what we refuse is raised from it by `report::raise`.

mod aftermath;
mod commands;
mod drops;
mod executor;
mod functions;
mod grants;
mod object_access;
mod objects;
mod own_tables;
mod prepared;
mod rewrites;
mod settings;
mod tables;
mod uninstall;
mod utility;

/// Puts our hooks in front of whatever is there. Called once, from `_PG_init`.
pub fn install() {
    executor::install();
    utility::install();
    object_access::install();
    settings::install();
}
