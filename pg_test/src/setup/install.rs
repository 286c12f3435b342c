//! A private installation: a relocated copy of the server with holdfast added, seen by our clusters
//! only. PostgreSQL finds its files relative to its own binary (`make_relative_path`), so a copy
//! that keeps the relative layout is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::build::BuildEnvironment;
use super::locate::Server;
use crate::account::Account;
use crate::copy::copy_tree;
use crate::launcher::{clean_environment, run};
use crate::lifecycle::RunFolder;

/// One private, relocated installation: server + holdfast, seen by our clusters only.
/// Clones share it; it is removed with the last.
#[derive(Clone)]
pub struct Postgres {
    /// 15, 16, ...
    pub major: u16,
    inner: Arc<Inner>,
}

struct Inner {
    bindir: PathBuf,
    sharedir: PathBuf,
    pkglibdir: PathBuf,
    regression_drivers: PathBuf,
    headers: PathBuf,
    account: Account,
    environment: BuildEnvironment,
    /// A data folder as initdb leaves it, copied by every cluster; made when the first one starts.
    template: Mutex<Option<PathBuf>>,
    clusters: AtomicU32,
    folder: RunFolder,
}

impl Postgres {
    /// Copies `server` into `folder`, lays the packaged extension over it and checks that it runs.
    pub(super) fn install(
        server: &Server,
        environment: BuildEnvironment,
        package: &Path,
        folder: RunFolder,
        account: Account,
    ) -> Result<Postgres> {
        let top = folder.path().join("pg");
        let moved = Relocation::plan(server, &top)?;
        for part in &moved.parts {
            copy_tree(part, &moved.target(part)?)?;
        }
        for (original, kind) in [(&server.sharedir, "extension"), (&server.pkglibdir, "")] {
            let packaged = package.join(original.strip_prefix("/")?).join(kind);
            copy_tree(&packaged, &moved.target(original)?.join(kind)).context("adding the packaged extension")?;
        }
        let postgres = Postgres {
            major: server.major,
            inner: Arc::new(Inner {
                bindir: moved.target(&server.bindir)?,
                sharedir: moved.target(&server.sharedir)?,
                pkglibdir: moved.target(&server.pkglibdir)?,
                regression_drivers: moved.target(&server.drivers)?,
                headers: server.includedir_server.clone(),
                account,
                environment,
                template: Mutex::new(None),
                clusters: AtomicU32::new(0),
                folder,
            }),
        };
        postgres.check_relocation()?;
        Ok(postgres)
    }

    /// A program of the server: postgres, psql, pgbench, ...
    pub fn bin(&self, name: &str) -> PathBuf {
        self.inner.bindir.join(name)
    }

    /// A regression driver: "regress/pg_regress", "isolation/pg_isolation_regress".
    pub fn regression_driver(&self, name: &str) -> PathBuf {
        self.inner.regression_drivers.join(name)
    }

    /// `program` (a path, or a program of the server) run as the unprivileged account, in a folder
    /// it may read, without PG* variables of the caller.
    pub fn server_command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.inner.bindir.join(program));
        clean_environment(&mut command);
        self.inner.account.apply(&mut command);
        command.current_dir(self.inner.folder.path());
        command
    }

    /// Whether a loadable module is installed, for tests that need one: `pgaudit`, ...
    pub fn has_module(&self, name: &str) -> bool {
        self.inner.pkglibdir.join(name).with_extension("so").is_file()
    }

    /// Whether the server was built with ICU, for tests that need its collations.
    pub fn has_icu(&self) -> Result<bool> {
        let mut ask = self.server_command("pg_config");
        ask.arg("--configure");
        let options = run(ask)?.succeeded("pg_config --configure")?;
        // Version 16 made it the default.
        Ok(options.contains("--with-icu") || self.major >= 16 && !options.contains("--without-icu"))
    }

    /// Where extensions' control and script files are.
    pub fn extension_dir(&self) -> PathBuf {
        self.inner.sharedir.join("extension")
    }

    /// Where loadable modules are.
    pub fn module_dir(&self) -> &Path {
        &self.inner.pkglibdir
    }

    /// The server's headers, where the original installation has them.
    pub fn headers(&self) -> &Path {
        &self.inner.headers
    }

    /// What a cargo command needs to compile the extension for this server.
    pub fn build_environment(&self) -> &BuildEnvironment {
        &self.inner.environment
    }

    /// The account that runs the server.
    pub fn account(&self) -> &Account {
        &self.inner.account
    }

    /// A new folder of the account in this run's temporary folder.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        self.inner.folder.subfolder(name, &self.inner.account)
    }

    /// A new folder for one cluster. The name is short because socket paths are limited.
    pub fn cluster_folder(&self) -> Result<PathBuf> {
        let number = self.inner.clusters.fetch_add(1, Ordering::Relaxed);
        self.folder(&format!("c{number}"))
    }

    /// Leaves the installation and all clusters' folders in place when the harness ends.
    pub fn keep(&self) -> Result<&Path> {
        self.inner.folder.keep()?;
        Ok(self.inner.folder.path())
    }

    /// The folder that initdb made once for all clusters.
    pub fn template(&self) -> Result<PathBuf> {
        let mut template = self.inner.template.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = template.as_ref() {
            return Ok(path.clone());
        }
        let path = self.folder("template")?;
        let mut initdb = self.server_command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"]);
        initdb.args(["--locale=C.UTF-8", "--no-instructions", "--pgdata"]).arg(&path);
        run(initdb)?.succeeded("initdb")?;
        Ok(template.insert(path).clone())
    }

    /// That the copy runs as the unprivileged account and looks for its files in the copy.
    fn check_relocation(&self) -> Result<()> {
        let mut ask = self.server_command("postgres");
        ask.arg("--version");
        run(ask).and_then(|finished| finished.succeeded("postgres --version")).context(
            "the private installation doesn't run; set TMPDIR to a folder from which programs may \
             be executed and that every user can enter",
        )?;
        let copy = Server::ask(&self.bin("pg_config"))?;
        for (found, expected) in [(&copy.sharedir, &self.inner.sharedir), (&copy.pkglibdir, &self.inner.pkglibdir)] {
            // Compared by file, because temporary folders may be reached through links.
            if fs::canonicalize(found)? != fs::canonicalize(expected)? {
                bail!("the relocated server looks into {}", found.display());
            }
        }
        Ok(())
    }
}

/// Which folders of an installation are copied, and to where.
struct Relocation {
    prefix: PathBuf,
    top: PathBuf,
    parts: Vec<PathBuf>,
}

impl Relocation {
    fn plan(server: &Server, top: &Path) -> Result<Relocation> {
        let mut parts = vec![server.bindir.clone(), server.sharedir.clone(), server.pkglibdir.clone()];
        parts.push(server.drivers.clone());
        parts.extend(server.companions.iter().cloned());
        let prefix = parts.iter().skip(1).fold(server.bindir.clone(), |prefix, part| common_prefix(prefix, part));
        // With a prefix of its own (not /usr) an installation brings its libpq along.
        let shared_prefixes = ["/", "/usr", "/usr/local", "/opt"].map(Path::new);
        if server.libdir.starts_with(&prefix) && !shared_prefixes.contains(&prefix.as_path()) {
            parts.push(server.libdir.clone());
        }
        // Of nested folders the outer one is enough.
        parts.sort();
        parts.dedup_by(|inner, outer| inner.starts_with(outer));
        Ok(Relocation { prefix, top: top.to_owned(), parts })
    }

    fn target(&self, original: &Path) -> Result<PathBuf> {
        let relative = original
            .strip_prefix(&self.prefix)
            .with_context(|| format!("{} isn't below {}", original.display(), self.prefix.display()))?;
        Ok(self.top.join(relative))
    }
}

fn common_prefix(a: PathBuf, b: &Path) -> PathBuf {
    let shared = a.components().zip(b.components()).take_while(|(x, y)| x == y);
    shared.map(|(component, _)| component).collect()
}
