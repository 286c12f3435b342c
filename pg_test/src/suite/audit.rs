//! Every refusal is recorded before the client hears of it, whatever the client does next.

use anyhow::{Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

/// Of recording, with the worker in good health; its ills are in `worker`.
pub fn tests() -> Vec<Test> {
    vec![
        Test::own("event_tells_who_did_what_from_where", ClusterOptions::new().tcp(), event_tells_who_did_what),
        Test::shared("event_is_committed_before_the_error_is_seen", event_is_committed_before_the_error_is_seen),
        Test::shared("swallowed_refusals_are_recorded", swallowed_refusals_are_recorded),
        Test::shared("read_only_transactions_go_on", read_only_transactions_go_on),
        Test::shared("observed_writes_are_counted_exactly", observed_writes_are_counted_exactly),
        Test::shared("observed_update_counts_once", observed_update_counts_once),
        Test::shared("concurrent_refusals_are_counted_exactly", concurrent_refusals_are_counted_exactly),
        Test::shared("hostile_texts_are_recorded", hostile_texts_are_recorded),
        Test::shared("latin1_database_is_declined", latin1_database_is_declined),
    ]
}

fn event_tells_who_did_what(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let client = guarded.database.session().role(&guarded.rebuilt).application_name("storefront").tcp();
    let mut client = client.connect()?;
    let mut dba = guarded.database.connect()?;
    client.exec("BEGIN; INSERT INTO orders VALUES (2, 20)")?;
    let refusal = client.refused("SELECT 1; UPDATE orders SET note = 'é' WHERE id = 1")?;
    client.exec("ROLLBACK")?;
    let event = dba.rows(
        "SELECT backend, tenant, owner, relation, command, rule, sqlstate, outcome, usename, application_name,
             client_addr, pid, query, message, occurrences, at BETWEEN now() - interval '1 minute' AND clock_timestamp()
         FROM holdfast.blocked_writes",
    )?;
    let pid = client.pid().to_string();
    let expected = [
        "rebuilt",
        "1",
        "legacy",
        "public.orders",
        "UPDATE",
        "not_owner",
        "WG001",
        "refused",
        &guarded.rebuilt,
        "storefront",
        "127.0.0.1",
        &pid,
        "SELECT $1; UPDATE orders SET note = $2 WHERE id = $3",
        &refusal.message,
        "1",
        "t",
    ];
    let expected: Vec<_> = expected.into_iter().map(|text| Some(text.to_owned())).collect();
    ensure!(event == [expected], "{event:?}");

    let mut local = guarded.rebuilt()?;
    local.refused("TRUNCATE plans")?;
    let local = dba.rows("SELECT relation, command, rule, client_addr FROM holdfast.blocked_writes LIMIT 1")?;
    let expected = [Some("public.plans"), Some("TRUNCATE"), Some("destructive_command"), None];
    ensure!(local == [expected.map(|text| text.map(str::to_owned))], "{local:?}");
    Ok(())
}

fn event_is_committed_before_the_error_is_seen(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let (mut client, mut dba) = (guarded.rebuilt()?, guarded.database.connect()?);
    for n in 1..=500 {
        let refusal = client.refused(FOREIGN_WRITE)?;
        let seen: i64 = dba.one("SELECT sum(occurrences)::bigint FROM holdfast.blocked_writes")?;
        ensure!(refusal.code == "WG001" && seen == n, "after refusal {n}: {seen} recorded, {refusal:?}");
    }
    Ok(())
}

fn swallowed_refusals_are_recorded(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let mut client = guarded.rebuilt()?;
    let swallow = format!("DO $$ BEGIN {FOREIGN_WRITE}; EXCEPTION WHEN SQLSTATE 'WG001' THEN NULL; END $$");
    client.exec(&swallow)?;
    client.exec("BEGIN; SAVEPOINT s")?;
    client.refused(FOREIGN_WRITE)?;
    client.exec("ROLLBACK TO s; INSERT INTO orders VALUES (2, 30); COMMIT")?;
    client.exec(&format!("BEGIN; SAVEPOINT s; {swallow}; RELEASE s; INSERT INTO orders VALUES (2, 31); COMMIT"))?;
    client.exec("BEGIN; INSERT INTO orders VALUES (2, 32)")?;
    client.refused(FOREIGN_WRITE)?;
    client.exec("COMMIT")?;
    client.exec(&format!("BEGIN; {swallow}; PREPARE TRANSACTION 'swallowed_{}'", client.pid()))?;
    client.exec(&format!("ROLLBACK PREPARED 'swallowed_{}'", client.pid()))?;
    ensure!(guarded.recorded()? == (5, 5), "{:?}", guarded.recorded()?);
    let kept: Vec<_> = client.rows("SELECT id FROM orders WHERE tenant = 2 AND id >= 30 ORDER BY id")?.concat();
    ensure!(kept == [Some("30".to_owned()), Some("31".to_owned())], "{kept:?}");
    Ok(())
}

fn read_only_transactions_go_on(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let mut client = guarded.rebuilt()?;
    for (sql, code) in [(FOREIGN_WRITE, "25006"), ("TRUNCATE orders", "25006")] {
        client.exec("BEGIN READ ONLY; SELECT FROM orders")?;
        let refusal = client.refused(sql)?;
        ensure!(refusal.code == code, "{sql}: {refusal:?}");
        client.exec("ROLLBACK")?;
    }
    client.exec("SET default_transaction_read_only = on")?;
    let refusal = client.refused("DROP TABLE plans")?;
    ensure!(["25006", "WG016"].contains(&refusal.code.as_str()), "{refusal:?}");
    client.exec("BEGIN; SELECT count(*) FROM orders; SELECT holdfast.current_backend(); COMMIT")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("BEGIN READ ONLY; SELECT holdfast.flush_events(); SELECT * FROM holdfast.blocked_writes; COMMIT")?;
    dba.exec("BEGIN READ ONLY; SELECT * FROM holdfast.status; SELECT * FROM holdfast.blocked_summary; COMMIT")
}

/// Runs `work` in `sessions` sessions of the rebuilt backend at once.
fn at_once(guarded: &Guarded, sessions: usize, work: fn(&mut Session) -> Result<()>) -> Result<()> {
    let all: Result<Vec<_>> = (0..sessions).map(|_| Ok(guarded.rebuilt()?.start_with("refusals", work))).collect();
    for pending in all? {
        pending.finish()?.1?;
    }
    Ok(())
}

fn observed_writes_are_counted_exactly(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    at_once(&guarded, 8, |client| {
        client.exec("DO $$ BEGIN FOR n IN 1..1000 LOOP INSERT INTO orders VALUES (1, pg_backend_pid() * 1000 + n); END LOOP; END $$")
    })?;
    dba.exec("SELECT holdfast.flush_events()")?;
    let (occurrences, rows) = guarded.recorded()?;
    ensure!(occurrences == 8_000, "{occurrences} in {rows} rows");
    let written: i64 = dba.one("SELECT count(*) FROM orders WHERE tenant = 1 AND id > 1")?;
    ensure!(written == 8_000, "{written}");
    let summed: i64 = dba.one("SELECT sum(occurrences)::int8 FROM holdfast.blocked_summary")?;
    ensure!(summed == 8_000, "{summed}");
    Ok(())
}

fn observed_update_counts_once(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    guarded.rebuilt()?.exec(FOREIGN_WRITE)?;
    dba.exec("SELECT holdfast.flush_events()")?;
    // Old and new row version belong to the same tenant: enforced, it would be one refusal.
    ensure!(guarded.recorded()? == (1, 1), "{:?}", guarded.recorded()?);
    Ok(())
}

fn concurrent_refusals_are_counted_exactly(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    at_once(&guarded, 16, |client| {
        for _ in 0..200 {
            let refusal = client.refused(FOREIGN_WRITE)?;
            ensure!(refusal.code == "WG001", "{refusal:?}");
        }
        Ok(())
    })?;
    let (occurrences, rows) = guarded.recorded()?;
    ensure!(occurrences == 3_200, "{occurrences} in {rows} rows");
    Ok(())
}

fn hostile_texts_are_recorded(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "audit")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(&format!(
        "CREATE TABLE docs (\"tén'\"\"ant\" text); GRANT ALL ON docs TO {};
         SELECT holdfast.guard_table('docs', 'tén''\"ant'); SELECT holdfast.allow_writes('rebuilt', 'docs')",
        guarded.rebuilt
    ))?;
    let long = "x".repeat(1_000_000);
    let emoji = "🏠".repeat(5_000);
    let escaped = "\u{1}".repeat(5_000);
    let texts = [
        "plain",
        "it's \"quoted\"; -- \\",
        "\u{1}\u{7f}\t\r\n\u{2028}\u{fffe}",
        "🏠",
        "%s%n%d",
        &long,
        &emoji,
        &escaped,
        "",
    ];
    for (n, text) in texts.iter().enumerate() {
        let literal = text.replace('\'', "''");
        let name: String = text.chars().take(70).collect();
        let mut client = guarded.database.session().role(&guarded.rebuilt).connect()?;
        client.execute("SELECT pg_catalog.set_config('application_name', $1, false)", &[&name])?;
        let refusal = client.refused(&format!("INSERT INTO docs /* {n} */ VALUES ('{literal}')"))?;
        ensure!(refusal.code == "WG001", "text {n}: {refusal:?}");
        let row = dba.query_one("SELECT tenant, query, usename FROM holdfast.blocked_writes LIMIT 1", &[])?;
        let (tenant, query, role): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        ensure!(query.starts_with("INSERT INTO docs VALUES ("), "text {n}: {query}");
        ensure!(role == *guarded.rebuilt);
        let kept = tenant.trim_end_matches('…');
        ensure!(text.starts_with(kept) && (kept.len() == text.len() || kept.len() > 16), "text {n}: {tenant}");
    }
    Ok(())
}

/// Keys and texts are UTF-8 on their way; elsewhere two tenants could become one.
fn latin1_database_is_declined(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("audit")?;
    let (mut dba, name) = (database.connect()?, format!("{}_latin1", database.name));
    dba.exec(&format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"))?;
    let created = cluster.endpoint().observe(&name)?.batch_execute("CREATE EXTENSION holdfast");
    dba.exec(&format!("DROP DATABASE {name} WITH (FORCE)"))?;
    let said = created.as_ref().err().and_then(|error| error.as_db_error());
    ensure!(said.is_some_and(|error| error.message().contains("UTF8") && error.hint().is_some()), "{created:?}");
    Ok(())
}
