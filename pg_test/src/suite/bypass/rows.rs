//! Attempts at rows: of other tenants, of everybody, outside the surface, all at once.

use super::attempt::Expected::Passes;
use super::attempt::{Attempt, Expected};
use super::paths::Kind::{Compound, Query, TopLevel, Upsert, Write};
use super::paths::Path::{self, BarrierView, Dblink, InsteadOf, Rule, RuleView};

const NOT_OWNER: Expected = Expected::refused(&["not_owner"]);
const FROZEN: Expected = Expected::refused(&["tenant_frozen"]);
const GLOBAL: Expected = Expected::refused(&["global_write"]);
const OUTSIDE: Expected = Expected::refused(&["outside_surface"]);
const UNFILTERED: Expected = Expected::refused(&["unfiltered_write"]);

/// Views whose rules and triggers write in their own words.
const REWORDED: &[Path] = &[InsteadOf, RuleView];

/// The same, and the view that has a condition itself.
const REFILTERED: &[Path] = &[InsteadOf, RuleView, BarrierView];

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(Write, "insert_for_another", "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {10})", NOT_OWNER),
    Attempt::new(
        Write,
        "insert_for_another_behind_an_own_row",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, 20), (61, 20), (62, {10})",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "insert_what_is_selected",
        "INSERT INTO shop.orders (id, tenant_id, note) SELECT id + 60, tenant_id, note FROM shop.orders WHERE tenant_id = {10}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "insert_for_an_unlisted_tenant",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {777})",
        NOT_OWNER,
    ),
    Attempt::new(Write, "insert_for_nobody", "INSERT INTO shop.orders (id, tenant_id) VALUES ({60}, NULL)", GLOBAL),
    Attempt::new(Write, "insert_the_default", "INSERT INTO shop.orders (id, note) VALUES ({60}, 'x')", GLOBAL),
    Attempt::new(
        Write,
        "insert_the_default_by_name",
        "INSERT INTO shop.orders (id, tenant_id) VALUES ({60}, DEFAULT)",
        GLOBAL,
    ),
    Attempt::new(
        Write,
        "insert_into_an_own_frozen_tenant",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {50})",
        FROZEN,
    ),
    Attempt::new(
        Write,
        "insert_into_anothers_frozen_tenant",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {40})",
        NOT_OWNER,
    ),
    Attempt::new(Write, "update_anothers_row", "UPDATE shop.orders SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "update_nobodys_row", "UPDATE shop.orders SET note = 'x' WHERE id = {9}", GLOBAL),
    Attempt::new(Write, "update_a_frozen_row", "UPDATE shop.orders SET note = 'x' WHERE id = {5}", FROZEN),
    Attempt::new(Write, "give_a_row_away", "UPDATE shop.orders SET tenant_id = {10} WHERE id = 2", NOT_OWNER),
    Attempt::new(Write, "take_a_row_over", "UPDATE shop.orders SET tenant_id = 20 WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "give_a_row_to_everybody", "UPDATE shop.orders SET tenant_id = NULL WHERE id = {2}", GLOBAL),
    Attempt::new(Write, "take_everybodys_row", "UPDATE shop.orders SET tenant_id = 20 WHERE id = {9}", GLOBAL),
    Attempt::new(
        Write,
        "set_the_tenant_to_its_default",
        "UPDATE shop.orders SET tenant_id = DEFAULT WHERE id = {2}",
        GLOBAL,
    ),
    Attempt::new(
        Write,
        "set_the_tenant_in_a_row_constructor",
        "UPDATE shop.orders SET (tenant_id, note) = ROW({10}, 'x') WHERE id = 2",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "set_the_tenant_from_a_subquery",
        "UPDATE shop.orders SET (tenant_id, note) = (SELECT tenant_id, 'x' FROM shop.orders WHERE id = {1}) WHERE id = 2",
        NOT_OWNER,
    )
    .not_by(&[RuleView]),
    Attempt::new(
        Write,
        "set_the_tenant_from_a_join",
        "UPDATE shop.orders SET tenant_id = i.tenant_id FROM shop.items i WHERE orders.id = 2 AND i.id = {4}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "update_among_own_rows",
        "UPDATE shop.orders SET note = 'x' WHERE id IN (2, 3, {11})",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "update_by_a_key_cast_otherwise",
        "UPDATE shop.orders SET note = 'x' WHERE tenant_id::text = '0' || {10}::text OR tenant_id::int8 = 10",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "update_returning",
        "UPDATE shop.orders SET note = 'x' WHERE id = {1} RETURNING id, note",
        NOT_OWNER,
    )
    .not_by(&[Rule, RuleView]),
    Attempt::new(Write, "update_an_outside_column", "UPDATE shop.orders SET extra = {1} WHERE id = 2", OUTSIDE)
        .not_by(REWORDED),
    Attempt::new(
        Write,
        "update_an_outside_column_among_others",
        "UPDATE shop.orders SET (note, extra) = ('x', {1}) WHERE id = 2",
        OUTSIDE,
    )
    .not_by(REWORDED),
    Attempt::new(
        Write,
        "insert_an_outside_column",
        "INSERT INTO shop.orders (id, tenant_id, extra) VALUES (60, {20}, 1)",
        OUTSIDE,
    )
    .not_by(REWORDED),
    Attempt::new(Write, "insert_every_column", "INSERT INTO shop.orders SELECT {60}::int, 20, 'x', 1", OUTSIDE)
        .not_by(REWORDED),
    Attempt::new(Write, "delete_anothers_row", "DELETE FROM shop.orders WHERE id = {11}", NOT_OWNER),
    Attempt::new(Write, "delete_nobodys_row", "DELETE FROM shop.orders WHERE id = {9}", GLOBAL),
    Attempt::new(Write, "delete_a_frozen_row", "DELETE FROM shop.orders WHERE id = {5}", FROZEN),
    Attempt::new(
        Write,
        "delete_by_a_join",
        "DELETE FROM shop.orders USING shop.items i WHERE i.order_id = orders.id AND i.tenant_id = {10} AND orders.tenant_id = 10",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "delete_a_tenant_not_in_the_list",
        "DELETE FROM shop.notes WHERE tenant_id <> ALL (ARRAY[20, {21}])",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "upsert_anothers_row",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (1, {20}) ON CONFLICT (id) DO UPDATE SET note = 'x'",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "upsert_a_row_over_to_another",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (2, 20) ON CONFLICT (id) DO UPDATE SET tenant_id = {10}",
        NOT_OWNER,
    )
    .not_by(&[Rule]),
    Attempt::new(
        Upsert,
        "upsert_what_is_excluded",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (1, {20}) ON CONFLICT (id) DO UPDATE SET tenant_id = excluded.tenant_id",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "upsert_for_another",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {10}) ON CONFLICT (id) DO UPDATE SET note = 'x'",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "insert_for_another_or_do_nothing",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {10}) ON CONFLICT DO NOTHING",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "upsert_an_outside_column",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (2, {20}) ON CONFLICT (id) DO UPDATE SET extra = 1",
        OUTSIDE,
    ),
    Attempt::new(
        Compound,
        "merge_updates_anothers_row",
        "MERGE INTO shop.orders o USING (VALUES ({1}::int)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET note = 'x'",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "merge_deletes_anothers_row",
        "MERGE INTO shop.orders o USING (VALUES ({11}::int)) v (id) ON o.id = v.id WHEN MATCHED THEN DELETE",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "merge_inserts_for_another",
        "MERGE INTO shop.orders o USING (VALUES ({60}::int)) v (id) ON o.id = v.id
         WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (v.id, 10)",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "merge_gives_a_row_away",
        "MERGE INTO shop.orders o USING (VALUES ({2}::int)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET tenant_id = 10",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "merge_updates_an_outside_column",
        "MERGE INTO shop.orders o USING (VALUES ({2}::int)) v (id) ON o.id = v.id WHEN MATCHED THEN UPDATE SET extra = 1",
        OUTSIDE,
    ),
    Attempt::new(
        Compound,
        "merge_on_true",
        "MERGE INTO shop.orders o USING (VALUES ({1}::int)) v (id) ON true WHEN MATCHED THEN DELETE",
        UNFILTERED,
    ),
    Attempt::new(
        Compound,
        "two_writes_in_one_statement",
        "WITH a AS (UPDATE shop.orders SET note = 'x' WHERE id = 2 RETURNING id)
         UPDATE shop.notes SET note = 'x' WHERE id = {1} AND EXISTS (SELECT FROM a)",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "a_row_moved_by_a_with_query",
        "WITH gone AS (DELETE FROM shop.notes WHERE id = {1} RETURNING *) INSERT INTO shop.orders (id, tenant_id) SELECT id + 60, 20 FROM gone",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "a_write_that_nobody_reads",
        "WITH unread AS (DELETE FROM shop.notes WHERE id = {1}) SELECT 1",
        NOT_OWNER,
    ),
    Attempt::new(Write, "delete_everything", "DELETE FROM shop.orders", UNFILTERED).not_by(REFILTERED),
    Attempt::new(Write, "update_everything", "UPDATE shop.orders SET note = 'x'", UNFILTERED).not_by(REFILTERED),
    Attempt::new(Write, "delete_where_true", "DELETE FROM shop.notes WHERE true OR id = {1}", UNFILTERED)
        .not_by(REFILTERED),
    Attempt::new(Write, "delete_where_one_is_one", "DELETE FROM shop.notes WHERE 1 = {1}", UNFILTERED)
        .not_by(REFILTERED),
    Attempt::new(Write, "delete_where_it_is_itself", "DELETE FROM shop.notes WHERE id = id", UNFILTERED)
        .not_by(REFILTERED),
    Attempt::new(
        Write,
        "delete_where_a_nullable_column_is_itself",
        "DELETE FROM shop.notes WHERE tenant_id = tenant_id",
        // To the planner that is IS NOT NULL, a condition.
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "delete_where_something_exists",
        "DELETE FROM shop.notes WHERE EXISTS (SELECT FROM shop.orders WHERE id = {1})",
        UNFILTERED,
    )
    .not_by(REFILTERED),
    Attempt::new(
        Write,
        "delete_by_a_join_without_a_link",
        "DELETE FROM shop.notes USING shop.orders o WHERE o.id = {1}",
        UNFILTERED,
    )
    .not_by(REFILTERED),
    Attempt::new(Write, "write_a_global_table", "INSERT INTO shop.plans (id) VALUES ({60})", GLOBAL),
    Attempt::new(Write, "update_a_global_table", "UPDATE shop.plans SET note = 'x' WHERE id = {1}", GLOBAL),
    Attempt::new(Write, "write_an_unclassified_table", "INSERT INTO shop.loose (id) VALUES ({60})", OUTSIDE),
    Attempt::new(Write, "delete_from_an_unclassified_table", "DELETE FROM shop.loose WHERE id = {1}", OUTSIDE),
    Attempt::new(Write, "write_legacys_own_table", "UPDATE shop.ledger SET note = 'x' WHERE id = {1}", OUTSIDE),
    // Reading is never refused, not even under locks; nor is asking what a write would do.
    Attempt::new(TopLevel, "explain_a_write", "EXPLAIN DELETE FROM shop.orders", Passes),
    Attempt::new(Query, "read_everything", "SELECT * FROM shop.orders", Passes).not_by(&[Dblink]),
    Attempt::new(Query, "read_for_update", "SELECT id FROM shop.orders WHERE tenant_id = {10} FOR UPDATE", Passes).not_by(&[Dblink]),
    Attempt::new(Query, "read_for_no_key_update", "SELECT id FROM shop.plans FOR NO KEY UPDATE", Passes).not_by(&[Dblink]),
    Attempt::new(Query, "read_for_share", "SELECT id FROM shop.log FOR SHARE", Passes).not_by(&[Dblink]),
];
