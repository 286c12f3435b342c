//! Reads the extension's own tables by scanning them, as Postgres reads its catalogs: no SPI, hence no planner, no
//! privileges of the session's role, no recursion into our own hooks, and always today's rows, whatever snapshot a
//! REPEATABLE READ transaction has.

use std::ffi::CStr;
use std::ptr;

use pgrx::{FromDatum, Inet, pg_sys};

use super::session;
use crate::policy::backend::Backend;
use crate::policy::identity::{IdentityRule, Network};
use crate::policy::limits::Limits;
use crate::policy::mode::{Modes, Override};
use crate::policy::ownership::{Freeze, TenantState};
use crate::policy::set::PolicySet;
use crate::policy::surface::Permission;
use crate::policy::tenant::TenantKey;

/// The extension's tables in this database.
#[derive(Clone, Copy, Debug)]
pub struct Catalog {
    migration: pg_sys::Oid,
    backend: pg_sys::Oid,
    mode_override: pg_sys::Oid,
    identity: pg_sys::Oid,
    classified_table: pg_sys::Oid,
    write_permission: pg_sys::Oid,
    backend_limit: pg_sys::Oid,
    ownership: pg_sys::Oid,
    ownership_key: pg_sys::Oid,
    /// The schema that holds them.
    pub schema: pg_sys::Oid,
}

/// Whether the extension is in this database.
pub enum Installation {
    /// It is.
    Complete(Catalog),
    /// It isn't.
    Absent,
    /// Its script is running: ask again.
    Partial,
}

/// A row of `classified_table`.
pub struct Classification {
    /// `tenant`, `global` or `exempt`.
    pub class: String,
    /// Of a tenant table.
    pub tenant_column: Option<String>,
    /// Of an exempt table.
    pub backend: Option<String>,
    /// The table's oid when it was classified. A restored table has another.
    pub classified_oid: u32,
    /// Of a tenant table whose tenant is its parent row's: a column of the foreign key.
    pub via: Option<String>,
    /// Of a table whose rows all belong to one tenant.
    pub tenant: Option<String>,
}

impl Catalog {
    /// Looks for the extension. Needs a transaction.
    pub fn find() -> Installation {
        // SAFETY: a catalog look-up by name, inside a transaction; a missing extension gives InvalidOid.
        let extension = unsafe { pg_sys::get_extension_oid(c"holdfast".as_ptr(), true) };
        if extension == pg_sys::InvalidOid {
            return Installation::Absent;
        }
        // By the extension, not by the schema's name: renaming the schema must not switch the guard off.
        let mut schema = pg_sys::InvalidOid;
        scan(pg_sys::ExtensionRelationId, |row| {
            if row.oid(0) == extension {
                schema = row.oid(3);
            }
        });
        // SAFETY: as above.
        let relation = |name: &CStr| unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
        let catalog = Catalog {
            migration: relation(c"migration"),
            backend: relation(c"backend"),
            mode_override: relation(c"mode_override"),
            identity: relation(c"identity"),
            classified_table: relation(c"classified_table"),
            write_permission: relation(c"write_permission"),
            backend_limit: relation(c"backend_limit"),
            ownership: relation(c"ownership"),
            ownership_key: relation(c"ownership_pkey"),
            schema,
        };
        let complete = catalog.policy_tables().into_iter().chain([catalog.ownership, catalog.ownership_key]);
        if complete.into_iter().all(|oid| oid != pg_sys::InvalidOid) {
            Installation::Complete(catalog)
        } else {
            Installation::Partial
        }
    }

    /// The tables that make up the policy, but for ownership.
    pub fn policy_tables(&self) -> [pg_sys::Oid; 7] {
        [
            self.migration,
            self.backend,
            self.mode_override,
            self.identity,
            self.classified_table,
            self.write_permission,
            self.backend_limit,
        ]
    }

    /// The table of owners.
    pub fn ownership_table(&self) -> pg_sys::Oid {
        self.ownership
    }

    /// Its index, which REINDEX CONCURRENTLY replaces.
    pub fn ownership_index(&self) -> pg_sys::Oid {
        self.ownership_key
    }

    /// Reads the whole policy but ownership and classes.
    pub fn load_policy(&self) -> PolicySet {
        let mut policy = PolicySet::default();
        // Columns by their order in sql/tables.sql, which upgrade scripts only ever extend.
        scan(self.migration, |row| {
            policy.modes.global = row.parsed(2).unwrap_or_default();
            policy.default_backend = row.text(3);
            policy.default_owner = row.text(4);
        });
        scan(self.backend, |row| {
            if let (Some(name), Some(trust)) = (row.text(0), row.parsed(1)) {
                policy.backends.push(Backend { name, trust });
            }
        });
        let mut overrides = Vec::new();
        scan(self.mode_override, |row| {
            // A rule that this version doesn't know is none that it could raise.
            let rule = row.text(1).map(|name| name.parse());
            if let (Some(mode), Ok(rule)) = (row.parsed(2), rule.transpose()) {
                overrides.push(Override { backend: row.text(0), rule, mode });
            }
        });
        policy.modes = Modes { global: policy.modes.global, overrides };
        scan(self.identity, |row| {
            let network = row.network(5);
            // A network that can't be read must not make its rule match everybody.
            if row.is_null(5) || network.is_some() {
                policy.identities.push(IdentityRule {
                    id: row.int8(0),
                    backend: row.text(1).unwrap_or_default(),
                    // A role that is gone has no name that a session could have.
                    role: (!row.is_null(2)).then(|| session::role_name(row.oid(2)).unwrap_or_default()),
                    database: row.text(3),
                    application_name: row.text(4),
                    client_network: network,
                    priority: row.int4(6),
                });
            }
        });
        scan(self.write_permission, |row| {
            if let (Some(backend), Some(command)) = (row.text(0), row.parsed(2)) {
                let permission = Permission { backend, relation: row.oid(1).to_u32(), command, columns: row.texts(3) };
                policy.permissions.push(permission);
            }
        });
        scan(self.backend_limit, |row| {
            let Some(backend) = row.text(0) else { return };
            let limit = |column| (!row.is_null(column)).then(|| u64::try_from(row.int8(column)).unwrap_or(0));
            let limits = Limits {
                rows_per_statement: limit(1),
                rows_per_transaction: limit(2),
                tenants_per_statement: limit(3),
                cascade_rows: limit(4),
                statement_timeout: limit(5),
                lock_timeout: limit(6),
                idle_in_transaction_timeout: limit(7),
            };
            policy.limits.push((backend, limits));
        });
        policy
    }

    /// Reads how every classified table is classified.
    pub fn load_classifications(&self) -> Vec<(u32, Classification)> {
        let mut classifications = Vec::new();
        scan(self.classified_table, |row| {
            let class = row.text(1).unwrap_or_default();
            let classification = Classification {
                class,
                tenant_column: row.text(2),
                backend: row.text(3),
                classified_oid: row.oid(4).to_u32(),
                via: row.text(6),
                tenant: row.text(7),
            };
            classifications.push((row.oid(0).to_u32(), classification));
        });
        classifications
    }

    /// Reads one tenant's row as it is now. The caller holds the tenant's lock, which is what makes "now" mean
    /// something; with it, `SnapshotSelf` can't meet a row in the middle of a change, and it neither takes a snapshot
    /// nor leaves predicate locks in a SERIALIZABLE transaction.
    pub fn tenant_state(&self, tenant: &TenantKey) -> Option<TenantState> {
        // SAFETY: SnapshotSelfData is a constant of the server.
        self.read_tenant(tenant, &raw mut pg_sys::SnapshotSelfData)
    }

    /// Reads one tenant's row as it was last committed, for those who hold no lock and only want to know.
    pub fn committed_tenant_state(&self, tenant: &TenantKey) -> Option<TenantState> {
        self.read_tenant(tenant, ptr::null_mut())
    }

    fn read_tenant(&self, tenant: &TenantKey, snapshot: pg_sys::Snapshot) -> Option<TenantState> {
        let key = tenant.as_str();
        let mut state = None;
        let read = |row: &Row| {
            let until = (!row.is_null(5)).then(|| row.int8(5));
            let freeze = row.text(4).map(|reason| Freeze { reason, until });
            state = Some(TenantState { owner: row.text(1), previous_owner: row.text(2), freeze });
        };
        scan_with(self.ownership, Some((self.ownership_key, key)), snapshot, read);
        state
    }

    /// A tenant whose row says that `backend` may not write it, if there is one. The caller holds the lock on all
    /// tenants.
    pub fn tenant_beyond(&self, backend: &str, now: i64) -> Option<(String, TenantState)> {
        let mut beyond = None;
        // SAFETY: as above.
        let snapshot = &raw mut pg_sys::SnapshotSelfData;
        scan_with(self.ownership, None, snapshot, |row| {
            if beyond.is_some() {
                return;
            }
            let until = (!row.is_null(5)).then(|| row.int8(5));
            let freeze = row.text(4).map(|reason| Freeze { reason, until }).filter(|f| f.holds(now));
            let owner = row.text(1);
            if owner.as_deref() != Some(backend) || freeze.is_some() {
                beyond = Some((row.text(0).unwrap_or_default(), TenantState { owner, freeze, previous_owner: None }));
            }
        });
        beyond
    }
}

/// A row, deformed.
struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    fn is_null(&self, column: usize) -> bool {
        self.nulls.get(column).copied().unwrap_or(true)
    }

    fn read<T: FromDatum>(&self, column: usize) -> Option<T> {
        let value = *self.values.get(column)?;
        // SAFETY: the callers name the column's type as sql/tables.sql declares it.
        unsafe { T::from_datum(value, self.is_null(column)) }
    }

    fn text(&self, column: usize) -> Option<String> {
        self.read(column)
    }

    fn parsed<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    fn texts(&self, column: usize) -> Option<Vec<String>> {
        self.read::<Vec<Option<String>>>(column).map(|texts| texts.into_iter().flatten().collect())
    }

    fn int4(&self, column: usize) -> i32 {
        self.read(column).unwrap_or_default()
    }

    fn int8(&self, column: usize) -> i64 {
        self.read(column).unwrap_or_default()
    }

    fn oid(&self, column: usize) -> pg_sys::Oid {
        self.read(column).unwrap_or(pg_sys::InvalidOid)
    }

    fn network(&self, column: usize) -> Option<Network> {
        Network::parse(&self.read::<Inet>(column)?.0)
    }
}

/// Scans a table with a fresh catalog snapshot.
fn scan(table: pg_sys::Oid, each: impl FnMut(&Row)) {
    scan_with(table, None, ptr::null_mut(), each);
}

fn scan_with(
    table: pg_sys::Oid,
    key: Option<(pg_sys::Oid, &str)>,
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(&Row),
) {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: systable_beginscan is how the server reads a table by a given snapshot (a null one means a fresh catalog
    // snapshot); the scan key lives as long as the scan, and the tuple is deformed before the next is fetched. If an error
    // is raised in between, the resource owner closes scan and table.
    unsafe {
        let relation = pg_sys::try_table_open(table, lock);
        if relation.is_null() {
            // The extension is being dropped; its invalidation has just arrived.
            return;
        }
        let mut scan_key = pg_sys::ScanKeyData::default();
        let (index, keys) = match key {
            None => (pg_sys::InvalidOid, 0),
            Some((index, text)) => {
                pg_sys::ScanKeyInit(
                    &mut scan_key,
                    1,
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::Oid::from(pg_sys::F_TEXTEQ),
                    pgrx::IntoDatum::into_datum(text).unwrap_or(pg_sys::Datum::from(0)),
                );
                (index, 1)
            }
        };
        let scan = pg_sys::systable_beginscan(relation, index, keys > 0, snapshot, keys, &mut scan_key);
        let descriptor = (*relation).rd_att;
        let columns = usize::try_from((*descriptor).natts).unwrap_or(0);
        let mut row = Row { values: vec![pg_sys::Datum::from(0); columns], nulls: vec![true; columns] };
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            each(&row);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
}
