//! Throwaway clusters.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::copy::copy_tree;
use crate::database::Database;
use crate::endpoint::Endpoint;
use crate::launcher::spawn;
use crate::server::{Server, read_from, tail};
use crate::setup::Postgres;
use crate::small_disk::SmallDisk;
use crate::wait::eventually;

pub use crate::server::Shutdown;

/// What distinguishes a cluster from the default one.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// shared_preload_libraries.
    pub preload: String,
    /// Settings, stronger than the harness's own.
    pub settings: Vec<(String, String)>,
    tcp: bool,
    keepable: bool,
    small_disk: Option<(u32, Holds)>,
}

/// What a cluster has on its small disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The data directory without the write-ahead log, without which no server goes on.
    Data,
    /// The write-ahead log alone.
    Log,
    /// Nothing yet.
    Nothing,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        let (preload, settings) = ("holdfast".to_owned(), Vec::new());
        ClusterOptions { preload, settings, tcp: false, keepable: false, small_disk: None }
    }
}

impl ClusterOptions {
    /// A cluster with holdfast preloaded, reachable over its Unix socket.
    pub fn new() -> Self {
        ClusterOptions::default()
    }

    /// Sets shared_preload_libraries; "" for none.
    pub fn preload(mut self, libraries: &str) -> Self {
        libraries.clone_into(&mut self.preload);
        self
    }

    /// Sets any setting.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes as a production server does: a commit is on disk before it is reported.
    pub fn durable(self) -> Self {
        self.set("fsync", "on")
    }

    /// Listens on 127.0.0.1 too.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Allows [`Cluster::leave_running`]. Such a server isn't stopped when the harness is killed.
    pub fn keepable(mut self) -> Self {
        self.keepable = true;
        self
    }

    /// Gives it a disk of so many megabytes to fill; see [`Cluster::small_disk`].
    pub fn small_disk(mut self, megabytes: u32, holds: Holds) -> Self {
        self.small_disk = Some((megabytes, holds));
        self
    }

    /// Whether [`small_disk`](ClusterOptions::small_disk) was asked for, which is not to be had everywhere.
    pub fn has_small_disk(&self) -> bool {
        self.small_disk.is_some()
    }

    fn configuration(&self, endpoint: &Endpoint) -> String {
        let socket_dir = endpoint.socket_dir().display().to_string();
        let port = endpoint.port().to_string();
        let own = [
            ("unix_socket_directories", socket_dir.as_str()),
            ("listen_addresses", if self.tcp { "127.0.0.1" } else { "" }),
            ("port", &port),
            ("shared_preload_libraries", &self.preload),
            ("max_connections", "100"),
            ("max_prepared_transactions", "20"),
            // Nobody needs the data after a power cut, and commits become cheap.
            ("fsync", "off"),
            ("log_min_messages", "warning"),
            ("log_checkpoints", "off"),
            ("log_line_prefix", "%m [%p] %q%u@%d %a "),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
        ];
        let asked = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = String::from("\n# The harness's settings; of duplicates the last counts.\n");
        for (name, value) in own.into_iter().chain(asked) {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{name} = {}", quote(value));
        }
        text
    }
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A running cluster in a temporary folder. Dropping it stops it and removes the folder.
pub struct Cluster {
    // Declared, and so dropped, before the folder is removed.
    server: Option<Server>,
    small_disk: Option<SmallDisk>,
    postgres: Postgres,
    endpoint: Endpoint,
    folder: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    keepable: bool,
    left: bool,
}

impl Cluster {
    /// Starts a new cluster and waits until it accepts connections.
    pub fn start(postgres: &Postgres, options: ClusterOptions) -> Result<Cluster> {
        Cluster::start_on(postgres, options, |data_dir| copy_tree(&postgres.template()?, data_dir))
    }

    /// Starts a physical standby of this cluster, which streams from it.
    pub fn start_standby(&self, options: ClusterOptions) -> Result<Cluster> {
        Cluster::start_on(&self.postgres, options, |data_dir| self.back_up(data_dir, &["--write-recovery-conf"]))
    }

    /// Starts a cluster on a base backup of this one, as after a restore: it goes its own way.
    pub fn start_restored(&self, options: ClusterOptions) -> Result<Cluster> {
        Cluster::start_on(&self.postgres, options, |data_dir| self.back_up(data_dir, &[]))
    }

    fn back_up(&self, data_dir: &Path, more: &[&str]) -> Result<()> {
        let folder = data_dir.display().to_string();
        let arguments = ["--pgdata", &folder, "--checkpoint", "fast", "--wal-method", "stream", "--no-sync"];
        let output = self.run("pg_basebackup", &[&arguments, more].concat())?;
        if !output.status.success() {
            bail!("pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts a cluster on what `prepare` puts into its data directory.
    fn start_on(
        postgres: &Postgres,
        options: ClusterOptions,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Cluster> {
        let folder = postgres.cluster_folder()?;
        let small_disk = match options.small_disk {
            Some((megabytes, _)) => Some(SmallDisk::mount(&folder.join("small"), megabytes, postgres.account())?),
            None => None,
        };
        let holds = options.small_disk.map(|(_, holds)| holds);
        let data_dir = folder.join(if holds == Some(Holds::Data) { "small/data" } else { "data" });
        prepare(&data_dir)?;
        if let Some(Holds::Data | Holds::Log) = holds {
            // The one beside the other.
            let outside = folder.join(if holds == Some(Holds::Log) { "small/wal" } else { "wal" });
            let inside = data_dir.join("pg_wal");
            copy_tree(&inside, &outside)?;
            fs::remove_dir_all(&inside)?;
            symlink(&outside, &inside)?;
            postgres.account().own_all(&outside)?;
        }
        postgres.account().own_all(&data_dir)?;
        let port = if options.tcp { free_port()? } else { 5432 };
        let endpoint = Endpoint::new(&folder, port, options.tcp);
        let configuration = data_dir.join("postgresql.conf");
        let defaults = fs::read_to_string(&configuration)?;
        fs::write(&configuration, defaults + &options.configuration(&endpoint))?;
        let log = folder.join("log");
        let mut cluster = Cluster {
            server: None,
            small_disk,
            postgres: postgres.clone(),
            endpoint,
            folder,
            data_dir,
            log,
            keepable: options.keepable,
            left: false,
        };
        cluster.start_again()?;
        Ok(cluster)
    }

    /// The installation it runs on.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.endpoint.socket_dir()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.endpoint.port()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its small disk; an error if it was started without one.
    pub fn small_disk(&self) -> Result<&SmallDisk> {
        self.small_disk.as_ref().context("the cluster has no small disk")
    }

    /// Its address, for connections in databases of any name.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The postmaster's process id; an error while it is stopped.
    pub fn postmaster_pid(&self) -> Result<i32> {
        let server = self.server.as_ref().context("the cluster is stopped")?;
        Ok(server.pid().as_raw())
    }

    /// The server log so far.
    pub fn log(&self) -> Result<String> {
        self.log_since(0)
    }

    /// How long the server log is now, for [`log_since`](Cluster::log_since).
    pub fn log_mark(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// The server log from a mark on.
    pub fn log_since(&self, mark: u64) -> Result<String> {
        read_from(&self.log, mark)
    }

    /// The end of the server log, not before a mark; for messages.
    pub fn log_tail(&self, mark: u64) -> String {
        tail(&self.log, mark, 40)
    }

    /// A fresh empty database; it lacks the extension.
    pub fn database(&self, prefix: &str) -> Result<Database> {
        Database::create(&self.endpoint, prefix)
    }

    /// A database that is there already, as after a restore of the whole cluster; dropped like one that was made here.
    pub fn existing_database(&self, name: &str) -> Database {
        Database::existing(&self.endpoint, name)
    }

    /// A fresh database with the extension.
    pub fn guarded_database(&self, prefix: &str) -> Result<Database> {
        let database = self.database(prefix)?;
        database.connect()?.exec("CREATE EXTENSION holdfast")?;
        Ok(database)
    }

    /// Brings the server down.
    pub fn stop(&mut self, how: Shutdown) -> Result<()> {
        self.server.take().context("the cluster is stopped already")?.stop(how)
    }

    /// Starts it again on the same data.
    pub fn start_again(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("the cluster is running already");
        }
        self.server = Some(Server::start(&self.postgres, &self.data_dir, &self.log, &self.endpoint, self.keepable)?);
        Ok(())
    }

    /// Starts it again on the same data, run by another program: valgrind and its arguments.
    pub fn start_below(&mut self, wrapper: &[String]) -> Result<()> {
        if self.server.is_some() {
            bail!("the cluster is running already");
        }
        self.server = Some(Server::start_below(wrapper, &self.postgres, &self.data_dir, &self.log, &self.endpoint)?);
        Ok(())
    }

    /// Brings the server down and up again.
    pub fn restart(&mut self, how: Shutdown) -> Result<()> {
        self.stop(how)?;
        self.start_again()
    }

    /// Writes settings that the next start reads, stronger than those before; for settings that
    /// can't be changed while the server runs.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let file = self.data_dir.join("postgresql.conf");
        let mut text = fs::read_to_string(&file)?;
        for (name, value) in settings {
            let _ = writeln!(text, "{name} = {}", quote(value));
        }
        Ok(fs::write(&file, text)?)
    }

    /// Changes settings of the running server and returns when new sessions and the next statement
    /// of present ones see them.
    pub fn reload(&self, settings: &[(&str, &str)]) -> Result<()> {
        let loaded = "SELECT pg_catalog.pg_conf_load_time()::text";
        let mut observer = self.endpoint.observe("postgres")?;
        let before: String = observer.query_one(loaded, &[])?.try_get(0)?;
        for (name, value) in settings {
            observer.batch_execute(&format!("ALTER SYSTEM SET {name} = {}", quote(value)))?;
        }
        observer.batch_execute("SELECT pg_catalog.pg_reload_conf()")?;
        // The postmaster reads the files and signals its children before it forks another one:
        // a new session that sees the new time proves that all were told.
        eventually("the settings to be loaded", || {
            let mut fresh = self.endpoint.observe("postgres")?;
            Ok(fresh.query_one(loaded, &[])?.try_get::<_, String>(0)? != before)
        })
    }

    /// A program of the server with the environment to reach this cluster as its superuser.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.postgres.server_command(program);
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port().to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// Runs a program of the server: pgbench, pg_dump, ...
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(args);
        self.output(command, "")
    }

    /// Feeds statements to the real psql, each its own transaction, errors in verbose form.
    pub fn psql(&self, database: &str, sql: &str) -> Result<Output> {
        let mut command = self.command("psql");
        command.args(["-X", "-v", "VERBOSITY=verbose", "-d", database, "-f", "-"]);
        self.output(command, sql)
    }

    /// Runs a command to its end with `input` on its standard input.
    pub fn output(&self, mut command: Command, input: &str) -> Result<Output> {
        use std::io::Write as _;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(command, Signal::SIGTERM)?;
        let writer = child.stdin.take().map(|mut stdin| {
            let input = input.to_owned();
            // A program that ends early closes its input; its exit status says the rest.
            std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())))
        });
        let output = child.wait_with_output()?;
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        Ok(output)
    }

    /// What to type to look around in the cluster.
    pub fn psql_line(&self, database: &str) -> String {
        let psql = self.postgres.bin("psql");
        let (folder, port) = (self.socket_dir().display(), self.port());
        format!("{} -h {folder} -p {port} -U postgres {database}", psql.display())
    }

    /// Leaves the server running and its folders in place when the harness ends; returns what to
    /// type to stop it and remove everything of it.
    pub fn leave_running(mut self) -> Result<String> {
        if !self.keepable {
            bail!("the cluster wasn't started with ClusterOptions::keepable()");
        }
        let pid = self.postmaster_pid()?;
        let folder = self.postgres.keep()?.display().to_string();
        self.left = true;
        if let Some(server) = self.server.take() {
            server.leave_running();
        }
        Ok(format!("kill -QUIT {pid} && rm -r {folder}"))
    }

    /// Lines of the log that tell of a crash: a process killed by a signal, a PANIC, a failed
    /// assertion.
    pub fn crashes(&self, mark: u64) -> Result<Vec<String>> {
        let signs = ["was terminated by signal", "PANIC:", "TRAP:"];
        let log = self.log_since(mark)?;
        let told = log.lines().filter(|line| signs.iter().any(|sign| line.contains(sign)));
        Ok(told.map(str::to_owned).collect())
    }

    /// Whether the postmaster still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.server {
            Some(server) => Ok(!server.has_ended()?),
            None => Ok(false),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server = None;
        self.small_disk = None;
        if !self.left {
            // What stays is removed with the run's folder.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A port nobody listens on. Another program may take it before the server does; then the start
/// fails and says so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
