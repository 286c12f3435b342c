//! What a failed handover leaves behind.

use anyhow::{Result, ensure};

use super::Point;

/// Tenants whose owner, epoch or freeze isn't what history last said.
const CONTRADICTIONS: &str = "
    SELECT tenant, o.owner, o.epoch, c.to_backend, c.epoch, o.freeze_reason FROM holdfast.ownership o
    FULL JOIN (SELECT DISTINCT ON (tenant) tenant, to_backend, epoch FROM holdfast.ownership_change
               ORDER BY tenant, id DESC) c USING (tenant)
    WHERE (o.owner, o.epoch) IS DISTINCT FROM (c.to_backend, c.epoch) OR o.freeze_reason IS NOT NULL";

/// The history before a point.
pub struct Before {
    changes: i64,
}

impl Before {
    /// Counts it.
    pub fn look(point: &Point) -> Result<Before> {
        Ok(Before { changes: changes(point)? })
    }

    /// History has one more entry if the handover was committed, and none if it wasn't; it says what the tenant's row says.
    pub fn check(&self, point: &Point, committed: bool) -> Result<()> {
        let (old, new) = point.handover.owners();
        let owner = point.stage.owner(point.tenant)?;
        ensure!(owner == if committed { new } else { old }, "{owner} owns the tenant; committed: {committed}");
        let more = changes(point)? - self.changes;
        ensure!(more == i64::from(committed), "{more} more entries of history; committed: {committed}");
        let mut operator = point.stage.operator()?;
        let contradictions = operator.rows(CONTRADICTIONS)?;
        ensure!(contradictions.is_empty(), "ownership and its history differ: {contradictions:?}");
        let prepared: i64 = operator.one("SELECT count(*) FROM pg_catalog.pg_prepared_xacts")?;
        ensure!(prepared == 0, "{prepared} prepared transactions");
        Ok(())
    }
}

fn changes(point: &Point) -> Result<i64> {
    let tenant = point.tenant;
    point.stage.operator()?.one(&format!("SELECT count(*) FROM holdfast.ownership_change WHERE tenant = '{tenant}'"))
}
