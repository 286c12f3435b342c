//! What is there already: PostgreSQL installations, libclang, programs on PATH.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::wheel;

/// The supported major versions in the order in which one is chosen. 15 first: it is what the
/// oldest supported Debian carries, so problems with old servers show early.
pub const PREFERENCE: [u16; 4] = [15, 17, 16, 18];

/// A PostgreSQL installation, as its pg_config describes it.
#[derive(Clone, Debug)]
pub struct Server {
    /// The program that was asked.
    pub pg_config: PathBuf,
    /// 15, 16, ...
    pub major: u16,
    /// As printed: "PostgreSQL 15.4 (Debian ...)".
    pub version: String,
    /// postgres, initdb, psql, ...
    pub bindir: PathBuf,
    /// postgres.bki, extension/, timezonesets/, ...
    pub sharedir: PathBuf,
    /// Loadable modules; `$libdir`.
    pub pkglibdir: PathBuf,
    /// libpq and friends; system-wide on Debian.
    pub libdir: PathBuf,
    /// Headers for extensions.
    pub includedir_server: PathBuf,
    /// The folder of the regression drivers.
    pub drivers: PathBuf,
    /// Folders with libraries that the programs look for relative to themselves, outside of the
    /// installation proper.
    pub companions: Vec<PathBuf>,
}

impl Server {
    /// Asks `pg_config`.
    pub fn ask(pg_config: &Path) -> Result<Server> {
        let output = Command::new(pg_config)
            .args(["--version", "--bindir", "--sharedir", "--pkglibdir", "--libdir"])
            .args(["--includedir-server", "--pgxs"])
            .output()
            .with_context(|| format!("running {}", pg_config.display()))?;
        let text = String::from_utf8(output.stdout).context("pg_config's output")?;
        let lines: Vec<&str> = text.lines().collect();
        let [version, bindir, sharedir, pkglibdir, libdir, includedir_server, pgxs] = lines[..] else {
            bail!("{} answered with {} lines, not 7", pg_config.display(), lines.len());
        };
        // They are shipped near pgxs.mk.
        let drivers = Path::new(pgxs).ancestors().nth(2).context("pg_config's path of pgxs")?.join("test");
        Ok(Server {
            pg_config: pg_config.to_owned(),
            major: major_of(version).with_context(|| format!("no version in '{version}'"))?,
            version: version.to_owned(),
            bindir: bindir.into(),
            sharedir: sharedir.into(),
            pkglibdir: pkglibdir.into(),
            libdir: libdir.into(),
            includedir_server: includedir_server.into(),
            drivers,
            companions: Vec::new(),
        })
    }

    /// Finds an installation of `major`: the one `PG_CONFIG` names, else the first that is complete,
    /// else the first, of Debian's folder, PATH and what was fetched.
    pub fn find(major: u16) -> Result<Option<Server>> {
        if let Some(named) = env::var_os("PG_CONFIG") {
            let server = Server::ask(Path::new(&named)).context("PG_CONFIG")?;
            if server.major == major {
                return Ok(Some(server));
            }
        }
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/pg_config"));
        let candidates = [Some(debian), on_path("pg_config")];
        let mut found: Vec<Server> = candidates
            .into_iter()
            .flatten()
            .filter(|path| path.is_file())
            .filter_map(|path| Server::ask(&path).ok())
            .chain(wheel::find(major))
            .filter(|server| server.major == major)
            .collect();
        // The sort is stable.
        found.sort_by_key(|server| !server.is_complete());
        Ok(found.into_iter().next())
    }

    /// The version alone: "15.4".
    pub fn number(&self) -> &str {
        self.version.split_whitespace().nth(1).unwrap_or_default()
    }

    /// Whether it was made of the unpacked source with this top folder.
    pub fn is_of(&self, source: &Path) -> bool {
        source.file_name().is_some_and(|name| name.to_string_lossy() == format!("postgresql-{}", self.number()))
    }

    /// Whether everything is there to run it and to build extensions for it.
    pub fn is_complete(&self) -> bool {
        self.has_server() && self.has_development_files()
    }

    /// Whether the server itself is there, not only a client.
    pub fn has_server(&self) -> bool {
        self.bindir.join("postgres").is_file() && self.sharedir.join("postgres.bki").is_file()
    }

    /// Whether extensions can be built for it and the regression drivers are there.
    pub fn has_development_files(&self) -> bool {
        self.includedir_server.join("postgres.h").is_file()
            && self.drivers.join("regress/pg_regress").is_file()
            && self.drivers.join("isolation/pg_isolation_regress").is_file()
    }
}

/// "PostgreSQL 15.4 (Debian ...)" → 15; betas ("18beta2") included.
fn major_of(version: &str) -> Option<u16> {
    let number = version.split_whitespace().nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The first executable of that name on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether bindgen will find a libclang.
pub fn has_libclang() -> bool {
    env::var_os("LIBCLANG_PATH").is_some() || newest_llvm_lib().is_some() || {
        let folders = ["/usr/lib64", "/usr/lib", "/usr/local/lib"];
        folders.iter().any(|folder| holds_libclang(Path::new(folder)))
    }
}

/// The library folder of the newest LLVM that has a libclang: /usr/lib/llvm-N/lib.
pub fn newest_llvm_lib() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/lib").ok()?;
    entries
        .flatten()
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let lib = entry.path().join("lib");
            holds_libclang(&lib).then_some((number, lib))
        })
        .max()
        .map(|(_, lib)| lib)
}

fn holds_libclang(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::major_of;

    #[test]
    fn majors_are_read_from_version_lines() {
        let table = [
            ("PostgreSQL 15.20 (Debian 15.20-0+deb12u1)", Some(15)),
            ("PostgreSQL 18beta2", Some(18)),
            ("PostgreSQL 16.1", Some(16)),
            ("PostgreSQL", None),
            ("PostgreSQL x", None),
        ];
        for (line, major) in table {
            assert_eq!(major_of(line), major, "{line}");
        }
    }
}
