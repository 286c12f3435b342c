//! The soak: the worker watches tenants that have moved, without any session's help, and stops what goes wrong.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postgres::fallible_iterator::FallibleIterator;

use super::Test;
use super::processes::drains;
use super::two_backends::{FROZEN, NOT_OWNER, TwoBackends, is, write};
use super::waves::{plan, run, state, tenants};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::within;

/// A look a second, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Well before a wave is looked at in any case after its state has changed.
const ROUND: Duration = Duration::from_secs(5);

/// Of the worker's part; `waves` has the plan and the run.
pub fn tests() -> Vec<Test> {
    let log = || ClusterOptions::new().set("log_min_messages", "log");
    vec![
        Test::shared("a_tenant_whose_client_writes_rubbish_is_frozen", |cluster| stops_itself(cluster, "freeze")),
        Test::shared("a_tenant_whose_client_writes_rubbish_goes_back", |cluster| stops_itself(cluster, "rollback")),
        Test::shared("would_be_refusals_count_too", observed_ones_count),
        Test::shared("statements_without_a_tenant_halt_the_wave_alone", without_a_tenant),
        Test::shared("what_the_old_owner_is_refused_does_not_count", old_owner_does_not_count),
        Test::shared("a_tenant_that_was_taken_back_is_left_alone", taken_back),
        Test::shared("a_tenant_without_a_way_back_is_frozen", no_way_back),
        Test::shared("canaries_soak_before_the_rest_moves", canaries_first),
        Test::shared("a_halted_wave_is_resumed_and_soaks_anew", resumed),
        Test::shared("an_offender_that_is_busy_holds_up_no_refusal", busy_offender),
        Test::own("a_soak_ends_without_a_session_and_in_peace", log(), ends_without_a_session),
        Test::own("a_soak_goes_on_after_a_crash", log(), after_a_crash).expects_crashes(),
        Test::own("old_events_go_where_no_new_ones_come", log().set("holdfast.audit_retention", "3d"), old_events_go),
    ]
}

/// What the rebuilt client of a tenant does when it is broken: it writes another tenant's rows along with its own. The event
/// names the tenant with which a statement has gone too far.
fn rubbish(tenant: i32) -> String {
    format!("INSERT INTO orders VALUES ({tenant}000, {}, 'rubbish'), ({tenant}001, {tenant}, 'rubbish')", tenant + 1)
}

fn reaches(session: &mut Session, wave: &str, expected: &str) -> Result<()> {
    within(PATIENCE, &format!("wave {wave} to be {expected}"), || Ok(state(session, wave)? == expected))
}

/// The words of the policy log from the oldest on, but for cutovers.
fn log(session: &mut Session) -> Result<String> {
    session.one(
        "SELECT string_agg(what || ' ' || object, ', ' ORDER BY at) FROM holdfast.policy_log
         WHERE what <> 'cutover' AND (what LIKE 'wave %' OR what IN ('freeze', 'rollback'))",
    )
}

/// Show 6: one tenant's rebuilt client writes rubbish during the soak.
fn stops_itself(cluster: &Cluster, on_violation: &str) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec("LISTEN holdfast")?;
    let more = format!(", soak => '1 hour', max_refusals => 2, on_violation => '{on_violation}'");
    dba.exec(&plan("w", 1, 20, &more))?;
    dba.exec(&plan("next", 30, 31, ""))?;
    dba.exec(&run("w"))?;
    let (mut broken, mut good) = (scene.rebuilt()?, scene.rebuilt()?);
    for tenant in 1..=20 {
        good.exec(&write(tenant))?;
    }
    // As many as are allowed, then one more.
    for _ in 0..2 {
        broken.refused(&rubbish(7))?;
    }
    dba.exec("SELECT pg_sleep(2.5)")?;
    ensure!(state(&mut dba, "w")? == "soaking", "halted within its limit");
    broken.refused(&rubbish(7))?;
    let noticed = Instant::now();
    reaches(&mut dba, "w", "halted")?;
    println!("    halted {} ms after the refusal that was one too many", noticed.elapsed().as_millis());
    ensure!(noticed.elapsed() < ROUND, "halted by a round, and not by the refusal");

    // That tenant alone.
    let (kept, done) = if on_violation == "freeze" { ("frozen", FROZEN) } else { ("returned", NOT_OWNER) };
    ensure!(tenants(&mut dba, "w", kept)? == 1 && tenants(&mut dba, "w", "moved")? == 19);
    is(&broken.refused(&write(7))?, done)?;
    for tenant in (1..=20).filter(|tenant| *tenant != 7) {
        good.exec(&write(tenant))?;
    }
    if on_violation == "rollback" {
        scene.ensure_sound(7, "legacy")?;
        let reason = "SELECT reason FROM holdfast.ownership_history WHERE action = 'rollback'";
        let (history, log): (String, String) =
            (dba.one(reason)?, dba.one("SELECT new ->> 'reason' FROM holdfast.policy_log WHERE what = 'rollback'")?);
        ensure!(history == "wave \"w\" was halted: 3 refusals, 2 allowed" && log == history, "{history}, {log}");
    } else {
        is(&scene.legacy()?.refused(&write(7))?, NOT_OWNER)?;
        let reason: String = dba.one("SELECT freeze_reason FROM holdfast.tenants WHERE tenant = '7'")?;
        ensure!(reason == "wave \"w\" was halted: 3 refusals, 2 allowed", "{reason}");
    }
    let rubbish: i64 = dba.one("SELECT count(*) FROM orders WHERE note = 'rubbish'")?;
    ensure!(rubbish == 0, "{rubbish} rows of rubbish");

    // Everything is on record, and told.
    let expected = format!(
        "wave added w, wave added next, wave moving w, wave soaking w, wave halting w, {on_violation} 7, wave halted w"
    );
    ensure!(log(&mut dba)? == expected, "{}\nexpected:\n{expected}", log(&mut dba)?);
    let reason: String = dba.one("SELECT new ->> 'reason' FROM holdfast.policy_log WHERE what = 'wave halting'")?;
    ensure!(reason == "tenant \"7\": 3 refusals, 2 allowed", "{reason}");
    let shown: String =
        dba.one("SELECT reason FROM holdfast.waves WHERE wave = 'w' AND next_step LIKE '%wave_refusals'")?;
    ensure!(shown == reason, "{shown}");
    let by: String = dba.one("SELECT application_name FROM holdfast.policy_log WHERE what = 'wave halted'")?;
    ensure!(by == "holdfast worker", "by {by}");
    let told = heard(&mut dba)?;
    ensure!(told.contains(r#""state":"halted""#), "{told}");

    // Neither this wave nor the next one goes on by itself.
    let refusal = dba.refused(&run("w"))?;
    ensure!(refusal.code == "55000" && refusal.detail.as_deref() == Some(&*reason), "{refusal:?}");
    is(&dba.refused(&run("next"))?, "55000")
}

/// What a listener was told, in one text.
fn heard(listener: &mut Session) -> Result<String> {
    let mut told = String::new();
    let mut notifications = listener.notifications();
    let mut arrived = notifications.timeout_iter(Duration::from_millis(500));
    while let Some(notification) = arrived.next()? {
        told.push_str(notification.payload());
    }
    Ok(told)
}

fn observed_ones_count(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    dba.exec(&plan("w", 1, 5, ", require_ready => false"))?;
    dba.exec(&run("w"))?;
    scene.rebuilt()?.exec(&rubbish(3))?;
    reaches(&mut dba, "w", "halted")?;
    let frozen: String = dba.one("SELECT string_agg(tenant, ',') FROM holdfast.tenants WHERE state = 'frozen'")?;
    ensure!(frozen == "3", "{frozen}");
    Ok(())
}

fn without_a_tenant(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec("CREATE TABLE other (id int)")?;
    dba.exec(&format!("GRANT ALL ON other TO {}", scene.role("rebuilt")))?;
    dba.exec(&plan("w", 1, 5, ", on_violation => 'rollback'"))?;
    dba.exec(&run("w"))?;
    scene.rebuilt()?.refused("INSERT INTO other VALUES (1)")?;
    reaches(&mut dba, "w", "halted")?;
    ensure!(tenants(&mut dba, "w", "moved")? == 5, "a tenant was touched");
    let reason: String = dba.one("SELECT reason FROM holdfast.wave")?;
    ensure!(reason == "statements that name no tenant: 1 refusal, 0 allowed", "{reason}");
    Ok(())
}

fn old_owner_does_not_count(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    // Before it had moved, either.
    scene.rebuilt()?.refused(&write(2))?;
    dba.exec(&plan("w", 1, 5, ", soak => '4 s'"))?;
    dba.exec(&run("w"))?;
    let mut legacy = scene.legacy()?;
    for _ in 0..3 {
        is(&legacy.refused(&write(2))?, NOT_OWNER)?;
    }
    // A tenant that isn't in the wave.
    is(&scene.rebuilt()?.refused(&write(50))?, NOT_OWNER)?;
    reaches(&mut dba, "w", "passed")
}

fn taken_back(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 5, ", soak => '4 s'"))?;
    dba.exec(&run("w"))?;
    dba.exec("SELECT holdfast.rollback_cutover('2')")?;
    // The rebuilt client hasn't heard of it.
    is(&scene.rebuilt()?.refused(&write(2))?, NOT_OWNER)?;
    reaches(&mut dba, "w", "passed")?;
    ensure!(tenants(&mut dba, "w", "returned")? == 1 && tenants(&mut dba, "w", "moved")? == 4);
    scene.ensure_sound(2, "legacy")
}

fn no_way_back(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 5, ", soak => '1 hour', on_violation => 'rollback'"))?;
    dba.exec(&run("w"))?;
    // All that legacy had has moved, it seems.
    dba.exec("SELECT holdfast.set_default_owner('rebuilt'), holdfast.set_default_backend('rebuilt')")?;
    dba.exec("SELECT holdfast.retire('legacy', unseen_for => '0 s')")?;
    scene.rebuilt()?.refused(&rubbish(3))?;
    reaches(&mut dba, "w", "halted")?;
    ensure!(tenants(&mut dba, "w", "frozen")? == 1 && tenants(&mut dba, "w", "moved")? == 4);
    let reason: String = dba.one("SELECT freeze_reason FROM holdfast.tenants WHERE state = 'frozen'")?;
    let expected =
        "wave \"w\" was halted: 1 refusal, 0 allowed; it could not be handed back: backend \"legacy\" is retired";
    ensure!(reason.starts_with(expected), "{reason}");
    is(&scene.rebuilt()?.refused(&write(3))?, FROZEN)?;
    scene.rebuilt()?.exec(&write(4))
}

fn canaries_first(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 10, ", canaries => '{4, 5}', soak => '2 s'"))?;
    dba.exec(&run("w"))?;
    ensure!(state(&mut dba, "w")? == "soaking" && scene.owner(4)? == "rebuilt" && scene.owner(1)? == "legacy");
    reaches(&mut dba, "w", "moving")?;
    ensure!(tenants(&mut dba, "w", "moved")? == 2, "somebody else has moved");
    dba.exec(&run("w"))?;
    ensure!(tenants(&mut dba, "w", "moved")? == 10);
    reaches(&mut dba, "w", "passed")?;
    let log = log(&mut dba)?;
    let expected = "wave added w, wave moving w, wave soaking w, wave moving w, wave soaking w, wave passed w";
    ensure!(log == expected, "{log}");
    Ok(())
}

fn resumed(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 10, ", canaries => '{4, 5}', soak => '3 s'"))?;
    dba.exec(&run("w"))?;
    scene.rebuilt()?.refused(&rubbish(4))?;
    reaches(&mut dba, "w", "halted")?;
    dba.exec("SELECT holdfast.unfreeze('4')")?;
    dba.exec("SELECT holdfast.resume_wave('w')")?;
    ensure!(tenants(&mut dba, "w", "moved")? == 2 && state(&mut dba, "w")? == "moving");
    dba.exec(&run("w"))?;
    reaches(&mut dba, "w", "moving")?;
    dba.exec(&run("w"))?;
    // It is watched as before.
    scene.rebuilt()?.refused(&rubbish(6))?;
    reaches(&mut dba, "w", "halted")?;
    ensure!(tenants(&mut dba, "w", "frozen")? == 1);
    dba.exec("SELECT holdfast.resume_wave('w')")?;
    // The frozen one stays out of it.
    dba.exec(&run("w"))?;
    reaches(&mut dba, "w", "passed")?;
    ensure!(tenants(&mut dba, "w", "moved")? == 9 && tenants(&mut dba, "w", "frozen")? == 1);
    Ok(())
}

fn busy_offender(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 10, ""))?;
    dba.exec(&run("w"))?;
    let (mut busy, mut broken) = (scene.rebuilt()?, scene.rebuilt()?);
    busy.exec("BEGIN")?;
    busy.exec(&write(4))?;
    broken.refused(&rubbish(4))?;
    reaches(&mut dba, "w", "halting")?;
    within(PATIENCE, "a try", || dba.one::<bool>("SELECT tries > 1 FROM holdfast.wave_tenants WHERE tenant = '4'"))?;
    let begun = Instant::now();
    for _ in 0..20 {
        broken.refused(&rubbish(6))?;
    }
    let each = begun.elapsed() / 20;
    println!("    refusals beside a tenant that can't be frozen: {} ms each", each.as_millis());
    ensure!(each < Duration::from_millis(500), "{each:?} for each refusal");
    ensure!(tenants(&mut dba, "w", "offending")? == 1);
    busy.exec("COMMIT")?;
    reaches(&mut dba, "w", "halted")?;
    is(&busy.refused(&write(4))?, FROZEN)
}

fn ends_without_a_session(cluster: &mut Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 5, ", soak => '6 s'"))?;
    dba.exec(&run("w"))?;
    // Whatever the first session in a database has brought along.
    dba.exec("SELECT pg_sleep(1)")?;
    let name = scene.database.name.clone();
    drop(dba);
    let mut observer = cluster.endpoint().observe("postgres")?;
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    within(PATIENCE, "everybody to leave", || Ok(observer.query_one(&there, &[])?.try_get::<_, i64>(0)? == 0))?;
    std::thread::sleep(Duration::from_secs(12));
    let mut dba = scene.operator()?;
    let passed: bool = dba.one("SELECT ended_at < clock_timestamp() - interval '300 ms' FROM holdfast.wave")?;
    ensure!(passed && state(&mut dba, "w")? == "passed", "the worker needed a session");

    // An idle server has no worker.
    within(PATIENCE, "the worker to leave", || Ok(drains(cluster)?.is_empty()))?;
    let quiet = Instant::now();
    let mut seen = 0;
    while quiet.elapsed() < Duration::from_secs(15) {
        seen += usize::from(!drains(cluster)?.is_empty());
        std::thread::sleep(Duration::from_millis(50));
    }
    // One look, once a day, at what is past keeping may fall into this time.
    ensure!(seen < 30, "workers ran {seen} times out of 300");

    // A database that soaks is dropped as fast as any other, and forgotten.
    dba.exec(&plan("x", 11, 15, ", soak => '2 s'"))?;
    dba.exec(&run("x"))?;
    drop(dba);
    let mark = cluster.log_mark();
    let begun = Instant::now();
    observer.batch_execute(&format!("DROP DATABASE {name}"))?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "DROP DATABASE took {:?}", begun.elapsed());
    std::thread::sleep(Duration::from_secs(4));
    let log = cluster.log_since(mark)?;
    // A worker that was being started just then doesn't find it any more; none is started again.
    ensure!(log.matches("FATAL").count() <= 1 && drains(cluster)?.is_empty(), "{log}");
    Ok(())
}

fn after_a_crash(cluster: &mut Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "soak")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 5, ", soak => '1 hour'"))?;
    dba.exec(&run("w"))?;
    drop(dba);
    cluster.restart(Shutdown::Kill9)?;
    scene.rebuilt()?.refused(&rubbish(3))?;
    reaches(&mut scene.operator()?, "w", "halted")?;
    is(&scene.rebuilt()?.refused(&write(3))?, FROZEN)
}

fn old_events_go(cluster: &mut Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "retention")?;
    let mut dba = scene.operator()?;
    dba.exec(super::events::HISTORY)?;
    let events = "SELECT count(*) FROM holdfast.blocked_writes";
    ensure!(dba.one::<i64>(events)? == 9, "{} events", dba.one::<i64>(events)?);
    within(PATIENCE, "old events to go", || Ok(dba.one::<i64>(events)? == 0))
}
