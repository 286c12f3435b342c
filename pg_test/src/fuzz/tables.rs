//! What statements are about.

/// A table as statements use it: its name, key, tenant column and a column to set; empty where it has none.
pub struct Table {
    pub name: &'static str,
    pub key: &'static str,
    pub tenant: &'static str,
    pub set: &'static str,
    pub tenants: &'static [&'static str],
}

/// Tenants by number; 20 and 60 are the rebuilt backend's, 40 and 70 are frozen.
pub const NUMBERS: &[&str] =
    &["20", "20", "20", "60", "10", "30", "40", "70", "50", "NULL", "7", "(SELECT max(tenant_id) FROM customers)"];
const TEXTS: &[&str] = &["'20'", "'20'", "'10'", "'30'", "NULL", "'x'", "'020'", "' 20'"];
const UUIDS: &[&str] = &[
    "'00000000-0000-0000-0000-00000000000b'",
    "'00000000-0000-0000-0000-00000000000B'",
    "'00000000-0000-0000-0000-00000000000a'",
    "NULL",
];
const BYTES: &[&str] = &["'\\x0b'", "'\\x0a'", "'\\x0b00'", "NULL"];

const fn table(name: &'static str, tenant: &'static str, set: &'static str, tenants: &'static [&'static str]) -> Table {
    Table { name, key: "id", tenant, set, tenants }
}

pub const TABLES: [Table; 26] = [
    table("orders", "tenant_id", "note", NUMBERS),
    table("orders", "tenant_id", "tenant_id", NUMBERS),
    table("orders", "tenant_id", "net", NUMBERS),
    table("orders", "tenant_id", "customer", NUMBERS),
    table("all_orders", "tenant_id", "note", NUMBERS),
    table("paid_orders", "tenant_id", "net", NUMBERS),
    table("customers", "tenant_id", "name", NUMBERS),
    table("customers", "tenant_id", "id", NUMBERS),
    table("order_items", "order_id", "what", NUMBERS),
    table("order_items", "order_id", "order_id", NUMBERS),
    table("shipments", "item_id", "item_id", NUMBERS),
    table("by_uuid", "tenant", "id", UUIDS),
    table("by_uuid", "tenant", "tenant", UUIDS),
    table("by_text", "tenant", "tenant", TEXTS),
    table("by_bytea", "tenant", "tenant", BYTES),
    table("by_bigint", "tenant", "tenant", NUMBERS),
    table("by_domain", "tenant", "id", TEXTS),
    Table { name: "log", key: "tenant_id", tenant: "tenant_id", set: "line", tenants: NUMBERS },
    Table { name: "log_new_20", key: "tenant_id", tenant: "tenant_id", set: "at", tenants: NUMBERS },
    Table { name: "log_old", key: "tenant_id", tenant: "tenant_id", set: "tenant_id", tenants: NUMBERS },
    table("assets", "tenant_id", "name", NUMBERS),
    table("vehicles", "tenant_id", "tenant_id", NUMBERS),
    table("plans", "id", "name", NUMBERS),
    table("ledger", "id", "line", NUMBERS),
    table("loose", "tenant_id", "note", NUMBERS),
    Table { name: "tenant_20.settings", key: "name", tenant: "name", set: "value", tenants: TEXTS },
];
