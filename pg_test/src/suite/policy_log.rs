//! The policy log: every change of the policy, by whom, from where, and what it was before.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::{Scene, in_break_glass, refused_by};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_function_that_changes_policy_is_on_record", every_function),
        Test::own("it_tells_who_and_from_where", ClusterOptions::new().tcp(), who_and_from_where),
        Test::shared("what_is_rolled_back_has_not_been", what_is_rolled_back),
        Test::shared("direct_changes_behind_broken_glass_are_on_record", direct_changes),
        Test::shared("auditors_read_it_and_nobody_writes_it", auditors_read_it),
        Test::shared("rows_that_replicas_apply_are_on_record", replica_role),
    ]
}

/// A call, and what the log says of it: what, object, old, new; `;` between entries, oldest first.
const CALLS: [(&str, &str); 27] = [
    ("add_backend('third', 'unproven')", "backend added|third||{\"trust\": \"unproven\", \"backend\": \"third\"}"),
    ("set_trust('third', 'proven')", "backend changed|third|{\"trust\": \"unproven\"}|{\"trust\": \"proven\"}"),
    ("set_trust('third', 'proven')", ""),
    ("set_mode('observe')", "mode changed||{\"mode\": \"enforce\"}|{\"mode\": \"observe\"}"),
    ("set_mode('enforce')", "mode changed||{\"mode\": \"observe\"}|{\"mode\": \"enforce\"}"),
    (
        "set_mode('off', 'third', 'cascade')",
        "mode added|third, cascade||{\"mode\": \"off\", \"rule\": \"cascade\", \"backend\": \"third\"}",
    ),
    (
        "set_mode(NULL, 'third', 'cascade')",
        "mode removed|third, cascade|{\"mode\": \"off\", \"rule\": \"cascade\", \"backend\": \"third\"}|",
    ),
    (
        "set_default_backend('third')",
        "migration changed||{\"default_backend\": \"legacy\"}|{\"default_backend\": \"third\"}",
    ),
    ("set_default_backend(NULL)", "migration changed||{\"default_backend\": \"third\"}|"),
    ("set_default_backend('legacy')", "migration changed|||{\"default_backend\": \"legacy\"}"),
    (
        "add_identity('third', application_name => 'x')",
        "identity added|third (3)||{\"id\": 3, \"backend\": \"third\", \"priority\": 100, \"application_name\": \"x\"}",
    ),
    (
        "drop_identity(3)",
        "identity removed|third (3)|{\"id\": 3, \"backend\": \"third\", \"priority\": 100, \"application_name\": \"x\"}|",
    ),
    (
        "add_key('third', '11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=', 'k')",
        "key added|third (k)||{\"label\": \"k\", \"backend\": \"third\", \"public_key\": \"\\\\xd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"}",
    ),
    (
        "drop_key('k')",
        "key removed|third (k)|{\"label\": \"k\", \"backend\": \"third\", \"public_key\": \"\\\\xd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"}|",
    ),
    ("guard_global('loose')", "table added|public.loose||{\"class\": \"global\", \"relation\": \"public.loose\"}"),
    (
        "exempt_table('loose', 'legacy')",
        "table changed|public.loose|{\"class\": \"global\"}|{\"class\": \"exempt\", \"backend\": \"legacy\"}",
    ),
    (
        "unguard_table('loose')",
        "table removed|public.loose|{\"class\": \"exempt\", \"backend\": \"legacy\", \"relation\": \"public.loose\"}|",
    ),
    (
        "allow_writes('rebuilt', 'plans', '{update}', '{name}')",
        "permission added|rebuilt: update on public.plans||{\"backend\": \"rebuilt\", \"columns\": [\"name\"], \"command\": \
         \"update\", \"relation\": \"public.plans\"}",
    ),
    (
        "disallow_writes('rebuilt', 'plans', '{update}')",
        "permission removed|rebuilt: update on public.plans|{\"backend\": \"rebuilt\", \"columns\": [\"name\"], \"command\": \
         \"update\", \"relation\": \"public.plans\"}|",
    ),
    ("cutover('30', 'rebuilt')", "cutover|30|{\"owner\": \"legacy\"}|{\"epoch\": 1, \"owner\": \"rebuilt\"}"),
    ("rollback_cutover('30')", "rollback|30|{\"owner\": \"rebuilt\"}|{\"epoch\": 2, \"owner\": \"legacy\"}"),
    ("freeze('30', 'why')", "freeze|30||{\"reason\": \"why\"}"),
    ("unfreeze('30')", "unfreeze|30||"),
    ("break_glass('ticket 7')", "break-glass begun|legacy||{\"note\": \"*\"}"),
    ("end_break_glass()", "break-glass ended|legacy||{\"note\": \"*\"}"),
    ("grant_auditor('pg_monitor')", "access granted|pg_monitor||{\"as\": \"auditor\", \"role\": \"pg_monitor\"}"),
    ("whoami()", ""),
];

const LINES: &str = "SELECT concat_ws('|', what, coalesce(object, ''), coalesce(old::text, ''),
        CASE WHEN new ? 'note' THEN '{\"note\": \"*\"}' ELSE coalesce((new - '{restore_point,lsn,paused}'::text[])::text, '') END)
    FROM holdfast.policy_log ORDER BY at, what";

fn lines(session: &mut Session) -> Result<Vec<String>> {
    session.exec("SELECT holdfast.flush_events()")?;
    Ok(session.rows(LINES)?.into_iter().flatten().flatten().collect())
}

fn every_function(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let mut operator = scene.operator()?;
    let mut wrong = Vec::new();
    for (call, expected) in CALLS {
        let before = lines(&mut operator)?.len();
        operator.exec(&format!("SELECT * FROM holdfast.{call}"))?;
        let told = lines(&mut operator)?.split_off(before).join("; ");
        if told != expected {
            wrong.push(format!("{call}\n  tells    {told}\n  expected {expected}"));
        }
    }
    // What several changes make.
    let before = lines(&mut operator)?.len();
    operator.exec("SELECT holdfast.set_limits('rebuilt', rows_per_statement => 5)")?;
    let limits = lines(&mut operator)?.split_off(before).join("; ");
    ensure!(limits.contains("limits") && limits.contains("\"rows_per_statement\": 5"), "{limits}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn who_and_from_where(cluster: &mut Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let (operator, other) = (scene.database.role("operator")?, scene.database.role("other")?);
    scene.operator()?.exec(&format!(
        "SELECT holdfast.grant_operator('{operator}'), holdfast.grant_operator('{other}'); GRANT {other} TO {operator}"
    ))?;
    let mut client = scene.database.session().role(&operator).application_name("console <b>").tcp().connect()?;
    client.exec("SELECT holdfast.set_mode('off', rule => 'cascade')")?;
    client.exec(&format!("SET ROLE {other}"))?;
    client.exec("SELECT holdfast.set_mode('observe')")?;
    client.exec("SELECT holdfast.freeze('77', 'why')")?;
    let told = client.rows(
        "SELECT what, changed_by, set_role, application_name, client_addr, query FROM holdfast.policy_log
         WHERE application_name = 'console <b>' ORDER BY at",
    )?;
    let line = |what: &str, role: Option<&str>, query: Option<&str>| -> Vec<Option<String>> {
        let cells = [Some(what), Some(&*operator), role, Some("console <b>"), Some("127.0.0.1"), query];
        cells.into_iter().map(|cell| cell.map(str::to_owned)).collect()
    };
    let expected = [
        line("mode added", None, Some("SELECT holdfast.set_mode($1, rule => $2)")),
        line("mode changed", Some(&other), Some("SELECT holdfast.set_mode($1)")),
        line("freeze", Some(&other), None),
    ];
    ensure!(told == expected, "{told:#?}");
    Ok(())
}

fn what_is_rolled_back(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let mut operator = scene.operator()?;
    let before = lines(&mut operator)?;
    operator.exec("BEGIN; SELECT holdfast.set_mode('off'); SELECT holdfast.guard_global('loose'); ROLLBACK")?;
    operator.exec("BEGIN; SAVEPOINT s; SELECT holdfast.set_mode('off'); ROLLBACK TO s; COMMIT")?;
    operator.refused("SELECT holdfast.set_trust('nobody', 'proven')")?;
    ensure!(lines(&mut operator)? == before);
    Ok(())
}

fn direct_changes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let mut operator = scene.operator()?;
    let statements: [(&str, &[&str]); 8] = [
        ("UPDATE holdfast.migration SET mode = 'off'", &["mode changed||{\"mode\": \"enforce\"}|{\"mode\": \"off\"}"]),
        (
            "UPDATE holdfast.ownership SET owner = 'legacy' WHERE tenant = '20'",
            &["tenant changed|20|{\"owner\": \"rebuilt\"}|{\"owner\": \"legacy\"}"],
        ),
        (
            "SET check_function_bodies = off; INSERT INTO holdfast.backend VALUES ('smuggled', 'proven')",
            &["backend added|smuggled||{\"trust\": \"proven\", \"backend\": \"smuggled\"}"],
        ),
        (
            "TRUNCATE holdfast.backend",
            &[
                "backend removed|legacy|{\"trust\": \"proven\", \"backend\": \"legacy\"}|",
                "backend removed|rebuilt|{\"trust\": \"unproven\", \"backend\": \"rebuilt\"}|",
                "backend removed|smuggled|{\"trust\": \"proven\", \"backend\": \"smuggled\"}|",
            ],
        ),
        ("DELETE FROM holdfast.ownership_change WHERE tenant = '21'", &["ownership history removed|21|*"]),
        ("TRUNCATE holdfast.ownership_change", &["ownership history removed|||"]),
        ("UPDATE holdfast.policy_change SET changed_by = 'nobody' WHERE id = 1", &["policy log changed||*"]),
        ("TRUNCATE holdfast.policy_change", &["policy log removed|||"]),
    ];
    for (sql, expected) in statements {
        let newest: String = operator.one("SELECT clock_timestamp()::text")?;
        scene.damage(sql)?;
        operator.exec("SELECT holdfast.flush_events()")?;
        let told: Vec<String> = operator
            .rows(&LINES.replace("ORDER BY", &format!("WHERE at > '{newest}' AND what !~ 'glass' ORDER BY")))?
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let fits = |(told, expected): (&String, &&str)| match expected.strip_suffix('*') {
            Some(beginning) => told.starts_with(beginning),
            None => told == expected,
        };
        ensure!(told.len() == expected.len() && told.iter().zip(expected).all(fits), "{sql}\n{told:#?}\n{expected:#?}");
    }
    Ok(())
}

fn auditors_read_it(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let (auditor, operator) = (scene.database.role("auditor")?, scene.database.role("operator")?);
    scene
        .operator()?
        .exec(&format!("SELECT holdfast.grant_auditor('{auditor}'), holdfast.grant_operator('{operator}')"))?;
    for role in [&auditor, &operator] {
        let mut reader = scene.database.connect_as(role)?;
        ensure!(reader.one::<i64>("SELECT count(*) FROM holdfast.policy_log")? > 10);
        for sql in [
            "INSERT INTO holdfast.policy_change (at) VALUES (now())",
            "DELETE FROM holdfast.policy_log",
            "UPDATE holdfast.policy_change SET old = NULL",
            "TRUNCATE holdfast.policy_change",
            "SELECT holdfast.log_policy_change()",
        ] {
            let code = reader.refused(sql)?.code;
            ensure!(["42501", "55000", "0A000", "39P01", "WG023"].contains(&code.as_str()), "{sql}: {code}");
        }
    }
    for client in [&mut scene.rebuilt()?, &mut scene.legacy()?] {
        ensure!(client.refused("SELECT * FROM holdfast.policy_log")?.code == "42501");
    }
    let mut superuser = scene.operator()?;
    let sql = "DELETE FROM holdfast.policy_change";
    refused_by("guard_tampering", &superuser.refused(sql)?, sql)
}

/// Triggers that fire always: session_replication_role is no way around.
fn replica_role(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "log")?;
    let mut operator = scene.operator()?;
    let before = lines(&mut operator)?.len();
    operator.exec(&in_break_glass(
        "SET LOCAL session_replication_role = replica; UPDATE holdfast.backend SET trust = 'proven' WHERE backend = 'rebuilt'",
    ))?;
    let told = lines(&mut operator)?.split_off(before);
    ensure!(told.iter().any(|line| line.starts_with("backend changed|rebuilt|")), "{told:?}");
    Ok(())
}
