//! A database with a migration under way, as tests of refusals need it.

use anyhow::Result;

use crate::client::Session;
use crate::cluster::Cluster;
use crate::database::{Database, Role};

/// A database whose table `orders` is guarded by `tenant` and whose table `plans` is global, in enforce mode. Both
/// backends have every privilege; the rebuilt one may write `orders`. Tenant 1 belongs to legacy, tenant 2 to rebuilt.
pub struct Guarded {
    /// The database.
    pub database: Database,
    /// The login role of the legacy backend.
    pub legacy: Role,
    /// The login role of the rebuilt backend.
    pub rebuilt: Role,
}

impl Guarded {
    /// Makes one.
    pub fn enforcing(cluster: &Cluster, prefix: &str) -> Result<Guarded> {
        let database = cluster.guarded_database(prefix)?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        let mut dba = database.connect()?;
        dba.exec(&format!(
            "CREATE TABLE orders (tenant int, id int, note text, PRIMARY KEY (tenant, id));
             CREATE TABLE plans (id int PRIMARY KEY);
             INSERT INTO orders VALUES (1, 1), (2, 2);
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {legacy}, {rebuilt};
             SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
             SELECT holdfast.add_identity('legacy', role => '{legacy}');
             SELECT holdfast.add_identity('rebuilt', role => '{rebuilt}');
             SELECT holdfast.guard_table('orders', 'tenant');
             SELECT holdfast.guard_global('plans');
             SELECT holdfast.allow_writes('rebuilt', 'orders');
             SELECT holdfast.set_mode('enforce')"
        ))?;
        dba.exec("SELECT holdfast.cutover('2', 'rebuilt', require_ready => false)")?;
        Ok(Guarded { database, legacy, rebuilt })
    }

    /// A session of the rebuilt backend.
    pub fn rebuilt(&self) -> Result<Session> {
        self.database.connect_as(&self.rebuilt)
    }

    /// A session of the legacy backend.
    pub fn legacy(&self) -> Result<Session> {
        self.database.connect_as(&self.legacy)
    }

    /// How many refusals and would-be refusals are recorded, and how many different ones.
    pub fn recorded(&self) -> Result<(i64, i64)> {
        let mut dba = self.database.connect()?;
        let sql = "SELECT coalesce(sum(occurrences), 0)::int8, count(*) FROM holdfast.blocked_writes";
        let row = dba.query_one(sql, &[])?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// Writes a tenant that belongs to legacy: refused to the rebuilt backend with WG001.
pub const FOREIGN_WRITE: &str = "UPDATE orders SET note = 'x' WHERE tenant = 1";
