//! The end of a migration: its date, retiring the backends that are done, lifting the guard.

use anyhow::{Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::scene::in_break_glass;
use super::two_backends::{NOT_OWNER, is};
use crate::client::{Refusal, Session};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::eventually;

/// Of the end.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_date_that_has_passed_stops_nothing", date_warns),
        Test::shared("a_date_that_has_passed_stops_new_cutovers_where_the_policy_says_so", date_refuses),
        Test::shared("the_date_is_a_day_to_come", dates),
        Test::shared("who_has_something_left_is_not_retired", has_something_left),
        Test::shared("who_was_seen_lately_is_not_retired", seen_lately),
        Test::own("a_restart_forgets_who_was_seen_and_says_so", ClusterOptions::new(), restart),
        Test::shared("tenants_that_are_not_listed_change_hands_between_writes", default_owner),
        Test::shared("no_tenant_comes_to_a_backend_that_is_being_retired", retired_first),
        Test::shared("a_backend_that_is_being_given_a_tenant_is_not_retired", given_first),
        Test::shared("the_default_owner_and_a_retirement_wait_for_each_other", default_owner_and_retirement),
        Test::shared("a_finished_migration_refuses_nothing", finish),
        Test::shared("a_migration_is_not_finished_before_its_end", not_finished),
        Test::shared("who_may_end_it", privileges),
    ]
}

const RETIRE: &str = "SELECT holdfast.retire('legacy', unseen_for => '0 s')";

/// Waits until a session's connection is gone from pg_stat_activity.
fn gone(dba: &mut Session, session: Session) -> Result<()> {
    let pid = session.pid();
    drop(session);
    eventually("a session to end", || {
        Ok(dba.one::<i64>(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"))? == 0)
    })
}

fn says(refusal: &Refusal, code: &str, message: &str, detail: &str) -> Result<()> {
    let told = refusal.detail.as_deref().unwrap_or_default();
    let complete = refusal.code == code && refusal.message == message && told.contains(detail);
    ensure!(complete && refusal.hint.is_some(), "expected {code} {message} ({detail}): {refusal:?}");
    Ok(())
}

/// Everything belongs to the rebuilt backend, also what nobody has heard of yet.
fn hand_all_over(dba: &mut Session) -> Result<()> {
    dba.exec("SELECT holdfast.cutover('1', 'rebuilt', require_ready => false)")?;
    dba.exec("SELECT holdfast.set_default_owner('rebuilt')")?;
    dba.exec("SELECT holdfast.set_default_backend('rebuilt')")
}

/// Ends a migration, whoever owns what: hands everything to the rebuilt backend, retires the others.
pub(super) fn end(dba: &mut Session) -> Result<()> {
    let others = "SELECT tenant FROM holdfast.tenants WHERE owner <> 'rebuilt'";
    for tenant in dba.rows(others)?.into_iter().flatten().flatten() {
        dba.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', require_ready => false)"))?;
    }
    dba.exec("SELECT holdfast.set_default_owner('rebuilt'); SELECT holdfast.set_default_backend('rebuilt')")?;
    let others = "SELECT backend FROM holdfast.backends WHERE backend <> 'rebuilt'";
    for backend in dba.rows(others)?.into_iter().flatten().flatten() {
        dba.exec(&format!("SELECT holdfast.retire('{backend}', unseen_for => '0 s')"))?;
    }
    dba.exec("SELECT holdfast.finish_migration()")
}

/// The day has passed, as it does by itself.
fn passed(dba: &mut Session, when_passed: &str) -> Result<()> {
    dba.exec(&format!("SELECT holdfast.set_end_date(current_date + 1, '{when_passed}')"))?;
    dba.exec(&in_break_glass("UPDATE holdfast.migration SET ends_on = current_date - 1"))
}

fn date_warns(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    passed(&mut dba, "warn")?;
    dba.exec("SELECT holdfast.cutover('1', 'rebuilt')")?;
    guarded.rebuilt()?.exec(FOREIGN_WRITE)
}

fn date_refuses(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    passed(&mut dba, "refuse_cutovers")?;
    let refusal = dba.refused("SELECT holdfast.cutover('1', 'rebuilt')")?;
    let detail = refusal.detail.as_deref().unwrap_or_default();
    ensure!(refusal.code == "55000" && detail.starts_with("end_date: The migration should have"), "{refusal:?}");
    let status: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'ends on'")?;
    ensure!(status.ends_with("new cutovers are refused"), "{status}");
    // Writers, freezes and ways back go on.
    guarded.legacy()?.exec(FOREIGN_WRITE)?;
    guarded.rebuilt()?.exec("UPDATE orders SET note = 'x' WHERE tenant = 2")?;
    dba.exec("SELECT holdfast.freeze('1', 'a test')")?;
    dba.exec("SELECT holdfast.unfreeze('1')")?;
    dba.exec("SELECT holdfast.rollback_cutover('2')")?;
    dba.exec("SELECT holdfast.set_end_date(current_date + 1, 'refuse_cutovers')")?;
    dba.exec("SELECT holdfast.cutover('2', 'rebuilt')")?;
    passed(&mut dba, "refuse_cutovers")?;
    dba.exec("SELECT holdfast.cutover('2', 'legacy')")
}

fn dates(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    for (arguments, code) in [
        ("current_date", "22023"),
        ("'infinity'", "22023"),
        ("NULL", "22004"),
        ("current_date + 1, 'stop'", "22023"),
        ("current_date + 1, NULL", "22004"),
    ] {
        let refusal = dba.refused(&format!("SELECT holdfast.set_end_date({arguments})"))?;
        ensure!(refusal.code == code, "{arguments}: {refusal:?}");
    }
    dba.exec("SELECT holdfast.set_end_date(current_date + 100)")?;
    let left: i32 = dba.one("SELECT ends_on - current_date FROM holdfast.migration")?;
    ensure!(left == 100, "{left}");
    Ok(())
}

fn has_something_left(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    let owns = "backend \"legacy\" still owns tenants";
    says(&dba.refused(RETIRE)?, "55006", owns, "default owner")?;
    dba.exec("SELECT holdfast.set_default_owner('rebuilt')")?;
    says(&dba.refused(RETIRE)?, "55006", "backend \"legacy\" is the default backend", "no identity rule")?;
    dba.exec("SELECT holdfast.set_default_backend(NULL)")?;
    dba.exec("SELECT holdfast.cutover('2', 'legacy', require_ready => false)")?;
    says(&dba.refused(RETIRE)?, "55006", owns, "It owns 1 tenant;")?;
    dba.exec("SELECT holdfast.cutover('2', 'rebuilt', require_ready => false)")?;
    dba.exec(RETIRE)?;
    // Again: nothing to do.
    dba.exec(RETIRE)?;
    let phase: String = dba.one("SELECT phase FROM holdfast.migration")?;
    ensure!(phase == "single", "{phase}");
    let refusal = guarded.legacy()?.refused(FOREIGN_WRITE)?;
    ensure!(refusal.code == "WG010", "{refusal:?}");
    dba.exec("SELECT holdfast.set_trust('legacy', 'proven')")?;
    let phase: String = dba.one("SELECT phase FROM holdfast.migration")?;
    ensure!(phase == "shared", "{phase}");
    Ok(())
}

fn seen_lately(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    let mut legacy = guarded.legacy()?;
    legacy.exec("UPDATE orders SET note = 'legacy' WHERE tenant = 1")?;
    hand_all_over(&mut dba)?;
    let message = "backend \"legacy\" may still be in use";
    // Connected, though it doesn't write.
    says(&dba.refused(RETIRE)?, "55006", message, &format!("pid {}", legacy.pid()))?;
    gone(&mut dba, legacy)?;
    // It wrote a moment ago, also if the figures were reset since.
    dba.exec("SELECT holdfast.stats_reset()")?;
    let lately = "SELECT holdfast.retire('legacy', unseen_for => '1 min')";
    says(&dba.refused(lately)?, "55006", message, "It wrote guarded tables, or tried to, ")?;
    dba.exec(RETIRE)
}

fn restart(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    hand_all_over(&mut dba)?;
    // Refused, hence on record, whatever the server remembers.
    is(&guarded.legacy()?.refused(FOREIGN_WRITE)?, NOT_OWNER)?;
    dba.exec("SELECT holdfast.add_backend('batch', 'proven')")?;
    drop(dba);
    cluster.restart(Shutdown::Fast)?;
    let mut dba = guarded.database.connect()?;
    let message = "backend \"legacy\" may still be in use";
    says(&dba.refused("SELECT holdfast.retire('legacy')")?, "55006", message, "was recorded of it")?;
    let unwatched = "backend \"batch\" may still be in use";
    says(&dba.refused("SELECT holdfast.retire('batch')")?, "55006", unwatched, "The server has watched for")?;
    dba.exec("SELECT holdfast.retire('batch', unseen_for => '0 s')")
}

fn default_owner(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    let mut legacy = guarded.legacy()?;
    legacy.exec("BEGIN; UPDATE orders SET note = 'before' WHERE tenant = 1")?;
    let change = guarded.database.connect()?.start("SELECT holdfast.set_default_owner('rebuilt')");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let owner: String = dba.one("SELECT holdfast.owner_of('1')")?;
    ensure!(owner == "legacy", "{owner}");
    // Its next write is still its own.
    legacy.exec("UPDATE orders SET note = 'within' WHERE tenant = 1; COMMIT")?;
    let (_, outcome) = change.finish()?;
    outcome?;
    is(&legacy.refused(FOREIGN_WRITE)?, NOT_OWNER)?;
    guarded.rebuilt()?.exec("UPDATE orders SET note = 'after' WHERE tenant = 1")?;
    dba.exec("SELECT holdfast.add_backend('old', 'retired')")?;
    let refusal = dba.refused("SELECT holdfast.set_default_owner('old')")?;
    ensure!(refusal.code == "55000", "{refusal:?}");
    Ok(())
}

/// Either way of retiring a backend that nobody has seen.
const RETIREMENTS: [&str; 2] =
    ["SELECT holdfast.retire('third', unseen_for => '0 s')", "SELECT holdfast.set_trust('third', 'retired')"];
/// Either way of giving it a tenant.
const GIFTS: [&str; 2] =
    ["SELECT holdfast.cutover('1', 'third', '30 s', false)", "SELECT holdfast.rollback_cutover('2')"];
const IS_RETIRED: &str = "backend \"third\" is retired and may not own tenants";

/// There is a third backend, to which a rollback of tenant 2 would lead.
fn with_a_third(cluster: &Cluster) -> Result<Guarded> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    guarded.database.connect()?.exec("SELECT holdfast.add_backend('third', 'proven')")?;
    for to in ["third", "rebuilt"] {
        guarded.database.connect()?.exec(&format!("SELECT holdfast.cutover('2', '{to}', require_ready => false)"))?;
    }
    Ok(guarded)
}

/// Every owner that a row or the default names is one that may write.
fn ensure_owners_may_write(dba: &mut Session) -> Result<()> {
    let owners = "SELECT owner FROM holdfast.ownership UNION SELECT default_owner FROM holdfast.migration";
    let retired: i64 = dba.one(&format!(
        "SELECT count(*) FROM ({owners}) AS o JOIN holdfast.backend b ON b.backend = o.owner AND b.trust = 'retired'"
    ))?;
    ensure!(retired == 0, "{retired} owners are retired");
    Ok(())
}

fn retired_first(cluster: &Cluster) -> Result<()> {
    for (retirement, gift) in RETIREMENTS.into_iter().zip(GIFTS) {
        let guarded = with_a_third(cluster)?;
        let mut dba = guarded.database.connect()?;
        dba.exec(&format!("BEGIN; {retirement}"))?;
        let mut given = guarded.database.connect()?.start(gift);
        given.wait_until_blocked()?;
        // It waits without the tenant.
        guarded.legacy()?.exec("UPDATE orders SET note = 'meanwhile' WHERE tenant = 1")?;
        guarded.rebuilt()?.exec("UPDATE orders SET note = 'meanwhile' WHERE tenant = 2")?;
        dba.exec("COMMIT")?;
        let (_, refusal) = given.finish_refused()?;
        ensure!(refusal.code == "55000" && refusal.message == IS_RETIRED, "{gift}: {refusal:?}");
        ensure_owners_may_write(&mut dba)?;
        let owners: String = dba.one("SELECT holdfast.owner_of('1') || ' ' || holdfast.owner_of('2')")?;
        ensure!(owners == "legacy rebuilt", "{owners}");

        // One that is taken back stops nobody.
        dba.exec("SELECT holdfast.set_trust('third', 'proven')")?;
        dba.exec(&format!("BEGIN; {retirement}"))?;
        let mut given = guarded.database.connect()?.start(gift);
        given.wait_until_blocked()?;
        dba.exec("ROLLBACK")?;
        given.finish()?.1?;
    }
    Ok(())
}

fn given_first(cluster: &Cluster) -> Result<()> {
    // A snapshot from before doesn't hide the tenant.
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    for (n, level) in levels.into_iter().enumerate() {
        let guarded = with_a_third(cluster)?;
        let (mut dba, mut other) = (guarded.database.connect()?, guarded.database.connect()?);
        other.exec(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM orders"))?;
        dba.exec(&format!("BEGIN; {}", GIFTS[n % 2]))?;
        let mut retirement = other.start(RETIREMENTS[n % 2]);
        retirement.wait_until_blocked()?;
        dba.exec("COMMIT")?;
        let (mut other, refusal) = retirement.finish_refused()?;
        says(&refusal, "55006", "backend \"third\" still owns tenants", "It owns 1 tenant;")?;
        other.exec("ROLLBACK")?;
        ensure_owners_may_write(&mut dba)?;

        // What was given and taken back is no reason.
        dba.exec("SELECT holdfast.cutover(tenant, 'rebuilt', require_ready => false) FROM holdfast.tenants WHERE owner = 'third'")?;
        dba.exec("BEGIN; SELECT holdfast.cutover('1', 'third', '30 s', false)")?;
        let mut retirement = other.start(RETIREMENTS[n % 2]);
        retirement.wait_until_blocked()?;
        dba.exec("ROLLBACK")?;
        retirement.finish()?.1?;
        ensure_owners_may_write(&mut dba)?;
    }
    Ok(())
}

fn default_owner_and_retirement(cluster: &Cluster) -> Result<()> {
    let guarded = with_a_third(cluster)?;
    let mut dba = guarded.database.connect()?;
    let set = "SELECT holdfast.set_default_owner('third')";
    for retirement in RETIREMENTS {
        dba.exec(&format!("BEGIN; {set}"))?;
        let mut waiting = guarded.database.connect()?.start(retirement);
        waiting.wait_until_blocked()?;
        dba.exec("COMMIT")?;
        let (_, refusal) = waiting.finish_refused()?;
        says(&refusal, "55006", "backend \"third\" still owns tenants", "default owner")?;
        dba.exec("SELECT holdfast.set_default_owner('legacy')")?;

        dba.exec(&format!("BEGIN; {retirement}"))?;
        let mut waiting = guarded.database.connect()?.start(set);
        waiting.wait_until_blocked()?;
        dba.exec("COMMIT")?;
        let (_, refusal) = waiting.finish_refused()?;
        ensure!(refusal.code == "55000" && refusal.message == IS_RETIRED, "{refusal:?}");
        ensure_owners_may_write(&mut dba)?;
        dba.exec("SELECT holdfast.set_trust('third', 'proven')")?;
    }
    // Who freezes a tenant that has no row gives it one, with its owner's name.
    dba.exec("BEGIN; SELECT holdfast.freeze('1', 'a test')")?;
    let mut waiting = guarded.database.connect()?.start("SELECT holdfast.set_default_owner('rebuilt')");
    waiting.wait_until_blocked()?;
    dba.exec("COMMIT")?;
    waiting.finish()?.1?;
    dba.exec("SELECT holdfast.set_default_backend(NULL)")?;
    says(&dba.refused(RETIRE)?, "55006", "backend \"legacy\" still owns tenants", "It owns 1 tenant;")
}

fn finish(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 1, statement_timeout => '1 s')")?;
    dba.exec("SELECT holdfast.set_mode('enforce', backend => 'rebuilt')")?;
    hand_all_over(&mut dba)?;
    dba.exec(RETIRE)?;
    dba.exec("LISTEN holdfast")?;
    dba.exec("SELECT holdfast.finish_migration()")?;
    dba.exec("SELECT holdfast.finish_migration()")?;
    // Each of these was refused before.
    let mut rebuilt = guarded.rebuilt()?;
    rebuilt.exec("SET statement_timeout = 0")?;
    rebuilt.exec("UPDATE orders SET note = 'all'; INSERT INTO plans VALUES (9); TRUNCATE plans")?;
    guarded.legacy()?.exec(FOREIGN_WRITE)?;
    dba.exec("ALTER TABLE orders DISABLE TRIGGER USER; ALTER TABLE orders ENABLE TRIGGER USER")?;
    rebuilt.exec("UPDATE orders SET note = 'again'")?;
    let status: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'phase'")?;
    ensure!(status == "finished", "{status}");
    let dates: i64 = dba.one("SELECT count(*) FROM holdfast.status WHERE item = 'ends on'")?;
    ensure!(dates == 0);
    // Whoever it was is still known.
    let log: i64 = dba.one("SELECT count(*) FROM holdfast.policy_log WHERE query LIKE '%finish_migration()%'")?;
    ensure!(log > 0);
    Ok(())
}

fn not_finished(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("ending")?;
    let mut dba = database.connect()?;
    let finish = "SELECT holdfast.finish_migration()";
    let refusal = dba.refused(finish)?;
    ensure!(refusal.code == "55000" && refusal.message == "no migration has begun", "{refusal:?}");

    let guarded = Guarded::enforcing(cluster, "ending")?;
    let mut dba = guarded.database.connect()?;
    says(
        &dba.refused(finish)?,
        "55000",
        "more than one backend owns tenants",
        "Backend \"rebuilt\" owns 1 tenant; backend \"legacy\" owns those that are not listed.",
    )?;
    hand_all_over(&mut dba)?;
    says(&dba.refused(finish)?, "55000", "another backend is still in use", "legacy")?;
    // A wave that runs or is watched; one that is planned, or over, waits for nothing.
    dba.exec("SELECT holdfast.add_wave('back', '{7, 8}', to_backend => 'legacy', require_ready => false)")?;
    says(&dba.refused(finish)?, "55000", "another backend is still in use", "legacy")?;
    dba.exec("CALL holdfast.run_wave('back')")?;
    let refusal = dba.refused(finish)?;
    says(&refusal, "55000", "a wave is under way", "Under way: back.")?;
    ensure!(
        refusal.hint.as_deref() == Some("Let it end, or abort it; see SELECT * FROM holdfast.waves;"),
        "{refusal:?}"
    );
    dba.exec("SELECT holdfast.abort_wave('back')")?;
    let owners = "Backend \"legacy\" owns 2 tenants; backend \"rebuilt\" owns those that are not listed.";
    says(&dba.refused(finish)?, "55000", "more than one backend owns tenants", owners)?;
    for tenant in [7, 8] {
        dba.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', require_ready => false)"))?;
    }
    dba.exec("SELECT holdfast.add_wave('never', '{9}', to_backend => 'legacy')")?;
    dba.exec(RETIRE)?;
    dba.exec(finish)
}

fn privileges(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "ending")?;
    let calls = [
        "set_end_date(current_date + 1)",
        "set_default_owner('legacy')",
        "retire('legacy')",
        "finish_migration()",
        "uninstall_preview()",
    ];
    let mut rebuilt = guarded.rebuilt()?;
    for call in calls {
        let refusal = rebuilt.refused(&format!("SELECT holdfast.{call}"))?;
        ensure!(refusal.code == "42501", "{call}: {refusal:?}");
    }
    Ok(())
}
