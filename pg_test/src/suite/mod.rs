//! The suite: tests over real connections, one file a promise or an attack.
//!
//! A new file is a module here and a line in [`registry`]:
//!
//! ```ignore
//! pub fn tests() -> Vec<Test> {
//!     vec![Test::shared("truncate_blocked", truncate_blocked)]
//! }
//!
//! fn truncate_blocked(cluster: &Cluster) -> Result<()> {
//!     let database = cluster.guarded_database("truncate")?;
//!     let rebuilt = database.role("rebuilt")?;
//!     database.connect()?.exec("CREATE TABLE t (id int)")?;
//!     let refusal = database.connect_as(&rebuilt)?.refused("TRUNCATE t")?;
//!     ensure!(refusal.code == "WG016", "{refusal:?}");
//!     Ok(())
//! }
//! ```

mod access;
mod audit;
mod bounded;
mod break_glass;
mod bypass;
mod cascade_preview;
mod check_setup;
mod composite;
mod coverage;
mod crash;
mod crash_safety;
mod cutover;
mod databases;
mod destructive;
mod disk_full;
mod documentation;
mod ending;
mod escalation;
mod events;
mod failures;
pub mod flood;
mod foreign_errors;
mod guard_schema;
mod guarded;
mod harness;
mod held;
mod identity;
mod inert;
mod input;
mod ledger;
mod legacy;
mod limits;
mod logical;
pub mod memory;
mod metrics;
mod minting;
mod modes;
mod no_loss;
mod orphans;
mod passes;
mod paths;
mod pgbench;
pub mod platform;
mod policy_log;
pub mod poolers;
mod processes;
mod provoker;
mod psql;
mod query_text;
mod race;
mod readiness;
mod refusals;
mod remembered;
mod replaced;
mod report;
mod restore;
mod rooms;
mod row_guard;
mod runner;
mod savepoints;
mod scene;
mod settings;
mod side_by_side;
mod snapshots;
mod spool;
mod standby;
mod stats;
mod status;
mod storm;
mod surface;
mod tamper_commands;
mod tampering;
mod tenant_types;
mod token_traces;
mod tokens;
mod two_backends;
mod unfiltered;
mod uninstall;
mod wave_race;
mod wave_soak;
mod wave_standby;
mod waves;
mod ways_in;
mod worker;

use anyhow::Result;

use crate::cluster::{Cluster, ClusterOptions};
use crate::setup::Program;

pub use runner::{Counts, Selection, list, verify};

/// Every file of tests, under its name.
fn registry() -> Vec<(&'static str, Vec<Test>)> {
    vec![
        ("access", access::tests()),
        ("audit", audit::tests()),
        ("bounded", bounded::tests()),
        ("break_glass", break_glass::tests()),
        ("bypass", bypass::tests()),
        ("cascade_preview", cascade_preview::tests()),
        ("check_setup", check_setup::tests()),
        ("composite", composite::tests()),
        ("coverage", coverage::tests()),
        ("crash", crash::tests()),
        ("crash_safety", crash_safety::tests()),
        ("cutover", cutover::tests()),
        ("databases", databases::tests()),
        ("destructive", destructive::tests()),
        ("disk_full", disk_full::tests()),
        ("documentation", documentation::tests()),
        ("ending", ending::tests()),
        ("escalation", escalation::tests()),
        ("events", events::tests()),
        ("failures", failures::tests()),
        ("flood", flood::tests()),
        ("foreign_errors", foreign_errors::tests()),
        ("guard_schema", guard_schema::tests()),
        ("harness", harness::tests()),
        ("held", held::tests()),
        ("identity", identity::tests()),
        ("inert", inert::tests()),
        ("input", input::tests()),
        ("legacy", legacy::tests()),
        ("logical", logical::tests()),
        ("limits", limits::tests()),
        ("memory", memory::tests()),
        ("metrics", metrics::tests()),
        ("minting", minting::tests()),
        ("modes", modes::tests()),
        ("no_loss", no_loss::tests()),
        ("orphans", orphans::tests()),
        ("passes", passes::tests()),
        ("paths", paths::tests()),
        ("pgbench", pgbench::tests()),
        ("policy_log", policy_log::tests()),
        ("poolers", poolers::tests()),
        ("psql", psql::tests()),
        ("query_text", query_text::tests()),
        ("race", race::tests()),
        ("readiness", readiness::tests()),
        ("refusals", refusals::tests()),
        ("remembered", remembered::tests()),
        ("replaced", replaced::tests()),
        ("report", report::tests()),
        ("restore", restore::tests()),
        ("rooms", rooms::tests()),
        ("row_guard", row_guard::tests()),
        ("savepoints", savepoints::tests()),
        ("settings", settings::tests()),
        ("snapshots", snapshots::tests()),
        ("stats", stats::tests()),
        ("status", status::tests()),
        ("spool", spool::tests()),
        ("standby", standby::tests()),
        ("storm", storm::tests()),
        ("surface", surface::tests()),
        ("tamper_commands", tamper_commands::tests()),
        ("tampering", tampering::tests()),
        ("tenant_types", tenant_types::tests()),
        ("token_traces", token_traces::tests()),
        ("tokens", tokens::tests()),
        ("unfiltered", unfiltered::tests()),
        ("wave_race", wave_race::tests()),
        ("wave_soak", wave_soak::tests()),
        ("wave_standby", wave_standby::tests()),
        ("waves", waves::tests()),
        ("uninstall", uninstall::tests()),
        ("ways_in", ways_in::tests()),
        ("worker", worker::tests()),
    ]
}

/// What a test runs on.
#[derive(Clone)]
pub enum Needs {
    /// The suite's one cluster: started once, default settings, used by several tests at a time.
    Shared(fn(&Cluster) -> Result<()>),
    /// A cluster for this test alone, which it may restart.
    Own(ClusterOptions, fn(&mut Cluster) -> Result<()>),
}

/// A test: its name and what it needs.
#[derive(Clone)]
pub struct Test {
    /// A promise in snake case: `truncate_blocked`.
    pub name: &'static str,
    /// What it runs on, and what it does there.
    pub needs: Needs,
    /// Modules it can't do without; it is skipped, and that reported, where one isn't installed.
    pub modules: Vec<&'static str>,
    /// A program beside the server's, likewise.
    pub program: Option<Program>,
    /// Whether it is skipped where the server was built without ICU.
    pub icu: bool,
    /// Whether killed server processes are part of the test. Otherwise a crash fails it.
    pub crashes: bool,
}

impl Test {
    /// A test on the shared cluster. It makes its own database and roles and changes no settings
    /// of the cluster.
    pub fn shared(name: &'static str, run: fn(&Cluster) -> Result<()>) -> Test {
        Test { name, needs: Needs::Shared(run), modules: Vec::new(), program: None, icu: false, crashes: false }
    }

    /// A test on a cluster of its own.
    pub fn own(name: &'static str, options: ClusterOptions, run: fn(&mut Cluster) -> Result<()>) -> Test {
        Test { name, needs: Needs::Own(options, run), modules: Vec::new(), program: None, icu: false, crashes: false }
    }

    /// Skips the test where the loadable module isn't installed.
    pub fn needs_module(mut self, module: &'static str) -> Test {
        self.modules.push(module);
        self
    }

    /// Skips the test where the program can't be had.
    pub fn needs_program(mut self, program: Program) -> Test {
        self.program = Some(program);
        self
    }

    /// Skips the test where the server was built without ICU.
    pub fn needs_icu(mut self) -> Test {
        self.icu = true;
        self
    }

    /// Says that the test kills server processes itself.
    pub fn expects_crashes(mut self) -> Test {
        self.crashes = true;
        self
    }
}
