//! Attempts with the rebuilt backend's login to change what it must not, each along every path that it can take.
//!
//! - [`stage`] a guarded shop, and a checksum of everything in it
//! - [`paths`] the ways that a statement can take to the server
//! - [`attempt`] makes attempts along them, and judges
//! - [`rows`], [`reach`] the attempts

mod attempt;
mod commands;
mod paths;
mod reach;
mod rows;
mod stage;
mod tampering;

use super::Test;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("rows_of_others_stay_as_they_are", |cluster| attempt::make(cluster, rows::ATTEMPTS)),
        Test::shared("rows_out_of_reach_stay_as_they_are", |cluster| attempt::make(cluster, reach::ATTEMPTS)),
        Test::shared("commands_destroy_nothing", |cluster| attempt::make(cluster, commands::ATTEMPTS)),
        Test::shared("the_guard_stays_as_it_is", |cluster| attempt::make(cluster, tampering::ATTEMPTS)),
    ]
}
