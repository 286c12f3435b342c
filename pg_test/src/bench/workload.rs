//! What is measured, as a table: the rows of DESIGN §9 first.

use anyhow::Result;

use super::Bench;
use super::contender::Contender::{
    self, Created, Crowded, Idle, Legacy, None as Nothing, Pgaudit, Plpgsql, Preloaded, Rebuilt, Rls, Statement,
};
use super::{bulk, handover, oltp, refusals, sessions};

/// One of them.
pub struct Workload {
    /// For `--only`.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// What a turn yields, the main thing first.
    pub figures: &'static [Figure],
    /// Who takes turns. The others are compared with the first.
    pub contenders: &'static [Contender],
    /// What the main figure has to be.
    pub budget: &'static [Budget],
    /// Whether commits are on disk before they are reported.
    pub durable: bool,
    /// How many turns everybody has.
    pub turns: Turns,
    /// One contender's turn: a value for each figure.
    pub turn: fn(&Bench, Contender) -> Result<Vec<f64>>,
}

/// How many turns a contender has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    /// One for each round.
    Many,
    /// Half as many: each takes its time.
    Few,
    /// One: it comes to the same each time.
    One,
}

/// A number that a turn yields.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What of, where the workload's title doesn't say it.
    pub of: &'static str,
    /// "tps", "s", ...
    pub unit: &'static str,
}

/// A bound on a contender's main figure.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Whose.
    pub contender: Contender,
    /// Relative to whom; none = the figure itself.
    pub against: Option<Contender>,
    /// Which of the workload's figures.
    pub figure: usize,
    /// The bound.
    pub bound: Bound,
}

/// Which side of a number is good.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// As much, or more.
    AtLeast(f64),
    /// As much, or less.
    AtMost(f64),
}

impl Bound {
    /// Whether a number keeps it.
    pub fn is_kept_by(self, number: f64) -> bool {
        match self {
            Bound::AtLeast(least) => number >= least,
            Bound::AtMost(most) => number <= most,
        }
    }
}

const TPS: &[Figure] = &[Figure { of: "", unit: "tps" }];
const TIME: &[Figure] = &[Figure { of: "", unit: "s" }, Figure { of: "processor time", unit: "s" }];

const ALL: &[Contender] = &[Nothing, Preloaded, Created, Legacy, Rebuilt, Idle, Plpgsql, Statement, Rls, Pgaudit];
const BULK: &[Contender] = &[Nothing, Legacy, Rebuilt, Idle, Plpgsql, Statement, Rls, Pgaudit];
/// Row level security refuses COPY FROM.
const COPY: &[Contender] = &[Nothing, Legacy, Rebuilt, Idle, Plpgsql, Statement, Pgaudit];
const GUARDED: &[Contender] = &[Nothing, Legacy, Rebuilt, Idle];
const WITH_PLPGSQL: &[Contender] = &[Nothing, Legacy, Rebuilt, Idle, Plpgsql];

const fn against(contender: Contender, against: Contender, bound: Bound) -> Budget {
    Budget { contender, against: Some(against), figure: 0, bound }
}

const fn itself(contender: Contender, figure: usize, bound: Bound) -> Budget {
    Budget { contender, against: None, figure, bound }
}

const fn within(limit: f64) -> [Budget; 3] {
    let at_most = Bound::AtMost(limit);
    [against(Legacy, Nothing, at_most), against(Rebuilt, Nothing, at_most), BESIDE_ANY]
}

/// What holdfast adds to what any row trigger costs.
const BESIDE_ANY: Budget = against(Legacy, Idle, Bound::AtMost(1.05));

const FIVE_PERCENT: [Budget; 3] = within(1.05);
const TEN_PERCENT: [Budget; 3] = within(1.10);

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "select_only",
        title: "pgbench select-only, prepared",
        figures: TPS,
        contenders: &[Nothing, Preloaded, Created, Legacy, Rebuilt, Rls],
        budget: &[against(Legacy, Nothing, Bound::AtLeast(0.99))],
        durable: false,
        turns: Turns::Many,
        turn: |bench, contender| oltp::built_in(bench, contender, "select-only", 2),
    },
    Workload {
        name: "tpcb",
        title: "pgbench TPC-B-like, four tables guarded, durable",
        figures: TPS,
        contenders: ALL,
        budget: &[against(Legacy, Nothing, Bound::AtLeast(0.98))],
        durable: true,
        turns: Turns::Many,
        turn: |bench, contender| oltp::built_in(bench, contender, "tpcb-like", 4),
    },
    Workload {
        name: "update_one",
        title: "UPDATE of one row by key, prepared",
        figures: TPS,
        contenders: &[Nothing, Preloaded, Created, Legacy, Crowded, Rebuilt, Idle, Plpgsql, Statement, Rls, Pgaudit],
        budget: &[
            against(Legacy, Nothing, Bound::AtLeast(0.95)),
            against(Legacy, Plpgsql, Bound::AtLeast(1.25)),
            // Per write, with ten registered tenants and with a million.
            against(Crowded, Legacy, Bound::AtLeast(0.95)),
        ],
        durable: false,
        turns: Turns::Many,
        turn: |bench, contender| oltp::updates(bench, contender, 1),
    },
    timed("bulk_insert", "INSERT ... SELECT of one tenant's rows", BULK, &FIVE_PERCENT, |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "hot",
            "INSERT INTO hot SELECT -n, 1, n, 'note' FROM generate_series(1, $ROWS) n",
        )
    }),
    timed("bulk_update", "UPDATE of all of one tenant's rows", BULK, &TEN_PERCENT, |bench, contender| {
        bulk::statement(bench, contender, "hot", "UPDATE hot SET amount = amount + 1 WHERE id > 0")
    }),
    timed("bulk_copy", "COPY FROM of one tenant's rows", COPY, &TEN_PERCENT, |bench, contender| {
        bulk::copy(bench, contender, "hot", 1)
    }),
    timed(
        "bulk_insert_many",
        "INSERT ... SELECT, each row another of 10,000 tenants'",
        GUARDED,
        &[],
        |bench, contender| {
            bulk::statement(
                bench,
                contender,
                "items",
                "INSERT INTO items SELECT -n, n % $TENANTS, n, 'note' FROM generate_series(1, $ROWS) n",
            )
        },
    ),
    timed("bulk_update_many", "UPDATE, each row another of 10,000 tenants'", GUARDED, &[], |bench, contender| {
        bulk::statement(bench, contender, "items", "UPDATE items SET amount = amount + 1 WHERE id > 0")
    }),
    timed("bulk_copy_many", "COPY FROM, each row another of 10,000 tenants'", GUARDED, &[], |bench, contender| {
        bulk::copy(bench, contender, "items", bench.arena.scale.tenants)
    }),
    timed("wide", "UPDATE of rows of 64 columns", GUARDED, &[], |bench, contender| {
        bulk::statement(bench, contender, "wide", "UPDATE wide SET c2 = c2 + 1 WHERE id > 0")
    }),
    timed("uuid", "INSERT ... SELECT, tenants of type uuid", GUARDED, &[], |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "by_uuid",
            "INSERT INTO by_uuid SELECT -n, md5((n % $TENANTS)::text)::uuid, n FROM generate_series(1, $ROWS / 4) n",
        )
    }),
    timed("text", "INSERT ... SELECT, tenants of type text", GUARDED, &[], |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "by_text",
            "INSERT INTO by_text SELECT -n, 'tenant ' || n % $TENANTS, n FROM generate_series(1, $ROWS / 4) n",
        )
    }),
    timed("partitions", "INSERT ... SELECT into 100 partitions", GUARDED, &[], |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "parted",
            "INSERT INTO parted SELECT -n, n % $TENANTS, n FROM generate_series(1, $ROWS / 4) n",
        )
    }),
    timed("via_1", "INSERT ... SELECT, tenant of the parent row", GUARDED, &[], |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "children",
            "INSERT INTO children SELECT -n, 1 + n % ($ROWS / 20) FROM generate_series(1, $ROWS / 10) n",
        )
    }),
    timed("via_3", "INSERT ... SELECT, tenant three foreign keys away", GUARDED, &[], |bench, contender| {
        bulk::statement(
            bench,
            contender,
            "great_grandchildren",
            "INSERT INTO great_grandchildren SELECT -n, 1 + n % ($ROWS / 20) FROM generate_series(1, $ROWS / 10) n",
        )
    }),
    timed("savepoints", "a savepoint for each row", GUARDED, &[], |bench, contender| {
        bulk::statement(bench, contender, "hot", "SELECT insert_with_savepoints($ROWS / 20)")
    }),
    clients("clients_8", "UPDATE of one row, 8 clients", |bench, contender| oltp::updates(bench, contender, 8)),
    clients("clients_64", "UPDATE of one row, 64 clients", |bench, contender| oltp::updates(bench, contender, 64)),
    clients("one_tenant", "UPDATE of one row, 8 clients, all of one tenant", oltp::updates_of_one_tenant),
    Workload {
        name: "token",
        title: "a token for each transaction (with it, and without)",
        figures: &[Figure { of: "with a token", unit: "tps" }, Figure { of: "without", unit: "tps" }],
        contenders: &[Legacy],
        budget: &[],
        durable: false,
        turns: Turns::Few,
        turn: sessions::tokens,
    },
    Workload {
        name: "connections",
        title: "connection with one SELECT",
        figures: &[Figure { of: "", unit: "a second" }],
        contenders: &[Nothing, Preloaded, Created, Legacy, Rebuilt],
        budget: &[],
        durable: false,
        turns: Turns::Few,
        turn: oltp::connections,
    },
    Workload {
        name: "memory",
        title: "memory of a session",
        figures: &[
            Figure { of: "with 1,000 tenants written", unit: "kB" },
            Figure { of: "with all of the crowd's tenants written, one a transaction", unit: "kB" },
            Figure { of: "with all of them written in one transaction", unit: "kB" },
        ],
        contenders: &[Nothing, Legacy],
        budget: &[],
        durable: false,
        turns: Turns::One,
        turn: sessions::memory,
    },
    Workload {
        name: "footprint",
        title: "footprint",
        figures: &[Figure { of: "shared memory", unit: "kB" }, Figure { of: "library", unit: "kB" }],
        contenders: &[Legacy],
        budget: &[],
        durable: false,
        turns: Turns::One,
        turn: sessions::footprint,
    },
    Workload {
        name: "owner_of",
        title: "owner_of()",
        figures: &[Figure { of: "a tenant that is listed", unit: "µs" }],
        contenders: &[Legacy, Crowded],
        budget: &[],
        durable: false,
        turns: Turns::Few,
        turn: sessions::owner_of,
    },
    Workload {
        name: "cutover",
        title: "cutover of a tenant under 8 busy writers",
        figures: &[
            Figure { of: "wait added, p99", unit: "ms" },
            Figure { of: "wait added, p50", unit: "ms" },
            Figure { of: "the longest write that met one", unit: "ms" },
            Figure { of: "p99 of writes that met none", unit: "ms" },
            Figure { of: "cutovers", unit: "a second" },
        ],
        contenders: &[Legacy],
        budget: &[itself(Legacy, 0, Bound::AtMost(20.0))],
        durable: true,
        turns: Turns::Few,
        turn: handover::under_load,
    },
    Workload {
        name: "wave",
        title: "tenants handed over one after the other",
        figures: &[
            Figure { of: "by run_wave()", unit: "a second" },
            Figure { of: "by calls of cutover()", unit: "a second" },
        ],
        contenders: &[Legacy],
        budget: &[itself(Legacy, 0, Bound::AtLeast(500.0))],
        durable: true,
        turns: Turns::One,
        turn: handover::wave,
    },
    Workload {
        name: "refusals",
        title: "refusals, each recorded before it is raised",
        figures: &[Figure { of: "", unit: "a second" }],
        contenders: &[Rebuilt],
        budget: &[],
        durable: true,
        turns: Turns::Few,
        turn: refusals::flood,
    },
];

const fn timed(
    name: &'static str,
    title: &'static str,
    contenders: &'static [Contender],
    budget: &'static [Budget],
    turn: fn(&Bench, Contender) -> Result<Vec<f64>>,
) -> Workload {
    Workload { name, title, figures: TIME, contenders, budget, durable: false, turns: Turns::Few, turn }
}

const fn clients(name: &'static str, title: &'static str, turn: fn(&Bench, Contender) -> Result<Vec<f64>>) -> Workload {
    Workload {
        name,
        title,
        figures: TPS,
        contenders: WITH_PLPGSQL,
        budget: &[],
        durable: false,
        turns: Turns::Many,
        turn,
    }
}
