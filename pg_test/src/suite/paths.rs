//! Tenants that a row's own table doesn't name: the parent row's, at any depth, and a table's as a whole.

use anyhow::{Result, bail, ensure};

use super::Test;
use super::scene::Outcome::{Fails, Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_row_belongs_to_its_parents_tenant_at_any_depth", any_depth),
        Test::shared("foreign_keys_of_every_kind_lead_to_the_tenant", every_kind),
        Test::shared("a_parent_written_in_the_same_transaction_counts", same_transaction),
        Test::shared("a_parent_replaced_before_the_commit_is_noticed", replaced_parent),
        Test::shared("moving_parents_disturbs_nobody", moves_disturb_nobody),
        Test::shared("children_go_with_their_parent", go_with_the_parent),
        Test::shared("a_cascade_is_refused_where_it_reaches_too_far", cascades),
        Test::shared("a_table_may_belong_to_one_tenant", one_tenant),
        Test::shared("a_lost_foreign_key_stops_all_writes", lost_key),
        Test::shared("guard_table_says_why_a_way_leads_nowhere", leads_nowhere),
        Test::shared("a_parent_stays_a_tenant_table", stays_a_tenant_table),
    ]
}

/// `orders` is the scene's: 1 is tenant 10's, 2 is 20's, 4 is 40's, 9 is everybody's.
pub const TREE: &str = "
    CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE, note text);
    CREATE TABLE shipments (id int PRIMARY KEY, item_id bigint REFERENCES items ON DELETE CASCADE, note text);
    CREATE TABLE scans (shipment_id int REFERENCES shipments ON DELETE CASCADE, note text);
    SELECT holdfast.set_mode('off');
    INSERT INTO orders VALUES (21, 21, 'own too');
    SELECT holdfast.set_mode('enforce');
    INSERT INTO items VALUES (10, 1), (20, 2), (22, 2), (40, 4), (90, 9), (99, NULL), (210, 21);
    INSERT INTO shipments SELECT id, id FROM items;
    INSERT INTO scans SELECT id FROM shipments;
    GRANT ALL ON items, shipments, scans TO PUBLIC;
    SELECT holdfast.guard_table('items', via := 'order_id');
    SELECT holdfast.guard_table('shipments', via := 'item_id');
    SELECT holdfast.guard_table('scans', via := 'shipment_id');
    SELECT holdfast.allow_writes('rebuilt', 'items');
    SELECT holdfast.allow_writes('rebuilt', 'shipments');
    SELECT holdfast.allow_writes('rebuilt', 'scans')";

fn any_depth(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    scene.operator()?.exec(TREE)?;
    let mine = [
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 20", Passes),
        ("UPDATE scans SET note = 'x' WHERE shipment_id IN (20, 22)", Passes),
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 10", Refused("not_owner")),
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 40", Refused("not_owner")),
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 90", Refused("global_write")),
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 99", Refused("global_write")),
        ("UPDATE scans SET note = 'x' WHERE shipment_id IN (20, 210)", Refused("cross_tenant")),
        ("UPDATE scans SET shipment_id = 10 WHERE shipment_id = 20", Refused("not_owner")),
        ("UPDATE scans SET shipment_id = NULL WHERE shipment_id = 20", Refused("global_write")),
        ("INSERT INTO scans VALUES (20), (22)", Passes),
        ("INSERT INTO scans VALUES (20), (10)", Refused("not_owner")),
        ("INSERT INTO scans VALUES (NULL)", Refused("global_write")),
        ("INSERT INTO scans VALUES (12345)", Refused("global_write")),
        ("DELETE FROM scans WHERE shipment_id = 20", Passes),
        ("DELETE FROM scans WHERE shipment_id = 10", Refused("not_owner")),
        ("DELETE FROM shipments WHERE id = 20", Passes),
        ("INSERT INTO items VALUES (1000, 2)", Passes),
        ("INSERT INTO items VALUES (1000, 1)", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &mine)?;
    let legacys = [
        ("UPDATE scans SET note = 'x' WHERE shipment_id IN (10, 90, 99)", Passes),
        ("UPDATE scans SET note = 'x'", Refused("not_owner")),
        ("UPDATE scans SET note = 'x' WHERE shipment_id = 40", Refused("tenant_frozen")),
        ("INSERT INTO scans VALUES (10), (NULL), (90)", Passes),
        ("INSERT INTO scans VALUES (20)", Refused("not_owner")),
        ("INSERT INTO scans VALUES (12345)", Fails("23503")),
        ("UPDATE items SET order_id = 2 WHERE id = 10", Refused("not_owner")),
    ];
    scene.judge(&mut scene.legacy()?, &legacys)
}

fn every_kind(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec("GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE DOMAIN number AS int8")?;
    // The type of the parent's key, the child's, a key of tenant 10's parent, one of tenant 20's.
    let kinds = [
        ("int2", "int8", "1", "2"),
        ("int8", "int2", "1", "2"),
        ("int4", "number", "1", "2"),
        ("uuid", "uuid", "'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
        ("text", "varchar(9)", "'one'", "'two'"),
        ("varchar", "text", "'one'", "'two'"),
        ("char(4)", "char(4)", "'one'", "'two'"),
        ("numeric", "numeric", "1.0", "2.50"),
        ("date", "date", "'2026-01-01'", "'2026-01-02'"),
        ("bytea", "bytea", "'\\x01'", "'\\x02'"),
        ("text COLLATE \"C\"", "text COLLATE \"C\"", "'one'", "'two'"),
    ];
    for (n, (parents, childrens, legacys, rebuilts)) in kinds.iter().enumerate() {
        operator.exec(&format!(
            "CREATE TABLE parent_{n} (tenant_id int, key {parents} PRIMARY KEY);
             CREATE TABLE child_{n} (note text, key {childrens} REFERENCES parent_{n});
             INSERT INTO parent_{n} VALUES (10, {legacys}), (20, {rebuilts}); GRANT ALL ON parent_{n}, child_{n} TO PUBLIC;
             SELECT holdfast.guard_table('parent_{n}', 'tenant_id'), holdfast.guard_table('child_{n}', via := 'key');
             SELECT holdfast.allow_writes('rebuilt', 'child_{n}')"
        ))?;
        let (own, foreign) = (
            format!("INSERT INTO child_{n} (key) VALUES ({rebuilts}), ({rebuilts})"),
            format!("INSERT INTO child_{n} (key) VALUES ({rebuilts}), ({legacys})"),
        );
        scene.judge(&mut scene.rebuilt()?, &[(&own, Passes), (&foreign, Refused("not_owner"))])?;
        scene.judge(&mut scene.legacy()?, &[(&own, Refused("not_owner")), (&foreign, Refused("not_owner"))])?;
    }
    // Several columns, in another order than the key's; a parent in partitions with columns in another order; a child in
    // partitions; a table that refers to itself.
    operator.exec(
        "CREATE TABLE lots (region text, number int, tenant_id int, PRIMARY KEY (number, region)) PARTITION BY LIST (region);
         CREATE TABLE lots_eu (tenant_id int, gone int, number int NOT NULL, region text NOT NULL);
         ALTER TABLE lots_eu DROP COLUMN gone; ALTER TABLE lots ATTACH PARTITION lots_eu FOR VALUES IN ('eu');
         CREATE TABLE lots_us PARTITION OF lots FOR VALUES IN ('us') PARTITION BY RANGE (number);
         CREATE TABLE lots_us_1 PARTITION OF lots_us FOR VALUES FROM (0) TO (10);
         CREATE TABLE bids (day int, number int, region text, FOREIGN KEY (region, number) REFERENCES lots (region, number))
             PARTITION BY RANGE (day);
         CREATE TABLE bids_1 (region text, gone int, number int, day int); ALTER TABLE bids_1 DROP COLUMN gone;
         ALTER TABLE bids ATTACH PARTITION bids_1 FOR VALUES FROM (0) TO (10);
         INSERT INTO lots VALUES ('eu', 1, 10), ('eu', 2, 20), ('us', 1, 20), ('us', 2, 10);
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT holdfast.guard_table('lots', 'tenant_id'), holdfast.guard_table('bids', via := 'number');
         SELECT holdfast.allow_writes('rebuilt', 'bids'), holdfast.allow_writes('rebuilt', 'lots');
         CREATE TABLE bids_2 PARTITION OF bids FOR VALUES FROM (10) TO (20); GRANT ALL ON bids_2 TO PUBLIC",
    )?;
    let cases = [
        ("INSERT INTO bids VALUES (1, 2, 'eu'), (11, 1, 'us')", Passes),
        ("INSERT INTO bids_1 (day, number, region) VALUES (1, 2, 'eu')", Passes),
        ("INSERT INTO bids VALUES (1, 1, 'eu')", Refused("not_owner")),
        ("INSERT INTO bids VALUES (11, 2, 'us')", Refused("not_owner")),
        ("INSERT INTO bids_1 (day, number, region) VALUES (1, 1, 'eu')", Refused("not_owner")),
        ("INSERT INTO bids_2 VALUES (11, 2, 'us')", Refused("not_owner")),
        ("INSERT INTO bids VALUES (1, 2, NULL)", Refused("global_write")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn same_transaction(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    scene.operator()?.exec(TREE)?;
    let cases = [
        (
            "INSERT INTO orders VALUES (200, 20); INSERT INTO items VALUES (2000, 200); UPDATE items SET note = 'x' WHERE id = 2000",
            Passes,
        ),
        (
            "WITH o AS (INSERT INTO orders VALUES (200, 20) RETURNING id) INSERT INTO items SELECT 2000, id FROM o",
            Passes,
        ),
        ("UPDATE orders SET id = 200 WHERE id = 2; INSERT INTO items VALUES (2000, 200)", Passes),
        (
            "SAVEPOINT s; INSERT INTO orders VALUES (200, 20); INSERT INTO items VALUES (2000, 200); ROLLBACK TO s;
          INSERT INTO items VALUES (2000, 2)",
            Passes,
        ),
        ("INSERT INTO items VALUES (2000, 2); UPDATE orders SET tenant_id = 10 WHERE id = 2", Refused("not_owner")),
        (
            "SAVEPOINT s; INSERT INTO orders VALUES (200, 20); INSERT INTO items VALUES (2000, 200); ROLLBACK TO s;
          INSERT INTO items VALUES (2000, 200)",
            Refused("global_write"),
        ),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    // An old snapshot doesn't hide where the parent is now.
    let mut legacy = scene.legacy()?;
    legacy.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM orders")?;
    scene.operator()?.exec("INSERT INTO orders VALUES (300, 10)")?;
    scene.rebuilt()?.exec("INSERT INTO orders VALUES (200, 20)")?;
    let sql = "INSERT INTO items VALUES (2000, 200)";
    refused_by("not_owner", &legacy.refused(sql)?, sql)
}

/// A row with the parent's key takes its place, of a tenant that the child's writer may not write.
fn replaced_parent(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec(
        "INSERT INTO orders SELECT n, 10 FROM generate_series(300, 305) AS n;
         ALTER TABLE items ALTER CONSTRAINT items_order_id_fkey DEFERRABLE",
    )?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    let mut other = scene.legacy()?;
    // A deferred key; a row that was looked at but not written; a move, a key that changes.
    let cases = [
        (
            "SET CONSTRAINTS ALL DEFERRED; INSERT INTO items VALUES (1300, 300)",
            "DELETE FROM orders WHERE id = 300",
            "INSERT INTO orders VALUES (300, 20)",
            "",
        ),
        (
            "INSERT INTO items VALUES (20, 301) ON CONFLICT DO NOTHING",
            "DELETE FROM orders WHERE id = 301",
            "INSERT INTO orders VALUES (301, 20)",
            "INSERT INTO items VALUES (1301, 301)",
        ),
        (
            "SET CONSTRAINTS ALL DEFERRED; INSERT INTO items VALUES (1302, 302)",
            "UPDATE orders SET id = 390 WHERE id = 302",
            "INSERT INTO orders VALUES (302, 20)",
            "",
        ),
    ];
    for (writes, gives_way, takes_its_place, then) in cases {
        legacy.exec(&format!("BEGIN; {writes}"))?;
        other.exec(gives_way)?;
        rebuilt.exec(takes_its_place)?;
        let outcome = if then.is_empty() { Ok(()) } else { legacy.exec(then) };
        let refusal = match outcome {
            Ok(()) => legacy.refused("COMMIT")?,
            Err(error) => bail!("{then}: {error:#}"),
        };
        refused_by("not_owner", &refusal, "COMMIT").map_err(|e| e.context(writes))?;
    }
    // Moved away by its owner, then handed over: the writer had no part in it.
    legacy.exec("BEGIN; INSERT INTO items VALUES (1304, 304)")?;
    other.exec("UPDATE orders SET tenant_id = 15 WHERE id = 304")?;
    operator.exec("SELECT holdfast.cutover('15', 'rebuilt')")?;
    refused_by("not_owner", &legacy.refused("COMMIT")?, "COMMIT")?;
    // Nothing has changed hands: whatever else happens to parents, it commits.
    legacy.exec("BEGIN; INSERT INTO items VALUES (1305, 305)")?;
    other.exec("UPDATE orders SET tenant_id = 16 WHERE id = 305; DELETE FROM orders WHERE id = 303")?;
    legacy.exec("COMMIT")?;
    let foreign: i64 = operator.one("SELECT count(*) FROM items WHERE id BETWEEN 1300 AND 1304")?;
    ensure!(foreign == 0, "{foreign} rows");
    Ok(())
}

/// Legacy moves rows between its tenants as it always did.
fn moves_disturb_nobody(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec("INSERT INTO orders SELECT n, 1000 + n FROM generate_series(1000, 5000) AS n")?;
    let (mut one, mut two) = (scene.legacy()?, scene.legacy()?);
    // Of a great many tenants at once.
    one.exec("UPDATE orders SET tenant_id = tenant_id + 100000 WHERE id >= 1000")?;
    // While a move isn't committed, others write both tenants, and move rows of theirs.
    one.exec("BEGIN; UPDATE orders SET tenant_id = 7 WHERE id = 1000; INSERT INTO items VALUES (5000, 1001)")?;
    two.exec(
        "SET lock_timeout = '2 s'; BEGIN; UPDATE orders SET tenant_id = 7, note = 'x' WHERE id = 1001;
              INSERT INTO items VALUES (5001, 1002); COMMIT",
    )?;
    one.exec("UPDATE orders SET tenant_id = 8 WHERE id = 1002; COMMIT")?;
    // A transaction with an old snapshot isn't told apart, either.
    one.exec("BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE items SET note = 'y' WHERE id = 10")?;
    two.exec("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT note FROM items WHERE id = 10; UPDATE orders SET note = 'n' WHERE id = 1; COMMIT")?;
    one.exec("COMMIT")
}

fn go_with_the_parent(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec("SELECT holdfast.set_limits('rebuilt', tenants_per_statement := 2)")?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    rebuilt.exec("UPDATE scans SET note = 'x' WHERE shipment_id = 20")?;
    rebuilt.exec("UPDATE orders SET tenant_id = 21 WHERE id = 2")?;
    rebuilt.exec("UPDATE scans SET note = 'y' WHERE shipment_id = 20")?;
    operator.exec("SELECT holdfast.cutover('21', 'legacy')")?;
    let sql = "UPDATE scans SET note = 'z' WHERE shipment_id = 20";
    refused_by("not_owner", &rebuilt.refused(sql)?, sql)?;
    legacy.exec(sql)?;
    // And back, in the same session, with what it remembers.
    legacy.exec("UPDATE orders SET tenant_id = 11 WHERE id = 2")?;
    operator.exec("SELECT holdfast.cutover('11', 'rebuilt')")?;
    refused_by("not_owner", &legacy.refused(sql)?, sql)?;
    rebuilt.exec(sql)
}

fn cascades(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    operator.exec(
        "CREATE TABLE rates (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE);
         CREATE TABLE hints (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE SET NULL ON UPDATE CASCADE,
             tenant_id int);
         INSERT INTO hints VALUES (1, 2, 20); GRANT ALL ON rates, hints TO PUBLIC;
         SELECT holdfast.guard_global('rates'), holdfast.guard_table('hints', 'tenant_id');
         SELECT holdfast.allow_writes('rebuilt', 'hints', '{insert,delete}')",
    )?;
    let mut rebuilt = scene.rebuilt()?;
    // hints may not be updated, not even by a foreign key.
    let own = "DELETE FROM orders WHERE id = 2";
    scene.judge(&mut rebuilt, &[(own, Refused("outside_surface")), ("DELETE FROM orders WHERE id = 21", Passes)])?;
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'hints')")?;
    // A global table is reached where it has a row, and only there.
    scene.judge(&mut rebuilt, &[(own, Passes), ("UPDATE orders SET id = 200 WHERE id = 2", Passes)])?;
    operator.exec("INSERT INTO rates VALUES (1, 2)")?;
    scene.judge(&mut rebuilt, &[(own, Refused("cascade")), ("DELETE FROM orders WHERE id = 21", Passes)])?;
    operator.exec("DELETE FROM rates; SELECT holdfast.set_limits('rebuilt', cascade_rows := 6)")?;
    // Two items, two shipments, two scans, one hint.
    let refusal = rebuilt.refused(own)?;
    refused_by("cascade", &refusal, own)?;
    let detail = refusal.detail.clone().unwrap_or_default();
    ensure!(detail.contains("Limit: 6 per statement. Count: 7."), "{detail}");
    operator.exec("SELECT holdfast.set_limits('rebuilt', cascade_rows := 7)")?;
    scene.judge(&mut rebuilt, &[(own, Passes)])?;
    // A row of another tenant that hangs on one of ours, three keys away.
    operator.exec(
        "CREATE TABLE notes (id int, part int, scan int REFERENCES shipments ON DELETE CASCADE, tenant_id int,
             PRIMARY KEY (id, part));
         INSERT INTO notes VALUES (7, 8, 20, 10); GRANT ALL ON notes TO PUBLIC;
         SELECT holdfast.guard_table('notes', 'tenant_id'), holdfast.allow_writes('rebuilt', 'notes'),
             holdfast.set_limits('rebuilt', cascade_rows := -1)",
    )?;
    scene.judge(&mut rebuilt, &[(own, Refused("cascade"))])?;
    let detail = rebuilt.refused(own)?.detail.unwrap_or_default();
    for part in [
        "table \"public.notes\" for tenant \"10\", which backend \"legacy\" owns",
        "Path: orders \u{2192} items \u{2192} shipments \u{2192} notes.",
        "First row: notes (id, part) = (7, 8).",
    ] {
        ensure!(detail.contains(part), "{detail}\nlacks {part}");
    }
    // Legacy is bound by ownership alone.
    let sql = "DELETE FROM orders WHERE id = 1";
    scene.judge(&mut scene.legacy()?, &[(sql, Passes)])?;
    rebuilt.exec("UPDATE hints SET order_id = 1 WHERE id = 1")?;
    scene.judge(&mut scene.legacy()?, &[(sql, Refused("not_owner"))])
}

fn one_tenant(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY, note text);
         CREATE TABLE acme.items (id int, order_id int REFERENCES acme.orders ON DELETE CASCADE);
         INSERT INTO acme.orders VALUES (1, 'a'), (2, 'b'); INSERT INTO acme.items VALUES (1, 1);
         GRANT ALL ON SCHEMA acme TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA acme TO PUBLIC;
         SELECT holdfast.guard_table('acme.orders', tenant := 'acme'), holdfast.guard_table('acme.items', via := 'order_id');
         SELECT holdfast.allow_writes('rebuilt', 'acme.orders'), holdfast.allow_writes('rebuilt', 'acme.items')",
    )?;
    let writes = [
        "INSERT INTO acme.orders VALUES (3, 'c'), (4, 'd')",
        "UPDATE acme.orders SET note = 'x' WHERE id < 5",
        "INSERT INTO acme.items VALUES (5, 2)",
        "DELETE FROM acme.orders WHERE id = 1",
    ];
    let all = |outcome| writes.map(|sql| (sql, outcome));
    scene.judge(&mut scene.legacy()?, &all(Passes))?;
    scene.judge(&mut scene.rebuilt()?, &all(Refused("not_owner")))?;
    operator.exec("SELECT holdfast.cutover('acme', 'rebuilt')")?;
    scene.judge(&mut scene.rebuilt()?, &all(Passes))?;
    scene.judge(&mut scene.legacy()?, &all(Refused("not_owner")))?;
    operator.exec("SELECT holdfast.freeze('acme', 'audit')")?;
    scene.judge(&mut scene.rebuilt()?, &all(Refused("tenant_frozen")))
}

fn lost_key(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    let mode = |mode: &str| format!("SELECT holdfast.set_mode('{mode}', rule := 'guard_tampering')");
    let losses = [
        (
            "ALTER TABLE items DROP CONSTRAINT items_order_id_fkey",
            "ALTER TABLE items ADD CONSTRAINT items_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders NOT VALID",
        ),
        ("ALTER TABLE items RENAME order_id TO of", "ALTER TABLE items RENAME of TO order_id"),
        ("ALTER TABLE orders RENAME tenant_id TO of", "ALTER TABLE orders RENAME of TO tenant_id"),
    ];
    for (loss, repair) in losses {
        operator.exec(&mode("observe"))?;
        operator.exec(loss)?;
        operator.exec(&mode("enforce"))?;
        for sql in
            ["INSERT INTO items VALUES (1000, 1)", "INSERT INTO shipments VALUES (1000, 10)", "DELETE FROM scans"]
        {
            refused_by("guard_tampering", &scene.legacy()?.refused(sql)?, sql).map_err(|e| e.context(loss))?;
        }
        operator.exec(repair)?;
        scene.judge(&mut scene.legacy()?, &[("INSERT INTO shipments VALUES (1000, 10)", Passes)])?;
    }
    Ok(())
}

fn leads_nowhere(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE free (id int UNIQUE, order_id int, plan int REFERENCES plans, loose_id int,
             self int REFERENCES free (id), a int REFERENCES orders, b int,
             made int GENERATED ALWAYS AS (b) STORED REFERENCES orders);
         ALTER TABLE loose ADD UNIQUE (id); ALTER TABLE free ADD FOREIGN KEY (loose_id) REFERENCES loose (id);
         CREATE TABLE pairs (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE more (a int, c int, PRIMARY KEY (a, c));
         CREATE TABLE twice (a int, b int, c int, FOREIGN KEY (a, b) REFERENCES pairs, FOREIGN KEY (a, c) REFERENCES more);
         CREATE TABLE wide (n numeric PRIMARY KEY); CREATE TABLE narrow (n int REFERENCES wide)",
    )?;
    let cases = [
        ("'free', via := 'order_id'", "42830", "No foreign key"),
        ("'free', via := 'made'", "42P10", "generated"),
        ("'free', via := 'nothing'", "42703", "no column"),
        ("'free', via := 'plan'", "55000", "no tenants"),
        ("'free', via := 'loose_id'", "55000", "no tenants"),
        ("'free', via := 'self'", "55000", "no tenants"),
        ("'twice', via := 'a'", "42P08", "Several foreign keys"),
        ("'narrow', via := 'n'", "42804", "conversion"),
        ("'free'", "22023", ""),
        ("'free', 'a', 'a'", "22023", ""),
        ("'free', tenant := ''", "22023", ""),
    ];
    let before = scene.policy()?;
    for (arguments, code, detail) in cases {
        let refusal = operator.refused(&format!("SELECT holdfast.guard_table({arguments})"))?;
        let told = refusal.detail.clone().unwrap_or_default();
        ensure!(refusal.code == code && told.contains(detail) && refusal.hint.is_some(), "{arguments}: {refusal:?}");
    }
    ensure!(scene.policy()? == before, "nothing has changed");
    // Guarded once by its own column, a table that refers to itself can't be sent in a circle.
    operator.exec("SELECT holdfast.guard_table('free', via := 'a')")?;
    let refusal = operator.refused("SELECT holdfast.guard_table('free', via := 'self')")?;
    ensure!(refusal.code == "55000", "{refusal:?}");
    Ok(())
}

fn stays_a_tenant_table(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "paths")?;
    let mut operator = scene.operator()?;
    operator.exec(TREE)?;
    for call in ["unguard_table('orders')", "guard_global('items')", "exempt_table('shipments')"] {
        let refusal = operator.refused(&format!("SELECT holdfast.{call}"))?;
        ensure!(refusal.code == "2BP01" && refusal.hint.is_some(), "{call}: {refusal:?}");
    }
    operator.exec("SELECT holdfast.unguard_table('scans'), holdfast.unguard_table('shipments')")?;
    Ok(())
}
