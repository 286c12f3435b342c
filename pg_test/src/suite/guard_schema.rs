//! `guard_schema` says whose rows the tables of a schema hold, and guards what is certain.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::client::{Rows, Session};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_dry_run_tells_and_changes_nothing", dry_run),
        Test::shared("what_is_certain_is_guarded_parents_first", applied),
        Test::shared("waiting_for_one_table_keeps_no_other", polite),
        Test::shared("a_schema_can_belong_to_one_tenant", one_tenant),
        Test::shared("what_cannot_be_guarded_is_not_proposed", skipped),
        Test::shared("arguments_are_checked", arguments),
    ]
}

const SHOP: &str = "
    CREATE SCHEMA shop;
    SET search_path = shop;
    CREATE TABLE brokerages (id int PRIMARY KEY);
    CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL REFERENCES brokerages);
    CREATE TABLE aa_items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders);
    CREATE TABLE aa_shipments (id int PRIMARY KEY, item_id int REFERENCES aa_items);
    CREATE TABLE users (id int, brokerage int REFERENCES brokerages);
    CREATE TABLE transfers (id int, source int REFERENCES orders, target int REFERENCES orders);
    CREATE TABLE countries (code text PRIMARY KEY);
    CREATE TABLE prices (tenant_id numeric);
    CREATE TABLE sums (a int, tenant_id int GENERATED ALWAYS AS (a + 1) STORED);
    CREATE TABLE logs (id int, tenant_id int) PARTITION BY LIST (id);
    CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1);
    CREATE TABLE base (tenant_id int);
    CREATE TABLE heir () INHERITS (base);
    CREATE TABLE own (id int);
    SELECT holdfast.exempt_table('own');
    RESET search_path";

const PROPOSED: [&str; 13] = [
    "shop.base|tenant|tenant_id||guard|It has the column tenant_id.",
    "shop.brokerages|tenant|id||guard|The tenant columns of orders refer to its column id.",
    "shop.countries|global|||guard|It has no column tenant_id, and no foreign key of it leads to a tenant; nothing refers to it.",
    "shop.heir|tenant|tenant_id||guard|It has the column tenant_id.",
    "shop.logs|tenant|tenant_id||guard|It has the column tenant_id.",
    "shop.orders|tenant|tenant_id||guard|It has the column tenant_id.",
    "shop.own|exempt|||keep|It is classified already.",
    "shop.prices||||decide|Its column tenant_id can't be the tenant column: its type is numeric.",
    "shop.sums||||decide|Its column tenant_id can't be the tenant column: it is generated.",
    "shop.transfers||||decide|Several foreign keys lead to tenants: source → orders, nullable; target → orders, nullable.",
    "shop.users|tenant|brokerage||guard|Its column brokerage refers to the tenant column of brokerages.",
    "shop.aa_items|tenant||order_id|guard|Its tenant is that of its row in orders, by order_id.",
    "shop.aa_shipments|tenant||item_id|guard|Its tenant is that of its row in aa_items, by item_id; \
     a row where it is null belongs to everybody.",
];

fn lines(rows: &Rows) -> Vec<String> {
    let line = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.clone().unwrap_or_default()).collect::<Vec<_>>().join("|")
    };
    rows.iter().map(line).collect()
}

fn proposed(session: &mut Session, arguments: &str) -> Result<Vec<String>> {
    let columns = "relation, class, tenant_column, via, action, reason";
    Ok(lines(&session.rows(&format!("SELECT {columns} FROM holdfast.guard_schema({arguments})"))?))
}

fn same(told: &[String], expected: &[&str]) -> Result<()> {
    ensure!(told == expected, "told:\n{}\nexpected:\n{}", told.join("\n"), expected.join("\n"));
    Ok(())
}

fn dry_run(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    operator.exec(SHOP)?;
    let before = scene.policy()?;
    same(&proposed(&mut operator, "'shop'")?, &PROPOSED)?;
    ensure!(scene.policy()? == before, "a dry run has changed the policy");
    // Another name, another answer.
    let told = proposed(&mut operator, "'shop', tenant_column := 'nothing'")?;
    ensure!(told.iter().all(|line| !line.contains("tenant|")), "{told:?}");
    Ok(())
}

fn applied(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    operator.exec(SHOP)?;
    operator.exec("GRANT ALL ON SCHEMA shop TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA shop TO PUBLIC")?;
    let before = scene.policy()?;
    operator.exec("BEGIN; SELECT holdfast.guard_schema('shop', dry_run := false); ROLLBACK")?;
    ensure!(scene.policy()? == before, "it isn't all in the caller's transaction");
    same(&proposed(&mut operator, "'shop', dry_run := false")?, &PROPOSED)?;
    let coverage = "SELECT relation, class, tenant_column, via, guard FROM holdfast.coverage
        WHERE relation::text LIKE 'shop.%' AND class <> 'unclassified'";
    same(
        &lines(&operator.rows(coverage)?),
        &[
            "shop.aa_items|tenant||order_id|enabled",
            "shop.aa_shipments|tenant||item_id|enabled",
            "shop.base|tenant|tenant_id||enabled",
            "shop.brokerages|tenant|id||enabled",
            "shop.countries|global|||enabled",
            "shop.heir|tenant|tenant_id||enabled",
            "shop.logs|tenant|tenant_id||enabled",
            "shop.logs_1|tenant|tenant_id||enabled",
            "shop.orders|tenant|tenant_id||enabled",
            "shop.own|exempt|||",
            "shop.users|tenant|brokerage||enabled",
        ],
    )?;
    // A second time there is nothing left but what must be decided.
    let again = proposed(&mut operator, "'shop', dry_run := false")?;
    ensure!(again.iter().all(|line| line.contains("|keep|") || line.contains("|decide|")), "{again:?}");

    // And it is a guard: two foreign keys away, the tenant's owner decides.
    let mut legacy = scene.legacy()?;
    legacy.exec("INSERT INTO shop.brokerages VALUES (10); INSERT INTO shop.orders VALUES (1, 10); INSERT INTO shop.aa_items VALUES (1, 1)")?;
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'shop.aa_shipments')")?;
    let write = "INSERT INTO shop.aa_shipments VALUES (1, 1)";
    refused_by("not_owner", &scene.rebuilt()?.refused(write)?, write)?;
    legacy.exec(write)?;
    // The preview knows whose they are.
    let preview = "SELECT path, tenant, rows FROM holdfast.cascade_preview('shop.aa_shipments')";
    same(&lines(&operator.rows(preview)?), &["shop.aa_shipments|10|1"])
}

fn polite(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA busy; CREATE TABLE busy.a (tenant_id int); CREATE TABLE busy.b (tenant_id int);
         GRANT ALL ON SCHEMA busy TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA busy TO PUBLIC",
    )?;
    let mut holder = scene.legacy()?;
    holder.exec("BEGIN; INSERT INTO busy.b VALUES (10)")?;
    let guarding = operator.start("SELECT holdfast.guard_schema('busy', dry_run := false)");
    // A single attempt keeps a table for a moment only.
    let mut writer = scene.legacy()?;
    writer.exec("SET lock_timeout = '2 s'")?;
    for _ in 0..200 {
        writer.exec("INSERT INTO busy.a VALUES (10)")?;
    }
    holder.exec("COMMIT")?;
    let (mut operator, outcome) = guarding.finish()?;
    outcome?;
    let guards = "SELECT string_agg(guard, ',') FROM holdfast.coverage WHERE relation::text LIKE 'busy.%'";
    ensure!(operator.one::<String>(guards)? == "enabled,enabled");
    Ok(())
}

fn one_tenant(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    operator.exec(SHOP)?;
    operator.exec("GRANT ALL ON SCHEMA shop TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA shop TO PUBLIC")?;
    let told = operator.rows(
        "SELECT DISTINCT class, tenant_column, via, tenant, action FROM holdfast.guard_schema('shop',
        tenant := 'acme', dry_run := false) WHERE action <> 'keep'",
    )?;
    same(&lines(&told), &["tenant|||acme|guard"])?;
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'shop.countries')")?;
    let mut rebuilt = scene.rebuilt()?;
    let write = "INSERT INTO shop.countries VALUES ('de')";
    refused_by("not_owner", &rebuilt.refused(write)?, write)?;
    operator.exec("SELECT holdfast.cutover('acme', 'rebuilt')")?;
    rebuilt.exec(write)?;
    let preview = "SELECT DISTINCT tenant FROM holdfast.cascade_preview('shop.countries')";
    same(&lines(&operator.rows(preview)?), &["acme"])
}

fn skipped(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA odd;
         CREATE VIEW odd.v AS SELECT 1 AS tenant_id;
         CREATE MATERIALIZED VIEW odd.m AS SELECT 1 AS tenant_id;
         CREATE SEQUENCE odd.s;
         CREATE TYPE odd.c AS (tenant_id int);
         CREATE TABLE odd.\"T \"\"x\" (tenant_id int)",
    )?;
    let told = proposed(&mut operator, "'odd'")?;
    same(&told, &["odd.\"T \"\"x\"|tenant|tenant_id||guard|It has the column tenant_id."])?;
    operator.exec("SELECT holdfast.guard_schema('odd', dry_run := false)")?;
    // Names are taken as they are.
    operator.exec("CREATE SCHEMA \"Odd\"; CREATE TABLE \"Odd\".t (\"Tenant\" uuid)")?;
    let told = proposed(&mut operator, "'Odd', 'Tenant'")?;
    same(&told, &["\"Odd\".t|tenant|Tenant||guard|It has the column Tenant."])
}

fn arguments(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "guard_schema")?;
    let mut operator = scene.operator()?;
    for (arguments, code) in [
        ("NULL", "22004"),
        ("'public', NULL", "22004"),
        ("'public', dry_run := NULL", "22004"),
        ("'public', tenant := ''", "22023"),
        ("'PUBLIC'", "3F000"),
        ("'holdfast'", "42809"),
        ("'pg_catalog'", "42809"),
        ("'information_schema'", "42809"),
    ] {
        let refusal = operator.refused(&format!("SELECT holdfast.guard_schema({arguments})"))?;
        ensure!(refusal.code == code, "{arguments}: {refusal:?}");
    }
    Ok(())
}
