//! PostgreSQL's source as the machine's own package repositories have it: for the server's own tests, and for a build with
//! assertions. Nothing of the machine's configuration is touched: the lists are fetched into a folder of ours, with source
//! packages asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::build::target_folder;
use super::locate::{Server, on_path};
use crate::launcher::{run, run_noting};
use crate::ui::{Step, Ui};

/// Where apt keeps what it was told of repositories.
const REPOSITORIES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

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

/// apt with lists and caches of our own.
struct Private {
    folder: PathBuf,
}

impl Private {
    /// Copies what apt knows of repositories, with source packages asked for.
    fn prepare(folder: &Path) -> Result<Private> {
        let parts = folder.join("sources");
        for needed in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(needed))?;
        }
        for (number, file) in repository_files().into_iter().enumerate() {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
            fs::write(parts.join(format!("{number}.{extension}")), with_sources(&text))?;
        }
        Ok(Private { folder: folder.to_owned() })
    }

    /// Asks the same repositories for another release's sources, if it is known which release this is.
    fn also_ask(&self, release: &str) -> Result<bool> {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let Some(own) = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")) else {
            return Ok(false);
        };
        for (number, file) in repository_files().into_iter().enumerate() {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
            let name = format!("{number}-{release}.{extension}");
            fs::write(self.folder.join("sources").join(name), sources_of(&text, own, release))?;
        }
        Ok(true)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let option = |name: &str, value: &str| format!("{name}={value}");
        let below = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("--quiet");
        for option in [
            option("Dir::Etc::SourceList", "/dev/null"),
            option("Dir::Etc::SourceParts", &below("sources")),
            option("Dir::State::Lists", &below("lists")),
            option("Dir::Cache", &below("cache")),
            // Root's apt would step down to a user that can't enter our folder.
            option("APT::Sandbox::User", "root"),
        ] {
            command.args(["--option", &option]);
        }
        command.args(args);
        command
    }

    /// The source versions on offer, as listed: the newest first.
    fn versions(&self, package: &str) -> Result<Vec<String>> {
        let shown = run(self.command("apt-cache", &["showsrc", "--only-source", package]))?.output;
        let mut versions: Vec<String> =
            shown.lines().filter_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned())).collect();
        versions.dedup();
        Ok(versions)
    }
}

fn repository_files() -> Vec<PathBuf> {
    let [list, folder] = REPOSITORIES;
    let parts = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let known =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "list" || extension == "sources");
    std::iter::once(PathBuf::from(list)).chain(parts).filter(known).filter(|path| path.is_file()).collect()
}

/// Asks for sources beside packages, in apt's one-line format and in its newer one.
fn with_sources(text: &str) -> String {
    let mut asked = String::new();
    for line in text.lines() {
        match line.strip_prefix("Types:") {
            Some(_) => asked += "Types: deb deb-src",
            None => asked += line,
        }
        asked.push('\n');
        if let Some(repository) = line.strip_prefix("deb ") {
            asked += &format!("deb-src {repository}\n");
        }
    }
    asked
}

/// Asks for the sources of another release alone.
fn sources_of(text: &str, own: &str, release: &str) -> String {
    let mut asked = String::new();
    for line in text.lines() {
        match line.strip_prefix("deb ") {
            Some(repository) => asked += &format!("deb-src {repository}"),
            None if line.starts_with("Types:") => asked += "Types: deb-src",
            None => asked += line,
        }
        asked.push('\n');
    }
    asked.replace(own, release)
}

#[cfg(test)]
mod tests {
    use super::{sources_of, with_sources};

    #[test]
    fn another_release_s_sources_are_asked_for_in_both_formats() {
        assert_eq!(sources_of("deb u old main", "old", "new"), "deb-src u new main\n");
        assert_eq!(
            sources_of("Types: deb\nSuites: old old-updates", "old", "new"),
            "Types: deb-src\nSuites: new new-updates\n"
        );
    }

    #[test]
    fn sources_are_asked_for_in_both_formats() {
        assert_eq!(with_sources("deb a b main"), "deb a b main\ndeb-src a b main\n");
        assert_eq!(with_sources("Types: deb\nURIs: a"), "Types: deb deb-src\nURIs: a\n");
        assert_eq!(with_sources("# deb a b"), "# deb a b\n");
    }
}
