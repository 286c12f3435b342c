//! The cluster, the schema, the policy and who may log in.

use std::mem::ManuallyDrop;

use anyhow::{Context, Result};

use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Database;
use crate::setup::Postgres;

const SCHEMA: &str = include_str!("schema.sql");
const SEED: &str = include_str!("seed.sql");
const ROLES: &str = include_str!("roles.sql");
const POLICY: &str = include_str!("policy.sql");

/// Where it all happens.
pub struct Stage {
    /// A private cluster that writes as a production server does.
    pub cluster: Cluster,
    // It goes with the cluster, or stays with it.
    database: ManuallyDrop<Database>,
}

impl Stage {
    /// Starts the cluster, to `keep` it or not; there is only an empty database.
    pub fn build(postgres: &Postgres, keep: bool) -> Result<Stage> {
        let mut settings = ClusterOptions::new().durable().tcp();
        if keep {
            settings = settings.keepable();
        }
        let cluster = Cluster::start(postgres, settings).context("starting the demo's cluster")?;
        let database = ManuallyDrop::new(cluster.database("estate")?);
        Ok(Stage { cluster, database })
    }

    /// What was there before Holdfast: the schema, its rows, its roles.
    pub fn furnish(&self, tenants: i32) -> Result<()> {
        let mut admin = self.admin()?;
        admin.exec(SCHEMA).context("schema.sql")?;
        admin.exec(&SEED.replace(":tenants", &tenants.to_string())).context("seed.sql")?;
        admin.exec(ROLES).context("roles.sql")?;
        admin.exec("VACUUM ANALYZE")
    }

    /// The extension and the policy of the migration.
    pub fn guard(&self) -> Result<()> {
        let mut admin = self.admin()?;
        admin.exec("CREATE EXTENSION holdfast")?;
        admin.exec(POLICY).context("policy.sql")
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database.name
    }

    /// The superuser, over the socket.
    pub fn admin(&self) -> Result<Session> {
        self.database.connect()
    }

    /// A login from another machine, as applications do.
    pub fn login(&self, role: &str, application_name: &str) -> Result<Session> {
        self.database
            .session()
            .role(role)
            .application_name(application_name)
            .tcp()
            .connect()
            .with_context(|| format!("logging in as {role}"))
    }

    /// What psql prints.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let output = self.cluster.psql(self.database(), sql)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(errors.is_empty(), "psql: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
