//! The ownership protocol as a model, checked in all its interleavings by the crate `stateright`.
//!
//! The model follows the code step by step, at the grain at which other processes can come in between. Where the protocol
//! changes, this changes first.
//!
//! | step | in the code | here |
//! |---|---|---|
//! | a statement begins: invalidations are accepted | `session::load` | [`Action::Write`], [`Action::HandOver`] |
//! | a row is locked, before its trigger fires | Postgres | [`Place::AwaitsRow`] |
//! | the tenant is known from an earlier row | `tenants::held` | [`protocol`], `hold` |
//! | the writer shares the tenant's lock, or waits | `tenants::hold`, `locks::share` | [`Place::AwaitsTenant`] |
//! | past the threshold it shares the lock on all | `tenants::share_all` | [`Place::AwaitsAll`] |
//! | it accepts invalidations | `tenants::hold` | [`Action::Accept`] |
//! | it takes the owner from its cache, or reads it as of now | `tenants::remembered`, `read` | [`Action::Look`] |
//! | it writes and remembers the tenant, or is refused | `trigger::check` | [`Action::Look`] |
//! | a savepoint's end | `tenants::subtransaction_ended` | [`Action::Release`], [`Action::RollBackTo`] |
//! | the cutover looks before it locks | `cutover::Order::next` | [`Action::HandOver`] |
//! | it takes the tenant's lock, then the intent on all | `handover::exclude_writers` | [`Place::CutoverAwaitsTenant`], [`Action::Intend`] |
//! | it looks for deadlocks, and steps back | `locks::DeadlockRecheck`, `NotHad::Deadlock` | [`Action::Detect`], [`Action::Retry`] |
//! | it forgets what it knew, and reads again | `tenants::forget`, `session::load` | [`Action::Reread`] |
//! | it changes the row, whose trigger queues the invalidation | `cutover::Order::change` | [`Action::Change`] |
//! | commit: in the log, visible, invalidation sent, locks released | Postgres, `CommitTransaction` | [`Place::Durable`] and on |
//!
//! What is merged into one step and why: a writer's commit, because nobody can tell it from its last part, the release of
//! its locks; a look and its verdict, because they concern one process's memory. `ROLLBACK TO` also ends the savepoint, as an
//! exception block of plpgsql does.
//!
//! Every step uses something up (a statement, a place in it, a savepoint, an interrupt, a crash), and a cutover that has
//! stepped back waits for others to go on; so each run is finite, and what happens *eventually* is decided where runs end.

#![deny(unsafe_code)]

mod cutover;
pub mod locks;
pub mod mutation;
pub mod protocol;
pub mod scenes;
pub mod state;
mod writer;

pub use mutation::Mutation;
pub use protocol::{Action, Protocol};
pub use scenes::{Part, SCENES, Scene};
pub use state::{Backend, Breach, Handover, Place, State};
