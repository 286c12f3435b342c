//! What stands in the database at the end: the rows, read by a superuser while nobody writes.

use std::collections::{BTreeSet, HashMap};

use anyhow::Result;
use postgres::Client;

use super::ledger::{RefusalCounts, Table, Written};

/// One committed transaction of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The client's id of it.
    pub id: i64,
    /// Its tenant.
    pub tenant: i32,
    /// Its place among the transactions of the tenant.
    pub sequence: i64,
    /// Who the client says it is.
    pub backend: String,
    /// Who the server says logged in.
    pub role: String,
}

/// A business row that a client wrote.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which one.
    pub written: Written,
    /// The backend that wrote it last.
    pub backend: String,
    /// In this operation.
    pub operation: i64,
}

/// A cutover's place among the transactions of its tenant: after `sequence`.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Its tenant.
    pub tenant: i32,
    /// Counts the tenant's cutovers.
    pub epoch: i64,
    /// The last transaction of the former owner.
    pub sequence: i64,
    /// The former owner.
    pub from: String,
    /// The new owner.
    pub to: String,
}

/// Everything the check reads.
#[derive(Default)]
pub struct Evidence {
    /// All of `operations`.
    pub operations: Vec<Operation>,
    /// The rows of all business tables that a client wrote.
    pub rows: Vec<Row>,
    /// `tenant_clock`: the number of transactions of each tenant.
    pub clocks: HashMap<i32, i64>,
    /// `demo_marks`, in the order of the epochs.
    pub marks: Vec<Mark>,
    /// Homeowners whose message count isn't the number of their messages.
    pub miscounted_homeowners: i64,
    /// `blocked_writes` with outcome `refused`.
    pub refused: RefusalCounts,
    /// Refused events that lack something an auditor needs.
    pub incomplete_refusals: i64,
    /// Tenants and rules that were recorded in observe mode against the rebuilt backend.
    pub observed: BTreeSet<(String, Option<String>)>,
    /// `ownership_history`: tenant, epoch, former and new owner of each cutover and rollback.
    pub history: BTreeSet<(String, i64, String, String)>,
}

impl Evidence {
    /// Reads it all.
    pub fn read(client: &mut Client) -> Result<Evidence> {
        // What observe mode recorded isn't waited for; this is the place to.
        client.batch_execute("SELECT holdfast.flush_events()")?;
        Ok(Evidence {
            operations: operations(client)?,
            rows: rows(client)?,
            clocks: client
                .query("SELECT brokerage_id, sequence FROM tenant_clock", &[])?
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            marks: marks(client)?,
            miscounted_homeowners: client
                .query_one(
                    "SELECT count(*) FROM homeowners LEFT JOIN \
                         (SELECT homeowner_id, count(*) AS sent FROM messages GROUP BY 1) m ON m.homeowner_id = id \
                     WHERE message_count IS DISTINCT FROM coalesce(sent, 0)",
                    &[],
                )?
                .get(0),
            refused: refused(client)?,
            incomplete_refusals: client.query_one(INCOMPLETE, &[])?.get(0),
            observed: client
                .query(
                    "SELECT DISTINCT rule::text, tenant::text FROM holdfast.blocked_writes \
                     WHERE outcome = 'observed' AND backend = 'rebuilt'",
                    &[],
                )?
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            history: client
                .query(
                    "SELECT tenant::text, epoch, from_backend::text, to_backend::text \
                     FROM holdfast.ownership_history WHERE action IN ('cutover', 'rollback')",
                    &[],
                )?
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
                .collect(),
        })
    }
}

/// A refusal names its session, statement and rule; one of a row its tenant and owner too.
const INCOMPLETE: &str = "\
    SELECT count(*) FROM holdfast.blocked_writes \
    WHERE outcome = 'refused' \
      AND (backend IS NULL OR rule IS NULL OR sqlstate IS NULL OR command IS NULL OR relation IS NULL \
           OR usename IS NULL OR application_name IS NULL OR client_addr IS NULL OR pid IS NULL OR query IS NULL \
           OR message IS NULL OR (rule = 'not_owner' AND (tenant IS NULL OR owner IS NULL)))";

fn operations(client: &mut Client) -> Result<Vec<Operation>> {
    Ok(client
        .query("SELECT id, brokerage_id, sequence, backend, role_name FROM operations", &[])?
        .iter()
        .map(|row| Operation {
            id: row.get(0),
            tenant: row.get(1),
            sequence: row.get(2),
            backend: row.get(3),
            role: row.get(4),
        })
        .collect())
}

fn rows(client: &mut Client) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for table in Table::ALL {
        let sql = format!(
            "SELECT ({key})::bigint, written_by, operation_id FROM {name} WHERE operation_id IS NOT NULL",
            key = table.key(),
            name = table.name(),
        );
        rows.extend(client.query(&sql, &[])?.iter().map(|row| Row {
            written: Written { table, key: row.get(0) },
            backend: row.get(1),
            operation: row.get(2),
        }));
    }
    Ok(rows)
}

fn marks(client: &mut Client) -> Result<Vec<Mark>> {
    Ok(client
        .query("SELECT brokerage_id, epoch, sequence, from_backend, to_backend FROM demo_marks ORDER BY 1, 2", &[])?
        .iter()
        .map(|row| Mark {
            tenant: row.get(0),
            epoch: row.get(1),
            sequence: row.get(2),
            from: row.get(3),
            to: row.get(4),
        })
        .collect())
}

fn refused(client: &mut Client) -> Result<RefusalCounts> {
    Ok(client
        .query(
            "SELECT backend::text, rule::text, CASE rule::text WHEN 'not_owner' THEN tenant::text END, \
                    sum(occurrences)::bigint \
             FROM holdfast.blocked_writes WHERE outcome = 'refused' GROUP BY 1, 2, 3",
            &[],
        )?
        .iter()
        .map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3)))
        .collect())
}
