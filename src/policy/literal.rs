//! What an SQL string literal says: its text without quotes and escapes, as far as that matters to who looks for something in it.

/// The text that a string literal stands for. Whether a plain one has escapes depends on a setting; `escapes` says to take
/// backslashes for them there, too.
pub fn value(literal: &str, escapes: bool) -> String {
    let inner = |prefix: usize| literal.get(prefix + 1..).map_or("", |rest| rest.strip_suffix('\'').unwrap_or(rest));
    match literal.as_bytes() {
        // Code, in which strings may have them.
        [b'$', ..] if escapes => unescaped(dollar_quoted(literal), c_style),
        [b'$', ..] => dollar_quoted(literal).to_owned(),
        [b'u' | b'U', b'&', b'\'', ..] => unescaped(&joined(inner(2)), unicode),
        [b'e' | b'E', b'\'', ..] => unescaped(&joined(inner(1)), c_style),
        [b'n' | b'N', b'\'', ..] if !escapes => joined(inner(1)),
        [b'n' | b'N', b'\'', ..] => unescaped(&joined(inner(1)), c_style),
        [b'\'', ..] if escapes => unescaped(&joined(inner(0)), c_style),
        [b'\'', ..] => joined(inner(0)),
        _ => literal.to_owned(),
    }
}

fn dollar_quoted(literal: &str) -> &str {
    let body = || {
        let tag = literal.get(..literal.get(1..)?.find('$')? + 2)?;
        literal.strip_prefix(tag)?.strip_suffix(tag)
    };
    body().unwrap_or(literal)
}

/// Doubled quotes are one; single ones end a piece that another follows, on the next line.
fn joined(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut pieces = inner.split('\'');
    text.push_str(pieces.next().unwrap_or_default());
    while let Some(between) = pieces.next() {
        match (between, pieces.next()) {
            // What lies between two quotes: nothing, and the quote was doubled; or space, and it joins two pieces.
            ("", Some(next)) => {
                text.push('\'');
                text.push_str(next);
            }
            (_, Some(next)) if between.contains('\n') || between.contains('\r') => text.push_str(next),
            // Neither: a quote behind a backslash.
            (between, next) => {
                text.push('\'');
                text.push_str(between);
                if let Some(next) = next {
                    text.push('\'');
                    text.push_str(next);
                }
            }
        }
    }
    text
}

/// Replaces what follows each backslash by what `read` makes of it: a character, and how many bytes it took.
fn unescaped(text: &str, read: fn(&str) -> Option<(char, usize)>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match read(rest) {
            Some((character, length)) => {
                result.push(character);
                rest = rest.get(length..).unwrap_or_default();
            }
            None => {
                let mut characters = rest.chars();
                result.extend(characters.next());
                rest = characters.as_str();
            }
        }
    }
    result.push_str(rest);
    result
}

/// As in `E'...'`: `\x65`, `\145`, `\u0065`, `\U00000065`, and letters for what ends a line or moves the cursor.
fn c_style(rest: &str) -> Option<(char, usize)> {
    let letter = |character| Some((character, 1));
    match rest.as_bytes().first()? {
        b'b' => letter('\u{8}'),
        b'f' => letter('\u{c}'),
        b'n' => letter('\n'),
        b'r' => letter('\r'),
        b't' => letter('\t'),
        b'x' => number(rest, 1, 1..=2, 16),
        b'u' => number(rest, 1, 4..=4, 16),
        b'U' => number(rest, 1, 8..=8, 16),
        b'0'..=b'7' => number(rest, 0, 1..=3, 8),
        _ => None,
    }
}

/// As in `U&'...'`: `\0065`, `\+000065`.
fn unicode(rest: &str) -> Option<(char, usize)> {
    match rest.as_bytes().first()? {
        b'+' => number(rest, 1, 6..=6, 16),
        _ => number(rest, 0, 4..=4, 16),
    }
}

/// The character whose number begins at a place, of as many digits as there are.
fn number(rest: &str, at: usize, digits: std::ops::RangeInclusive<usize>, radix: u32) -> Option<(char, usize)> {
    let count = rest.get(at..)?.chars().take(*digits.end()).take_while(|digit| digit.is_digit(radix)).count();
    if count < *digits.start() {
        return None;
    }
    let number = u32::from_str_radix(rest.get(at..at + count)?, radix).ok()?;
    Some((char::from_u32(number)?, at + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_says_what_it_says_to_the_server() {
        let cases = [
            ("'it''s'", "it's"),
            ("''", ""),
            ("''''", "'"),
            ("'a'\n 'b'", "ab"),
            ("'a'' '\n  'b'", "a' b"),
            ("'a\\x65'", "a\\x65"),
            ("E'\\x65\\171\\u004a\\U00000068\\n\\\\\\''", "eyJh\n\\'"),
            ("e'a\\'b\\'c'", "a'b'c"),
            ("U&'\\0065y\\+00004A\\\\'", "eyJ\\"),
            ("n'x'", "x"),
            ("$$a'b$$", "a'b"),
            ("$tag$a$$b$tag$", "a$$b"),
            ("'not ended", "not ended"),
            ("E'\\x", "x"),
            ("E'\\", ""),
            ("U&'\\D800'", "D800"),
            ("7", "7"),
            ("$", "$"),
        ];
        for (literal, expected) in cases {
            assert_eq!(value(literal, false), expected, "{literal}");
        }
        assert_eq!(value("'\\x65y'", true), "ey");
        assert_eq!(value("N'\\145y'", true), "ey");
    }
}
