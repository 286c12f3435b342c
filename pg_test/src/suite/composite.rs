//! Tenant keys of several columns.
//!
//! - [`keys`] what their texts and types are like
//! - [`tables`] which columns of which tables they are

mod keys;
mod tables;

use anyhow::{Result, ensure};

use super::Test;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::client::Rows;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_row_belongs_to_the_tenant_of_all_its_columns", all_columns),
        Test::shared("every_way_to_write_is_guarded_by_all_columns", every_way),
        Test::shared("a_row_at_a_time_is_judged_by_every_column", row_by_row),
        Test::shared("keys_that_look_alike_are_told_apart", keys::told_apart),
        Test::shared("columns_of_every_type_make_a_key", keys::every_type),
        Test::shared("citext_columns_fold_within_a_key", keys::citext_folds).needs_module("citext"),
        Test::shared("long_columns_are_compared_to_their_ends", keys::long_columns),
        Test::shared("children_belong_to_such_a_tenant", children),
        Test::shared("foreign_keys_of_several_columns_lead_to_such_a_tenant", by_the_key_itself),
        Test::shared("partitions_come_and_go_with_such_a_key", tables::partitions),
        Test::shared("children_by_inheritance_have_such_a_key", tables::inheritance),
        Test::shared("a_list_of_columns_is_read_as_sql_reads_it", tables::lists),
        Test::shared("guarding_again_by_other_columns_counts_at_once", tables::guarding_again),
        Test::shared("every_column_of_a_key_is_kept", tables::columns_are_kept),
        Test::shared("coverage_knows_keys_of_several_columns", tables::coverage),
        Test::shared("a_schema_is_guarded_by_several_columns", tables::whole_schema),
    ]
}

/// (eu,20) and (us,20) are rebuilt's, (eu,40) is frozen; the others legacy's.
const ACCOUNTS: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, note text, no int, region text);
    INSERT INTO accounts VALUES (1, 'a', 10, 'eu'), (2, 'b', 20, 'eu'), (3, 'c', 20, 'us'), (4, 'd', 40, 'eu'),
        (5, 'e', 10, 'us'), (7, 'everybody', NULL, 'eu'), (8, 'everybody', 20, NULL), (9, 'everybody', NULL, NULL);
    GRANT ALL ON accounts TO PUBLIC;
    SELECT holdfast.guard_table('accounts', 'region, no');
    SELECT holdfast.allow_writes('rebuilt', 'accounts')";

fn set(cluster: &Cluster) -> Result<Scene> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec(ACCOUNTS)?;
    operator.exec("SELECT holdfast.cutover(ROW('eu', 20)::text, 'rebuilt')")?;
    operator.exec("SELECT holdfast.cutover('(us, 020)', 'rebuilt')")?;
    operator.exec("SELECT holdfast.freeze('(eu,40)', 'audit')")?;
    Ok(scene)
}

/// Rows as lines, a column beside the other.
fn lines(rows: Rows) -> Vec<String> {
    let line = |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|");
    rows.into_iter().map(line).collect()
}

fn all_columns(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mine = [
        ("UPDATE accounts SET note = 'x' WHERE id = 2", Passes),
        ("UPDATE accounts SET note = 'x' WHERE id = 1", Refused("not_owner")),
        ("UPDATE accounts SET note = 'x' WHERE id = 5", Refused("not_owner")),
        ("UPDATE accounts SET note = 'x' WHERE id IN (2, 3)", Refused("cross_tenant")),
        // Moved by one column, by the other, by both.
        ("UPDATE accounts SET no = 10 WHERE id = 2", Refused("not_owner")),
        ("UPDATE accounts SET region = 'ap' WHERE id = 2", Refused("not_owner")),
        ("UPDATE accounts SET (region, no) = ('us', 10) WHERE id = 2", Refused("not_owner")),
        ("UPDATE accounts SET region = 'us' WHERE id = 2", Refused("cross_tenant")),
        ("UPDATE accounts SET no = 20 WHERE id = 1", Refused("not_owner")),
        // Null in any column: everybody's.
        ("UPDATE accounts SET no = NULL WHERE id = 2", Refused("global_write")),
        ("UPDATE accounts SET region = NULL WHERE id = 2", Refused("global_write")),
        ("UPDATE accounts SET note = 'x' WHERE id = 7", Refused("global_write")),
        ("UPDATE accounts SET note = 'x' WHERE id = 8", Refused("global_write")),
        ("UPDATE accounts SET region = 'us' WHERE id = 8", Refused("global_write")),
        ("UPDATE accounts SET note = 'x' WHERE id = 9", Refused("global_write")),
        ("INSERT INTO accounts VALUES (20, 'x', 20, 'eu'), (21, 'x', 20, 'eu')", Passes),
        ("INSERT INTO accounts VALUES (20, 'x', 20, 'eu'), (21, 'x', 20, 'EU')", Refused("not_owner")),
        ("INSERT INTO accounts (id, no) VALUES (20, 20)", Refused("global_write")),
        ("DELETE FROM accounts WHERE id = 2", Passes),
        ("DELETE FROM accounts WHERE id = 1", Refused("not_owner")),
        ("DELETE FROM accounts WHERE region = 'eu'", Refused("not_owner")),
        // A condition on a column of the key limits; that a column equals itself doesn't.
        ("UPDATE accounts SET note = 'x' WHERE (region, no) = ('eu', 20)", Passes),
        ("UPDATE accounts SET note = 'x'", Refused("unfiltered_write")),
    ];
    scene.judge(&mut scene.rebuilt()?, &mine)?;
    let legacys = [
        ("UPDATE accounts SET note = 'x' WHERE no = 10", Passes),
        ("UPDATE accounts SET note = 'x' WHERE id IN (7, 8, 9)", Passes),
        ("UPDATE accounts SET no = NULL WHERE id = 1", Passes),
        ("UPDATE accounts SET no = 20 WHERE id = 1", Refused("not_owner")),
        ("UPDATE accounts SET region = 'us' WHERE id = 8", Refused("not_owner")),
        ("UPDATE accounts SET note = 'x' WHERE id = 3", Refused("not_owner")),
        ("UPDATE accounts SET note = 'x' WHERE id = 4", Refused("tenant_frozen")),
        ("UPDATE accounts SET note = 'x'", Refused("not_owner")),
    ];
    scene.judge(&mut scene.legacy()?, &legacys)?;
    let refusal = scene.rebuilt()?.refused("UPDATE accounts SET no = 10 WHERE id = 2")?;
    ensure!(refusal.message == "backend \"rebuilt\" may not write tenant \"(eu,10)\"", "{refusal:?}");
    let hint = refusal.hint.unwrap_or_default();
    ensure!(hint.ends_with("SELECT holdfast.cutover('(eu,10)', 'rebuilt');"), "{hint}");
    let refusal = scene.rebuilt()?.refused("UPDATE accounts SET no = NULL WHERE id = 2")?;
    ensure!(refusal.detail.as_deref().is_some_and(|d| d.contains("Column \"no\" is null")), "{refusal:?}");
    Ok(())
}

fn every_way(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let conflict =
        |set: &str| format!("INSERT INTO accounts VALUES (2, 'x', 20, 'eu') ON CONFLICT (id) DO UPDATE SET {set}");
    let (own, foreign) = (conflict("note = 'y'"), conflict("no = 10"));
    let merge = |set: &str| {
        format!(
            "MERGE INTO accounts a USING (VALUES (2)) v (id) ON a.id = v.id
             WHEN MATCHED THEN UPDATE SET {set} WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'm', 20, 'eu')"
        )
    };
    let (merged, moved) = (merge("note = 'y'"), merge("region = 'ap'"));
    let cases = [
        (own.as_str(), Passes),
        (&foreign, Refused("not_owner")),
        (&merged, Passes),
        (&moved, Refused("not_owner")),
        ("WITH gone AS (DELETE FROM accounts WHERE id = 2 RETURNING *) SELECT * FROM gone", Passes),
        (
            "WITH gone AS (DELETE FROM accounts WHERE id = 2 RETURNING *)
             INSERT INTO accounts SELECT id + 60, note, no, 'ap' FROM gone",
            Refused("not_owner"),
        ),
        (
            "PREPARE p (text) AS UPDATE accounts SET region = $1 WHERE id = 2; SET plan_cache_mode = force_generic_plan;
             EXECUTE p ('eu'); EXECUTE p ('ap')",
            Refused("not_owner"),
        ),
        // A savepoint that is rolled back has released the tenant, and nothing of it is remembered.
        (
            "SAVEPOINT s; UPDATE accounts SET note = 'x' WHERE id = 2; ROLLBACK TO s;
             UPDATE accounts SET note = 'x' WHERE id IN (2, 1)",
            Refused("not_owner"),
        ),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    scene.operator()?.exec(
        "CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.region := ''ap''; RETURN new; END';
         CREATE TRIGGER move BEFORE UPDATE OF note ON accounts FOR EACH ROW EXECUTE FUNCTION move()",
    )?;
    let cases = [("UPDATE accounts SET note = 'x' WHERE id = 2", Refused("not_owner"))];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    // COPY, whose rows come one by one.
    let mut rebuilt = scene.rebuilt()?;
    for (rows, passes) in [("70\tx\t20\teu\n71\tx\t20\teu\n", true), ("72\tx\t20\teu\n73\tx\t10\teu\n", false)] {
        let mut writer = rebuilt.copy_in("COPY accounts FROM STDIN")?;
        std::io::Write::write_all(&mut writer, rows.as_bytes())?;
        ensure!(writer.finish().is_ok() == passes, "{rows}");
    }
    // A cutover takes effect in a session that knows the tenant, and a plan that is cached.
    rebuilt.exec("PREPARE p AS UPDATE accounts SET id = id WHERE id = 70; EXECUTE p")?;
    scene.operator()?.exec("SELECT holdfast.cutover(ROW('eu', 20)::text, 'legacy')")?;
    refused_by("not_owner", &rebuilt.refused("EXECUTE p")?, "EXECUTE p")
}

/// What is remembered of the row before must be the whole key.
fn row_by_row(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    scene.operator()?.exec("SELECT holdfast.set_limits('rebuilt', tenants_per_statement := -1)")?;
    let own = "(20, '', 20, 'eu'), (21, '', 20, 'eu')";
    let others = [
        "10, 'eu'",
        "20, 'e'",
        "20, 'euu'",
        "20, 'eU'",
        "20, ''",
        "20, 'ap'",
        "21, 'eu'",
        "-20, 'eu'",
        "2147483647, 'eu'",
    ];
    let mut cases: Vec<(String, _)> = Vec::new();
    for other in others {
        cases.push((format!("INSERT INTO accounts VALUES {own}, (22, '', {other})"), Refused("not_owner")));
        cases.push((
            format!("INSERT INTO accounts VALUES {own}, (22, '', 20, 'us'), (23, '', {other})"),
            Refused("not_owner"),
        ));
    }
    for null in ["NULL, 'eu'", "20, NULL", "NULL, NULL"] {
        cases.push((format!("INSERT INTO accounts VALUES {own}, (22, '', {null})"), Refused("global_write")));
    }
    let both = "INSERT INTO accounts SELECT n, '', 20, CASE n % 2 WHEN 0 THEN 'eu' ELSE 'us' END FROM generate_series(20, 900) AS n";
    cases.push((both.to_owned(), Passes));
    cases.push((
        format!("{both}; UPDATE accounts SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END WHERE id >= 20"),
        Passes,
    ));
    cases.push((format!("{both}; UPDATE accounts SET no = no + id / 900 WHERE id >= 20"), Refused("not_owner")));
    let cases: Vec<_> = cases.iter().map(|(sql, outcome)| (sql.as_str(), *outcome)).collect();
    scene.judge(&mut scene.rebuilt()?, &cases)
}

fn children(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE bookings (id int PRIMARY KEY, account int REFERENCES accounts ON DELETE CASCADE ON UPDATE CASCADE, note text);
         CREATE TABLE lines (id int PRIMARY KEY, booking int REFERENCES bookings ON DELETE CASCADE, note text);
         SELECT holdfast.set_mode('off');
         INSERT INTO bookings SELECT 10 * id, id FROM accounts; INSERT INTO lines SELECT id, id FROM bookings;
         SELECT holdfast.set_mode('enforce');
         GRANT ALL ON bookings, lines TO PUBLIC;
         SELECT holdfast.guard_table('bookings', via := 'account'), holdfast.guard_table('lines', via := 'booking');
         SELECT holdfast.allow_writes('rebuilt', 'bookings'), holdfast.allow_writes('rebuilt', 'lines')",
    )?;
    let mut rebuilt = scene.rebuilt()?;
    let cases = [
        ("UPDATE lines SET note = 'x' WHERE id = 20", Passes),
        ("UPDATE lines SET note = 'x' WHERE id = 10", Refused("not_owner")),
        ("UPDATE lines SET note = 'x' WHERE id = 40", Refused("not_owner")),
        ("UPDATE lines SET note = 'x' WHERE id = 70", Refused("global_write")),
        ("UPDATE lines SET note = 'x' WHERE id = 80", Refused("global_write")),
        ("UPDATE lines SET note = 'x' WHERE id IN (20, 30)", Refused("cross_tenant")),
        ("UPDATE lines SET booking = 10 WHERE id = 20", Refused("not_owner")),
        (
            "INSERT INTO accounts VALUES (20, '', 20, 'eu'); INSERT INTO bookings VALUES (200, 20); INSERT INTO lines VALUES (200, 200)",
            Passes,
        ),
        ("INSERT INTO bookings VALUES (200, 5)", Refused("not_owner")),
        ("DELETE FROM accounts WHERE id = 2", Passes),
    ];
    scene.judge(&mut rebuilt, &cases)?;
    // A parent moves by one column of its key while a child of it is written: the commit looks again.
    let mut legacy = scene.legacy()?;
    legacy.exec("INSERT INTO accounts VALUES (30, '', 30, 'eu'), (31, '', 30, 'eu')")?;
    legacy.exec("BEGIN; INSERT INTO bookings VALUES (300, 30)")?;
    scene.legacy()?.exec("UPDATE accounts SET no = 31 WHERE id = 30")?;
    operator.exec("SELECT holdfast.cutover('(eu,31)', 'rebuilt')")?;
    refused_by("not_owner", &legacy.refused("COMMIT")?, "COMMIT")?;
    // And where it changes hands no more than its tenant does, it commits.
    legacy.exec("BEGIN; INSERT INTO bookings VALUES (301, 31)")?;
    scene.legacy()?.exec("UPDATE accounts SET region = 'ap' WHERE id = 31")?;
    legacy.exec("COMMIT")?;
    // A cascade that reaches another tenant.
    operator.exec(
        "CREATE TABLE shares (id int PRIMARY KEY, region text, no int, account int REFERENCES accounts ON DELETE CASCADE);
         INSERT INTO shares VALUES (1, 'eu', 20, 2), (2, 'eu', 10, 2); GRANT ALL ON shares TO PUBLIC;
         SELECT holdfast.guard_table('shares', 'region, no'); SELECT holdfast.allow_writes('rebuilt', 'shares')",
    )?;
    let sql = "DELETE FROM accounts WHERE id = 2";
    let refusal = rebuilt.refused(sql)?;
    refused_by("cascade", &refusal, sql)?;
    let detail = refusal.detail.unwrap_or_default();
    ensure!(detail.contains("shares (id) = (2)") && detail.contains("(eu,10)"), "{detail}");
    let preview = "SELECT path, tenant, rows FROM holdfast.cascade_preview('accounts', 'id IN (2, 7)') ORDER BY 1, 2";
    let told = lines(operator.rows(preview)?);
    let expected = [
        "accounts|(eu,20)|1",
        "accounts||1",
        "accounts → bookings|(eu,20)|1",
        "accounts → bookings||1",
        "accounts → bookings → lines|(eu,20)|1",
        "accounts → bookings → lines||1",
        "accounts → shares|(eu,10)|1",
        "accounts → shares|(eu,20)|1",
    ];
    ensure!(told == expected, "{told:#?}");
    Ok(())
}

/// The parent's key is the tenant's: rows of one tenant have one parent, and pass by it.
fn by_the_key_itself(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    scene.operator()?.exec(
        "CREATE TABLE tenants (region text, no int, name text, PRIMARY KEY (no, region));
         INSERT INTO tenants VALUES ('eu', 10), ('eu', 20), ('us', 20), ('us', 10);
         CREATE TABLE bills (id int, area text, account int, FOREIGN KEY (area, account) REFERENCES tenants (region, no) ON UPDATE CASCADE);
         INSERT INTO bills VALUES (1, 'eu', 10), (2, 'eu', 20), (9, NULL, 20);
         GRANT ALL ON tenants, bills TO PUBLIC;
         SELECT holdfast.guard_table('tenants', 'region, no'), holdfast.guard_table('bills', via := 'area');
         SELECT holdfast.allow_writes('rebuilt', 'tenants'), holdfast.allow_writes('rebuilt', 'bills')",
    )?;
    let cases = [
        ("INSERT INTO bills SELECT n, 'eu', 20 FROM generate_series(10, 100) AS n", Passes),
        ("INSERT INTO bills VALUES (3, 'eu', 20), (4, 'eu', 10)", Refused("not_owner")),
        ("INSERT INTO bills VALUES (3, 'eu', 20), (4, 'eu', NULL)", Refused("global_write")),
        ("INSERT INTO bills VALUES (3, 'eu', 20), (4, 'us', 20)", Refused("cross_tenant")),
        ("UPDATE bills SET id = id + 1 WHERE id = 1", Refused("not_owner")),
        ("UPDATE bills SET account = 10 WHERE id = 2", Refused("not_owner")),
        ("UPDATE bills SET area = NULL WHERE id = 2", Refused("global_write")),
        ("UPDATE tenants SET no = 10, region = 'ap' WHERE region = 'eu' AND no = 20", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}
