//! Dumps: what a guarded database becomes when it is restored.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::platform::{POLICY_STATE, Platform, contents, policy};
use crate::client::{Rows, Session};
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Database;

/// Every way in which the server's programs dump and restore.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("plain_sql_through_psql", plain_sql_through_psql),
        Test::shared("plain_sql_with_inserts_in_one_transaction", plain_sql_with_inserts),
        Test::shared("custom_format", custom_format),
        Test::shared("custom_format_with_two_jobs", custom_format_with_two_jobs),
        Test::shared("directory_format_dumped_and_restored_by_jobs", directory_format),
        Test::shared("section_by_section", section_by_section),
        Test::shared("clean_over_what_is_there", clean_over_what_is_there),
        Test::shared("schema_first_then_rows_then_policy", schema_first_then_rows_then_policy),
        Test::shared("rows_after_the_policy_are_judged_by_it", rows_after_the_policy),
        Test::shared("disabled_triggers_leave_no_hole", disabled_triggers),
        Test::shared("an_operator_dumps_without_being_superuser", an_operator_dumps),
        Test::own("whole_cluster_into_another", ClusterOptions::new(), whole_cluster),
    ]
}

/// How many sessions of pg_restore load at a time.
const JOBS: &str = "--jobs=2";

/// What a restored database must have in common with its original.
struct Original<'a> {
    cluster: &'a Cluster,
    platform: Platform,
    policy: Rows,
    contents: Rows,
    events: Rows,
    verdicts: Vec<String>,
}

/// Events by content: the verdicts' own come after the dump.
const EVENTS: &str = "SELECT e::text FROM holdfast.event e ORDER BY e.id";

impl<'a> Original<'a> {
    fn make(cluster: &'a Cluster) -> Result<Original<'a>> {
        let platform = Platform::guarded(cluster, "dump")?;
        let mut rebuilt = platform.database.connect_as(&platform.rebuilt)?;
        rebuilt.refused("UPDATE orders SET note = 'x' WHERE tenant_id = 10")?;
        rebuilt.exec("INSERT INTO orders (tenant_id) VALUES (20)")?;
        let mut dba = platform.database.connect()?;
        dba.exec("SELECT holdfast.flush_events()")?;
        let (policy, contents, events) = (dba.rows(POLICY_STATE)?, contents(&mut dba)?, dba.rows(EVENTS)?);
        ensure!(!events.is_empty() && policy.len() > 100, "{} rows of policy", policy.len());
        Ok(Original { cluster, platform, policy, contents, events, verdicts: Vec::new() })
    }

    fn name(&self) -> &str {
        &self.platform.database.name
    }

    /// Writes the dump to a file of this name in a folder of the test's own.
    fn dump(&self, file: &str, args: &[&str]) -> Result<String> {
        self.dump_as("postgres", file, args)
    }

    fn dump_as(&self, role: &str, file: &str, args: &[&str]) -> Result<String> {
        let folder = self.cluster.postgres().folder(self.name())?;
        let path = folder.join(file).display().to_string();
        let mut dump = self.cluster.command("pg_dump");
        dump.args(args).args(["--file", &path, "--dbname", self.name()]).env("PGUSER", role);
        succeeds(self.cluster, dump)?;
        Ok(path)
    }

    /// A database to restore into.
    fn empty(&self) -> Result<Database> {
        self.cluster.database("restored")
    }

    /// The copy is guarded as the original is.
    fn ensure_same(&mut self, copy: &Database) -> Result<()> {
        let mut there = copy.connect()?;
        same("rows", &contents(&mut there)?, &self.contents)?;
        same("policy", &there.rows(POLICY_STATE)?, &self.policy)?;
        same("events", &there.rows(EVENTS)?, &self.events)?;
        self.ensure_judged_alike(copy)?;
        let findings = there.rows("SELECT * FROM holdfast.coverage WHERE finding LIKE 'its guard%'")?;
        ensure!(findings.is_empty(), "{findings:?}");
        ensure_operable(&mut there)
    }

    /// Both databases answer every write in the same way.
    fn ensure_judged_alike(&mut self, copy: &Database) -> Result<()> {
        if self.verdicts.is_empty() {
            self.verdicts = self.platform.verdicts(&self.platform.database)?;
            let refused = self.verdicts.iter().filter(|verdict| verdict.contains("WG0")).count();
            ensure!(refused > 20 && refused < self.verdicts.len(), "{:#?}", self.verdicts);
        }
        same("verdicts", &self.platform.verdicts(copy)?, &self.verdicts)
    }
}

/// Sequences went along, and the policy can be changed: a handover, an identity, a damaged guard's repair.
fn ensure_operable(there: &mut Session) -> Result<()> {
    there.exec("SELECT holdfast.cutover('60', 'rebuilt', require_ready => false)")?;
    let latest: String = there.one(
        "SELECT tenant FROM holdfast.ownership_history WHERE id = (SELECT max(id) FROM holdfast.ownership_change)",
    )?;
    ensure!(latest == "60", "the newest handover is that of {latest}");
    there.exec("SELECT holdfast.add_identity('legacy', application_name => 'x')")?;
    there.exec("SELECT holdfast.guard_table('orders', 'tenant_id')")?;
    there.exec("INSERT INTO orders (tenant_id) VALUES (10); INSERT INTO customers (tenant_id) VALUES (10)")
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Result<()> {
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
    let added: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
    ensure!(found == expected, "{what}: only in the original {missing:#?}\nonly in the copy {added:#?}");
    Ok(())
}

/// Runs a program that must succeed and say nothing.
fn succeeds(cluster: &Cluster, command: Command) -> Result<()> {
    let (status, said) = outcome(cluster, command)?;
    ensure!(status && said.is_empty(), "{said}");
    Ok(())
}

fn outcome(cluster: &Cluster, command: Command) -> Result<(bool, String)> {
    let output = cluster.output(command, "")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// psql with a plain dump: the first error ends it.
fn psql(cluster: &Cluster, database: &str, file: &str, args: &[&str]) -> Result<()> {
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", file]).args(args);
    succeeds(cluster, psql)
}

fn restore(cluster: &Cluster, database: &str, file: &str, args: &[&str]) -> Command {
    let mut restore = cluster.command("pg_restore");
    restore.args(["--exit-on-error", "--dbname", database]).args(args).arg(file);
    restore
}

fn restored(original: &Original, file: &str, steps: &[&[&str]]) -> Result<Database> {
    let copy = original.empty()?;
    for args in steps {
        succeeds(original.cluster, restore(original.cluster, &copy.name, file, args))
            .with_context(|| format!("pg_restore {args:?}"))?;
    }
    Ok(copy)
}

fn plain_sql_through_psql(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("plain.sql", &["--format=plain"])?;
    let copy = original.empty()?;
    psql(cluster, &copy.name, &file, &[])?;
    original.ensure_same(&copy)
}

fn plain_sql_with_inserts(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("inserts.sql", &["--format=plain", "--column-inserts", "--quote-all-identifiers"])?;
    let copy = original.empty()?;
    psql(cluster, &copy.name, &file, &["--single-transaction"])?;
    original.ensure_same(&copy)
}

fn custom_format(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("custom", &["--format=custom"])?;
    let copy = restored(&original, &file, &[&["--jobs=1"]])?;
    original.ensure_same(&copy)?;
    let copy = restored(&original, &file, &[&["--single-transaction"]])?;
    original.ensure_same(&copy)?;
    // A dump of the dump: what it carries doesn't wear off.
    let again = cluster.postgres().folder(&copy.name)?.join("again").display().to_string();
    let fresh = restored(&original, &file, &[&[]])?;
    ensure!(cluster.run("pg_dump", &["--format=custom", "--file", &again, &fresh.name])?.status.success());
    let copy = restored(&original, &again, &[&[JOBS]])?;
    original.ensure_same(&copy)
}

fn custom_format_with_two_jobs(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("custom", &["--format=custom"])?;
    let copy = restored(&original, &file, &[&[JOBS]])?;
    original.ensure_same(&copy)
}

fn directory_format(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("folder", &["--format=directory", "--jobs=2"])?;
    let copy = restored(&original, &file, &[&[JOBS, "--no-owner", "--no-comments"]])?;
    original.ensure_same(&copy)
}

fn section_by_section(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("custom", &["--format=custom"])?;
    let steps: [&[&str]; 3] = [&["--section=pre-data"], &["--section=data", JOBS], &["--section=post-data", JOBS]];
    let copy = restored(&original, &file, &steps)?;
    original.ensure_same(&copy)
}

fn clean_over_what_is_there(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = original.dump("custom", &["--format=custom"])?;
    let copy = original.empty()?;
    let args: &[&str] = &["--clean", "--if-exists"];
    for round in ["into nothing", "over itself"] {
        if round == "over itself" {
            // It drops foreign keys one by one, and the extension.
            copy.connect()?.exec("SELECT holdfast.set_mode('off')")?;
        }
        let (ok, said) = outcome(cluster, restore(cluster, &copy.name, &file, args))?;
        ensure!(ok, "{round}: {said}");
    }
    original.ensure_same(&copy)
}

/// A copy that has the tables, the extension and nothing in them. A dump of the schema alone carries no policy.
fn schema_only(original: &Original) -> Result<Database> {
    let schema = original.dump("schema", &["--format=custom", "--schema-only"])?;
    restored(original, &schema, &[&[]])
}

fn schema_first_then_rows_then_policy(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let copy = schema_only(&original)?;
    // The application's own trigger would count every row again.
    copy.connect()?.exec("ALTER TABLE orders DISABLE TRIGGER touch")?;
    for (file, which) in [("rows", "--exclude-schema=holdfast"), ("policy", "--schema=holdfast")] {
        let file = original.dump(file, &["--format=custom", "--data-only", which])?;
        succeeds(cluster, restore(cluster, &copy.name, &file, &[]))?;
    }
    copy.connect()?.exec("ALTER TABLE orders ENABLE TRIGGER touch")?;
    original.ensure_same(&copy)
}

/// Into a guarded database with a policy go only rows that the restoring session may write.
fn rows_after_the_policy(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let copy = schema_only(&original)?;
    let policy = original.dump("policy", &["--format=custom", "--data-only", "--schema=holdfast"])?;
    succeeds(cluster, restore(cluster, &copy.name, &policy, &[]))?;
    let rows =
        original.dump("rows", &["--format=custom", "--data-only", "--exclude-schema=holdfast", "--table=orders"])?;
    let (ok, said) = outcome(cluster, restore(cluster, &copy.name, &rows, &[]))?;
    ensure!(!ok && said.contains("may not write tenant \"20\""), "{said}");
    ensure!(copy.connect()?.one::<i64>("SELECT count(*) FROM orders")? == 0);
    // The way for a restore in anger: no rule, then the rows, then the policy as it was.
    copy.connect()?.exec("SELECT holdfast.set_mode('off'); ALTER TABLE orders DISABLE TRIGGER touch")?;
    let rows = original.dump("rows", &["--format=custom", "--data-only", "--exclude-schema=holdfast"])?;
    succeeds(cluster, restore(cluster, &copy.name, &rows, &[]))?;
    copy.connect()?.exec("SELECT holdfast.set_mode('enforce'); ALTER TABLE orders ENABLE TRIGGER touch")?;
    original.ensure_judged_alike(&copy)
}

/// `--disable-triggers` disables the guard as well, and leaves it as a trigger that a replica session skips: from then on nobody
/// writes those tables, until they are guarded again.
fn disabled_triggers(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let copy = schema_only(&original)?;
    let args = ["--format=custom", "--data-only"];
    let rows = original.dump("rows", &[&args[..], &["--exclude-schema=holdfast"]].concat())?;
    let state = original.dump("policy", &[&args[..], &["--schema=holdfast"]].concat())?;
    // The extension's own triggers can't be disabled, and needn't be.
    for (file, args) in [(&rows, &["--disable-triggers"][..]), (&state, &[])] {
        succeeds(cluster, restore(cluster, &copy.name, file, args))?;
    }
    let mut dba = copy.connect()?;
    same("rows", &contents(&mut dba)?, &original.contents)?;
    for role in [&original.platform.legacy, &original.platform.rebuilt] {
        for tenant in [10, 20] {
            let sql = format!("UPDATE orders SET note = 'x' WHERE tenant_id = {tenant}");
            let refusal = copy.connect_as(role)?.refused(&sql)?;
            ensure!(refusal.code == "WG023", "{role}: {sql}: {refusal:?}");
        }
    }
    let (legacy, rebuilt) = (&original.platform.legacy, &original.platform.rebuilt);
    for call in
        policy(legacy, rebuilt).lines().filter(|line| line.contains("guard_table") || line.contains("guard_global"))
    {
        dba.exec(call)?;
    }
    let findings = dba.rows("SELECT * FROM holdfast.coverage WHERE finding LIKE 'its guard%'")?;
    ensure!(findings.is_empty(), "{findings:?}");
    original.ensure_judged_alike(&copy)
}

fn an_operator_dumps(cluster: &Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let operator = original.platform.database.role("operator")?;
    let mut dba = original.platform.database.connect()?;
    dba.exec(&format!("SELECT holdfast.grant_operator('{operator}'); GRANT pg_read_all_data TO {operator}"))?;
    original.policy = dba.rows(POLICY_STATE)?;
    let file = original.dump_as(&operator, "custom", &["--format=custom"])?;
    let copy = restored(&original, &file, &[&[JOBS]])?;
    original.ensure_same(&copy)
}

fn whole_cluster(cluster: &mut Cluster) -> Result<()> {
    let mut original = Original::make(cluster)?;
    let file = cluster.postgres().folder("whole")?.join("all.sql").display().to_string();
    let dumped = cluster.run("pg_dumpall", &["--file", &file])?;
    ensure!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let other = Cluster::start(cluster.postgres(), ClusterOptions::new())?;
    let mut psql = other.command("psql");
    psql.args(["-X", "-q", "-f", &file]);
    let (_, said) = outcome(&other, psql)?;
    // The superuser is there already.
    let mut errors =
        said.lines().filter(|line| line.contains("ERROR") && !line.contains("role \"postgres\" already exists"));
    ensure!(errors.next().is_none(), "{said}");
    original.ensure_same(&other.existing_database(original.name()))
}
