//! Holdfast's harness: throwaway clusters, the demo, the tests.
//!
//! - [`setup`] finds or installs what is missing, builds the extension, makes a private installation
//! - [`cluster`], [`database`], [`client`], [`pending`]: clusters, databases and sessions for tests
//! - [`server`], [`launcher`], [`lifecycle`], [`account`]: processes, and that none is left behind
//! - [`suite`] the tests over real connections; [`regress`] the server's own runners; [`policy`] what needs no server
//! - [`core_regression`] PostgreSQL's own suite, without holdfast and with it
//! - [`fuzz`] random statements of the rebuilt login
//! - [`demo`] the main job on real traffic; [`bench`] its price, beside what one would do instead

pub mod account;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod copy;
pub mod core_regression;
pub mod database;
pub mod demo;
pub mod endpoint;
pub mod fuzz;
pub mod launcher;
pub mod lifecycle;
pub mod pending;
pub mod policy;
pub mod regress;
pub mod server;
pub mod setup;
pub mod small_disk;
pub mod suite;
pub mod ui;
pub mod wait;
