//! What the other tests rely on: the harness itself.

use anyhow::{Result, ensure};

use super::Test;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::eventually;

/// The harness's own tests, on servers without holdfast where that is enough.
pub fn tests() -> Vec<Test> {
    let plain = || ClusterOptions::new().preload("");
    vec![
        Test::shared("files_come_from_the_private_installation", private_installation),
        Test::shared("sessions_block_and_go_on", sessions_block_and_go_on),
        Test::shared("refusals_carry_their_fields", refusals_carry_their_fields),
        Test::shared("databases_and_roles_vanish", databases_and_roles_vanish),
        Test::own("restarts_keep_committed_data", plain(), restarts_keep_committed_data).expects_crashes(),
        Test::own("settings_are_seen_after_a_reload", plain().tcp(), settings_after_a_reload),
    ]
}

fn private_installation(cluster: &Cluster) -> Result<()> {
    let mut session = cluster.endpoint().observe("postgres")?;
    let sql = "SELECT setting FROM pg_catalog.pg_config WHERE name IN ('PKGLIBDIR', 'SHAREDIR')";
    let top = cluster.postgres().bin("");
    let top = top.ancestors().find(|path| path.ends_with("pg"));
    for row in session.query(sql, &[])? {
        let folder: String = row.try_get(0)?;
        ensure!(top.is_some_and(|top| folder.starts_with(&*top.to_string_lossy())), "{folder}");
    }
    Ok(())
}

fn sessions_block_and_go_on(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("harness")?;
    let mut first = database.connect()?;
    let second = database.session().application_name("second").connect()?;
    first.exec("CREATE TABLE t (id int)")?;
    first.exec("BEGIN; LOCK TABLE t")?;
    let mut pending = second.start("SELECT count(*) FROM t");
    pending.wait_until_blocked()?;
    ensure!(!pending.is_finished());
    first.exec("INSERT INTO t VALUES (1); COMMIT")?;
    let (mut second, rows) = pending.finish()?;
    ensure!(rows? == [[Some("1".to_owned())]]);
    ensure!(second.one::<String>("SHOW application_name")? == "second");
    Ok(())
}

fn refusals_carry_their_fields(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("harness")?;
    let mut session = database.session().option("work_mem", "1 MB").connect()?;
    ensure!(session.one::<String>("SHOW work_mem")? == "1MB");
    session.exec("CREATE TABLE t (id int CONSTRAINT positive CHECK (id > 0))")?;
    let refusal = session.refused("INSERT INTO t VALUES (-1)")?;
    ensure!(refusal.code == "23514", "{refusal:?}");
    ensure!(refusal.table.as_deref() == Some("t"));
    ensure!(refusal.constraint.as_deref() == Some("positive"));
    ensure!(session.refused("SELECT 1").is_err(), "a success isn't a refusal");
    session.exec("DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'look' ; END $$")?;
    let notices = session.notices();
    ensure!(notices.len() == 1 && notices[0].hint.as_deref() == Some("look"), "{notices:?}");
    Ok(())
}

fn databases_and_roles_vanish(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("harness")?;
    let role = database.role("harness")?;
    let name = database.name.clone();
    let mut session = database.connect_as(&role)?;
    ensure!(session.one::<String>("SELECT session_user::text")? == *role);
    database.connect()?.exec("CREATE TABLE t(); BEGIN; CREATE TABLE u(); PREPARE TRANSACTION 'p'")?;
    drop(database);
    let mut observer = cluster.endpoint().observe("postgres")?;
    let sql = "SELECT count(*) FROM (SELECT datname::text FROM pg_catalog.pg_database \
               UNION SELECT rolname::text FROM pg_catalog.pg_roles) AS found(name) \
               WHERE name IN ($1, $2)";
    let left: i64 = observer.query_one(sql, &[&name, &&*role])?.try_get(0)?;
    ensure!(left == 0, "{left} left");
    eventually("the session to notice", || Ok(session.exec("SELECT 1").is_err()))
}

fn restarts_keep_committed_data(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.database("harness")?;
    database.connect()?.exec("CREATE TABLE t (how text)")?;
    for how in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate, Shutdown::Kill9] {
        let mut session = database.connect()?;
        session.exec(&format!("INSERT INTO t VALUES ('{how:?}')"))?;
        drop(session);
        cluster.restart(how)?;
    }
    ensure!(database.connect()?.one::<i64>("SELECT count(*) FROM t")? == 4);
    let output = cluster.psql(&database.name, "SELECT 1/0;\nSELECT 'went on';")?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("ERROR:  22012:"));
    ensure!(String::from_utf8_lossy(&output.stdout).contains("went on"));
    Ok(())
}

fn settings_after_a_reload(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.database("harness")?;
    let mut present = database.session().tcp().connect()?;
    cluster.reload(&[("work_mem", "3MB")])?;
    ensure!(present.one::<String>("SHOW work_mem")? == "3MB");
    let client: bool = present.one("SELECT inet_client_addr() = '127.0.0.1'")?;
    ensure!(client);
    cluster.configure(&[("max_connections", "20")])?;
    cluster.restart(Shutdown::Fast)?;
    ensure!(database.connect()?.one::<String>("SHOW max_connections")? == "20");
    Ok(())
}
