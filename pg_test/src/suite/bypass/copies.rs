//! Attempts with COPY FROM STDIN. `into <- rows`: what is copied into, and a query for what is copied.

use super::attempt::Expected::Fails;
use super::attempt::{Attempt, Expected};
use super::paths::Kind::Copy;

const NOT_OWNER: Expected = Expected::refused(&["not_owner"]);

pub const ATTEMPTS: &[Attempt] = &[
    copy("copy_for_another", "shop.orders (id, tenant_id) <- VALUES (60, 20), (61, 10), (62, 20)", NOT_OWNER),
    copy(
        "copy_for_another_after_many",
        "shop.orders (id, tenant_id) <- SELECT n, CASE n WHEN 3000 THEN 10 ELSE 20 END FROM generate_series(100, 3000) n",
        NOT_OWNER,
    ),
    copy(
        "copy_into_a_frozen_tenant",
        "shop.orders (id, tenant_id) <- VALUES (60, 50)",
        Expected::refused(&["tenant_frozen"]),
    ),
    copy(
        "copy_for_everybody",
        "shop.orders (id, tenant_id) <- VALUES (60, NULL::int)",
        Expected::refused(&["global_write"]),
    ),
    copy("copy_without_a_tenant", "shop.orders (id) <- VALUES (60)", Expected::refused(&["global_write"])),
    copy(
        "copy_an_outside_column",
        "shop.orders (id, tenant_id, extra) <- VALUES (60, 20, 1)",
        Expected::refused(&["outside_surface"]),
    ),
    copy("copy_every_column", "shop.orders <- VALUES (60, 20, 'x'::text, 1)", Expected::refused(&["outside_surface"])),
    copy("copy_into_a_global_table", "shop.plans (id) <- VALUES (60)", Expected::refused(&["global_write"])),
    copy("copy_into_an_unclassified_table", "shop.loose (id) <- VALUES (60)", Expected::refused(&["outside_surface"])),
    copy("copy_into_legacys_own_table", "shop.ledger (id) <- VALUES (60)", Expected::refused(&["outside_surface"])),
    copy(
        "copy_into_a_partitioned_table",
        "shop.log (id, tenant_id, region, day) <- VALUES (60, 20, 'us'::text, 1), (61, 10, 'eu'::text, 11)",
        NOT_OWNER,
    ),
    copy(
        "copy_into_a_leaf",
        "shop.log_eu_2 (id, tenant_id, region, day) <- VALUES (61, 10, 'eu'::text, 11)",
        NOT_OWNER,
    ),
    copy("copy_into_a_child", "shop.trucks (id, tenant_id) <- VALUES (61, 10)", NOT_OWNER),
    copy("copy_what_a_trigger_changes", "shop.moved (id, tenant_id) <- VALUES (61, 20)", NOT_OWNER),
    copy("copy_what_a_trigger_echoes", "shop.echoed (id, tenant_id) <- VALUES (61, 20)", NOT_OWNER),
    copy("copy_into_a_view", "shop_instead.orders (id, tenant_id) <- VALUES (61, 10)", NOT_OWNER),
    copy("copy_a_text_with_a_trailing_space", "shop.by_text (id, tenant_id) <- VALUES (61, 'acme '::text)", NOT_OWNER),
    copy("copy_a_wide_key", "shop.by_int8 (id, tenant_id) <- VALUES (61, 4294967316)", NOT_OWNER),
    copy("copy_into_the_policy", "holdfast.ownership (tenant) <- VALUES ('10'::text)", Fails("42501")),
];

const fn copy(name: &'static str, sql: &'static str, expected: Expected) -> Attempt {
    Attempt::new(Copy, name, sql, expected)
}
