//! Statements of a login that means harm or makes mistakes: of every shape, made from a seed.

use fastrand::Rng;

/// A table as statements use it: its name, key, tenant column and a column to set; empty where it has none.
struct Table {
    name: &'static str,
    key: &'static str,
    tenant: &'static str,
    set: &'static str,
    tenants: &'static [&'static str],
}

const NUMBERS: &[&str] =
    &["20", "20", "20", "10", "30", "40", "50", "NULL", "7", "(SELECT max(tenant_id) FROM customers)"];
const TEXTS: &[&str] = &["'20'", "'20'", "'10'", "'30'", "NULL", "'x'", "'020'", "' 20'"];
const UUIDS: &[&str] = &[
    "'00000000-0000-0000-0000-00000000000b'",
    "'00000000-0000-0000-0000-00000000000B'",
    "'00000000-0000-0000-0000-00000000000a'",
    "NULL",
];
const BYTES: &[&str] = &["'\\x0b'", "'\\x0a'", "'\\x0b00'", "NULL"];

const fn table(name: &'static str, tenant: &'static str, set: &'static str, tenants: &'static [&'static str]) -> Table {
    Table { name, key: "id", tenant, set, tenants }
}

const TABLES: [Table; 26] = [
    table("orders", "tenant_id", "note", NUMBERS),
    table("orders", "tenant_id", "tenant_id", NUMBERS),
    table("orders", "tenant_id", "net", NUMBERS),
    table("orders", "tenant_id", "customer", NUMBERS),
    table("all_orders", "tenant_id", "note", NUMBERS),
    table("paid_orders", "tenant_id", "net", NUMBERS),
    table("customers", "tenant_id", "name", NUMBERS),
    table("customers", "tenant_id", "id", NUMBERS),
    table("order_items", "order_id", "what", NUMBERS),
    table("order_items", "order_id", "order_id", NUMBERS),
    table("shipments", "item_id", "item_id", NUMBERS),
    table("by_uuid", "tenant", "id", UUIDS),
    table("by_uuid", "tenant", "tenant", UUIDS),
    table("by_text", "tenant", "tenant", TEXTS),
    table("by_bytea", "tenant", "tenant", BYTES),
    table("by_bigint", "tenant", "tenant", NUMBERS),
    table("by_domain", "tenant", "id", TEXTS),
    Table { name: "log", key: "tenant_id", tenant: "tenant_id", set: "line", tenants: NUMBERS },
    Table { name: "log_new_20", key: "tenant_id", tenant: "tenant_id", set: "at", tenants: NUMBERS },
    Table { name: "log_old", key: "tenant_id", tenant: "tenant_id", set: "tenant_id", tenants: NUMBERS },
    table("assets", "tenant_id", "name", NUMBERS),
    table("vehicles", "tenant_id", "tenant_id", NUMBERS),
    table("plans", "id", "name", NUMBERS),
    table("ledger", "id", "line", NUMBERS),
    table("loose", "tenant_id", "note", NUMBERS),
    Table { name: "tenant_20.settings", key: "name", tenant: "name", set: "value", tenants: TEXTS },
];

/// Makes statements.
pub struct Statements {
    rng: Rng,
    numbers: u32,
}

/// What a session does between two looks at what it must not change.
pub struct Episode {
    /// One after the other.
    pub steps: Vec<Step>,
    /// Whether each has a savepoint to go back to when it fails, as some drivers do it; otherwise the rest fails as well.
    pub tolerant: bool,
}

/// One thing to send.
pub enum Step {
    /// Over the simple protocol; may be several statements.
    Run(String),
    /// Prepared by the driver and executed this often, past the point where its plan becomes generic.
    Prepared(String, u32),
    /// COPY ... FROM STDIN with this content.
    Copy(String, String),
    /// Another connection.
    Reconnect,
}

impl Statements {
    /// From a seed; the same seed makes the same statements.
    pub fn new(seed: u64) -> Statements {
        Statements { rng: Rng::with_seed(seed), numbers: 0 }
    }

    /// What a session does next: a few steps, most often in a transaction.
    pub fn episode(&mut self) -> Episode {
        let mut steps = Vec::new();
        let tolerant = self.chance(50);
        if self.chance(3) {
            steps.push(Step::Reconnect);
        }
        let open = self.chance(60);
        if open {
            let how = self.pick(&[
                "BEGIN",
                "BEGIN",
                "BEGIN ISOLATION LEVEL REPEATABLE READ",
                "BEGIN ISOLATION LEVEL SERIALIZABLE",
            ]);
            steps.push(Step::Run(how.to_owned()));
        }
        for _ in 0..self.rng.u32(1..6) {
            steps.push(self.step());
            if open && self.chance(25) {
                let name = self.pick(&["a", "b"]);
                let verb = self.pick(&["SAVEPOINT", "ROLLBACK TO", "RELEASE"]);
                steps.push(Step::Run(format!("{verb} {name}")));
            }
        }
        if open {
            let end = match self.rng.u32(0..10) {
                0..7 => "COMMIT".to_owned(),
                7 => "ROLLBACK".to_owned(),
                _ => {
                    let name = self.name("gid");
                    let end = self.pick(&["COMMIT", "ROLLBACK"]);
                    steps.push(Step::Run(format!("PREPARE TRANSACTION '{name}'")));
                    format!("{end} PREPARED '{name}'")
                }
            };
            steps.push(Step::Run(end));
        }
        Episode { steps, tolerant: open && tolerant }
    }

    fn step(&mut self) -> Step {
        match self.rng.u32(0..100) {
            0..50 => Step::Run(self.write()),
            50..58 => {
                let write = self.write();
                Step::Prepared(write, self.rng.u32(1..8))
            }
            58..62 => self.copy(),
            62..80 => Step::Run(self.indirect()),
            80..92 => Step::Run(self.command()),
            _ => Step::Run(self.surroundings()),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(0..of.len())]
    }

    fn name(&mut self, prefix: &str) -> String {
        self.numbers += 1;
        format!("{prefix}_{}", self.numbers)
    }

    fn table(&mut self) -> &'static Table {
        &TABLES[self.rng.usize(0..TABLES.len())]
    }

    fn tenant(&mut self, table: &Table) -> &'static str {
        self.pick(table.tenants)
    }

    fn value(&mut self) -> &'static str {
        self.pick(&["NULL", "'20'", "'10'", "DEFAULT", "'plan'", "'x'", "'1'", "'2024-02-02'", "'7'"])
    }

    /// A value where DEFAULT can't stand.
    fn constant(&mut self) -> &'static str {
        match self.value() {
            "DEFAULT" => "NULL",
            value => value,
        }
    }

    fn condition(&mut self, table: &Table) -> String {
        let (tenant, key) = (table.tenant, table.key);
        let value = self.tenant(table);
        match self.rng.u32(0..12) {
            0..5 => format!("{tenant} = {value}"),
            5 => format!("{tenant} IN ({value}, {})", self.tenant(table)),
            6 => format!("{tenant} IS NOT DISTINCT FROM {value}"),
            7 => format!("{key}::text = {}", self.constant()),
            8 => format!("{tenant} = {value} OR {tenant} IS NULL"),
            9 => format!("EXISTS (SELECT FROM orders WHERE tenant_id = {})", self.pick(NUMBERS)),
            10 => self.pick(&["true", "1 = 1", "NOT false", "current_user IS NOT NULL"]).to_owned(),
            _ => format!("{key} = {key} AND {tenant} = {tenant}"),
        }
    }

    fn where_(&mut self, table: &Table) -> String {
        if self.chance(10) { String::new() } else { format!(" WHERE {}", self.condition(table)) }
    }

    fn insert(&mut self) -> String {
        let table = self.table();
        let Table { name, tenant, set, key, .. } = table;
        let value = self.tenant(table);
        let conflict = match self.rng.u32(0..6) {
            0 => format!(" ON CONFLICT ({key}) DO UPDATE SET {set} = excluded.{set}"),
            1 => " ON CONFLICT DO NOTHING".to_owned(),
            2 => format!(" ON CONFLICT ({key}) DO UPDATE SET {tenant} = {value} WHERE true"),
            _ => String::new(),
        };
        let id = self.rng.u32(1..60);
        let source = match self.rng.u32(0..5) {
            0 if key != tenant => format!("({key}, {tenant}) VALUES ({id}, {value})"),
            1 if key != tenant => format!("({tenant}) SELECT {tenant} FROM {name} WHERE {tenant} = {value}"),
            2 if key != tenant => {
                format!("({key}, {tenant}) VALUES ({id}, {value}), ({id} + 1, {})", self.tenant(table))
            }
            3 => format!("SELECT * FROM {name}{}", self.where_(table)),
            _ => format!("({tenant}) VALUES ({value})"),
        };
        format!("INSERT INTO {name} {source}{conflict}")
    }

    fn update(&mut self) -> String {
        let table = self.table();
        let Table { name, tenant, set, .. } = table;
        let to = if set == tenant { self.tenant(table) } else { self.value() };
        let set = match self.rng.u32(0..4) {
            0 if set != tenant => format!("{set} = {to}, {tenant} = {}", self.tenant(table)),
            1 => format!("{set} = {set}"),
            _ => format!("{set} = {to}"),
        };
        let from = if self.chance(15) { format!(" FROM {} AS f", self.table().name) } else { String::new() };
        let only = if self.chance(10) { "ONLY " } else { "" };
        let name = if from.is_empty() { format!("{only}{name}") } else { format!("{only}{name} AS t") };
        format!("UPDATE {name} SET {set}{from}{}", self.where_(table))
    }

    fn delete(&mut self) -> String {
        let table = self.table();
        let using = if self.chance(15) { " USING plans AS u" } else { "" };
        format!("DELETE FROM {}{using}{}", table.name, self.where_(table))
    }

    fn merge(&mut self) -> String {
        let table = self.table();
        let Table { name, tenant, set, key, .. } = table;
        let (mine, other) = (self.tenant(table), self.tenant(table));
        let to = if set == tenant { other } else { self.constant() };
        let source = self.pick(&["(VALUES (1), (20), (30)) AS s (v)", "(SELECT id FROM plans) AS s (v)"]);
        let on = match self.rng.u32(0..3) {
            0 => "true".to_owned(),
            1 => format!("t.{key}::text = s.v::text"),
            _ => format!("t.{tenant} = {mine}"),
        };
        let matched = match self.rng.u32(0..3) {
            0 => "DELETE".to_owned(),
            1 => "DO NOTHING".to_owned(),
            _ => format!("UPDATE SET {set} = {to}"),
        };
        let missing = format!("WHEN NOT MATCHED THEN INSERT ({tenant}) VALUES ({other})");
        format!("MERGE INTO {name} AS t USING {source} ON {on} WHEN MATCHED THEN {matched} {missing}")
    }

    /// A write of rows.
    fn write(&mut self) -> String {
        match self.rng.u32(0..14) {
            0..3 => self.insert(),
            3..7 => self.update(),
            7..10 => self.delete(),
            10 => self.merge(),
            11 => format!("WITH w AS ({} RETURNING *) SELECT count(*) FROM w", self.plain()),
            12 => format!(
                "WITH w AS ({} RETURNING 1), v AS ({} RETURNING 1) {}",
                self.plain(),
                self.plain(),
                self.plain()
            ),
            _ => format!("EXPLAIN (ANALYZE, TIMING off) {}", self.plain()),
        }
    }

    /// A write that a WITH clause takes.
    fn plain(&mut self) -> String {
        match self.rng.u32(0..3) {
            0 => self.insert(),
            1 => self.update(),
            _ => self.delete(),
        }
    }

    fn copy(&mut self) -> Step {
        let (table, columns, rows): (&str, &str, &[&str]) = match self.rng.u32(0..6) {
            0 => ("orders", "(tenant_id, note)", &["20\tx", "10\tx", "\\N\tx"]),
            1 => ("log", "", &["20\t2024-05-05\tx", "10\t2024-05-05\tx"]),
            2 => ("log_old", "", &["20\t2000-05-05\tx", "10\t2000-05-05\tx"]),
            3 => ("plans", "", &["77\tx"]),
            4 => ("order_items", "(order_id)", &["1", "7", "12", "\\N"]),
            _ => ("loose", "(id)", &["5"]),
        };
        let lines: String = (0..self.rng.u32(1..4)).map(|_| self.pick(rows).to_owned() + "\n").collect();
        Step::Copy(format!("COPY {table} {columns} FROM STDIN"), lines)
    }

    /// A write that something else makes.
    fn indirect(&mut self) -> String {
        let write = self.write();
        let quoted = write.replace('\'', "''");
        let name = self.name("thing");
        match self.rng.u32(0..16) {
            0 => format!("DO $$ BEGIN {}; END $$", self.plain()),
            1 => format!(
                "DO $$ BEGIN BEGIN {}; EXCEPTION WHEN OTHERS THEN NULL; END; {}; END $$",
                self.plain(),
                self.plain()
            ),
            2 => format!("DO $$ BEGIN EXECUTE '{quoted}'; END $$"),
            3 => format!(
                "CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE sql AS $$ {} $$; SELECT mine.{name}()",
                self.plain()
            ),
            4 => format!(
                "CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {}; END $$; SELECT mine.{name}(), mine.{name}()",
                self.plain()
            ),
            5 => format!(
                "CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE sql BEGIN ATOMIC {}; END; SELECT mine.{name}()",
                self.plain()
            ),
            6 => format!(
                "PREPARE {name} AS {}; EXECUTE {name}; EXECUTE {name}; EXECUTE {name}; EXECUTE {name}; EXECUTE {name}; EXECUTE {name}",
                self.plain()
            ),
            7 => format!("SELECT bill({})", self.pick(NUMBERS)),
            8 => format!("SELECT bill_as_owner({})", self.pick(NUMBERS)),
            9 => {
                let table = self.table();
                let (name_, set, value) = (table.name, table.set, self.constant());
                format!(
                    "DECLARE {name} CURSOR FOR SELECT * FROM {name_}{} FOR UPDATE; FETCH 1 FROM {name}; UPDATE {name_} SET {set} = {value} WHERE CURRENT OF {name}; DELETE FROM {name_} WHERE CURRENT OF {name}",
                    self.where_(table)
                )
            }
            10 => {
                let table = self.table();
                format!(
                    "CREATE VIEW mine.{name} AS SELECT * FROM {}; DELETE FROM mine.{name}{}",
                    table.name,
                    self.where_(table)
                )
            }
            11 => format!(
                "CREATE TABLE mine.{name} (id int); CREATE RULE r AS ON INSERT TO mine.{name} DO ALSO {}; INSERT INTO mine.{name} VALUES (1)",
                self.plain()
            ),
            12 => {
                let table = self.table().name.replace("tenant_20.", "");
                format!(
                    "CREATE TEMP TABLE IF NOT EXISTS {table} (id int, tenant_id int, note text); {write}; DROP TABLE IF EXISTS pg_temp.{table}"
                )
            }
            13 => format!(
                "CREATE FUNCTION mine.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$; CREATE TEMP TABLE {name} (id int); CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION mine.{name}(); INSERT INTO {name} VALUES (1)",
                self.plain()
            ),
            14 => format!("SELECT query_to_xml('{quoted}', true, true, '')"),
            _ => format!(
                "CREATE PROCEDURE mine.{name}() LANGUAGE plpgsql AS $$ BEGIN {}; COMMIT; {}; END $$; CALL mine.{name}()",
                self.plain(),
                self.plain()
            ),
        }
    }

    /// A command that isn't a write of rows.
    fn command(&mut self) -> String {
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
        verbs[self.rng.usize(0..verbs.len())].clone()
    }

    /// What changes the session rather than data.
    fn surroundings(&mut self) -> String {
        self.pick(&[
            "SET session_replication_role = replica",
            "SELECT set_config('session_replication_role', 'replica', false)",
            "UPDATE pg_settings SET setting = 'replica' WHERE name = 'session_replication_role'",
            "SET holdfast.backend = 'legacy'",
            "SET LOCAL holdfast.backend = 'batch'",
            "SET holdfast.enabled = off",
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
