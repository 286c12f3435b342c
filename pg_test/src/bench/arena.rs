//! Where contenders meet: a cluster for each set of preloaded libraries, in it a database for each contender, all with the same
//! tables, made once. Everybody is up all the time; one is measured at a time.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::contender::{Contender, House};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::database::Database;
use crate::setup::Postgres;
use crate::ui::Ui;

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rows of the tables that bulk statements write.
    pub rows: u32,
    /// Tenants that these rows belong to.
    pub tenants: u32,
    /// Tenants registered for the crowded contender.
    pub registered: u32,
    /// pgbench's scale: branches.
    pub branches: u32,
    /// Room for all databases of a cluster: its contenders take turns, and none may find its rows evicted by another's.
    pub shared_buffers: &'static str,
}

impl Scale {
    /// For the run whose figures count.
    pub const FULL: Scale =
        Scale { rows: 1_000_000, tenants: 10_000, registered: 1_000_000, branches: 20, shared_buffers: "4GB" };
    /// For a look.
    pub const QUICK: Scale =
        Scale { rows: 100_000, tenants: 10_000, registered: 1_000_000, branches: 4, shared_buffers: "1GB" };
    /// Where each instruction is counted.
    pub const COUNTED: Scale =
        Scale { rows: 20_000, tenants: 100, registered: 100_000, branches: 1, shared_buffers: "1GB" };

    /// SQL with the scale's numbers in it.
    pub fn fill_in(&self, sql: &str) -> String {
        sql.replace("$ROWS", &self.rows.to_string()).replace("$TENANTS", &self.tenants.to_string())
    }

    /// What every cluster of a run is set to; told with the figures.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        std::iter::once(("shared_buffers", self.shared_buffers)).chain(SETTINGS)
    }
}

/// What every cluster has in common.
const SETTINGS: [(&str, &str); 5] = [
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    // What the contenders that lock each tenant of a bulk statement need; Holdfast does without.
    ("max_locks_per_transaction", "1024"),
    ("log_min_messages", "error"),
];

/// Clusters and databases of a run.
pub struct Arena {
    // Declared, and so dropped, before their clusters.
    databases: BTreeMap<Contender, Database>,
    houses: BTreeMap<House, Cluster>,
    /// How much there is of everything.
    pub scale: Scale,
}

impl Arena {
    /// Prepares everything for these contenders. Those that can't be had are told and left out.
    pub fn prepare(postgres: &Postgres, contenders: &[Contender], scale: Scale, ui: &Ui) -> Result<Arena> {
        let mut arena = Arena { databases: BTreeMap::new(), houses: BTreeMap::new(), scale };
        for house in [House::Plain, House::Holdfast, House::Pgaudit] {
            let here: Vec<_> = contenders.iter().filter(|c| c.house() == house).collect();
            if here.is_empty() {
                continue;
            }
            if house == House::Pgaudit && !postgres.has_module("pgaudit") {
                ui.say("pgaudit isn't compared: the server doesn't have it (Debian: postgresql-15-pgaudit)");
                continue;
            }
            let names: Vec<_> = here.iter().map(|c| c.name()).collect();
            ui.step(&format!("Preparing {}", names.join(", ")), |step| {
                let cluster = start(postgres, house, &scale)?;
                fill(&cluster, &scale)?;
                arena.houses.insert(house, cluster);
                for contender in here {
                    step.note(contender.name());
                    arena.add(*contender).with_context(|| format!("preparing {}", contender.name()))?;
                }
                Ok(())
            })?;
        }
        Ok(arena)
    }

    fn add(&mut self, contender: Contender) -> Result<()> {
        let cluster = self.houses.get(&contender.house()).context("its cluster isn't there")?;
        let name = contender.name();
        let mut admin = cluster.endpoint().observe("postgres")?;
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE base"))?;
        self.databases.insert(contender, cluster.existing_database(name));
        let output = cluster.psql(name, &format!("\\set ON_ERROR_STOP on\n{}", contender.setup(&self.scale)))?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The contenders that are there.
    pub fn contenders(&self) -> impl Iterator<Item = Contender> {
        self.databases.keys().copied()
    }

    /// A contender's cluster.
    pub fn cluster(&self, contender: Contender) -> Result<&Cluster> {
        self.houses.get(&contender.house()).with_context(|| format!("{} has no cluster", contender.name()))
    }

    /// A contender's database.
    pub fn database(&self, contender: Contender) -> Result<&Database> {
        self.databases.get(&contender).with_context(|| format!("{} has no database", contender.name()))
    }

    /// A session of the application.
    pub fn session(&self, contender: Contender) -> Result<Session> {
        self.database(contender)?.connect_as("app")
    }

    /// A session of a superuser.
    pub fn admin(&self, contender: Contender) -> Result<Session> {
        self.database(contender)?.connect()
    }

    /// Makes commits durable, or not.
    pub fn durable(&self, durable: bool) -> Result<()> {
        let fsync = if durable { "on" } else { "off" };
        self.houses.values().try_for_each(|cluster| cluster.reload(&[("fsync", fsync)]))
    }

    /// Stops the servers and starts them again below another program.
    pub fn restart_below(&mut self, wrapper: &[String]) -> Result<()> {
        for cluster in self.houses.values_mut() {
            cluster.stop(Shutdown::Fast)?;
            cluster.start_below(wrapper)?;
        }
        Ok(())
    }
}

fn start(postgres: &Postgres, house: House, scale: &Scale) -> Result<Cluster> {
    let mut options = ClusterOptions::new().preload(house.libraries());
    for (name, value) in scale.settings() {
        options = options.set(name, value);
    }
    Cluster::start(postgres, options)
}

/// Makes the database that all contenders' are copies of.
fn fill(cluster: &Cluster, scale: &Scale) -> Result<()> {
    let mut admin = cluster.endpoint().observe("postgres")?;
    admin.batch_execute("CREATE ROLE app LOGIN; CREATE ROLE app_rebuilt LOGIN")?;
    admin.batch_execute("CREATE DATABASE base TEMPLATE template0")?;
    let branches = scale.branches.to_string();
    let output = cluster.run("pgbench", &["-i", "-q", "-s", &branches, "base"])?;
    if !output.status.success() {
        bail!("pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut base = cluster.endpoint().observe("base")?;
    base.batch_execute(&scale.fill_in(include_str!("sql/tables.sql")))?;
    base.batch_execute("VACUUM ANALYZE")?;
    Ok(())
}
