//! `guard_tampering` by commands: nobody takes the guard apart, a superuser of the proven backend included.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{self, Fails, Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_whole_guard_stays_whole", a_whole_guard_stays_whole),
        Test::shared("a_guard_of_partitions_stays_whole", partitions),
        Test::shared("a_tenant_column_keeps_its_name_and_nature", tenant_columns),
        Test::shared("what_tells_a_tenant_is_not_swapped_in_one_command", swaps),
        Test::shared("parts_of_the_extension_cant_be_changed", parts_of_the_extension),
        Test::shared("nothing_comes_into_the_extensions_schema", nothing_comes_in),
        Test::shared("own_tables_are_written_by_their_functions_only", own_tables),
        Test::shared("grants_open_no_more_than_grant_operator", grants),
        Test::shared("every_backend_is_bound", every_backend_is_bound),
        Test::shared("the_mode_decides", the_mode_decides),
        Test::shared("a_policy_that_comes_while_a_command_runs_is_for_later_ones", policy_in_the_middle),
        Test::shared("refusals_say_what_would_be_damaged", refusals_say_what),
        Test::shared("shadowing_objects_of_the_extension_changes_nothing", shadowing),
    ]
}

const TAMPERING: Outcome = Refused("guard_tampering");

const TOUCH: &str = "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'";

fn a_whole_guard_stays_whole(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(&format!(
        "{TOUCH}; CREATE TRIGGER early BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch()"
    ))?;
    let cases = [
        ("ALTER TABLE orders DISABLE TRIGGER \"~holdfast_guard\"", TAMPERING),
        ("ALTER TABLE orders DISABLE TRIGGER ALL", TAMPERING),
        ("ALTER TABLE orders DISABLE TRIGGER USER", TAMPERING),
        ("ALTER TABLE orders ENABLE TRIGGER \"~holdfast_guard\"", TAMPERING),
        ("ALTER TABLE orders ENABLE TRIGGER ALL", TAMPERING),
        ("ALTER TABLE orders ENABLE REPLICA TRIGGER \"~holdfast_guard\"", TAMPERING),
        ("ALTER TABLE orders ENABLE ALWAYS TRIGGER \"~holdfast_guard\"", Passes),
        ("ALTER TABLE orders DISABLE TRIGGER early", Passes),
        ("ALTER TABLE orders ADD COLUMN x int, DISABLE TRIGGER ALL", TAMPERING),
        ("DROP TRIGGER \"~holdfast_guard\" ON orders", TAMPERING),
        ("DROP TRIGGER early ON orders", Passes),
        ("ALTER TRIGGER \"~holdfast_guard\" ON orders RENAME TO guard", TAMPERING),
        ("ALTER TRIGGER early ON orders RENAME TO \"~late\"", TAMPERING),
        ("ALTER TRIGGER early ON orders RENAME TO earlier", Passes),
        ("CREATE TRIGGER \"~late\" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()", TAMPERING),
        ("CREATE TRIGGER \"ü\" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()", TAMPERING),
        ("CREATE TRIGGER \"~late\" AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()", Passes),
        ("CREATE TRIGGER \"~late\" BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION touch()", Passes),
        ("CREATE TRIGGER \"~late\" BEFORE INSERT ON loose FOR EACH ROW EXECUTE FUNCTION touch()", Passes),
        (
            "CREATE OR REPLACE TRIGGER \"~holdfast_guard\" BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION touch()",
            TAMPERING,
        ),
        ("DO $$ BEGIN EXECUTE 'ALTER TABLE orders DISABLE TRIGGER ALL'; END $$", TAMPERING),
        ("SAVEPOINT s; ALTER TABLE orders DISABLE TRIGGER ALL", TAMPERING),
        // With the table the guard may go, and out of the guard, what hung on it.
        ("DROP TABLE orders", Passes),
        ("SELECT holdfast.unguard_table('orders'); ALTER TABLE orders DISABLE TRIGGER ALL", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)
}

fn partitions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(&format!(
        "{TOUCH};
         CREATE TABLE log (id int, tenant_id int) PARTITION BY LIST (id);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1); CREATE TABLE log_2 (id int, tenant_id int);
         SELECT holdfast.guard_table('log', 'tenant_id')"
    ))?;
    let cases = [
        ("ALTER TABLE log DISABLE TRIGGER ALL", TAMPERING),
        ("ALTER TABLE log_1 DISABLE TRIGGER ALL", TAMPERING),
        ("ALTER TABLE ONLY log ENABLE REPLICA TRIGGER \"~holdfast_guard\"", TAMPERING),
        ("CREATE TRIGGER \"~late\" BEFORE INSERT ON log_1 FOR EACH ROW EXECUTE FUNCTION touch()", TAMPERING),
        ("ALTER TABLE log RENAME tenant_id TO tenant", TAMPERING),
        ("ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)", Passes),
        ("ALTER TABLE log DETACH PARTITION log_1", Passes),
        ("CREATE TABLE log_3 PARTITION OF log FOR VALUES IN (3); DROP TABLE log_1", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)
}

fn tenant_columns(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(
        "CREATE DOMAIN key AS int; CREATE TYPE shape AS (id int, tenant_id key);
         CREATE TABLE typed OF shape; SELECT holdfast.guard_table('typed', 'tenant_id')",
    )?;
    let cases = [
        ("ALTER TABLE orders RENAME tenant_id TO brokerage_id", TAMPERING),
        ("ALTER TABLE orders DROP COLUMN tenant_id", TAMPERING),
        ("ALTER TABLE orders ALTER tenant_id TYPE numeric", TAMPERING),
        ("ALTER TABLE orders ALTER tenant_id TYPE bigint", TAMPERING),
        ("ALTER TABLE orders RENAME extra TO more", Passes),
        (
            "ALTER TABLE orders DROP COLUMN tenant_id, ADD COLUMN tenant_id int GENERATED ALWAYS AS (id) STORED",
            TAMPERING,
        ),
        // By way of the type.
        ("ALTER TYPE shape DROP ATTRIBUTE tenant_id CASCADE", TAMPERING),
        ("ALTER TYPE shape RENAME ATTRIBUTE tenant_id TO tenant CASCADE", TAMPERING),
        ("DROP DOMAIN key CASCADE", TAMPERING),
        ("DROP TYPE shape CASCADE", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)
}

/// Commands that leave a column of the right name, type and foreign key behind, by which rows have other tenants.
fn swaps(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(
        "CREATE TABLE items (id int PRIMARY KEY, order_id int CONSTRAINT to_order REFERENCES orders);
         CREATE TABLE archive (id int PRIMARY KEY, tenant_id int); INSERT INTO archive VALUES (1, 20), (2, 10);
         CREATE TABLE outside (id int NOT NULL, tenant_id int) PARTITION BY LIST (id); SELECT holdfast.exempt_table('outside');
         CREATE TABLE unsaid (id int NOT NULL, tenant_id int) PARTITION BY LIST (id);
         CREATE TABLE base (tenant_id int, note text); CREATE TABLE heir () INHERITS (base);
         CREATE TYPE row_type AS (id int, tenant_id int); CREATE TABLE typed OF row_type;
         CREATE TABLE areas (region text, no int, tenant_id int, PRIMARY KEY (region, no));
         CREATE TABLE shops (id int, region text, no int, FOREIGN KEY (region, no) REFERENCES areas);
         INSERT INTO items VALUES (1, 1), (2, 1);
         INSERT INTO areas VALUES ('eu', 1, 10), ('eu', 2, 10); INSERT INTO shops VALUES (1, 'eu', 1);
         SELECT holdfast.guard_table('items', via := 'order_id'), holdfast.guard_table('archive', 'tenant_id'),
             holdfast.guard_table('heir', 'tenant_id'), holdfast.guard_table('typed', 'tenant_id'),
             holdfast.guard_table('areas', 'tenant_id'), holdfast.guard_table('shops', via := 'region')",
    )?;
    let cases = [
        ("ALTER TABLE orders DROP tenant_id, ADD tenant_id int DEFAULT 20", TAMPERING),
        ("ALTER TABLE orders DROP tenant_id, ADD tenant_id int", TAMPERING),
        ("ALTER TABLE items DROP order_id, ADD order_id int DEFAULT 2 REFERENCES orders", TAMPERING),
        ("ALTER TABLE items DROP CONSTRAINT to_order, ADD FOREIGN KEY (order_id) REFERENCES archive", TAMPERING),
        (
            "ALTER TABLE items DROP CONSTRAINT to_order, ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE",
            Passes,
        ),
        ("ALTER TABLE base DROP tenant_id, ADD tenant_id int DEFAULT 20", TAMPERING),
        ("ALTER TABLE base ALTER tenant_id TYPE int USING 20", TAMPERING),
        ("ALTER TABLE base ALTER note TYPE varchar(20)", Passes),
        ("ALTER TYPE row_type DROP ATTRIBUTE tenant_id CASCADE, ADD ATTRIBUTE tenant_id int CASCADE", TAMPERING),
        // The other columns of a foreign key, and what it refers to.
        ("ALTER TABLE shops ALTER no TYPE int USING 3 - no", TAMPERING),
        ("ALTER TABLE areas ALTER no TYPE int USING 3 - no", TAMPERING),
        ("ALTER TABLE orders ALTER id TYPE int USING 10 - id", TAMPERING),
        ("ALTER TABLE orders ALTER id TYPE bigint", Passes),
        ("ALTER TABLE orders ALTER note TYPE varchar(20) USING note", Passes),
        (
            "DO $$ BEGIN ALTER TABLE orders RENAME tenant_id TO old; ALTER TABLE orders RENAME extra TO tenant_id; END $$",
            TAMPERING,
        ),
        ("BEGIN; ALTER TABLE orders RENAME tenant_id TO old", TAMPERING),
        // Part of a whole that isn't guarded; of one of which nobody has said anything, it stays guarded.
        ("ALTER TABLE outside ATTACH PARTITION archive DEFAULT", TAMPERING),
        ("ALTER TABLE unsaid ATTACH PARTITION archive DEFAULT", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)
}

fn parts_of_the_extension(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(TOUCH)?;
    let cases = [
        ("DROP EXTENSION holdfast", TAMPERING),
        ("DROP EXTENSION holdfast CASCADE", TAMPERING),
        ("DROP EXTENSION IF EXISTS nothing, holdfast CASCADE", TAMPERING),
        ("DROP SCHEMA holdfast CASCADE", TAMPERING),
        ("DROP TABLE holdfast.event CASCADE", TAMPERING),
        ("DROP VIEW holdfast.status", TAMPERING),
        ("DROP FUNCTION holdfast.guard_row() CASCADE", TAMPERING),
        ("DROP INDEX holdfast.ownership_change_tenant_id_idx", TAMPERING),
        ("DROP TRIGGER policy_changed ON holdfast.backend", TAMPERING),
        ("ALTER EXTENSION holdfast UPDATE", TAMPERING),
        ("ALTER EXTENSION holdfast DROP FUNCTION holdfast.guard_row()", TAMPERING),
        ("ALTER EXTENSION holdfast ADD TABLE loose", TAMPERING),
        ("ALTER SCHEMA holdfast RENAME TO loosefast", TAMPERING),
        ("ALTER SCHEMA holdfast OWNER TO CURRENT_USER", TAMPERING),
        ("ALTER TABLE holdfast.event ADD COLUMN x int", TAMPERING),
        ("ALTER TABLE holdfast.backend DISABLE TRIGGER ALL", TAMPERING),
        ("ALTER TABLE holdfast.ownership ENABLE ROW LEVEL SECURITY", TAMPERING),
        ("ALTER TABLE holdfast.event RENAME TO events", TAMPERING),
        ("ALTER VIEW holdfast.status SET SCHEMA public", TAMPERING),
        ("ALTER VIEW holdfast.status OWNER TO CURRENT_USER", TAMPERING),
        ("ALTER FUNCTION holdfast.guard_row() RENAME TO none", TAMPERING),
        ("ALTER FUNCTION holdfast.cutover OWNER TO CURRENT_USER", TAMPERING),
        ("ALTER FUNCTION holdfast.cutover SECURITY INVOKER", TAMPERING),
        ("ALTER SEQUENCE holdfast.event_id_seq RESTART", TAMPERING),
        (
            "CREATE OR REPLACE FUNCTION holdfast.owner_of(tenant text) RETURNS text LANGUAGE sql AS 'SELECT ''me'''",
            TAMPERING,
        ),
        (
            "CREATE OR REPLACE FUNCTION holdfast.guard_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
            TAMPERING,
        ),
        ("CREATE TRIGGER t BEFORE INSERT ON holdfast.event FOR EACH ROW EXECUTE FUNCTION touch()", TAMPERING),
        ("CREATE RULE r AS ON INSERT TO holdfast.ownership DO INSTEAD NOTHING", TAMPERING),
        ("CREATE POLICY p ON holdfast.ownership", TAMPERING),
        ("CREATE INDEX ON holdfast.event (pid)", TAMPERING),
        ("LOCK TABLE holdfast.event IN SHARE MODE", Passes),
        ("COMMENT ON TABLE holdfast.event IS 'x'", Passes),
        (
            "ANALYZE holdfast.event; REINDEX TABLE holdfast.ownership_change; CLUSTER holdfast.ownership_change USING ownership_change_tenant_id_idx",
            Passes,
        ),
        ("CREATE EXTENSION IF NOT EXISTS holdfast", Passes),
        ("CREATE PUBLICATION p FOR TABLE holdfast.ownership", Passes),
        ("SELECT nextval('holdfast.event_id_seq')", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)?;
    // Outside of a transaction.
    scene.operator()?.exec("VACUUM FULL holdfast.event")?;
    scene.operator()?.exec("REINDEX TABLE CONCURRENTLY holdfast.event")
}

fn nothing_comes_in(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene
        .operator()?
        .exec("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE mood AS ENUM ()")?;
    let cases = [
        ("CREATE TABLE holdfast.mine (id int)", TAMPERING),
        ("CREATE TABLE holdfast.mine AS SELECT 1", TAMPERING),
        ("CREATE VIEW holdfast.mine AS SELECT 1", TAMPERING),
        ("CREATE SEQUENCE holdfast.mine", TAMPERING),
        ("CREATE TYPE holdfast.mine AS ENUM ('x')", TAMPERING),
        ("CREATE DOMAIN holdfast.mine AS int", TAMPERING),
        ("CREATE FUNCTION holdfast.cutover(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", TAMPERING),
        ("SET search_path = holdfast; CREATE TABLE mine (id int)", TAMPERING),
        ("ALTER TABLE loose SET SCHEMA holdfast", TAMPERING),
        ("ALTER FUNCTION one() SET SCHEMA holdfast", TAMPERING),
        ("ALTER TYPE mood SET SCHEMA holdfast", TAMPERING),
        ("CREATE TABLE mine (LIKE holdfast.ownership INCLUDING ALL)", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)
}

fn own_tables(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let before = scene.policy()?;
    let cases = [
        ("UPDATE holdfast.ownership SET owner = 'legacy'", TAMPERING),
        ("DELETE FROM holdfast.classified_table WHERE class = 'tenant'", TAMPERING),
        ("INSERT INTO holdfast.backend VALUES ('third', 'proven')", TAMPERING),
        // Empty, but no restore is under way.
        ("INSERT INTO holdfast.mode_override VALUES ('legacy', NULL, 'off')", TAMPERING),
        ("INSERT INTO holdfast.migration DEFAULT VALUES ON CONFLICT DO NOTHING", TAMPERING),
        ("DELETE FROM holdfast.event WHERE false", TAMPERING),
        ("TRUNCATE holdfast.event", TAMPERING),
        ("TRUNCATE holdfast.backend CASCADE", TAMPERING),
        ("COPY holdfast.backend FROM PROGRAM 'echo'", TAMPERING),
        ("WITH gone AS (DELETE FROM holdfast.identity RETURNING *) SELECT count(*) FROM gone", TAMPERING),
        (
            "MERGE INTO holdfast.backend b USING (SELECT 1) one ON true WHEN MATCHED THEN UPDATE SET trust = 'proven'",
            TAMPERING,
        ),
        ("UPDATE holdfast.identities SET priority = 1", TAMPERING),
        ("PREPARE p AS DELETE FROM holdfast.write_permission; EXECUTE p", TAMPERING),
        ("SELECT * FROM holdfast.ownership FOR UPDATE", Passes),
        ("EXPLAIN DELETE FROM holdfast.event", Passes),
        ("SELECT holdfast.allow_writes('rebuilt', 'plans'), holdfast.set_limits('rebuilt', 5)", Passes),
        ("INSERT INTO holdfast.tenants (tenant) VALUES ('x')", TAMPERING),
    ];
    scene.judge(&mut scene.operator()?, &cases)?;
    ensure!(scene.policy()? == before);
    Ok(())
}

fn grants(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let to = scene.legacy.to_string();
    let cases = [
        ("GRANT INSERT ON holdfast.ownership TO LEGACY", TAMPERING),
        ("GRANT SELECT, UPDATE ON holdfast.backend TO LEGACY", TAMPERING),
        ("GRANT UPDATE (owner) ON holdfast.ownership TO LEGACY", TAMPERING),
        ("GRANT ALL ON ALL TABLES IN SCHEMA holdfast TO LEGACY", TAMPERING),
        ("GRANT SELECT ON holdfast.event TO PUBLIC", TAMPERING),
        ("GRANT ALL ON SCHEMA holdfast TO LEGACY", TAMPERING),
        ("GRANT CREATE ON SCHEMA holdfast TO LEGACY", TAMPERING),
        ("GRANT EXECUTE ON FUNCTION holdfast.break_glass TO PUBLIC", TAMPERING),
        ("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA holdfast TO PUBLIC", TAMPERING),
        // As a dump replays what grant_operator and grant_auditor gave.
        ("GRANT USAGE ON SCHEMA holdfast TO LEGACY", Passes),
        ("GRANT SELECT ON TABLE holdfast.status TO LEGACY", Passes),
        ("GRANT ALL ON FUNCTION holdfast.flush_events() TO LEGACY", Passes),
        ("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA holdfast TO LEGACY", Passes),
        (
            "REVOKE ALL ON FUNCTION holdfast.flush_events() FROM LEGACY; REVOKE ALL ON SCHEMA holdfast FROM LEGACY",
            Passes,
        ),
        ("SELECT holdfast.grant_operator('LEGACY')", Passes),
        ("GRANT SELECT ON orders TO LEGACY", Passes),
    ];
    let cases: Vec<_> = cases.iter().map(|(sql, outcome)| (sql.replace("LEGACY", &to), *outcome)).collect();
    let cases: Vec<_> = cases.iter().map(|(sql, outcome)| (sql.as_str(), *outcome)).collect();
    scene.judge(&mut scene.operator()?, &cases)
}

fn every_backend_is_bound(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene
        .operator()?
        .exec(&format!("ALTER ROLE {} SUPERUSER; ALTER ROLE {} SUPERUSER", scene.rebuilt, scene.legacy))?;
    let cases = [
        ("DROP EXTENSION holdfast CASCADE", TAMPERING),
        ("DELETE FROM holdfast.ownership", TAMPERING),
        ("ALTER TABLE holdfast.event ADD COLUMN x int", TAMPERING),
        ("INSERT INTO holdfast.mode_override VALUES ('rebuilt', NULL, 'off')", TAMPERING),
        ("GRANT INSERT ON holdfast.ownership TO PUBLIC", TAMPERING),
    ];
    scene.judge(&mut scene.legacy()?, &cases)?;
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    scene.operator()?.exec("SELECT holdfast.set_default_backend(NULL)")?;
    scene.judge(&mut scene.operator()?, &cases)?;
    // Who may not do it anyway is told so by Postgres.
    scene.operator()?.exec(&format!("ALTER ROLE {} NOSUPERUSER", scene.legacy))?;
    let denied = cases.map(|(sql, _)| (sql, if sql.starts_with("GRANT") { TAMPERING } else { Fails("42501") }));
    scene.judge(&mut scene.legacy()?, &denied)
}

fn the_mode_decides(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let tampering = "BEGIN; ALTER TABLE orders DISABLE TRIGGER ALL; DELETE FROM holdfast.ownership; ALTER VIEW holdfast.status RENAME TO state; ROLLBACK";
    superuser.exec("SELECT holdfast.set_mode('observe', rule => 'guard_tampering')")?;
    superuser.exec(tampering)?;
    let recorded = scene.recorded(&superuser)?;
    ensure!(
        recorded.len() == 3
            && recorded.iter().all(|(rule, outcome)| rule == "guard_tampering" && outcome == "observed"),
        "{recorded:?}"
    );
    superuser.exec("SELECT holdfast.set_mode('off', rule => 'guard_tampering')")?;
    superuser.exec(tampering)?;
    ensure!(scene.recorded(&superuser)?.len() == 3);
    // The whole extension, in one event.
    superuser.exec("SELECT holdfast.set_mode('observe', rule => 'guard_tampering')")?;
    superuser.exec("BEGIN; DROP EXTENSION holdfast CASCADE; ROLLBACK")?;
    ensure!(scene.recorded(&superuser)?.len() == 4, "{:?}", scene.recorded(&superuser)?);
    Ok(())
}

fn refusals_say_what(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut superuser = scene.operator()?;
    let expected = [
        (
            "ALTER TABLE orders DISABLE TRIGGER ALL",
            "ALTER TABLE would damage the guard of table \"orders\"",
            "Backend \"legacy\" attempted ALTER TABLE on table \"public.orders\". Afterwards the guard of the table would not fire in every session. Rule: guard_tampering.",
            "Name the triggers that are meant, in place of ALL or USER. Otherwise: take the table out of the guard first: SELECT holdfast.unguard_table('public.orders'); or run it in break-glass: SELECT holdfast.break_glass('...');",
        ),
        (
            "ALTER TABLE orders ALTER tenant_id TYPE bigint USING 7",
            "ALTER TABLE would change column \"tenant_id\" of table \"orders\", which is part of the guard",
            "Backend \"legacy\" attempted ALTER TABLE on table \"public.orders\". Rule: guard_tampering.",
            "An operator runs it in break-glass: SELECT holdfast.break_glass('...');",
        ),
        (
            "DROP EXTENSION holdfast CASCADE",
            "DROP EXTENSION would change extension holdfast, which is part of the guard",
            "Backend \"legacy\" attempted DROP EXTENSION. Rule: guard_tampering.",
            "An operator runs it in break-glass: SELECT holdfast.break_glass('...');",
        ),
        (
            "CREATE TABLE holdfast.mine (id int)",
            "CREATE TABLE would put table holdfast.mine into the schema of the guard",
            "Backend \"legacy\" attempted CREATE TABLE. Rule: guard_tampering.",
            "Name another schema, one of the application.",
        ),
        (
            "DELETE FROM holdfast.event",
            "table \"event\" is written by the functions of its schema only",
            "Backend \"legacy\" attempted DELETE on table \"holdfast.event\". Rule: guard_tampering.",
            "Call the function that does what you want, or run it in break-glass: SELECT holdfast.break_glass('...');",
        ),
    ];
    for (sql, message, detail, hint) in expected {
        let refusal = superuser.refused(sql)?;
        refused_by("guard_tampering", &refusal, sql)?;
        ensure!(refusal.message == message, "{refusal:?}");
        ensure!(refusal.detail.as_deref() == Some(detail), "{refusal:?}");
        ensure!(refusal.hint.as_deref() == Some(hint), "{refusal:?}");
    }
    Ok(())
}

/// Temporary objects come first in a search path, and a search path is the user's.
fn shadowing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    scene.operator()?.exec(&format!("GRANT TEMP ON DATABASE {} TO PUBLIC", scene.database.name))?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec(
        "CREATE TEMP TABLE ownership (tenant text PRIMARY KEY, owner text); INSERT INTO ownership VALUES ('10', 'rebuilt');
         CREATE TEMP TABLE backend AS SELECT 'rebuilt' AS backend, 'proven' AS trust;
         CREATE TEMP TABLE mode_override AS SELECT 'rebuilt' AS backend, NULL AS rule, 'off' AS mode;
         CREATE TEMP TABLE orders (id int, tenant_id int);
         CREATE FUNCTION pg_temp.guard_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         SET search_path = pg_temp, public, pg_catalog",
    )?;
    let cases = [
        ("INSERT INTO orders VALUES (1, 10)", Passes),
        ("UPDATE public.orders SET note = 'x' WHERE id = 1", Refused("not_owner")),
        ("UPDATE public.plans SET name = 'x' WHERE id = 1", Refused("global_write")),
        ("TRUNCATE public.loose", Refused("destructive_command")),
        ("ALTER TABLE public.loose ADD COLUMN x int", Refused("destructive_command")),
        ("ALTER TABLE orders ADD COLUMN x int", Passes),
    ];
    scene.judge(&mut rebuilt, &cases)?;
    ensure!(rebuilt.one::<String>("SELECT holdfast.owner_of('10')")? == "legacy");
    Ok(())
}

/// As in a restore by several jobs: one gives a table of the extension its index while another brings the policy.
fn policy_in_the_middle(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tampering")?;
    let mut operator = scene.operator()?;
    operator.exec("SELECT holdfast.set_mode('off'); CREATE TABLE holdfast.newcomer (id int)")?;
    let mut holder = scene.operator()?;
    holder.exec("BEGIN; LOCK TABLE holdfast.newcomer IN ACCESS EXCLUSIVE MODE")?;
    let mut altering = scene.operator()?.start("ALTER TABLE holdfast.newcomer ADD PRIMARY KEY (id)");
    altering.wait_until_blocked()?;
    operator.exec("SELECT holdfast.set_mode('enforce')")?;
    holder.exec("COMMIT")?;
    let (mut session, altered) = altering.finish()?;
    altered?;
    for sql in ["DROP TABLE holdfast.newcomer", "ALTER TABLE holdfast.newcomer ADD UNIQUE (id)"] {
        refused_by("guard_tampering", &session.refused(sql)?, sql)?;
    }
    Ok(())
}
