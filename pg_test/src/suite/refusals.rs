//! Each rule of today refuses what it should, says so in every field a driver reads, and lets the rest pass.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Fails, Passes, Refused};
use super::scene::{Outcome, Scene};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_rule_speaks_in_all_fields", every_rule_speaks_in_all_fields),
        Test::shared("a_refusal_is_recorded_with_who_what_and_whose", recorded_with_who_what_and_whose),
        Test::shared("rebuilt_is_bound_by_every_rule", rebuilt_is_bound_by_every_rule),
        Test::shared("legacy_is_bound_by_ownership_alone", legacy_is_bound_by_ownership_alone),
        Test::shared("truncate_of_a_frozen_tenant_says_so", truncate_of_a_frozen_tenant_says_so),
        Test::shared("the_unidentified_write_nothing_guarded", the_unidentified_write_nothing_guarded),
        Test::shared("writes_without_a_condition", writes_without_a_condition),
        Test::shared("destructive_commands_by_every_way", destructive_commands_by_every_way),
    ]
}

/// Who, the statement, then message, DETAIL, HINT, table (in schema public).
struct Spoken {
    legacy: bool,
    sql: &'static str,
    rule: &'static str,
    message: &'static str,
    detail: &'static str,
    hint: &'static str,
    table: &'static str,
}

const SPOKEN: [Spoken; 10] = [
    Spoken {
        legacy: false,
        sql: "UPDATE orders SET note = 'x' WHERE id = 1",
        rule: "not_owner",
        message: "backend \"rebuilt\" may not write tenant \"10\"",
        detail: "Backend \"rebuilt\" attempted UPDATE on table \"public.orders\" for tenant \"10\", which backend \"legacy\" owns. Rule: not_owner.",
        hint: "Retry on backend \"legacy\", or hand the tenant over: SELECT holdfast.cutover('10', 'rebuilt');",
        table: "orders",
    },
    Spoken {
        legacy: true,
        sql: "DELETE FROM orders WHERE id = 2",
        rule: "not_owner",
        message: "backend \"legacy\" may not write tenant \"20\"",
        detail: "Backend \"legacy\" attempted DELETE on table \"public.orders\" for tenant \"20\", which backend \"rebuilt\" owns. Rule: not_owner.",
        hint: "Retry on backend \"rebuilt\", or hand the tenant over: SELECT holdfast.cutover('20', 'legacy');",
        table: "orders",
    },
    Spoken {
        legacy: true,
        sql: "TRUNCATE orders",
        rule: "not_owner",
        message: "backend \"legacy\" may not TRUNCATE table \"orders\" of other owners' tenants",
        detail: "Backend \"legacy\" attempted TRUNCATE on table \"public.orders\" for tenant \"20\", which backend \"rebuilt\" owns. It may hold rows of tenant \"20\", among others. Rule: not_owner.",
        hint: "Delete the rows of your own tenants instead: DELETE ... WHERE names them.",
        table: "orders",
    },
    Spoken {
        legacy: true,
        sql: "INSERT INTO orders VALUES (6, 40)",
        rule: "tenant_frozen",
        message: "tenant \"40\" is frozen",
        detail: "Backend \"legacy\" attempted INSERT on table \"public.orders\" for tenant \"40\", which backend \"legacy\" owns. The tenant is frozen: audit. Rule: tenant_frozen.",
        hint: "Retry when the freeze has ended; an operator ends it with SELECT holdfast.unfreeze('40');",
        table: "orders",
    },
    Spoken {
        legacy: false,
        sql: "INSERT INTO loose VALUES (1)",
        rule: "outside_surface",
        message: "backend \"rebuilt\" may not insert into table \"loose\"",
        detail: "Backend \"rebuilt\" attempted INSERT on table \"public.loose\". The table is unclassified. Rule: outside_surface.",
        hint: "Classify the table first: SELECT holdfast.guard_table('public.loose', tenant_column => '...'); or holdfast.guard_global('public.loose'), or holdfast.exempt_table('public.loose').",
        table: "loose",
    },
    Spoken {
        legacy: false,
        sql: "DELETE FROM ledger WHERE id = 1",
        rule: "outside_surface",
        message: "backend \"rebuilt\" may not delete from table \"ledger\"",
        detail: "Backend \"rebuilt\" attempted DELETE on table \"public.ledger\". The table is private to backend \"legacy\". Rule: outside_surface.",
        hint: "Write it through backend \"legacy\".",
        table: "ledger",
    },
    Spoken {
        legacy: false,
        sql: "UPDATE plans SET name = 'x' WHERE id = 1",
        rule: "global_write",
        message: "backend \"rebuilt\" may not update global table \"plans\"",
        detail: "Backend \"rebuilt\" attempted UPDATE on table \"public.plans\". Rows of the table belong to every tenant. Rule: global_write.",
        hint: "If it should, allow it: SELECT holdfast.allow_writes('rebuilt', 'public.plans', '{update}');",
        table: "plans",
    },
    Spoken {
        legacy: false,
        sql: "UPDATE orders SET note = 'x' WHERE id = 9",
        rule: "global_write",
        message: "backend \"rebuilt\" may not UPDATE global rows of table \"orders\"",
        detail: "Backend \"rebuilt\" attempted UPDATE on table \"public.orders\". Column \"tenant_id\" is null, so the row belongs to every tenant. Rule: global_write.",
        hint: "Set \"tenant_id\", or have a proven backend write the row.",
        table: "orders",
    },
    Spoken {
        legacy: false,
        sql: "DELETE FROM orders",
        rule: "unfiltered_write",
        message: "DELETE without a condition on table \"orders\"",
        detail: "Backend \"rebuilt\" attempted DELETE on table \"public.orders\". No condition limits the rows of the table. Rule: unfiltered_write.",
        hint: "Add a WHERE clause that limits the rows, for example to one tenant.",
        table: "orders",
    },
    Spoken {
        legacy: false,
        sql: "TRUNCATE plans",
        rule: "destructive_command",
        message: "backend \"rebuilt\" may not TRUNCATE table \"plans\"",
        detail: "Backend \"rebuilt\" attempted TRUNCATE on table \"public.plans\". Rule: destructive_command.",
        hint: "Have a database administrator run it through a role of a proven backend.",
        table: "plans",
    },
];

fn every_rule_speaks_in_all_fields(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    for case in &SPOKEN {
        let session = if case.legacy { &mut legacy } else { &mut rebuilt };
        let refusal = session.refused(case.sql)?;
        super::scene::refused_by(case.rule, &refusal, case.sql)?;
        ensure!(refusal.message == case.message, "{}\n{refusal:?}", case.sql);
        ensure!(refusal.detail.as_deref() == Some(case.detail), "{}\n{refusal:?}", case.sql);
        ensure!(refusal.hint.as_deref() == Some(case.hint), "{}\n{refusal:?}", case.sql);
        ensure!(refusal.schema.as_deref() == Some("public"), "{}\n{refusal:?}", case.sql);
        ensure!(refusal.table.as_deref() == Some(case.table), "{}\n{refusal:?}", case.sql);
    }
    Ok(())
}

fn recorded_with_who_what_and_whose(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let mut client = scene.database.session().role(&scene.rebuilt).application_name("checkout").connect()?;
    let sql = "UPDATE orders SET note = 'é''\\' WHERE id = 1";
    client.exec("BEGIN; UPDATE orders SET note = 'kept by nobody' WHERE id = 2")?;
    let refusal = client.refused(sql)?;
    client.exec("ROLLBACK")?;
    // No flush: the event was committed before the refusal was seen.
    let mut operator = scene.operator()?;
    let row = operator.query_one(
        "SELECT backend, rule, sqlstate, outcome, command, relation, tenant, owner, usename, application_name,
                client_addr::text, pid::text, query, message, occurrences::text
         FROM holdfast.blocked_writes",
        &[],
    )?;
    let pid = client.pid().to_string();
    let expected = [
        Some("rebuilt"),
        Some("not_owner"),
        Some("WG001"),
        Some("refused"),
        Some("UPDATE"),
        Some("public.orders"),
        Some("10"),
        Some("legacy"),
        Some(&*scene.rebuilt),
        Some("checkout"),
        None,
        Some(&*pid),
        Some("UPDATE orders SET note = $1 WHERE id = $2"),
        Some(&*refusal.message),
        Some("1"),
    ];
    for (column, expected) in expected.into_iter().enumerate() {
        let value: Option<String> = row.try_get(column)?;
        ensure!(value.as_deref() == expected, "column {column}: {value:?} instead of {expected:?}");
    }
    ensure!(operator.one::<String>("SELECT note FROM orders WHERE id = 2")? == "b");
    Ok(())
}

const REBUILT: [(&str, Outcome); 24] = [
    ("INSERT INTO orders VALUES (6, 20)", Passes),
    ("UPDATE orders SET note = 'x' WHERE id = 2", Passes),
    ("UPDATE orders SET tenant_id = 21 WHERE id = 2", Refused("cross_tenant")),
    ("DELETE FROM orders WHERE tenant_id = 20", Passes),
    ("INSERT INTO sessions VALUES (1)", Passes),
    ("UPDATE orders SET note = 'x' WHERE id = 77", Passes),
    ("INSERT INTO orders VALUES (6, 10)", Refused("not_owner")),
    ("INSERT INTO orders VALUES (6, 20), (7, 10)", Refused("not_owner")),
    ("UPDATE orders SET note = 'x' WHERE id = 1", Refused("not_owner")),
    ("UPDATE orders SET tenant_id = 10 WHERE id = 2", Refused("not_owner")),
    ("UPDATE orders SET tenant_id = 20 WHERE id = 1", Refused("not_owner")),
    ("DELETE FROM orders WHERE id = 1", Refused("not_owner")),
    ("DELETE FROM orders WHERE id = 4", Refused("not_owner")),
    ("DELETE FROM orders WHERE id = 5", Refused("tenant_frozen")),
    ("UPDATE orders SET tenant_id = 50 WHERE id = 2", Refused("tenant_frozen")),
    ("INSERT INTO orders VALUES (6, NULL)", Refused("global_write")),
    ("UPDATE orders SET tenant_id = NULL WHERE id = 2", Refused("global_write")),
    ("UPDATE orders SET tenant_id = 20 WHERE id = 9", Refused("global_write")),
    ("INSERT INTO plans VALUES (2, 'x')", Refused("global_write")),
    ("DELETE FROM plans WHERE id = 1", Refused("global_write")),
    ("INSERT INTO loose VALUES (1)", Refused("outside_surface")),
    ("INSERT INTO ledger VALUES (1)", Refused("outside_surface")),
    ("TRUNCATE sessions", Refused("destructive_command")),
    ("UPDATE orders SET nothing = 1 WHERE id = 1", Fails("42703")),
];

fn rebuilt_is_bound_by_every_rule(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    scene.judge(&mut scene.rebuilt()?, &REBUILT)
}

fn legacy_is_bound_by_ownership_alone(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let cases = [
        ("INSERT INTO orders VALUES (6, 10), (7, 11), (8, NULL)", Passes),
        ("UPDATE orders SET tenant_id = 11, note = 'x' WHERE id = 1", Passes),
        ("UPDATE orders SET tenant_id = NULL WHERE id = 1", Passes),
        ("DELETE FROM orders WHERE id = 9", Passes),
        ("UPDATE plans SET name = 'x'", Passes),
        ("DELETE FROM plans", Passes),
        ("TRUNCATE plans, loose, ledger", Passes),
        ("INSERT INTO loose VALUES (1)", Passes),
        ("INSERT INTO ledger VALUES (1)", Passes),
        ("INSERT INTO orders VALUES (6, 20)", Refused("not_owner")),
        ("UPDATE orders SET tenant_id = 20 WHERE id = 1", Refused("not_owner")),
        ("UPDATE orders SET tenant_id = 10 WHERE id = 2", Refused("not_owner")),
        ("UPDATE orders SET note = 'x'", Refused("not_owner")),
        ("DELETE FROM orders WHERE id = 5", Refused("not_owner")),
        ("DELETE FROM orders WHERE id = 4", Refused("tenant_frozen")),
        ("TRUNCATE orders", Refused("not_owner")),
        ("TRUNCATE plans, orders", Refused("not_owner")),
    ];
    scene.judge(&mut scene.legacy()?, &cases)?;
    // A superuser is the default backend, and as bound as the application.
    scene.judge(&mut scene.operator()?, &cases)
}

/// Not `not_owner`, which would send a router to the backend that it comes from.
fn truncate_of_a_frozen_tenant_says_so(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    for tenant in ["20", "21", "50"] {
        scene.operator()?.exec(&format!("SELECT holdfast.rollback_cutover('{tenant}')"))?;
    }
    scene.judge(&mut scene.legacy()?, &[("TRUNCATE orders", Refused("tenant_frozen"))])
}

fn the_unidentified_write_nothing_guarded(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    scene.operator()?.exec("SELECT holdfast.set_default_backend(NULL)")?;
    let mut nobody = scene.operator()?;
    let refusal = nobody.refused("DELETE FROM plans WHERE id = 1")?;
    ensure!(refusal.message == "role \"postgres\" belongs to no backend and may not write guarded tables");
    ensure!(
        refusal.hint.as_deref()
            == Some("Say which backend it is: SELECT holdfast.add_identity('...', role => 'postgres');")
    );
    let cases = [
        ("SELECT * FROM orders FOR UPDATE", Passes),
        ("INSERT INTO loose VALUES (1)", Passes),
        ("INSERT INTO sessions VALUES (1)", Passes),
        ("INSERT INTO orders VALUES (6, 10)", Refused("unidentified")),
        ("UPDATE orders SET note = 'x' WHERE id = 1", Refused("unidentified")),
        ("DELETE FROM orders", Refused("unidentified")),
        ("INSERT INTO plans VALUES (2)", Refused("unidentified")),
        ("INSERT INTO ledger VALUES (2)", Refused("unidentified")),
        ("TRUNCATE orders", Refused("unidentified")),
        ("TRUNCATE loose, plans", Refused("unidentified")),
        ("DROP TABLE orders", Refused("unidentified")),
        ("DROP TABLE plans", Refused("unidentified")),
    ];
    scene.judge(&mut nobody, &cases)
}

fn writes_without_a_condition(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    scene.operator()?.exec(
        "SELECT holdfast.allow_writes('rebuilt', 'plans');
         DELETE FROM orders WHERE tenant_id IS NULL OR tenant_id = 10;
         SELECT holdfast.unfreeze('50')",
    )?;
    scene.operator()?.exec("SELECT holdfast.unfreeze('40')")?;
    scene.operator()?.exec("DELETE FROM orders WHERE tenant_id = 40")?;
    let unfiltered = Refused("unfiltered_write");
    // Only rebuilt's rows are left, so that nothing but the missing condition is wrong with these.
    let cases = [
        ("UPDATE orders SET note = 'x' WHERE tenant_id = 20", Passes),
        ("UPDATE orders SET note = 'x' FROM plans WHERE plans.id = orders.id", Passes),
        ("DELETE FROM orders WHERE id IN (SELECT id FROM plans)", Passes),
        ("DELETE FROM orders WHERE false", Passes),
        ("DELETE FROM plans WHERE id > 5", Passes),
        ("DELETE FROM sessions", Passes),
        ("INSERT INTO orders VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET note = 'x'", Passes),
        ("UPDATE orders SET note = 'x'", unfiltered),
        ("DELETE FROM orders", unfiltered),
        ("DELETE FROM orders WHERE true", unfiltered),
        ("DELETE FROM orders WHERE 1 = 1 OR id = 3", unfiltered),
        ("UPDATE orders SET note = 'x' FROM plans", unfiltered),
        ("DELETE FROM orders USING plans WHERE plans.id = 1", unfiltered),
        ("DELETE FROM orders RETURNING id", unfiltered),
        ("UPDATE plans SET name = 'x'", unfiltered),
        ("WITH gone AS (DELETE FROM orders RETURNING id) SELECT count(*) FROM gone", unfiltered),
        ("WITH gone AS (DELETE FROM orders RETURNING id) INSERT INTO sessions SELECT id FROM gone", unfiltered),
        ("WITH gone AS (DELETE FROM orders RETURNING id) UPDATE plans SET name = 'x' WHERE id = 1", unfiltered),
        ("PREPARE everything AS DELETE FROM orders; EXECUTE everything", unfiltered),
        ("DO $$ BEGIN DELETE FROM orders; END $$", unfiltered),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn destructive_commands_by_every_way(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "refusals")?;
    let mut owner = scene.rebuilt()?;
    // The rebuilt backend's role owns these, so Postgres itself would let it.
    scene.operator()?.exec(&format!("GRANT CREATE ON DATABASE {} TO {}", scene.database.name, scene.rebuilt))?;
    owner.exec(
        "CREATE SCHEMA own CREATE TABLE things (id int PRIMARY KEY, name text DEFAULT 'x' CHECK (name <> ''));
         CREATE VIEW own.names AS SELECT name FROM own.things;
         CREATE INDEX ON own.things (name);
         CREATE SEQUENCE own.numbers;
         CREATE TYPE own.mood AS ENUM ('good');
         CREATE DOMAIN own.word AS text;
         CREATE FUNCTION own.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE own.parts (id int REFERENCES own.things);
         CREATE FUNCTION own.drop_it() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE own.parts; END'",
    )?;
    let refused = Refused("destructive_command");
    let cases = [
        ("DROP TABLE IF EXISTS nothing", Passes),
        ("DROP TABLE nothing", Fails("42P01")),
        ("CREATE TABLE own.more (id int)", Passes),
        ("ALTER TABLE own.nothing ADD COLUMN added int", Fails("42P01")),
        ("ALTER TABLE IF EXISTS own.nothing ADD COLUMN added int", Passes),
        ("CREATE TABLE own.copy AS TABLE own.things", Passes),
        ("CREATE INDEX ON own.parts (id)", Passes),
        ("ALTER TABLE own.things ADD COLUMN added int", refused),
        ("ALTER TABLE own.parts ALTER COLUMN id TYPE bigint", refused),
        ("CLUSTER own.things USING things_pkey", Passes),
        ("DROP TABLE own.parts", refused),
        ("DROP TABLE own.things CASCADE", refused),
        ("DROP VIEW own.names", refused),
        ("DROP INDEX own.things_name_idx", refused),
        ("DROP SEQUENCE own.numbers", refused),
        ("DROP FUNCTION own.one()", refused),
        ("DROP TYPE own.mood", refused),
        ("DROP DOMAIN own.word", refused),
        ("DROP SCHEMA own CASCADE", refused),
        ("DROP OWNED BY CURRENT_USER", refused),
        ("ALTER TABLE own.parts DROP CONSTRAINT parts_id_fkey", refused),
        ("ALTER TABLE own.things DROP COLUMN name CASCADE", refused),
        ("ALTER TABLE own.things DROP COLUMN id CASCADE", refused),
        ("SELECT own.drop_it()", refused),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE own.parts'; END $$", refused),
        ("TRUNCATE own.parts", refused),
        ("TRUNCATE own.things CASCADE", refused),
        ("TRUNCATE orders", Refused("destructive_command")),
    ];
    scene.judge(&mut owner, &cases)?;
    // What is its own by policy it may empty and drop.
    scene.operator()?.exec("SELECT holdfast.exempt_table('own.parts', 'rebuilt')")?;
    scene.judge(
        &mut owner,
        &[
            ("TRUNCATE own.parts", Passes),
            ("ALTER TABLE own.parts ADD COLUMN added serial, ADD PRIMARY KEY (added)", Passes),
            (
                "ALTER TABLE own.parts ADD COLUMN long text; CREATE INDEX ON own.parts (long); DROP TABLE own.parts",
                Passes,
            ),
        ],
    )
}
