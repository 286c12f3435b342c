//! Databases and roles that a test has for itself, and sessions in them.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use postgres::Config;

use crate::client::Session;
use crate::endpoint::Endpoint;

/// Numbers that make names unique within a run.
static NUMBER: AtomicU64 = AtomicU64::new(1);

fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A database of its own. Dropping it drops the database, then the roles made through it.
pub struct Database {
    /// Unique in the cluster; needs no quotes.
    pub name: String,
    endpoint: Endpoint,
    roles: Mutex<Vec<String>>,
}

impl Database {
    /// Creates an empty database whose name begins with `prefix`.
    pub(crate) fn create(endpoint: &Endpoint, prefix: &str) -> Result<Database> {
        let name = unique(prefix);
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0");
        endpoint.observe("postgres")?.batch_execute(&sql)?;
        Ok(Database::existing(endpoint, &name))
    }

    /// One that is there already.
    pub(crate) fn existing(endpoint: &Endpoint, name: &str) -> Database {
        Database { name: name.to_owned(), endpoint: endpoint.clone(), roles: Mutex::new(Vec::new()) }
    }

    /// A session of the superuser `postgres`.
    pub fn connect(&self) -> Result<Session> {
        self.session().connect()
    }

    /// A session of another role.
    pub fn connect_as(&self, role: &str) -> Result<Session> {
        self.session().role(role).connect()
    }

    /// A session with more to it.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder {
            endpoint: self.endpoint.clone(),
            database: self.name.clone(),
            role: "postgres".to_owned(),
            application_name: None,
            options: Vec::new(),
            tcp: false,
        }
    }

    /// A fresh login role without privileges.
    pub fn role(&self, prefix: &str) -> Result<Role> {
        let name = unique(prefix);
        let sql = format!("CREATE ROLE {name} LOGIN");
        self.endpoint.observe("postgres")?.batch_execute(&sql)?;
        self.roles.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(Role { name })
    }

    fn drop_all(&self) -> Result<()> {
        let mut observer = self.endpoint.observe("postgres")?;
        // Prepared transactions would keep the database; only its own sessions can end them.
        let sql = "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = $1";
        let prepared = observer.query(sql, &[&self.name])?;
        if !prepared.is_empty() {
            let mut inside = self.endpoint.observe(&self.name)?;
            for row in prepared {
                let gid: String = row.try_get(0)?;
                let gid = gid.replace('\'', "''");
                inside.batch_execute(&format!("ROLLBACK PREPARED '{gid}'"))?;
            }
        }
        observer.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name))?;
        for role in self.roles.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            observer.batch_execute(&format!("DROP ROLE IF EXISTS {role}"))?;
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test may have stopped the server, and the cluster goes with the suite anyway.
        let _ = self.drop_all();
    }
}

/// A role that is dropped with the database it was made through.
#[derive(Clone, Debug)]
pub struct Role {
    name: String,
}

impl Deref for Role {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// How a session connects.
pub struct SessionBuilder {
    endpoint: Endpoint,
    database: String,
    role: String,
    application_name: Option<String>,
    options: Vec<(String, String)>,
    tcp: bool,
}

impl SessionBuilder {
    /// Logs in as `role` instead of `postgres`.
    pub fn role(mut self, role: &str) -> Self {
        role.clone_into(&mut self.role);
        self
    }

    /// Sets application_name at connection.
    pub fn application_name(mut self, name: &str) -> Self {
        self.application_name = Some(name.to_owned());
        self
    }

    /// Sets a setting in the startup packet's options, as `PGOPTIONS='-c name=value'` does.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Connects through 127.0.0.1; the cluster must have [`tcp`](crate::cluster::ClusterOptions::tcp).
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// The connection's description, for programs that open connections themselves.
    pub fn config(&self) -> Result<Config> {
        if self.tcp && !self.endpoint.has_tcp() {
            bail!("the cluster doesn't listen on TCP; start it with ClusterOptions::tcp()");
        }
        let mut config = if self.tcp {
            self.endpoint.tcp_config(&self.database, &self.role)
        } else {
            self.endpoint.config(&self.database, &self.role)
        };
        if let Some(name) = &self.application_name {
            config.application_name(name);
        }
        if !self.options.is_empty() {
            let options: Vec<String> =
                self.options.iter().map(|(name, value)| format!("-c {name}={}", escape_option(value))).collect();
            config.options(&options.join(" "));
        }
        Ok(config)
    }

    /// Connects.
    pub fn connect(self) -> Result<Session> {
        Session::connect(self.config()?, self.endpoint)
    }
}

/// The server splits options at white space; a backslash keeps the next character.
fn escape_option(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_whitespace() || c == '\\' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
