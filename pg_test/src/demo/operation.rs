//! What the applications do: one short transaction an operation.
//!
//! Whatever the operation writes, it ends by taking the tenant's next number and appending itself to `operations`.
//! That comes last, so that the row lock on `tenant_clock`, which orders a tenant's transactions, is held briefly
//! and taken after every other row lock: the applications can't deadlock with themselves.

use fastrand::Rng;
use postgres::types::ToSql;
use postgres::{Client, Error, IsolationLevel, Statement, Transaction};

use crate::client::Session;

use super::backend::Backend;
use super::ledger::{Table, Written};

/// The first partition key, homeowner or property of a tenant is `(tenant - 1) * ROWS + 1`, as seed.sql has it.
const ROWS: i64 = 2;

/// What kind of work a request asks for.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A single INSERT, whose trigger updates the homeowner.
    SendMessage,
    /// UPDATE by key.
    UpdateValuation,
    /// Read, then UPDATE by key, in REPEATABLE READ.
    ChangePrice,
    /// INSERT ... ON CONFLICT DO UPDATE.
    SetPreference,
    /// INSERT into a partitioned table.
    LogActivity,
    /// Four tables along their foreign keys.
    ListProperty,
    /// SELECT ... FOR UPDATE of the parent, DELETE, INSERT.
    Reschedule,
    /// The first write is undone by ROLLBACK TO SAVEPOINT, then done again.
    UploadTwice,
}

/// How often each kind comes up, of 100.
const MIX: [(Kind, u8); 8] = [
    (Kind::SendMessage, 28),
    (Kind::UpdateValuation, 20),
    (Kind::ChangePrice, 8),
    (Kind::SetPreference, 10),
    (Kind::LogActivity, 14),
    (Kind::ListProperty, 6),
    (Kind::Reschedule, 8),
    (Kind::UploadTwice, 6),
];

impl Kind {
    /// Draws a kind by the mix.
    pub fn draw(random: &mut Rng) -> Kind {
        let mut point = random.u8(0..100);
        for (kind, share) in MIX {
            if point < share {
                return kind;
            }
            point -= share;
        }
        Kind::LogActivity
    }
}

/// One attempt at an operation.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// Made by the client; unique over the whole run, so a retry has an id of its own.
    pub id: i64,
    /// The brokerage that is written.
    pub tenant: i32,
    /// What is done.
    pub kind: Kind,
}

/// The prepared statements of one connection, and whose connection it is.
pub struct Worker {
    session: Session,
    backend: Backend,
    statements: Statements,
}

struct Statements {
    message: Statement,
    valuation: Statement,
    read_price: Statement,
    price: Statement,
    preference: Statement,
    activity: Statement,
    property: Statement,
    new_valuation: Statement,
    document: Statement,
    lock_homeowner: Statement,
    unschedule: Statement,
    schedule: Statement,
    tick: Statement,
}

impl Statements {
    fn prepare(client: &mut Client) -> Result<Statements, Error> {
        let mut prepare = |sql: &str| client.prepare(sql);
        Ok(Statements {
            message: prepare(
                "INSERT INTO messages (brokerage_id, homeowner_id, agent_id, body, written_by, operation_id) \
                 VALUES ($1, $2, $2, 'Is the house still for sale?', $3, $4) RETURNING id",
            )?,
            valuation: prepare(
                "UPDATE valuations SET low = low + $5::bigint, high = high + 2 * $5::bigint, \
                     written_by = $3, operation_id = $4 \
                 WHERE property_id = $2 AND brokerage_id = $1 RETURNING property_id",
            )?,
            read_price: prepare("SELECT asking_price FROM properties WHERE id = $1")?,
            price: prepare(
                "UPDATE properties SET asking_price = $5, written_by = $3, operation_id = $4 \
                 WHERE id = $2 AND brokerage_id = $1 RETURNING id",
            )?,
            preference: prepare(
                "INSERT INTO notification_preferences AS p \
                     (brokerage_id, homeowner_id, channel, wanted, written_by, operation_id) \
                 VALUES ($1, $2, CASE $5::bigint WHEN 0 THEN 'email' ELSE 'sms' END, true, $3, $4) \
                 ON CONFLICT (homeowner_id, channel) DO UPDATE \
                     SET wanted = NOT p.wanted, written_by = excluded.written_by, \
                         operation_id = excluded.operation_id \
                 RETURNING homeowner_id * 2 + $5::bigint",
            )?,
            activity: prepare(
                "INSERT INTO activity_log (brokerage_id, entry, written_by, operation_id) \
                 VALUES ($1, 'viewed ' || $2::bigint, $3, $4) RETURNING id",
            )?,
            property: prepare(
                "INSERT INTO properties \
                     (brokerage_id, homeowner_id, street, city, asking_price, written_by, operation_id) \
                 VALUES ($1, $2, 'New Street', 'Springfield', 400000, $3, $4) RETURNING id",
            )?,
            new_valuation: prepare(
                "INSERT INTO valuations (brokerage_id, property_id, low, high, written_by, operation_id) \
                 VALUES ($1, $2, 380000, 420000, $3, $4) RETURNING property_id",
            )?,
            document: prepare(
                "INSERT INTO documents (brokerage_id, property_id, title, written_by, operation_id) \
                 VALUES ($1, $2, 'Listing agreement', $3, $4) RETURNING id",
            )?,
            lock_homeowner: prepare("SELECT id FROM homeowners WHERE id = $1 FOR UPDATE")?,
            unschedule: prepare("DELETE FROM appointments WHERE homeowner_id = $2 AND brokerage_id = $1")?,
            schedule: prepare(
                "INSERT INTO appointments (brokerage_id, homeowner_id, starts_at, written_by, operation_id) \
                 VALUES ($1, $2, now() + interval '2 days', $3, $4) RETURNING homeowner_id",
            )?,
            tick: prepare(
                "WITH tick AS (UPDATE tenant_clock SET sequence = sequence + 1 WHERE brokerage_id = $1 \
                               RETURNING sequence) \
                 INSERT INTO operations (id, brokerage_id, sequence, backend) \
                 SELECT $2::bigint, $1, sequence, $3::text FROM tick RETURNING id",
            )?,
        })
    }
}

impl Worker {
    /// Prepares the application's statements on its connection.
    pub fn new(mut session: Session, backend: Backend) -> Result<Worker, Error> {
        let statements = Statements::prepare(&mut session)?;
        Ok(Worker { session, backend, statements })
    }

    /// Whose connection it is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Does the whole transaction. `written` names the rows it wrote; what stands in it after an error was undone.
    pub fn perform(&mut self, attempt: Attempt, random: &mut Rng, written: &mut Vec<Written>) -> Result<(), Error> {
        let isolation = match attempt.kind {
            Kind::ChangePrice => IsolationLevel::RepeatableRead,
            _ => IsolationLevel::ReadCommitted,
        };
        let mut transaction = self.session.build_transaction().isolation_level(isolation).start()?;
        let mut step = Step { transaction: &mut transaction, attempt, backend: self.backend.name(), written };
        work(&mut step, &self.statements, random)?;
        let tick: [&(dyn ToSql + Sync); 3] = [&attempt.tenant, &attempt.id, &self.backend.name()];
        transaction.query_one(&self.statements.tick, &tick)?;
        transaction.commit()
    }
}

/// The open transaction of one attempt.
struct Step<'a, 'c> {
    transaction: &'a mut Transaction<'c>,
    attempt: Attempt,
    backend: &'static str,
    written: &'a mut Vec<Written>,
}

impl Step<'_, '_> {
    /// Runs a statement whose parameters are tenant, `key`, backend, operation and perhaps `value`; it returns the
    /// key of the one row that it wrote.
    fn write(&mut self, table: Table, sql: &Statement, key: i64, value: Option<i64>) -> Result<i64, Error> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> =
            vec![&self.attempt.tenant, &key, &self.backend, &self.attempt.id];
        parameters.extend(value.as_ref().map(|value| value as &(dyn ToSql + Sync)));
        let key = self.transaction.query_one(sql, &parameters)?.get(0);
        self.written.push(Written { table, key });
        Ok(key)
    }
}

fn work(step: &mut Step, sql: &Statements, random: &mut Rng) -> Result<(), Error> {
    let tenant = step.attempt.tenant;
    // One of the tenant's seeded homeowners, and by the same number a property of theirs.
    let key = (i64::from(tenant) - 1) * ROWS + random.i64(1..=ROWS);
    match step.attempt.kind {
        Kind::SendMessage => {
            step.write(Table::Messages, &sql.message, key, None)?;
            step.written.push(Written { table: Table::Homeowners, key });
        }
        Kind::UpdateValuation => {
            step.write(Table::Valuations, &sql.valuation, key, Some(random.i64(100..1000)))?;
        }
        Kind::ChangePrice => {
            let price: i64 = step.transaction.query_one(&sql.read_price, &[&key])?.get(0);
            step.write(Table::Properties, &sql.price, key, Some(price + 500))?;
        }
        Kind::SetPreference => {
            step.write(Table::Preferences, &sql.preference, key, Some(random.i64(0..2)))?;
        }
        Kind::LogActivity => {
            step.write(Table::Activity, &sql.activity, key, None)?;
        }
        Kind::ListProperty => {
            let property = step.write(Table::Properties, &sql.property, key, None)?;
            step.write(Table::Valuations, &sql.new_valuation, property, None)?;
            step.write(Table::Documents, &sql.document, property, None)?;
            step.write(Table::Activity, &sql.activity, property, None)?;
        }
        Kind::Reschedule => {
            step.transaction.query_one(&sql.lock_homeowner, &[&key])?;
            step.transaction.execute(&sql.unschedule, &[&tenant, &key])?;
            step.write(Table::Appointments, &sql.schedule, key, None)?;
        }
        Kind::UploadTwice => {
            step.transaction.batch_execute("SAVEPOINT upload")?;
            step.write(Table::Documents, &sql.document, key, None)?;
            step.transaction.batch_execute("ROLLBACK TO SAVEPOINT upload")?;
            step.written.clear();
            step.write(Table::Documents, &sql.document, key, None)?;
        }
    }
    Ok(())
}
