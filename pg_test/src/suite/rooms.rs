//! The rooms of ARCHITECTURE.md: what each may use, and what every object of the schema has.

mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Test;
use crate::cluster::Cluster;
use crate::launcher::run;
use crate::setup::workspace;
use source::{Place, Source, under};

/// A file of more lines holds two subjects, however they are named.
const MOST_LINES: usize = 500;

/// A clock, I/O, the process's surroundings: with one of them a decision can't be a table of cases.
const WORLD: [&str; 8] =
    ["std::time", "std::fs", "std::io", "std::env", "std::process", "std::thread", "std::os", "std::path"];

/// What `std::net` has without I/O.
const ADDRESSES: [&str; 3] = ["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

/// Functions that look up what their caller names, or nothing; and a procedure, which may pin nothing if it is to commit.
const AS_THEIR_CALLER: [&str; 8] = [
    "holdfast.add_wave(",
    "holdfast.audit_health(",
    "holdfast.cascade_preview(",
    "holdfast.guard_state(",
    "holdfast.log_policy_change(",
    "holdfast.policy_changed(",
    "holdfast.rule_counts(",
    "holdfast.run_wave(",
];

/// What the structure of the sources and of the schema promises.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("policy_uses_neither_postgres_nor_the_world", policy_is_pure),
        Test::shared("the_report_uses_neither_either", report_is_pure),
        Test::shared("dependencies_point_one_way", dependencies_point_one_way),
        Test::shared("unsafe_code_is_in_pg_only", unsafe_code_is_in_pg_only),
        Test::shared("no_panic_that_a_user_can_reach", no_panics),
        Test::shared("the_harness_knows_sql_only", the_harness_knows_sql_only),
        Test::shared("files_hold_one_subject", files_hold_one_subject),
        Test::shared("every_object_has_a_comment", every_object_has_a_comment),
        Test::shared("functions_pin_their_search_path", functions_pin_their_search_path),
    ]
}

fn policy_is_pure(_: &Cluster) -> Result<()> {
    let wrong = |path: &str| {
        let starts = |with: &str| under(path, with);
        starts("pgrx")
            || WORLD.into_iter().any(starts)
            || (starts("std::net") && !ADDRESSES.into_iter().any(starts))
            || (starts("crate") && !starts("crate::policy"))
    };
    none("src/policy may use std without its I/O, serde and itself", &paths("src/policy", wrong)?)
}

fn report_is_pure(_: &Cluster) -> Result<()> {
    let wrong = |path: &str| {
        let starts = |with: &str| under(path, with);
        starts("pgrx") || WORLD.into_iter().any(starts) || (starts("crate") && !starts("crate::report"))
    };
    none("src/report may use std without its I/O, serde, askama, plotters and itself", &paths("src/report", wrong)?)
}

fn dependencies_point_one_way(_: &Cluster) -> Result<()> {
    let upwards = paths("src/pg", |path| under(path, "crate::api"))?;
    none("src/pg may use policy, not api", &upwards)
}

fn unsafe_code_is_in_pg_only(_: &Cluster) -> Result<()> {
    let mut found = Vec::new();
    for source in Source::all("src")? {
        // cargo-pgrx's own program, made of one macro.
        let allowed = source.file.starts_with("src/pg") || source.file == Path::new("src/bin/pgrx_embed.rs");
        if !allowed {
            found.extend(source.unsafes);
        }
    }
    none("unsafe code belongs into src/pg", &found)
}

fn no_panics(_: &Cluster) -> Result<()> {
    let found: Vec<Place> = Source::all("src")?.into_iter().flat_map(|source| source.panics).collect();
    none("a panic that a user can reach", &found)
}

fn the_harness_knows_sql_only(cluster: &Cluster) -> Result<()> {
    none("pg_test uses the extension's code", &paths("pg_test/src", |path| under(path, "holdfast"))?)?;
    // Asked of cargo, since a dependency can be renamed.
    let mut cargo = cluster.postgres().build_environment().cargo();
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = run(cargo)?.succeeded("cargo metadata")?;
    let json = output.lines().find(|line| line.starts_with('{')).context("cargo metadata wrote no JSON")?;
    let metadata: Value = serde_json::from_str(json)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let harness = packages.iter().find(|package| package["name"] == "pg_test").context("no pg_test")?;
    let dependencies = harness["dependencies"].as_array().context("no dependencies")?;
    ensure!(!dependencies.is_empty(), "cargo metadata names no dependency of pg_test");
    let ours = |dependency: &&Value| dependency["name"] == "holdfast" || dependency["path"].is_string();
    if let Some(dependency) = dependencies.iter().find(ours) {
        bail!("pg_test depends on {}", dependency["name"]);
    }
    Ok(())
}

fn files_hold_one_subject(_: &Cluster) -> Result<()> {
    let mut long = Vec::new();
    for folder in ["src", "pg_test/src", "pg_test/model"] {
        for file in source::files(folder)? {
            let lines = fs::read_to_string(workspace().join(&file))?.lines().count();
            if lines > MOST_LINES {
                long.push(Place { file, line: lines, what: "the last line".to_owned() });
            }
        }
    }
    none(&format!("files of more than {MOST_LINES} lines"), &long)
}

fn every_object_has_a_comment(cluster: &Cluster) -> Result<()> {
    let silent = "
        SELECT p.oid::regprocedure::text, d.description FROM pg_catalog.pg_proc p
        LEFT JOIN pg_catalog.pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_catalog.pg_proc'::regclass
        WHERE p.pronamespace = 'holdfast'::regnamespace
        UNION ALL
        SELECT c.oid::regclass::text, d.description FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_description d
            ON d.objoid = c.oid AND d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
        WHERE c.relnamespace = 'holdfast'::regnamespace AND c.relkind IN ('v', 'm', 'r', 'p')";
    let database = cluster.guarded_database("rooms")?;
    let objects = database.connect()?.rows(silent)?;
    ensure!(objects.len() > 30, "only {} objects: {objects:?}", objects.len());
    let silent: Vec<_> = objects.into_iter().filter(|object| matches!(object.as_slice(), [_, None])).collect();
    ensure!(silent.is_empty(), "without a comment: {silent:?}");
    Ok(())
}

/// Nothing of a user's hides what a function for operators looks up; and none is SECURITY DEFINER, as none of Postgres's own is.
fn functions_pin_their_search_path(cluster: &Cluster) -> Result<()> {
    let functions = "
        SELECT oid::regprocedure::text, prosecdef::text, (SELECT setting FROM pg_catalog.unnest(proconfig) AS setting
            WHERE setting LIKE 'search\\_path=%') FROM pg_catalog.pg_proc
        WHERE pronamespace = 'holdfast'::regnamespace AND NOT has_function_privilege('public', oid, 'EXECUTE') ORDER BY 1";
    let database = cluster.guarded_database("rooms")?;
    let mut functions = database.connect()?.rows(functions)?;
    ensure!(functions.len() > 10, "only {} functions: {functions:?}", functions.len());
    functions.retain(|function| match function.as_slice() {
        [Some(name), Some(definer), path] => {
            let pinned = path.as_deref() == Some("search_path=pg_catalog, pg_temp");
            let looks_up = !AS_THEIR_CALLER.iter().any(|caller| name.starts_with(caller));
            definer == "true" || looks_up && !pinned
        }
        _ => true,
    });
    ensure!(
        functions.is_empty(),
        "with another search_path than pg_catalog, pg_temp, or SECURITY DEFINER: {functions:?}"
    );
    Ok(())
}

/// The paths of a folder's sources that `wrong` picks.
fn paths(folder: &str, wrong: impl Fn(&str) -> bool) -> Result<Vec<Place>> {
    let sources = Source::all(folder)?;
    Ok(sources.into_iter().flat_map(|source| source.paths).filter(|place| wrong(&place.what)).collect())
}

fn none(rule: &str, places: &[Place]) -> Result<()> {
    let listed: Vec<String> = places.iter().map(ToString::to_string).collect();
    ensure!(places.is_empty(), "{rule}; but:\n{}", listed.join("\n"));
    Ok(())
}
