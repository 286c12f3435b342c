//! cargo-pgrx, which must have exactly the version of the pgrx that the extension depends on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::build::{cargo, target_folder};
use super::locate::on_path;
use crate::launcher::{clean_environment, run_noting};
use crate::ui::Ui;

/// The pinned version; Cargo.toml pins the same pgrx.
const VERSION: &str = "0.17.0";

/// The path of a cargo-pgrx of the pinned version: from PATH, from a previous run, or newly built.
pub fn provide_cargo_pgrx(ui: &Ui) -> Result<PathBuf> {
    if let Some(path) = find_cargo_pgrx() {
        return Ok(path);
    }
    let root = target_folder().join("tools");
    ui.step(&format!("Building cargo-pgrx {VERSION} (once, a few minutes)"), |step| {
        let mut install = cargo();
        clean_environment(&mut install);
        install.args(["install", "cargo-pgrx", "--locked", "--version"]);
        install.arg(format!("={VERSION}")).arg("--root").arg(&root);
        run_noting(install, step)?.succeeded("cargo install cargo-pgrx")
    })?;
    match find_cargo_pgrx() {
        Some(path) => Ok(path),
        None => bail!("cargo-pgrx was installed in {} but doesn't run", root.display()),
    }
}

/// A cargo-pgrx of the pinned version that is there already.
pub fn find_cargo_pgrx() -> Option<PathBuf> {
    let own = target_folder().join("tools/bin/cargo-pgrx");
    [on_path("cargo-pgrx"), Some(own)].into_iter().flatten().find(|path| has_version(path))
}

fn has_version(cargo_pgrx: &Path) -> bool {
    let output = Command::new(cargo_pgrx).args(["pgrx", "--version"]).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).split_whitespace().last() == Some(VERSION))
}
