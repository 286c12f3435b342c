//! PgBouncer as releases of Debian have it, whichever release this machine runs. Packages are unpacked below cargo's target
//! folder with the libraries they were built for, and run by the dynamic loader of these: nothing is installed, and no service
//! of the machine starts.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use walkdir::WalkDir;

use super::build::target_folder;
use super::locate::on_path;
use super::repositories::Private;
use crate::launcher::{run, run_noting};
use crate::ui::{Step, Ui};

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 12, whose PgBouncer knows of five parameters of clients.
    Bookworm,
    /// 13, whose PgBouncer can be told of others (`track_extra_parameters`, since 1.20).
    Trixie,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        })
    }
}

impl Release {
    /// The version of PgBouncer that it has.
    pub fn pgbouncer(self) -> &'static str {
        match self {
            Release::Bookworm => "1.18",
            Release::Trixie => "1.24",
        }
    }

    /// What PgBouncer's libraries are in. Installing it would bring as much again in services and scripts.
    fn libraries(self) -> &'static [&'static str] {
        match self {
            Release::Bookworm => &[
                "libc6",
                "libevent-2.1-7",
                "libssl3",
                "libc-ares2",
                "libpam0g",
                "libsystemd0",
                "libaudit1",
                "libcap-ng0",
                "libcap2",
                "liblzma5",
                "liblz4-1",
                "libzstd1",
                "libgcrypt20",
                "libgpg-error0",
                "libgcc-s1",
            ],
            Release::Trixie => &[
                "libc6",
                "libevent-2.1-7t64",
                "libssl3t64",
                "libcares2",
                "libpam0g",
                "libsystemd0",
                "libaudit1",
                "libcap-ng0",
                "libcap2",
                "zlib1g",
                "libzstd1",
                "libgcc-s1",
            ],
        }
    }
}

/// The folder that [`program`] runs it from, if it was fetched.
pub fn find(release: Release) -> Option<PathBuf> {
    let folder = folder(release);
    folder.join("pgbouncer").is_file().then_some(folder)
}

/// What runs PgBouncer from such a folder, or from a copy of one: the loader of its own libraries.
pub fn program(folder: &Path) -> Result<PathBuf> {
    let libraries = folder.join("lib");
    let entries = fs::read_dir(&libraries).with_context(|| libraries.display().to_string())?;
    let is_loader =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"));
    entries.flatten().map(|entry| entry.path()).find(is_loader).context("no dynamic loader")
}

/// What the [`program`] is told before PgBouncer's own arguments.
pub fn arguments(folder: &Path) -> [OsString; 3] {
    ["--library-path".into(), folder.join("lib").into(), folder.join("pgbouncer").into()]
}

/// Fetches it, and checks that it runs.
pub fn fetch(release: Release, ui: &Ui) -> Result<()> {
    ensure!(on_path("apt-get").is_some() && on_path("dpkg-deb").is_some(), "it comes from Debian's packages");
    ui.step(&format!("Fetching pgbouncer {} of Debian {release}", release.pgbouncer()), |step| {
        let unfinished = folder(release).with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let apt = Private::of_release(&folder(release).with_extension("apt"), &release.to_string())?;
        let apt = apt.context("it isn't known which release of Debian this machine's repositories are of")?;
        unpack(&apt, release, &unfinished, step)?;
        let mut ask = Command::new(program(&unfinished)?);
        ask.args(arguments(&unfinished)).arg("--version");
        run(ask)?.succeeded("pgbouncer --version")?;
        fs::rename(&unfinished, folder(release))?;
        Ok(())
    })
}

fn unpack(apt: &Private, release: Release, folder: &Path, step: &Step) -> Result<()> {
    let packages = folder.join("packages");
    fs::create_dir_all(&packages)?;
    run_noting(apt.command("apt-get", &["update"]), step)?;
    let mut download = apt.command("apt-get", &["download", "pgbouncer"]);
    download.args(release.libraries()).current_dir(&packages);
    run_noting(download, step)?.succeeded("apt-get download")?;
    let whole = folder.join("whole");
    for package in fs::read_dir(&packages)?.flatten() {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(package.path()).arg(&whole);
        run(unpack)?.succeeded("dpkg-deb --extract")?;
    }
    // The rest (documentation, locales, services) isn't needed.
    fs::create_dir(folder.join("lib"))?;
    for entry in WalkDir::new(&whole) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = match name.as_str() {
            "pgbouncer" if entry.path().ends_with("sbin/pgbouncer") => folder.join("pgbouncer"),
            library if library.contains(".so") => folder.join("lib").join(library),
            _ => continue,
        };
        // A link is copied as what it leads to.
        if fs::metadata(entry.path()).is_ok_and(|file| file.is_file()) {
            fs::copy(entry.path(), target)?;
        }
    }
    fs::remove_dir_all(&whole)?;
    fs::remove_dir_all(&packages)?;
    Ok(())
}

fn folder(release: Release) -> PathBuf {
    target_folder().join("poolers").join(release.to_string())
}
