//! How long texts may be that are given. Names are keys, which an index must hold; reasons are repeated in messages, notifications
//! and each event.

use pgrx::PgSqlErrorCode;

use super::required;
use crate::pg::report::error;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 200;

/// The longest reason, in bytes.
const LONGEST_REASON: usize = 1_000;

/// The name of something, which must not be empty.
pub(super) fn name<'a>(text: Option<&'a str>, parameter: &str) -> &'a str {
    let name = required(text, parameter);
    if name.trim().is_empty() {
        empty(parameter, "It is a name.", "");
    }
    no_longer(name, parameter, LONGEST_NAME, "Give a shorter name.");
    name
}

/// Why somebody does what he does.
pub(super) fn reason(text: Option<&str>) -> &str {
    let reason = required(text, "reason").trim();
    if reason.is_empty() {
        empty("reason", "It is what refused clients and the record show.", "Say why, for those who read it.");
    }
    no_longer(reason, "reason", LONGEST_REASON, "Give a sentence, and say where to read more.");
    reason
}

/// A pattern for names.
pub(super) fn pattern<'a>(text: Option<&'a str>, parameter: &str) -> Option<&'a str> {
    text.inspect(|pattern| no_longer(pattern, parameter, LONGEST_NAME, "Give a shorter pattern."))
}

/// As much of a text as a reason may have, where the server itself says why.
pub(super) fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(LONGEST_REASON)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn empty(parameter: &str, detail: &str, hint: &str) -> ! {
    let message = format!("parameter \"{parameter}\" must not be empty");
    error(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, detail, hint)
}

fn no_longer(text: &str, parameter: &str, longest: usize, hint: &str) {
    if text.len() > longest {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("parameter \"{parameter}\" is too long"),
            format!("It has {} bytes; {longest} are allowed.", text.len()),
            hint,
        );
    }
}
