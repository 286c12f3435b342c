//! Show 5: a physical standby is promoted in the middle of a wave.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Test;
use super::standby::Standby;
use super::two_backends::{TwoBackends, write};
use super::waves::{plan, run, state, tenants};
use crate::cluster::{Cluster, ClusterOptions, Shutdown};
use crate::wait::within;

const PATIENCE: Duration = Duration::from_secs(60);

/// Of a primary and its standby.
pub fn tests() -> Vec<Test> {
    vec![Test::own("a_wave_goes_on_where_its_standby_is_promoted", ClusterOptions::new(), goes_on)]
}

fn goes_on(primary: &mut Cluster) -> Result<()> {
    let scene = TwoBackends::begin(primary, "wave")?;
    let standby = Standby::of(primary)?;
    standby.synchronize(primary)?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 100, ", max_pause => '1 min', soak => '3 s'"))?;

    // A cutover is in flight when the primary dies: its tenant is locked, nothing of it is committed.
    let mut busy = scene.legacy()?;
    busy.exec("BEGIN")?;
    busy.exec(&write(60))?;
    let mut running = scene.operator()?.start(&run("w"));
    running.wait_until_blocked()?;
    let committed: Vec<Vec<Option<String>>> =
        dba.rows("SELECT tenant, owner, epoch FROM holdfast.tenants ORDER BY 1")?;
    ensure!(committed.len() == 59, "{} tenants have moved", committed.len());
    primary.stop(Shutdown::Kill9)?;
    drop((running, busy, dba));

    standby.promote()?;
    let there = scene.at(standby.cluster.existing_database(&scene.database.name));
    let mut dba = there.operator()?;
    let owners = dba.rows("SELECT tenant, owner, epoch FROM holdfast.tenants ORDER BY 1")?;
    ensure!(owners == committed, "the promoted server says {owners:?}");
    let locks = there.tenant_locks()?;
    ensure!(locks == 0, "{locks} locks came along");
    ensure!(state(&mut dba, "w")? == "moving" && tenants(&mut dba, "w", "moved")? == 59);
    for (tenant, owner) in [(59, "rebuilt"), (60, "legacy"), (61, "legacy")] {
        there.ensure_sound(tenant, owner)?;
    }

    dba.exec(&run("w"))?;
    let moved: String = dba.one("SELECT count(*) || ' ' || min(owner) || ' ' || max(epoch) FROM holdfast.tenants")?;
    ensure!(moved == "100 rebuilt 1", "{moved}");
    let changes: i64 = dba.one("SELECT count(*) FROM holdfast.ownership_history")?;
    ensure!(changes == 100, "{changes} handovers of 100 tenants");
    // ensure_sound() has had writes refused, to the new owner as well.
    within(PATIENCE, "the promoted server's worker to judge the wave", || {
        Ok(["passed", "halted"].contains(&&*state(&mut dba, "w")?))
    })?;
    there.ensure_sound(60, "rebuilt")
}
