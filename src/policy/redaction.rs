//! What no event keeps of the client's statement, whatever the setting says: tokens. Whoever has one can show it until it
//! expires, so one in a statement is as good as a password.
//!
//! Hidden are
//! - what reads like a JWS in compact form, wherever it stands;
//! - every literal among the arguments of `identify`, whatever it reads like;
//! - literals that say such a thing once their escapes are read and their pieces joined;
//! - where a literal begins a token and doesn't end it, that literal, every string that follows in the statement, and those before that
//!   could be a part of it.
//!
//! *Not hidden:* a token that the statement computes from what reads like none: its header's first three characters apart, numbers, hex,
//! base64 of it, characters in another order.

use std::borrow::Cow;
use std::ops::Range;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::literal;
use super::query_text::{End, Scan};

/// What stands in a token's place.
const HIDDEN: &str = "[redacted]";

/// The function that takes tokens.
const IDENTIFY: &str = "identify";

/// How long the signature of a token is that [`super::token::verify`] would take, in base64url.
const SIGNATURE: usize = 86;

/// From how many characters on a string may be a piece of a token, where the statement has the beginning of one.
const PIECE: usize = 20;

/// The text without tokens. `scans` are its tokens of SQL under each setting that it may have been written for; where they disagree,
/// what is to be hidden in any of them is hidden. `whole`: whether it is all of the text.
pub fn redacted<'a>(text: &'a str, scans: &[Scan], whole: bool) -> Cow<'a, str> {
    let mut hidden = signed_parts(text, whole);
    for scan in scans {
        arguments_of_identify(text, scan, &mut hidden);
        literals(text, scan, &mut hidden);
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
    let cut_at = if whole { usize::MAX } else { text.len() };
    let hides = |part: &str, end: usize, run: &Range<usize>| {
        is_object(part) && end < run.end || run.end == cut_at && part.starts_with('e')
    };
    runs(text).filter_map(|run| header(text, &run, |part, end| hides(part, end, &run))).collect()
}

/// The longest stretches of what tokens are written in.
fn runs(text: &str) -> impl Iterator<Item = Range<usize>> {
    let belongs = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let bytes = text.as_bytes();
    let mut start = 0;
    std::iter::from_fn(move || {
        start += bytes[start..].iter().take_while(|byte| !belongs(byte)).count();
        let run = start..start + bytes[start..].iter().take_while(|byte| belongs(byte)).count();
        start = run.end;
        (!run.is_empty()).then_some(run)
    })
}

/// What is left of a run from the first of its parts that `is`, given where the part ends.
fn header(text: &str, run: &Range<usize>, is: impl Fn(&str, usize) -> bool) -> Option<Range<usize>> {
    let mut at = run.start;
    for part in text.get(run.clone())?.split('.') {
        let end = at + part.len();
        if is(part, end) {
            return Some(at..run.end);
        }
        at = end + 1;
    }
    None
}

/// Whether a part is a JSON object in base64url.
fn is_object(part: &str) -> bool {
    // Of what is no token, nearly nothing begins with the letter that `{` begins with; so little is decoded.
    let decoded = part.starts_with('e').then(|| Base64UrlUnpadded::decode_vec(part).ok()).flatten();
    decoded.is_some_and(|bytes| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).is_ok())
}

/// Whether a part is a JSON object in base64url, or may become one if it goes on.
fn begins_object(part: &str) -> bool {
    if is_object(part) {
        return true;
    }
    if !part.starts_with('e') || part.len() < 3 {
        return false;
    }
    // Four characters are three bytes; of what is left two more at most.
    let known = if part.len() % 4 == 1 { part.len() - 1 } else { part.len() };
    let mut last = part.get(..known).unwrap_or_default().to_owned();
    // What doesn't fill a byte is no padding here.
    if let 2 | 3 = known % 4 {
        let mut filled = last.split_off(known - known % 4);
        filled.extend(std::iter::repeat_n('A', 4 - known % 4));
        last.push_str(&filled);
    }
    let Ok(mut bytes) = Base64UrlUnpadded::decode_vec(&last) else { return false };
    bytes.truncate(known * 6 / 8);
    let mut inside = bytes.iter().skip(1).skip_while(|byte| byte.is_ascii_whitespace());
    bytes.first() == Some(&b'{')
        && inside.next().is_none_or(|byte| *byte == b'"')
        && bytes.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace())
}

/// What a string has to do with tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Nothing,
    /// Whole ones.
    Tokens,
    /// The beginning of one, whose end is elsewhere.
    Beginning,
}

fn holds(value: &str) -> Holds {
    let of_run = |run: Range<usize>| {
        // The last part of what a quote ends may go on behind it.
        let ends_piece =
            run.end == value.len() || value.get(run.end..).is_some_and(|rest| rest.starts_with(['\'', '$']));
        let is = |part: &str, end: usize| {
            if end < run.end { is_object(part) } else { ends_piece && begins_object(part) }
        };
        let Some(token) = header(value, &run, is) else { return Holds::Nothing };
        let signature = value.get(token).and_then(|token| token.split('.').nth(2));
        if signature.is_some_and(|signature| signature.len() >= SIGNATURE) { Holds::Tokens } else { Holds::Beginning }
    };
    runs(value).map(of_run).max().unwrap_or(Holds::Nothing)
}

/// Strings that hold tokens, and those that others may continue them with.
fn literals(text: &str, scan: &Scan, hidden: &mut Vec<Range<usize>>) {
    let mut begun = false;
    let mut before: Vec<Range<usize>> = Vec::new();
    for (n, token) in scan.tokens.iter().enumerate() {
        let range = token.start..token.end;
        let word = text.get(range.clone()).unwrap_or_default();
        if word == ";" {
            (begun, before) = (false, Vec::new());
        }
        if !token.is_string(text) {
            continue;
        }
        // Its escapes may begin with another character than a backslash.
        let next = scan.tokens.get(n + 1).and_then(|next| text.get(next.start..next.end));
        let foreign = next.is_some_and(|next| next.eq_ignore_ascii_case("uescape"));
        let values = [literal::value(word, false), literal::value(word, true)];
        let most = values.iter().map(|value| holds(value)).max().unwrap_or(Holds::Nothing);
        let readable = values.iter().all(|value| word.contains(value.as_str()));
        if begun || foreign || most == Holds::Beginning || most == Holds::Tokens && !readable {
            hidden.push(range);
        } else if values.iter().any(|value| runs(value).any(|run| run.len() >= PIECE)) {
            before.push(range);
        }
        if most == Holds::Beginning {
            begun = true;
            hidden.append(&mut before);
        }
    }
    if scan.end == End::Complete {
        return;
    }
    // Behind the last token that is known anything may follow.
    let end = scan.tokens.last().map_or(0, |token| token.end);
    let rest = text.get(end..).unwrap_or_default();
    if begun {
        hidden.push(end..text.len());
    } else if let Some(token) = runs(rest).find_map(|run| header(rest, &run, |part, _| begins_object(part))) {
        hidden.push(end + token.start..text.len());
    }
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
    use super::super::query_text::Token;
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
    fn a_token_that_a_statement_puts_together_is_hidden() {
        let [header, payload] = ["eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ", "eyJhdWQiOiJzaG9wIn0"];
        let signature = "c2lnbmF0dXJl".repeat(8);
        let cases = [
            // In pieces, however small; what follows may be another, to the end of the statement.
            (format!("f(|'{header}.{payload}.c2ln'| ~| 'bmF0dXJl'|)|;| 'x'"), "f([redacted] ~ [redacted]); 'x'"),
            ("f(|'eyJ'| ~| 'hbGci'|,| 7|,| 'OiJ'|)".into(), "f([redacted] ~ [redacted], 7, [redacted])"),
            (format!("f(|'{header}'|,| '.{payload}.'|,| g|(|'c2ln'|)|)"), "f([redacted], [redacted], g([redacted]))"),
            // In another order.
            (
                format!("format(|'%2$s.%1$s'|,| '{signature}'|,| '{header}.{payload}'|)"),
                "format('%2$s.%1$s', [redacted], [redacted])",
            ),
            // Behind escapes and joined; whole, so that other strings stay.
            (format!("f(|E'\\x65{}.{payload}.{signature}'|,| 'x'|)", &header[1..]), "f([redacted], 'x')"),
            (format!("f(|U&'\\0065{}.{payload}.{signature}'|)", &header[1..]), "f([redacted])"),
            (format!("f(|U&'!0065{}.x.y'| UESCAPE| '!'|)", &header[1..]), "f([redacted] UESCAPE '!')"),
            (format!("f(|'{header}.{payload}'\n '.{signature}'|)"), "f([redacted])"),
            // Within a body.
            (format!("DO| $$ f('{header}.' ~ '{payload}.x') $$"), "DO [redacted]"),
            (format!("DO| $$ f('{header}.{payload}.{signature}', 'x') $$"), "DO $$ f('[redacted]', 'x') $$"),
        ];
        for (marked, expected) in cases {
            assert_eq!(hide(&marked, End::Complete), expected, "{marked}");
        }
    }

    #[test]
    fn a_string_without_a_beginning_stays() {
        let strings =
            ["'ewok'", "'eyes'", "'eyMx'", "'ey'", "'e30x'", "'550e8400-e29b-41d4-a716-446655440000'", "'say eyJ x'"];
        for string in strings {
            let text = format!("f(|{string}|,| 'x'|)");
            assert_eq!(hide(&text, End::Complete), text.replace('|', ""));
        }
    }

    #[test]
    fn where_the_scan_ended_early_all_that_follows_the_name_is_hidden() {
        assert_eq!(hide("SELECT|1|,|f|(|'x'|)", End::Stopped), "SELECT1,f('x')");
        assert_eq!(hide("SELECT|1|,|identify|(|'x'|)", End::Stopped), "SELECT1,identify[redacted]");
        assert_eq!(hide("SELECT| identify|(|'x'|)", End::Failed), "SELECT identify[redacted]");
        assert_eq!(hide("identify|(|'x'|)", End::Failed), "identify([redacted]");
        assert_eq!(hide("f(|'eyJ'| ~| 'x'|)", End::Stopped), "f([redacted][redacted]");
        assert_eq!(hide("f|(|'x'|,|'eyJ'|)|,|'y'", End::Stopped), "f('x','[redacted]");
    }
}
