//! What a failed handover leaves behind.

use anyhow::{Result, ensure};

use super::super::two_backends::TwoBackends;
use crate::wait::eventually;

/// Tenants whose owner, epoch or freeze isn't what history last said.
const CONTRADICTIONS: &str = "
    SELECT tenant, o.owner, o.epoch, c.to_backend, c.epoch, o.freeze_reason FROM holdfast.ownership o
    FULL JOIN (SELECT DISTINCT ON (tenant) tenant, to_backend, epoch FROM holdfast.ownership_change
               ORDER BY tenant, id DESC) c USING (tenant)
    WHERE (o.owner, o.epoch) IS DISTINCT FROM (c.to_backend, c.epoch) OR o.freeze_reason IS NOT NULL";

/// Those of tenants, of all of them, of moves and of waves.
const OUR_LOCKS: &str = "
    SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid BETWEEN 18502 AND 18506
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";

/// A tenant's history before its handover fails.
pub struct Before<'a> {
    stage: &'a TwoBackends,
    tenant: &'a str,
    changes: i64,
}

impl Before<'_> {
    /// Counts it.
    pub fn look<'a>(stage: &'a TwoBackends, tenant: &'a str) -> Result<Before<'a>> {
        Ok(Before { stage, tenant, changes: changes(stage, tenant)? })
    }

    /// History has so many more entries, and says what the tenant's row says.
    pub fn check(&self, owner: &str, more: i64) -> Result<()> {
        let mut operator = self.stage.operator()?;
        let now: String = operator.query_one("SELECT holdfast.owner_of($1)", &[&self.tenant])?.try_get(0)?;
        ensure!(now == owner, "{now} owns the tenant");
        let really = changes(self.stage, self.tenant)? - self.changes;
        ensure!(really == more, "{really} more entries of history, not {more}");
        let contradictions = operator.rows(CONTRADICTIONS)?;
        ensure!(contradictions.is_empty(), "ownership and its history differ: {contradictions:?}");
        let prepared: i64 = operator.one("SELECT count(*) FROM pg_catalog.pg_prepared_xacts")?;
        ensure!(prepared == 0, "{prepared} prepared transactions");
        eventually("the locks of ended sessions to go", || Ok(operator.one::<i64>(OUR_LOCKS)? == 0))?;
        Ok(())
    }
}

fn changes(stage: &TwoBackends, tenant: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM holdfast.ownership_change WHERE tenant = $1";
    Ok(stage.operator()?.query_one(sql, &[&tenant])?.try_get(0)?)
}

/// A wave of two tenants, of which the first gives it its name.
pub struct Wave<'a> {
    stage: &'a TwoBackends,
    name: &'a str,
}

impl Wave<'_> {
    /// Plans it.
    pub fn add<'a>(stage: &'a TwoBackends, first: &'a str, second: &str) -> Result<Wave<'a>> {
        let sql = "SELECT holdfast.add_wave(left($1, 200), ARRAY[$1, $2], soak => '1 hour', max_refusals => 1000000, max_pause => '1 min')";
        stage.operator()?.execute(sql, &[&first, &second])?;
        Ok(Wave { stage, name: first.get(..200).unwrap_or(first) })
    }

    /// It says that a tenant has moved where it has, and wants to be run again.
    pub fn is_true(&self) -> Result<()> {
        let sql = "
            SELECT count(*) FROM holdfast.wave w JOIN holdfast.wave_tenant t ON t.wave_id = w.id
            WHERE w.wave = $1 AND ((t.state = 'moved') <> (holdfast.owner_of(t.tenant) = 'rebuilt')
                OR t.state NOT IN ('waiting', 'moved') OR w.state NOT IN ('planned', 'moving'))";
        let untrue: i64 = self.stage.operator()?.query_one(sql, &[&self.name])?.try_get(0)?;
        ensure!(untrue == 0, "the wave has lost sight of {untrue} tenants");
        Ok(())
    }

    /// All of it has; the next wave may come.
    pub fn has_moved(&self) -> Result<()> {
        let sql = "
            SELECT bool_and(t.state = 'moved' AND w.state = 'soaking' AND holdfast.owner_of(t.tenant) = 'rebuilt')
            FROM holdfast.wave w JOIN holdfast.wave_tenant t ON t.wave_id = w.id WHERE w.wave = $1";
        let mut operator = self.stage.operator()?;
        ensure!(operator.query_one(sql, &[&self.name])?.try_get::<_, bool>(0)?, "the wave has not moved");
        operator.execute("SELECT holdfast.abort_wave($1)", &[&self.name])?;
        Ok(())
    }
}
