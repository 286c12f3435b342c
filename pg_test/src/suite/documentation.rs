//! README.md says what is so: its examples run, and its reference names what there is.

pub(super) mod readme;
mod signature;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _, pipe};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::Test;
use crate::bench::readme as readme_block;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::launcher::spawn;
use crate::setup::workspace;
use readme::{Example, Readme};
use signature::{Parameter, Signature};

/// Functions that nobody calls by name: what triggers and the extension itself use.
const INTERNAL: [&str; 11] = [
    "guard_row",
    "policy_changed",
    "log_policy_change",
    "lock_holders",
    "guard_state",
    "rule_counts",
    "audit_health",
    "table_counts",
    "wave_begin",
    "wave_step",
    "watch_waves",
];

/// What README.md promises.
pub fn tests() -> Vec<Test> {
    // Its roles are the cluster's, and its output is in the language it is written in.
    let own = || ClusterOptions::new().set("lc_messages", "C");
    vec![
        Test::own("examples_show_what_happens", own(), examples_show_what_happens),
        Test::shared("refusals_are_the_rules_of_the_source", refusals_are_the_rules),
        Test::shared("settings_have_the_defaults_shown", settings_have_the_defaults_shown),
        Test::shared("views_are_the_views_listed", views_are_the_views_listed),
        Test::shared("functions_have_the_signatures_shown", functions_have_the_signatures_shown),
        Test::shared("anybody_may_call_what_is_said_and_no_more", anybody_may_call_what_is_said),
        Test::shared("figures_are_a_run_s_output", figures_are_a_run_s_output),
    ]
}

fn examples_show_what_happens(cluster: &mut Cluster) -> Result<()> {
    let examples = Readme::read()?.examples()?;
    ensure!(examples.len() > 5, "only {} examples", examples.len());
    let database = cluster.database("readme")?;
    for example in examples {
        let mut psql = cluster.command("psql");
        psql.env("LC_ALL", "C").args(["-X", "-U", &example.role, "-d", &database.name]);
        if example.output.is_none() {
            psql.args(["-v", "ON_ERROR_STOP=1"]);
        }
        let (output, success) = typed(psql, &example.sql)?;
        let Example { role, sql, output: shown } = example;
        match shown {
            Some(shown) => {
                ensure!(output == shown, "as {role}:\n{sql}\nREADME.md shows:\n{shown}\nbut it is:\n{output}");
            }
            None => ensure!(success, "as {role}:\n{sql}\nfails:\n{output}"),
        }
    }
    Ok(())
}

/// What psql prints when the statements come in on its standard input: both outputs in one, as on a terminal, and
/// without the file and line that `-f` puts before errors. And whether it succeeded.
fn typed(mut psql: Command, sql: &str) -> Result<(String, bool)> {
    let (input, mut typing) = pipe()?;
    let (mut screen, output) = pipe()?;
    // No example fills the pipe, so nobody need be reading yet.
    typing.write_all(sql.as_bytes())?;
    drop(typing);
    psql.stdin(input).stdout(output.try_clone()?).stderr(output);
    let mut child = spawn(psql, Signal::SIGTERM)?;
    let mut text = String::new();
    screen.read_to_string(&mut text)?;
    let success = child.wait()?.success();
    Ok((text.trim_end_matches('\n').to_owned(), success))
}

fn refusals_are_the_rules(cluster: &Cluster) -> Result<()> {
    let readme = Readme::read()?;
    let listed: Vec<(String, String)> = readme.table("Refusals")?.map(|[rule, sqlstate, _]| (rule, sqlstate)).collect();
    let rules = rules_of_the_source()?;
    ensure!(listed == rules, "README.md lists {listed:?}\nsrc/policy/rules/mod.rs has {rules:?}");

    // The library that runs, not only the source that is here.
    let database = cluster.guarded_database("documentation")?;
    let refusal = database.connect()?.refused("SELECT holdfast.set_mode('enforce', rule => 'no such rule')")?;
    let names: Vec<&str> = rules.iter().map(|(name, _)| name.as_str()).collect();
    let known = refusal.hint.clone().unwrap_or_default();
    ensure!(known == format!("Known are: {}.", names.join(", ")), "{refusal:?}");
    Ok(())
}

/// The lines `Variant = "name", "SQLSTATE";` of `rules!`.
fn rules_of_the_source() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(workspace().join("src/policy/rules/mod.rs"))?;
    let (_, rules) = text.split_once("\nrules! {").context("src/policy/rules/mod.rs has no rules!")?;
    let (rules, _) = rules.split_once("\n}").context("rules! has no end")?;
    let mut found = Vec::new();
    for line in rules.lines().filter(|line| !line.trim_start().starts_with("//") && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split('"').collect();
        let [_, name, _, sqlstate, _] = words.as_slice() else { bail!("in rules!: {line}") };
        found.push(((*name).to_owned(), (*sqlstate).to_owned()));
    }
    Ok(found)
}

fn settings_have_the_defaults_shown(cluster: &Cluster) -> Result<()> {
    let readme = Readme::read()?;
    let mut listed = BTreeMap::new();
    for [name, default, is] in readme.table("Settings")? {
        let restart = is.contains("needs a restart");
        let file = restart || is.contains("postgresql.conf only");
        listed.insert(name, (default.replace(' ', ""), restart, file));
    }
    let sql =
        "SELECT name, pg_catalog.current_setting(name), context = 'postmaster', context IN ('postmaster', 'sighup'),
            source = 'default' FROM pg_catalog.pg_settings WHERE name LIKE 'holdfast.%'";
    let mut session = cluster.endpoint().observe("postgres")?;
    let mut actual = BTreeMap::new();
    for row in session.query(sql, &[])? {
        let name: String = row.try_get(0)?;
        ensure!(row.try_get::<_, bool>(4)?, "the harness has set {name}");
        actual.insert(name, (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    }
    let what = "(default, needs a restart, can't be set by a session)";
    ensure!(listed == actual, "{what}\nREADME.md: {listed:#?}\npg_settings: {actual:#?}");
    Ok(())
}

fn views_are_the_views_listed(cluster: &Cluster) -> Result<()> {
    let readme = Readme::read()?;
    let listed: BTreeSet<String> = readme
        .table("Views")?
        .flat_map(|[views, _]| views.split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let database = cluster.guarded_database("documentation")?;
    let actual =
        column(&mut database.connect()?, "SELECT viewname FROM pg_catalog.pg_views WHERE schemaname = 'holdfast'")?;
    ensure!(listed == actual, "README.md lists {listed:?}\nthe schema has {actual:?}");
    Ok(())
}

fn functions_have_the_signatures_shown(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("documentation")?;
    let mut session = database.connect()?;
    let mut shown = BTreeMap::new();
    for heading in Readme::read()?.headings_below("Reference") {
        for signature in Signature::shown(&heading).with_context(|| heading.clone())? {
            shown.insert(signature.name.clone(), signature);
        }
    }
    let sql = "SELECT proname, pg_catalog.pg_get_function_arguments(oid),
        coalesce(pg_catalog.pg_get_function_result(oid), 'procedure') FROM pg_catalog.pg_proc WHERE pronamespace = 'holdfast'::regnamespace ORDER BY proname";
    let mut wrong = Vec::new();
    for row in session.query(sql, &[])? {
        let (name, arguments, result): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if INTERNAL.contains(&name.as_str()) {
            continue;
        }
        // Of a procedure, the mode of each is told.
        let arguments = arguments.trim_start_matches("IN ").replace(", IN ", ", ");
        let actual = Signature::cataloged(&name, &arguments, &result);
        match shown.remove(&name) {
            None => wrong.push(format!("{name}({arguments}) has no heading")),
            Some(shown) if agree(&mut session, &shown, &actual)? => {}
            Some(shown) => wrong.push(format!("README.md: {shown}\n  it is:     {actual}")),
        }
    }
    wrong.extend(shown.into_keys().map(|name| format!("there is no function {name}")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Whether two signatures mean the same: `int = 100` is `integer DEFAULT 100`.
fn agree(session: &mut Session, shown: &Signature, actual: &Signature) -> Result<bool> {
    let names = |signature: &Signature| signature.parameters.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    if names(shown) != names(actual) || !same_type(session, &shown.result, &actual.result)? {
        return Ok(false);
    }
    for (shown, actual) in shown.parameters.iter().zip(&actual.parameters) {
        let same = same_type(session, &shown.of, &actual.of)? && same_default(session, shown, actual)?;
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_type(session: &mut Session, one: &str, other: &str) -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regtype($1) = pg_catalog.to_regtype($2)";
    let same: Option<bool> = session.query_one(sql, &[&one, &other])?.try_get(0)?;
    // A procedure has no type.
    Ok(same.unwrap_or(one == other))
}

fn same_default(session: &mut Session, shown: &Parameter, actual: &Parameter) -> Result<bool> {
    match (&shown.default, &actual.default) {
        (None, None) => Ok(true),
        (Some(one), Some(other)) => {
            let of = &actual.of;
            session.one(&format!("SELECT ({one})::{of} IS NOT DISTINCT FROM ({other})::{of}"))
        }
        _ => Ok(false),
    }
}

fn anybody_may_call_what_is_said(cluster: &Cluster) -> Result<()> {
    let said: BTreeSet<String> = Readme::read()?.code_of_the_paragraph_with("anybody may call")?;
    let said: BTreeSet<String> = said.into_iter().filter(|code| code != "grant_operator").collect();
    let database = cluster.guarded_database("documentation")?;
    let role = database.role("anybody")?;
    let callable = "SELECT proname::text FROM pg_catalog.pg_proc WHERE pronamespace = 'holdfast'::regnamespace
        AND prorettype <> 'trigger'::regtype AND pg_catalog.has_function_privilege(oid, 'EXECUTE')";
    let actual = column(&mut database.connect_as(&role)?, callable)?;
    ensure!(said == actual, "README.md names {said:?}\na role without privileges may call {actual:?}");
    Ok(())
}

/// The block that `cargo pg-bench --write-readme` writes says of which commit, and on which machine.
fn figures_are_a_run_s_output(_: &Cluster) -> Result<()> {
    let text = fs::read_to_string(workspace().join("README.md"))?;
    let block = readme_block::read(&text)?;
    let Some(first) = block.lines().next().and_then(|line| line.strip_prefix("Measured at commit ")) else {
        bail!("the figures don't begin with what was measured:\n{block}")
    };
    let (commit, rest) = first.split_once(' ').context("no commit")?;
    ensure!(commit.len() == 12 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "not a commit: {commit}");
    ensure!(rest.starts_with("by `cargo pg-bench` on ") && rest.contains(" cores, "), "no machine: {rest}");
    Ok(())
}

fn column(session: &mut Session, sql: &str) -> Result<BTreeSet<String>> {
    Ok(session.rows(sql)?.into_iter().flatten().flatten().collect())
}
