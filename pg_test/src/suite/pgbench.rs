//! The real pgbench on its own schema, guarded: branches as tenants.

use anyhow::{Result, ensure};

use super::Test;
use crate::cluster::Cluster;

/// Of a legacy application that knows nothing of the guard.
pub fn tests() -> Vec<Test> {
    vec![Test::shared("built_in_scripts_run_in_enforce_mode", built_in_scripts)]
}

fn built_in_scripts(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("pgbench")?;
    let (legacy, name) = (database.role("legacy")?, database.name.clone());
    let run = |arguments: &[&str]| -> Result<String> {
        let output = cluster.run("pgbench", &[arguments, &[&name]].concat())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && !said.contains("ERROR"), "pgbench {arguments:?}:\n{said}");
        Ok(said)
    };
    let mut dba = database.connect()?;
    dba.exec(&format!("GRANT ALL ON SCHEMA public TO {legacy}"))?;
    // As the legacy role, so that it owns its tables, as applications do.
    run(&["-i", "-q", "-s", "4", "-U", &legacy])?;
    dba.exec(&format!(
        "SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
         SELECT holdfast.add_identity('legacy', role => '{legacy}');
         SELECT holdfast.guard_table(('pgbench_' || t)::regclass, 'bid') FROM unnest('{{branches,tellers,accounts,history}}'::text[]) t;
         SELECT holdfast.set_mode('enforce');"
    ))?;
    let mut transactions = 0;
    for script in ["tpcb-like", "simple-update", "select-only"] {
        for protocol in ["simple", "extended", "prepared"] {
            let said = run(&["-n", "-b", script, "-M", protocol, "-c", "8", "-j", "2", "-t", "100", "-U", &legacy])?;
            ensure!(said.contains("number of transactions actually processed: 800/800"), "{said}");
            ensure!(said.contains("number of failed transactions: 0"), "{said}");
            transactions += if script == "select-only" { 0 } else { 800 };
        }
    }
    let agree: bool = dba.one(&format!(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)
            AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(tbalance) FROM pgbench_tellers)
            AND (SELECT count(*) FROM pgbench_history) = {transactions}
            AND NOT EXISTS (SELECT FROM pgbench_tellers t LEFT JOIN pgbench_branches b USING (bid) WHERE b.bid IS NULL)"
    ))?;
    ensure!(agree, "the sums differ");
    ensure!(
        dba.one::<i64>("SELECT holdfast.flush_events() + count(*) FROM holdfast.event")? == 0,
        "nothing was refused"
    );
    // pgbench's own vacuum and truncation of the history, and a second initialisation, are the legacy backend's business.
    run(&["-b", "tpcb-like", "-t", "1", "-U", &legacy])?;
    Ok(())
}
