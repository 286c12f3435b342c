//! Logical replication into guarded tables: it never stops, and what a session would be refused is on record.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Test;
use super::platform::{self, Platform};
use crate::client::{Rows, Session};
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Database;
use crate::wait::within;

/// The publisher is the test's own cluster; the subscriber is one more.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("rows_of_every_tenant_keep_arriving", publisher(), rows_keep_arriving),
        Test::own("what_a_session_would_be_refused_is_recorded", publisher(), would_be_refusals_are_recorded),
        Test::own("ownership_arrives_and_binds_sessions_at_once", publisher(), ownership_arrives),
        Test::own("a_guarded_publisher_publishes_what_it_lets_pass", publisher(), guarded_publisher),
    ]
}

fn publisher() -> ClusterOptions {
    ClusterOptions::new().set("wal_level", "logical").set("wal_sender_timeout", "0")
}

/// Applying is quick; the first copy of the tables starts a worker for each.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher and a guarded subscriber with the same tables.
struct Pair {
    // Dropped first: it holds a slot of the publisher's database.
    subscription: Subscription,
    published: Platform,
}

/// The guarded side.
struct Subscription {
    there: Platform,
    // Stopped when its database is dropped.
    cluster: Cluster,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // A database with a subscription can't be dropped.
        if let Ok(mut dba) = self.there.database.connect() {
            let _ = dba.exec("DROP SUBSCRIPTION IF EXISTS mirror");
        }
    }
}

impl Pair {
    /// Both sides have the application's tables; the subscriber has its own policy, is in enforce mode, and has received the
    /// rows of what is published. `tables` is what a publication takes: FOR ALL TABLES, FOR TABLE ...
    fn subscribe(cluster: &Cluster, published: Platform, tables: &str) -> Result<Pair> {
        let mut source = published.database.connect()?;
        // The log has no key. Version 18 publishes no FULL identity of a table with a generated column, which orders has.
        for table in ["order_items", "log", "log_old", "log_new_20", "log_new_rest"] {
            source.exec(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL"))?;
        }
        source.exec(&format!("CREATE PUBLICATION moved {tables}"))?;
        let options = ClusterOptions::new()
            .set("max_sync_workers_per_subscription", "4")
            // Between the starts of the tables' first copies.
            .set("wal_retrieve_retry_interval", "10ms");
        let other = Cluster::start(cluster.postgres(), options)?;
        let there = Platform::guarded(&other, "subscriber")?;
        let subscription = Subscription { there, cluster: other };
        let pair = Pair { subscription, published };
        pair.empty()?;
        pair.target()?.exec(&format!(
            "CREATE SUBSCRIPTION mirror CONNECTION 'host={} port={} user=postgres dbname={}' PUBLICATION moved",
            cluster.socket_dir().display(),
            cluster.port(),
            pair.published.database.name
        ))?;
        pair.catch_up()?;
        Ok(pair)
    }

    /// Takes away the subscriber's own rows of all tables that come from the publisher.
    fn empty(&self) -> Result<()> {
        let tables = self.source()?.rows(
            "SELECT string_agg(DISTINCT format('%I.%I', schemaname, tablename), ', ') FROM pg_catalog.pg_publication_tables",
        )?;
        let tables = tables.into_iter().flatten().flatten().collect::<String>();
        let mut target = self.target()?;
        target.exec("SELECT holdfast.set_mode('off')")?;
        target.exec(&format!("TRUNCATE {tables}; SELECT holdfast.set_mode('enforce')"))
    }

    fn source(&self) -> Result<Session> {
        self.published.database.connect()
    }

    fn target(&self) -> Result<Session> {
        self.target_database().connect()
    }

    fn target_database(&self) -> &Database {
        &self.subscription.there.database
    }

    /// Waits until every table was copied and everything that was committed was applied.
    fn catch_up(&self) -> Result<()> {
        let (mut source, mut target) = (self.source()?, self.target()?);
        within(PATIENCE, "the tables to be copied", || {
            target.one("SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'")
        })?;
        let now: String = source.one("SELECT pg_current_wal_lsn()::text")?;
        within(PATIENCE, "the subscriber to catch up", || {
            source.one(&format!(
                "SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'mirror' AND replay_lsn >= '{now}'"
            ))
        })
    }

    /// The subscriber holds what the publisher holds.
    fn ensure_alike(&self) -> Result<()> {
        self.catch_up()?;
        let (here, there) = (contents(&mut self.source()?)?, contents(&mut self.target()?)?);
        ensure!(here == there, "the publisher has {here:#?}\nthe subscriber has {there:#?}");
        Ok(())
    }

    /// Rules that the subscriber recorded, with outcome and table; the apply worker is whoever isn't a client.
    fn recorded(&self) -> Result<Rows> {
        let mut target = self.target()?;
        target.exec("SELECT holdfast.flush_events()")?;
        target.rows("SELECT DISTINCT rule, outcome, relation, tenant FROM holdfast.blocked_writes ORDER BY 1, 2, 3, 4")
    }

    /// No apply worker has failed.
    fn ensure_never_stopped(&self) -> Result<()> {
        let errors: i64 = self.target()?.one(
            "SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats WHERE subname = 'mirror'",
        )?;
        let log = self.subscription.cluster.log()?;
        let stops: Vec<&str> =
            log.lines().filter(|line| line.contains("logical replication") && line.contains("ERROR")).collect();
        ensure!(errors == 0 && stops.is_empty(), "{errors} errors: {stops:#?}");
        Ok(())
    }
}

/// What the application's own trigger writes on one side isn't written on the other, and unlogged tables aren't published.
fn contents(session: &mut Session) -> Result<Rows> {
    let mut rows = platform::contents(session)?;
    rows.retain(|row| !matches!(row.first().and_then(Option::as_deref), Some("audit" | "sessions")));
    Ok(rows)
}

/// Writes of every tenant: inserts, updates that move rows between tenants and partitions, deletes, truncates.
const CHANGES: [&str; 11] = [
    "INSERT INTO orders (tenant_id, net) SELECT t, n FROM unnest(ARRAY[10, 20, 30, 40, 50]) t, generate_series(1, 20) n",
    "UPDATE orders SET net = net + 1",
    "UPDATE orders SET tenant_id = 20 WHERE tenant_id = 10 AND net < 5",
    "DELETE FROM orders WHERE tenant_id IN (20, 40) AND net > 10",
    "UPDATE log SET at = '2020-01-01' WHERE tenant_id = 20 AND at > '2024-01-01'; INSERT INTO log VALUES (20, '2025-01-01', 'new')",
    "UPDATE vehicles SET wheels = 5; DELETE FROM assets WHERE id = 2",
    "UPDATE order_items SET order_id = order_id + 1; DELETE FROM orders WHERE id = 12; UPDATE tenant_20.settings SET value = 'x'",
    "UPDATE plans SET name = name || '!'; INSERT INTO ledger VALUES (5, 'x'); INSERT INTO sessions VALUES (5, now())",
    "BEGIN; SAVEPOINT s; DELETE FROM by_text; ROLLBACK TO s; UPDATE by_uuid SET id = id + 10; COMMIT",
    "UPDATE \"Billing Dept\".\"Invoice \"\"2\"\"\" SET total = total * 2",
    "TRUNCATE by_bigint, by_bytea; TRUNCATE log; INSERT INTO by_bytea VALUES (7, '\\x0b')",
];

fn rows_keep_arriving(cluster: &mut Cluster) -> Result<()> {
    let pair = Pair::subscribe(cluster, Platform::unguarded(cluster, "publisher")?, "FOR ALL TABLES")?;
    pair.ensure_alike()?;
    let mut source = pair.source()?;
    for change in CHANGES {
        source.exec(change)?;
        pair.ensure_alike()?;
    }
    // A big transaction, more tenants than are locked one by one.
    source.exec(
        "INSERT INTO orders (tenant_id, net) SELECT n % 500, n FROM generate_series(1, 20000) n; DELETE FROM orders",
    )?;
    pair.ensure_alike()?;
    pair.ensure_never_stopped()?;
    // The guard stands in the way of sessions all the while.
    let refusal = pair
        .target_database()
        .connect_as(&pair.subscription.there.legacy)?
        .refused("INSERT INTO log VALUES (20, '2024-06-06', 'x')")?;
    ensure!(refusal.code == "WG001", "{refusal:?}");
    Ok(())
}

fn would_be_refusals_are_recorded(cluster: &mut Cluster) -> Result<()> {
    let pair = Pair::subscribe(cluster, Platform::unguarded(cluster, "publisher")?, "FOR ALL TABLES")?;
    pair.source()?.exec("UPDATE orders SET net = 0 WHERE tenant_id IN (10, 20, 40)")?;
    pair.ensure_alike()?;
    let recorded = pair.recorded()?;
    let expected = |rule: &str, tenant: &str| {
        let row = [rule, "observed", "public.orders", tenant].map(|field| Some(field.to_owned()));
        recorded.iter().any(|found| *found == row)
    };
    ensure!(expected("not_owner", "20") && expected("tenant_frozen", "40"), "{recorded:#?}");
    ensure!(!expected("not_owner", "10"), "tenant 10 is legacy's, as the worker is: {recorded:#?}");
    let refused = recorded.iter().filter(|row| row.get(1) != Some(&Some("observed".to_owned()))).count();
    ensure!(refused == 0, "{recorded:#?}");
    pair.ensure_never_stopped()
}

fn ownership_arrives(cluster: &mut Cluster) -> Result<()> {
    let published = Platform::guarded(cluster, "publisher")?;
    // The subscriber has a policy of its own, and ownership from the publisher.
    let pair = Pair::subscribe(cluster, published, "FOR TABLE holdfast.ownership")?;
    let mut legacy = pair.target_database().connect_as(&pair.subscription.there.legacy)?;
    let mut rebuilt = pair.target_database().connect_as(&pair.subscription.there.rebuilt)?;
    let write = "INSERT INTO orders (tenant_id) VALUES (70)";
    for round in 0..3 {
        legacy.exec(write)?;
        ensure!(rebuilt.refused(write)?.code == "WG001", "round {round}");
        pair.source()?.exec("SELECT holdfast.cutover('70', 'rebuilt', require_ready => false)")?;
        pair.catch_up()?;
        rebuilt.exec(write)?;
        ensure!(legacy.refused(write)?.code == "WG001", "round {round}");
        pair.source()?.exec("SELECT holdfast.freeze('70', 'audit')")?;
        pair.catch_up()?;
        ensure!(rebuilt.refused(write)?.code == "WG002", "round {round}");
        pair.source()?.exec("SELECT holdfast.unfreeze('70')")?;
        pair.source()?.exec("SELECT holdfast.rollback_cutover('70')")?;
        pair.catch_up()?;
    }
    pair.ensure_never_stopped()
}

fn guarded_publisher(cluster: &mut Cluster) -> Result<()> {
    let published = Platform::guarded(cluster, "publisher")?;
    let pair = Pair::subscribe(
        cluster,
        published,
        "FOR TABLE customers, orders, order_items, shipments, plans, log, assets, vehicles",
    )?;
    let before = contents(&mut pair.target()?)?;
    let mut rebuilt = pair.published.database.connect_as(&pair.published.rebuilt)?;
    rebuilt.refused("UPDATE orders SET net = 1 WHERE tenant_id = 10")?;
    rebuilt.refused("TRUNCATE orders")?;
    pair.catch_up()?;
    ensure!(contents(&mut pair.target()?)? == before, "a refused write arrived");
    rebuilt.exec("UPDATE orders SET net = 1 WHERE tenant_id = 20")?;
    pair.published
        .database
        .connect_as(&pair.published.legacy)?
        .exec("UPDATE orders SET net = 2 WHERE tenant_id = 10")?;
    pair.catch_up()?;
    let arrived: bool = pair.target()?.one(
        "SELECT bool_and(net = 1) FILTER (WHERE tenant_id = 20) AND bool_and(net = 2) FILTER (WHERE tenant_id = 10) FROM orders",
    )?;
    ensure!(arrived);
    pair.ensure_never_stopped()
}
