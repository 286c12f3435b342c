//! Programs that some tests run beside the server. Where one can't be had its tests are skipped, and that is told.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::build::target_folder;
use super::locate::on_path;
use super::packages::install_optional;
use super::poolers::{self, Release};
use super::wheel::pip;
use crate::launcher::{clean_environment, run, run_noting};
use crate::ui::Ui;

/// What is asked of pip: the library, and what it signs with.
const JWT: [&str; 2] = ["PyJWT==2.10.1", "cryptography==44.0.0"];

/// A program, or something else to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// On PATH: its name, and that of Debian's package.
    Debian(&'static str, &'static str),
    /// Python with the library PyJWT.
    PythonWithJwt,
    /// PgBouncer, as a release of Debian has it.
    PgBouncer(Release),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Debian(name, _) => f.write_str(name),
            Program::PythonWithJwt => f.write_str("python3 with PyJWT"),
            Program::PgBouncer(release) => write!(f, "pgbouncer {} of Debian {release}", release.pgbouncer()),
        }
    }
}

impl Program {
    /// Whether it can be run.
    pub fn is_here(self) -> bool {
        match self {
            Program::Debian(name, _) => on_path(name).is_some(),
            Program::PythonWithJwt => {
                let mut ask = python_with_jwt();
                ask.args(["-c", "import jwt, cryptography.hazmat.primitives.asymmetric.ed25519"]);
                run(ask).is_ok_and(|finished| finished.status.success())
            }
            Program::PgBouncer(release) => poolers::find(release).is_some(),
        }
    }

    fn provide(self, ui: &Ui) -> Result<()> {
        match self {
            Program::Debian(_, package) => install_optional(package, ui),
            Program::PythonWithJwt => fetch_jwt(ui),
            Program::PgBouncer(release) => poolers::fetch(release, ui),
        }
    }
}

/// Finds them, or fetches what is missing.
pub fn provide_programs(programs: &BTreeSet<Program>, ui: &Ui) {
    for program in programs {
        if !program.is_here()
            && let Err(error) = program.provide(ui)
        {
            ui.say(&format!("tests with {program} will be skipped: {error:#}"));
        }
    }
}

/// The machine's Python, which finds what was fetched for it after what it has itself.
pub fn python_with_jwt() -> Command {
    let mut python = Command::new("python3");
    clean_environment(&mut python);
    python.env("PYTHONPATH", jwt_folder());
    python
}

fn fetch_jwt(ui: &Ui) -> Result<()> {
    on_path("python3").context("there is no python3")?;
    ui.step(&format!("Fetching {} with pip", JWT.join(" and ")), |step| {
        let mut install = pip();
        install.args(["install", "--disable-pip-version-check", "--only-binary=:all:", "--target"]);
        install.arg(jwt_folder()).args(JWT);
        run_noting(install, step)?.succeeded("pip install").map(drop)
    })
}

fn jwt_folder() -> PathBuf {
    target_folder().join("tools/pyjwt")
}
