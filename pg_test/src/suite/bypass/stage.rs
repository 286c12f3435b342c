//! Where the attempts are made, and how it is seen that they changed nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use postgres::Statement;

use crate::client::Session;
use crate::cluster::Cluster;
use crate::database::{Database, Role};

const STAGE: &str = include_str!("stage.sql");
const CONTENTS: &str = include_str!("contents.sql");

/// The way back to the database over a connection of its own; a superuser's function, since dblink wants a password from others.
const ELSEWHERE: &str = "
    CREATE EXTENSION dblink SCHEMA carriers;
    CREATE FUNCTION carriers.elsewhere(statement text) RETURNS text LANGUAGE sql SECURITY DEFINER AS
        $$SELECT carriers.dblink_exec('host=:socket port=:port dbname=:database user=:rebuilt', statement)$$";

/// Each in a transaction of its own, as a cutover must be.
const OWNERSHIP: [&str; 12] = [
    "cutover('20', 'rebuilt')",
    "cutover('21', 'rebuilt')",
    "cutover('50', 'rebuilt')",
    "cutover('acme', 'rebuilt')",
    "cutover('aaaaaaaa-0000-4000-8000-000000000000', 'rebuilt')",
    "cutover('\\xaa', 'rebuilt')",
    "cutover(ROW('eu', 20)::text, 'rebuilt')",
    "cutover(ROW('a,b', 'c')::text, 'rebuilt')",
    "freeze('40', 'audit')",
    "freeze('50', 'import')",
    "set_mode('enforce')",
    "flush_events()",
];

/// Not events: a flood of them is counted in one.
const RECORDED: &str =
    "SELECT rule, sqlstate, sum(occurrences)::bigint FROM holdfast.event WHERE outcome = 'refused' GROUP BY 1, 2";

/// A checksum for everything that must not change.
pub type Contents = BTreeMap<String, Option<String>>;

/// A refusal on record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// The rule.
    pub rule: String,
    /// Its SQLSTATE.
    pub sqlstate: String,
}

/// A guarded shop in a database of its own.
pub struct Stage {
    /// The database.
    pub database: Database,
    /// The login role of the legacy backend, which owns the shop.
    pub legacy: Role,
    /// The login role that attempts are made with.
    pub rebuilt: Role,
    /// A superuser who is no part of any attempt.
    pub observer: Session,
    /// What `contents` last was when all was well.
    pub baseline: Contents,
    /// Whether the server can connect back to itself.
    pub has_dblink: bool,
    contents: Statement,
    recorded: Statement,
    seen: BTreeMap<Recorded, i64>,
    socket: String,
    port: u16,
    _bystander: Session,
}

impl Stage {
    /// Sets it.
    pub fn set(cluster: &Cluster) -> Result<Stage> {
        let database = cluster.guarded_database("bypass")?;
        let (legacy, rebuilt) = (database.role("legacy")?, database.role("rebuilt")?);
        let bystander = database.session().role(&legacy).application_name("bystander").connect()?;
        let mut observer = database.connect()?;
        let mut stage = Stage {
            contents: observer.prepare("SELECT")?,
            recorded: observer.prepare(RECORDED)?,
            observer,
            baseline: Contents::new(),
            has_dblink: false,
            seen: BTreeMap::new(),
            socket: cluster.socket_dir().display().to_string(),
            port: cluster.port(),
            database,
            legacy,
            rebuilt,
            _bystander: bystander,
        };
        stage.operate(STAGE)?;
        let dblink = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'dblink')";
        stage.has_dblink = stage.observer.one(dblink)?;
        if stage.has_dblink {
            stage.operate(ELSEWHERE)?;
        }
        for change in OWNERSHIP {
            stage.operate(&format!("SELECT holdfast.{change}"))?;
        }
        let tables = "SELECT format('UNION ALL SELECT %L, md5(string_agg(t::text, '''' ORDER BY t::text)) FROM ONLY %s t', oid::regclass, oid::regclass)
            FROM pg_class WHERE relnamespace IN ('shop'::regnamespace, 'holdfast'::regnamespace) AND relkind = 'r' AND relname !~ '^(event|audit_batch)'
            UNION ALL SELECT format('UNION ALL SELECT %L, last_value || '' '' || is_called FROM %s', oid::regclass, oid::regclass)
            FROM pg_class WHERE relnamespace IN ('shop'::regnamespace, 'holdfast'::regnamespace) AND relkind = 'S' AND relname <> 'event_id_seq'";
        let tables: Vec<String> = stage.observer.rows(tables)?.into_iter().flatten().flatten().collect();
        let contents = format!("{}\n{}", stage.fill(CONTENTS), tables.join("\n"));
        stage.contents = stage.observer.prepare(&contents)?;
        stage.baseline = stage.contents()?;
        Ok(stage)
    }

    /// Runs statements as the observer.
    pub fn operate(&mut self, sql: &str) -> Result<()> {
        let sql = self.fill(sql);
        self.observer.exec(&sql)
    }

    /// A session of the rebuilt backend.
    pub fn rebuilt(&self) -> Result<Session> {
        self.database.connect_as(&self.rebuilt)
    }

    /// Puts the names in that differ from run to run.
    pub fn fill(&self, sql: &str) -> String {
        sql.replace(":legacy", &self.legacy)
            .replace(":rebuilt", &self.rebuilt)
            .replace(":database", &self.database.name)
            .replace(":socket", &self.socket)
            .replace(":port", &self.port.to_string())
    }

    /// Everything that an attempt might change.
    pub fn contents(&mut self) -> Result<Contents> {
        let rows = self.observer.query(&self.contents, &[]).context("reading everything")?;
        let contents: Contents =
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
        ensure!(contents.len() > 40, "only {} lines: {contents:?}", contents.len());
        Ok(contents)
    }

    /// What differs from the baseline; empty if nothing does.
    pub fn changed(&mut self) -> Vec<String> {
        match self.contents() {
            Ok(now) if now == self.baseline => Vec::new(),
            Ok(now) => {
                let differs = |name: &&String| now.get(*name) != self.baseline.get(*name);
                self.baseline.keys().filter(differs).cloned().collect()
            }
            Err(error) => vec![format!("everything: {error:#}")],
        }
    }

    /// The refusals on record since this was asked last.
    pub fn recorded(&mut self) -> Result<Vec<Recorded>> {
        let rows = self.observer.query(&self.recorded, &[])?;
        let mut recorded = Vec::new();
        for row in rows {
            let refusal = Recorded { rule: row.try_get(0)?, sqlstate: row.try_get(1)? };
            let count: i64 = row.try_get(2)?;
            let before = self.seen.insert(refusal.clone(), count).unwrap_or(0);
            recorded.extend((before..count).map(|_| refusal.clone()));
        }
        Ok(recorded)
    }
}
