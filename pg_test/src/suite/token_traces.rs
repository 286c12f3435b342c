//! Where a token may be read afterwards: nowhere in what Holdfast keeps, even where it keeps statements as they were sent; and
//! nowhere on the server at all, if it is sent as README.md says.

use std::fs;

use anyhow::{Result, ensure};
use walkdir::WalkDir;

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::spool;
use super::tokens::Issuer;
use crate::cluster::{Cluster, ClusterOptions};

pub fn tests() -> Vec<Test> {
    let own = |name, options: ClusterOptions, run| {
        let options = options.set("holdfast.audit_query", "full");
        Test::own(name, options.preload("holdfast,pg_stat_statements"), run).needs_module("pg_stat_statements")
    };
    // What Postgres writes of the statements that are refused.
    let unlogged = ClusterOptions::new().set("log_min_error_statement", "panic").set("log_min_messages", "log");
    let logged = ClusterOptions::new()
        .set("log_statement", "all")
        .set("log_min_duration_statement", "0")
        .set("log_parameter_max_length", "0");
    vec![
        own("a_literal_token_is_in_nothing_that_holdfast_keeps", unlogged, literals),
        own("a_bound_token_is_on_the_server_nowhere_at_all", logged, parameters),
    ]
}

struct Scene {
    guarded: Guarded,
    /// Proves the rebuilt backend.
    token: String,
    /// Proves nothing any more.
    expired: String,
}

fn scene(cluster: &Cluster) -> Result<Scene> {
    let guarded = Guarded::enforcing(cluster, "traces")?;
    let issuer = Issuer::new("traced", 5);
    let mut dba = guarded.database.connect()?;
    dba.exec(&issuer.registered_for("rebuilt"))?;
    dba.exec("CREATE EXTENSION pg_stat_statements")?;
    let (token, expired) =
        (issuer.issues(&guarded.database.name, 600.0)?, issuer.issues(&guarded.database.name, -600.0)?);
    Ok(Scene { guarded, token, expired })
}

impl Scene {
    /// No file of the cluster has any part of a token but the header, which anybody could write: neither tables nor the
    /// write-ahead log, the spool, statistics, or the server's log.
    fn ensure_no_file_has_one(&self, cluster: &Cluster) -> Result<()> {
        self.guarded.database.connect()?.exec("CHECKPOINT")?;
        ensure!(cluster.log()?.len() > 100, "nothing is logged");
        let mut files = 0;
        for entry in WalkDir::new(cluster.data_dir().parent().unwrap_or(cluster.data_dir())) {
            // Files come and go.
            let Some(entry) = entry.ok().filter(|entry| entry.file_type().is_file()) else { continue };
            let Ok(bytes) = fs::read(entry.path()) else { continue };
            files += 1;
            let text = String::from_utf8_lossy(&bytes);
            for part in [&self.token, &self.expired].iter().flat_map(|token| token.split('.').skip(1)) {
                ensure!(!text.contains(&part[part.len() - 24..]), "a token is in {}", entry.path().display());
            }
        }
        ensure!(files > 100, "{files} files");
        Ok(())
    }
}

fn literals(cluster: &mut Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let Scene { guarded, token, expired } = &scene;
    let mut session = guarded.legacy()?;
    let mut dba = guarded.database.connect()?;
    let show = format!("SELECT holdfast.identify('{token}')");
    // Not as an argument of identify: in two pieces, and behind an escape.
    let (head, tail) = token.split_at(token.len() - 50);
    let escaped = format!("E'\\x65{}'", &token[1..]);
    let events = [
        (format!("{show}; {FOREIGN_WRITE}"), format!("SELECT holdfast.identify([redacted]); {FOREIGN_WRITE}")),
        (
            format!("{show} /* {expired} */; SET LOCAL my.token = '{expired}'; {FOREIGN_WRITE}"),
            format!(
                "SELECT holdfast.identify([redacted]) /* [redacted] */; SET LOCAL my.token = '[redacted]'; {FOREIGN_WRITE}"
            ),
        ),
        (
            format!("DO $$ BEGIN PERFORM holdfast.identify('{token}'); {FOREIGN_WRITE}; END $$"),
            format!("DO $$ BEGIN PERFORM holdfast.identify('[redacted]'); {FOREIGN_WRITE}; END $$"),
        ),
        (
            format!("{show}; SELECT length('{head}' || '{tail}'), length({escaped}); {FOREIGN_WRITE}"),
            format!(
                "SELECT holdfast.identify([redacted]); SELECT length([redacted] || [redacted]), length([redacted]); {FOREIGN_WRITE}"
            ),
        ),
    ];
    for (sql, kept) in &events {
        ensure!(session.refused(sql)?.code == "WG001");
        let query: String = dba.one("SELECT query FROM holdfast.blocked_writes LIMIT 1")?;
        ensure!(query == *kept, "{query}\nexpected {kept}");
        session.exec("ROLLBACK")?;
    }
    session.refused(&format!("SELECT holdfast.identify('{expired}')"))?;
    // Into the spool, and the server's log along with it.
    cluster.reload(&[("holdfast.audit_timeout", "200ms")])?;
    let locker = spool::lock_record(&guarded.database)?;
    ensure!(session.refused(&events[0].0)?.code == "WG001");
    ensure!(spool::bytes(&spool::folder(cluster)) > 0, "nothing is spooled");
    // What it keeps of SET and DO isn't ours; README.md advises against them.
    dba.exec("SELECT pg_stat_statements_reset()")?;
    scene.ensure_no_file_has_one(cluster)?;
    drop(locker);
    cluster.reload(&[("holdfast.audit_timeout", "30s")])?;
    // Into the policy's log.
    dba.exec(&format!("{show}; SELECT holdfast.set_limits('rebuilt', rows_per_statement => 9)"))?;
    dba.exec(&format!("{show}; SELECT holdfast.break_glass('a test', scope => 'transaction'); {FOREIGN_WRITE}"))?;
    dba.exec("SELECT holdfast.flush_events()")?;
    let logged: i64 = dba.one("SELECT count(*) FROM holdfast.policy_log WHERE query LIKE '%identify([redacted])%'")?;
    ensure!(logged >= 2, "{logged} entries");
    let normalized: i64 = dba.one("SELECT count(*) FROM pg_stat_statements WHERE query ~ 'identify\\(\\$1\\)'")?;
    ensure!(normalized > 0);
    drop(session);
    scene.ensure_no_file_has_one(cluster)
}

fn parameters(cluster: &mut Cluster) -> Result<()> {
    let scene = scene(cluster)?;
    let Scene { guarded, token, expired } = &scene;
    let mut session = guarded.legacy()?;
    let pid = session.pid();
    let mut dba = guarded.database.connect()?;
    let mut transaction = session.transaction()?;
    let backend: String = transaction.query_one("SELECT holdfast.identify($1)", &[token])?.try_get(0)?;
    ensure!(backend == "rebuilt");
    let shown: String = dba.one(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"))?;
    ensure!(shown == "SELECT holdfast.identify($1)", "{shown}");
    ensure!(transaction.batch_execute(FOREIGN_WRITE).is_err());
    transaction.rollback()?;
    ensure!(session.query_one("SELECT holdfast.identify($1)", &[expired]).is_err());
    ensure!(cluster.log()?.contains("SELECT holdfast.identify($1)"), "the server's log has no statements");
    scene.ensure_no_file_has_one(cluster)
}
