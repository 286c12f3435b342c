//! Readiness: what it tells, and that a cutover heeds it; but never the way back.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::scene::in_break_glass;
use super::two_backends::{TwoBackends, cutover, detail_names, is, write};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::wait::eventually;

/// SQLSTATE of a cutover that readiness refuses.
const NOT_READY: &str = "55000";

/// Tests of readiness.
pub fn tests() -> Vec<Test> {
    let archiving = ClusterOptions::new().set("archive_mode", "on").set("archive_command", "false");
    let minimal = ClusterOptions::new().set("wal_level", "minimal").set("max_wal_senders", "0");
    vec![
        Test::shared("sound_set_up_is_ready", sound_set_up),
        Test::shared("each_blocking_check_refuses_a_cutover", each_blocking_check),
        Test::shared("way_back_is_open_when_the_rest_is_broken", way_back),
        Test::shared("way_back_to_who_cant_write_is_refused", way_back_to_nowhere),
        Test::shared("checked_again_under_the_lock", checked_again),
        Test::shared("by_default_few_checks_block", by_default),
        Test::shared("tenant_of_a_wave_waits_for_those_before_it", tenant_of_a_wave),
        Test::shared("advisory_checks_tell_and_block_nothing", advisory_checks),
        Test::shared("tokens_prove_who_a_backend_is", tokens_prove),
        Test::shared("changes_nothing_and_waits_for_nobody", changes_nothing),
        Test::own("failing_archive_is_told", archiving, failing_archive),
        Test::own("log_that_carries_too_little_is_told", minimal, minimal_log),
    ]
}

/// Whether each check is fine, whether it blocks, and what it says.
fn readiness(session: &mut Session, tenant: i32, to: &str) -> Result<BTreeMap<String, (bool, bool, String)>> {
    let sql = format!("SELECT name, ok, blocking, detail FROM holdfast.readiness('{tenant}', '{to}')");
    let rows = session.query(&sql, &[])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))).collect()
}

fn amiss(session: &mut Session, tenant: i32, to: &str) -> Result<Vec<String>> {
    let rows = readiness(session, tenant, to)?;
    Ok(rows.into_iter().filter(|(_, (ok, ..))| !ok).map(|(name, _)| name).collect())
}

fn blocking(session: &mut Session, tenant: i32, to: &str) -> Result<Vec<String>> {
    let rows = readiness(session, tenant, to)?;
    Ok(rows.into_iter().filter(|(_, (_, blocking, _))| *blocking).map(|(name, _)| name).collect())
}

/// What README.md recommends.
const STRICT: &str = "SELECT holdfast.set_check(name, true)
    FROM unnest('{enforced,receiver_identity,receiver_surface,owner_identity,way_back}'::text[]) AS name";

fn sound_set_up(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    // Whether logs are archived is the cluster's own matter.
    let others: Vec<String> =
        amiss(&mut operator, 1, "rebuilt")?.into_iter().filter(|name| name != "archive").collect();
    ensure!(others.is_empty(), "{others:?}");
    let rows = readiness(&mut operator, 1, "rebuilt")?;
    ensure!(rows.values().all(|(_, _, detail)| detail.ends_with('.')), "{rows:?}");
    let expected = ["guards", "invariants", "parity", "receiver", "soak"];
    ensure!(blocking(&mut operator, 1, "rebuilt")? == expected);
    operator.exec(STRICT)?;
    let expected = [
        "enforced",
        "guards",
        "invariants",
        "owner_identity",
        "parity",
        "receiver",
        "receiver_identity",
        "receiver_surface",
        "soak",
        "way_back",
    ];
    ensure!(blocking(&mut operator, 1, "rebuilt")? == expected);
    stage.cut_over(1, "rebuilt")?;
    // Back, only what keeps the receiver from writing.
    ensure!(blocking(&mut operator, 1, "legacy")? == ["receiver", "receiver_identity", "receiver_surface"]);
    operator.exec("SELECT holdfast.set_check('receiver_identity', NULL)")?;
    ensure!(blocking(&mut operator, 1, "legacy")? == ["receiver", "receiver_surface"]);
    is(&operator.refused("SELECT holdfast.readiness('1', 'nobody')")?, "42704")
}

/// What spoils a set-up, the check that tells, and what mends it.
const SPOILS: &[(&str, &str, &str)] = &[
    ("SELECT holdfast.drop_identity(2)", "receiver_identity", ""),
    (
        "SELECT holdfast.add_identity('rebuilt', application_name => 'rebuilt%')",
        "receiver_identity",
        "SELECT holdfast.add_identity('rebuilt', client_network => '198.51.100.0/24')",
    ),
    (
        "SELECT holdfast.disallow_writes('rebuilt', 'orders')",
        "receiver_surface",
        "SELECT holdfast.allow_writes('rebuilt', 'orders')",
    ),
    (
        "SELECT holdfast.drop_identity(1); SELECT holdfast.set_default_backend(NULL)",
        "owner_identity",
        "SELECT holdfast.set_default_backend('legacy')",
    ),
    ("SELECT holdfast.set_mode('observe')", "enforced", "SELECT holdfast.set_mode('enforce')"),
    (
        "SELECT holdfast.set_mode('off', 'legacy', 'not_owner')",
        "enforced",
        "SELECT holdfast.set_mode(NULL, 'legacy', 'not_owner')",
    ),
    ("SELECT holdfast.set_trust('legacy', 'unproven')", "way_back", "SELECT holdfast.set_trust('legacy', 'proven')"),
];

fn each_blocking_check(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    operator.exec(STRICT)?;
    let damage = in_break_glass("ALTER TABLE orders DISABLE TRIGGER \"~holdfast_guard\"");
    let damaged = (damage.as_str(), "guards", "SELECT holdfast.guard_table('orders', 'tenant')");
    for (spoil, check, mend) in SPOILS.iter().copied().chain([damaged]) {
        operator.exec(spoil)?;
        let rows = readiness(&mut operator, 1, "rebuilt")?;
        let (ok, blocking, detail) = rows.get(check).context("no such check")?;
        ensure!(!ok && *blocking, "after {spoil}: {rows:?}");
        let refusal = operator.refused(&cutover(1, "rebuilt"))?;
        is(&refusal, NOT_READY)?;
        detail_names(&refusal, &[check, detail, "Nothing has changed."])?;
        ensure!(refusal.hint.as_deref().is_some_and(|hint| hint.contains("holdfast.readiness('1', 'rebuilt')")));
        ensure!(stage.tenant_locks()? == 0, "something is left locked");
        ensure!(stage.owner(1)? == "legacy");
        operator.exec("BEGIN; SELECT holdfast.cutover('1', 'rebuilt', require_ready => false); ROLLBACK")?;
        operator.exec(mend)?;
    }
    stage.cut_over(1, "rebuilt")?;
    ensure!(stage.owner(1)? == "rebuilt");
    Ok(())
}

/// At 3 a.m. nobody wants to hear why a tenant can't go back to where it worked.
fn way_back(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    for tenant in [1, 2] {
        stage.cut_over(tenant, "rebuilt")?;
    }
    let mut operator = stage.operator()?;
    operator.exec(STRICT)?;
    operator.exec(&format!(
        "SELECT holdfast.disallow_writes('rebuilt', 'orders'); SELECT holdfast.drop_identity(2); SELECT holdfast.set_mode('observe');
         {}",
        in_break_glass("ALTER TABLE orders DISABLE TRIGGER \"~holdfast_guard\"")
    ))?;
    operator.exec("SELECT holdfast.rollback_cutover('1')")?;
    // By whichever name.
    operator.exec(&cutover(2, "legacy"))?;
    ensure!(stage.owner(1)? == "legacy" && stage.owner(2)? == "legacy");
    Ok(())
}

fn way_back_to_nowhere(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    stage.cut_over(1, "rebuilt")?;
    let mut operator = stage.operator()?;
    operator.exec(STRICT)?;
    operator.exec("SELECT holdfast.set_trust('legacy', 'unproven')")?;
    let refusal = operator.refused("SELECT holdfast.rollback_cutover('1')")?;
    is(&refusal, NOT_READY)?;
    detail_names(&refusal, &["receiver_surface", "\"legacy\" may write 0 of 1 tenant table"])?;
    ensure!(stage.tenant_locks()? == 0 && stage.owner(1)? == "rebuilt");
    operator.exec("SELECT holdfast.cutover('1', 'legacy', require_ready => false)")?;
    ensure!(stage.owner(1)? == "legacy");
    Ok(())
}

fn checked_again(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    operator.exec(STRICT)?;
    for (spoil, check, mend) in SPOILS.iter().copied().filter(|(_, check, _)| *check != "receiver_identity") {
        let mut writer = stage.legacy()?;
        writer.exec(&format!("BEGIN; {}", write(1)))?;
        let waiting = stage.start_cutover(1, "rebuilt", "1 min")?;
        operator.exec(spoil)?;
        writer.exec("COMMIT")?;
        let refusal = waiting.finish_refused()?.1;
        is(&refusal, NOT_READY)?;
        detail_names(&refusal, &[check])?;
        operator.exec(mend)?;
        ensure!(stage.tenant_locks()? == 0 && stage.owner(1)? == "legacy");
    }
    stage.cut_over(1, "rebuilt")
}

/// A migration that is still being set up can be tried.
fn by_default(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    for (spoil, check, mend) in SPOILS {
        operator.exec(spoil)?;
        let rows = readiness(&mut operator, 1, "rebuilt")?;
        ensure!(rows.get(*check).is_some_and(|(ok, blocking, _)| !ok && !blocking), "after {spoil}: {rows:?}");
        operator.exec(&format!("BEGIN; {}; ROLLBACK", cutover(1, "rebuilt")))?;
        operator.exec(mend)?;
    }
    // A check that was set is part of the policy: on record, and in force for sessions that are there.
    let mut other = stage.operator()?;
    other.exec(&format!("BEGIN; {}; ROLLBACK", cutover(1, "rebuilt")))?;
    operator.exec("SELECT holdfast.set_mode('observe'); SELECT holdfast.set_check('enforced', true)")?;
    is(&other.refused(&cutover(1, "rebuilt"))?, NOT_READY)?;
    let logged: String = operator.one("SELECT what || ': ' || object FROM holdfast.policy_log LIMIT 1")?;
    ensure!(logged == "check added: enforced", "{logged}");
    operator.exec("SELECT holdfast.set_check('enforced', false); SELECT holdfast.set_check('enforced', NULL)")?;
    other.exec(&cutover(1, "rebuilt"))?;
    for name in ["receiver", "freeze", "no such check"] {
        is(&operator.refused(&format!("SELECT holdfast.set_check('{name}', false)"))?, "22023")?;
    }
    Ok(())
}

fn tenant_of_a_wave(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    operator.exec(
        "SELECT holdfast.add_wave('first', '{1,2}', to_backend => 'rebuilt', canary_count => 1);
         SELECT holdfast.add_wave('second', '{3}', to_backend => 'rebuilt')",
    )?;
    for (tenant, told) in [(2, "The canaries of its wave \"first\""), (3, "Wave \"first\", which goes before")] {
        let refusal = operator.refused(&cutover(tenant, "rebuilt"))?;
        is(&refusal, NOT_READY)?;
        detail_names(&refusal, &["soak: ", told])?;
    }
    operator.exec(&cutover(1, "rebuilt"))?;
    operator.exec("SELECT holdfast.cutover('3', 'rebuilt', require_ready => false)")?;
    // The way back waits for no wave.
    operator.exec("SELECT holdfast.rollback_cutover('3')")?;
    operator.exec("SELECT holdfast.abort_wave('first')")?;
    operator.exec(&cutover(3, "rebuilt"))
}

fn advisory_checks(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    // The rebuilt backend had the tenant before, and it didn't go well.
    stage.cut_over(1, "rebuilt")?;
    operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 0)")?;
    is(&stage.rebuilt()?.refused(&write(1))?, "WG013")?;
    operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => -1)")?;
    operator.exec("SELECT holdfast.rollback_cutover('1')")?;
    is(&stage.rebuilt()?.refused(&write(1))?, "WG001")?;

    operator.exec("CREATE TABLE scratch (tenant int); CREATE TABLE notes (id int)")?;
    operator.exec("SELECT holdfast.freeze('1', 'nightly import')")?;
    let rows = readiness(&mut operator, 1, "rebuilt")?;
    let says = |check: &str, parts: &[&str]| {
        let (ok, blocking, detail) = rows.get(check).context("no such check")?;
        ensure!(!ok && !blocking && parts.iter().all(|part| detail.contains(part)), "{check}: {detail}");
        anyhow::Ok(())
    };
    says(
        "unclassified",
        &["2 tables", "public.notes, public.scratch", "tenant column of other tables: public.scratch."],
    )?;
    says("freeze", &["nightly import"])?;
    says("refusals", &["row_budget on public.orders (1"])?;

    let gid = format!("transfer of {}", stage.database.name);
    let (mut open, mut many, mut prepared) = (stage.legacy()?, stage.legacy()?, stage.legacy()?);
    open.exec(&format!("BEGIN; {}", write(2)))?;
    many.exec("BEGIN; UPDATE orders SET note = 'many' WHERE id > 50")?;
    prepared.exec(&format!("BEGIN; INSERT INTO orders VALUES (1002, 2); PREPARE TRANSACTION '{gid}'"))?;
    let rows = readiness(&mut operator, 2, "rebuilt")?;
    let says = |check: &str, parts: &[&str]| {
        let (ok, blocking, detail) = rows.get(check).context("no such check")?;
        ensure!(!ok && !blocking && parts.iter().all(|part| detail.contains(part)), "{check}: {detail}");
        anyhow::Ok(())
    };
    let [open_pid, many_pid] = [&open, &many].map(|session| format!("pid {}", session.pid()));
    says("open_transactions", &[&open_pid, &many_pid, "which has written many tenants"])?;
    says("prepared_transactions", &[&gid])?;
    operator.exec(&format!("ROLLBACK PREPARED '{gid}'"))?;
    for session in [&mut open, &mut many] {
        session.exec("COMMIT")?;
    }
    // None of it keeps a tenant from being moved.
    operator.exec(&cutover(1, "rebuilt"))?;
    operator.exec(&cutover(2, "rebuilt"))
}

fn tokens_prove(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("{STRICT}; SELECT holdfast.drop_identity(2)"))?;
    is(&operator.refused(&cutover(1, "rebuilt"))?, NOT_READY)?;
    // The public key of RFC 8032's first test.
    operator.exec("SELECT holdfast.add_key('rebuilt', '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo', 'k1')")?;
    let rows = readiness(&mut operator, 1, "rebuilt")?;
    ensure!(rows.get("receiver_identity").is_some_and(|(ok, _, detail)| *ok && detail.contains("k1")), "{rows:?}");
    operator.exec(&cutover(1, "rebuilt"))?;
    // A rule whose role is gone proves nothing.
    operator.exec(
        "SELECT holdfast.drop_key('k1'); CREATE ROLE soon_gone LOGIN; SELECT holdfast.add_identity('rebuilt', role => 'soon_gone');
         DROP ROLE soon_gone",
    )?;
    ensure!(amiss(&mut operator, 2, "rebuilt")?.contains(&"receiver_identity".to_owned()));
    Ok(())
}

fn changes_nothing(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut in_progress = stage.operator()?;
    in_progress.exec("BEGIN; SELECT holdfast.cutover('1', 'rebuilt', '1 min')")?;
    let mut operator = stage.operator()?;
    operator.exec("SET lock_timeout = '1 s'; BEGIN READ ONLY")?;
    let rows = readiness(&mut operator, 1, "rebuilt")?;
    ensure!(rows.get("open_transactions").is_some_and(|(ok, ..)| !ok), "{rows:?}");
    operator.exec("COMMIT")?;
    in_progress.exec("ROLLBACK")?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM holdfast.ownership_history")? == 0);
    stage.ensure_sound(1, "legacy")
}

fn failing_archive(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    let detail = |operator: &mut Session| -> Result<(bool, bool, String)> {
        readiness(operator, 1, "rebuilt")?.remove("archive").context("no such check")
    };
    ensure!(detail(&mut operator)? == (false, false, "Nothing has been archived yet.".to_owned()));
    cluster.reload(&[("archive_command", "true")])?;
    operator.exec("SELECT pg_switch_wal()")?;
    eventually("a segment to be archived", || Ok(detail(&mut operator)?.0))?;
    cluster.reload(&[("archive_command", "false")])?;
    operator.exec("CREATE TABLE t (); SELECT pg_switch_wal()")?;
    eventually("the archiver to fail", || Ok(detail(&mut operator)?.2.ends_with("The last attempt failed.")))?;
    stage.cut_over(1, "rebuilt")
}

fn minimal_log(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "readiness")?;
    let mut operator = stage.operator()?;
    let amiss = amiss(&mut operator, 1, "rebuilt")?;
    ensure!(amiss.contains(&"restore_point".to_owned()), "{amiss:?}");
    let point: Option<String> = operator.one("SELECT restore_point FROM holdfast.cutover('1', 'rebuilt')")?;
    ensure!(point.is_none(), "{point:?}");
    stage.ensure_sound(1, "rebuilt")
}
