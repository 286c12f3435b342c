//! Two hundred clients of both backends on ten server connections, while tenants move from one backend to the other and back:
//! each row says who wrote it and when, and the history of ownership says who should have.
//!
//! Windows with Holdfast, with it and tenants at rest, and without it, on a cluster of its own behind a pooler of its own, take
//! turns, so that all meet the same machine. In the suite that is short, and only rows are judged; `cargo verify --poolers` takes its time, and
//! prints the throughput.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::bouncer::{Bouncer, Setup};
use super::fleet::{Board, Door, Fleet, ROWS, TENANTS};
use super::{TRACK, UNCLAIMED};
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Database;
use crate::setup::poolers::Release;
use crate::setup::{Postgres, Program, provide_programs};
use crate::suite::tokens::Issuer;
use crate::ui::Ui;

const CLIENTS: usize = 200;
const SERVERS: u32 = 10;
const BACKENDS: [&str; 2] = ["legacy", "rebuilt"];

/// Within which transactions end that have begun when a window does.
const SETTLE: Duration = Duration::from_millis(200);

/// Between two cutovers.
const PAUSE: Duration = Duration::from_millis(50);

/// How clients are told from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each backend has a role, each role a pool.
    PoolARole,
    /// All share a role and a pool; each transaction shows a token.
    Tokens,
    /// All share a role and a pool; the pooler carries the claim along.
    Tracked,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::PoolARole => "a pool for each role",
            Way::Tokens => "one pool, a token in each transaction",
            Way::Tracked => "one pool, tracked claims",
        })
    }
}

/// With a pool for each role.
pub fn a_pool_a_role(cluster: &mut Cluster) -> Result<()> {
    short(cluster, Way::PoolARole)
}

/// With one pool and tokens.
pub fn tokens(cluster: &mut Cluster) -> Result<()> {
    short(cluster, Way::Tokens)
}

/// With one pool and tracked claims.
pub fn tracked(cluster: &mut Cluster) -> Result<()> {
    short(cluster, Way::Tracked)
}

fn short(cluster: &Cluster, way: Way) -> Result<()> {
    let figures = Course { windows: 1, window: Duration::from_secs(2) }.run(cluster, None, way)?;
    println!("{figures}");
    Ok(())
}

/// The benchmark: so many seconds with Holdfast while tenants move, as many while they don't, and as many without it, in each set-up.
pub fn benchmark(postgres: &Postgres, seconds: u64, ui: &Ui) -> Result<()> {
    let programs = [Release::Bookworm, Release::Trixie].map(Program::PgBouncer);
    provide_programs(&BTreeSet::from(programs), ui);
    let window = Duration::from_secs(10).min(Duration::from_secs(seconds.max(1)));
    let course = Course { windows: u32::try_from(seconds.div_ceil(window.as_secs()))?, window };
    for way in [Way::PoolARole, Way::Tokens, Way::Tracked] {
        let with = Cluster::start(postgres, ClusterOptions::new())?;
        let without = Cluster::start(postgres, ClusterOptions::new().preload(""))?;
        let what = format!("{seconds} seconds of {CLIENTS} clients on {SERVERS} connections: {way}");
        let figures = ui.step(&what, |_| course.run(&with, Some(&without), way))?;
        println!("{figures}");
    }
    Ok(())
}

/// How long, in how many pieces.
#[derive(Clone, Copy)]
struct Course {
    windows: u32,
    window: Duration,
}

impl Course {
    fn run(self, cluster: &Cluster, plain: Option<&Cluster>, way: Way) -> Result<Figures> {
        let guarded = Side::guarded(cluster, way)?;
        let plain = plain.map(|cluster| Side::plain(cluster, way)).transpose()?;
        let mover = guarded.move_tenants()?;
        let fleets: Vec<Fleet> = [Some(&guarded), plain.as_ref()]
            .into_iter()
            .flatten()
            .map(|side| Fleet::start(&side.board, &side.doors, CLIENTS))
            .collect::<Result<_>>()?;
        let [mut with, mut still, mut without] = [Throughput::default(); 3];
        for _ in 0..self.windows {
            guarded.board.moving.store(true, Ordering::Relaxed);
            with.add(&guarded.board, self.window);
            guarded.board.moving.store(false, Ordering::Relaxed);
            if let Some(plain) = &plain {
                still.add(&guarded.board, self.window);
                without.add(&plain.board, self.window);
            }
        }
        fleets.into_iter().try_for_each(Fleet::end)?;
        let moves = mover.join().map_err(|_| anyhow!("the mover panicked"))??;
        ensure!(moves > 0 && with.committed > 0, "nothing happened: {moves} moves, {} commits", with.committed);
        let rows = guarded.judge()?;
        let (refused, odd) = (guarded.board.refused(), guarded.board.odd());
        Ok(Figures { way, with, beside: plain.map(|_| [still, without]), moves, rows, refused, odd })
    }
}

/// What was committed while clients were at work.
#[derive(Clone, Copy, Default)]
struct Throughput {
    committed: u64,
    took: Duration,
}

impl Throughput {
    fn add(&mut self, board: &Board, window: Duration) {
        let (start, committed) = (Instant::now(), board.committed());
        board.on.store(true, Ordering::Relaxed);
        std::thread::sleep(window);
        board.on.store(false, Ordering::Relaxed);
        self.committed += board.committed() - committed;
        self.took += start.elapsed();
        // Transactions that have begun end in their own time.
        std::thread::sleep(SETTLE);
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn a_second(&self) -> f64 {
        self.committed as f64 / self.took.as_secs_f64()
    }
}

/// A database, a pooler before it, and clients that are yet to come.
struct Side {
    database: Database,
    board: Arc<Board>,
    doors: [Door; 2],
    _bouncer: Bouncer,
}

const TABLES: &str = "
    CREATE TABLE accounts (tenant int, id int, writes int NOT NULL DEFAULT 0, PRIMARY KEY (tenant, id)) WITH (fillfactor = 50);
    CREATE TABLE writes (tenant int NOT NULL, client text NOT NULL, identity text, at timestamptz NOT NULL);";

impl Side {
    fn guarded(cluster: &Cluster, way: Way) -> Result<Side> {
        let database = cluster.guarded_database("pooled")?;
        let mut dba = database.connect()?;
        dba.exec(&format!(
            "{TABLES} CREATE FUNCTION who() RETURNS text LANGUAGE sql AS 'SELECT holdfast.current_backend()';
             SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 60);
             SELECT holdfast.guard_table('accounts', 'tenant');
             SELECT holdfast.guard_table('writes', 'tenant');
             SELECT holdfast.allow_writes('rebuilt', 'accounts');
             SELECT holdfast.allow_writes('rebuilt', 'writes');
             SELECT holdfast.set_mode('enforce')"
        ))?;
        Side::open(cluster, database, way, true)
    }

    fn plain(cluster: &Cluster, way: Way) -> Result<Side> {
        let database = cluster.database("pooled")?;
        let who = "CREATE FUNCTION who() RETURNS text LANGUAGE sql AS $$ SELECT 'nobody'::text $$";
        database.connect()?.exec(&format!("{TABLES} {who}"))?;
        Side::open(cluster, database, way, false)
    }

    fn open(cluster: &Cluster, database: Database, way: Way, guarded: bool) -> Result<Side> {
        let mut dba = database.connect()?;
        dba.exec(&format!(
            "INSERT INTO accounts SELECT t, n FROM generate_series(0, {}) t, generate_series(0, {}) n",
            TENANTS - 1,
            ROWS - 1
        ))?;
        let roles = [database.role("legacy")?, database.role("rebuilt")?].map(|role| role.to_string());
        let shared = (way != Way::PoolARole).then(|| roles[0].clone());
        for role in &roles {
            dba.exec(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"))?;
        }
        let mut doors = Vec::new();
        let bouncer = Bouncer::start(
            cluster,
            &Setup {
                release: if way == Way::Tracked { Release::Trixie } else { Release::Bookworm },
                database: database.name.clone(),
                pool_size: if shared.is_some() { SERVERS } else { SERVERS / 2 },
                shared,
                roles: roles.to_vec(),
                lines: [TRACK].into_iter().filter(|_| way == Way::Tracked && guarded).map(str::to_owned).collect(),
            },
        )?;
        for (backend, (role, seed)) in BACKENDS.into_iter().zip(roles.iter().zip([21, 22])) {
            let mut config = bouncer.config(role);
            let mut token = None;
            match way {
                _ if !guarded => {}
                Way::PoolARole => dba.exec(&format!("SELECT holdfast.add_identity('{backend}', role => '{role}')"))?,
                Way::Tokens => {
                    let issuer = Issuer::new(backend, seed);
                    dba.exec(&issuer.registered_for(backend))?;
                    dba.exec("SELECT holdfast.set_default_backend(NULL)")?;
                    token = Some(issuer.issues(&database.name, 3_600.0)?);
                }
                Way::Tracked => {
                    dba.exec(&format!("ALTER ROLE {role} SET holdfast.backend = '{UNCLAIMED}'"))?;
                    config.options(&format!("-c holdfast.backend={backend}"));
                }
            }
            doors.push(Door { config, backend, token, cancels: way == Way::Tracked });
        }
        let doors = <[Door; 2]>::try_from(doors).map_err(|_| anyhow!("two backends"))?;
        Ok(Side { database, board: Board::new(), doors, _bouncer: bouncer })
    }

    /// Hands tenants over, here and there, while clients are at work; how many in the end.
    fn move_tenants(&self) -> Result<JoinHandle<Result<u64>>> {
        let (mut operator, board) = (self.database.connect()?, Arc::clone(&self.board));
        // Whose session it is doesn't matter to a cutover.
        Ok(std::thread::spawn(move || {
            let mut moves = 0;
            while !board.is_over() {
                std::thread::sleep(PAUSE);
                if !board.on.load(Ordering::Relaxed) || !board.moving.load(Ordering::Relaxed) {
                    continue;
                }
                let tenant = fastrand::usize(..TENANTS);
                let to = 1 - board.owners[tenant].load(Ordering::Relaxed);
                let backend = BACKENDS[to as usize];
                let sql = format!("SELECT holdfast.cutover('{tenant}', '{backend}', require_ready => false)");
                match operator.batch_execute(&sql) {
                    Ok(()) => {
                        board.owners[tenant].store(to, Ordering::Relaxed);
                        moves += 1;
                    }
                    // It met a transaction that took too long; nothing has changed.
                    Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(moves)
        }))
    }

    /// How many rows there are, each of them written by who it says, who owned its tenant then.
    fn judge(&self) -> Result<i64> {
        let mut dba = self.database.connect()?;
        let rows: i64 = dba.one("SELECT count(*) FROM writes")?;
        ensure!(u64::try_from(rows)? == self.board.committed(), "{rows} rows, {} commits", self.board.committed());
        let counted: i64 = dba.one("SELECT sum(writes) FROM accounts")?;
        ensure!(counted == rows, "transactions are torn: {rows} rows, {counted} counted");
        let wrong: i64 = dba.one("SELECT count(*) FROM writes WHERE identity IS DISTINCT FROM client")?;
        ensure!(wrong == 0, "{wrong} of {rows} rows were written under another client's identity");
        let wrong: i64 = dba.one(
            "WITH owned AS (
                 SELECT tenant, to_backend AS owner, at AS since,
                     lead(at, 1, 'infinity') OVER (PARTITION BY tenant ORDER BY id) AS until
                 FROM holdfast.ownership_change
                 UNION ALL
                 SELECT t::text, 'legacy', '-infinity', coalesce(min(c.at), 'infinity')
                 FROM generate_series(0, 1000) t LEFT JOIN holdfast.ownership_change c ON c.tenant = t::text GROUP BY t)
             SELECT count(*) FROM writes w JOIN owned o
                 ON o.tenant = w.tenant::text AND w.at >= o.since AND w.at < o.until
             WHERE o.owner <> w.client",
        )?;
        ensure!(wrong == 0, "{wrong} of {rows} rows were written by who didn't own their tenant");
        Ok(rows)
    }
}

/// What came of it.
struct Figures {
    way: Way,
    with: Throughput,
    /// With Holdfast and no tenant moving; without Holdfast.
    beside: Option<[Throughput; 2]>,
    moves: u64,
    rows: i64,
    refused: u64,
    odd: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { way, moves, rows, refused, odd, .. } = self;
        let with = self.with.a_second();
        writeln!(f, "    {way}: {rows} rows, each written by its tenant's owner under its own identity")?;
        writeln!(
            f,
            "    {moves} cutovers meanwhile; {refused} transactions refused, {odd} rolled back, cancelled or broken off"
        )?;
        match &self.beside {
            None => write!(f, "    {with:.0} commits a second"),
            Some(beside) => {
                let [still, without] = beside.map(|throughput| throughput.a_second());
                write!(
                    f,
                    "    commits a second: {without:.0} without holdfast, {still:.0} with it ({:.2}), {with:.0} while tenants move ({:.2})",
                    still / without,
                    with / without
                )
            }
        }
    }
}
