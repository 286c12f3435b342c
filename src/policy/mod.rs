//! What is allowed, decided without Postgres: facts in, verdict out.
//!
//! Nothing here knows pgrx, a clock or any I/O, so every rule is tested by a table of cases under plain `cargo test`.
//!
//! | module | decides |
//! |---|---|
//! | [`backend`] | what a backend is and how far it is trusted |
//! | [`identity`] | which backend a session belongs to |
//! | [`tenant`] | when two keys name the same tenant |
//! | [`columns`] | which columns a tenant key has |
//! | [`composite`] | how a key of several columns is one text |
//! | [`spelling`] | which tenant a user means |
//! | [`ownership`] | who may write a tenant; whether a cutover may start |
//! | [`readiness`] | whether a tenant is ready to be handed over |
//! | [`surface`] | which tables, commands and columns a backend may write |
//! | [`command`] | which commands and plans an unproven backend may run |
//! | [`schema`] | whose rows the tables of a schema hold, as far as they tell |
//! | [`cascade`] | what a DELETE takes with it |
//! | [`tampering`] | what nobody may do to the guard itself |
//! | [`glass`] | how long break-glass lasts |
//! | [`limits`] | how much a backend may write |
//! | [`looks`] | what is counted of all this, and for which rules |
//! | [`mode`] | whether a broken rule is ignored, recorded or refused |
//! | [`end_date`] | when to remind of the migration's end, and what happens when it passes |
//! | [`ending`] | when a backend may be retired, and the guard lifted |
//! | [`rules`] | the name, SQLSTATE and wording of every refusal |
//! | [`events`] | what is recorded of a refusal |
//! | [`query_text`] | what an event keeps of a statement |
//! | [`redaction`] | what none keeps of it: tokens |
//! | [`literal`] | what a string literal says |
//! | [`flood`] | which events are counted in a row that is there |
//! | [`setting`] | which settings a backend may not loosen |
//! | [`waves`] | what state of a wave follows which, and when it must stop |
//! | [`set`] | all of a database's policy, as one value |

pub mod backend;
pub mod cascade;
pub mod columns;
pub mod command;
pub mod composite;
pub mod end_date;
pub mod ending;
pub mod events;
pub mod flood;
pub mod glass;
pub mod hours;
pub mod identity;
pub mod limits;
pub mod literal;
pub mod looks;
pub mod mode;
pub mod ownership;
pub mod proofs;
pub mod query_text;
pub mod readiness;
pub mod redaction;
pub mod rules;
pub mod schema;
pub mod set;
pub mod setting;
pub mod spelling;
pub mod spool;
pub mod surface;
pub mod tampering;
pub mod tenant;
pub mod token;
pub mod waves;
