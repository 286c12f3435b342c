//! What keys of several columns look like as one text, and as they lie in rows.

use anyhow::{Context, Result, ensure};

use super::super::scene::Outcome::{Passes, Refused};
use super::super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

/// Columns whose texts could run into each other, or into the quotes of the row's text.
pub(super) fn told_apart(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE pairs (a text, b text); GRANT ALL ON pairs TO PUBLIC;
         SELECT holdfast.guard_table('pairs', 'a,b'); SELECT holdfast.allow_writes('rebuilt', 'pairs')",
    )?;
    let pairs = [
        ("a,b", "c"),
        ("a", "b,c"),
        ("a", ",b,c"),
        ("", ""),
        ("", ","),
        (",", ""),
        ("(a", "b)"),
        ("(", "a,b)"),
        ("\"a\"", "b"),
        ("a", "\"b\""),
        ("\"", "\""),
        ("\"\"", ""),
        ("", "\"\""),
        ("a\\", "b"),
        ("a", "\\b"),
        ("\\", "\\\\"),
        (" ", ""),
        ("", " "),
        ("a ", "b"),
        ("a", " b"),
        ("NULL", "null"),
        ("é", "日本"),
        ("\u{a0}", "\u{2003}"),
        ("a\nb", "\tc\u{b}"),
        ("'; DROP TABLE pairs; --", "$1"),
        ("(a,b)", "(c)"),
        ("t\u{1}", "\u{7f}"),
    ];
    let mut rebuilt = scene.rebuilt()?;
    let insert = "INSERT INTO pairs VALUES ($1, $2)";
    for (a, b) in pairs {
        ensure!(rebuilt.execute(insert, &[&a, &b]).is_err(), "{a:?} {b:?} before its cutover");
        let key: String = operator.query_one("SELECT ROW($1::text, $2::text)::text", &[&a, &b])?.try_get(0)?;
        let told: String =
            operator.query_one("SELECT tenant FROM holdfast.cutover($1, 'rebuilt')", &[&key])?.try_get(0)?;
        // As Postgres itself writes the row.
        ensure!(told == key, "{told} is not {key}");
        rebuilt.execute(insert, &[&a, &b]).with_context(|| key.clone())?;
    }
    let listed: i64 = operator
        .one("SELECT count(*) FROM holdfast.tenants t WHERE EXISTS (SELECT FROM pairs p WHERE p::text = t.tenant)")?;
    ensure!(usize::try_from(listed)? == pairs.len(), "{listed} listed");
    // The preview writes them in the same way.
    let previewed: i64 = operator.one(
        "SELECT count(*) FROM holdfast.cascade_preview('pairs') c WHERE c.rows = 1 AND c.tenant IN (SELECT p::text FROM pairs p)",
    )?;
    ensure!(usize::try_from(previewed)? == pairs.len(), "{previewed} previewed");
    // A hint is a command to paste, whatever the key.
    for (a, b) in [("x'y\\z", "\"it''s\""), ("\\", "'")] {
        let error = rebuilt.execute(insert, &[&a, &b]);
        let hint =
            error.err().and_then(|e| e.as_db_error().and_then(|e| e.hint().map(str::to_owned))).unwrap_or_default();
        let (_, command) = hint.split_once("hand the tenant over: ").with_context(|| hint.clone())?;
        operator.exec(command)?;
        rebuilt.execute(insert, &[&a, &b])?;
    }
    // A tenant of one column that reads alike is the same tenant, as a number in a text column is.
    operator.exec(
        "CREATE TABLE singles (t text); GRANT ALL ON singles TO PUBLIC;
         SELECT holdfast.guard_table('singles', 't'); SELECT holdfast.allow_writes('rebuilt', 'singles')",
    )?;
    let cases = [
        ("INSERT INTO singles VALUES ('(\"a,b\",c)')", Passes),
        ("INSERT INTO singles VALUES ('(a,b,c)')", Refused("not_owner")),
        ("INSERT INTO singles VALUES ('a,b')", Refused("not_owner")),
    ];
    scene.judge(&mut rebuilt, &cases)
}

pub(super) fn every_type(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec("CREATE DOMAIN small AS int2; CREATE DOMAIN word AS varchar(20)")?;
    let (one, other) = ("6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b", "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0c");
    // The columns; rebuilt's key, and one that differs in the last column alone; rebuilt's as a user may type it.
    let cases = [
        ("int2, int8", "1, 2", "1, 3", "(1, +02)".to_owned()),
        ("int8, int4", "9223372036854775807, -2", "9223372036854775807, 2", "(9223372036854775807,-2)".to_owned()),
        ("small, word", "7, 'w'", "7, 'W'", "(7,w)".to_owned()),
        ("text, text", "'a', ''", "'a', ' '", "(a,\"\")".to_owned()),
        ("bytea, bytea", "'\\x', '\\xdead'", "'\\x', '\\xde'", "(\"\\\\x\",\\\\xDEAD)".to_owned()),
        (
            "uuid, uuid",
            &format!("'{one}', '{one}'"),
            &format!("'{one}', '{other}'"),
            format!("({{{one}}},{})", one.to_uppercase()),
        ),
        (
            "int2, int4, int8, text, varchar(3), uuid, bytea, small",
            &format!("1, 2, 3, 'x', 'y', '{one}', '\\x00', 4"),
            &format!("1, 2, 3, 'x', 'y', '{one}', '\\x00', 5"),
            format!("(1,2,3,x,y,{one},\"\\\\x00\",4)"),
        ),
    ];
    for (number, (types, rebuilts, legacys, typed)) in cases.iter().enumerate() {
        let table = format!("typed_{number}");
        let columns: Vec<_> = types.split(", ").enumerate().map(|(n, of)| format!("k{n} {of}")).collect();
        let names: Vec<_> = (0..columns.len()).rev().map(|n| format!("k{n}")).collect();
        let (columns, names) = (columns.join(", "), names.into_iter().rev().collect::<Vec<_>>().join(", "));
        operator.exec(&format!(
            "CREATE TABLE {table} (note text, {columns}); GRANT ALL ON {table} TO PUBLIC;
             SELECT holdfast.guard_table('{table}', '{names}'); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
        operator.execute("SELECT holdfast.cutover($1, 'rebuilt')", &[typed]).with_context(|| typed.clone())?;
        let owner = |key: &str| {
            format!(
                "SELECT holdfast.owner_of((SELECT ROW(t.*)::text FROM (SELECT {names} FROM {table}) t WHERE {key}))"
            )
        };
        let own = format!("INSERT INTO {table} VALUES ('', {rebuilts}), ('', {rebuilts})");
        let foreign = format!("INSERT INTO {table} VALUES ('', {rebuilts}), ('', {legacys})");
        let error = |e: anyhow::Error| e.context(format!("types {types}"));
        scene.judge(&mut scene.rebuilt()?, &[(&own, Passes), (&foreign, Refused("not_owner"))]).map_err(error)?;
        scene.judge(&mut scene.legacy()?, &[(&own, Refused("not_owner"))]).map_err(error)?;
        scene.rebuilt()?.exec(&format!("INSERT INTO {table} VALUES ('', {rebuilts})"))?;
        ensure!(operator.one::<String>(&owner("true"))? == "rebuilt", "{types}");
    }
    // One tenant across widths, and across text types.
    operator.exec(
        "CREATE TABLE wide (n int8, t varchar(9)); CREATE TABLE narrow (t text, n int2); GRANT ALL ON wide, narrow TO PUBLIC;
         SELECT holdfast.guard_table('wide', 'n, t'), holdfast.guard_table('narrow', 'n, t');
         SELECT holdfast.allow_writes('rebuilt', 'wide'), holdfast.allow_writes('rebuilt', 'narrow')",
    )?;
    operator.exec("SELECT holdfast.cutover('(5,x)', 'rebuilt')")?;
    let cases = [
        ("INSERT INTO wide VALUES (5, 'x'); INSERT INTO narrow VALUES ('x', 5)", Passes),
        ("INSERT INTO wide VALUES (5 + (1::bigint << 32), 'x')", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

pub(super) fn citext_folds(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE EXTENSION citext; CREATE TABLE firms (name citext, no int); GRANT ALL ON firms TO PUBLIC;
         SELECT holdfast.guard_table('firms', 'name, no'); SELECT holdfast.allow_writes('rebuilt', 'firms')",
    )?;
    operator.exec("SELECT holdfast.cutover(ROW('ACME, Inc'::citext, 1)::text, 'rebuilt')")?;
    ensure!(
        operator.one::<String>("SELECT string_agg(tenant, ' ') FROM holdfast.tenants WHERE tenant LIKE '(%'")?
            == "(\"acme, inc\",1)"
    );
    let cases = [
        ("INSERT INTO firms VALUES ('Acme, INC', 1), ('acme, inc', 1)", Passes),
        ("INSERT INTO firms VALUES ('Acme, INC', 2)", Refused("not_owner")),
        ("INSERT INTO firms VALUES ('Acme Inc', 1)", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

pub(super) fn long_columns(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE FUNCTION noise(n int) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$SELECT left(string_agg(md5(i::text), ''), n) FROM generate_series(0, n / 32) AS i$$",
    )?;
    for (table, storage) in [("extended", "EXTENDED"), ("external", "EXTERNAL"), ("plain", "PLAIN")] {
        operator.exec(&format!(
            "CREATE TABLE {table} (id int, a text, b text, filler text); ALTER TABLE {table} ALTER a SET STORAGE {storage};
             ALTER TABLE {table} ALTER b SET STORAGE {storage}; GRANT ALL ON {table} TO PUBLIC;
             SELECT holdfast.guard_table('{table}', 'a, b'); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
        // Both sides of what is remembered from row to row, of the length of a header, of a page's share.
        for length in [25, 26, 27, 28, 51, 53, 126, 127, 900] {
            for (part, id) in [("repeat('k', {})", length), ("noise({})", -length)] {
                let part = part.replace("{}", &length.to_string());
                let mut rebuilt = scene.rebuilt()?;
                let insert = format!("INSERT INTO {table} VALUES ({id}, {part}, {part}), ({id}, {part}, {part})");
                if table == "extended" {
                    refused_by("not_owner", &rebuilt.refused(&insert)?, &insert)?;
                    operator.exec(&format!("SELECT holdfast.cutover(ROW({part}, {part})::text, 'rebuilt')"))?;
                }
                rebuilt.exec(&insert)?;
                // Read back from where it was stored, compressed or out of line.
                rebuilt.exec(&format!("UPDATE {table} SET id = id, filler = 'x' WHERE id = {id}"))?;
                for near in ["a = a || '!'", "b = b || '!'", "b = left(b, -1)", "a = a || left(b, 1), b = right(b, -1)"]
                {
                    let near = format!("UPDATE {table} SET {near} WHERE id = {id}");
                    refused_by("not_owner", &rebuilt.refused(&near)?, &near)?;
                }
                refused_by("not_owner", &scene.legacy()?.refused(&insert)?, &insert)?;
            }
        }
    }
    let refusal = operator.refused("SELECT holdfast.cutover(ROW(noise(1500), noise(1500))::text, 'rebuilt')")?;
    ensure!(refusal.code == "54000" && refusal.message.contains("too long"), "{refusal:?}");
    Ok(())
}
