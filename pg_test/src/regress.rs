//! The server's own runners: pg_regress for SQL files, pg_isolation_regress for isolation specs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::cluster::Cluster;
use crate::copy::copy_tree;
use crate::launcher::run as run_command;
use crate::setup::workspace;

/// Set to 1 to take the results of failing files over as the expected ones.
const ACCEPT: &str = "HOLDFAST_ACCEPT";

/// Which of the two runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `pg_test/regress/sql/*.sql`
    Regress,
    /// `pg_test/isolation/specs/*.spec`
    Isolation,
}

impl Driver {
    /// The name of its section in the report and of its folder.
    pub fn section(self) -> &'static str {
        match self {
            Driver::Regress => "regress",
            Driver::Isolation => "isolation",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Driver::Regress => "regress/pg_regress",
            Driver::Isolation => "isolation/pg_isolation_regress",
        }
    }

    fn inputs(self) -> (&'static str, &'static str) {
        match self {
            Driver::Regress => ("sql", "sql"),
            Driver::Isolation => ("specs", "spec"),
        }
    }

    fn folder(self) -> PathBuf {
        workspace().join("pg_test").join(self.section())
    }

    /// The names of its tests, sorted.
    pub fn tests(self) -> Result<Vec<String>> {
        let (folder, extension) = self.inputs();
        let folder = self.folder().join(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                names.extend(stem);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Runs one file in a database of its own on `cluster`.
pub fn run(driver: Driver, cluster: &Cluster, name: &str) -> Result<()> {
    let postgres = cluster.postgres();
    // The runners write below the folders they read from; the working tree stays clean.
    let folder = postgres.folder(&format!("{}_{name}", driver.section()))?;
    copy_tree(&driver.folder(), &folder.join("in"))?;
    fs::create_dir_all(folder.join("out"))?;
    postgres.account().own_all(&folder)?;

    let database = format!("{}_{name}", driver.section());
    let mut command = postgres.server_command(postgres.regression_driver(driver.program()));
    command.current_dir(&folder).env("PGUSER", "postgres");
    command.arg("--inputdir=in").arg("--outputdir=out").arg(format!("--dbname={database}"));
    command.arg(format!("--bindir={}", postgres.bin("").display()));
    command.arg(format!("--host={}", cluster.socket_dir().display()));
    command.arg(format!("--port={}", cluster.port())).args(["--user=postgres", name]);
    let finished = run_command(command)?;

    // A database that stays would be one more for the extension's worker to look after.
    let drop = format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)");
    cluster.endpoint().observe("postgres")?.batch_execute(&drop)?;
    if finished.status.success() {
        return Ok(());
    }
    let result = folder.join("out/results").join(name).with_extension("out");
    if std::env::var_os(ACCEPT).is_some_and(|value| value == "1") && result.is_file() {
        return accept(driver, name, &result);
    }
    let differences = fs::read_to_string(folder.join("out/regression.diffs")).unwrap_or_default();
    // Without an expected file, or when the runner itself fails, there are none.
    let differences = if differences.is_empty() { finished.output } else { differences };
    Err(anyhow!("{}\n(with {ACCEPT}=1 this becomes the expected result)", differences.trim_end()))
}

fn accept(driver: Driver, name: &str, result: &Path) -> Result<()> {
    let expected = driver.folder().join("expected").join(name).with_extension("out");
    fs::copy(result, &expected).with_context(|| format!("writing {}", expected.display()))?;
    println!("accepted the result of {name} as {}", expected.display());
    Ok(())
}
