//! What an event keeps of the client's statement: its shape, and of its data nothing.

use anyhow::{Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

/// In every literal and comment below. As a name it would be no secret, so nothing else has it.
const SECRET: &str = "s3cret";

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("no_literal_and_no_comment_survives", no_literal_survives),
        Test::shared("literals_of_newer_versions_dont_survive", newer_literals_dont_survive),
        Test::shared("neither_setting_of_strings_shows_a_literal", neither_setting_of_strings),
        Test::shared("parameters_are_never_stored", parameters_are_never_stored),
        Test::shared("copied_rows_are_never_stored", copied_rows_are_never_stored),
        Test::shared("a_megabyte_is_cut_between_tokens", a_megabyte_is_cut),
        Test::own("none_and_full_keep_what_they_say", with("full"), none_and_full),
    ]
}

fn with(setting: &str) -> ClusterOptions {
    ClusterOptions::new().set("holdfast.audit_query", setting)
}

/// What stands for the refused statement that is sent after each case.
const REFUSED: &str = "UPDATE orders SET note = 's3cret' WHERE tenant = 1";

/// A statement that passes, and its shape; `_` stands for the next placeholder.
const CASES: [(&str, &str); 23] = [
    ("SELECT 's3cret', 's3''cret'", "SELECT _, _"),
    ("SELECT 's3'\n  'cret'", "SELECT _"),
    ("SELECT 's3cret' -- s3cret\n, 1", "SELECT _ , _"),
    ("SELECT E's3\\'cret', e'\\x41s3cret'", "SELECT _, _"),
    ("SELECT E's3cret'\n'\\'s3cret'", "SELECT _"),
    ("SELECT $$s3cret 'x$$, $tag$ $$ s3cret $other$ $tag$", "SELECT _, _"),
    ("SELECT U&'s3cr\\0065t', U&'s3cr!0065t' UESCAPE '!'", "SELECT _, _ UESCAPE _"),
    ("SELECT B'1011', X'1FF', b'0', x'aF'", "SELECT _, _, _, _"),
    ("SELECT N's3cret', date'2020-01-01'", "SELECT N _, date _"),
    ("SELECT 's3cret'AS a,1 AS b", "SELECT _ AS a,_ AS b"),
    ("SELECT 42, -42, +4.2, .42, 42., 42e1, 4.2E-7", "SELECT _, -_, +_, _, _, _, _"),
    ("SELECT 9223372036854775808, 0.000000000042", "SELECT _, _"),
    ("/* s3cret /* s3cret */ ' */ SELECT 1 /**/ + /* \" */ 2 --", "SELECT _ + _"),
    ("SELECT 1\n\n\t \r\n+\x0c2", "SELECT _ + _"),
    (
        "SELECT \"note\", \"no\"\"te\", U&\"not\\0065\" FROM (SELECT 1, 2, 3) AS t (note, \"no\"\"te\", x) WHERE false",
        "SELECT \"note\", \"no\"\"te\", U&\"not\\0065\" FROM (SELECT _, _, _) AS t (note, \"no\"\"te\", x) WHERE false",
    ),
    ("SELECT '{\"a\": \"s3cret\"}'::jsonb ->> 's3cret'", "SELECT _::jsonb ->> _"),
    ("DO $$ BEGIN PERFORM 's3cret'; END $$", "DO _"),
    ("DO LANGUAGE plpgsql 'BEGIN PERFORM ''s3cret''; END'", "DO LANGUAGE plpgsql _"),
    (
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql SET application_name TO s3cret AS $f$ SELECT 's3cret' $f$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql SET application_name TO _ AS _",
    ),
    (
        "CREATE FUNCTION g() RETURNS text BEGIN ATOMIC; SELECT 's3cret' || 42; END",
        "CREATE FUNCTION g() RETURNS text BEGIN ATOMIC; SELECT _ || _; END",
    ),
    ("SET LOCAL application_name = s3cret", "SET LOCAL application_name = _"),
    ("SET my.token TO s3cret; SET datestyle TO iso, 'dmy'", "SET my.token TO _; SET datestyle TO _, _"),
    ("PREPARE p AS SELECT $1 || 's3cret'", "PREPARE p AS SELECT $1 || _"),
];

/// The shape with its placeholders numbered, as it is stored before the refused statement's.
fn numbered(shape: &str) -> String {
    let mut next = if shape.contains("$1") { 2 } else { 1 };
    let whole = format!("{shape}; UPDATE orders SET note = _ WHERE tenant = _");
    let mut result = String::new();
    for c in whole.chars() {
        // An underscore within a name is none of ours.
        let within = result.chars().last().is_some_and(char::is_alphanumeric);
        if c == '_' && !within {
            result.push_str(&format!("${next}"));
            next += 1;
        } else {
            result.push(c);
        }
    }
    result
}

fn no_literal_survives(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    guarded.database.connect()?.exec(&format!("GRANT CREATE ON SCHEMA public TO {}", guarded.rebuilt))?;
    let mut wrong = Vec::new();
    for (sql, shape) in CASES {
        let mut client = guarded.rebuilt()?;
        let stored = stored(&guarded, &mut client, &format!("{sql}\n; {REFUSED}"))?;
        let expected = numbered(shape);
        if stored.as_deref().map(|s| s.replace(" ;", ";")) != Some(expected.clone()) {
            wrong.push(format!("{sql}\n  is stored as {stored:?}\n  expected     {expected:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (sql, shape) in [
        ("ALTER ROLE postgres PASSWORD 's3cret'", "ALTER ROLE postgres PASSWORD $1"),
        ("CREATE USER MAPPING FOR postgres SERVER s OPTIONS (password 's3cret')", ""),
        ("DO $$ BEGIN UPDATE orders SET note = 's3cret' WHERE tenant = 1; END $$", "DO $1"),
        ("SET session_replication_role TO 'replica' /* s3cret */", ""),
    ] {
        let stored = stored(&guarded, &mut guarded.rebuilt()?, sql)?;
        ensure!(shape.is_empty() || stored.as_deref() == Some(shape), "{sql}: {stored:?}");
    }
    no_secret(&guarded)
}

fn newer_literals_dont_survive(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    let mut client = guarded.rebuilt()?;
    let version: i32 = client.one("SELECT current_setting('server_version_num')::int / 10000")?;
    let sql = "SELECT 0x1F, 0o17, 0B11, 1_000, 1_0.0_1e1_0";
    let refusal = client.refused(&format!("{sql}; {FOREIGN_WRITE}"))?;
    if version < 16 {
        ensure!(refusal.code == "42601", "{refusal:?}");
        return Ok(());
    }
    let stored: String = guarded.database.connect()?.one("SELECT query FROM holdfast.blocked_writes LIMIT 1")?;
    ensure!(stored == "SELECT $1, $2, $3, $4, $5; UPDATE orders SET note = $6 WHERE tenant = $7", "{stored}");
    Ok(())
}

/// A string that ends elsewhere under the other setting, which may be in force by the time of the refusal.
fn neither_setting_of_strings(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    let texts = [
        "SELECT 'a\\', 's3cret', 'b\\', 's3cret'",
        "SELECT 'a\\', s3cret, ' , 'b\\', s3cret, '",
        "SELECT 'a\\'' s3cret', 'b'",
        "SELECT 'a\\\\', 's3cret'",
        "SELECT '\\''s3cret''\\', 's3cret'",
    ];
    for text in texts {
        for (before, within) in [("on", "off"), ("off", "on"), ("on", "on"), ("off", "off")] {
            let mut client = guarded.rebuilt()?;
            client.exec(&format!("SET escape_string_warning = off; SET standard_conforming_strings = {before}"))?;
            let switched = format!("SET standard_conforming_strings = {within}; {text}; {REFUSED}");
            // Under one of the settings it may be no statement at all.
            let _ = client.refused(&switched)?;
            // Read under one setting, run under the other.
            let Ok(prepared) = client.prepare(&format!("UPDATE orders SET note = ({text} LIMIT 1) WHERE tenant = 1"))
            else {
                continue;
            };
            client.exec(&format!("SET standard_conforming_strings = {within}"))?;
            let _ = client.execute(&prepared, &[]);
        }
    }
    no_secret(&guarded)
}

fn parameters_are_never_stored(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    let mut client = guarded.rebuilt()?;
    let refused = client.execute("UPDATE orders SET note = $1 || 'x' WHERE tenant = $2", &[&SECRET, &1_i32]);
    ensure!(refused.is_err());
    client.exec("PREPARE p (text) AS UPDATE orders SET note = $1 WHERE tenant = 1")?;
    client.refused("EXECUTE p('s3cret')")?;
    let stored: String =
        guarded.database.connect()?.one("SELECT string_agg(query, '; ' ORDER BY id) FROM holdfast.blocked_writes")?;
    ensure!(stored == "UPDATE orders SET note = $1 || $3 WHERE tenant = $2; EXECUTE p($1)", "{stored}");
    no_secret(&guarded)
}

fn copied_rows_are_never_stored(cluster: &Cluster) -> Result<()> {
    use std::io::Write as _;
    let guarded = Guarded::enforcing(cluster, "query")?;
    let mut client = guarded.rebuilt()?;
    let mut copy = client.copy_in("COPY orders FROM STDIN WITH (DELIMITER ',', NULL 's3cret')")?;
    copy.write_all(b"1,7,s3cret row\n")?;
    ensure!(copy.finish().is_err());
    let stored: String = guarded.database.connect()?.one("SELECT query FROM holdfast.blocked_writes")?;
    ensure!(stored == "COPY orders FROM STDIN WITH (DELIMITER $1, NULL $2)", "{stored}");
    no_secret(&guarded)
}

fn a_megabyte_is_cut(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    let long = "é s3cret ".repeat(200_000);
    let many = vec!["('s3cret', 42)"; 70_000].join(", ");
    let texts = [
        (format!("SELECT '{long}'; {REFUSED}"), "SELECT …"),
        (format!("/* {long} */ {REFUSED}"), "…"),
        (format!("SELECT $q${long}$q$; {REFUSED}"), "SELECT …"),
        (format!("SELECT FROM (VALUES {many}) v; {REFUSED}"), "SELECT FROM (VALUES ($1, $2), ($3, $4), "),
    ];
    for (text, beginning) in texts {
        let stored = stored(&guarded, &mut guarded.rebuilt()?, &text)?.unwrap_or_default();
        ensure!(stored.starts_with(beginning) && stored.ends_with('…') && stored.len() < 2_100, "{stored}");
    }
    no_secret(&guarded)
}

fn none_and_full(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "query")?;
    let text = format!("/* why */ {FOREIGN_WRITE}");
    ensure!(stored(&guarded, &mut guarded.rebuilt()?, &text)? == Some(text.clone()));
    let long = format!("SELECT '{}'; {FOREIGN_WRITE}", "é".repeat(1_000_000));
    let cut = stored(&guarded, &mut guarded.rebuilt()?, &long)?.unwrap_or_default();
    ensure!(cut.ends_with('…') && long.starts_with(cut.trim_end_matches('…')) && cut.len() > 500, "{cut}");
    cluster.reload(&[("holdfast.audit_query", "none")])?;
    ensure!(stored(&guarded, &mut guarded.rebuilt()?, &text)?.is_none());
    cluster.reload(&[("holdfast.audit_query", "normalized")])?;
    let shape = stored(&guarded, &mut guarded.rebuilt()?, &text)?;
    ensure!(shape.as_deref() == Some("UPDATE orders SET note = $1 WHERE tenant = $2"), "{shape:?}");
    Ok(())
}

/// What is stored of a statement that is refused, by us or by Postgres.
fn stored(guarded: &Guarded, client: &mut Session, sql: &str) -> Result<Option<String>> {
    // Under a name of its own, so that it is no part of a flood.
    client.exec(&format!("SET application_name = '{}'", fastrand::u64(..)))?;
    client.refused(sql)?;
    let mut dba = guarded.database.connect()?;
    let row = dba.query_opt("SELECT query FROM holdfast.blocked_writes WHERE pid = $1 LIMIT 1", &[&client.pid()])?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.flatten())
}

fn no_secret(guarded: &Guarded) -> Result<()> {
    let mut dba = guarded.database.connect()?;
    let told = dba.rows("SELECT query FROM holdfast.blocked_writes WHERE query ~ 's3|cret|(?<![$0-9])4[.]?2'")?;
    ensure!(told.is_empty(), "{told:?}");
    let total: i64 = dba.one("SELECT count(*) FROM holdfast.blocked_writes")?;
    ensure!(total > 0);
    Ok(())
}
