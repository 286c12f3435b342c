//! A PgBouncer of our own between clients and a cluster.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use postgres::{Client, Config, NoTls};

use crate::cluster::Cluster;
use crate::copy::copy_tree;
use crate::launcher::spawn;
use crate::setup::poolers::{self, Release};
use crate::wait::eventually;

/// Part of its socket's name, in a folder of its own.
const PORT: u16 = 6432;

/// How a pooler is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whose it is.
    pub release: Release,
    /// The database that it leads to.
    pub database: String,
    /// The login role that all clients share; without one, each has its own.
    pub shared: Option<String>,
    /// The roles that clients log in with.
    pub roles: Vec<String>,
    /// Connections to the server for each pool.
    pub pool_size: u32,
    /// Other lines of its configuration.
    pub lines: Vec<String>,
}

/// A running one. Dropping it ends it.
pub struct Bouncer {
    child: Child,
    folder: PathBuf,
    database: String,
}

impl Bouncer {
    /// Starts one, in transaction mode, and waits until it answers.
    pub fn start(cluster: &Cluster, setup: &Setup) -> Result<Bouncer> {
        let postgres = cluster.postgres();
        // The account that it runs as may not be able to enter the build folder.
        let program = postgres.folder(&format!("bouncer{}", fastrand::u32(..)))?;
        let from = poolers::find(setup.release).context("there is no pgbouncer")?;
        copy_tree(&from, &program)?;
        postgres.account().own_all(&program)?;
        fs::write(program.join("pgbouncer.ini"), setup.configuration(cluster, &program.display().to_string()))?;
        let users: String = setup.roles.iter().map(|role| format!("\"{role}\" \"\"\n")).collect();
        fs::write(program.join("users"), users)?;

        let mut command = postgres.server_command(poolers::program(&program)?);
        command.args(poolers::arguments(&program)).arg(program.join("pgbouncer.ini"));
        let output = File::create(program.join("log"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut bouncer =
            Bouncer { child: spawn(command, Signal::SIGKILL)?, folder: program, database: setup.database.clone() };
        let role = setup.roles.first().context("no roles")?;
        let answers = eventually("pgbouncer to accept clients", || {
            if let Some(status) = bouncer.child.try_wait()? {
                bail!("pgbouncer ended while starting ({status})");
            }
            Ok(bouncer.config(role).connect(NoTls).is_ok())
        });
        answers.with_context(|| bouncer.log())?;
        Ok(bouncer)
    }

    /// A connection of a client through it, yet to be opened.
    pub fn config(&self, role: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.folder).port(PORT).dbname(&self.database).user(role);
        config
    }

    /// A client through it.
    pub fn connect(&self, role: &str) -> Result<Client> {
        self.config(role).connect(NoTls).with_context(|| format!("as {role} through pgbouncer: {}", self.log()))
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // It keeps nothing that an orderly end would save.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Setup {
    fn configuration(&self, cluster: &Cluster, folder: &str) -> String {
        let Setup { database, pool_size, .. } = self;
        let shared = self.shared.as_ref().map_or_else(String::new, |role| format!(" user={role}"));
        let (host, port) = (cluster.socket_dir().display(), cluster.port());
        let mut text = format!(
            "[databases]\n{database} = host={host} port={port} dbname={database}{shared}\n\n[pgbouncer]\n\
             listen_addr =\nunix_socket_dir = {folder}\nlisten_port = {PORT}\nauth_type = trust\n\
             auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = {pool_size}\n\
             max_client_conn = 500\nlisten_backlog = 1024\n"
        );
        for line in &self.lines {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }
}
