//! Statements of a login that means harm or makes mistakes: of every shape, made from a seed.

use fastrand::Rng;

use super::tables::{NUMBERS, TABLES, Table};

/// Makes statements.
pub struct Statements {
    rng: Rng,
    numbers: u32,
}

/// What a session does on end, most often a transaction.
pub struct Episode {
    /// One after the other.
    pub steps: Vec<Step>,
    /// Whether each has a savepoint to go back to when it fails, as some drivers do it; otherwise the rest fails as well.
    pub tolerant: bool,
}

/// One thing to send.
pub enum Step {
    /// Over the simple protocol: a statement, or several that are one message.
    Run(String),
    /// Prepared by the driver.
    Prepare(String),
    /// What was prepared last; more often than it takes for its plan to become generic.
    Execute,
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
            self.step(&mut steps);
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

    /// How much the login may write from now on: little, more than it tries, or as much as it likes.
    pub fn limits(&mut self) -> String {
        format!(
            "rows_per_statement => {}, rows_per_transaction => {}, tenants_per_statement => {}, cascade_rows => {},
             statement_timeout => '5 s', lock_timeout => '1 s'",
            self.pick(&["1", "4", "8", "-1"]),
            self.pick(&["3", "12", "500", "-1"]),
            self.pick(&["1", "1", "2", "-1"]),
            self.pick(&["0", "1", "3", "-1"]),
        )
    }

    fn step(&mut self, steps: &mut Vec<Step>) {
        match self.rng.u32(0..100) {
            0..50 => steps.push(Step::Run(self.write())),
            50..58 => {
                steps.push(Step::Prepare(self.write()));
                steps.extend((0..self.rng.u32(1..8)).map(|_| Step::Execute));
            }
            58..62 => steps.push(self.copy()),
            62..80 => {
                let statements = self.indirect();
                // In one message they are a transaction of their own.
                if self.chance(50) {
                    steps.push(Step::Run(statements.join("; ")));
                } else {
                    steps.extend(statements.into_iter().map(Step::Run));
                }
            }
            80..92 => steps.push(Step::Run(self.command())),
            _ => steps.push(Step::Run(self.surroundings())),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(0..of.len())]
    }

    pub(super) fn name(&mut self, prefix: &str) -> String {
        self.numbers += 1;
        format!("{prefix}_{}", self.numbers)
    }

    pub(super) fn table(&mut self) -> &'static Table {
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
        match self.rng.u32(0..18) {
            0..3 => self.insert(),
            3..7 => self.update(),
            7..10 => self.delete(),
            10 => self.merge(),
            11..15 => self.several(),
            15 => format!("WITH w AS ({} RETURNING *) SELECT count(*) FROM w", self.plain()),
            16 => format!(
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
        match self.rng.u32(0..4) {
            0 => self.insert(),
            1 => self.update(),
            2 => self.several(),
            _ => self.delete(),
        }
    }

    fn copy(&mut self) -> Step {
        let (table, columns, rows): (&str, &str, &[&str]) = match self.rng.u32(0..6) {
            0 => ("orders", "(tenant_id, note)", &["20\tx", "60\tx", "10\tx", "\\N\tx"]),
            1 => ("log", "", &["20\t2024-05-05\tx", "10\t2024-05-05\tx"]),
            2 => ("log_old", "", &["20\t2000-05-05\tx", "10\t2000-05-05\tx"]),
            3 => ("plans", "", &["77\tx"]),
            4 => ("order_items", "(order_id)", &["1", "7", "12", "\\N"]),
            _ => ("loose", "(id)", &["5"]),
        };
        let lines: String = (0..self.rng.u32(1..4)).map(|_| self.pick(rows).to_owned() + "\n").collect();
        Step::Copy(format!("COPY {table} {columns} FROM STDIN"), lines)
    }

    /// Writes of several rows, which limits are about: of one tenant, of both that the login may write, by foreign keys.
    fn several(&mut self) -> String {
        let tenant = self.pick(&["20", "60"]);
        let rows = self.rng.u32(2..12);
        match self.rng.u32(0..11) {
            0..2 => {
                format!("INSERT INTO orders (tenant_id, net) SELECT {tenant}, n FROM generate_series(1, {rows}) AS n")
            }
            2..4 => format!(
                "INSERT INTO order_items (order_id, what) SELECT id, 'several' FROM orders WHERE tenant_id = {tenant} LIMIT {rows}"
            ),
            4 => format!(
                "INSERT INTO shipments (item_id) SELECT i.id FROM order_items i JOIN orders o ON o.id = i.order_id WHERE o.tenant_id = {tenant} LIMIT {rows}"
            ),
            5 => "INSERT INTO orders (tenant_id, net) VALUES (20, 1), (60, 1)".to_owned(),
            6 => "UPDATE orders SET note = 'both' WHERE tenant_id IN (20, 60)".to_owned(),
            7 => format!("UPDATE orders SET net = net + 1 WHERE tenant_id = {tenant}"),
            8 => "DELETE FROM orders WHERE tenant_id IN (20, 60)".to_owned(),
            9 => format!("DELETE FROM orders WHERE tenant_id = {tenant}"),
            _ => {
                format!("DELETE FROM order_items WHERE order_id IN (SELECT id FROM orders WHERE tenant_id = {tenant})")
            }
        }
    }

    /// A write that something else makes, one statement or several that belong together.
    fn indirect(&mut self) -> Vec<String> {
        let write = self.write();
        let quoted = write.replace('\'', "''");
        let name = self.name("thing");
        let plain = self.plain();
        let one = |statement: String| vec![statement];
        match self.rng.u32(0..16) {
            0 => one(format!("DO $$ BEGIN {plain}; END $$")),
            1 => one(format!(
                "DO $$ BEGIN BEGIN {plain}; EXCEPTION WHEN OTHERS THEN NULL; END; {}; END $$",
                self.plain()
            )),
            2 => one(format!("DO $$ BEGIN EXECUTE '{quoted}'; END $$")),
            3 => vec![
                format!("CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE sql AS $$ {plain} $$"),
                format!("SELECT mine.{name}()"),
            ],
            4 => vec![
                format!(
                    "CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {plain}; END $$"
                ),
                format!("SELECT mine.{name}(), mine.{name}()"),
            ],
            5 => vec![
                format!("CREATE FUNCTION mine.{name}() RETURNS void LANGUAGE sql BEGIN ATOMIC {plain}; END"),
                format!("SELECT mine.{name}()"),
            ],
            6 => {
                let mut statements = vec![format!("PREPARE {name} AS {plain}")];
                statements.extend(std::iter::repeat_n(format!("EXECUTE {name}"), 6));
                statements
            }
            7 => one(format!("SELECT bill({})", self.pick(NUMBERS))),
            8 => one(format!("SELECT bill_as_owner({})", self.pick(NUMBERS))),
            9 => {
                let table = self.table();
                let (of, set, value) = (table.name, table.set, self.constant());
                vec![
                    format!("DECLARE {name} CURSOR FOR SELECT * FROM {of}{} FOR UPDATE", self.where_(table)),
                    format!("FETCH 1 FROM {name}"),
                    format!("UPDATE {of} SET {set} = {value} WHERE CURRENT OF {name}"),
                    format!("DELETE FROM {of} WHERE CURRENT OF {name}"),
                ]
            }
            10 => {
                let table = self.table();
                vec![
                    format!("CREATE VIEW mine.{name} AS SELECT * FROM {}", table.name),
                    format!("DELETE FROM mine.{name}{}", self.where_(table)),
                ]
            }
            11 => vec![
                format!("CREATE TABLE mine.{name} (id int)"),
                format!("CREATE RULE r AS ON INSERT TO mine.{name} DO ALSO {plain}"),
                format!("INSERT INTO mine.{name} VALUES (1)"),
            ],
            12 => {
                let table = self.table().name.replace("tenant_20.", "");
                vec![
                    format!("CREATE TEMP TABLE IF NOT EXISTS {table} (id int, tenant_id int, note text)"),
                    write,
                    format!("DROP TABLE IF EXISTS pg_temp.{table}"),
                ]
            }
            13 => vec![
                format!(
                    "CREATE FUNCTION mine.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {plain}; RETURN NEW; END $$"
                ),
                format!("CREATE TEMP TABLE {name} (id int)"),
                format!("CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION mine.{name}()"),
                format!("INSERT INTO {name} VALUES (1)"),
            ],
            14 => one(format!("SELECT query_to_xml('{quoted}', true, true, '')")),
            _ => vec![
                format!(
                    "CREATE PROCEDURE mine.{name}() LANGUAGE plpgsql AS $$ BEGIN {plain}; COMMIT; {}; END $$",
                    self.plain()
                ),
                format!("CALL mine.{name}()"),
            ],
        }
    }
}
