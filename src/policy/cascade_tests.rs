use super::*;

/// Tables by number; a row is (table, number), and refers to rows by keys.
#[derive(Default)]
struct Model {
    keys: Vec<(u32, Key)>,
    references: Vec<(u32, RowId, RowId)>,
}

const fn row(table: u32, number: u32) -> RowId {
    RowId { table, block: number, offset: 1 }
}

impl Model {
    /// A key of `child` on the column `parent_<id>`, which refers to `id` of `parent`.
    fn key(mut self, id: u32, child: u32, parent: u32, reaction: Reaction) -> Model {
        let referencing = vec![format!("parent_{id}")];
        let sets = referencing.clone();
        self.keys.push((parent, Key { id, child, referencing, referenced: vec!["id".to_owned()], reaction, sets }));
        self
    }

    fn refers(mut self, key: u32, child: RowId, parent: RowId) -> Model {
        self.references.push((key, child, parent));
        self
    }

    /// `path effect rows`, one a line.
    fn told(&mut self, first: &[RowId]) -> Vec<String> {
        let first = first.iter().map(|row| (row.table, Found { row: *row, tenant: None })).collect();
        let line = |c: Consequence| {
            let path: Vec<String> = c.path.iter().map(ToString::to_string).collect();
            format!("{} {} {}", told(&path), c.effect, c.rows)
        };
        follow(self, first).into_iter().map(line).collect()
    }
}

impl Source for Model {
    fn keys(&mut self, table: u32, event: Event) -> Rc<[Key]> {
        let keys = self.keys.iter().filter(|(parent, _)| *parent == table).map(|(_, key)| key.clone());
        // Both events have the same reaction here.
        let _ = event;
        keys.collect()
    }

    fn referencing(&mut self, _: u32, key: &Key, rows: &[RowId]) -> Vec<(usize, Found)> {
        let mut found = Vec::new();
        for (at, parent) in rows.iter().enumerate() {
            for (id, child, referenced) in &self.references {
                if *id == key.id && referenced == parent {
                    found.push((at, Found { row: *child, tenant: None }));
                }
            }
        }
        found
    }
}

use Reaction::{Cascade, Refuse, RefuseLater, SetDefault, SetNull};

#[test]
fn a_chain_is_followed_to_its_end() {
    let mut model = Model::default()
        .key(1, 20, 10, Cascade)
        .key(2, 30, 20, Cascade)
        .key(3, 40, 30, SetNull)
        .key(4, 50, 40, Cascade)
        .refers(1, row(20, 1), row(10, 1))
        .refers(1, row(20, 2), row(10, 1))
        .refers(2, row(30, 1), row(20, 2))
        .refers(3, row(40, 1), row(30, 1))
        // A row that only loses its parent keeps its own children.
        .refers(4, row(50, 1), row(40, 1));
    let expected = ["10 delete 1", "10 → 20 delete 2", "10 → 20 → 30 delete 1", "10 → 20 → 30 → 40 set null 1"];
    assert_eq!(model.told(&[row(10, 1)]), expected);
}

#[test]
fn cycles_and_self_references_end() {
    let mut model = Model::default()
        .key(1, 20, 10, Cascade)
        .key(2, 10, 20, Cascade)
        .key(3, 10, 10, Cascade)
        .refers(1, row(20, 1), row(10, 1))
        .refers(2, row(10, 1), row(20, 1))
        .refers(3, row(10, 1), row(10, 1))
        .refers(3, row(10, 2), row(10, 1))
        .refers(3, row(10, 3), row(10, 2));
    let expected = ["10 delete 1", "10 → 20 delete 1", "10 → 10 delete 1", "10 → 10 → 10 delete 1"];
    assert_eq!(model.told(&[row(10, 1)]), expected);
}

#[test]
fn a_row_counts_once_for_an_effect() {
    let two_keys = || {
        Model::default()
            .key(1, 20, 10, SetNull)
            .key(2, 20, 10, SetNull)
            .key(3, 20, 10, SetDefault)
            .refers(1, row(20, 1), row(10, 1))
            .refers(2, row(20, 1), row(10, 1))
            .refers(3, row(20, 1), row(10, 1))
    };
    assert_eq!(two_keys().told(&[row(10, 1)]), ["10 delete 1", "10 → 20 set null 1", "10 → 20 set default 1"]);
    // What goes in the end was not set to null.
    let mut and_goes = two_keys().key(4, 20, 10, Cascade).refers(4, row(20, 1), row(10, 1));
    assert_eq!(and_goes.told(&[row(10, 1)]), ["10 delete 1", "10 → 20 delete 1"]);
}

#[test]
fn a_check_sees_what_went_before_it() {
    let by_way_of = |direct: Reaction| {
        Model::default()
            .key(1, 20, 10, Cascade)
            .key(2, 30, 20, Cascade)
            .key(3, 30, 10, direct)
            .refers(1, row(20, 1), row(10, 1))
            .refers(2, row(30, 1), row(20, 1))
            .refers(3, row(30, 1), row(10, 1))
    };
    // The check fires with the first level's triggers, before the second level takes the row.
    let stopped = ["10 delete 1", "10 → 20 delete 1", "10 → 30 restricted 1", "10 → 20 → 30 delete 1"];
    assert_eq!(by_way_of(Refuse).told(&[row(10, 1)]), stopped);
    let passes = ["10 delete 1", "10 → 20 delete 1", "10 → 20 → 30 delete 1"];
    assert_eq!(by_way_of(RefuseLater).told(&[row(10, 1)]), passes);

    // Of two keys between the same tables, the first by name fires first.
    let keys = |first, second| {
        Model::default().key(1, 20, 10, first).key(2, 20, 10, second).refers(1, row(20, 1), row(10, 1)).refers(
            2,
            row(20, 1),
            row(10, 1),
        )
    };
    assert_eq!(keys(Cascade, Refuse).told(&[row(10, 1)]), ["10 delete 1", "10 → 20 delete 1"]);
    let refused = ["10 delete 1", "10 → 20 delete 1", "10 → 20 restricted 1"];
    assert_eq!(keys(Refuse, Cascade).told(&[row(10, 1)]), refused);

    // What the DELETE itself takes stops nothing.
    let mut both = Model::default().key(1, 10, 10, Refuse).refers(1, row(10, 2), row(10, 1));
    assert_eq!(both.told(&[row(10, 1), row(10, 2)]), ["10 delete 2"]);
    assert_eq!(both.told(&[row(10, 1)]), ["10 delete 1", "10 → 10 restricted 1"]);
}

#[test]
fn a_set_column_that_others_refer_to_is_passed_on() {
    let set = |on_update| {
        let mut model = Model::default().key(1, 20, 10, SetNull).key(2, 30, 20, on_update);
        // The column that the first key sets is the one that the second refers to.
        for (_, key) in &mut model.keys {
            if key.id == 2 {
                key.referenced = vec!["parent_1".to_owned()];
            }
        }
        model.refers(1, row(20, 1), row(10, 1)).refers(2, row(30, 1), row(20, 1))
    };
    let passed_on = ["10 delete 1", "10 → 20 set null 1", "10 → 20 → 30 set null 1"];
    assert_eq!(set(Cascade).told(&[row(10, 1)]), passed_on);
    let stopped = ["10 delete 1", "10 → 20 set null 1", "10 → 20 → 30 restricted 1"];
    assert_eq!(set(Refuse).told(&[row(10, 1)]), stopped);
}

#[test]
fn tenants_are_told_apart() {
    let mut model = Model::default();
    let found = |number, tenant: Option<&str>| (10, Found { row: row(10, number), tenant: tenant.map(Into::into) });
    let first = vec![found(1, Some("7")), found(2, Some("8")), found(3, Some("7")), found(4, None)];
    let told: Vec<_> = follow(&mut model, first).into_iter().map(|c| (c.tenant, c.rows, c.example)).collect();
    let expected = vec![(None, 1, row(10, 4)), (Some("7".into()), 2, row(10, 1)), (Some("8".into()), 1, row(10, 2))];
    assert_eq!(told, expected);
}

#[test]
fn a_long_path_is_told_by_its_ends() {
    let tables: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(told(&tables), "1 → 2 → 3 → 4 → 5 → 6 → … 8 more … → 15 → 16 → 17 → 18 → 19 → 20");
}
