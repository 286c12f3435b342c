//! Attempts to get at rows through other tables, and through other spellings of their tenant.

use super::attempt::{Attempt, Expected};
use super::paths::Kind::{Compound, Upsert, Write};
use super::paths::Path::{self, InsteadOf, RuleView};

const NOT_OWNER: Expected = Expected::refused(&["not_owner"]);
const GLOBAL: Expected = Expected::refused(&["global_write"]);
const CASCADE: Expected = Expected::refused(&["cascade"]);

/// Views whose rules and triggers write three columns only.
const REWORDED: &[Path] = &[InsteadOf, RuleView];

pub const ATTEMPTS: &[Attempt] = &[
    // Partitions, at several levels.
    Attempt::new(
        Write,
        "insert_through_the_root",
        "INSERT INTO shop.log (id, tenant_id, region, day) VALUES (60, {10}, 'eu', 11)",
        NOT_OWNER,
    )
    .not_by(REWORDED),
    Attempt::new(Write, "update_through_the_root", "UPDATE shop.log SET note = 'x' WHERE id = {3}", NOT_OWNER),
    Attempt::new(Write, "update_in_the_middle", "UPDATE shop.log_eu SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "delete_in_the_middle", "DELETE FROM shop.log_eu WHERE id = {3}", NOT_OWNER),
    Attempt::new(Write, "update_a_leaf", "UPDATE shop.log_eu_1 SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(
        Write,
        "update_a_leaf_with_columns_in_another_order",
        "UPDATE shop.log_eu_2 SET note = 'x' WHERE id = {3}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "insert_into_a_leaf",
        "INSERT INTO shop.log_eu_2 (id, tenant_id, region, day) VALUES (60, {10}, 'eu', 11)",
        NOT_OWNER,
    )
    .not_by(REWORDED),
    Attempt::new(
        Write,
        "move_anothers_row_to_another_partition",
        "UPDATE shop.log SET region = 'us', day = 60 WHERE id = {1}",
        NOT_OWNER,
    )
    .not_by(REWORDED),
    Attempt::new(
        Write,
        "give_a_row_away_into_another_partition",
        "UPDATE shop.log SET region = 'us', tenant_id = {10} WHERE id = 2",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "move_a_row_between_leaves_of_the_middle",
        "UPDATE shop.log_eu SET day = 12, tenant_id = {10} WHERE id = 2",
        NOT_OWNER,
    ),
    Attempt::new(
        Upsert,
        "upsert_into_a_partition",
        "INSERT INTO shop.log (id, tenant_id, region, day) VALUES (1, {20}, 'eu', 1) ON CONFLICT (id, region, day) DO UPDATE SET note = 'x'",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "merge_into_partitions",
        "MERGE INTO shop.log l USING (VALUES ({3}::int)) v (id) ON l.id = v.id WHEN MATCHED THEN UPDATE SET region = 'us'",
        NOT_OWNER,
    ),
    // Inheritance.
    Attempt::new(
        Write,
        "update_a_child_through_its_parent",
        "UPDATE shop.vehicles SET note = 'x' WHERE id = {3}",
        NOT_OWNER,
    ),
    Attempt::new(Write, "update_a_parent_only", "UPDATE ONLY shop.vehicles SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "delete_from_a_child", "DELETE FROM shop.trucks WHERE id = {3}", NOT_OWNER),
    Attempt::new(Write, "insert_into_a_child", "INSERT INTO shop.trucks (id, tenant_id) VALUES (60, {10})", NOT_OWNER),
    // Foreign keys.
    Attempt::new(Write, "cascade_to_anothers_row", "DELETE FROM shop.orders WHERE id = {3}", CASCADE),
    Attempt::new(Write, "cascade_two_levels_down", "DELETE FROM shop.orders WHERE id = {23}", CASCADE),
    Attempt::new(Write, "cascade_an_update", "UPDATE shop.orders SET id = 33 WHERE id = {3}", CASCADE),
    Attempt::new(Write, "cascade_a_null", "DELETE FROM shop.orders WHERE id = {21}", CASCADE),
    Attempt::new(Write, "cascade_a_default", "DELETE FROM shop.orders WHERE id = {22}", CASCADE),
    Attempt::new(Write, "cascade_to_a_global_table", "DELETE FROM shop.baskets WHERE id = {1}", CASCADE),
    Attempt::new(
        Write,
        "cascade_to_an_unclassified_table",
        "DELETE FROM shop.carts WHERE id = {1}",
        Expected::refused(&["cascade", "outside_surface"]),
    ),
    Attempt::new(
        Compound,
        "cascade_of_a_merge",
        "MERGE INTO shop.orders o USING (VALUES ({3}::int)) v (id) ON o.id = v.id WHEN MATCHED THEN DELETE",
        CASCADE,
    ),
    // Tenants told by foreign keys. What the column tenant_id says there is nobody's business.
    Attempt::new(Write, "insert_a_child_of_anothers_row", "INSERT INTO shop.lines (id, order_id) VALUES (60, {1})", NOT_OWNER)
        .not_by(REWORDED),
    Attempt::new(Write, "insert_a_child_of_nobody", "INSERT INTO shop.lines (id, tenant_id) VALUES ({60}, 20)", GLOBAL),
    Attempt::new(
        Write,
        "insert_a_child_of_what_isnt_there_yet",
        "INSERT INTO shop.lines (id, order_id) VALUES (60, {1000})",
        GLOBAL,
    )
    .not_by(REWORDED),
    Attempt::new(Write, "update_a_child_of_anothers_row", "UPDATE shop.lines SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "give_a_child_away", "UPDATE shop.lines SET order_id = {1} WHERE id = 2", NOT_OWNER)
        .not_by(REWORDED),
    Attempt::new(Write, "take_a_child_over", "UPDATE shop.lines SET order_id = {12} WHERE id = 1", NOT_OWNER),
    Attempt::new(Write, "delete_a_child_of_anothers_row", "DELETE FROM shop.lines WHERE id = {1}", Expected::refused(&["not_owner", "cascade"])),
    Attempt::new(Write, "insert_a_grandchild_of_anothers_row", "INSERT INTO shop.taxes (id, line_id) VALUES (60, {1})", NOT_OWNER)
        .not_by(REWORDED),
    Attempt::new(Write, "give_a_grandchild_away", "UPDATE shop.taxes SET line_id = {1} WHERE id = 2", NOT_OWNER)
        .not_by(REWORDED),
    Attempt::new(Write, "delete_a_grandchild_of_anothers_row", "DELETE FROM shop.taxes WHERE id = {1}", NOT_OWNER),
    Attempt::new(
        Compound,
        "make_a_parent_and_give_a_child_away_at_once",
        "WITH made AS (INSERT INTO shop.orders (id, tenant_id) VALUES (60, 21) RETURNING id)
         INSERT INTO shop.lines (id, order_id) SELECT 60 + n, CASE n WHEN 1 THEN id ELSE {1} END FROM made, generate_series(1, 2) n",
        Expected::refused(&["not_owner", "global_write"]),
    ),
    Attempt::new(Write, "write_a_table_of_another_tenant", "UPDATE shop.tens SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(Write, "insert_into_a_table_of_another_tenant", "INSERT INTO shop.tens VALUES ({60}, 20)", NOT_OWNER),
    // The application's triggers.
    Attempt::new(
        Write,
        "a_trigger_changes_the_tenant_of_an_insert",
        "INSERT INTO shop.moved (id, tenant_id) VALUES (60, {20})",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_trigger_changes_the_tenant_of_an_update",
        "UPDATE shop.moved SET note = 'x' WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_trigger_of_legacy_writes_anothers_row",
        "INSERT INTO shop.echoed (id, tenant_id) VALUES (60, {20})",
        NOT_OWNER,
    ),
    // Keys in other spellings and types.
    Attempt::new(Write, "a_key_in_bigint", "UPDATE shop.by_int8 SET tenant_id = {10} WHERE id = 2", NOT_OWNER),
    Attempt::new(Write, "a_key_in_smallint", "UPDATE shop.by_int2 SET tenant_id = {10} WHERE id = 2", NOT_OWNER),
    Attempt::new(Write, "a_key_in_a_domain", "UPDATE shop.by_domain SET tenant_id = {10} WHERE id = 2", NOT_OWNER),
    Attempt::new(
        Write,
        "a_key_with_a_leading_zero",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, '010')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_key_with_a_leading_space",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, ' 10')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_key_by_assignment_from_numeric",
        "INSERT INTO shop.orders (id, tenant_id) VALUES (60, {10} + 0.4)",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_bigger_key_whose_low_bits_are_the_own_tenants",
        "UPDATE shop.by_int8 SET tenant_id = 4294967296 + {20} WHERE id = 2",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_text_that_reads_as_an_own_integer",
        "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, '020')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_text_in_upper_case",
        "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, 'ACME')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_text_with_a_trailing_space",
        "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, 'acme ')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_varchar_with_a_trailing_space",
        "INSERT INTO shop.by_varchar (id, tenant_id) VALUES ({60}, 'acme ')",
        NOT_OWNER,
    ),
    Attempt::new(Write, "an_empty_text", "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, '')", NOT_OWNER),
    Attempt::new(
        Write,
        "a_text_in_another_normal_form",
        "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, U&'acm\\00E9')",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_text_that_is_stored_compressed",
        "UPDATE shop.by_text SET tenant_id = repeat('acme', 5000) WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_citext_in_another_case",
        "UPDATE shop.by_citext SET tenant_id = 'BETA' WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_uuid_in_another_form",
        "UPDATE shop.by_uuid SET tenant_id = '{BBBBBBBB-00004000-80000000-00000000}' WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_uuid_with_the_own_tenants_beginning",
        "UPDATE shop.by_uuid SET tenant_id = 'aaaaaaaa-0000-4000-8000-000000000001' WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_bytea_in_escape_format",
        "UPDATE shop.by_bytea SET tenant_id = '\\273'::bytea WHERE id = {2}",
        NOT_OWNER,
    ),
    Attempt::new(
        Write,
        "a_bytea_that_continues_the_own_tenants",
        "UPDATE shop.by_bytea SET tenant_id = '\\xaa00' WHERE id = {2}",
        NOT_OWNER,
    ),
];
