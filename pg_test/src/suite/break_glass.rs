//! Break-glass: an operator does what every rule refuses, for a while, and each step is on record.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::Cluster;
use crate::wait::eventually;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("no_rule_refuses_and_everything_is_recorded", no_rule_refuses),
        Test::shared("it_ends_with_its_time_at_the_next_use", it_ends_with_its_time),
        Test::shared("it_ends_with_what_it_was_begun_for", it_ends_with_what_it_was_begun_for),
        Test::shared("what_a_rollback_undoes_isnt_broken", what_a_rollback_undoes),
        Test::shared("only_operators_break_it", only_operators_break_it),
        Test::shared("nobody_else_gets_it", nobody_else_gets_it),
        Test::shared("arguments_are_checked", arguments_are_checked),
        Test::shared("writers_still_hold_cutovers_up", writers_still_hold_cutovers_up),
        Test::shared("views_tell", views_tell),
    ]
}

/// Rule, outcome, command, relation and message of each event of a session, in order.
fn events(scene: &Scene, session: &Session) -> Result<Vec<[String; 4]>> {
    let mut operator = scene.operator()?;
    operator.exec("SELECT holdfast.flush_events()")?;
    let sql = "SELECT coalesce(rule, '-') || ' ' || outcome, command, coalesce(relation, '-'), message
        FROM holdfast.blocked_writes WHERE pid = $1 ORDER BY id";
    let rows = operator.query(sql, &[&session.pid()])?;
    rows.iter().map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?])).collect()
}

/// The guard refuses this session what it should.
fn ensure_bound(session: &mut Session) -> Result<()> {
    for (rule, sql) in [
        ("guard_tampering", "ALTER TABLE orders DISABLE TRIGGER ALL"),
        ("not_owner", "UPDATE orders SET note = 'x' WHERE id = 2"),
    ] {
        refused_by(rule, &session.refused(sql)?, sql)?;
    }
    Ok(())
}

const PASSES: &str = "UPDATE orders SET note = note WHERE id = 2";

fn no_rule_refuses(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    scene.operator()?.exec(&format!("SELECT holdfast.grant_operator('{}')", scene.rebuilt))?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("SELECT holdfast.break_glass('repair of ticket 7')")?;
    let steps = [
        ("UPDATE orders SET note = 'own' WHERE id = 2", None, "UPDATE"),
        ("UPDATE orders SET note = 'foreign' WHERE id = 1", Some("not_owner"), "UPDATE"),
        ("UPDATE orders SET note = 'frozen' WHERE id = 5", Some("tenant_frozen"), "UPDATE"),
        ("INSERT INTO plans VALUES (2, 'x')", Some("global_write"), "INSERT"),
        ("INSERT INTO loose VALUES (1)", Some("outside_surface"), "INSERT"),
        ("DELETE FROM sessions", None, "DELETE"),
        ("TRUNCATE plans", Some("destructive_command"), "TRUNCATE"),
        ("SELECT pg_cancel_backend(0)", None, "-"),
    ];
    for (sql, rule, command) in steps {
        let before = events(&scene, &rebuilt)?.len();
        rebuilt.exec(sql)?;
        let recorded = events(&scene, &rebuilt)?.split_off(before);
        let guarded = ["orders", "plans"].iter().any(|table| sql.contains(table));
        ensure!(recorded.len() == usize::from(guarded) + usize::from(rule.is_some()), "{sql}\n{recorded:?}");
        for [what, of, _, message] in &recorded {
            ensure!(of == command && message.contains("in break-glass: repair of ticket 7"), "{sql}\n{recorded:?}");
            let expected = if what.starts_with('-') { "-" } else { rule.unwrap_or("none") };
            ensure!(*what == format!("{expected} break_glass"), "{sql}\n{recorded:?}");
        }
    }
    ensure!(
        rebuilt.one::<String>("SELECT string_agg(note, ',' ORDER BY id) FROM orders WHERE id IN (1, 2, 5)")?
            == "foreign,own,frozen"
    );
    // What Postgres refuses stays refused.
    ensure!(rebuilt.refused("DROP TABLE orders")?.code == "42501");
    rebuilt.exec("SELECT holdfast.end_break_glass()")?;
    let sql = "UPDATE orders SET note = 'foreign' WHERE id = 1";
    refused_by("not_owner", &rebuilt.refused(sql)?, sql)?;
    let all = events(&scene, &rebuilt)?;
    let ends: Vec<_> =
        all.iter().filter(|[_, command, ..]| command.contains("break_glass")).map(|[.., m]| m.as_str()).collect();
    ensure!(
        ends == [
            "broke the glass of the session for 300 s: repair of ticket 7",
            "ended break-glass: repair of ticket 7"
        ],
        "{all:?}"
    );
    Ok(())
}

fn it_ends_with_its_time(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let mut superuser = scene.operator()?;
    superuser.exec("SELECT holdfast.break_glass('quick', '400 ms')")?;
    superuser.exec(PASSES)?;
    let until = "SELECT break_glass_until IS NULL FROM holdfast.whoami()";
    eventually("the time to be over", || superuser.one(until))?;
    ensure_bound(&mut superuser)?;
    // In the middle of a transaction too.
    superuser.exec("BEGIN; SELECT holdfast.break_glass('quick', '1 ms'); SELECT pg_sleep(0.01)")?;
    refused_by("not_owner", &superuser.refused(PASSES)?, PASSES)?;
    superuser.exec("ROLLBACK")?;
    let messages: Vec<_> = events(&scene, &superuser)?.into_iter().map(|[.., message]| message).collect();
    ensure!(messages.iter().any(|message| message == "the time of break-glass is over: quick"), "{messages:?}");
    Ok(())
}

fn it_ends_with_what_it_was_begun_for(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let mut superuser = scene.operator()?;
    // A transaction.
    superuser.exec("SELECT holdfast.break_glass('x', scope => 'transaction')")?;
    ensure_bound(&mut superuser)?;
    superuser.exec(&format!("BEGIN; SELECT holdfast.break_glass('x', scope => 'transaction'); {PASSES}; COMMIT"))?;
    ensure_bound(&mut superuser)?;
    superuser.exec(&format!(
        "BEGIN; SELECT holdfast.break_glass('x', scope => 'transaction'); PREPARE TRANSACTION '{}'",
        scene.database.name
    ))?;
    ensure_bound(&mut superuser)?;
    superuser.exec(&format!("ROLLBACK PREPARED '{}'", scene.database.name))?;
    // A session, until somebody else is to have it.
    superuser.exec("SELECT holdfast.break_glass('x')")?;
    for rolled_back in ["BEGIN; SELECT 1; ROLLBACK", "BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT"] {
        superuser.exec(rolled_back)?;
        superuser.exec(PASSES)?;
    }
    superuser.refused("SELECT 1 / 0")?;
    superuser.exec(PASSES)?;
    superuser.exec("RESET ALL; DEALLOCATE ALL; DISCARD PLANS")?;
    superuser.exec(PASSES)?;
    superuser.exec("DISCARD ALL")?;
    ensure_bound(&mut superuser)?;
    // Another session_user.
    superuser.exec("SELECT holdfast.break_glass('x')")?;
    superuser.exec(&format!("SET SESSION AUTHORIZATION {}", scene.legacy))?;
    refused_by("not_owner", &superuser.refused(PASSES)?, PASSES)?;
    superuser.exec(&format!("RESET SESSION AUTHORIZATION; {PASSES}; SELECT holdfast.end_break_glass()"))?;
    ensure_bound(&mut superuser)
}

fn what_a_rollback_undoes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let mut superuser = scene.operator()?;
    superuser.exec("BEGIN; SELECT holdfast.break_glass('x'); ROLLBACK")?;
    ensure_bound(&mut superuser)?;
    superuser.refused("SELECT holdfast.break_glass('x'); SELECT 1 / 0")?;
    ensure_bound(&mut superuser)?;
    superuser.exec("BEGIN; SAVEPOINT s; SELECT holdfast.break_glass('x'); ROLLBACK TO s")?;
    refused_by("not_owner", &superuser.refused(PASSES)?, PASSES)?;
    superuser.exec("ROLLBACK")?;
    superuser.exec(&format!(
        "BEGIN; SAVEPOINT s; SELECT holdfast.break_glass('x'); RELEASE s; SAVEPOINT t; ROLLBACK TO t; {PASSES}; COMMIT"
    ))?;
    superuser.exec(PASSES)?;
    // An end isn't undone.
    superuser.exec("BEGIN; SELECT holdfast.end_break_glass(); ROLLBACK")?;
    ensure_bound(&mut superuser)?;
    superuser
        .exec("DO $$ BEGIN PERFORM holdfast.break_glass('x'); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$")?;
    ensure_bound(&mut superuser)
}

fn only_operators_break_it(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let denied = |session: &mut Session, sql: &str| -> Result<()> {
        let refusal = session.refused(sql)?;
        ensure!(refusal.code == "42501", "{sql}: {refusal:?}");
        Ok(())
    };
    let broken = "SELECT holdfast.break_glass('mine')";
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    for session in [&mut legacy, &mut rebuilt] {
        denied(session, broken)?;
        denied(session, "SELECT holdfast.end_break_glass()")?;
    }
    let role = scene.database.role("operator")?;
    let mut superuser = scene.operator()?;
    superuser.exec(&format!("SELECT holdfast.grant_operator('{role}')"))?;
    // A function that runs as an operator breaks nothing for whoever calls it.
    superuser.exec(
        "CREATE FUNCTION broken() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
             $$BEGIN PERFORM holdfast.break_glass('not mine', '1 h'); RETURN 1; END$$;
         CREATE VIEW breaking AS SELECT broken(); GRANT SELECT ON breaking TO PUBLIC",
    )?;
    for sql in ["SELECT broken()", "SELECT * FROM breaking"] {
        denied(&mut rebuilt, sql)?;
        refused_by("not_owner", &rebuilt.refused("UPDATE orders SET note = 'x' WHERE id = 1")?, sql)?;
    }
    let mut operator = scene.database.connect_as(&role)?;
    operator.exec(broken)?;
    // A member of the role may, without SET ROLE.
    superuser.exec(&format!("GRANT {role} TO {}", scene.legacy))?;
    legacy.exec(broken)?;
    superuser.exec(&format!("SELECT holdfast.grant_auditor('{}')", scene.rebuilt))?;
    denied(&mut rebuilt, broken)?;
    let by: String = superuser
        .one("SELECT string_agg(usename, ',' ORDER BY id) FROM holdfast.event WHERE command = 'break_glass'")?;
    ensure!(by == format!("{role},{}", scene.legacy), "{by}");
    Ok(())
}

fn nobody_else_gets_it(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let (mut superuser, mut other) = (scene.operator()?, scene.operator()?);
    superuser.exec("SELECT holdfast.break_glass('x')")?;
    ensure_bound(&mut other)?;
    ensure_bound(&mut scene.operator()?)?;
    // No setting says so, and no row.
    for sql in ["SET holdfast.break_glass = on", "SET holdfast.glass = 'x'"] {
        ensure!(other.refused(sql)?.code == "42602", "{sql}");
    }
    other.exec("CREATE TEMP TABLE break_glass AS SELECT now() + interval '1 day' AS until")?;
    ensure_bound(&mut other)?;
    superuser.exec(PASSES)
}

fn arguments_are_checked(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let mut superuser = scene.operator()?;
    for (arguments, code) in [
        ("''", "22023"),
        ("E' \\n\\t'", "22023"),
        ("NULL", "22004"),
        ("'x', NULL", "22004"),
        ("'x', '0 s'", "22023"),
        ("'x', '-1 s'", "22023"),
        ("'x', '24:00:00.000001'", "22023"),
        ("'x', '1 month'", "22023"),
        ("'x', '1 day -1 month'", "22023"),
        ("'x', scope => 'for ever'", "22023"),
        ("'x', scope => NULL", "22004"),
    ] {
        let refusal = superuser.refused(&format!("SELECT holdfast.break_glass({arguments})"))?;
        ensure!(refusal.code == code, "{arguments}: {refusal:?}");
    }
    ensure_bound(&mut superuser)?;
    superuser.exec("SELECT holdfast.break_glass('x', '1 day'), holdfast.break_glass(repeat('ü', 500), '1 us')")?;
    superuser.exec("SELECT holdfast.end_break_glass(), holdfast.end_break_glass()")
}

fn writers_still_hold_cutovers_up(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let (mut superuser, mut operator) = (scene.operator()?, scene.operator()?);
    superuser.exec(&format!("SELECT holdfast.break_glass('x'); BEGIN; {PASSES}"))?;
    let refusal = operator.refused("SELECT holdfast.cutover('20', 'legacy', max_pause => '100 ms')")?;
    ensure!(refusal.code == "55P03", "{refusal:?}");
    superuser.exec("COMMIT; BEGIN; TRUNCATE orders")?;
    let refusal = operator.refused("SELECT holdfast.cutover('21', 'legacy', max_pause => '100 ms')")?;
    ensure!(refusal.code == "55P03", "{refusal:?}");
    superuser.exec("ROLLBACK")?;
    operator.exec("SELECT holdfast.cutover('21', 'legacy')")
}

fn views_tell(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "glass")?;
    let mut superuser = scene.operator()?;
    let until =
        "SELECT break_glass_until BETWEEN now() + interval '59 s' AND now() + interval '60 s' FROM holdfast.whoami()";
    superuser.exec("SELECT holdfast.break_glass('x', '1 min')")?;
    ensure!(superuser.one::<bool>(until)?, "whoami doesn't tell");
    superuser.exec(PASSES)?;
    superuser.exec("SELECT holdfast.flush_events()")?;
    let value: String = superuser.one("SELECT value FROM holdfast.status WHERE item = 'last 24 hours'")?;
    ensure!(value == "0 refused, 0 observed, 3 in break-glass", "{value}");
    let summed: i64 = superuser.one("SELECT count(*) FROM holdfast.blocked_summary WHERE outcome = 'break_glass'")?;
    ensure!(summed == 3, "{summed}");
    superuser.exec("SELECT holdfast.end_break_glass()")?;
    ensure!(superuser.one::<bool>("SELECT break_glass_until IS NULL FROM holdfast.whoami()")?);
    Ok(())
}
