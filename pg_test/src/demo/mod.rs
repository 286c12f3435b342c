//! `cargo demo`: a migration in a minute, live, on a real-estate platform's schema.
//!
//! Two backends write one database while tenants move between them; at the end a check reads the rows and says
//! whether every write was made by the tenant's owner and whether none was lost.
//!
//! - [`stage`]: the cluster, schema.sql, seed.sql, roles.sql, policy.sql
//! - [`operation`]: what the applications do; [`traffic`]: users, queues, connections; [`router`]: who serves whom
//! - [`driver`]: who moves the tenants; [`acts`]: what is shown, in order; [`screen`]: how
//! - [`ledger`]: what the clients were told; [`evidence`]: what stands in the database; [`check`]: whether both agree

mod acts;
mod backend;
mod check;
mod driver;
mod evidence;
mod ledger;
mod meter;
mod operation;
mod report;
mod router;
mod screen;
mod stage;
mod traffic;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle, scope};

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;

use crate::setup::Postgres;
use crate::ui::Ui;

use acts::{Casting, Play};
use backend::Backend;
use driver::Driver;
use meter::Meter;
use operation::Worker;
use router::Router;
use screen::Screen;
use stage::Stage;
use traffic::Traffic;

/// All random choices come from here.
const SEED: u64 = 2_026;

/// Connections of each backend.
const CONNECTIONS: u64 = 6;

/// Fewer tenants couldn't fill every part.
const FEWEST_TENANTS: i32 = 20;

/// What `cargo demo` was asked for.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Number of brokerages.
    pub tenants: u32,
    /// Leave the cluster up at the end.
    pub keep: bool,
}

/// Plays the demo. An error if any of what it shows is false.
pub fn run(postgres: &Postgres, options: DemoOptions, ui: &Ui) -> Result<()> {
    let tenants = i32::try_from(options.tenants).context("too many tenants")?;
    ensure!(tenants >= FEWEST_TENANTS, "the demo needs at least {FEWEST_TENANTS} tenants");
    let screen = Screen::new(ui);
    let stage =
        ui.step("Starting a cluster of its own, with durable commits", |_| Stage::build(postgres, options.keep))?;
    let result = play(&stage, &screen, ui, tenants);
    if options.keep {
        let psql = stage.cluster.psql_line(stage.database());
        screen.act("The cluster stays up. To look around, and to stop it and remove everything of it:");
        screen.block(&psql);
        screen.block(&stage.cluster.leave_running()?);
    }
    result
}

fn play(stage: &Stage, screen: &Screen, ui: &Ui, tenants: i32) -> Result<()> {
    ui.step(&format!("Filling a real-estate platform with {tenants} brokerages"), |_| stage.furnish(tenants))?;
    ui.step("Installing Holdfast and beginning a migration", |_| stage.guard())?;
    let mut random = Rng::with_seed(SEED);
    let router = Router::new(stage.login("edge_router", "router")?);
    let traffic = Traffic::new(tenants, router, Meter::new("legacy alone")?);
    let mut actors = Play {
        stage,
        traffic: &traffic,
        screen,
        operator: stage.login("migration_operator", "operator")?,
        driver: Driver::new(stage.login("migration_operator", "cutover driver")?),
        stray: Worker::new(stage.login(Backend::Rebuilt.role(), "rebuilt-api (stray)")?, Backend::Rebuilt)?,
        visitor: stage.login(Backend::Rebuilt.role(), "psql")?,
        casting: Casting::of(tenants, &mut random),
        random,
    };
    under_traffic(stage, &traffic, || actors.perform()).inspect_err(|_| {
        for crash in stage.cluster.crashes(0).unwrap_or_default() {
            screen.say(&crash);
        }
    })?;
    drop(actors);
    report::felt(screen, &traffic);
    report::examine(screen, stage, traffic)
}

/// Runs `acts` while both backends serve and the router listens; all of them have ended when it returns.
fn under_traffic(stage: &Stage, traffic: &Traffic, acts: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut listener = stage.login("edge_router", "router (listening)")?;
    listener.exec("LISTEN holdfast")?;
    let mut workers = Vec::new();
    for backend in Backend::ALL {
        let application_name = format!("{}-api", backend.name());
        for _ in 0..CONNECTIONS {
            workers.push(Worker::new(stage.login(backend.role(), &application_name)?, backend)?);
        }
    }
    let deaf = AtomicBool::new(false);
    scope(|scope| {
        let follower = scope.spawn(|| {
            let followed = traffic.router.follow(&mut listener, &deaf);
            if followed.is_err() {
                traffic.abort();
            }
            followed
        });
        let serving: Vec<_> = (SEED..).zip(workers).map(|(seed, worker)| serve(scope, traffic, worker, seed)).collect();
        let played = acts();
        match &played {
            Ok(()) => traffic.close(),
            Err(_) => traffic.abort(),
        }
        let served: Vec<Result<()>> = serving.into_iter().map(join).collect();
        deaf.store(true, Ordering::Relaxed);
        // A worker's error explains that of the acts, which only see the traffic stop.
        served.into_iter().chain([join(follower), played]).collect()
    })
}

fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    traffic: &'scope Traffic,
    mut worker: Worker,
    seed: u64,
) -> ScopedJoinHandle<'scope, Result<()>> {
    scope.spawn(move || traffic.serve(&mut worker, seed))
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("a client thread panicked")))
}
