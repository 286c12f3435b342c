//! PostgreSQL's source as the machine's own package repositories have it: for the server's own tests, and for a build with
//! assertions. See [`repositories`](super::repositories).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::build::target_folder;
use super::locate::{Server, on_path};
use super::repositories::Private;
use crate::launcher::{run, run_noting};
use crate::ui::{Step, Ui};

/// Releases of Debian that have a source package which the machine's own release may lack; a source builds on any.
const CARRIERS: [(u16, &str); 2] = [(15, "bookworm"), (17, "trixie")];

/// The top of an unpacked source of `major`, fetched once; kept below the build folder.
pub fn provide_source(major: u16, ui: &Ui) -> Result<PathBuf> {
    let folder = target_folder().join("source").join(format!("pg{major}"));
    if let Some(top) = unpacked(&folder) {
        return Ok(top);
    }
    if on_path("apt-get").is_none() {
        bail!(
            "PostgreSQL's source comes from Debian's source package, and there is no apt-get here; unpack the source of \
             version {major} into {}",
            folder.display()
        );
    }
    ui.step(&format!("Fetching the source of PostgreSQL {major}"), |step| fetch(major, &folder, step))?;
    unpacked(&folder).context("the source package has no src/test/regress")
}

fn unpacked(folder: &Path) -> Option<PathBuf> {
    let tops = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    tops.into_iter().find(|top| top.join("src/test/regress/parallel_schedule").is_file())
}

fn fetch(major: u16, folder: &Path, step: &Step) -> Result<()> {
    let apt = Private::prepare(&folder.with_extension("apt"))?;
    // A repository without sources fails the update; what came counts.
    let updated = run_noting(apt.command("apt-get", &["update"]), step)?;
    let package = format!("postgresql-{major}");
    let mut versions = apt.versions(&package)?;
    if versions.is_empty()
        && let Some((_, release)) = CARRIERS.iter().find(|(carried, _)| *carried == major)
        && apt.also_ask(release)?
    {
        run_noting(apt.command("apt-get", &["update"]), step)?;
        versions = apt.versions(&package)?;
    }
    // That of the server that is here first, the newest otherwise; the sort is stable.
    if let Some(server) = Server::find(major)? {
        versions.sort_by_key(|version| !version.starts_with(&format!("{}-", server.number())));
    }
    if versions.is_empty() {
        bail!(
            "this machine's repositories have no source package {package}; unpack PostgreSQL's source into {}, or use a \
             Debian that carries version {major}\n{}",
            folder.display(),
            updated.output.trim_end()
        );
    }
    fs::create_dir_all(folder)?;
    let mut said = String::new();
    for version in &versions {
        let name = format!("{package}={version}");
        let mut source = apt.command("apt-get", &["source", "--download-only", "--only-source", &name]);
        source.current_dir(folder);
        let finished = run_noting(source, step)?;
        if finished.status.success() {
            return unpack(folder);
        }
        // A mirror may list a version that it doesn't carry.
        said += &finished.output;
    }
    bail!("none of the versions {versions:?} of {package} can be downloaded:\n{}", said.trim_end())
}

fn unpack(folder: &Path) -> Result<()> {
    let archives = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let is_original =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".orig.tar"));
    let archive = archives.into_iter().find(is_original).context("no archive in the source package")?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(folder);
    run(tar)?.succeeded("unpacking the source (it takes tar and bzip2)").map(drop)
}
