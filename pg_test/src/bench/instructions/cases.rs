//! What is counted.

use anyhow::Result;

use crate::bench::contender::Contender::{self, Created, Idle, Legacy, None as Nothing, Plpgsql, Preloaded, Rebuilt};
use crate::client::Session;

/// Something a session does, a unit at a time.
pub struct Case {
    /// What one unit is.
    pub name: &'static str,
    /// How many are counted.
    pub units: u32,
    /// Who is asked. The first is what the others are compared with.
    pub contenders: &'static [Contender],
    work: Work,
}

enum Work {
    /// One statement for all units: `$N` is their number.
    Bulk(&'static str),
    /// A prepared statement for each unit, with its number as parameter.
    Prepared(&'static str),
    /// A statement by the simple protocol for each unit.
    Simple(&'static str),
    /// A row of COPY for each unit: the table, and whether each row is another tenant's.
    Copy(&'static str, bool),
}

const GUARDED: &[Contender] = &[Nothing, Idle, Legacy, Rebuilt];
const WITH_PLPGSQL: &[Contender] = &[Nothing, Idle, Legacy, Rebuilt, Plpgsql];
const PASSED_THROUGH: &[Contender] = &[Nothing, Preloaded, Created, Legacy, Rebuilt];

/// All cases: rows first, then statements, then what each hook costs those whom it doesn't concern.
pub const CASES: &[Case] = &[
    rows(
        "row inserted, of the tenant before",
        WITH_PLPGSQL,
        "INSERT INTO hot SELECT -n, 1, n, 'x' FROM generate_series(1, $N) n",
    ),
    rows(
        "row inserted, of another tenant",
        GUARDED,
        "INSERT INTO items SELECT -n, n % 100, n, 'x' FROM generate_series(1, $N) n",
    ),
    rows("row updated, of the tenant before", WITH_PLPGSQL, "UPDATE hot SET amount = 0 WHERE id BETWEEN 1 AND $N"),
    rows("row updated, of another tenant", GUARDED, "UPDATE items SET amount = 0 WHERE id BETWEEN 1 AND $N"),
    rows("row deleted, of the tenant before", GUARDED, "DELETE FROM hot WHERE id BETWEEN 1 AND $N"),
    Case {
        name: "row copied in, of the tenant before",
        units: 1_000,
        contenders: GUARDED,
        work: Work::Copy("hot", false),
    },
    Case {
        name: "row copied in, of another tenant",
        units: 1_000,
        contenders: GUARDED,
        work: Work::Copy("items", true),
    },
    rows("row of 64 columns updated", GUARDED, "UPDATE wide SET c2 = 0 WHERE id BETWEEN 1 AND $N / 4"),
    rows(
        "row inserted, tenant of type uuid",
        GUARDED,
        "INSERT INTO by_uuid SELECT -n, md5((n % 100)::text)::uuid, n FROM generate_series(1, $N) n",
    ),
    rows(
        "row inserted, tenant of type text",
        GUARDED,
        "INSERT INTO by_text SELECT -n, 'tenant ' || n % 100, n FROM generate_series(1, $N) n",
    ),
    rows(
        "row inserted into one of 100 partitions",
        GUARDED,
        "INSERT INTO parted SELECT -n, n % 100, n FROM generate_series(1, $N) n",
    ),
    rows(
        "row inserted, tenant of its parent",
        GUARDED,
        "INSERT INTO children SELECT -n, 1 + n % 1000 FROM generate_series(1, $N) n",
    ),
    rows(
        "row inserted, tenant of its great-grandparent",
        GUARDED,
        "INSERT INTO great_grandchildren SELECT -n, 1 + n % 1000 FROM generate_series(1, $N) n",
    ),
    rows("row inserted in a savepoint of its own", GUARDED, "SELECT insert_with_savepoints($N)"),
    statements(
        "UPDATE of one row, prepared",
        WITH_PLPGSQL,
        Work::Prepared("UPDATE items SET amount = amount + 1 WHERE id = $1"),
    ),
    statements(
        "INSERT of one row, prepared",
        GUARDED,
        Work::Prepared("INSERT INTO items VALUES (-($1::int), 1, 0, 'x')"),
    ),
    statements(
        "SELECT of one row, prepared",
        PASSED_THROUGH,
        Work::Prepared("SELECT tenant FROM parents WHERE id = $1"),
    ),
    statements("SELECT 1, parsed", PASSED_THROUGH, Work::Simple("SELECT 1")),
    statements("SET LOCAL, a command", PASSED_THROUGH, Work::Simple("SET LOCAL work_mem = '4MB'")),
    statements("transaction that does nothing", PASSED_THROUGH, Work::Simple("COMMIT; BEGIN")),
    Case {
        name: "CREATE and DROP of a temporary table",
        units: 10,
        contenders: PASSED_THROUGH,
        work: Work::Simple("CREATE TEMP TABLE t (id int); DROP TABLE t"),
    },
    statements(
        "UPDATE of a temporary table's row",
        PASSED_THROUGH,
        Work::Simple("UPDATE own SET n = n + 1 WHERE n >= 0"),
    ),
];

const fn rows(name: &'static str, contenders: &'static [Contender], sql: &'static str) -> Case {
    Case { name, units: 1_000, contenders, work: Work::Bulk(sql) }
}

const fn statements(name: &'static str, contenders: &'static [Contender], work: Work) -> Case {
    Case { name, units: 300, contenders, work }
}

impl Case {
    /// Does it, in a transaction that is rolled back.
    pub fn run(&self, session: &mut Session, units: u32) -> Result<()> {
        session.exec("CREATE TEMP TABLE own AS SELECT 1 AS n; BEGIN")?;
        match self.work {
            Work::Bulk(sql) => session.exec(&sql.replace("$N", &units.to_string()))?,
            Work::Prepared(sql) => {
                let statement = session.prepare(sql)?;
                for unit in 1..=i32::try_from(units)? {
                    session.query(&statement, &[&unit])?;
                }
            }
            Work::Simple(sql) => (0..units).try_for_each(|_| session.exec(sql))?,
            Work::Copy(table, alternating) => {
                use std::io::Write as _;
                let mut copy = session.copy_in(&format!("COPY {table} (id, tenant, amount, note) FROM STDIN"))?;
                for unit in 1..=units {
                    writeln!(copy, "-{unit}\t{}\t{unit}\tnote", if alternating { unit % 100 } else { 1 })?;
                }
                copy.finish()?;
            }
        }
        session.exec("ROLLBACK")
    }
}
