//! The columns that name a row's tenant, and how a user lists them.

use std::fmt;

/// The columns of a tenant key, in its order: most often one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyColumns(Vec<String>);

/// Why a text is no list of columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotColumns {
    /// It can't be read as one; why, as a clause.
    Syntax(String),
    /// A column is in it twice.
    Twice(String),
    /// There are more of them than a key may have.
    TooMany(usize),
}

impl KeyColumns {
    /// The most columns that a key may have.
    pub const MOST: usize = 8;

    /// How long the name of a column can be, in bytes: what Postgres cuts identifiers to.
    const LONGEST_NAME: usize = 63;

    /// Of columns that are known to be some, as a policy table lists them.
    pub fn of(names: Vec<String>) -> KeyColumns {
        KeyColumns(names)
    }

    /// Reads a list as a user writes it: identifiers as SQL has them, folded unless they are quoted, between commas.
    ///
    /// # Errors
    /// When it isn't one, or not of that many different columns.
    pub fn parse(list: &str) -> Result<KeyColumns, NotColumns> {
        let mut names: Vec<String> = Vec::new();
        let mut rest = list;
        loop {
            let (name, after) = identifier(rest.trim_start_matches(is_space))?;
            if names.contains(&name) {
                return Err(NotColumns::Twice(name));
            }
            names.push(name);
            rest = after.trim_start_matches(is_space);
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(',').ok_or_else(|| wrong(format!("a comma is missing before \"{rest}\"")))?;
        }
        if names.len() > Self::MOST { Err(NotColumns::TooMany(names.len())) } else { Ok(KeyColumns(names)) }
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The list so spelt that it can't be taken for the name of a column: it is longer than any.
    pub fn unmistakable(&self) -> String {
        match self.0.as_slice() {
            [only] => only.clone(),
            _ => format!("{:1$}", self.to_string(), Self::LONGEST_NAME + 1),
        }
    }

    /// With its noun, as a sentence names it.
    pub fn noun(&self) -> &'static str {
        if self.0.len() == 1 { "column" } else { "columns" }
    }
}

impl From<&str> for KeyColumns {
    /// The one column of this very name.
    fn from(name: &str) -> Self {
        KeyColumns(vec![name.to_owned()])
    }
}

/// As [`KeyColumns::parse`] reads it; the name of a single one as it is.
impl fmt::Display for KeyColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return f.write_str(only);
        }
        for (n, name) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            let bare = identifier(name).is_ok_and(|(read, rest)| read == *name && rest.is_empty());
            if bare {
                write!(f, "{separator}{name}")?;
            } else {
                write!(f, "{separator}\"{}\"", name.replace('"', "\"\""))?;
            }
        }
        Ok(())
    }
}

fn wrong(why: impl Into<String>) -> NotColumns {
    NotColumns::Syntax(why.into())
}

/// What separates words for Postgres's lexer.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Takes an identifier from the front, and gives the rest.
fn identifier(text: &str) -> Result<(String, &str), NotColumns> {
    let Some(quoted) = text.strip_prefix('"') else { return bare_identifier(text) };
    let (mut name, mut rest) = (String::new(), quoted);
    loop {
        let (part, after) = rest.split_once('"').ok_or_else(|| wrong("a quoted name has no end"))?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err(wrong("a quoted name is empty")),
            None => return Ok((cut(name), after)),
        }
    }
}

fn bare_identifier(text: &str) -> Result<(String, &str), NotColumns> {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let belongs = |c: char| starts(c) || c.is_ascii_digit() || c == '$';
    match text.chars().next() {
        None | Some(',') => Err(wrong("a name is missing")),
        Some(first) if !starts(first) => Err(wrong(format!("no name begins with \"{first}\" unless it is quoted"))),
        Some(_) => {
            let (name, rest) = text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()));
            // In UTF-8, Postgres folds ASCII letters alone.
            Ok((cut(name.to_ascii_lowercase()), rest))
        }
    }
}

fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(KeyColumns::LONGEST_NAME));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_sql_reads_identifiers() {
        let long = "x".repeat(70);
        let cases: &[(&str, Result<&[&str], &str>)] = &[
            ("region, account_no", Ok(&["region", "account_no"])),
            ("region,account_no", Ok(&["region", "account_no"])),
            ("\t Region \n,\n Account_No ", Ok(&["region", "account_no"])),
            ("\"Region\", \"account no\"", Ok(&["Region", "account no"])),
            ("\"a,b\",\"say \"\"hi\"\"\"", Ok(&["a,b", "say \"hi\""])),
            ("Größe, _x$1", Ok(&["größe", "_x$1"])),
            ("ÄB, b", Ok(&["Äb", "b"])),
            ("user, order", Ok(&["user", "order"])),
            ("a,b,c,d,e,f,g,h", Ok(&["a", "b", "c", "d", "e", "f", "g", "h"])),
            ("a", Ok(&["a"])),
            (&long, Ok(&[&long[..63]])),
            ("", Err("missing")),
            (",", Err("missing")),
            ("a,", Err("missing")),
            ("a, , b", Err("missing")),
            (",a", Err("missing")),
            ("a b", Err("a comma is missing before \"b\"")),
            ("a;b", Err("a comma is missing before \";b\"")),
            ("a\"b\"", Err("a comma is missing before \"\"b\"\"")),
            ("1a, b", Err("no name begins with \"1\"")),
            ("(a, b)", Err("no name begins with \"(\"")),
            ("\"a, b", Err("no end")),
            ("\"\", b", Err("empty")),
        ];
        for (list, expected) in cases {
            let read = KeyColumns::parse(list);
            let as_expected = match (&read, expected) {
                (Ok(columns), Ok(names)) => columns.names() == *names,
                (Err(NotColumns::Syntax(why)), Err(clause)) => why.contains(clause),
                _ => false,
            };
            assert!(as_expected, "{list}: {read:?}");
        }
        assert_eq!(KeyColumns::parse("a, \"A\", A"), Err(NotColumns::Twice("a".into())));
        assert_eq!(KeyColumns::parse("a,b,c,d,e,f,g,h,i"), Err(NotColumns::TooMany(9)));
    }

    #[test]
    fn a_list_that_is_written_is_read_again() {
        let columns = |names: &[&str]| KeyColumns::of(names.iter().map(|name| (*name).to_owned()).collect());
        let cases: &[(&[&str], &str)] = &[
            (&["region", "account_no"], "region, account_no"),
            (&["Region", "a,b", "say \"hi\""], "\"Region\", \"a,b\", \"say \"\"hi\"\"\""),
            (&["größe", "1st", "a b"], "größe, \"1st\", \"a b\""),
        ];
        for (names, text) in cases {
            assert_eq!(columns(names).to_string(), *text);
            assert_eq!(KeyColumns::parse(text).as_ref(), Ok(&columns(names)));
            let unmistakable = columns(names).unmistakable();
            assert!(unmistakable.len() > KeyColumns::LONGEST_NAME, "{unmistakable}");
            assert_eq!(KeyColumns::parse(&unmistakable).as_ref(), Ok(&columns(names)));
        }
        // One column is named as it is.
        assert_eq!(KeyColumns::from("Tenant, or so").to_string(), "Tenant, or so");
        assert_eq!(KeyColumns::from("Tenant, or so").unmistakable(), "Tenant, or so");
    }
}
