//! What no event keeps of the client's statement, whatever the setting says: tokens. Whoever has one can show it until it
//! expires, so one in a statement is as good as a password.
//!
//! Hidden are what reads like a JWS in compact form, wherever it stands, and every literal among the arguments of `identify`,
//! whatever it reads like.

use std::borrow::Cow;
use std::ops::Range;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::query_text::Scan;

/// What stands in a token's place.
const HIDDEN: &str = "[redacted]";

/// The function that takes tokens.
const IDENTIFY: &str = "identify";

/// Whether a text may call the function that takes tokens, so that a scan is needed.
pub fn needs_scan(text: &str) -> bool {
    find_identify(text).is_some()
}

/// The text without tokens. `scans` are its tokens of SQL under each setting that it may have been written for, none where
/// [`needs_scan`] denies; where they disagree, what is an argument in any of them is hidden. `whole`: whether it is all of
/// the text.
pub fn redacted<'a>(text: &'a str, scans: &[Scan], whole: bool) -> Cow<'a, str> {
    let mut hidden = signed_parts(text, whole);
    for scan in scans {
        arguments_of_identify(text, scan, &mut hidden);
    }
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    hidden.sort_by_key(|range| range.start);
    let (mut result, mut at) = (String::new(), 0);
    for range in hidden {
        if range.start >= at {
            result.push_str(text.get(at..range.start).unwrap_or_default());
            result.push_str(HIDDEN);
        }
        at = at.max(range.end);
    }
    result.push_str(text.get(at..).unwrap_or_default());
    Cow::Owned(result)
}

/// Where something begins with what [`super::token::verify`] would read as a header, and goes on after a dot.
fn signed_parts(text: &str, whole: bool) -> Vec<Range<usize>> {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let bytes = text.as_bytes();
    let (mut found, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let length = bytes[start..].iter().take_while(|byte| belongs(**byte)).count();
        let end = start + length;
        let cut = !whole && end == bytes.len();
        let run = text.get(start..end).unwrap_or_default();
        let mut at = start;
        for part in run.split('.') {
            let goes_on = at + part.len() < end;
            if is_object(part) && goes_on || cut && part.starts_with('e') {
                found.push(at..end);
                break;
            }
            at += part.len() + 1;
        }
        start = end + 1;
    }
    found
}

/// Whether a part is a JSON object in base64url.
fn is_object(part: &str) -> bool {
    // Of what is no token, nearly nothing begins with the letter that `{` begins with; so little is decoded.
    let decoded = part.starts_with('e').then(|| Base64UrlUnpadded::decode_vec(part).ok()).flatten();
    decoded.is_some_and(|bytes| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).is_ok())
}

/// The literals in calls of `identify`; and all that follows its name where the scan didn't get that far.
fn arguments_of_identify(text: &str, scan: &Scan, hidden: &mut Vec<Range<usize>>) {
    // How many parentheses are open since that of the call.
    let mut depth = 0_usize;
    let mut named = false;
    for token in &scan.tokens {
        let word = text.get(token.start..token.end).unwrap_or_default();
        match word {
            "(" if depth > 0 || named => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ if depth > 0 && token.is_literal(text) => hidden.push(token.start..token.end),
            _ => {}
        }
        // A name with escapes may be any.
        named = word.trim_matches('"').eq_ignore_ascii_case(IDENTIFY)
            || word.starts_with("U&\"")
            || word.starts_with("u&\"");
    }
    let end = scan.tokens.last().map_or(0, |token| token.end);
    let rest = text.get(end..).unwrap_or_default();
    if depth > 0 || named {
        hidden.push(end..text.len());
    } else if let Some(at) = find_identify(rest) {
        hidden.push(end + at + IDENTIFY.len()..text.len());
    }
}

fn find_identify(text: &str) -> Option<usize> {
    text.as_bytes().windows(IDENTIFY.len()).position(|part| part.eq_ignore_ascii_case(IDENTIFY.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::query_text::{End, Token};
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.eyJhdWQiOiJzaG9wIn0.c2lnbmF0dXJl";

    /// A text in which `|` separates tokens, and what it is when they were told so.
    fn hide(marked: &str, end: End) -> String {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        for part in marked.split('|') {
            let start = text.len() + (part.len() - part.trim_start().len());
            text.push_str(part);
            let word = part.trim();
            if !word.is_empty() {
                tokens.push(Token { start, end: start + word.len(), keyword: false });
            }
        }
        if end != End::Complete {
            tokens.truncate(2);
        }
        redacted(&text, &[Scan { tokens, end }], end == End::Complete).into_owned()
    }

    #[test]
    fn what_reads_like_a_signed_token_is_hidden_wherever_it_stands() {
        let cases = [
            (format!("SELECT f('{TOKEN}'), 1"), "SELECT f('[redacted]'), 1"),
            (format!("SET LOCAL x = '{TOKEN}' -- {TOKEN}"), "SET LOCAL x = '[redacted]' -- [redacted]"),
            (format!("DO $$ PERFORM f('{TOKEN}') $$"), "DO $$ PERFORM f('[redacted]') $$"),
            // Without its signature, and with something before it.
            ("'eyJhbGciOiJub25lIn0.eyJhdWQiOiJzaG9wIn0.'".into(), "'[redacted]'"),
            (format!("'Bearer:{TOKEN}'"), "'Bearer:[redacted]'"),
            ("'a.eyJhbGciOiJub25lIn0.x'".into(), "'a.[redacted]'"),
        ];
        for (text, expected) in cases {
            assert_eq!(redacted(&text, &[], true), expected, "{text}");
        }
    }

    #[test]
    fn other_text_stays() {
        let texts = [
            "UPDATE exchange.events SET e1.rate = 1.5e3 WHERE id = 'eyes.eyJ.x'",
            "SELECT 'eyJhbGciOiJub25lIn0'",
            "SELECT schema.table.column, 'é.é.é'",
            "",
        ];
        for text in texts {
            assert_eq!(redacted(text, &[], true), text);
        }
    }

    #[test]
    fn a_cut_text_ends_before_what_may_be_a_token() {
        assert_eq!(redacted("SELECT 'eyJhbGciOiJ", &[], false), "SELECT '[redacted]");
        assert_eq!(redacted("SELECT orders.tenant", &[], false), "SELECT orders.tenant");
    }

    #[test]
    fn literals_that_identify_is_given_are_hidden_whatever_they_are() {
        let cases = [
            ("SELECT|holdfast|.|identify|(|'x'|)|,|'y'", "SELECTholdfast.identify([redacted]),'y'"),
            ("\"identify\"|(|token| =>| E'\\x65'|,| true|)", "\"identify\"(token => [redacted], true)"),
            (
                "IDENTIFY| (|concat|(|'a'|,|'b'|)|,|'c'|)|;|'d'",
                "IDENTIFY (concat([redacted],[redacted]),[redacted]);'d'",
            ),
            ("U&\"identif\\0079\"|(|'x'|)", "U&\"identif\\0079\"([redacted])"),
            ("identify|,|(|'x'|)", "identify,('x')"),
        ];
        for (marked, expected) in cases {
            assert_eq!(hide(marked, End::Complete), expected, "{marked}");
        }
    }

    #[test]
    fn where_the_scan_ended_early_all_that_follows_the_name_is_hidden() {
        assert_eq!(hide("SELECT|1|,|f|(|'x'|)", End::Stopped), "SELECT1,f('x')");
        assert_eq!(hide("SELECT|1|,|identify|(|'x'|)", End::Stopped), "SELECT1,identify[redacted]");
        assert_eq!(hide("SELECT| identify|(|'x'|)", End::Failed), "SELECT identify[redacted]");
        assert_eq!(hide("identify|(|'x'|)", End::Failed), "identify([redacted]");
    }
}
