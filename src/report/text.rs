//! Text that users may have supplied: names, keys, reasons, values.

use std::fmt;

use serde::Deserialize;

/// The longest that a page shows, in characters.
const LONGEST: usize = 160;

/// Text that is fit to be shown: cut, and without characters that a page can't hold or that nobody would see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(super) struct Text(String);

impl From<String> for Text {
    fn from(text: String) -> Text {
        let mut shown: String = text.chars().take(LONGEST).map(visible).collect();
        if text.chars().nth(LONGEST).is_some() {
            shown.push('…');
        }
        Text(shown)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn visible(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => ' ',
        // Unicode has a picture of each.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        // Controls of the upper half, and what is no character.
        '\u{80}'..='\u{9f}' | '\u{fdd0}'..='\u{fdef}' => '\u{fffd}',
        c if u32::from(c) & 0xfffe == 0xfffe => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_seen_is_left() {
        let cases = [
            ("plain <b>", "plain <b>"),
            ("a\u{1}\u{1b}\u{7f}b\r\nc", "a␁␛␡b  c"),
            ("\u{85}\u{fffe}\u{1ffff}\u{fdd0}", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            // Isolated by the page's markup.
            ("\u{202e}gnp.exe", "\u{202e}gnp.exe"),
        ];
        for (given, shown) in cases {
            assert_eq!(Text::from(given.to_owned()).to_string(), shown);
        }
        let long = Text::from("é".repeat(1_000)).to_string();
        assert_eq!(long.chars().count(), LONGEST + 1);
    }
}
