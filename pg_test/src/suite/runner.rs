//! Runs everything that verifies holdfast and counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{Needs, Test, registry};
use crate::cluster::{Cluster, ClusterOptions};
use crate::lifecycle::hold_if_interrupted;
use crate::policy;
use crate::regress::{self, Driver};
use crate::setup::{Postgres, Program, provide_programs};
use crate::small_disk::SmallDisk;
use crate::ui::Ui;

/// As many as the smallest machine has cores; tests mostly wait for the server.
const THREADS: usize = 2;
/// A test that takes longer hangs.
const TEST_DEADLINE: Duration = Duration::from_secs(300);

/// Which tests to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
}

impl Selection {
    fn arguments(&self, list: bool) -> Arguments {
        Arguments { filter: self.filter.clone(), list, test_threads: Some(THREADS), ..Arguments::default() }
    }
}

/// Passed, failed and skipped tests of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Did what they promise.
    pub passed: usize,
    /// Didn't.
    pub failed: usize,
    /// Couldn't run here, for a reason that was printed.
    pub skipped: usize,
}

impl Counts {
    /// Adds another section's.
    pub fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Counts by section, shared by the test threads.
type Tally = Arc<Mutex<BTreeMap<&'static str, Counts>>>;

/// Prints the names of the selected tests.
pub fn list(selection: &Selection) -> Result<()> {
    let trials = trials(&Tally::default(), &Bench::empty())?;
    // When listing there is nothing to conclude.
    let _ = libtest_mimic::run(&selection.arguments(true), trials);
    Ok(())
}

/// Runs the selected tests on one installation; returns the sum over all kinds.
pub fn verify(postgres: &Postgres, selection: &Selection, ui: &Ui) -> Result<Counts> {
    let tally = Tally::default();
    let policy = policy::run(postgres, selection.filter.as_deref(), ui)?;
    lock(&tally).insert("policy", policy);
    let model = policy::run_model(postgres, selection.filter.as_deref(), ui)?;
    lock(&tally).insert("model", model);

    provide_programs(&programs(selection), ui);
    let bench = Bench::on(postgres);
    // Its conclusion lacks the sections; ours come from the tally.
    let _ = libtest_mimic::run(&selection.arguments(false), trials(&tally, &bench)?);
    if let Err(error) = bench.finish() {
        println!("the shared cluster: {}\n", told(&error));
        lock(&tally).entry("server").or_default().failed += 1;
    }

    let mut sum = Counts::default();
    for (section, counts) in lock(&tally).iter() {
        let skipped = match counts.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        println!("{section}: {} passed, {} failed{skipped}", counts.passed, counts.failed);
        sum.add(*counts);
    }
    Ok(sum)
}

/// What the selected tests need beside the server.
fn programs(selection: &Selection) -> BTreeSet<Program> {
    let selected = |file: &str, test: &Test| {
        selection.filter.as_ref().is_none_or(|filter| format!("{file}::{}", test.name).contains(filter))
    };
    let of_file = |(file, tests): (&'static str, Vec<Test>)| {
        tests.into_iter().filter_map(move |test| test.program.filter(|_| selected(file, &test)))
    };
    registry().into_iter().flat_map(of_file).collect()
}

fn trials(tally: &Tally, bench: &Arc<Bench>) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for (file, tests) in registry() {
        for test in tests {
            let bench = Arc::clone(bench);
            let name = format!("{file}::{}", test.name);
            let work = move || run_test(&bench, &test);
            trials.push(counted(tally, "server", name, work));
        }
    }
    for driver in [Driver::Regress, Driver::Isolation] {
        for name in driver.tests()? {
            let bench = Arc::clone(bench);
            let title = format!("{}::{name}", driver.section());
            let work = move || {
                let cluster = bench.cluster()?;
                regress::run(driver, &cluster, &name).map(|()| Completion::Completed)
            };
            trials.push(counted(tally, driver.section(), title, work));
        }
    }
    Ok(trials)
}

fn counted(
    tally: &Tally,
    section: &'static str,
    name: String,
    work: impl FnOnce() -> Result<Completion> + Send + 'static,
) -> Trial {
    let tally = Arc::clone(tally);
    Trial::ignorable_test(name, move || {
        let outcome = with_deadline(work);
        hold_if_interrupted();
        let mut tally = lock(&tally);
        let counts = tally.entry(section).or_default();
        match &outcome {
            Ok(Completion::Completed) => counts.passed += 1,
            Ok(Completion::Ignored { .. }) => counts.skipped += 1,
            Err(_) => counts.failed += 1,
        }
        outcome.map_err(|error| Failed::from(told(&error)))
    })
}

/// Runs a test on a thread of its own: one that hangs fails, and the suite goes on.
fn with_deadline(work: impl FnOnce() -> Result<Completion> + Send + 'static) -> Result<Completion> {
    let (sender, outcome) = channel();
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(anyhow!("panicked: {}", text.unwrap_or_default()))
        });
        let _ = sender.send(result);
    });
    outcome.recv_timeout(TEST_DEADLINE).unwrap_or_else(|_| Err(anyhow!("hangs: no result within {TEST_DEADLINE:?}")))
}

fn run_test(bench: &Bench, test: &Test) -> Result<Completion> {
    let postgres = bench.postgres()?;
    if let Some(module) = test.modules.iter().find(|module| !postgres.has_module(module)) {
        return Ok(Completion::ignored_with(format!("the module {module} isn't installed")));
    }
    if let Some(program) = test.program.filter(|program| !program.is_here()) {
        return Ok(Completion::ignored_with(format!("{program} can't be had here")));
    }
    if test.icu && !postgres.has_icu()? {
        return Ok(Completion::ignored_with("the server was built without ICU"));
    }
    match &test.needs {
        Needs::Shared(run) => {
            let cluster = bench.cluster()?;
            let mark = cluster.log_mark();
            with_log(run(&cluster), &cluster, mark)?;
        }
        Needs::Own(options, _) if options.has_small_disk() && !SmallDisk::possible() => {
            return Ok(Completion::ignored_with("a small file system can't be mounted; that takes root"));
        }
        Needs::Own(options, run) => {
            let mut cluster = Cluster::start(postgres, options.clone())?;
            let result = run(&mut cluster).and_then(|()| match test.crashes {
                true => Ok(()),
                false => no_crashes(&cluster),
            });
            with_log(result, &cluster, 0)?;
        }
    }
    Ok(Completion::Completed)
}

fn with_log(result: Result<()>, cluster: &Cluster, mark: u64) -> Result<()> {
    result.map_err(|error| anyhow!("{}\n\nserver log:\n{}", told(&error), cluster.log_tail(mark)))
}

/// The error and its causes. Debug form would add a backtrace through the runner where the
/// environment asks for backtraces.
fn told(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\n  because: ")
}

fn no_crashes(cluster: &Cluster) -> Result<()> {
    match cluster.crashes(0)?.as_slice() {
        [] => Ok(()),
        crashes => bail!("the server crashed:\n{}", crashes.join("\n")),
    }
}

/// What the tests of one run share: the installation and a cluster that the first to need it starts.
struct Bench {
    postgres: Option<Postgres>,
    cluster: Mutex<Option<Arc<Cluster>>>,
    failure: OnceLock<String>,
}

impl Bench {
    fn on(postgres: &Postgres) -> Arc<Bench> {
        let postgres = Some(postgres.clone());
        Arc::new(Bench { postgres, cluster: Mutex::new(None), failure: OnceLock::new() })
    }

    /// For listing tests without running them.
    fn empty() -> Arc<Bench> {
        Arc::new(Bench { postgres: None, cluster: Mutex::new(None), failure: OnceLock::new() })
    }

    fn postgres(&self) -> Result<&Postgres> {
        self.postgres.as_ref().context("no installation")
    }

    fn cluster(&self) -> Result<Arc<Cluster>> {
        let mut cluster = lock(&self.cluster);
        if let Some(cluster) = cluster.as_ref() {
            return Ok(Arc::clone(cluster));
        }
        // What fails once isn't tried by every test anew: a start that hangs takes its time.
        if let Some(failure) = self.failure.get() {
            bail!("the shared cluster didn't start, see the first failed test: {failure}");
        }
        match Cluster::start(self.postgres()?, ClusterOptions::new()) {
            Ok(started) => Ok(Arc::clone(cluster.insert(Arc::new(started)))),
            Err(error) => {
                let _ = self.failure.set(format!("{error:#}").lines().take(1).collect());
                Err(error.context("starting the shared cluster"))
            }
        }
    }

    /// Stops the shared cluster, if there was one; an error if anything crashed meanwhile.
    fn finish(&self) -> Result<()> {
        match lock(&self.cluster).take() {
            Some(cluster) => no_crashes(&cluster),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
