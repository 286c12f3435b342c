//! Attempts at keys of several columns: a tenant is left or entered by each of them, and by texts that run into each other.
//!
//! `by_pair` has the key (note, tenant_id), of which (eu,20) is the rebuilt backend's; `by_texts` (tenant_id, note), of which
//! ("a,b",c) is.

use super::attempt::{Attempt, Expected};
use super::paths::Kind::{Compound, Copy, Upsert, Write};

const NOT_OWNER: Expected = Expected::refused(&["not_owner"]);
const GLOBAL: Expected = Expected::refused(&["global_write"]);

pub const ATTEMPTS: &[Attempt] = &[
    write("leave_by_the_first_column", "UPDATE shop.by_pair SET note = 'us' WHERE id = {2}", NOT_OWNER),
    write("leave_by_the_last_column", "UPDATE shop.by_pair SET tenant_id = {10} WHERE id = 2", NOT_OWNER),
    write("leave_by_both", "UPDATE shop.by_pair SET (note, tenant_id) = ('us', {10}) WHERE id = 2", NOT_OWNER),
    write("enter_by_the_first_column", "UPDATE shop.by_pair SET note = 'eu' WHERE id = {3}", NOT_OWNER),
    write("enter_by_the_last_column", "UPDATE shop.by_pair SET tenant_id = 20 WHERE id = {1}", NOT_OWNER),
    write("change_case_in_one_column", "UPDATE shop.by_pair SET note = 'EU' WHERE id = {2}", NOT_OWNER),
    write("add_a_space_to_one_column", "UPDATE shop.by_pair SET note = note || ' ' WHERE id = {2}", NOT_OWNER),
    write("empty_one_column", "UPDATE shop.by_pair SET note = '' WHERE id = {2}", NOT_OWNER),
    write("give_to_everybody_by_the_first_column", "UPDATE shop.by_pair SET note = NULL WHERE id = {2}", GLOBAL),
    write("give_to_everybody_by_the_last_column", "UPDATE shop.by_pair SET tenant_id = NULL WHERE id = {2}", GLOBAL),
    write("take_from_everybody", "UPDATE shop.by_pair SET tenant_id = 20 WHERE id = {4}", GLOBAL),
    write(
        "insert_for_another_behind_own_rows",
        "INSERT INTO shop.by_pair (id, tenant_id, note) VALUES (60, 20, 'eu'), (61, 20, 'eu'), (62, {20}, 'us')",
        NOT_OWNER,
    ),
    write(
        "insert_for_everybody_behind_own_rows",
        "INSERT INTO shop.by_pair (id, tenant_id, note) VALUES (60, 20, 'eu'), (61, {20}, NULL)",
        GLOBAL,
    ),
    write("insert_without_one_column", "INSERT INTO shop.by_pair (id, tenant_id) VALUES ({60}, 20)", GLOBAL),
    write("delete_anothers_row", "DELETE FROM shop.by_pair WHERE tenant_id = {20} AND note <> 'eu'", NOT_OWNER),
    write("write_a_child_of_another", "UPDATE shop.pair_lines SET note = 'x' WHERE id = {1}", NOT_OWNER),
    Attempt::new(
        Upsert,
        "leave_on_conflict",
        "INSERT INTO shop.by_pair (id, tenant_id, note) VALUES ({2}, 20, 'eu') ON CONFLICT (id) DO UPDATE SET note = 'us'",
        NOT_OWNER,
    ),
    Attempt::new(
        Compound,
        "leave_by_merge",
        "MERGE INTO shop.by_pair p USING (VALUES ({2}::int)) v (id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET note = 'us'",
        NOT_OWNER,
    ),
    write(
        "move_a_comma_between_columns",
        "UPDATE shop.by_texts SET (tenant_id, note) = ('a', 'b,c') WHERE id = {2}",
        NOT_OWNER,
    ),
    write(
        "put_all_into_one_column",
        "INSERT INTO shop.by_texts (id, tenant_id, note) VALUES ({60}, 'a,b,c', '')",
        NOT_OWNER,
    ),
    write(
        "put_the_quotes_in",
        "INSERT INTO shop.by_texts (id, tenant_id, note) VALUES ({60}, '\"a,b\"', 'c')",
        NOT_OWNER,
    ),
    write(
        "put_the_parentheses_in",
        "INSERT INTO shop.by_texts (id, tenant_id, note) VALUES ({60}, '(a,b', 'c)')",
        NOT_OWNER,
    ),
    write(
        "put_the_row_in",
        "INSERT INTO shop.by_texts (id, tenant_id, note) VALUES ({60}, '(\"a,b\",c)', '')",
        NOT_OWNER,
    ),
    write("escape_the_comma", "INSERT INTO shop.by_texts (id, tenant_id, note) VALUES ({60}, 'a\\,b', 'c')", NOT_OWNER),
    // The same text in a table of one column is the same tenant, and nothing else is.
    write(
        "a_text_that_is_nearly_the_row",
        "INSERT INTO shop.by_text (id, tenant_id) VALUES ({60}, '(a,b,c)')",
        NOT_OWNER,
    ),
    Attempt::new(
        Copy,
        "copy_for_another_by_one_column",
        "shop.by_pair (id, tenant_id, note) <- VALUES (60, 20, 'eu'::text), (61, 20, 'us'), (62, 20, 'eu')",
        NOT_OWNER,
    ),
];

const fn write(name: &'static str, sql: &'static str, expected: Expected) -> Attempt {
    Attempt::new(Write, name, sql, expected)
}
