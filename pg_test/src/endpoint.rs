//! Where a cluster listens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::{Client, Config, NoTls};

/// The address of a cluster: a folder with its Unix socket, and 127.0.0.1 where it was asked for.
#[derive(Clone, Debug)]
pub struct Endpoint {
    socket_dir: PathBuf,
    port: u16,
    tcp: bool,
}

impl Endpoint {
    /// An endpoint with the socket in `socket_dir`.
    pub fn new(socket_dir: &Path, port: u16, tcp: bool) -> Endpoint {
        Endpoint { socket_dir: socket_dir.to_owned(), port, tcp }
    }

    /// The folder of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The port, part of the socket's name too.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the cluster listens on 127.0.0.1.
    pub fn has_tcp(&self) -> bool {
        self.tcp
    }

    /// A connection over the Unix socket, yet to be opened.
    pub fn config(&self, database: &str, role: &str) -> Config {
        let mut config = self.config_without_host(database, role);
        config.host_path(&self.socket_dir);
        config
    }

    /// A connection over TCP, yet to be opened.
    pub fn tcp_config(&self, database: &str, role: &str) -> Config {
        let mut config = self.config_without_host(database, role);
        config.host("127.0.0.1");
        config
    }

    /// A superuser's plain connection, for looking on from outside.
    pub fn observe(&self, database: &str) -> Result<Client> {
        let mut config = self.config(database, "postgres");
        config.application_name("holdfast harness");
        config.connect(NoTls).with_context(|| format!("connecting to {database}"))
    }

    fn config_without_host(&self, database: &str, role: &str) -> Config {
        let mut config = Config::new();
        config.dbname(database).user(role).port(self.port);
        config.connect_timeout(Duration::from_secs(10));
        config
    }
}
