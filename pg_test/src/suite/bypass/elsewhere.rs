//! Attempts that begin before the first statement, or at another session: the startup packet, a connection back to the
//! database, a write that waits while its tenant changes hands.

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;

const WRITE: &str = "UPDATE shop.orders SET note = 'x' WHERE id = 1";

/// What a client says of itself when it connects.
pub fn startup_packets_raise_nobody(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let claims: [&[(&str, &str)]; 6] = [
        &[("holdfast.backend", "legacy")],
        &[("role", &stage.legacy.to_string())],
        &[("holdfast.backend", "legacy"), ("role", &stage.legacy.to_string())],
        &[("search_path", "pg_temp, holdfast, shop")],
        &[("default_transaction_isolation", "serializable")],
        &[("plan_cache_mode", "force_generic_plan"), ("jit_above_cost", "0")],
    ];
    for claim in claims {
        for name in ["", "legacy", "holdfast", "pg_dump"] {
            let mut builder = stage.database.session().role(&stage.rebuilt).application_name(name);
            for (setting, value) in claim {
                builder = builder.option(setting, value);
            }
            let mut session = builder.connect().with_context(|| format!("{claim:?}"))?;
            refused(&mut stage, &mut session, "not_owner", WRITE).with_context(|| format!("{claim:?} {name}"))?;
        }
    }
    for (setting, value) in [("session_replication_role", "replica"), ("holdfast.enabled", "off")] {
        let connected = stage.database.session().role(&stage.rebuilt).option(setting, value).connect();
        let refusal = connected.err().as_ref().and_then(Refusal::of);
        let code = refusal.map(|refusal| refusal.code).unwrap_or_default();
        ensure!(matches!(code.as_str(), "42501" | "55P02"), "{setting}={value} in the startup packet: {code:?}");
    }
    unchanged(&mut stage)
}

/// A connection back to the database belongs to the backend of the role that it logs in as, whoever opened it.
pub fn connections_back_are_judged_by_their_own_login(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    stage.operate(
        "CREATE FUNCTION carriers.as_login(login text, statement text) RETURNS text LANGUAGE sql SECURITY DEFINER AS
             $$SELECT carriers.dblink_exec(format('host=:socket port=:port dbname=:database user=%s', login), statement)$$;
         CREATE EXTENSION postgres_fdw SCHEMA carriers;
         CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host ':socket', port ':port', dbname ':database');
         CREATE USER MAPPING FOR :rebuilt SERVER loop OPTIONS (user ':rebuilt', password_required 'false');
         CREATE FOREIGN TABLE carriers.looped (id int, tenant_id int, note text) SERVER loop OPTIONS (schema_name 'shop', table_name 'orders');
         GRANT ALL ON carriers.looped TO :rebuilt",
    )?;
    stage.baseline = stage.contents()?;
    let mut rebuilt = stage.rebuilt()?;
    for sql in ["INSERT INTO carriers.looped VALUES (60, 10)", "DELETE FROM carriers.looped WHERE id = 11"] {
        // A foreign table can't be classified.
        refused(&mut stage, &mut rebuilt, "outside_surface", sql)?;
    }
    let as_login = |login: &str, sql: &str| format!("SELECT carriers.as_login('{login}', $$ {sql} $$)");
    let (own, legacy) = (stage.rebuilt.to_string(), stage.legacy.to_string());
    let code = rebuilt.refused(&as_login(&own, WRITE))?.code;
    ensure!(code == "WG001", "{code}");
    // Who can log in as legacy is legacy.
    let own_row = "UPDATE shop.orders SET note = 'x' WHERE id = 2";
    let code = rebuilt.refused(&as_login(&legacy, own_row))?.code;
    ensure!(code == "WG001", "{code}");
    unchanged(&mut stage)?;
    rebuilt.exec(&as_login(&legacy, WRITE))?;
    let judged = stage
        .observer
        .rows("SELECT backend, tenant FROM holdfast.blocked_writes WHERE rule = 'not_owner' ORDER BY id")?;
    let judged: Vec<_> = judged.into_iter().flatten().flatten().collect();
    ensure!(judged == ["rebuilt", "10", "legacy", "20"], "{judged:?}");
    Ok(())
}

/// A write that waits behind its tenant's cutover is judged by what the cutover made of it.
pub fn writes_that_wait_are_judged_by_the_new_owner(cluster: &Cluster) -> Result<()> {
    let mut stage = Stage::set(cluster)?;
    let prepare = "PREPARE p(int) AS UPDATE shop.orders SET note = 'x' WHERE id = $1;
        CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE shop.orders SET note = ''x'' WHERE id = 2; END';
        SET plan_cache_mode = force_generic_plan";
    let run = "BEGIN; EXECUTE p(2); SELECT pg_temp.f(); ROLLBACK";
    let writes = [
        "UPDATE shop.orders SET note = 'x' WHERE id = 2",
        "EXECUTE p(2)",
        "SELECT pg_temp.f()",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, 20)",
        "DELETE FROM shop.log WHERE id = 2",
        "SELECT carriers.run_as_superuser('UPDATE shop.orders SET note = ''x'' WHERE id = 2')",
        "BEGIN; SAVEPOINT s; UPDATE shop.orders SET note = 'x' WHERE id = 12; UPDATE shop.orders SET note = 'x' WHERE id = 2",
    ];
    for write in writes {
        let mut rebuilt = stage.rebuilt()?;
        rebuilt.exec(prepare)?;
        rebuilt.exec(run)?;
        stage.operate("BEGIN; SELECT holdfast.cutover('20', 'legacy', require_ready => false)")?;
        let mut waiting = rebuilt.start(write);
        waiting.wait_until_blocked()?;
        stage.operate("COMMIT")?;
        let (_, refusal) = waiting.finish_refused().context(write)?;
        ensure!(refusal.constraint.as_deref() == Some("not_owner"), "{write}\n{refusal:?}");
        ensure!(stage.recorded()?.len() == 1, "not on record: {write}");
        stage.operate("SELECT holdfast.cutover('20', 'rebuilt', require_ready => false)")?;
    }
    let rows =
        |stage: &mut Stage| stage.changed().into_iter().filter(|what| what.starts_with("shop")).collect::<Vec<_>>();
    let changed = rows(&mut stage);
    ensure!(changed.is_empty(), "changed: {changed:?}");

    // What a savepoint took back was no claim to the tenant.
    let mut rebuilt = stage.rebuilt()?;
    rebuilt.exec(&format!("BEGIN; SAVEPOINT s; {}; ROLLBACK TO s", writes[0]))?;
    stage.operate("SELECT holdfast.cutover('20', 'legacy', require_ready => false)")?;
    refused(&mut stage, &mut rebuilt, "not_owner", writes[0])?;
    let changed = rows(&mut stage);
    ensure!(changed.is_empty(), "changed: {changed:?}");
    Ok(())
}

fn refused(stage: &mut Stage, session: &mut Session, rule: &str, sql: &str) -> Result<()> {
    let refusal = session.refused(sql)?;
    ensure!(refusal.constraint.as_deref() == Some(rule), "{rule} expected: {sql}\n{refusal:?}");
    let recorded = stage.recorded()?;
    ensure!(recorded.iter().map(|event| event.rule.as_str()).eq([rule]), "recorded {recorded:?}: {sql}");
    Ok(())
}

fn unchanged(stage: &mut Stage) -> Result<()> {
    let changed = stage.changed();
    ensure!(changed.is_empty(), "changed: {changed:?}");
    Ok(())
}
