//! Which columns of which tables are the key: partitions, children, lists, what becomes of a column.

use anyhow::{Context, Result, ensure};

use super::super::scene::Outcome::{Passes, Refused};
use super::super::scene::{Scene, refused_by};
use super::{lines, set};
use crate::cluster::Cluster;

pub(super) fn partitions(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    // A column whose name is the list itself, as the guard would write it: whoever leaves is guarded by the columns.
    operator.exec(
        "CREATE TABLE log (region text, no int, \"region, no\" int, id int) PARTITION BY LIST (region);
         CREATE TABLE log_eu (id int, gone int, no int, \"region, no\" int, region text); ALTER TABLE log_eu DROP gone;
         SELECT holdfast.guard_table('log', ' region,no')",
    )?;
    operator.exec(
        "ALTER TABLE log ATTACH PARTITION log_eu FOR VALUES IN ('eu');
         CREATE TABLE log_rest PARTITION OF log DEFAULT;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         SELECT holdfast.allow_writes('rebuilt', 'log'); INSERT INTO log VALUES ('eu', 10, 20, 1), ('us', 10, 20, 5)",
    )?;
    scene.rebuilt()?.exec("INSERT INTO log VALUES ('eu', 20, 10, 2)")?;
    let cases = [
        ("INSERT INTO log VALUES ('eu', 20, 10, 3)", Passes),
        ("INSERT INTO log_eu (region, no, id) VALUES ('eu', 20, 3)", Passes),
        ("INSERT INTO log_eu (region, no, id) VALUES ('eu', 10, 3)", Refused("not_owner")),
        ("INSERT INTO log VALUES ('ap', 20, 20, 3)", Refused("not_owner")),
        // The row goes to another partition.
        ("UPDATE log SET region = 'ap' WHERE id = 2", Refused("not_owner")),
        ("UPDATE log SET region = 'us' WHERE id = 2", Refused("cross_tenant")),
        ("UPDATE log SET no = 10 WHERE id = 2", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    let key = "SELECT coalesce(tenant_column, '-') || ' ' || guard || ' ' || coalesce(finding, '') FROM holdfast.coverage WHERE relation = 'log_eu'::regclass";
    ensure!(operator.one::<String>(key)? == "region, no enabled ");
    operator.exec("ALTER TABLE log DETACH PARTITION log_eu")?;
    ensure!(operator.one::<String>(key)? == "region, no enabled ");
    let columns = "SELECT tenant_columns::text FROM holdfast.classified_table WHERE relation = 'log_eu'::regclass";
    ensure!(operator.one::<String>(columns)? == "{region,no}");
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'log_eu')")?;
    let cases = [
        ("INSERT INTO log_eu (region, no, id) VALUES ('eu', 20, 3)", Passes),
        ("INSERT INTO log_eu (region, no, \"region, no\") VALUES ('eu', 10, 20)", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)?;
    operator.exec("ALTER TABLE log ATTACH PARTITION log_eu FOR VALUES IN ('eu')")?;
    scene.judge(&mut scene.rebuilt()?, &[("UPDATE log SET no = 10 WHERE id = 2", Refused("not_owner"))])
}

pub(super) fn inheritance(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    scene.operator()?.exec(
        "CREATE TABLE extra (more int); CREATE TABLE heirs (late int) INHERITS (extra, accounts);
         GRANT ALL ON heirs TO PUBLIC; SELECT holdfast.guard_table('accounts', 'region, no');
         SELECT holdfast.allow_writes('rebuilt', 'heirs');
         INSERT INTO heirs (id, no, region) VALUES (100, 10, 'eu')",
    )?;
    scene.rebuilt()?.exec("INSERT INTO heirs (id, no, region) VALUES (101, 20, 'eu')")?;
    let cases = [
        ("UPDATE heirs SET note = 'x' WHERE id = 101", Passes),
        ("UPDATE heirs SET no = 10 WHERE id = 101", Refused("not_owner")),
        ("UPDATE accounts SET region = 'ap' WHERE id = 101", Refused("not_owner")),
        ("UPDATE accounts SET note = 'x' WHERE id = 100", Refused("not_owner")),
    ];
    scene.judge(&mut scene.rebuilt()?, &cases)
}

pub(super) fn lists(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "composite")?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE odd (region text, \"Region\" text, \"account no\" int, \"a,b\" text, a text, b text, \"a, \"\"b\" text,
             amount numeric, twice int GENERATED ALWAYS AS (length('x')) STORED, nothing text COLLATE \"C\",
             c1 int, c2 int, c3 int, c4 int, c5 int, c6 int, c7 int, c8 int, c9 int)",
    )?;
    // What is given, and what coverage shows of it.
    let accepted = [
        ("region", "region"),
        ("Region", "Region"),
        ("account no", "account no"),
        // A column of exactly this name is meant before any list.
        ("a,b", "a,b"),
        ("a, b", "a, b"),
        ("a, \"b", "a, \"b"),
        ("\"a,b\", a", "\"a,b\", a"),
        ("REGION, \"Region\"", "region, \"Region\""),
        (" region ,\n\"account no\"", "region, \"account no\""),
        ("c8, c7, c6, c5, c4, c3, c2, c1", "c8, c7, c6, c5, c4, c3, c2, c1"),
    ];
    for (given, shown) in accepted {
        operator.execute("SELECT holdfast.guard_table('odd', $1)", &[&given]).with_context(|| given)?;
        let told: String =
            operator.one("SELECT tenant_column FROM holdfast.coverage WHERE relation = 'odd'::regclass")?;
        ensure!(told == shown, "{given}: {told}");
        // What is shown can be given again.
        operator.execute("SELECT holdfast.guard_table('odd', $1)", &[&told])?;
        ensure!(
            operator.one::<String>("SELECT tenant_column FROM holdfast.coverage WHERE relation = 'odd'::regclass")?
                == shown
        );
    }
    let before = scene.policy()?;
    let refused = [
        ("", "42703", "column \"\" of table \"public.odd\" does not exist", ""),
        ("Nothing", "42703", "column \"Nothing\" of table \"public.odd\" does not exist", ""),
        ("\"region\"", "42703", "column \"\"region\"\" of table \"public.odd\" does not exist", ""),
        ("region, nowhere", "42703", "column \"nowhere\" of table \"public.odd\" does not exist", ""),
        ("region, Account No", "42602", "", "a comma is missing before \"No\""),
        ("region, ", "42602", "", "a name is missing"),
        (",", "42602", "", "a name is missing"),
        ("region,,a", "42602", "", "a name is missing"),
        ("region, 1", "42602", "", "no name begins with \"1\""),
        ("region, \"", "42602", "", "a quoted name has no end"),
        ("region, \"\"", "42602", "", "a quoted name is empty"),
        ("region, a, REGION", "42701", "", "Column \"region\" is listed twice."),
        ("c1,c2,c3,c4,c5,c6,c7,c8,c9", "54011", "", "It lists 9 columns; a tenant key has 8 at most."),
        ("region, amount", "42804", "column \"amount\" of table \"public.odd\" cannot be a tenant column", "numeric"),
        ("region, twice", "42P10", "column \"twice\" of table \"public.odd\" is generated", ""),
        ("ctid, region", "42703", "column \"ctid\" of table \"public.odd\" does not exist", ""),
    ];
    for (given, code, message, detail) in refused {
        let error =
            operator.execute("SELECT holdfast.guard_table('odd', $1)", &[&given]).err().with_context(|| given)?;
        let error = error.as_db_error().with_context(|| given)?;
        let told = error.detail().unwrap_or_default();
        let as_expected = error.code().code() == code && error.message().contains(message) && told.contains(detail);
        ensure!(as_expected && error.hint().is_some_and(|hint| !hint.is_empty()), "{given}: {error:?}");
    }
    ensure!(scene.policy()? == before, "a refused list has changed the policy");
    let wrong = operator.refused("SELECT holdfast.owner_of('(region)')")?;
    ensure!(
        wrong.code == "22P02" && wrong.hint.as_deref().is_some_and(|hint| hint.contains("ROW(...)::text")),
        "{wrong:?}"
    );
    Ok(())
}

pub(super) fn guarding_again(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("PREPARE p AS UPDATE accounts SET note = 'x' WHERE id = 2; EXECUTE p")?;
    operator.exec("SELECT holdfast.guard_table('accounts', 'region,no')")?;
    rebuilt.exec("EXECUTE p")?;
    // Another order is another tenant; a column less, too.
    operator.exec("SELECT holdfast.guard_table('accounts', 'no, region')")?;
    let refusal = rebuilt.refused("EXECUTE p")?;
    refused_by("not_owner", &refusal, "EXECUTE p")?;
    ensure!(refusal.message.contains("(20,eu)"), "{refusal:?}");
    operator.exec("SELECT holdfast.guard_table('accounts', 'no')")?;
    rebuilt.exec("EXECUTE p")?;
    operator.exec("SELECT holdfast.guard_table('accounts', 'region')")?;
    refused_by("not_owner", &rebuilt.refused("EXECUTE p")?, "EXECUTE p")?;
    operator.exec("SELECT holdfast.guard_table('accounts', 'region, no')")?;
    rebuilt.exec("EXECUTE p")?;
    let kept: i64 =
        operator.one("SELECT count(*) FROM holdfast.write_surface WHERE relation = 'accounts'::regclass")?;
    ensure!(kept == 3, "{kept} permissions");
    // A damaged guard's hint is the call that puts it back.
    scene.damage("ALTER TABLE accounts DISABLE TRIGGER \"~holdfast_guard\"")?;
    let refusal = rebuilt.refused("EXECUTE p")?;
    refused_by("guard_tampering", &refusal, "EXECUTE p")?;
    let hint = refusal.hint.unwrap_or_default();
    let command = hint.strip_prefix("Put it back: ").with_context(|| hint.clone())?;
    ensure!(command == "SELECT holdfast.guard_table('public.accounts', 'region, no');", "{command}");
    operator.exec(command)?;
    rebuilt.exec("EXECUTE p")
}

pub(super) fn columns_are_kept(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let cases = [
        ("ALTER TABLE accounts DROP region", Refused("guard_tampering")),
        ("ALTER TABLE accounts DROP no CASCADE", Refused("guard_tampering")),
        ("ALTER TABLE accounts DROP no, ADD no int DEFAULT 20", Refused("guard_tampering")),
        ("ALTER TABLE accounts RENAME no TO number", Refused("guard_tampering")),
        ("ALTER TABLE accounts RENAME region TO area", Refused("guard_tampering")),
        ("ALTER TABLE accounts ALTER no TYPE bigint", Refused("guard_tampering")),
        ("ALTER TABLE accounts ALTER region TYPE varchar(40) USING 'eu'", Refused("guard_tampering")),
        ("ALTER TABLE accounts ALTER no TYPE numeric", Refused("guard_tampering")),
        ("ALTER TABLE accounts RENAME note TO remark", Passes),
        ("ALTER TABLE accounts ALTER id TYPE bigint", Passes),
        ("ALTER TABLE accounts ADD more int", Passes),
        ("ALTER TABLE accounts DROP note", Passes),
        ("ALTER TABLE accounts ALTER no SET DEFAULT 10", Passes),
    ];
    scene.judge(&mut scene.operator()?, &cases)?;
    // One that was lost in break-glass stops all writes.
    scene.damage("ALTER TABLE accounts RENAME no TO number")?;
    let sql = "UPDATE accounts SET note = 'x' WHERE id = 2";
    let refusal = scene.rebuilt()?.refused(sql)?;
    refused_by("guard_tampering", &refusal, sql)?;
    let hint = refusal.hint.unwrap_or_default();
    ensure!(
        hint == "Name the column that holds the tenant now: SELECT holdfast.guard_table('public.accounts', 'region, no');",
        "{hint}"
    );
    refused_by("guard_tampering", &scene.legacy()?.refused(sql)?, sql)?;
    let shown = "SELECT tenant_column || '|' || guard || '|' || finding FROM holdfast.coverage WHERE relation = 'accounts'::regclass";
    let mut operator = scene.operator()?;
    ensure!(operator.one::<String>(shown)? == "region, no|columnless|its tenant column no is gone");
    operator.exec("SELECT holdfast.guard_table('accounts', 'region, number')")?;
    scene.rebuilt()?.exec(sql)
}

pub(super) fn coverage(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE TABLE alike (no int, x int, region text); CREATE TABLE partly (region text);
         CREATE TABLE fixed (region text, no int, tenant_id int); SELECT holdfast.guard_global('fixed')",
    )?;
    scene.damage("ALTER TABLE accounts ALTER no TYPE numeric")?;
    let shown = "SELECT relation::text, coalesce(tenant_column, ''), finding FROM holdfast.coverage
        WHERE relation IN ('alike', 'partly', 'fixed', 'accounts')";
    let told = lines(operator.rows(shown)?);
    let expected = [
        "accounts|region, no|one of its tenant columns has changed its nature",
        "alike||not classified; its region, no are tenant columns elsewhere",
        "fixed||global; its region, no are tenant columns elsewhere",
        "partly||not classified",
    ];
    ensure!(told == expected, "{told:#?}");
    // As of a table that was dropped unseen.
    let gone = "UPDATE holdfast.classified_table SET relation = 4000000000 WHERE relation = 'accounts'::regclass";
    scene.damage(gone)?;
    let dropped: String = operator.one("SELECT tenant_column FROM holdfast.coverage WHERE finding LIKE 'dropped%'")?;
    ensure!(dropped == "region, no");
    Ok(())
}

pub(super) fn whole_schema(cluster: &Cluster) -> Result<()> {
    let scene = set(cluster)?;
    let mut operator = scene.operator()?;
    operator.exec(
        "CREATE SCHEMA shop; SET search_path = shop;
         CREATE TABLE tenants (area text, no int, PRIMARY KEY (no, area));
         CREATE TABLE orders (id int PRIMARY KEY, region text NOT NULL, account_no int NOT NULL,
             FOREIGN KEY (account_no, region) REFERENCES tenants, UNIQUE (id, region, account_no));
         CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders);
         CREATE TABLE parcels (id int PRIMARY KEY, o int NOT NULL, r text NOT NULL, a int NOT NULL,
             FOREIGN KEY (o, r, a) REFERENCES orders (id, region, account_no));
         CREATE TABLE regions (region text PRIMARY KEY);
         CREATE TABLE prices (region text, account_no numeric);
         RESET search_path;
         GRANT ALL ON SCHEMA shop TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA shop TO PUBLIC",
    )?;
    let call =
        "SELECT relation::text, coalesce(class, ''), coalesce(tenant_column, ''), coalesce(via, ''), action, reason
        FROM holdfast.guard_schema('shop', 'Region, account_no', dry_run := false)";
    let told = lines(operator.rows(call)?);
    let expected = [
        "shop.orders|tenant|region, account_no||guard|It has the columns region, account_no.",
        "shop.parcels|tenant|r, a||guard|Its columns r, a refer to the tenant columns of orders.",
        "shop.prices||||decide|Its columns region, account_no can't be the tenant columns: column account_no's type is numeric.",
        "shop.regions|global|||guard|It has no columns region, account_no, and no foreign key of it leads to a tenant; nothing refers to it.",
        "shop.tenants|tenant|area, no||guard|The tenant columns of orders refer to its columns area, no.",
        "shop.items|tenant||order_id|guard|Its tenant is that of its row in orders, by order_id.",
    ];
    ensure!(told == expected, "{told:#?}");
    operator.exec("SELECT holdfast.allow_writes('rebuilt', 'shop.' || t) FROM unnest('{tenants,orders,items,parcels}'::text[]) AS t")?;
    let mut rebuilt = scene.rebuilt()?;
    rebuilt.exec("INSERT INTO shop.tenants VALUES ('eu', 20); INSERT INTO shop.orders VALUES (1, 'eu', 20)")?;
    scene.legacy()?.exec("INSERT INTO shop.tenants VALUES ('eu', 10)")?;
    let cases = [
        ("INSERT INTO shop.items VALUES (1, 1); INSERT INTO shop.parcels VALUES (1, 1, 'eu', 20)", Passes),
        ("UPDATE shop.orders SET account_no = 10", Refused("unfiltered_write")),
        ("UPDATE shop.orders SET account_no = 10 WHERE id = 1", Refused("not_owner")),
    ];
    scene.judge(&mut rebuilt, &cases)?;
    let refusal = operator.refused("SELECT holdfast.guard_schema('shop', 'region,')")?;
    ensure!(refusal.code == "42602", "{refusal:?}");
    Ok(())
}
