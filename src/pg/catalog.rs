//! The extension's own tables.

use std::collections::BTreeMap;
use std::ffi::CStr;

use pgrx::pg_sys;

use super::scan::{AsOf, Key, Row, scan, scan_with};
use super::session;
use crate::policy::backend::Backend;
use crate::policy::columns::KeyColumns;
use crate::policy::identity::IdentityRule;
use crate::policy::limits::Limits;
use crate::policy::mode::{Modes, Override};
use crate::policy::ownership::{Freeze, TenantState};
use crate::policy::set::PolicySet;
use crate::policy::surface::Permission;
use crate::policy::tenant::TenantKey;
use crate::policy::token::PublicKey;
use crate::policy::waves::State;

/// The extension's tables in this database.
#[derive(Clone, Copy, Debug)]
pub struct Catalog {
    migration: pg_sys::Oid,
    backend: pg_sys::Oid,
    mode_override: pg_sys::Oid,
    identity: pg_sys::Oid,
    identity_key: pg_sys::Oid,
    classified_table: pg_sys::Oid,
    write_permission: pg_sys::Oid,
    backend_limit: pg_sys::Oid,
    wave: pg_sys::Oid,
    readiness_check: pg_sys::Oid,
    ownership: pg_sys::Oid,
    ownership_key: pg_sys::Oid,
    /// The schema that holds them.
    pub schema: pg_sys::Oid,
    /// The role that owns the extension.
    pub owner: pg_sys::Oid,
    /// The extension.
    pub extension: pg_sys::Oid,
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
    /// Of a tenant table whose rows name their tenants.
    pub tenant_columns: Option<KeyColumns>,
    /// Of an exempt table.
    pub backend: Option<String>,
    /// The table's oid when it was classified. A restored table has another.
    pub classified_oid: u32,
    /// Of a tenant table whose tenant is its parent row's: a column of the foreign key.
    pub via: Option<String>,
    /// Of a table whose rows all belong to one tenant.
    pub tenant: Option<String>,
    /// The table that the foreign key leads to.
    pub parent: Option<u32>,
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
        let (mut owner, mut schema) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        scan(pg_sys::ExtensionRelationId, |row| {
            if row.oid(0) == extension {
                (owner, schema) = (row.oid(2), row.oid(3));
            }
        });
        // SAFETY: as above.
        let relation = |name: &CStr| unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
        let catalog = Catalog {
            migration: relation(c"migration"),
            backend: relation(c"backend"),
            mode_override: relation(c"mode_override"),
            identity: relation(c"identity"),
            identity_key: relation(c"identity_key"),
            classified_table: relation(c"classified_table"),
            write_permission: relation(c"write_permission"),
            backend_limit: relation(c"backend_limit"),
            wave: relation(c"wave"),
            readiness_check: relation(c"readiness_check"),
            ownership: relation(c"ownership"),
            ownership_key: relation(c"ownership_pkey"),
            schema,
            owner,
            extension,
        };
        let complete = catalog.policy_tables().into_iter().chain([catalog.ownership, catalog.ownership_key]);
        if complete.into_iter().all(|oid| oid != pg_sys::InvalidOid) {
            Installation::Complete(catalog)
        } else {
            Installation::Partial
        }
    }

    /// The tables that make up the policy, but for ownership.
    pub fn policy_tables(&self) -> [pg_sys::Oid; 10] {
        [
            self.migration,
            self.backend,
            self.mode_override,
            self.identity,
            self.identity_key,
            self.classified_table,
            self.write_permission,
            self.backend_limit,
            self.wave,
            self.readiness_check,
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

    /// Whether a table of the extension has no row, but for those of its partitions.
    pub fn is_empty(&self, table: pg_sys::Oid) -> bool {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: as the server reads a table by a fresh catalog snapshot, up to the first row.
        unsafe {
            let relation = pg_sys::try_table_open(table, lock);
            if relation.is_null() {
                return true;
            }
            if (*relation).rd_tableam.is_null() {
                pg_sys::table_close(relation, lock);
                return true;
            }
            let (snapshot, keys) = (std::ptr::null_mut(), std::ptr::null_mut());
            let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, keys);
            let empty = pg_sys::systable_getnext(scan).is_null();
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, lock);
            empty
        }
    }

    /// Reads the whole policy but ownership and classes.
    pub fn load_policy(&self) -> PolicySet {
        let mut policy = PolicySet::default();
        // Columns by their order in sql/tables.sql, which upgrade scripts only ever extend.
        scan(self.migration, |row| {
            policy.modes.global = row.parsed(2).unwrap_or_default();
            policy.default_backend = row.text(3);
            policy.default_owner = row.text(4);
            let under_way = matches!(row.text(1).as_deref(), Some("shared" | "single"));
            policy.ends_on = (under_way && !row.is_null(6)).then(|| row.int4(6));
            policy.when_passed = row.parsed(7).unwrap_or_default();
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
                let rule = IdentityRule {
                    id: row.int8(0),
                    backend: row.text(1).unwrap_or_default(),
                    // A role that is gone has no name that a session could have.
                    role: (!row.is_null(2)).then(|| session::role_name(row.oid(2)).unwrap_or_default()),
                    left_behind: false,
                    database: row.text(3),
                    application_name: row.text(4),
                    client_network: network,
                    priority: row.int4(6),
                };
                policy.identities.extend(row.text(7).and_then(|name| rule.left_behind_as(name)));
                policy.identities.push(rule);
            }
        });
        scan(self.identity_key, |row| {
            let bytes = row.read::<Vec<u8>>(2).and_then(|bytes| bytes.try_into().ok());
            if let (Some(label), Some(backend), Some(bytes)) = (row.text(0), row.text(1), bytes) {
                policy.keys.push(PublicKey { label, backend, bytes });
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
        scan(self.readiness_check, |row| {
            policy.checks.extend(row.text(0).map(|name| (name, row.read::<bool>(1).unwrap_or_default())))
        });
        scan(self.wave, |row| {
            let state: Option<State> = row.parsed(3);
            policy.waves_open |= state.is_some_and(|state| !state.is_over());
            policy.waves_watched |= state.is_some_and(State::is_watched);
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
                tenant_columns: row.texts(9).map(KeyColumns::of).or(row.text(2).as_deref().map(KeyColumns::from)),
                backend: row.text(3),
                classified_oid: row.oid(4).to_u32(),
                via: row.text(6),
                tenant: row.text(7),
                parent: (!row.is_null(8)).then(|| row.oid(8).to_u32()),
            };
            classifications.push((row.oid(0).to_u32(), classification));
        });
        classifications
    }

    /// Reads one tenant's row as it is now. The caller holds the tenant's lock, which is what makes "now" mean
    /// something; with it, [`AsOf::Instant`] can't meet a row in the middle of a change, and it neither takes a snapshot
    /// nor leaves predicate locks in a SERIALIZABLE transaction.
    pub fn tenant_state(&self, tenant: &TenantKey) -> Option<TenantState> {
        self.read_tenant(tenant, AsOf::Instant)
    }

    /// Reads one tenant's row as it was last committed, for those who hold no lock and only want to know.
    pub fn committed_tenant_state(&self, tenant: &TenantKey) -> Option<TenantState> {
        self.read_tenant(tenant, AsOf::Snapshot)
    }

    fn read_tenant(&self, tenant: &TenantKey, as_of: AsOf) -> Option<TenantState> {
        let key = tenant.as_str();
        let mut state = None;
        let read = |row: &Row| {
            let until = (!row.is_null(5)).then(|| row.int8(5));
            let freeze = row.text(4).map(|reason| Freeze { reason, until });
            let rolled_back = row.read(8).unwrap_or_default();
            state = Some(TenantState { owner: row.text(1), previous_owner: row.text(2), rolled_back, freeze });
        };
        let key = pgrx::IntoDatum::into_datum(key).unwrap_or(pg_sys::Datum::from(0));
        let mut keys = [Key {
            column: 1,
            function: pg_sys::Oid::from(pg_sys::F_TEXTEQ),
            collation: pg_sys::C_COLLATION_OID,
            ..Key::of(key)
        }
        .prepare()];
        scan_with(self.ownership, Some(self.ownership_key), &mut keys, as_of, read);
        state
    }

    /// How many tenants have rows that name each owner, whatever snapshot the transaction has.
    pub fn owners(&self) -> BTreeMap<String, i64> {
        let mut owners = BTreeMap::new();
        scan(self.ownership, |row| {
            if let Some(owner) = row.text(1) {
                *owners.entry(owner).or_insert(0) += 1;
            }
        });
        owners
    }

    /// A tenant whose row says that `backend` may not write it, if there is one. The caller holds the lock on all
    /// tenants.
    pub fn tenant_beyond(&self, backend: &str, now: i64) -> Option<(String, TenantState)> {
        let mut beyond = None;
        scan_with(self.ownership, None, &mut [], AsOf::Instant, |row| {
            if beyond.is_some() {
                return;
            }
            let until = (!row.is_null(5)).then(|| row.int8(5));
            let freeze = row.text(4).map(|reason| Freeze { reason, until }).filter(|f| f.holds(now));
            let owner = row.text(1);
            if owner.as_deref() != Some(backend) || freeze.is_some() {
                beyond = Some((
                    row.text(0).unwrap_or_default(),
                    TenantState { owner, freeze, previous_owner: None, rolled_back: false },
                ));
            }
        });
        beyond
    }
}
