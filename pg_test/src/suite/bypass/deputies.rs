//! Attempts to have somebody else run what the rebuilt backend wrote: maintenance that runs a table's own functions, and
//! clients that call functions without a statement. Then: what its owner does to a guarded table, seen from other sessions.

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use crate::client::Session;
use crate::cluster::Cluster;
use crate::wait::eventually;

/// Runs in whoever's session computes it, and writes when that isn't the rebuilt backend's.
const BAIT: &str = "
    CREATE FUNCTION public.deep() RETURNS int LANGUAGE plpgsql AS $$BEGIN
        IF session_user <> ':rebuilt' THEN UPDATE shop.orders SET note = 'x' WHERE id = 1; END IF; RETURN 1; END$$;
    CREATE FUNCTION public.shallow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.deep(); END';
    CREATE TABLE public.bait AS SELECT n AS id FROM generate_series(1, 1000) n;
    CREATE INDEX bait_index ON public.bait (public.shallow(id));
    CREATE MATERIALIZED VIEW public.shown AS SELECT public.deep() AS deep";

/// Maintenance runs the functions of indexes and materialized views with the privileges of the table's owner, in a session
/// of whoever maintains. None of that writes a guarded table.
pub fn maintenance_carries_no_writes(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let mut rebuilt = stage.rebuilt()?;
    rebuilt.exec(&stage.fill(BAIT))?;
    let maintenance = [
        "ANALYZE public.bait",
        "VACUUM ANALYZE public.bait",
        "REINDEX TABLE public.bait",
        "REINDEX INDEX CONCURRENTLY public.bait_index",
        "CLUSTER public.bait USING bait_index",
        "VACUUM FULL public.bait",
        "REFRESH MATERIALIZED VIEW public.shown",
    ];
    stage.baseline = stage.contents()?;
    let mut wrong = Vec::new();
    for sql in maintenance {
        // It may fail, as long as it writes nothing. Physical changes of the bait are its own affair.
        let ended = stage.observer.batch_execute(sql);
        let changed: Vec<_> = stage.changed().into_iter().filter(|what| what.starts_with("shop")).collect();
        let recorded = stage.recorded()?;
        if !changed.is_empty() || ended.is_err() != (recorded.len() == 1) {
            wrong.push(format!("{sql}: {ended:?}, changed {changed:?}, recorded {recorded:?}"));
            stage.operate("UPDATE shop.orders SET note = NULL WHERE id = 1")?;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The same for autovacuum, which is a superuser without a client.
pub fn autovacuum_carries_no_writes(cluster: &mut Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let mut rebuilt = stage.rebuilt()?;
    rebuilt.exec(&stage.fill(BAIT))?;
    drop(rebuilt);
    let seen = "SELECT n_mod_since_analyze > 0 OR last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'bait'";
    eventually("the bait to be noticed", || stage.observer.one(seen))?;
    // What autovacuum finds out of date in one round it works off before the next, which these wait for.
    for mark in ["mark_1", "mark_2"] {
        stage.operate(&format!("CREATE TABLE public.{mark} AS SELECT n FROM generate_series(1, 1000) n"))?;
        let marked = format!("SELECT last_autoanalyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = '{mark}'");
        eventually("autovacuum to analyze a table", || stage.observer.one(&marked))?;
    }
    let note: Option<String> = stage.observer.one("SELECT note FROM shop.orders WHERE id = 1")?;
    ensure!(note.is_none(), "autovacuum wrote a row of tenant 10");
    Ok(())
}

/// A generated column isn't computed yet when the guard sees the row, so it can't lead to the tenant.
pub fn a_generated_key_tells_no_tenant(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    stage.operate(
        "CREATE TABLE shop.made (id int PRIMARY KEY, k int, order_id int GENERATED ALWAYS AS (k) STORED REFERENCES shop.orders);
         INSERT INTO shop.made VALUES (1, 12); GRANT ALL ON shop.made TO :rebuilt",
    )?;
    let guard = "SELECT holdfast.guard_table('shop.made', via => 'order_id'); SELECT holdfast.allow_writes('rebuilt', 'shop.made')";
    if stage.observer.batch_execute(guard).is_ok() {
        let refusal = stage.rebuilt()?.refused("UPDATE shop.made SET k = 1 WHERE id = 1")?;
        ensure!(refusal.constraint.as_deref() == Some("not_owner"), "{refusal:?}");
    }
    Ok(())
}

/// libpq's large-object calls are functions by number, without a statement.
pub fn functions_called_by_number_are_judged(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    for call in ["\\lo_unlink 70002", "\\lo_import /etc/hosts"] {
        let mut command = cluster.command("psql");
        command.args(["-X", "-v", "VERBOSITY=verbose", "-U", &*stage.rebuilt, "-d", &*stage.database.name, "-f", "-"]);
        let output = cluster.output(command, &format!("{call}\n"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let recorded = stage.recorded()?;
        let changed = stage.changed();
        ensure!(changed.is_empty(), "{call} changed {changed:?}");
        ensure!(recorded.iter().map(|event| event.rule.as_str()).eq(["destructive_command"]), "{call}: {said}");
    }
    Ok(())
}

/// What the rebuilt backend may do to a guarded table that it owns, one after the other. Whether a command is refused or
/// not, neither it nor any session after it writes a row of another tenant, and legacy goes on writing.
pub fn an_owner_opens_no_table(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let mut wrong = Vec::new();
    for (n, change) in OWNERS_CHANGES.iter().enumerate() {
        let table = format!("shop.own_{n}");
        stage.operate(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, tenant_id int, note text, other int DEFAULT 20);
             INSERT INTO {table} VALUES (1, 10), (2, 20); ALTER TABLE {table} OWNER TO :rebuilt;
             GRANT ALL ON {table} TO :legacy;
             SELECT holdfast.guard_table('{table}', 'tenant_id'); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
        let number: u32 = stage.observer.one(&format!("SELECT '{table}'::regclass::oid"))?;
        for statement in change.split(';') {
            let mut rebuilt = stage.rebuilt()?;
            // Refused or not; what comes of it counts.
            let _ = rebuilt.batch_execute(&stage.fill(&statement.replace("own", &table)));
        }
        if let Err(error) = still_guarded(&mut stage, number) {
            wrong.push(format!("- {change}: {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), OWNERS_CHANGES.len(), wrong.join("\n"));
    Ok(())
}

fn still_guarded(stage: &mut Stage, number: u32) -> Result<()> {
    let name: Option<String> = stage.observer.one(&format!("SELECT to_regclass({number}::regclass::text)::text"))?;
    let name = name.context("the table is gone")?;
    let foreign = format!("SELECT string_agg(id || coalesce(note, ''), ',') FROM {name} WHERE id = 1 OR id > 9");
    let before: Option<String> = stage.observer.one(&foreign)?;
    ensure!(before.as_deref() == Some("1"), "it holds {before:?}");
    let mut rebuilt = stage.rebuilt()?;
    for write in [
        format!("UPDATE {name} SET note = 'x' WHERE id = 1"),
        format!("DELETE FROM {name} WHERE id = 1"),
        format!("INSERT INTO {name} (id, tenant_id) VALUES (10, 10)"),
        format!("INSERT INTO {name} VALUES (11, 10) ON CONFLICT DO NOTHING"),
    ] {
        // What finds no row writes none.
        let _ = rebuilt.batch_execute(&write);
    }
    let after: Option<String> = stage.observer.one(&foreign)?;
    ensure!(after == before, "it was {before:?} and is {after:?}");
    let mut legacy: Session = stage.database.connect_as(&stage.legacy)?;
    legacy.exec(&format!("UPDATE {name} SET note = NULL WHERE id = 1")).context("legacy's write")?;
    let rows = legacy.rows(&format!("SELECT id FROM {name} WHERE id IN (1, 2)"))?.len();
    ensure!(rows == 2, "legacy sees {rows} of two rows");
    Ok(())
}

/// `own` is the table.
const OWNERS_CHANGES: &[&str] = &[
    "ALTER TABLE own DISABLE TRIGGER USER",
    "ALTER TABLE own DISABLE TRIGGER ALL",
    "ALTER TABLE own ENABLE REPLICA TRIGGER USER",
    "DROP TRIGGER \"~holdfast_guard\" ON own",
    "ALTER TRIGGER \"~holdfast_guard\" ON own RENAME TO a",
    "CREATE TRIGGER \"~z\" BEFORE INSERT OR UPDATE ON own FOR EACH ROW EXECUTE FUNCTION shop.move()",
    "CREATE TRIGGER a BEFORE UPDATE ON own FOR EACH ROW EXECUTE FUNCTION shop.move()",
    "ALTER TABLE own DROP tenant_id",
    "ALTER TABLE own RENAME tenant_id TO former; ALTER TABLE own RENAME other TO tenant_id",
    "ALTER TABLE own RENAME tenant_id TO former; ALTER TABLE own ADD tenant_id int DEFAULT 20",
    "ALTER TABLE own DROP tenant_id; ALTER TABLE own RENAME other TO tenant_id",
    "ALTER TABLE own ALTER tenant_id TYPE int USING 20",
    "ALTER TABLE own ALTER tenant_id TYPE text",
    "ALTER TABLE own ALTER tenant_id TYPE bigint",
    "ALTER TABLE own ALTER tenant_id SET DEFAULT 20",
    "ALTER TABLE own ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE own ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON own TO :rebuilt USING (true)",
    "ALTER TABLE own ENABLE ROW LEVEL SECURITY; ALTER TABLE own FORCE ROW LEVEL SECURITY",
    "CREATE RULE redirect AS ON UPDATE TO own DO INSTEAD NOTHING",
    "CREATE RULE also AS ON SELECT TO own DO INSTEAD SELECT 1, 20, ''::text, 20",
    "REVOKE ALL ON own FROM :legacy",
    "GRANT ALL ON own TO PUBLIC",
    "CREATE TABLE public.child () INHERITS (own)",
    "CREATE TABLE public.parent (id int NOT NULL, tenant_id int); ALTER TABLE own INHERIT public.parent",
    "CREATE TABLE public.whole (LIKE own) PARTITION BY LIST (id); ALTER TABLE public.whole ATTACH PARTITION own DEFAULT",
    "ALTER TABLE own SET UNLOGGED",
    "ALTER TABLE own REPLICA IDENTITY NOTHING",
    "ALTER TABLE own ADD CHECK (tenant_id = 20) NOT VALID",
    "ALTER TABLE own DROP CONSTRAINT own_pkey",
    "ALTER TABLE own OWNER TO :legacy",
    "DROP TABLE own",
    "TRUNCATE own",
    "DELETE FROM own",
    "DROP OWNED BY :rebuilt CASCADE",
];
