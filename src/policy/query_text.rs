//! What an event keeps of the client's statement: its shape without its data. Where the server's own scanner has seen
//! tokens, literals become `$1`, `$2`, comments go, white space is one space.
//!
//! Only what a scan has delimited is kept, so a doubt about where a literal begins costs text, never a secret.

/// How long the result may be, in bytes; what is longer ends with `…` after a whole token.
pub const LONGEST: usize = 2_048;

/// How many leading keywords are kept of a text that can't be scanned.
const LEADING: usize = 3;

/// What a token is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keyword,
    Name,
    Literal,
    Parameter,
    Symbol,
}

/// A token, as the scanner delimits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Whether the scanner knows it as a keyword.
    pub keyword: bool,
}

impl Token {
    fn text(self, of: &str) -> &str {
        of.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it is a string or a number.
    pub fn is_literal(self, of: &str) -> bool {
        self.kind(of) == Kind::Literal
    }

    /// Whether it is a string.
    pub fn is_string(self, of: &str) -> bool {
        self.is_literal(of) && !self.text(of).starts_with(|first: char| first.is_ascii_digit() || first == '.')
    }

    /// By its first characters, which are the same in every version, as the scanner's numbers needn't be.
    fn kind(self, of: &str) -> Kind {
        let text = self.text(of).as_bytes();
        match text {
            [b'"', ..] | [b'u' | b'U', b'&', b'"', ..] => Kind::Name,
            [b'\'', ..] | [b'u' | b'U', b'&', b'\'', ..] => Kind::Literal,
            [first, b'\'', ..] if first.is_ascii_alphabetic() => Kind::Literal,
            [b'$', digits @ ..] if !digits.is_empty() => match digits.iter().all(u8::is_ascii_digit) {
                true => Kind::Parameter,
                false => Kind::Literal,
            },
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => Kind::Literal,
            [first, ..] if is_of_word(*first) => match self.keyword {
                true => Kind::Keyword,
                false => Kind::Name,
            },
            _ => Kind::Symbol,
        }
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// The tokens from the beginning of a text, under one of the settings that it may have been written for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// In their order.
    pub tokens: Vec<Token>,
    /// How the scan ended.
    pub end: End,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// With the text.
    #[default]
    Complete,
    /// Because there are tokens enough.
    Stopped,
    /// With an error of the scanner.
    Failed,
}

/// The statement without its data; nothing if nothing of it is known for sure.
///
/// `scans` are what the text would be under each setting that changes where literals end: which of them was in force when
/// the server read the text isn't known any more. `whole`: whether it is all of the text.
pub fn normalized(text: &str, scans: &[Scan], whole: bool) -> Option<String> {
    // What fails as a whole isn't what the server has read.
    let possible: Vec<&Scan> = scans.iter().filter(|scan| !(whole && scan.end == End::Failed)).collect();
    let Some((first, others)) = possible.split_first() else {
        return scans.first().and_then(|scan| leading_keywords(text, &scan.tokens));
    };
    let mut agreed = first.tokens.len();
    for other in others {
        let same = first.tokens.iter().zip(&other.tokens).take_while(|(one, another)| one == another).count();
        agreed = agreed.min(same);
    }
    let complete = whole && possible.iter().all(|scan| scan.end == End::Complete && scan.tokens.len() == agreed);
    let mut normalizer = Normalizer::new(text, &first.tokens[..agreed]);
    let fits = first.tokens[..agreed].iter().all(|token| normalizer.push(*token));
    let mut result = normalizer.result;
    if !(fits && complete) {
        result.push_str(if result.is_empty() { "…" } else { " …" });
    }
    Some(result)
}

fn leading_keywords(text: &str, tokens: &[Token]) -> Option<String> {
    let keywords = tokens.iter().take_while(|token| token.kind(text) == Kind::Keyword).take(LEADING);
    let words: Vec<&str> = keywords.map(|token| token.text(text)).collect();
    (!words.is_empty()).then(|| format!("{} …", words.join(" ")))
}

/// Where in `SET name TO value, value` a statement is: a value there needs no quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    No,
    Name,
    Value,
    Comma,
}

struct Normalizer<'a> {
    text: &'a str,
    result: String,
    /// The number of the last placeholder; the client's own parameters keep theirs.
    placeholders: u32,
    end_of_last: Option<usize>,
    statement: Option<&'a str>,
    setting: Setting,
}

impl<'a> Normalizer<'a> {
    fn new(text: &'a str, tokens: &[Token]) -> Normalizer<'a> {
        let parameters = tokens.iter().filter(|token| token.kind(text) == Kind::Parameter);
        let placeholders = parameters.filter_map(|token| token.text(text)[1..].parse().ok()).max().unwrap_or(0);
        Normalizer {
            text,
            result: String::new(),
            placeholders,
            end_of_last: None,
            statement: None,
            setting: Setting::No,
        }
    }

    /// Adds a token. False when there is no room for it.
    fn push(&mut self, token: Token) -> bool {
        let kind = self.follow(token);
        let shown = match kind {
            Kind::Literal => format!("${}", self.placeholders.saturating_add(1)),
            _ => token.text(self.text).to_owned(),
        };
        let apart = self.end_of_last.is_some_and(|end| end < token.start);
        let would_merge =
            self.result.bytes().last().is_some_and(is_of_word) && shown.bytes().next().is_some_and(is_of_word);
        let space = usize::from(apart || would_merge);
        if self.result.len() + space + shown.len() > LONGEST {
            return false;
        }
        if space > 0 {
            self.result.push(' ');
        }
        self.result.push_str(&shown);
        self.placeholders = self.placeholders.saturating_add(u32::from(kind == Kind::Literal));
        self.end_of_last = Some(token.end);
        true
    }

    /// What a token is where it stands.
    fn follow(&mut self, token: Token) -> Kind {
        let (text, kind) = (token.text(self.text), token.kind(self.text));
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        if text == ";" {
            (self.statement, self.setting) = (None, Setting::No);
            return kind;
        }
        let statement = *self.statement.get_or_insert(text);
        // Elsewhere SET names columns.
        let sets = ["set", "alter", "create"].iter().any(|word| statement.eq_ignore_ascii_case(word));
        let bare_word = matches!(kind, Kind::Keyword | Kind::Name);
        let (next, kind) = match self.setting {
            Setting::Name if text == "=" || is("to") => (Setting::Value, kind),
            Setting::Name if bare_word || text == "." => (Setting::Name, kind),
            Setting::Value if bare_word && !is("default") => (Setting::Comma, Kind::Literal),
            Setting::Value if kind == Kind::Literal => (Setting::Comma, kind),
            Setting::Comma if text == "," => (Setting::Value, kind),
            _ if sets && is("set") => (Setting::Name, kind),
            _ => (Setting::No, kind),
        };
        self.setting = next;
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens split by hand: a text in which `|` separates them, and capitals are keywords.
    fn scan(marked: &str, end: End) -> (String, Scan) {
        let mut text = String::new();
        let mut tokens = Vec::new();
        for part in marked.split('|') {
            let word = part.trim();
            let start = text.len() + (part.len() - part.trim_start().len());
            text.push_str(part);
            let keyword = word.bytes().all(|b| b.is_ascii_uppercase());
            if !word.is_empty() {
                tokens.push(Token { start, end: start + word.len(), keyword });
            }
        }
        (text, Scan { tokens, end })
    }

    fn shape(marked: &str) -> String {
        let (text, scan) = scan(marked, End::Complete);
        normalized(&text, &[scan], true).unwrap_or_default()
    }

    #[test]
    fn literals_become_placeholders() {
        let cases = [
            ("SELECT| 1", "SELECT $1"),
            ("SELECT| 'a'", "SELECT $1"),
            ("SELECT| e'a'|,| B'1'|,| x'ff'|,| U&'a'", "SELECT $1, $2, $3, $4"),
            ("SELECT| $$a$$|,| $x$a$x$", "SELECT $1, $2"),
            ("SELECT| 1.5e10|,| .5|,| -|5", "SELECT $1, $2, -$3"),
            ("SELECT| $2| +| 7", "SELECT $2 + $3"),
            ("SELECT| \"it's\"|,| U&\"a\"|,| née", "SELECT \"it's\", U&\"a\", née"),
            ("SELECT| DATE|'2020-01-01'|FROM| t", "SELECT DATE $1 FROM t"),
            ("SELECT   |a\n\t|FROM| t", "SELECT a FROM t"),
        ];
        for (marked, wanted) in cases {
            assert_eq!(shape(marked), wanted, "{marked}");
        }
    }

    #[test]
    fn values_of_settings_need_no_quotes() {
        let cases = [
            ("SET| a|.|token| TO| secret|,| other", "SET a.token TO $1, $2"),
            ("SET| LOCAL| token| =| secret", "SET LOCAL token = $1"),
            ("ALTER| ROLE| r| SET| token| TO| ON", "ALTER ROLE r SET token TO $1"),
            ("SET| token| TO| DEFAULT", "SET token TO DEFAULT"),
            (
                "CREATE| FUNCTION| f|(|)| SET| token| TO| secret| AS| 'body'",
                "CREATE FUNCTION f() SET token TO $1 AS $2",
            ),
            ("UPDATE| t| SET| a| =| b|;| SET| x| =| y", "UPDATE t SET a = b; SET x = $1"),
            ("SET| ROLE| r", "SET ROLE r"),
        ];
        for (marked, wanted) in cases {
            assert_eq!(shape(marked), wanted, "{marked}");
        }
    }

    #[test]
    fn what_cant_be_scanned_leaves_its_first_keywords() {
        let cases = [
            ("ALTER| ROLE| r| PASSWORD", Some("ALTER ROLE …")),
            ("SELECT", Some("SELECT …")),
            ("START_REPLICATION| slot", None),
            ("", None),
        ];
        for (marked, wanted) in cases {
            let (text, scan) = scan(marked, End::Failed);
            assert_eq!(normalized(&text, &[scan], true).as_deref(), wanted, "{marked}");
        }
    }

    #[test]
    fn only_what_all_settings_agree_on_is_kept() {
        let (text, one) = scan("SELECT| 'a\\'|,| 'b'|,| 'c'", End::Complete);
        let (same, other) = scan("SELECT| 'a\\', '|b|', '|c|'", End::Complete);
        assert_eq!(text, same);
        assert_eq!(normalized(&text, &[one.clone(), other.clone()], true).as_deref(), Some("SELECT …"));
        // One that the server can't have read says nothing.
        let impossible = Scan { end: End::Failed, ..other };
        assert_eq!(normalized(&text, &[one.clone(), impossible.clone()], true).as_deref(), Some("SELECT $1, $2, $3"));
        // Of a text that was cut it isn't known.
        assert_eq!(normalized(&text, &[one, impossible], false).as_deref(), Some("SELECT …"));
    }

    #[test]
    fn long_texts_end_after_a_token() {
        let many = format!("SELECT| {}", vec!["'é'"; 2_000].join("|,| "));
        let result = shape(&many);
        assert!(result.len() <= LONGEST + " …".len() && result.ends_with(", …") || result.ends_with(" …"), "{result}");
        assert!(!result.contains('é'));
        let (text, cut) = scan("INSERT| INTO| t| VALUES| (", End::Failed);
        assert_eq!(normalized(&text, &[cut], false).as_deref(), Some("INSERT INTO t VALUES ( …"));
    }
}
