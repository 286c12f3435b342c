//! DROP EXTENSION leaves a database as it was before CREATE EXTENSION, and `uninstall_preview` says beforehand what it leaves
//! elsewhere.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::ending::end;
use super::platform::Platform;
use super::scene::in_break_glass;
use crate::client::Session;
use crate::cluster::Cluster;

/// Of what is left.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_dump_of_the_schema_is_byte_for_byte_what_it_was", by_cascade),
        Test::shared("waves_under_way_leave_nothing_either", beside_waves),
        Test::shared("guards_can_be_taken_off_one_by_one", one_by_one),
        Test::shared("the_preview_tells_what_stays", preview),
        Test::shared("what_others_have_in_the_schema_stays", others),
        Test::shared("a_failed_or_undone_drop_leaves_everything", undone),
    ]
}

/// The schema as pg_dump writes it, without the key that keeps psql from running what is no dump's, which is new each time.
fn dump(cluster: &Cluster, database: &str) -> Result<String> {
    let output = cluster.run("pg_dump", &["--schema-only", database])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("pg_dump's output")?;
    let is_key = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    Ok(text.lines().filter(|line| !is_key(line)).collect::<Vec<_>>().join("\n"))
}

/// An application's database, as it was, and with a migration that has left all kinds of traces.
fn platform(cluster: &Cluster) -> Result<(Platform, String, Session)> {
    let platform = Platform::unguarded(cluster, "uninstall")?;
    let before = dump(cluster, &platform.database.name)?;
    platform.guard(&platform.database)?;
    let mut dba = platform.database.connect()?;
    let (operator, auditor) = (platform.database.role("operator")?, platform.database.role("auditor")?);
    dba.exec(&format!("SELECT holdfast.grant_operator('{operator}'), holdfast.grant_auditor('{auditor}')"))?;
    // Refused: the event's day gets a partition.
    platform.database.connect_as(&platform.rebuilt)?.refused("UPDATE orders SET note = 'x' WHERE tenant_id = 10")?;
    dba.exec("SELECT holdfast.flush_events()")?;
    operate(&mut dba)?;
    ensure!(dump(cluster, &platform.database.name)? != before, "nothing was installed");
    Ok((platform, before, dba))
}

/// Days of routine: a wave that was aborted half way, one whose canary soaks, one that is planned; checks, dates, keys, a backend
/// that is retired.
fn operate(dba: &mut Session) -> Result<()> {
    for sql in [
        "SELECT holdfast.add_wave('first', '{61, 62}', to_backend => 'rebuilt', canary_count => 1, require_ready => false)",
        "CALL holdfast.run_wave('first')",
        "SELECT holdfast.abort_wave('first')",
        "SELECT holdfast.add_wave('second', '{63, 64}', to_backend => 'rebuilt', canary_count => 1, require_ready => false)",
        "CALL holdfast.run_wave('second')",
        "SELECT holdfast.add_wave('Third', '{65}', to_backend => 'rebuilt')",
        "SELECT name FROM holdfast.readiness('65', 'rebuilt')",
        "SELECT holdfast.set_check('way_back', true)",
        "SELECT holdfast.set_end_date(current_date + 20, 'refuse_cutovers')",
        "SELECT holdfast.add_key('rebuilt', 'AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8', 'a key')",
        "SELECT holdfast.add_backend('third', 'proven')",
        "SELECT holdfast.retire('third', unseen_for => '0 s')",
    ] {
        dba.exec(sql).with_context(|| sql.to_owned())?;
    }
    let waves = "SELECT string_agg(state, ' ' ORDER BY wave COLLATE \"C\") FROM holdfast.waves";
    let waves: String = dba.one(waves)?;
    ensure!(waves == "planned aborted soaking", "{waves}");
    Ok(())
}

/// What the preview says to do with waves, done; then the rest.
fn end_all(dba: &mut Session) -> Result<()> {
    let statements = dba.rows("SELECT statement FROM holdfast.uninstall_preview() WHERE kind = 'wave'")?;
    for statement in statements.iter().flatten().flatten() {
        dba.exec(statement)?;
    }
    end(dba)
}

fn ensure_as_before(cluster: &Cluster, platform: &Platform, before: &str) -> Result<()> {
    let after = dump(cluster, &platform.database.name)?;
    let new = after.lines().find(|line| !before.contains(*line));
    ensure!(after == before, "the dump differs, for example by: {new:?}");
    let left: i64 = platform.database.connect()?.one(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast')
             + (SELECT count(*) FROM pg_trigger WHERE tgname = '~holdfast_guard')
             + (SELECT count(*) FROM pg_description WHERE description LIKE '%holdfast%')
             + (SELECT count(*) FROM pg_default_acl)
             + (SELECT count(*) FROM pg_db_role_setting s CROSS JOIN unnest(setconfig) c
                WHERE c LIKE 'holdfast%' AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))",
    )?;
    ensure!(left == 0, "{left} traces");
    Ok(())
}

fn by_cascade(cluster: &Cluster) -> Result<()> {
    let (platform, before, mut dba) = platform(cluster)?;
    // Between days there may be several partitions; a table of events that is none yet is there as well.
    end_all(&mut dba)?;
    let refusal = dba.refused("DROP EXTENSION holdfast")?;
    ensure!(refusal.code == "2BP01", "{refusal:?}");
    dba.exec("DROP EXTENSION holdfast CASCADE")?;
    ensure_as_before(cluster, &platform, &before)?;
    // And once more, from the beginning.
    platform.guard(&platform.database)?;
    let mut dba = platform.database.connect()?;
    end_all(&mut dba)?;
    dba.exec("DROP EXTENSION holdfast CASCADE")?;
    ensure_as_before(cluster, &platform, &before)
}

fn beside_waves(cluster: &Cluster) -> Result<()> {
    let (platform, before, mut dba) = platform(cluster)?;
    // Nobody has ended anything: an operator's emergency.
    dba.exec(&in_break_glass("DROP EXTENSION holdfast CASCADE"))?;
    ensure_as_before(cluster, &platform, &before)?;
    platform.database.connect_as(&platform.rebuilt)?.exec("UPDATE orders SET note = 'x' WHERE tenant_id = 10")?;
    platform.guard(&platform.database)?;
    let waves: i64 = platform.database.connect()?.one("SELECT count(*) FROM holdfast.waves")?;
    ensure!(waves == 0, "{waves} waves are left");
    Ok(())
}

fn one_by_one(cluster: &Cluster) -> Result<()> {
    let (platform, before, mut dba) = platform(cluster)?;
    end_all(&mut dba)?;
    let statements = dba.rows("SELECT statement FROM holdfast.uninstall_preview() WHERE kind = 'trigger'")?;
    ensure!(statements.len() > 10, "{statements:?}");
    for statement in statements.iter().flatten().flatten() {
        dba.exec(statement)?;
    }
    let asks: i64 = dba.one("SELECT count(*) FROM holdfast.uninstall_preview() WHERE fate LIKE '%CASCADE%'")?;
    ensure!(asks == 0);
    dba.exec("DROP EXTENSION holdfast")?;
    ensure_as_before(cluster, &platform, &before)
}

fn preview(cluster: &Cluster) -> Result<()> {
    let (platform, _, mut dba) = platform(cluster)?;
    let (database, role) = (&platform.database.name, &platform.rebuilt);
    dba.exec(&format!(
        "ALTER ROLE {role} SET holdfast.backend = 'rebuilt';
         ALTER ROLE {role} IN DATABASE {database} SET holdfast.hold_timeout = '1s';
         ALTER DATABASE {database} SET holdfast.hold_timeout = '2s';
         CREATE PUBLICATION ours FOR TABLE holdfast.ownership;
         CREATE VIEW moved AS SELECT * FROM holdfast.tenants"
    ))?;
    let found = dba.rows("SELECT kind, object, fate, statement FROM holdfast.uninstall_preview()")?;
    let found: Vec<String> =
        found.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join("|")).collect();
    let expected = [
        "trigger|\"~holdfast_guard\" on orders|dropped; DROP EXTENSION asks for CASCADE|SELECT holdfast.unguard_table('orders');".to_owned(),
        "wave|\"Third\" (planned)|dropped; tenants that wait are not moved, those that have moved are not watched|SELECT holdfast.abort_wave('Third');".to_owned(),
        "wave|second (soaking)|dropped; tenants that wait are not moved, those that have moved are not watched|SELECT holdfast.abort_wave('second');".to_owned(),
        "record|holdfast.waves (3 rows)|dropped|COPY (SELECT * FROM holdfast.waves) TO STDOUT (FORMAT csv, HEADER);".to_owned(),
        "view|public.moved|dropped; DROP EXTENSION asks for CASCADE".to_owned(),
        "record|holdfast.blocked_writes (1 rows)|dropped|COPY (SELECT * FROM holdfast.blocked_writes) TO STDOUT (FORMAT csv, HEADER);".to_owned(),
        "publication|holdfast.ownership of ours|the table leaves it, the publication stays".to_owned(),
        "schema|holdfast|dropped, if nothing else is in it".to_owned(),
        format!("setting|holdfast.backend=rebuilt, of role {role} in all databases|stays|ALTER ROLE {role} RESET holdfast.backend;"),
        format!("setting|holdfast.hold_timeout=1s, of role {role} in this database|stays|ALTER ROLE {role} IN DATABASE {database} RESET holdfast.hold_timeout;"),
        format!("setting|holdfast.hold_timeout=2s, of everybody in this database|stays|ALTER DATABASE {database} RESET holdfast.hold_timeout;"),
        "library|shared_preload_libraries = holdfast|stays; take holdfast out when no other database has the extension, and restart".to_owned(),
    ];
    for line in &expected {
        ensure!(
            found.iter().any(|is| is.replace("public.orders", "orders") == *line),
            "no {line} in\n{}",
            found.join("\n")
        );
    }
    for kind in ["partition|holdfast.event_", "grant|to operator"] {
        ensure!(found.iter().any(|is| is.starts_with(kind)), "no {kind} in\n{}", found.join("\n"));
    }
    // What it says of settings takes them away.
    for line in expected.iter().filter(|line| line.starts_with("setting")) {
        dba.exec(line.rsplit('|').next().unwrap_or_default())?;
    }
    let settings: i64 = dba.one("SELECT count(*) FROM holdfast.uninstall_preview() WHERE kind = 'setting'")?;
    ensure!(settings == 0);
    Ok(())
}

fn others(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("uninstall")?;
    let mut dba = database.connect()?;
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast'";
    // A table of somebody's.
    dba.exec("CREATE EXTENSION holdfast; CREATE TABLE holdfast.notes (note text)")?;
    dba.exec("DROP EXTENSION holdfast")?;
    ensure!(dba.one::<i64>(there)? == 1);
    // A schema that was there before, with nothing said of it.
    dba.exec("DROP SCHEMA holdfast CASCADE; CREATE SCHEMA holdfast")?;
    dba.exec("CREATE EXTENSION holdfast")?;
    let fate: String = dba.one("SELECT fate FROM holdfast.uninstall_preview() WHERE kind = 'schema'")?;
    ensure!(fate == "stays: it was there before", "{fate}");
    dba.exec("DROP EXTENSION holdfast")?;
    ensure!(dba.one::<i64>(there)? == 1);
    // In one transaction with it, and behind a savepoint.
    dba.exec("DROP SCHEMA holdfast; BEGIN; SAVEPOINT a; CREATE EXTENSION holdfast; COMMIT; DROP EXTENSION holdfast")?;
    ensure!(dba.one::<i64>(there)? == 0);
    // By the extension's role.
    dba.exec("CREATE EXTENSION holdfast")?;
    database.connect()?.exec("DROP EXTENSION holdfast")?;
    ensure!(dba.one::<i64>(there)? == 0);
    Ok(())
}

fn undone(cluster: &Cluster) -> Result<()> {
    let (_platform, _, mut dba) = platform(cluster)?;
    end_all(&mut dba)?;
    dba.refused("DROP EXTENSION holdfast")?;
    dba.exec("CREATE TABLE beside (id int); DROP TABLE beside")?;
    dba.exec("BEGIN; DROP EXTENSION holdfast CASCADE; ROLLBACK")?;
    dba.exec("BEGIN; SAVEPOINT a; DROP EXTENSION holdfast CASCADE; ROLLBACK TO a; COMMIT")?;
    let phase: String = dba.one("SELECT phase FROM holdfast.migration")?;
    ensure!(phase == "finished", "{phase}");
    ensure!(dba.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast'")? == 1);
    Ok(())
}
