//! `destructive_command`: what an unproven backend may not run though its role could, and that a proven one may.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{self, Fails, Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("commands_that_change_objects_are_refused", commands_that_change_objects),
        Test::shared("commands_beyond_the_database_are_refused", commands_beyond_the_database),
        Test::shared("functions_that_are_commands_are_refused_however_called", functions_that_are_commands),
        Test::shared("own_and_temporary_tables_are_free", own_and_temporary_tables),
        Test::shared("drop_is_refused_for_every_kind_of_object", every_kind_of_object),
        Test::shared("cascade_stops_at_what_is_not_its_own", cascade_stops_at_others),
        Test::shared("a_retired_backend_is_bound_and_no_backend_only_by_guarded_tables", retired_and_nobody),
        Test::shared("other_roles_prepared_transactions_are_left_alone", prepared_transactions),
        Test::shared("a_role_that_can_signal_its_own_sessions_only_may", signals),
        Test::shared("refusals_name_the_command_and_the_table", refusals_name_the_command),
        Test::shared("a_proven_backend_doesnt_notice", a_proven_backend_doesnt_notice),
    ]
}

const OBJECTS: &str = "
    CREATE TABLE things (id serial PRIMARY KEY, name text);
    CREATE TABLE own (id serial PRIMARY KEY, name text);
    CREATE SEQUENCE numbers;
    CREATE VIEW names AS SELECT name FROM things;
    CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TYPE mood AS ENUM ('good');
    CREATE DOMAIN word AS text;
    SELECT holdfast.exempt_table('own', 'rebuilt')";

/// A scene whose rebuilt backend logs in as a superuser, so that nothing but the guard stops it.
fn unfettered(cluster: &Cluster) -> Result<(Scene, Session)> {
    let scene = Scene::set(cluster, "destructive")?;
    scene.operator()?.exec(&format!("{OBJECTS}; ALTER ROLE {} SUPERUSER", scene.rebuilt))?;
    let session = scene.rebuilt()?;
    Ok((scene, session))
}

/// Names of the scene's own roles in the statements.
fn judge(scene: &Scene, session: &mut Session, cases: &[(&str, Outcome)]) -> Result<()> {
    let named: Vec<(String, Outcome)> = cases
        .iter()
        .map(|(sql, outcome)| (sql.replace("LEGACY", &scene.legacy).replace("REBUILT", &scene.rebuilt), *outcome))
        .collect();
    let named: Vec<(&str, Outcome)> = named.iter().map(|(sql, outcome)| (sql.as_str(), *outcome)).collect();
    scene.judge(session, &named)
}

const DESTRUCTIVE: Outcome = Refused("destructive_command");

fn commands_that_change_objects(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let cases = [
        ("ALTER TABLE orders ADD COLUMN x int", DESTRUCTIVE),
        ("ALTER TABLE things RENAME TO others", DESTRUCTIVE),
        ("ALTER TABLE things RENAME name TO label", DESTRUCTIVE),
        ("ALTER TABLE plans ENABLE ROW LEVEL SECURITY", DESTRUCTIVE),
        ("ALTER TABLE things SET SCHEMA pg_catalog", DESTRUCTIVE),
        ("ALTER TABLE orders DISABLE TRIGGER ALL", DESTRUCTIVE),
        ("ALTER TABLE things OWNER TO LEGACY", DESTRUCTIVE),
        ("ALTER TABLE own INHERIT things", DESTRUCTIVE),
        ("CREATE TABLE linked (id int REFERENCES orders)", DESTRUCTIVE),
        ("ALTER TABLE own ADD FOREIGN KEY (id) REFERENCES orders", DESTRUCTIVE),
        ("CREATE TABLE linked (id serial PRIMARY KEY, thing int REFERENCES things, n int UNIQUE)", Passes),
        ("CREATE TABLE made (id int) PARTITION BY LIST (id); CREATE TABLE made_1 PARTITION OF made DEFAULT", Passes),
        ("CREATE TABLE child () INHERITS (orders)", DESTRUCTIVE),
        ("CREATE TABLE child () INHERITS (things)", Passes),
        ("CREATE INDEX ON orders (note)", DESTRUCTIVE),
        ("CREATE INDEX ON things (name)", Passes),
        ("ALTER INDEX orders_pkey RENAME TO orders_key", DESTRUCTIVE),
        ("ALTER VIEW names RENAME TO labels", DESTRUCTIVE),
        ("CREATE OR REPLACE VIEW names AS SELECT name FROM things WHERE false", DESTRUCTIVE),
        ("CREATE OR REPLACE VIEW labels AS SELECT name FROM things", Passes),
        ("ALTER SEQUENCE numbers RESTART", DESTRUCTIVE),
        ("ALTER SEQUENCE things_id_seq RESTART WITH 9", DESTRUCTIVE),
        ("ALTER FUNCTION one() OWNER TO LEGACY", DESTRUCTIVE),
        ("ALTER FUNCTION one() COST 7", DESTRUCTIVE),
        ("CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'", DESTRUCTIVE),
        ("CREATE OR REPLACE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'", Passes),
        ("ALTER TYPE mood ADD VALUE 'bad'", DESTRUCTIVE),
        ("ALTER DOMAIN word SET NOT NULL", DESTRUCTIVE),
        ("CREATE TRIGGER t AFTER INSERT ON things FOR EACH ROW EXECUTE FUNCTION touch()", DESTRUCTIVE),
        ("CREATE RULE r AS ON INSERT TO plans DO ALSO DELETE FROM orders", DESTRUCTIVE),
        ("CREATE POLICY p ON things", DESTRUCTIVE),
        ("GRANT SELECT ON orders TO LEGACY", DESTRUCTIVE),
        ("GRANT ALL ON ALL TABLES IN SCHEMA public TO LEGACY", DESTRUCTIVE),
        ("REVOKE ALL ON things FROM LEGACY", DESTRUCTIVE),
        ("REVOKE EXECUTE ON FUNCTION one() FROM PUBLIC", DESTRUCTIVE),
        ("ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM LEGACY", DESTRUCTIVE),
        ("SECURITY LABEL ON TABLE orders IS 'x'", DESTRUCTIVE),
        ("COMMENT ON TABLE orders IS 'x'", Passes),
        ("REASSIGN OWNED BY REBUILT TO LEGACY", DESTRUCTIVE),
        ("DROP OWNED BY REBUILT", DESTRUCTIVE),
        ("LOCK TABLE orders", DESTRUCTIVE),
        ("LOCK TABLE plans, things IN SHARE MODE", DESTRUCTIVE),
        ("LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE", DESTRUCTIVE),
        ("LOCK TABLE orders, plans IN ROW EXCLUSIVE MODE", Passes),
        ("TRUNCATE things", DESTRUCTIVE),
        // Whatever runs it.
        ("DO $$ BEGIN EXECUTE 'ALTER TABLE orders ADD COLUMN x int'; END $$", DESTRUCTIVE),
        ("SET ROLE LEGACY; ALTER TABLE orders ADD COLUMN x int", DESTRUCTIVE),
        ("SAVEPOINT s; ALTER TABLE orders ADD COLUMN x int", DESTRUCTIVE),
        ("CREATE SCHEMA made CREATE TABLE t (id int) GRANT SELECT ON t TO LEGACY", DESTRUCTIVE),
        ("CREATE TABLE made AS SELECT * FROM orders", Passes),
        ("SELECT * INTO made FROM orders", Passes),
        // What isn't there is left to Postgres.
        ("ALTER TABLE nothing ADD COLUMN x int", Fails("42P01")),
        ("ALTER TABLE IF EXISTS nothing RENAME TO more", Passes),
    ];
    judge(&scene, &mut session, &cases)
}

fn commands_beyond_the_database(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let cases = [
        ("COPY orders TO PROGRAM 'cat > /dev/null'", DESTRUCTIVE),
        ("COPY loose FROM PROGRAM 'echo 1'", DESTRUCTIVE),
        ("COPY orders TO '/dev/null'", DESTRUCTIVE),
        ("COPY loose FROM '/dev/null'", DESTRUCTIVE),
        ("COPY (SELECT 1) TO '/dev/null'", DESTRUCTIVE),
        ("COPY orders TO STDOUT WITH (FORMAT nothing)", Fails("22023")),
        ("ALTER SYSTEM SET work_mem = '5MB'", DESTRUCTIVE),
        ("LOAD 'plpgsql'", DESTRUCTIVE),
        ("CREATE EXTENSION holdfast", DESTRUCTIVE),
        ("CREATE EXTENSION IF NOT EXISTS plpgsql", Passes),
        ("ALTER EXTENSION plpgsql UPDATE", DESTRUCTIVE),
        ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION one()", DESTRUCTIVE),
        ("CREATE PUBLICATION p FOR ALL TABLES", DESTRUCTIVE),
        ("CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)", DESTRUCTIVE),
        ("CREATE FUNCTION f(regclass, bigint) RETURNS bigint LANGUAGE internal AS 'setval_oid'", DESTRUCTIVE),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'nothing'", DESTRUCTIVE),
        ("CREATE ROLE another", DESTRUCTIVE),
        ("ALTER ROLE LEGACY PASSWORD 'mine'", DESTRUCTIVE),
        ("DROP ROLE LEGACY", DESTRUCTIVE),
        ("DROP ROLE IF EXISTS nobody", Passes),
        ("GRANT LEGACY TO REBUILT", DESTRUCTIVE),
        ("ALTER DATABASE postgres CONNECTION LIMIT 1", DESTRUCTIVE),
        ("NOTIFY something", Passes),
    ];
    judge(&scene, &mut session, &cases)
}

fn functions_that_are_commands(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE FUNCTION in_sql() RETURNS bigint LANGUAGE sql AS $$SELECT setval('numbers', 9)$$;
         CREATE FUNCTION in_plpgsql() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM setval('numbers', 9); END$$;
         CREATE FUNCTION atomic() RETURNS bigint BEGIN ATOMIC SELECT setval('numbers'::regclass, 9); END;
         CREATE FUNCTION of_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$SELECT setval('numbers', 9)$$;
         CREATE TABLE counted (n bigint DEFAULT setval('numbers', 9), id int); SELECT holdfast.exempt_table('counted');
         SELECT lo_from_bytea(4711, 'x')",
    )?;
    let before: i64 = operator.one("SELECT last_value FROM numbers")?;
    let cases = [
        ("SELECT setval('numbers', 9)", DESTRUCTIVE),
        ("SELECT setval('numbers', 9, false)", DESTRUCTIVE),
        ("SELECT nextval('numbers'), currval('numbers')", Passes),
        ("EXPLAIN SELECT setval('numbers', 9)", Passes),
        ("EXPLAIN ANALYZE SELECT setval('numbers', 9)", DESTRUCTIVE),
        ("PREPARE p AS SELECT setval('numbers', 9); EXECUTE p", DESTRUCTIVE),
        ("SELECT in_sql()", DESTRUCTIVE),
        ("SELECT in_plpgsql()", DESTRUCTIVE),
        ("SELECT atomic()", DESTRUCTIVE),
        ("SELECT of_owner()", DESTRUCTIVE),
        ("DO $$ BEGIN PERFORM setval('numbers', 9); END $$", DESTRUCTIVE),
        ("INSERT INTO counted (id) VALUES (1)", DESTRUCTIVE),
        ("INSERT INTO counted VALUES (1)", Passes),
        ("SELECT FROM orders WHERE setval('numbers', id) > 0", DESTRUCTIVE),
        ("CREATE TABLE made AS SELECT setval('numbers', 9)", DESTRUCTIVE),
        ("COPY (SELECT setval('numbers', 9)) TO STDOUT", DESTRUCTIVE),
        ("DECLARE c CURSOR FOR SELECT setval('numbers', 9)", DESTRUCTIVE),
        ("SELECT lo_get(4711), lo_get(4711, 0, 1)", Passes),
        ("SELECT lo_create(0)", DESTRUCTIVE),
        ("SELECT lo_creat(0)", DESTRUCTIVE),
        ("SELECT lo_from_bytea(0, 'new')", DESTRUCTIVE),
        ("SELECT lo_open(4711, 262144)", Passes),
        ("SELECT lo_unlink(4711)", DESTRUCTIVE),
        ("SELECT lo_put(4711, 0, 'y')", DESTRUCTIVE),
        ("SELECT lowrite(lo_open(4711, 131072), 'y')", DESTRUCTIVE),
        ("SELECT lo_truncate(lo_open(4711, 131072), 0)", DESTRUCTIVE),
        ("SELECT lo_truncate64(lo_open(4711, 131072), 0)", DESTRUCTIVE),
        ("SELECT lo_import('/dev/null')", DESTRUCTIVE),
        ("SELECT lo_export(4711, '/dev/null')", DESTRUCTIVE),
        ("SELECT pg_terminate_backend(pg_backend_pid())", DESTRUCTIVE),
        ("SELECT pg_cancel_backend(pid) FROM pg_stat_activity", DESTRUCTIVE),
        ("SELECT pg_drop_replication_slot('none')", DESTRUCTIVE),
        ("SELECT pg_reload_conf()", Passes),
    ];
    judge(&scene, &mut session, &cases)?;
    // nextval isn't undone by a rollback.
    ensure!(operator.one::<i64>("SELECT last_value FROM numbers")? <= before + 1);
    ensure!(operator.one::<Vec<u8>>("SELECT lo_get(4711)")? == b"x");
    // The protocol's own way to call a function, which libpq's large objects take.
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-q", "-f", "-", "-U", &scene.rebuilt, "-d", &scene.database.name]);
    let output = cluster.output(psql, "\\lo_unlink 4711\n")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.contains("may not run lo_unlink"), "{errors}");
    Ok(())
}

fn own_and_temporary_tables(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let cases = [
        ("ALTER TABLE own ADD COLUMN x int UNIQUE, DROP COLUMN name CASCADE", Passes),
        ("ALTER TABLE own RENAME TO mine", Passes),
        ("ALTER TABLE own ADD CHECK (id > 0), ALTER id TYPE bigint", Passes),
        ("ALTER SEQUENCE own_id_seq RESTART WITH 7", Passes),
        ("CREATE INDEX i ON own (name); DROP INDEX i", Passes),
        ("CREATE TRIGGER t AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION touch(); DROP TRIGGER t ON own", Passes),
        ("CREATE POLICY p ON own; DROP POLICY p ON own", Passes),
        ("CREATE RULE r AS ON DELETE TO own DO INSTEAD NOTHING; DROP RULE r ON own", Passes),
        ("GRANT SELECT ON own TO LEGACY; REVOKE ALL ON own FROM LEGACY", Passes),
        ("GRANT SELECT ON own, things TO LEGACY", DESTRUCTIVE),
        ("LOCK TABLE own", Passes),
        ("LOCK TABLE own, things", DESTRUCTIVE),
        ("TRUNCATE own RESTART IDENTITY", Passes),
        ("DROP TABLE own", Passes),
        ("DROP TABLE own, things", DESTRUCTIVE),
        (
            "CREATE TEMP TABLE t (id serial PRIMARY KEY, long text); ALTER TABLE t ADD x int; LOCK t; DROP TABLE t",
            Passes,
        ),
        ("CREATE TEMP SEQUENCE s; ALTER SEQUENCE s RESTART; DROP SEQUENCE s", Passes),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION pg_temp.f()", Passes),
        ("CREATE TYPE pg_temp.m AS ENUM (); DROP TYPE pg_temp.m", Passes),
        ("CREATE TEMP TABLE t () INHERITS (things)", Passes),
        // A sequence that is only named can't be known for its own.
        ("SELECT setval('own_id_seq', 5)", DESTRUCTIVE),
    ];
    judge(&scene, &mut session, &cases)
}

fn every_kind_of_object(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    scene.operator()?.exec(
        "CREATE SCHEMA empty;
         CREATE FUNCTION same(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
         CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int);
         CREATE CAST (mood AS int) WITH INOUT;
         CREATE COLLATION bytes (provider = libc, locale = 'C');
         CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;
         CREATE USER MAPPING FOR PUBLIC SERVER away;
         CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
         CREATE TEXT SEARCH DICTIONARY simply (TEMPLATE = simple);
         CREATE STATISTICS counts ON id, name FROM things;
         CREATE PUBLICATION all_of_it FOR ALL TABLES;
         CREATE PROCEDURE act() LANGUAGE sql AS '';
         CREATE OPERATOR FAMILY kin USING btree;
         CREATE MATERIALIZED VIEW seen AS SELECT 1;
         CREATE TRIGGER t AFTER INSERT ON things FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE RULE r AS ON DELETE TO things DO INSTEAD NOTHING;
         CREATE POLICY p ON things;
         CREATE ACCESS METHOD twin TYPE TABLE HANDLER heap_tableam_handler;
         CREATE CONVERSION back FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    )?;
    let dropped = [
        "TABLE things CASCADE",
        "VIEW names",
        "MATERIALIZED VIEW seen",
        "SEQUENCE numbers",
        "INDEX orders_pkey",
        "FUNCTION one()",
        "ROUTINE one()",
        "PROCEDURE act()",
        "AGGREGATE total(int)",
        "TYPE mood",
        "DOMAIN word",
        "SCHEMA empty",
        "OPERATOR ===(int, int)",
        "OPERATOR FAMILY kin USING btree",
        "CAST (mood AS int)",
        "COLLATION bytes",
        "CONVERSION back",
        "ACCESS METHOD twin",
        "FOREIGN DATA WRAPPER far CASCADE",
        "SERVER away CASCADE",
        "USER MAPPING FOR PUBLIC SERVER away",
        "TEXT SEARCH CONFIGURATION words",
        "TEXT SEARCH DICTIONARY simply",
        "STATISTICS counts",
        "PUBLICATION all_of_it",
        "TRIGGER t ON things",
        "RULE r ON things",
        "POLICY p ON things",
        "EXTENSION plpgsql CASCADE",
    ];
    let statements: Vec<String> = dropped.iter().map(|object| format!("DROP {object}")).collect();
    let cases: Vec<_> = statements.iter().map(|sql| (sql.as_str(), DESTRUCTIVE)).collect();
    judge(&scene, &mut session, &cases)
}

fn cascade_stops_at_others(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    scene.operator()?.exec(
        "CREATE TABLE alone (id int PRIMARY KEY, name text); SELECT holdfast.exempt_table('alone', 'rebuilt');
         CREATE TABLE viewed (id int); CREATE VIEW seen AS SELECT * FROM viewed;
         CREATE TABLE referred (id int PRIMARY KEY); ALTER TABLE things ADD FOREIGN KEY (id) REFERENCES referred;
         CREATE TABLE typed (id int); CREATE FUNCTION taking(typed) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE ruled (id int); CREATE RULE r AS ON DELETE TO things DO ALSO DELETE FROM ruled;
         CREATE TABLE counted (id serial); ALTER TABLE things ALTER id SET DEFAULT nextval('counted_id_seq');
         SELECT holdfast.exempt_table(t, 'rebuilt') FROM unnest('{viewed,referred,typed,ruled,counted}'::regclass[]) t",
    )?;
    let cases = [
        ("DROP TABLE alone CASCADE", Passes),
        ("DROP TABLE viewed", Fails("2BP01")),
        ("DROP TABLE viewed CASCADE", DESTRUCTIVE),
        ("DROP TABLE referred CASCADE", DESTRUCTIVE),
        ("DROP TABLE typed CASCADE", DESTRUCTIVE),
        ("DROP TABLE ruled CASCADE", DESTRUCTIVE),
        ("DROP TABLE counted CASCADE", DESTRUCTIVE),
        ("ALTER TABLE counted DROP COLUMN id CASCADE", DESTRUCTIVE),
        ("ALTER TABLE referred DROP CONSTRAINT referred_pkey CASCADE", DESTRUCTIVE),
    ];
    judge(&scene, &mut session, &cases)
}

fn retired_and_nobody(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "SELECT holdfast.unfreeze('50'); SELECT holdfast.add_backend('old', 'retired');
         SELECT holdfast.add_identity('old', application_name := 'old')",
    )?;
    session.exec("SET application_name = 'old'")?;
    let cases = [
        ("ALTER TABLE things ADD COLUMN x int", DESTRUCTIVE),
        ("SELECT setval('numbers', 1)", DESTRUCTIVE),
        ("DROP TABLE own", DESTRUCTIVE),
        ("CREATE TABLE made (id int)", Passes),
    ];
    judge(&scene, &mut session, &cases)?;
    operator.exec("SELECT holdfast.set_default_backend(NULL)")?;
    let cases = [
        ("ALTER TABLE things ADD COLUMN x int", Passes),
        ("ALTER TABLE orders ADD COLUMN x int", Refused("unidentified")),
        ("LOCK TABLE plans", Refused("unidentified")),
        ("DROP TABLE plans", Refused("unidentified")),
    ];
    judge(&scene, &mut operator, &cases)
}

fn prepared_transactions(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let end = |how: &str, gid: &str| format!("{how} PREPARED '{}_{gid}'", scene.database.name);
    let prepare = |session: &mut Session, gid: &str| {
        session.exec(&format!(
            "BEGIN; SELECT nextval('numbers'); {}",
            end("PREPARE TRANSACTION", gid).replace("PREPARED ", "")
        ))
    };
    scene.operator()?.exec("GRANT ALL ON SEQUENCE numbers TO PUBLIC")?;
    prepare(&mut scene.legacy()?, "legacys")?;
    for sql in [end("COMMIT", "legacys"), end("ROLLBACK", "legacys")] {
        refused_by("destructive_command", &session.refused(&sql)?, &sql)?;
    }
    scene.legacy()?.exec(&end("COMMIT", "legacys"))?;
    prepare(&mut session, "own")?;
    session.exec(&end("ROLLBACK", "own"))?;
    ensure!(session.refused(&end("COMMIT", "nothing"))?.code == "42704");
    Ok(())
}

fn signals(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "destructive")?;
    let (mut session, other, legacy) = (scene.rebuilt()?, scene.rebuilt()?, scene.legacy()?);
    let own = format!("SELECT pg_cancel_backend({})", other.pid());
    session.exec(&own)?;
    ensure!(session.refused(&format!("SELECT pg_terminate_backend({})", legacy.pid()))?.code == "42501");
    scene.operator()?.exec(&format!("GRANT pg_signal_backend TO {}", scene.rebuilt))?;
    for sql in [own, format!("SELECT pg_terminate_backend({})", legacy.pid())] {
        refused_by("destructive_command", &session.refused(&sql)?, &sql)?;
    }
    scene.operator()?.exec(&format!("REVOKE pg_signal_backend FROM {}", scene.rebuilt))?;
    // A function of legacy's reaches legacy's sessions.
    scene.legacy()?.exec(
        "CREATE FUNCTION stop(int) RETURNS bool LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_terminate_backend($1)'",
    )?;
    let sql = format!("SELECT stop({})", legacy.pid());
    refused_by("destructive_command", &session.refused(&sql)?, &sql)
}

fn refusals_name_the_command(cluster: &Cluster) -> Result<()> {
    let (scene, mut session) = unfettered(cluster)?;
    let refusal = session.refused("ALTER TABLE orders ADD COLUMN x int")?;
    refused_by("destructive_command", &refusal, "ALTER TABLE")?;
    ensure!(refusal.message == "backend \"rebuilt\" may not run ALTER TABLE on table orders", "{refusal:?}");
    ensure!(
        refusal.detail.as_deref()
            == Some("Backend \"rebuilt\" attempted ALTER TABLE on table \"public.orders\". Rule: destructive_command."),
        "{refusal:?}"
    );
    ensure!((refusal.schema.as_deref(), refusal.table.as_deref()) == (Some("public"), Some("orders")), "{refusal:?}");
    let refusal = session.refused("SELECT setval('numbers', 1)")?;
    ensure!(refusal.message == "backend \"rebuilt\" may not run setval", "{refusal:?}");
    ensure!(refusal.table.is_none() && refusal.detail.is_some_and(|detail| detail.contains("attempted setval.")));
    let refusal = session.refused("DROP SEQUENCE numbers")?;
    ensure!(refusal.message == "backend \"rebuilt\" may not DROP sequence numbers", "{refusal:?}");
    let recorded = scene.operator()?.rows("SELECT command, relation FROM holdfast.blocked_writes ORDER BY id")?;
    let text = |text: &str| Some(text.to_owned());
    ensure!(
        recorded
            == [
                [text("ALTER TABLE"), text("public.orders")],
                [text("setval"), None],
                [text("DROP"), text("public.numbers")]
            ],
        "{recorded:?}"
    );
    Ok(())
}

fn a_proven_backend_doesnt_notice(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "destructive")?;
    scene.operator()?.exec(&format!("{OBJECTS}; ALTER ROLE {} SUPERUSER; SELECT lo_create(4711)", scene.legacy))?;
    let commands = [
        "ALTER TABLE orders ADD COLUMN x int, ALTER note SET NOT NULL, ADD CHECK (id > 0), ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE orders RENAME TO archive; ALTER TABLE archive RENAME note TO remark; ALTER TABLE archive SET SCHEMA pg_catalog",
        "ALTER TABLE orders OWNER TO LEGACY; ALTER TABLE orders REPLICA IDENTITY FULL; ALTER TABLE orders CLUSTER ON orders_pkey",
        "ALTER TABLE orders ALTER id TYPE bigint; ALTER TABLE orders ALTER note TYPE varchar(100) USING left(note, 100)",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, DROP COLUMN note, ADD COLUMN remark text DEFAULT now()::text",
        "CREATE TRIGGER a BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TRIGGER a ON orders RENAME TO b;
         ALTER TABLE orders DISABLE TRIGGER b; ALTER TABLE orders ENABLE ALWAYS TRIGGER b; DROP TRIGGER b ON orders",
        "CREATE TRIGGER z AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TABLE child () INHERITS (orders); CREATE TABLE copied (LIKE orders INCLUDING ALL); CREATE TABLE made AS TABLE orders",
        "CREATE TABLE swapped (LIKE orders INCLUDING ALL); ALTER TABLE orders RENAME TO was; ALTER TABLE swapped RENAME TO orders;
         DROP TABLE was",
        "DROP TABLE plans, things CASCADE; DROP SEQUENCE numbers; DROP TYPE mood; DROP FUNCTION one(); DROP SCHEMA public CASCADE",
        "CREATE INDEX ON orders (note); REINDEX TABLE orders; CLUSTER orders USING orders_pkey; ANALYZE orders",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO REBUILT; REVOKE ALL ON orders FROM PUBLIC; GRANT LEGACY TO REBUILT;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; REASSIGN OWNED BY LEGACY TO postgres; DROP OWNED BY LEGACY",
        "LOCK TABLE orders, plans; LOCK TABLE holdfast.event IN SHARE MODE",
        "SELECT setval('numbers', 9), lo_put(4711, 0, 'x'), lo_unlink(4711); ALTER SEQUENCE numbers RESTART",
        "COPY plans TO PROGRAM 'cat > /dev/null'; COPY plans (id) FROM PROGRAM 'echo 7'; COPY orders TO '/dev/null'",
        "CREATE RULE r AS ON DELETE TO things DO INSTEAD NOTHING; CREATE POLICY p ON orders; DROP RULE r ON things; DROP POLICY p ON orders",
        "CREATE OR REPLACE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 2'; ALTER FUNCTION one() COST 3; LOAD 'plpgsql'",
        "CREATE PUBLICATION p FOR TABLE orders, holdfast.ownership; DROP PUBLICATION p; CREATE ROLE another; DROP ROLE another",
        "SELECT pg_cancel_backend(0); COMMENT ON TABLE orders IS 'x'; TRUNCATE plans, things",
    ];
    let cases: Vec<_> = commands.iter().map(|sql| (*sql, Passes)).collect();
    judge(&scene, &mut scene.legacy()?, &cases)
}
