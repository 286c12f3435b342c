//! From a fresh clone to a private PostgreSQL with holdfast in it.

mod assertions;
mod build;
mod install;
mod locate;
mod packages;
pub mod poolers;
mod programs;
mod repositories;
mod source;
mod tools;
mod wheel;

use anyhow::Result;

use crate::account::Account;
use crate::lifecycle::RunFolder;
use crate::ui::Ui;

pub use assertions::provide_with_assertions;
pub use build::{BuildEnvironment, target_folder, workspace};
pub use install::Postgres;
pub use locate::{PREFERENCE, Server, on_path};
pub use programs::{Program, provide_programs, python_with_jwt};
pub use source::provide_source;

/// Finds or installs what is missing, builds the extension and makes a private installation.
/// Without `major`, the first of [`PREFERENCE`] that can be had.
pub fn prepare(major: Option<u16>, ui: &Ui) -> Result<Postgres> {
    install(&provide(major, ui)?, ui)
}

/// Finds or installs what is missing. Without `major`, the first of [`PREFERENCE`] that can be had.
pub fn provide(major: Option<u16>, ui: &Ui) -> Result<Server> {
    packages::provide(major, ui)
}

/// Builds the extension for `server` and makes a private installation.
pub fn install(server: &Server, ui: &Ui) -> Result<Postgres> {
    let account = Account::choose()?;
    ui.say(&format!("{} ({})", server.version, server.bindir.display()));
    let cargo_pgrx = tools::provide_cargo_pgrx(ui)?;
    let environment = BuildEnvironment::prepare(server)?;
    let package = build::package(server, &environment, &cargo_pgrx, ui)?;
    let folder = RunFolder::create()?;
    ui.step("Making a private installation", |_| Postgres::install(server, environment, &package, folder, account))
}
