//! Commands: what isn't a write of rows.

use super::statements::Statements;
use super::tables::Table;

impl Statements {
    /// A command that isn't a write of rows.
    pub(super) fn command(&mut self) -> String {
        let table = self.table();
        let Table { name, tenant, set, .. } = table;
        let new = self.name("made");
        let verbs = [
            format!("TRUNCATE {name}"),
            format!("TRUNCATE {name} CASCADE"),
            format!("DROP TABLE {name} CASCADE"),
            format!("DROP VIEW IF EXISTS {name} CASCADE"),
            format!("ALTER TABLE {name} DISABLE TRIGGER ALL"),
            format!("ALTER TABLE {name} DROP COLUMN {tenant} CASCADE"),
            format!("ALTER TABLE {name} RENAME COLUMN {set} TO {set}_old"),
            format!("ALTER TABLE {name} RENAME TO {new}"),
            format!("ALTER TABLE {name} OWNER TO CURRENT_USER"),
            format!("ALTER TABLE {name} SET SCHEMA mine"),
            format!("CREATE TRIGGER \"~~late\" BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"),
            format!("CREATE TRIGGER g BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION holdfast.guard_row()"),
            format!("DROP TRIGGER \"~holdfast_guard\" ON {name}"),
            format!("CREATE TABLE mine.{new} PARTITION OF log FOR VALUES FROM ('1990-01-01') TO ('1991-01-01')"),
            format!("CREATE TABLE mine.{new} () INHERITS ({name})"),
            format!("CREATE TABLE holdfast.{new} ()"),
            "CREATE FUNCTION holdfast.owner_of(int) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'".to_owned(),
            format!("CREATE TABLE mine.{new} (order_id int REFERENCES orders ON DELETE CASCADE)"),
            format!("CREATE TABLE mine.{new} AS SELECT * FROM {name}"),
            format!("SELECT * INTO mine.{new} FROM {name}"),
            format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"),
            format!("GRANT ALL ON {name} TO PUBLIC"),
            format!("REVOKE ALL ON {name} FROM PUBLIC"),
            format!("COMMENT ON TABLE {name} IS 'x'"),
            format!("VACUUM {name}"),
            format!("ANALYZE {name}"),
            format!("REINDEX TABLE {name}"),
            format!("CREATE INDEX {new} ON {name} ({set})"),
            format!("CREATE POLICY p ON {name} USING (false)"),
            format!("CREATE RULE {new} AS ON UPDATE TO {name} DO INSTEAD NOTHING"),
            "REFRESH MATERIALIZED VIEW order_counts".to_owned(),
            "DROP OWNED BY CURRENT_USER".to_owned(),
            "REASSIGN OWNED BY CURRENT_USER TO postgres".to_owned(),
            "DROP EXTENSION holdfast CASCADE".to_owned(),
            "DROP SCHEMA holdfast CASCADE".to_owned(),
            "CREATE OR REPLACE FUNCTION holdfast.guard_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$".to_owned(),
            "SELECT setval('orders_id_seq', 1)".to_owned(),
            "ALTER SEQUENCE orders_id_seq RESTART".to_owned(),
            "SELECT lo_unlink(4242)".to_owned(),
            "SELECT lo_put(4242, 0, 'gone')".to_owned(),
            "COPY orders TO PROGRAM 'true'".to_owned(),
            "COPY orders FROM '/etc/passwd'".to_owned(),
            "ALTER SYSTEM SET holdfast.enabled = off".to_owned(),
            "CREATE PUBLICATION everything FOR ALL TABLES".to_owned(),
            "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION mine.nothing()".to_owned(),
            "UPDATE holdfast.migration SET mode = 'off'".to_owned(),
            "INSERT INTO holdfast.write_permission SELECT 'rebuilt', oid, 'update' FROM pg_class".to_owned(),
            "DELETE FROM holdfast.ownership".to_owned(),
            "SELECT holdfast.set_mode('off')".to_owned(),
            "SELECT holdfast.cutover('10', 'rebuilt')".to_owned(),
            "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D'".to_owned(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'".to_owned(),
        ];
        self.pick(&verbs.each_ref()).clone()
    }

    /// What changes the session rather than data.
    pub(super) fn surroundings(&mut self) -> String {
        self.pick(&[
            "SET session_replication_role = replica",
            "SELECT set_config('session_replication_role', 'replica', false)",
            "UPDATE pg_settings SET setting = 'replica' WHERE name = 'session_replication_role'",
            "SET holdfast.backend = 'legacy'",
            "SET holdfast.backend = 'nobody'",
            "SET holdfast.backend = 'nobody'",
            "SET LOCAL holdfast.backend = 'batch'",
            "SET holdfast.enabled = off",
            "SET statement_timeout = 0",
            "SET LOCAL lock_timeout = '1h'",
            "SELECT set_config('statement_timeout', '0', false)",
            "UPDATE pg_settings SET setting = '0' WHERE name = 'lock_timeout'",
            "RESET statement_timeout",
            "SET application_name = 'nightly-1'",
            "RESET holdfast.backend",
            "RESET application_name",
            "RESET ALL",
            "DISCARD ALL",
            "DISCARD PLANS",
            "DISCARD TEMP",
            "SET ROLE postgres",
            "SET ROLE NONE",
            "SET SESSION AUTHORIZATION DEFAULT",
            "SET search_path = mine, pg_temp, public",
            "SET search_path = holdfast, public",
            "RESET search_path",
            "SET plan_cache_mode = force_generic_plan",
            "SET enable_seqscan = off; SET enable_indexscan = on",
            "SET constraint_exclusion = on; SET force_parallel_mode = on",
            "SET jit = off; SET work_mem = '64kB'",
            "SET row_security = off",
            "SET default_transaction_read_only = off",
            "SET CONSTRAINTS ALL DEFERRED",
            "LISTEN holdfast",
            "NOTIFY holdfast, 'x'",
            "SELECT pg_advisory_xact_lock(1, 18502)",
            "SELECT pg_advisory_unlock_all()",
            "SELECT * FROM holdfast.whoami(), holdfast.owner_of('10')",
            "SELECT * FROM orders FOR UPDATE",
            "DEALLOCATE ALL",
            "CLOSE ALL",
            "SELECT 1 / 0",
            "LOAD 'holdfast'",
        ])
        .to_owned()
    }
}
