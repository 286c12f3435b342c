//! Attempts with the rebuilt backend's login to change what it must not, each along every path that it can take.
//!
//! - [`stage`] a guarded shop, and a checksum of everything in it
//! - [`paths`] the ways that a statement can take to the server
//! - [`attempt`] makes attempts along them, and judges
//! - [`rows`], [`reach`], [`keys`], [`copies`], [`commands`], [`tampering`], [`scripts`] the attempts, as tables
//! - [`elsewhere`], [`deputies`] those that no table holds

mod attempt;
mod commands;
mod copies;
mod deputies;
mod elsewhere;
mod keys;
mod paths;
mod reach;
mod rows;
mod scripts;
mod stage;
mod tampering;

use super::Test;
use crate::cluster::ClusterOptions;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("rows_of_others_stay_as_they_are", |cluster| attempt::make(cluster, rows::ATTEMPTS)),
        Test::shared("rows_out_of_reach_stay_as_they_are", |cluster| attempt::make(cluster, reach::ATTEMPTS)),
        Test::shared("keys_of_several_columns_are_not_left_by_one", |cluster| attempt::make(cluster, keys::ATTEMPTS)),
        Test::shared("copies_of_others_are_not_taken", |cluster| attempt::make(cluster, copies::ATTEMPTS)),
        Test::shared("nobody_gets_round_the_guard_in_steps", |cluster| attempt::make(cluster, scripts::ATTEMPTS)),
        Test::shared("commands_destroy_nothing", |cluster| attempt::make(cluster, commands::ATTEMPTS)),
        Test::shared("the_guard_stays_as_it_is", |cluster| attempt::make(cluster, tampering::ATTEMPTS)),
        Test::shared("startup_packets_raise_nobody", elsewhere::startup_packets_raise_nobody),
        Test::shared(
            "connections_back_are_judged_by_their_own_login",
            elsewhere::connections_back_are_judged_by_their_own_login,
        )
        .needs_module("postgres_fdw")
        .needs_module("dblink"),
        Test::shared("maintenance_carries_no_writes", deputies::maintenance_carries_no_writes),
        Test::own(
            "autovacuum_carries_no_writes",
            ClusterOptions::new().set("autovacuum_naptime", "1s"),
            deputies::autovacuum_carries_no_writes,
        ),
        Test::shared("a_generated_key_tells_no_tenant", deputies::a_generated_key_tells_no_tenant),
        Test::shared("functions_called_by_number_are_judged", deputies::functions_called_by_number_are_judged),
        Test::shared("an_owner_opens_no_table", deputies::an_owner_opens_no_table),
        Test::shared(
            "writes_that_wait_are_judged_by_the_new_owner",
            elsewhere::writes_that_wait_are_judged_by_the_new_owner,
        ),
    ]
}
