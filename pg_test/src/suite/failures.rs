//! Whatever ends a cutover, a rollback or a wave, wherever it is: one owner, a history that says so, nothing locked.
//!
//! No stub in the product stops a handover: sessions that hold locks in its way do, or a standby that doesn't answer
//! ([`step`]). There it meets its end ([`blow`]), and what is left is looked at ([`aftermath`]). Each of them at each
//! step where it can come is a point.

mod aftermath;
mod blow;
mod disk;
mod step;

use anyhow::{Context, Result, ensure};

use self::aftermath::{Before, Wave};
use self::blow::Blow;
use self::step::{Step, Stopped};
use super::Test;
use super::two_backends::TwoBackends;
use crate::cluster::{Cluster, ClusterOptions};

/// Tests of failing handovers.
pub fn tests() -> Vec<Test> {
    // Commits wait for a standby that is never there, if their session says so.
    let options =
        || ClusterOptions::new().set("synchronous_standby_names", "nobody").set("synchronous_commit", "local");
    let own = |name, run| Test::own(name, options(), run);
    let mut tests = vec![
        own("cancel_timeout_and_terminate_at_each_step_of_a_cutover", |cluster| {
            points(cluster, Handover::Cutover, &Blow::OF_ONE_SESSION)
        }),
        own("cancel_timeout_and_terminate_at_each_step_of_a_rollback", |cluster| {
            points(cluster, Handover::Rollback, &Blow::OF_ONE_SESSION)
        }),
        own("cancel_timeout_and_terminate_at_each_step_of_a_wave", |cluster| {
            points(cluster, Handover::Wave, &Blow::OF_ONE_SESSION)
        }),
    ];
    let crashes: [(_, Run); 6] = [
        ("kill9_at_each_step_of_a_cutover", |cluster| points(cluster, Handover::Cutover, &[Blow::Kill9])),
        ("kill9_at_each_step_of_a_rollback", |cluster| points(cluster, Handover::Rollback, &[Blow::Kill9])),
        ("kill9_at_each_step_of_a_wave", |cluster| points(cluster, Handover::Wave, &[Blow::Kill9])),
        ("postmaster_crash_at_each_step_of_a_cutover", |cluster| {
            points(cluster, Handover::Cutover, &[Blow::Postmaster])
        }),
        ("postmaster_crash_at_each_step_of_a_rollback", |cluster| {
            points(cluster, Handover::Rollback, &[Blow::Postmaster])
        }),
        ("postmaster_crash_at_each_step_of_a_wave", |cluster| points(cluster, Handover::Wave, &[Blow::Postmaster])),
    ];
    tests.extend(crashes.map(|(name, run)| own(name, run).expects_crashes()));
    tests.extend(disk::tests());
    tests
}

type Run = fn(&mut Cluster) -> Result<()>;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// `cutover`, from legacy to rebuilt.
    Cutover,
    /// `rollback_cutover`, from rebuilt to legacy.
    Rollback,
    /// `run_wave`, whose first tenant is the point's.
    Wave,
}

impl Handover {
    /// The owner before, and the one after.
    fn owners(self) -> (&'static str, &'static str) {
        match self {
            Handover::Cutover | Handover::Wave => ("legacy", "rebuilt"),
            Handover::Rollback => ("rebuilt", "legacy"),
        }
    }

    fn sql(self, tenant: &str) -> String {
        match self {
            Handover::Cutover => format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', max_pause => '1 min')"),
            Handover::Rollback => format!("SELECT holdfast.rollback_cutover('{tenant}')"),
            // It is called like its first tenant, as far as a name may be as long.
            Handover::Wave => format!("CALL holdfast.run_wave(left('{tenant}', 200))"),
        }
    }
}

/// A handover that meets its end at a step.
pub struct Point<'a> {
    stage: &'a TwoBackends,
    tenant: i32,
    handover: Handover,
    step: Step,
    blow: Blow,
}

fn points(cluster: &mut Cluster, handover: Handover, blows: &[Blow]) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "failures")?;
    // Steps need a tenant that rebuilt owns besides the point's.
    stage.cut_over(step::OF_REBUILT, "rebuilt")?;
    let mut number = 0;
    for step in Step::of(handover) {
        for blow in blows.iter().copied().filter(|blow| blow.comes_at(step)) {
            number += 1;
            let point = Point { stage: &stage, tenant: number, handover, step, blow };
            point.run(cluster).with_context(|| format!("{handover:?}, {step:?}, {blow:?}"))?;
        }
    }
    println!("    {number} points");
    Ok(())
}

impl Point<'_> {
    fn run(&self, cluster: &mut Cluster) -> Result<()> {
        let (old, new) = self.handover.owners();
        if self.handover == Handover::Rollback || self.step == Step::Row {
            self.stage.cut_over(self.tenant, "rebuilt")?;
        }
        if self.handover != Handover::Rollback && self.step == Step::Row {
            self.stage.operator()?.exec(&Handover::Rollback.sql(&self.tenant.to_string()))?;
        }
        let tenant = self.tenant.to_string();
        let wave = match self.handover {
            Handover::Wave => Some(Wave::add(self.stage, &tenant, &(self.tenant + 1_000).to_string())?),
            _ => None,
        };
        let before = Before::look(self.stage, &tenant)?;
        let stopped = Stopped::at(self)?;
        let committed = stopped.strike(self, cluster)?;
        ensure!(committed == (self.step == Step::Standby), "the handover was committed: {committed}");
        if committed {
            before.check(new, 1)?;
            return self.stage.ensure_sound(self.tenant, new);
        }
        before.check(old, 0)?;
        self.stage.ensure_sound(self.tenant, old)?;
        if let Some(wave) = &wave {
            wave.is_true()?;
        }
        self.stage.operator()?.exec(&self.handover.sql(&tenant)).context("once more, undisturbed")?;
        before.check(new, 1)?;
        if let Some(wave) = wave {
            wave.has_moved()?;
        }
        self.stage.ensure_sound(self.tenant, new)
    }
}
