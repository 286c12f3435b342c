//! The command line: `cargo demo`, `cargo verify`, `cargo pg-bench`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use pg_test::bench::{self, BenchOptions};
use pg_test::demo::{self, DemoOptions};
use pg_test::fuzz::FuzzOptions;
use pg_test::setup::Postgres;
use pg_test::suite::{self, Counts, Selection};
use pg_test::ui::Ui;
use pg_test::{core_regression, fuzz, lifecycle, setup};

/// Holdfast's demo, tests and benchmarks, on throwaway PostgreSQL clusters.
#[derive(Parser)]
#[command(bin_name = "cargo")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Shows holdfast at work on real traffic
    Demo {
        /// PostgreSQL's major version; without it, one that is here or can be installed
        #[arg(long)]
        pg: Option<u16>,
        /// Leave the cluster up and print the psql line
        #[arg(long)]
        keep: bool,
        /// Tenants of the demo's platform
        #[arg(long, default_value_t = 5000)]
        tenants: u32,
    },
    /// Measures what holdfast costs, beside what one would do instead
    #[command(name = "bench")]
    Bench {
        /// PostgreSQL's major version; without it, one that is here or can be installed
        #[arg(long)]
        pg: Option<u16>,
        #[command(flatten)]
        options: BenchOptions,
    },
    /// Runs every test
    Verify {
        /// PostgreSQL's major version, or "all"; without it, one that is here or can be installed
        #[arg(long)]
        pg: Option<Majors>,
        /// Only tests whose name contains this
        #[arg(long)]
        filter: Option<String>,
        /// List the tests instead of running them
        #[arg(long)]
        list: bool,
        /// On a server with assertions, built from Debian's source package the first time
        #[arg(long)]
        cassert: bool,
        /// Run PostgreSQL's own regression suite instead, without holdfast and with it, and report what differs
        #[arg(long, conflicts_with_all = ["filter", "list"])]
        core_regression: bool,
        /// Fuzz instead, for so many minutes
        #[arg(long, num_args = 0..=1, default_missing_value = "10", value_name = "MINUTES",
            conflicts_with_all = ["filter", "list", "core_regression"])]
        fuzz: Option<u64>,
        /// Flood instead, with so many seconds of refusals, and print the figures
        #[arg(long, num_args = 0..=1, default_missing_value = "60", value_name = "SECONDS",
            conflicts_with_all = ["filter", "list", "core_regression", "fuzz"])]
        flood: Option<u64>,
        /// Measure memory instead: of a session that writes a million tenants, after ten thousand sessions, after a million refusals
        #[arg(long, conflicts_with_all = ["filter", "list", "core_regression", "fuzz", "flood"])]
        memory: bool,
        /// Put clients of both backends behind PgBouncer instead, for so many seconds in each set-up, and print the figures
        #[arg(long, num_args = 0..=1, default_missing_value = "60", value_name = "SECONDS",
            conflicts_with_all = ["filter", "list", "core_regression", "fuzz", "flood", "memory"])]
        poolers: Option<u64>,
        /// The fuzzer's first seed
        #[arg(long, requires = "fuzz")]
        seed: Option<u64>,
    },
}

/// Which major versions to verify on.
#[derive(Clone, Copy, Debug)]
enum Majors {
    All,
    One(u16),
}

impl std::str::FromStr for Majors {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Majors, Self::Err> {
        match text {
            "all" => Ok(Majors::All),
            number => number.parse().map(Majors::One),
        }
    }
}

/// The command line without the `--` of `cargo demo -- --keep`: the alias ends with the subcommand, so cargo hands it on.
fn arguments() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::args_os().enumerate().filter(|(n, argument)| *n != 2 || argument != "--").map(|(_, argument)| argument)
}

fn main() -> ExitCode {
    let outcome = lifecycle::handle_interrupts().and_then(|()| run(Cli::parse_from(arguments()).command));
    lifecycle::hold_if_interrupted();
    // Threads of tests that hang may still hold clusters.
    lifecycle::end_everything();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let ui = Ui::default();
    match task {
        Task::Demo { pg, keep, tenants } => {
            let postgres = setup::prepare(pg, &ui)?;
            demo::run(&postgres, DemoOptions { keep, tenants }, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench { pg, options } => {
            bench::run(&setup::prepare(pg, &ui)?, &options, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { list: true, filter, .. } => {
            suite::list(&Selection { filter })?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { pg, core_regression: true, cassert, .. } => {
            let postgres = match cassert {
                true => prepare(only(pg)?, true, &ui)?,
                false => setup::install(&core_regression::provide_server(only(pg)?, &ui)?, &ui)?,
            };
            let differences = core_regression::run_suite(&postgres, &ui)?;
            println!("{}", if differences.is_empty() { "nothing differs" } else { &differences });
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Verify { pg, fuzz: Some(minutes), seed, cassert, .. } => {
            let postgres = prepare(only(pg)?, cassert, &ui)?;
            fuzz::run(&postgres, FuzzOptions { minutes, seed }, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { pg, flood: Some(seconds), cassert, .. } => {
            suite::flood::benchmark(&prepare(only(pg)?, cassert, &ui)?, seconds, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { pg, memory: true, cassert, .. } => {
            suite::memory::benchmark(&prepare(only(pg)?, cassert, &ui)?, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { pg, poolers: Some(seconds), cassert, .. } => {
            suite::poolers::benchmark(&prepare(only(pg)?, cassert, &ui)?, seconds, &ui)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify { pg, filter, cassert: true, .. } => {
            let counts = suite::verify(&prepare(only(pg)?, true, &ui)?, &Selection { filter }, &ui)?;
            Ok(told(counts))
        }
        Task::Verify { pg, filter, .. } => verify(pg, &Selection { filter }, &ui),
    }
}

/// A private installation, of a server with assertions where that is asked for.
fn prepare(major: Option<u16>, cassert: bool, ui: &Ui) -> Result<Postgres> {
    match cassert {
        true => setup::install(&setup::provide_with_assertions(major, ui)?, ui),
        false => setup::prepare(major, ui),
    }
}

/// The one major version that a long run is for.
fn only(majors: Option<Majors>) -> Result<Option<u16>> {
    match majors {
        None => Ok(None),
        Some(Majors::One(major)) => Ok(Some(major)),
        Some(Majors::All) => bail!("one major version at a time"),
    }
}

fn verify(majors: Option<Majors>, selection: &Selection, ui: &Ui) -> Result<ExitCode> {
    let mut sum = Counts::default();
    match majors {
        None => sum = suite::verify(&setup::prepare(None, ui)?, selection, ui)?,
        Some(Majors::One(major)) => {
            sum = suite::verify(&setup::prepare(Some(major), ui)?, selection, ui)?;
        }
        Some(Majors::All) => {
            let mut lines = Vec::new();
            for major in setup::PREFERENCE {
                let (counts, line) = verify_if_to_be_had(major, selection, ui);
                println!("\nPostgreSQL {major}: {line}\n");
                lines.push(format!("PostgreSQL {major}: {line}"));
                sum.add(counts);
            }
            println!("{}", lines.join("\n"));
        }
    }
    Ok(told(sum))
}

fn told(sum: Counts) -> ExitCode {
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 && sum.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Verifies on one of all majors: the counts, and a line that says what came of it. A major that the
/// machine can't have is no failure; one that it has and that can't be built is.
fn verify_if_to_be_had(major: u16, selection: &Selection, ui: &Ui) -> (Counts, String) {
    let server = match setup::provide(Some(major), ui) {
        Ok(server) => server,
        Err(error) => return (Counts::default(), format!("not verified, can't be had here: {error:#}")),
    };
    let verified = setup::install(&server, ui).and_then(|postgres| suite::verify(&postgres, selection, ui));
    match verified {
        Ok(counts) => {
            let Counts { passed, failed, skipped } = counts;
            (counts, format!("{passed} passed, {failed} failed, {skipped} skipped"))
        }
        Err(error) => (Counts { failed: 1, ..Counts::default() }, format!("failed: {error:#}")),
    }
}
