//! A server with assertions, built from source: what a release build lets pass in silence ends it there. The extension is built
//! with its own assertions for such a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::build::target_folder;
use super::locate::{PREFERENCE, Server};
use super::source::provide_source;
use crate::launcher::{clean_environment, run, run_noting};
use crate::ui::{Step, Ui};

/// Finds the server with assertions that was built before, or builds it: ten minutes or more.
pub fn provide_with_assertions(major: Option<u16>, ui: &Ui) -> Result<Server> {
    let major = major.unwrap_or(PREFERENCE[0]);
    let prefix = target_folder().join("assertions").join(format!("pg{major}"));
    let pg_config = prefix.join("bin/pg_config");
    if !pg_config.is_file() {
        let source = provide_source(major, ui)?;
        ui.step(&format!("Building PostgreSQL {major} with assertions (once, ten minutes)"), |step| {
            build(&source, &prefix, step)
        })?;
    }
    Server::ask(&pg_config)
}

fn build(source: &Path, prefix: &Path, step: &Step) -> Result<()> {
    let below = |program: &str| -> Command {
        let mut command = Command::new(program);
        clean_environment(&mut command);
        command.current_dir(source);
        command
    };
    let mut configure = below("./configure");
    configure.arg(format!("--prefix={}", prefix.display())).args(["--enable-cassert", "--enable-debug"]);
    // Nobody types into it, and its dumps needn't be small.
    configure.args(["--without-readline", "--without-zlib"]);
    if Path::new("/usr/include/openssl/ssl.h").is_file() {
        configure.arg("--with-openssl");
    }
    if has_icu() {
        configure.arg("--with-icu");
    }
    run_noting(configure, step)?.succeeded("configuring PostgreSQL")?;
    // pg_config is what later runs look for, so it comes with the last step.
    let steps: [&[&str]; 4] =
        [&["-s"], &["-s", "-C", "contrib"], &["-s", "-C", "contrib", "install"], &["-s", "install"]];
    for arguments in steps {
        let mut make = below("make");
        make.args(arguments).arg(format!("-j{}", std::thread::available_parallelism().map_or(1, usize::from)));
        run_noting(make, step)?.succeeded("building PostgreSQL")?;
    }
    Ok(())
}

fn has_icu() -> bool {
    let mut ask = Command::new("pkg-config");
    ask.args(["--exists", "icu-uc", "icu-i18n"]);
    run(ask).is_ok_and(|finished| finished.status.success())
}

/// Whether a server was built with assertions.
///
/// # Errors
/// Its pg_config doesn't answer.
pub fn has_assertions(server: &Server) -> Result<bool> {
    let mut ask = Command::new(&server.pg_config);
    ask.arg("--configure");
    Ok(run(ask)?.succeeded("pg_config --configure").context("asking for assertions")?.contains("--enable-cassert"))
}

/// Where the extension is built for such a server: its headers differ, and what is compiled for the one would be compiled anew
/// for the other each time.
pub fn build_folder() -> PathBuf {
    target_folder().join("assertions")
}
