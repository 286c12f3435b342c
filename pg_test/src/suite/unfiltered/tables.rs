//! Tables on which nothing but a missing condition can be wrong.

use anyhow::Result;

use crate::client::Session;
use crate::cluster::Cluster;
use crate::database::Database;

/// `rebuilt` owns every tenant and may write everything here, so that nothing is wrong with a statement but that it has
/// no condition.
const TABLES: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, tenant int NOT NULL, code text NOT NULL UNIQUE, note text, tags text[]);
    INSERT INTO orders SELECT n, 1, 'c' || n, CASE WHEN n % 2 = 0 THEN 'x' END, '{a}' FROM generate_series(1, 40) n;
    CREATE INDEX ON orders (tenant);
    CREATE INDEX coded ON orders (id) WHERE code IS NOT NULL;
    CREATE INDEX noted ON orders (id) WHERE note IS NOT NULL;
    CREATE TABLE flags (id int PRIMARY KEY, order_id int REFERENCES orders, flag boolean NOT NULL);
    INSERT INTO flags VALUES (1, 1, true), (2, 2, false);
    CREATE TABLE more (flag_id int, note text);
    INSERT INTO more VALUES (1, 'm');
    CREATE TABLE parted (id int NOT NULL, tenant int NOT NULL, note text, PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 (note text, tenant int NOT NULL, id int NOT NULL);
    ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
    INSERT INTO parted SELECT n, 1 + n % 2 FROM generate_series(1, 20) n;
    CREATE TABLE parent (id int NOT NULL, tenant int NOT NULL, note text);
    CREATE TABLE child (extra int) INHERITS (parent);
    INSERT INTO parent VALUES (1, 1);
    INSERT INTO child VALUES (2, 1);
    CREATE VIEW all_orders AS SELECT * FROM orders;
    CREATE VIEW noted_orders AS SELECT * FROM orders WHERE note IS NOT NULL;
    CREATE VIEW barred WITH (security_barrier) AS SELECT * FROM orders WHERE id > 3;
    CREATE FUNCTION positive(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 > 0; END';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
    ANALYZE";

/// A database with these tables, and a session of the rebuilt backend.
pub fn database(cluster: &Cluster) -> Result<(Database, Session)> {
    let database = cluster.guarded_database("unfiltered")?;
    let role = database.role("rebuilt")?;
    let mut dba = database.connect()?;
    dba.exec(TABLES)?;
    dba.exec("SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 9)")?;
    dba.exec(&format!("SELECT holdfast.add_identity('rebuilt', role => '{role}')"))?;
    for table in ["orders", "parted", "parent", "child"] {
        dba.exec(&format!("SELECT holdfast.guard_table('{table}', 'tenant')"))?;
    }
    for table in ["orders", "parted", "parent", "child", "flags", "more"] {
        if matches!(table, "flags" | "more") {
            dba.exec(&format!("SELECT holdfast.guard_global('{table}')"))?;
        }
        dba.exec(&format!("SELECT holdfast.allow_writes('rebuilt', '{table}')"))?;
    }
    for tenant in [1, 2] {
        dba.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt')"))?;
    }
    // Partitions and children of two tenants are written together here.
    dba.exec("SELECT holdfast.set_limits('rebuilt', tenants_per_statement => -1)")?;
    dba.exec("SELECT holdfast.set_mode('enforce')")?;
    let session = database.connect_as(&role)?;
    Ok((database, session))
}
