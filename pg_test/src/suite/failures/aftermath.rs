//! What a failed handover leaves behind.

use anyhow::{Result, ensure};

use super::super::two_backends::TwoBackends;

/// Tenants whose owner, epoch or freeze isn't what history last said.
const CONTRADICTIONS: &str = "
    SELECT tenant, o.owner, o.epoch, c.to_backend, c.epoch, o.freeze_reason FROM holdfast.ownership o
    FULL JOIN (SELECT DISTINCT ON (tenant) tenant, to_backend, epoch FROM holdfast.ownership_change
               ORDER BY tenant, id DESC) c USING (tenant)
    WHERE (o.owner, o.epoch) IS DISTINCT FROM (c.to_backend, c.epoch) OR o.freeze_reason IS NOT NULL";

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
        Ok(())
    }
}

fn changes(stage: &TwoBackends, tenant: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM holdfast.ownership_change WHERE tenant = $1";
    Ok(stage.operator()?.query_one(sql, &[&tenant])?.try_get(0)?)
}
