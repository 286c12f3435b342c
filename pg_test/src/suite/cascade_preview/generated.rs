//! Schemas of tables that refer to each other in every way, made from a number.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::client::{Refusal, Session};

const TABLES: usize = 6;
const ROWS: u32 = 24;

/// Rows by table, action and tenant.
pub type Counts = BTreeMap<(String, String, String), i64>;

/// A foreign key from column `column` of table `child`.
struct Key {
    child: usize,
    column: String,
    action: &'static str,
}

/// A schema. Every table has the columns `tenant_id` and `id`, row 0 refers to nothing, and whatever refers by its
/// tenant as well refers to a row of the same tenant.
pub struct Generated {
    keys: Vec<Key>,
    ddl: Vec<String>,
}

/// Numbers that are the same for the same seed (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

impl Generated {
    /// Creates the tables and fills them.
    pub fn create(session: &mut Session, seed: u64) -> Result<Generated> {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut generated = Generated { keys: Vec::new(), ddl: Vec::new() };
        let partitioned: Vec<bool> = (0..TABLES).map(|_| numbers.below(3) == 0).collect();
        for (table, partitioned) in partitioned.iter().enumerate() {
            generated.table(table, *partitioned);
        }
        for child in 0..TABLES {
            // A chain, so that there is depth, and one or two keys to anywhere, itself and back included.
            let chain = child.checked_sub(1);
            let others = (0..=numbers.below(2)).map(|_| usize::try_from(numbers.below(TABLES as u64)).unwrap_or(0));
            let parents: Vec<usize> = chain.into_iter().chain(others.collect::<Vec<_>>()).collect();
            for (number, parent) in parents.into_iter().enumerate() {
                let forward = number == 0 && chain.is_some();
                generated.key(&mut numbers, child, parent, partitioned[parent], forward);
            }
        }
        for statement in &generated.ddl {
            session.exec(statement)?;
        }
        for table in 0..TABLES {
            session.exec(&format!("SELECT holdfast.guard_table('t{table}', 'tenant_id')"))?;
        }
        Ok(generated)
    }

    fn table(&mut self, table: usize, partitioned: bool) {
        let columns = "tenant_id int NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id)";
        if partitioned {
            self.ddl.push(format!("CREATE TABLE t{table} ({columns}) PARTITION BY LIST (tenant_id)"));
            self.ddl.push(format!("CREATE TABLE t{table}_0 PARTITION OF t{table} FOR VALUES IN (0)"));
            // Two levels; and columns in another order.
            self.ddl.push(format!(
                "CREATE TABLE t{table}_1 (gone int, id int NOT NULL, tenant_id int NOT NULL) PARTITION BY HASH (id)"
            ));
            self.ddl.push(format!("ALTER TABLE t{table}_1 DROP gone"));
            for half in 0..2 {
                self.ddl.push(format!(
                    "CREATE TABLE t{table}_1_{half} PARTITION OF t{table}_1 FOR VALUES WITH (MODULUS 2, REMAINDER {half})"
                ));
            }
            self.ddl.push(format!("ALTER TABLE t{table} ATTACH PARTITION t{table}_1 DEFAULT"));
        } else {
            self.ddl.push(format!("CREATE TABLE t{table} ({columns}, UNIQUE (id))"));
        }
        let last = ROWS - 1;
        self.ddl
            .push(format!("INSERT INTO t{table} (tenant_id, id) SELECT n % 3, n FROM generate_series(0, {last}) n"));
    }

    fn key(&mut self, numbers: &mut Numbers, child: usize, parent: usize, partitioned: bool, forward: bool) {
        let column = format!("c{}", self.keys.len());
        // Only a primary key leads to a partitioned table, and no default suits every tenant.
        let composite = partitioned || numbers.below(2) == 0;
        let (action, clause) = match numbers.below(if forward { 14 } else { 20 }) {
            0..=10 => ("delete", "CASCADE"),
            11 | 12 if composite => ("set null", "SET NULL (#)"),
            11 | 12 => ("set null", "SET NULL"),
            13 | 14 if !composite => ("set default", "SET DEFAULT"),
            15 | 16 => ("restricted", "NO ACTION"),
            17 => ("restricted", "RESTRICT"),
            18 => ("restricted", "NO ACTION DEFERRABLE INITIALLY DEFERRED"),
            _ => ("delete", "CASCADE"),
        };
        let clause = clause.replace('#', &column);
        let (from, to) =
            if composite { (format!("tenant_id, {column}"), "tenant_id, id") } else { (column.clone(), "id") };
        self.ddl.push(format!("ALTER TABLE t{child} ADD {column} int DEFAULT 0"));
        // Of the same tenant; and often of nobody, or a few rows would take all.
        let (factor, summand, share) = (numbers.below(7) + 1, numbers.below(8), numbers.below(3) + 2);
        self.ddl.push(format!(
            "UPDATE t{child} SET {column} = CASE WHEN id > 0 AND (id + {summand}) % {share} = 0
                 THEN 3 * ((id * {factor} + {summand}) % {}) + tenant_id END",
            ROWS / 3
        ));
        self.ddl.push(format!(
            "ALTER TABLE t{child} ADD FOREIGN KEY ({from}) REFERENCES t{parent} ({to}) ON DELETE {clause}"
        ));
        self.keys.push(Key { child, column, action });
    }

    /// How many tables there are: t0, t1, ...
    pub fn tables(&self) -> usize {
        TABLES
    }

    /// For a failure's report.
    pub fn ddl(&self) -> String {
        self.ddl.join(";\n")
    }

    /// What the preview tells, and how deep it goes.
    pub fn preview(&self, session: &mut Session, table: usize, predicate: &str) -> Result<(Counts, i32)> {
        let rows = session.query(
            "SELECT relation::text, action, coalesce(tenant, ''), sum(rows)::bigint, max(depth)
             FROM holdfast.cascade_preview($1::text::regclass, $2) GROUP BY 1, 2, 3",
            &[&format!("t{table}"), &predicate],
        )?;
        let mut counts = Counts::new();
        let mut deepest = 0;
        for row in rows {
            counts.insert((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?), row.try_get(3)?);
            deepest = deepest.max(row.try_get(4)?);
        }
        Ok((counts, deepest))
    }

    /// What DELETE takes, rolled back; none if a foreign key stops it.
    pub fn delete(&self, session: &mut Session, table: usize, predicate: &str) -> Result<Option<Counts>> {
        session.exec("BEGIN")?;
        let taken = self.taken(session, table, predicate);
        session.exec("ROLLBACK")?;
        match taken {
            // RESTRICT has a code of its own from version 18 on.
            Err(error) if Refusal::of(&error).is_some_and(|r| matches!(r.code.as_str(), "23503" | "23001")) => Ok(None),
            taken => taken.map(Some),
        }
    }

    fn taken(&self, session: &mut Session, table: usize, predicate: &str) -> Result<Counts> {
        for table in 0..TABLES {
            session.exec(&format!("CREATE TEMP TABLE before_{table} ON COMMIT DROP AS SELECT * FROM t{table}"))?;
        }
        session.exec(&format!("DELETE FROM t{table} WHERE {predicate}"))?;
        session.exec("SET CONSTRAINTS ALL IMMEDIATE")?;
        let mut counts = Counts::new();
        for table in 0..TABLES {
            let mut effects = vec![("delete".to_owned(), "a.id IS NULL".to_owned())];
            for action in ["set null", "set default"] {
                let set = if action == "set null" { "IS NULL" } else { "= 0" };
                let changed: BTreeSet<String> = { self.keys.iter() }
                    .filter(|key| key.child == table && key.action == action)
                    .map(|Key { column: c, .. }| format!("b.{c} IS DISTINCT FROM a.{c} AND a.{c} {set}"))
                    .collect();
                let changed: Vec<String> = changed.into_iter().collect();
                if !changed.is_empty() {
                    effects.push((action.to_owned(), format!("a.id IS NOT NULL AND ({})", changed.join(" OR "))));
                }
            }
            for (effect, condition) in effects {
                let sql = format!(
                    "SELECT b.tenant_id::text, count(*) FROM before_{table} b LEFT JOIN t{table} a USING (tenant_id, id)
                     WHERE {condition} GROUP BY 1"
                );
                for row in session.query(&sql, &[])? {
                    let before = counts.insert((format!("t{table}"), effect.clone(), row.try_get(0)?), row.try_get(1)?);
                    ensure!(before.is_none(), "counted twice");
                }
            }
        }
        Ok(counts)
    }

    /// Drops the tables.
    pub fn drop(&self, session: &mut Session) -> Result<()> {
        let names: Vec<String> = (0..TABLES).map(|table| format!("t{table}")).collect();
        session.exec(&format!("DROP TABLE {} CASCADE", names.join(", ")))
    }
}
