//! A tenant key of several columns as one text: the one that Postgres gives for a row of them, so that a DBA can write
//! `ROW('eu', 42)::text`. Follows `record_out` and `record_in`.

/// What Postgres's `isspace` calls a space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The text of a row of these, none of which is null.
pub fn write<'a>(components: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::from("(");
    for (n, component) in components.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        let special = |c| matches!(c, '"' | '\\' | '(' | ')' | ',') || is_space(c);
        if !component.is_empty() && !component.contains(special) {
            text.push_str(component);
            continue;
        }
        text.push('"');
        for c in component.chars() {
            if matches!(c, '"' | '\\') {
                text.push(c);
            }
            text.push(c);
        }
        text.push('"');
    }
    text.push(')');
    text
}

/// The components of a row's text. None if it isn't one, or if one of them is null: that names no tenant.
pub fn read(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim_start_matches(is_space).strip_prefix('(')?.chars();
    let (mut components, mut component) = (Vec::new(), None::<String>);
    let mut quoted = false;
    loop {
        let c = rest.next()?;
        match c {
            '\\' => component.get_or_insert_default().push(rest.next()?),
            '"' if quoted && rest.as_str().starts_with('"') => component.get_or_insert_default().extend(rest.next()),
            '"' => {
                component.get_or_insert_default();
                quoted = !quoted;
            }
            ',' | ')' if !quoted => {
                components.push(component.take()?);
                if c == ')' {
                    break;
                }
            }
            other => component.get_or_insert_default().push(other),
        }
    }
    rest.all(is_space).then_some(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_postgres_writes_rows() {
        // Each as SELECT ROW(...)::text gives it.
        let cases: &[(&[&str], &str)] = &[
            (&["eu", "42"], "(eu,42)"),
            (&["a,b", "c"], "(\"a,b\",c)"),
            (&["a", "b,c"], "(a,\"b,c\")"),
            (&["", ""], "(\"\",\"\")"),
            (&["(", ")"], "(\"(\",\")\")"),
            (&["say \"hi\"", "back\\slash"], "(\"say \"\"hi\"\"\",\"back\\\\slash\")"),
            (&[" ", "a\tb", "\x0b"], "(\" \",\"a\tb\",\"\x0b\")"),
            (&["null", "NULL"], "(null,NULL)"),
            (&["\\xdead", "é\u{a0}日本"], "(\"\\\\xdead\",é\u{a0}日本)"),
            (&["'", "{a}"], "(',{a})"),
        ];
        let mut written = std::collections::BTreeSet::new();
        for (components, text) in cases {
            assert_eq!(write(components.iter().copied()), *text);
            assert_eq!(
                read(text).as_deref(),
                Some(&components.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()[..])
            );
            assert!(written.insert(*text), "{text} twice");
        }
    }

    #[test]
    fn rows_are_read_as_postgres_reads_them() {
        let cases: &[(&str, Option<&[&str]>)] = &[
            ("  (eu,42)  ", Some(&["eu", "42"])),
            ("( eu , 42 )", Some(&[" eu ", " 42 "])),
            ("(e\"u,x\"y,42)", Some(&["eu,xy", "42"])),
            ("(\\(,\\\\)", Some(&["(", "\\"])),
            ("(\"a\"\"b\",\"a\\\"b\")", Some(&["a\"b", "a\"b"])),
            ("(eu)", Some(&["eu"])),
            ("(,42)", None),
            ("(eu,)", None),
            ("()", None),
            ("(eu,42", None),
            ("(eu,\"42)", None),
            ("(eu,42) x", None),
            ("eu,42", None),
            ("(eu\\", None),
            ("", None),
        ];
        for (text, components) in cases {
            let expected = components.map(|c| c.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
