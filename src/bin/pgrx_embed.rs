//! Lists the extension's SQL objects for cargo-pgrx.
#![allow(unsafe_code, reason = "cargo-pgrx generates the code that this expands to")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "as above")]

::pgrx::pgrx_embed!();
