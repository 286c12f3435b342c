//! PostgreSQL's own regression suite, without holdfast and with it: nothing may differ.
//!
//! The suite is that of the server's own version: where the source of the packaged server can't be had, the server is built from
//! the source that can. Its expected results are those of a server in its build folder, so a test or two may fail elsewhere. Hence
//! the same suite runs on three clusters, and what counts is what the first doesn't show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, ClusterOptions};
use crate::copy::copy_tree;
use crate::launcher::{run, run_noting};
use crate::setup::{self, Postgres, Server};
use crate::ui::Ui;

/// Modules of contrib/spi that a test loads from the suite's own folder.
const COMPANIONS: [&str; 2] = ["refint.so", "autoinc.so"];

/// A cluster that the suite runs on.
struct Round {
    name: &'static str,
    preload: &'static str,
    /// Run in template1, from which the suite's database is made.
    template: &'static str,
}

const ROUNDS: [Round; 3] = [
    Round { name: "without holdfast", preload: "", template: "" },
    Round { name: "with the extension", preload: "holdfast", template: "CREATE EXTENSION holdfast" },
    Round {
        name: "while a migration is enforced",
        preload: "holdfast",
        template: "CREATE EXTENSION holdfast;
            SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
            SELECT holdfast.set_mode('enforce')",
    },
];

/// What differs by nature, with the reason: the test, and what its differing lines may be.
const BY_NATURE: (&str, &str) = (
    "type_sanity",
    "lists relations of kinds that a fresh database has none of: the partitioned table of events and its indexes",
);

/// What a test of the suite said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    passed: bool,
    output: String,
}

/// The tests of one round by name.
type Outcomes = BTreeMap<String, Outcome>;

/// The server whose own suite can be had: the packaged one, or one with assertions that is built from what source there is.
pub fn provide_server(major: Option<u16>, ui: &Ui) -> Result<Server> {
    let server = setup::provide(major, ui)?;
    let source = setup::provide_source(server.major, ui)?;
    if server.is_of(&source) {
        return Ok(server);
    }
    ui.say(&format!("{} isn't of the source at hand, {}; one is built that is", server.version, source.display()));
    setup::provide_with_assertions(Some(server.major), ui)
}

/// Runs the suite; returns what differs with holdfast, empty if nothing does.
pub fn run_suite(postgres: &Postgres, ui: &Ui) -> Result<String> {
    let suite = Suite::prepare(postgres, ui)?;
    println!("{}", suite.versions);
    let mut rounds = Vec::new();
    for round in &ROUNDS {
        let outcomes = ui.step(&format!("Running PostgreSQL's regression suite {}", round.name), |step| {
            suite.run(postgres, round, |command| Ok(run_noting(command, step)?.output))
        })?;
        let failed: Vec<&str> =
            outcomes.iter().filter(|(_, outcome)| !outcome.passed).map(|(name, _)| name.as_str()).collect();
        println!("{}: {} tests, {} not as expected: {}", round.name, outcomes.len(), failed.len(), failed.join(" "));
        rounds.push((round.name, outcomes));
    }
    let Some(((_, without), with)) = rounds.split_first() else { return Ok(String::new()) };
    let mut report = String::new();
    for (name, outcomes) in with {
        for (test, outcome) in outcomes {
            let known = without.get(test);
            if test == BY_NATURE.0 && lists_only(&suite.partitioned, &outcome.output) {
                println!("{name}: {test} {}", BY_NATURE.1);
                continue;
            }
            // What passes needn't be alike to the letter: some tests have several expected results.
            if !outcome.passed && known.is_none_or(|known| known.passed || known.output != outcome.output) {
                let _ = writeln!(report, "{name}: {test} differs:\n{}", outcome.output);
            }
        }
        ensure!(outcomes.len() == without.len(), "{name}: {} tests instead of {}", outcomes.len(), without.len());
    }
    Ok(report)
}

/// The suite's files and its module, built for the installed server.
struct Suite {
    inputs: PathBuf,
    modules: PathBuf,
    /// Of source and server.
    versions: String,
    /// The extension's partitioned tables and indexes.
    partitioned: BTreeSet<String>,
}

impl Suite {
    fn prepare(postgres: &Postgres, ui: &Ui) -> Result<Suite> {
        let source = setup::provide_source(postgres.major, ui)?;
        let folder = postgres.folder("core_regression")?;
        let (inputs, modules) = (folder.join("in"), folder.join("lib"));
        // Where the server's account can read it.
        copy_tree(&source.join("src/test/regress"), &inputs)?;
        fs::create_dir_all(&modules)?;
        ui.step("Building the suite's module", |_| build_module(postgres, &inputs, &modules))?;
        for companion in COMPANIONS {
            let installed = postgres.module_dir().join(companion);
            fs::copy(&installed, modules.join(companion))
                .with_context(|| format!("{}: the suite needs contrib's modules", installed.display()))?;
        }
        postgres.account().own_all(&folder)?;
        let mut ask = postgres.server_command("postgres");
        ask.arg("--version");
        let server = run(ask)?.succeeded("postgres --version")?;
        let versions = format!(
            "the suite is that of {}, the server is {}",
            source.file_name().unwrap_or_default().to_string_lossy(),
            server.trim()
        );
        Ok(Suite { inputs, modules, versions, partitioned: partitioned(postgres)? })
    }

    fn run(&self, postgres: &Postgres, round: &Round, run: impl FnOnce(Command) -> Result<String>) -> Result<Outcomes> {
        let cluster = Cluster::start(postgres, ClusterOptions::new().preload(round.preload))?;
        cluster.endpoint().observe("template1")?.batch_execute(round.template)?;
        let mut server = cluster.endpoint().observe("postgres")?;
        server.batch_execute("CREATE DATABASE regression TEMPLATE template1")?;
        // As the runner does it for a database that it makes itself, from template0.
        for setting in ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"] {
            server.batch_execute(&format!("ALTER DATABASE regression SET {setting} TO 'C'"))?;
        }
        server.batch_execute(
            "ALTER DATABASE regression SET bytea_output TO 'hex'; ALTER DATABASE regression SET timezone_abbreviations TO 'Default'",
        )?;
        let output = postgres.folder(&format!("core_{}", round.name.replace(' ', "_")))?;
        let mut command = postgres.server_command(postgres.regression_driver("regress/pg_regress"));
        command.current_dir(&output).env("PGUSER", "postgres");
        command.args(["--use-existing", "--dbname=regression", "--max-connections=20", "--user=postgres"]);
        command.arg(format!("--inputdir={}", self.inputs.display())).arg("--outputdir=.");
        command.arg(format!("--schedule={}", self.inputs.join("parallel_schedule").display()));
        command.arg(format!("--dlpath={}", self.modules.display()));
        command.arg(format!("--bindir={}", postgres.bin("").display()));
        command.arg(format!("--host={}", cluster.socket_dir().display())).arg(format!("--port={}", cluster.port()));
        let said = run(command)?;
        let crashes = cluster.crashes(0)?;
        ensure!(crashes.is_empty(), "{}: the server crashed:\n{}", round.name, crashes.join("\n"));
        outcomes(&said, &output.join("regression.diffs"))
    }
}

fn partitioned(postgres: &Postgres) -> Result<BTreeSet<String>> {
    let cluster = Cluster::start(postgres, ClusterOptions::new())?;
    let database = cluster.guarded_database("partitioned")?;
    let names = database.connect()?.rows(
        "SELECT relname FROM pg_catalog.pg_class WHERE relkind IN ('p', 'I') AND relnamespace = 'holdfast'::regnamespace",
    )?;
    Ok(names.into_iter().flatten().flatten().collect())
}

/// Whether all that differs is a list of these relations where there was an empty one.
fn lists_only(relations: &BTreeSet<String>, differences: &str) -> bool {
    let heading = |line: &str| line.trim().is_empty() || line.contains("relname") || line.contains("--+--");
    let count = |line: &str| line.starts_with('(') && (line.ends_with("rows)") || line.ends_with("row)"));
    let listed = |line: &str| line.split_once('|').is_some_and(|(_, name)| relations.contains(name.trim()));
    let mut changed = differences.lines().filter_map(|line| line.strip_prefix(['+', '-'])).peekable();
    changed.peek().is_some() && changed.all(|line| heading(line) || count(line) || listed(line))
}

/// With the compiler and headers that extensions are built with.
fn build_module(postgres: &Postgres, inputs: &Path, modules: &Path) -> Result<()> {
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-O1", "-w", "-D_GNU_SOURCE"])
        .arg("-I")
        .arg(postgres.headers())
        .arg("-I")
        .arg(inputs);
    compile.arg(inputs.join("regress.c")).arg("-o").arg(modules.join("regress.so"));
    run(compile)?.succeeded("compiling regress.c").map(drop)
}

/// What the runner printed of each test, and the differences from what is expected.
fn outcomes(said: &str, differences: &Path) -> Result<Outcomes> {
    let differences = fs::read_to_string(differences).unwrap_or_default();
    let mut outcomes = Outcomes::new();
    for line in said.lines() {
        let Some((name, passed)) = result_line(line) else { continue };
        let output = if passed { String::new() } else { differences_of(&differences, name) };
        outcomes.insert(name.to_owned(), Outcome { passed, output });
    }
    if outcomes.len() < 100 {
        bail!("pg_regress ran {} tests only:\n{}", outcomes.len(), said.trim_end());
    }
    Ok(outcomes)
}

/// `test boolean ... ok`, `     boolean   ... FAILED`, and since version 16 `ok 1 + boolean  12 ms`, `not ok 2 - char`.
fn result_line(line: &str) -> Option<(&str, bool)> {
    if let Some((name, result)) = line.split_once(" ... ") {
        let name = name.trim().trim_start_matches("test ").trim();
        let passed = match result.split_whitespace().next()? {
            "ok" => true,
            "FAILED" => false,
            "failed" => true, // "failed (ignored)"
            _ => return None,
        };
        return Some((name, passed));
    }
    let (rest, passed) = match line.strip_prefix("not ok ") {
        Some(rest) => (rest, false),
        None => (line.strip_prefix("ok ")?, true),
    };
    Some((rest.split_whitespace().nth(2)?, passed))
}

/// The part of regression.diffs that is about one test, without the paths and times of its headers.
fn differences_of(differences: &str, test: &str) -> String {
    let mut parts = differences.split("diff -U3 ").skip(1);
    let result = format!("/results/{test}.out");
    let part = parts.find(|part| part.lines().next().is_some_and(|line| line.contains(&result)));
    part.unwrap_or_default()
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with("--- ") && !line.starts_with("+++ "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{lists_only, result_line};

    #[test]
    fn a_list_of_what_is_there_by_nature_is_told_from_other_differences() {
        let event = BTreeSet::from(["event".to_owned()]);
        let listed = " WHERE x\n- oid | relname \n------+---------\n-(0 rows)\n+  oid  | relname \n++---+---\n+ 16491 | event\n+(1 row)\n";
        assert!(lists_only(&event, listed));
        assert!(!lists_only(&event, &listed.replace("event", "other")));
        assert!(!lists_only(&event, ""));
    }

    #[test]
    fn results_are_read_in_every_version_s_words() {
        assert_eq!(result_line("test tablespace                   ... ok          209 ms"), Some(("tablespace", true)));
        assert_eq!(result_line("     boolean                      ... FAILED       40 ms"), Some(("boolean", false)));
        assert_eq!(result_line("not ok 2     + char                    3 ms"), Some(("char", false)));
        assert_eq!(result_line("ok 1         - test_setup            200 ms"), Some(("test_setup", true)));
        assert_eq!(result_line("parallel group (20 tests):  boolean name"), None);
    }
}
