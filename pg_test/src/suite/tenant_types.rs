//! When two values name the same tenant: by type, by spelling, by length.

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("every_type_of_tenant_column_is_guarded", every_type),
        Test::shared("an_integer_tenant_is_one_across_widths", across_widths),
        Test::shared("citext_tenants_fold_their_case_as_postgres_does", citext_folds).needs_module("citext"),
        Test::shared("a_collation_that_takes_different_keys_for_equal_is_refused", nondeterministic).needs_icu(),
        Test::shared("keys_of_any_text_are_told_apart", keys_of_any_text),
        Test::shared("long_keys_are_guarded_in_every_form_of_storage", long_keys),
        Test::shared("a_key_is_understood_in_every_spelling_beside_a_text_table", spelling_beside_text),
        Test::shared("a_database_in_another_encoding_is_guarded_or_refused", another_encoding),
    ]
}

fn every_type(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE DOMAIN small AS int2 CHECK (value > 0); CREATE DOMAIN nested AS small; CREATE DOMAIN word AS varchar(20);
         GRANT CREATE ON SCHEMA public TO PUBLIC",
    )?;
    // Type, legacy's key, rebuilt's key, rebuilt's key as a user may type it.
    let cases = [
        ("int2", "310", "320", "320"),
        ("int4", "-310", "-320", " -0320 "),
        ("int8", "9223372036854775806", "9223372036854775807", "9223372036854775807"),
        ("small", "311", "321", "+321"),
        ("nested", "312", "322", "322"),
        (
            "uuid",
            "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b",
            "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0c",
            "{6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0C}",
        ),
        ("bytea", "\\xdead", "\\xbeef", "\\xBEEF"),
        ("bytea", "\\x", "\\x00", "\\x00"),
        // Text comes last: from then on any text may be a key.
        ("text", "acme", "Acme", "Acme"),
        ("varchar(8)", "acme", "ACME", "ACME"),
        ("word", "w1", "w2", "w2"),
        ("text COLLATE \"C\"", "c1", "c2", "c2"),
    ];
    for (number, (of, legacys, rebuilts, typed)) in cases.iter().enumerate() {
        let table = format!("typed_{number}");
        operator.exec(&format!(
            "CREATE TABLE {table} (note text, key {of}); GRANT ALL ON {table} TO PUBLIC;
             SELECT holdfast.guard_table('{table}', 'key'); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
        operator.exec(&format!("SELECT holdfast.cutover('{typed}', 'rebuilt')"))?;
        ensure!(operator.one::<String>(&format!("SELECT holdfast.owner_of('{rebuilts}')"))? == "rebuilt", "{of}");
        ensure!(operator.one::<String>(&format!("SELECT holdfast.owner_of('{legacys}')"))? == "legacy", "{of}");
        let own = format!("INSERT INTO {table} (key) VALUES ('{rebuilts}'), ('{rebuilts}')");
        let foreign = format!("INSERT INTO {table} (key) VALUES ('{rebuilts}'), ('{legacys}')");
        let mine = [(own.as_str(), Passes), (foreign.as_str(), Refused("not_owner"))];
        let yours = [(own.as_str(), Refused("not_owner"))];
        scene.judge(&mut scene.rebuilt()?, &mine).map_err(|e| e.context(format!("type {of}")))?;
        scene.judge(&mut scene.legacy()?, &yours).map_err(|e| e.context(format!("type {of}")))?;
        let refusal = scene.legacy()?.refused(&own)?;
        let shown = format!("for tenant \"{rebuilts}\"");
        ensure!(refusal.detail.as_deref().is_some_and(|d| d.contains(&shown)), "{refusal:?}");
    }
    Ok(())
}

fn across_widths(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE wide (id int, t int8); CREATE TABLE narrow (id int, t int2); GRANT ALL ON wide, narrow TO PUBLIC;
         SELECT holdfast.guard_table('wide', 't'); SELECT holdfast.guard_table('narrow', 't');
         SELECT holdfast.allow_writes('rebuilt', 'wide'); SELECT holdfast.allow_writes('rebuilt', 'narrow')",
    )?;
    let cases = [
        ("INSERT INTO wide VALUES (1, 20)", Passes),
        ("INSERT INTO narrow VALUES (1, 20)", Passes),
        ("INSERT INTO wide VALUES (1, 10)", Refused("not_owner")),
        ("INSERT INTO narrow VALUES (1, 50)", Refused("tenant_frozen")),
        // Not the same as 20, though its lower 32 bits are.
        ("INSERT INTO wide VALUES (1, 20 + (1::bigint << 32))", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    // The check of one table holds for the other in the same transaction, and one cutover moves both.
    let mut legacy = scene.legacy()?;
    legacy.exec("BEGIN; INSERT INTO orders VALUES (6, 11); INSERT INTO wide VALUES (1, 11); COMMIT")?;
    operator.exec("SELECT holdfast.cutover('11', 'rebuilt')")?;
    for table in ["wide", "narrow"] {
        let sql = format!("INSERT INTO {table} VALUES (2, 11)");
        refused_by("not_owner", &legacy.refused(&sql)?, &sql)?;
    }
    Ok(())
}

fn nondeterministic(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE DOMAIN blind_text AS text COLLATE blind;
         CREATE TABLE odd (id int, blind text COLLATE blind, domained blind_text)",
    )?;
    for column in ["blind", "domained"] {
        let refusal = operator.refused(&format!("SELECT holdfast.guard_table('odd', '{column}')"))?;
        ensure!(refusal.code == "0A000" && refusal.message.contains("cannot be a tenant column"), "{refusal:?}");
        ensure!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("deterministic collation")), "{refusal:?}");
    }
    Ok(())
}

fn citext_folds(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA types; CREATE EXTENSION citext SCHEMA types; GRANT USAGE ON SCHEMA types TO PUBLIC;
         SELECT holdfast.unguard_table('orders');
         CREATE TABLE firms (id int, name types.citext); GRANT ALL ON firms TO PUBLIC;
         SELECT holdfast.guard_table('firms', 'name'); SELECT holdfast.allow_writes('rebuilt', 'firms')",
    )?;
    operator.exec("SELECT holdfast.cutover('ACME Zürich', 'rebuilt')")?;
    let cases = [
        ("INSERT INTO firms VALUES (1, 'acme zürich'), (2, 'ACME zürich'), (3, 'ACME Zürich')", Passes),
        ("INSERT INTO firms VALUES (1, 'acme zurich')", Refused("not_owner")),
        (
            "INSERT INTO firms VALUES (1, 'ACME ZÜRICH')",
            if operator.one::<bool>("SELECT lower('Ü') = 'ü'")? { Passes } else { Refused("not_owner") },
        ),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    ensure!(operator.one::<String>("SELECT holdfast.owner_of('aCmE Zürich')")? == "rebuilt");
    // Beside a text table, a citext tenant is still found in every case.
    operator.exec("CREATE TABLE notes (t text); SELECT holdfast.guard_table('notes', 't')")?;
    operator.exec("SELECT holdfast.cutover('OTHER', 'rebuilt')")?;
    scene.judge(&mut scene.rebuilt()?, &[("INSERT INTO firms VALUES (1, 'Other')", Passes)])
}

/// Keys that quoting, encoding or comparing could get wrong. Each is handed over, and only it.
fn keys_of_any_text(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE firms (id int, name text); GRANT ALL ON firms TO PUBLIC;
         SELECT holdfast.guard_table('firms', 'name'); SELECT holdfast.allow_writes('rebuilt', 'firms')",
    )?;
    let keys = [
        "",
        " ",
        "  ",
        "o'hara",
        "O'Hara",
        "\\",
        "\\\\",
        "a\"b",
        "é",
        "e\u{301}",
        "日本",
        "日本 ",
        "\u{1F3E0}",
        "a\nb",
        "a\tb",
        "%",
        "_",
        "NULL",
        "0",
        "00",
        "{\"a\":1}",
        "$1",
        "'; DROP TABLE firms; --",
        "\u{7f}\u{1}",
    ];
    let mut rebuilt = scene.rebuilt()?;
    let insert = "INSERT INTO firms VALUES (1, $1)";
    for key in keys {
        ensure!(rebuilt.execute(insert, &[&key]).is_err(), "{key:?} before its cutover");
        operator.execute("SELECT holdfast.cutover($1, 'rebuilt')", &[&key])?;
        rebuilt.execute(insert, &[&key])?;
        let owner: String = operator.query_one("SELECT holdfast.owner_of($1)", &[&key])?.try_get(0)?;
        ensure!(owner == "rebuilt", "{key:?}");
    }
    let listed: i64 = operator
        .query_one("SELECT count(*) FROM holdfast.tenants WHERE tenant = ANY ($1)", &[&&keys[..]])?
        .try_get(0)?;
    ensure!(usize::try_from(listed)? == keys.len(), "{listed} listed");
    // A hint is a command to paste, whatever the key.
    for key in ["x'y\\z", "it''s"] {
        let error = rebuilt.execute(insert, &[&key]);
        let hint =
            error.err().and_then(|e| e.as_db_error().and_then(|e| e.hint().map(str::to_owned))).unwrap_or_default();
        let Some((_, command)) = hint.split_once("hand the tenant over: ") else { anyhow::bail!("{hint}") };
        operator.exec(command)?;
        rebuilt.execute(insert, &[&key])?;
    }
    Ok(())
}

fn long_keys(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE FUNCTION noise(n int) RETURNS text LANGUAGE sql IMMUTABLE AS
        $$SELECT left(string_agg(md5(i::text), ''), n) FROM generate_series(0, n / 32) AS i$$",
    )?;
    let lengths = [39, 40, 41, 126, 127, 500, 2000];
    for (table, storage) in [("extended", "EXTENDED"), ("external", "EXTERNAL"), ("plain", "PLAIN"), ("main", "MAIN")] {
        operator.exec(&format!(
            "CREATE TABLE {table} (id int, name text, filler text); ALTER TABLE {table} ALTER name SET STORAGE {storage};
             GRANT ALL ON {table} TO PUBLIC; SELECT holdfast.guard_table('{table}', 'name');
             SELECT holdfast.set_limits('rebuilt', tenants_per_statement := -1); SELECT holdfast.allow_writes('rebuilt', '{table}')"
        ))?;
        for length in lengths {
            for key in [format!("repeat('k', {length})"), format!("noise({length})")] {
                let mut rebuilt = scene.rebuilt()?;
                let insert = format!("INSERT INTO {table} VALUES ({length}, {key})");
                if table == "extended" {
                    refused_by("not_owner", &rebuilt.refused(&insert)?, &insert)?;
                    operator.exec(&format!("SELECT holdfast.cutover({key}, 'rebuilt')"))?;
                }
                rebuilt.exec(&insert)?;
                // Read back from where it was stored, compressed or out of line.
                rebuilt.exec(&format!("UPDATE {table} SET id = id WHERE id = {length}"))?;
                let near = format!("UPDATE {table} SET name = name || '!' WHERE id = {length}");
                refused_by("not_owner", &rebuilt.refused(&near)?, &near)?;
                let mut legacy = scene.legacy()?;
                refused_by("not_owner", &legacy.refused(&insert)?, &insert)?;
            }
        }
    }
    // Too long to be listed: said so in words a DBA understands, and nothing changes.
    let before = scene.policy()?;
    let refusal = operator.refused("SELECT holdfast.cutover(noise(6000), 'rebuilt')")?;
    ensure!(refusal.message.contains("tenant") && refusal.hint.is_some() && refusal.code != "XX000", "{refusal:?}");
    ensure!(scene.policy()? == before);
    Ok(())
}

/// With a text table any text may be a key; what a uuid or integer column holds must still be found as it is typed.
fn spelling_beside_text(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "tenant_types")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE notes (t text); CREATE TABLE units (u uuid); GRANT ALL ON units TO PUBLIC;
         SELECT holdfast.guard_table('notes', 't'); SELECT holdfast.guard_table('units', 'u');
         SELECT holdfast.allow_writes('rebuilt', 'units')",
    )?;
    let key = "6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0B";
    // A tenant that no row can name must not be handed over in silence: either it is this uuid's, or it is an error.
    if operator.exec(&format!("SELECT holdfast.cutover('{key}', 'rebuilt')")).is_ok() {
        let (mut rebuilt, mut legacy) = (scene.rebuilt()?, scene.legacy()?);
        let insert = format!("INSERT INTO units VALUES ('{key}')");
        rebuilt.exec(&insert)?;
        refused_by("not_owner", &legacy.refused(&insert)?, &insert)?;
    }
    Ok(())
}

fn another_encoding(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("encoding")?;
    let latin = format!("{}_latin1", database.name);
    let mut postgres = database.connect()?;
    postgres.exec(&format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"))?;
    let outcome = in_latin1(cluster, &latin);
    postgres.exec(&format!("DROP DATABASE {latin} WITH (FORCE)"))?;
    outcome
}

/// Either a text column can't be guarded there, which is said, or é and è are two tenants.
fn in_latin1(cluster: &Cluster, database: &str) -> Result<()> {
    let output = cluster.psql(
        database,
        "SET client_encoding = 'UTF8'; CREATE EXTENSION holdfast; CREATE TABLE firms (id int, name text);
         SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
         SELECT holdfast.set_mode('enforce');
         SELECT holdfast.guard_table('firms', 'name');
         SELECT holdfast.cutover('é', 'rebuilt');
         INSERT INTO firms VALUES (1, 'è') RETURNING 'other';
         INSERT INTO firms VALUES (1, 'é') RETURNING 'same'",
    )?;
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!errors.contains("valid UTF-8") && !errors.contains("XX000"), "{errors}");
    if !errors.contains("0A000") {
        ensure!(told.contains("other") && !told.contains("same") && errors.contains("WG001"), "{told}\n{errors}");
    }
    Ok(())
}
