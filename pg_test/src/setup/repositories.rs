//! The machine's own package repositories, asked for more than it asks them for: sources, or what another release carries.
//! Nothing of the machine's configuration is touched: the lists are fetched into a folder of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::launcher::run;

/// Where apt keeps what it was told of repositories.
const REPOSITORIES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

/// apt with lists and caches of our own.
pub struct Private {
    folder: PathBuf,
}

impl Private {
    /// Copies what apt knows of repositories, with source packages asked for.
    pub fn prepare(folder: &Path) -> Result<Private> {
        let apt = Private { folder: folder.to_owned() };
        apt.make_folders()?;
        for (number, file) in repository_files().into_iter().enumerate() {
            apt.add(&file, &number.to_string(), with_sources)?;
        }
        Ok(apt)
    }

    /// Asks the same repositories for another release's sources, if it is known which release this is.
    pub fn also_ask(&self, release: &str) -> Result<bool> {
        let Some(own) = own_release() else { return Ok(false) };
        for (number, file) in repository_files().into_iter().enumerate() {
            self.add(&file, &format!("{number}-{release}"), |text| sources_of(text, &own, release))?;
        }
        Ok(true)
    }

    /// Knows the packages of a release of Debian alone, if it is known which release this is.
    pub fn of_release(folder: &Path, release: &str) -> Result<Option<Private>> {
        let Some(own) = own_release() else { return Ok(None) };
        let apt = Private { folder: folder.to_owned() };
        apt.make_folders()?;
        for (number, file) in repository_files().into_iter().enumerate() {
            apt.add(&file, &number.to_string(), |text| text.replace(&own, release))?;
        }
        Ok(Some(apt))
    }

    fn make_folders(&self) -> Result<()> {
        for needed in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(needed))?;
        }
        Ok(())
    }

    /// Takes a file over, changed, under another name.
    fn add(&self, file: &Path, name: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        Ok(fs::write(self.folder.join("sources").join(format!("{name}.{extension}")), change(&text))?)
    }

    /// A command of apt, which knows these repositories only.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
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
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let shown = run(self.command("apt-cache", &["showsrc", "--only-source", package]))?.output;
        let mut versions: Vec<String> =
            shown.lines().filter_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned())).collect();
        versions.dedup();
        Ok(versions)
    }
}

/// This machine's release of Debian, or of what derives from it.
fn own_release() -> Option<String> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(str::to_owned)
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
