//! Who moves the tenants: the migration's operator, with a connection of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postgres::error::SqlState;
use postgres::{Error, Row, Transaction};

use crate::client::Session;

use super::backend::Backend;

/// How often a cutover that found its tenant busy is tried.
const MOST_TRIES: u32 = 5;

/// A cutover that was made.
pub struct HandOver {
    /// The pause of the tenant's writers, as the extension reports it.
    pub paused: Duration,
    /// From BEGIN to COMMIT as the driver felt it.
    pub took: Duration,
}

/// Calls cutover and rollback_cutover, and leaves a mark of each.
pub struct Driver(Session);

impl Driver {
    /// A driver on the operator's connection.
    pub fn new(session: Session) -> Driver {
        Driver(session)
    }

    /// Hands `tenant` to `to`; tries again while its writers don't pause in time.
    pub fn cut_over(&mut self, tenant: i32, to: Backend) -> Result<HandOver> {
        let sql = "SELECT *, extract(epoch FROM paused)::float8 AS seconds FROM holdfast.cutover($1, $2)";
        let (tenant_key, to) = (tenant.to_string(), to.name());
        self.persist(|driver| driver.marked(tenant, |client| client.query_one(sql, &[&tenant_key, &to])))
            .with_context(|| format!("cutover of tenant {tenant} to {to}"))
    }

    /// Hands `tenant` back.
    pub fn roll_back(&mut self, tenant: i32) -> Result<HandOver> {
        let sql = "SELECT *, extract(epoch FROM paused)::float8 AS seconds FROM holdfast.rollback_cutover($1)";
        let tenant_key = tenant.to_string();
        self.persist(|driver| driver.marked(tenant, |client| client.query_one(sql, &[&tenant_key])))
            .with_context(|| format!("rollback of tenant {tenant}"))
    }

    fn persist(&mut self, mut hand_over: impl FnMut(&mut Self) -> Result<HandOver, Error>) -> Result<HandOver> {
        for _ in 1..MOST_TRIES {
            match hand_over(self) {
                // It got the tenant too late, or so late that no time was left for the mark.
                Err(error)
                    if matches!(error.code(), Some(&(SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED))) => {}
                result => return Ok(result?),
            }
        }
        Ok(hand_over(self)?)
    }

    /// The cutover, and in the same transaction a mark of where it stands among the tenant's writes. After the
    /// function returns the transaction holds the tenant alone, so the clock that the next statement reads (with a
    /// snapshot of its own) counts every write of the former owner and none of the new one.
    fn marked(
        &mut self,
        tenant: i32,
        call: impl FnOnce(&mut Transaction) -> Result<Row, Error>,
    ) -> Result<HandOver, Error> {
        let started = Instant::now();
        let mut transaction = self.0.transaction()?;
        let row = call(&mut transaction)?;
        let (epoch, from, to): (i64, String, String) =
            (row.try_get("epoch")?, row.try_get("from_backend")?, row.try_get("to_backend")?);
        transaction.execute(
            "INSERT INTO demo_marks (brokerage_id, epoch, sequence, from_backend, to_backend) \
             SELECT brokerage_id, $2, sequence, $3, $4 FROM tenant_clock WHERE brokerage_id = $1",
            &[&tenant, &epoch, &from, &to],
        )?;
        transaction.commit()?;
        let paused = Duration::try_from_secs_f64(row.try_get("seconds")?).unwrap_or_default();
        Ok(HandOver { paused, took: started.elapsed() })
    }
}
