//! A migration under way in a database of its own, for the tests of ownership and cutover.

use anyhow::{Context, Result, ensure};

use crate::client::{Refusal, Session};
use crate::cluster::Cluster;
use crate::database::{Database, Role};
use crate::pending::Pending;
use crate::wait::eventually;

/// `orders` has one row of each of the tenants 1 to 100, all of which belong to legacy. Both backends log in with roles of
/// their own and may write `orders`; rules are enforced.
pub struct TwoBackends {
    /// The database.
    pub database: Database,
    legacy: Role,
    rebuilt: Role,
}

/// SQLSTATE of a write to a tenant that another backend owns.
pub const NOT_OWNER: &str = "WG001";
/// SQLSTATE of a write to a frozen tenant.
pub const FROZEN: &str = "WG002";
/// SQLSTATE of a lock that could not be had in time.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";

impl TwoBackends {
    /// Begins the migration.
    pub fn begin(cluster: &Cluster, prefix: &str) -> Result<TwoBackends> {
        let database = cluster.guarded_database(prefix)?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        database.connect()?.exec(&format!(
            "CREATE TABLE orders (id int PRIMARY KEY, tenant int NOT NULL, note text);
             INSERT INTO orders SELECT n, n FROM generate_series(1, 100) AS n;
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {legacy}, {rebuilt};
             GRANT ALL ON SCHEMA public TO {legacy}, {rebuilt};
             SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
             SELECT holdfast.add_identity('legacy', role => '{legacy}');
             SELECT holdfast.add_identity('rebuilt', role => '{rebuilt}');
             SELECT holdfast.guard_table('orders', 'tenant');
             SELECT holdfast.allow_writes('rebuilt', 'orders');
             SELECT holdfast.set_mode('enforce')"
        ))?;
        Ok(TwoBackends { database, legacy, rebuilt })
    }

    /// The same migration on another server, such as a standby that was promoted.
    pub fn at(&self, database: Database) -> TwoBackends {
        TwoBackends { database, legacy: self.legacy.clone(), rebuilt: self.rebuilt.clone() }
    }

    /// A session of the legacy backend.
    pub fn legacy(&self) -> Result<Session> {
        self.database.connect_as(&self.legacy)
    }

    /// A session of the rebuilt backend.
    pub fn rebuilt(&self) -> Result<Session> {
        self.database.connect_as(&self.rebuilt)
    }

    /// The login role of a backend.
    pub fn role(&self, backend: &str) -> &Role {
        if backend == "legacy" { &self.legacy } else { &self.rebuilt }
    }

    /// A session of the operator who cuts over.
    pub fn operator(&self) -> Result<Session> {
        self.database.connect()
    }

    /// Hands a tenant over in a transaction of its own.
    pub fn cut_over(&self, tenant: i32, to: &str) -> Result<()> {
        self.operator()?.exec(&cutover(tenant, to))
    }

    /// The owner as a new session sees it.
    pub fn owner(&self, tenant: i32) -> Result<String> {
        self.operator()?.one(&format!("SELECT holdfast.owner_of('{tenant}')"))
    }

    /// Starts a cutover that waits for an open transaction, and waits until it does.
    pub fn start_cutover(&self, tenant: i32, to: &str, max_pause: &str) -> Result<Pending> {
        let sql = format!("SELECT holdfast.cutover('{tenant}', '{to}', max_pause => '{max_pause}')");
        let mut pending = self.operator()?.start(&sql);
        pending.wait_until_blocked()?;
        Ok(pending)
    }

    /// How many locks of tenants are held or waited for in this database, that on all of them included.
    pub fn tenant_locks(&self) -> Result<i64> {
        self.operator()?.one(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid IN (18502, 18503)
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    }

    /// The tenant has one owner, who writes it while the other is refused, and no lock is left.
    pub fn ensure_sound(&self, tenant: i32, owner: &str) -> Result<()> {
        eventually("the locks of ended transactions to go", || Ok(self.tenant_locks()? == 0))?;
        ensure!(self.owner(tenant)? == owner, "tenant {tenant} belongs to {}, not {owner}", self.owner(tenant)?);
        for (backend, mut session) in [("legacy", self.legacy()?), ("rebuilt", self.rebuilt()?)] {
            if backend == owner {
                session.exec(&write(tenant)).with_context(|| format!("{backend} owns tenant {tenant}"))?;
            } else {
                is(&session.refused(&write(tenant))?, NOT_OWNER)?;
            }
        }
        Ok(())
    }
}

/// A statement that writes the tenant's row.
pub fn write(tenant: i32) -> String {
    format!("UPDATE orders SET note = session_user WHERE id = {tenant}")
}

/// A statement that hands the tenant over, and leaves its transaction time for whatever the test does in it.
pub fn cutover(tenant: i32, to: &str) -> String {
    format!("SELECT holdfast.cutover('{tenant}', '{to}', '1 min')")
}

/// The refusal has this SQLSTATE.
pub fn is(refusal: &Refusal, code: &str) -> Result<()> {
    ensure!(refusal.code == code, "expected {code}: {refusal:?}");
    Ok(())
}

/// The refusal's DETAIL has all of these parts.
pub fn detail_names(refusal: &Refusal, parts: &[&str]) -> Result<()> {
    let detail = refusal.detail.as_deref().unwrap_or_default();
    for part in parts {
        ensure!(detail.contains(part), "no \"{part}\" in the DETAIL of {refusal:?}");
    }
    Ok(())
}
