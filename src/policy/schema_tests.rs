use super::*;

/// A table of the schema, by number and name.
fn table(oid: u32, name: &str) -> Table {
    Table {
        oid,
        name: name.to_owned(),
        asked: true,
        class: TableClass::Unclassified,
        extension: None,
        inherits: Vec::new(),
        columns: Columns::Missing,
        keys: Vec::new(),
    }
}

impl Table {
    fn with_column(mut self) -> Table {
        self.columns = Columns::Fit;
        self
    }

    fn is(mut self, class: TableClass) -> Table {
        self.class = class;
        self
    }

    fn elsewhere(mut self) -> Table {
        self.asked = false;
        self
    }

    fn inherits(mut self, parent: u32) -> Table {
        self.inherits.push(parent);
        self
    }

    fn key(self, column: &str, parent: u32) -> Table {
        self.foreign_key(column, parent, false)
    }

    fn nullable(self, column: &str, parent: u32) -> Table {
        self.foreign_key(column, parent, true)
    }

    fn foreign_key(mut self, column: &str, parent: u32, nullable: bool) -> Table {
        self.keys.push(ForeignKey {
            columns: vec![column.to_owned()],
            parent,
            referenced: vec!["id".to_owned()],
            unfit: None,
            nullable,
            fit: vec![column.to_owned()],
            named_by: Some(column.to_owned()),
        });
        self
    }
}

/// `name: action class reason`, in the order of the proposals.
fn told(tables: &[Table], tenant: Option<&str>) -> Vec<String> {
    told_of(tables, &"tenant_id".into(), tenant)
}

fn told_of(tables: &[Table], asked: &KeyColumns, tenant: Option<&str>) -> Vec<String> {
    let name = |oid| tables.iter().find(|table| table.oid == oid).map_or("?", |table| &table.name);
    let line = |Proposal { table, class, action, reason }: Proposal| {
        let class = match class {
            TableClass::Tenant(TenantSource::Columns(column)) => format!("column {column}"),
            TableClass::Tenant(TenantSource::Parent(column)) => format!("via {column}"),
            TableClass::Tenant(TenantSource::Constant(tenant)) => format!("tenant {tenant}"),
            TableClass::Global => "global".to_owned(),
            TableClass::Exempt { .. } => "exempt".to_owned(),
            TableClass::Unclassified => "-".to_owned(),
        };
        format!("{}: {action} {class}. {reason}", name(table))
    };
    propose(tables, asked, tenant).into_iter().map(line).collect()
}

#[test]
fn a_table_by_itself() {
    let unfit = |why: &str| Table { columns: Columns::Unfit(why.to_owned()), ..table(3, "floats") };
    let of_extension = Table { extension: Some("postgis".to_owned()), ..table(6, "spatial_ref_sys") };
    let tables = [
        table(1, "orders").with_column(),
        table(2, "plans"),
        unfit("its type is numeric"),
        table(4, "done").with_column().is(TableClass::Global),
        table(5, "other").elsewhere(),
        of_extension,
    ];
    let expected = [
        "done: keep global. It is classified already.",
        "floats: decide -. Its column tenant_id can't be the tenant column: its type is numeric.",
        "orders: guard column tenant_id. It has the column tenant_id.",
        "plans: guard global. It has no column tenant_id, and no foreign key of it leads to a tenant; nothing refers to it.",
        "spatial_ref_sys: decide -. It belongs to the extension postgis.",
    ];
    assert_eq!(told(&tables, None), expected);
    let all_one = told(&tables[..3], Some("acme"));
    assert_eq!(all_one[1], "orders: guard tenant acme. Every table of this schema belongs to tenant \"acme\".");
    assert!(all_one.iter().all(|line| line.contains("guard tenant acme")));
}

/// A key of two columns, the first of which is the tenant there.
fn composite(table: Table, parent: u32, tenant: &str) -> Table {
    let mut table = table.key("order_id", parent);
    if let Some(key) = table.keys.last_mut() {
        key.columns.insert(0, "owner".to_owned());
        key.referenced.insert(0, tenant.to_owned());
        key.fit.push("owner".to_owned());
    }
    table
}

/// (what, tables, the line about the table "x")
#[test]
fn foreign_keys() {
    let orders = || table(1, "orders").with_column();
    let items = || table(2, "items").key("order_id", 1);
    let cases: Vec<(&str, Vec<Table>, &str)> = vec![
        (
            "one key",
            vec![orders(), table(9, "x").key("order_id", 1)],
            "guard via order_id. Its tenant is that of its row in orders, by order_id.",
        ),
        (
            "a nullable key",
            vec![orders(), table(9, "x").nullable("order_id", 1)],
            "guard via order_id. Its tenant is that of its row in orders, by order_id; a row where it is null belongs to everybody.",
        ),
        (
            "two steps",
            vec![orders(), items(), table(9, "x").key("item_id", 2)],
            "guard via item_id. Its tenant is that of its row in items, by item_id.",
        ),
        (
            "two ways to the same end",
            vec![orders(), items(), table(9, "x").key("item_id", 2).key("order_id", 1)],
            "guard via order_id. Its tenant is that of its row in orders, by order_id; longer ways end in the same table.",
        ),
        (
            "one way that is never null",
            vec![orders(), items(), table(9, "x").key("item_id", 2).nullable("order_id", 1)],
            "guard via item_id. Its tenant is that of its row in items, by item_id; it is the only one that is never null.",
        ),
        (
            "two keys to one table",
            vec![orders(), table(9, "x").key("from_id", 1).key("to_id", 1)],
            "decide -. Several foreign keys lead to tenants: from_id → orders; to_id → orders.",
        ),
        (
            "two ends",
            vec![orders(), items(), table(3, "users").with_column(), table(9, "x").key("item_id", 2).key("user_id", 3)],
            "decide -. Several foreign keys lead to tenants: item_id → items; user_id → users.",
        ),
        (
            "two keys, both nullable",
            vec![orders(), items(), table(9, "x").nullable("item_id", 2).nullable("order_id", 1)],
            "decide -. Several foreign keys lead to tenants: item_id → items, nullable; order_id → orders, nullable.",
        ),
        (
            "a key to a global table beside it",
            vec![orders(), table(3, "plans"), table(9, "x").key("plan_id", 3).nullable("order_id", 1)],
            "guard via order_id. Its tenant is that of its row in orders, by order_id; a row where it is null belongs to everybody.",
        ),
        (
            "a key to itself",
            vec![orders(), table(9, "x").key("parent_id", 9)],
            "guard global. It has no column tenant_id, and no foreign key of it leads to a tenant; nothing refers to it.",
        ),
        (
            "a key to itself and another",
            vec![orders(), table(9, "x").nullable("parent_id", 9).key("order_id", 1)],
            "guard via order_id. Its tenant is that of its row in orders, by order_id.",
        ),
        (
            "a cycle with a way out",
            vec![orders(), table(3, "y").nullable("x_id", 9).key("order_id", 1), table(9, "x").key("y_id", 3)],
            "guard via y_id. Its tenant is that of its row in y, by y_id.",
        ),
        (
            "a cycle without",
            vec![orders(), table(3, "y").key("x_id", 9), table(9, "x").key("y_id", 3)],
            "guard global. It has no column tenant_id, and no foreign key of it leads to a tenant; y refers to it.",
        ),
        (
            "two tables that choose each other",
            vec![
                orders(),
                table(3, "y").key("x_id", 9).nullable("order_id", 1),
                table(9, "x").key("y_id", 3).nullable("order_id", 1),
            ],
            "decide -. Its foreign key to y leads back to itself.",
        ),
        (
            "a parent that needs a decision",
            vec![
                orders(),
                table(3, "moves").key("from_id", 1).key("to_id", 1),
                table(4, "notes").key("move_id", 3),
                table(9, "x").key("note_id", 4),
            ],
            "decide -. Its tenant is that of its row in notes, but moves must be classified first.",
        ),
        (
            "a parent in another schema, classified",
            vec![
                table(3, "crm.users").elsewhere().is(TableClass::Tenant(TenantSource::Columns("t".into()))),
                table(9, "x").key("user_id", 3),
            ],
            "guard via user_id. Its tenant is that of its row in crm.users, by user_id.",
        ),
        (
            "a parent in another schema, unclassified",
            vec![table(3, "crm.users").elsewhere(), table(9, "x").key("user_id", 3)],
            "decide -. Its tenant is that of its row in crm.users, but crm.users must be classified first.",
        ),
        (
            "a parent that is exempt",
            vec![table(3, "logs").is(TableClass::Exempt { backend: None }), table(9, "x").key("log_id", 3)],
            "guard global. It has no column tenant_id, and no foreign key of it leads to a tenant; nothing refers to it.",
        ),
        (
            "what others refer to",
            vec![
                table(9, "x"),
                orders().key("plan_id", 9),
                items().key("plan_id", 9),
                table(5, "a").key("plan_id", 9),
                table(6, "b").key("plan_id", 9),
            ],
            "guard global. It has no column tenant_id, and no foreign key of it leads to a tenant; orders, items, a and 1 more refer to it.",
        ),
        (
            "the tenants' own table",
            vec![orders().key("tenant_id", 9), table(9, "x"), table(4, "users").with_column().key("tenant_id", 9)],
            "guard column id. The tenant columns of orders, users refer to its column id.",
        ),
        (
            "a tenant column of another name",
            vec![orders().key("tenant_id", 3), table(3, "brokerages"), table(9, "x").key("brokerage_id", 3)],
            "guard column brokerage_id. Its column brokerage_id refers to the tenant column of brokerages.",
        ),
        (
            "as part of a key, at second hand",
            vec![orders(), composite(table(3, "y"), 1, "tenant_id"), composite(table(9, "x"), 3, "owner")],
            "guard column owner. Its column owner refers to the tenant column of y.",
        ),
        (
            "two of them",
            vec![orders().key("tenant_id", 3), table(3, "b"), table(9, "x").key("from_id", 3).key("to_id", 3)],
            "decide -. Several foreign keys lead to tenants: from_id → b; to_id → b.",
        ),
        (
            "one of them, beside a key that tells more",
            vec![
                orders().key("tenant_id", 3),
                table(3, "b"),
                table(9, "x").key("order_id", 1).nullable("billed_to", 3),
            ],
            "guard via order_id. Its tenant is that of its row in orders, by order_id; it is the only one that is never null.",
        ),
        (
            "a parent whose child has no keys",
            vec![orders(), table(9, "x").key("order_id", 1), table(3, "y").inherits(9)],
            "decide -. Table y inherits from it, but tells its tenants in another way.",
        ),
        (
            "a child of a table that is found by keys",
            vec![orders(), items(), table(9, "x").inherits(2)],
            "decide -. It inherits from items, but tells its tenants in another way.",
        ),
    ];
    for (what, tables, expected) in cases {
        let told = told(&tables, None);
        assert!(told.contains(&format!("x: {expected}")), "{what}: {told:#?}");
    }
}

#[test]
fn a_key_that_no_column_names_is_no_via() {
    let mut moves = table(9, "x").key("order_id", 1);
    moves.keys[0].named_by = None;
    let told = told(&[table(1, "orders").with_column(), moves], None);
    assert_eq!(told[1], "x: decide -. No column names its foreign key (order_id) alone.");
}

#[test]
fn parents_come_before_children() {
    let tables = [
        table(1, "a").key("b_id", 2),
        table(2, "b").key("c_id", 3),
        table(3, "c").key("d_id", 4),
        table(4, "d").with_column(),
    ];
    let order: Vec<u32> = propose(&tables, &"tenant_id".into(), None).into_iter().map(|p| p.table).collect();
    assert_eq!(order, [4, 3, 2, 1]);
}

#[test]
fn registers_with_doubts() {
    let mut orders = table(1, "orders").with_column().key("tenant_id", 9);
    orders.keys[0].unfit = Some("its type is numeric".to_owned());
    let unfit =
        "x: decide -. Tenant columns refer to its column id, which can't be a tenant column: its type is numeric.";
    assert!(told(&[orders.clone(), table(9, "x")], None).contains(&unfit.to_owned()));
    let mut users = table(2, "users").with_column().key("tenant_id", 9);
    users.keys[0].referenced = vec!["code".to_owned()];
    orders.keys[0].unfit = None;
    let lines = told(&[orders.clone(), users, table(9, "x")], None);
    assert!(
        lines.contains(&"x: decide -. Tenant columns refer to its columns code, id; which is the tenant?".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn keys_of_several_columns() {
    let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let asked = KeyColumns::of(columns(&["region", "account_no"]));
    let refers = |child: Table, from: &[&str], parent: u32, to: &[&str]| {
        let mut child = child.key(from[0], parent);
        if let Some(key) = child.keys.last_mut() {
            (key.columns, key.referenced, key.fit) = (columns(from), columns(to), columns(from));
        }
        child
    };
    let orders = || table(1, "orders").with_column();
    let cases = [
        ("the columns", orders(), vec![], "guard column region, account_no. It has the columns region, account_no."),
        (
            "unfit",
            Table { columns: Columns::Unfit("the type of account_no is numeric".to_owned()), ..table(9, "x") },
            vec![],
            "decide -. Its columns region, account_no can't be the tenant columns: the type of account_no is numeric.",
        ),
        (
            "the tenants' own table, its key in another order",
            table(9, "x"),
            vec![refers(orders(), &["account_no", "region"], 9, &["no", "area"])],
            "guard column area, no. The tenant columns of orders refer to its columns area, no.",
        ),
        (
            "a table that a part of the key refers to",
            table(9, "x"),
            vec![refers(orders(), &["region"], 9, &["code"])],
            "guard global. It has no columns region, account_no, and no foreign key of it leads to a tenant; orders refers to it.",
        ),
        (
            "the key as part of a foreign key, under other names",
            refers(table(9, "x"), &["id", "r", "a"], 1, &["id", "region", "account_no"]),
            vec![orders()],
            "guard column r, a. Its columns r, a refer to the tenant columns of orders.",
        ),
        (
            "a part of the key only",
            refers(table(9, "x"), &["order_id"], 1, &["id"]),
            vec![orders()],
            "guard via order_id. Its tenant is that of its row in orders, by order_id.",
        ),
    ];
    for (what, asked_of, others, expected) in cases {
        let name = asked_of.name.clone();
        let told = told_of(&[others, vec![asked_of]].concat(), &asked, None);
        assert!(told.contains(&format!("{name}: {expected}")), "{what}: {told:#?}");
    }
    let two = [
        refers(orders(), &["region", "account_no"], 9, &["region", "no"]),
        refers(table(2, "users").with_column(), &["region", "account_no"], 9, &["country", "no"]),
        table(9, "x"),
    ];
    let doubtful = "x: decide -. Tenant columns refer to its columns (country, no), (region, no); which is the tenant?";
    assert!(told_of(&two, &asked, None).contains(&doubtful.to_owned()));
}
