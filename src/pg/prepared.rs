//! Statements that run often, for every batch of events or every tenant that is handed over: planned once for the process.
//! Postgres plans them anew when what they are about has changed.

use std::borrow::Cow;

use pgrx::PgOid;
use pgrx::Spi;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{Error, OwnedPreparedStatement, SpiTupleTable};

/// A statement, planned when it runs first.
pub struct Prepared {
    sql: Cow<'static, str>,
    plan: Option<OwnedPreparedStatement>,
}

impl Prepared {
    /// It is planned later.
    pub fn new(sql: impl Into<Cow<'static, str>>) -> Prepared {
        Prepared { sql: sql.into(), plan: None }
    }

    /// Runs it with arguments of the types that it had the first time.
    pub fn run<R>(
        &mut self,
        arguments: &[DatumWithOid],
        read: impl FnOnce(SpiTupleTable) -> Result<R, Error>,
    ) -> Result<R, Error> {
        Spi::connect_mut(|client| {
            let plan = match self.plan.take() {
                Some(plan) => plan,
                None => {
                    let types: Vec<PgOid> = arguments.iter().map(|a| PgOid::from(a.oid())).collect();
                    client.prepare_mut(self.sql.as_ref(), &types)?.keep()
                }
            };
            let plan = self.plan.insert(plan);
            read(client.update(&*plan, None, arguments)?)
        })
    }

    /// As [`Prepared::run`], where what it gives isn't asked for.
    pub fn execute(&mut self, arguments: &[DatumWithOid]) -> Result<(), Error> {
        self.run(arguments, |_| Ok(()))
    }
}
