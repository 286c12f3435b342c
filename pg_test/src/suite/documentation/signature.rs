//! Signatures of SQL functions, as README.md's headings show them and as the catalog does.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// A function.
#[derive(Debug)]
pub struct Signature {
    /// Without the schema.
    pub name: String,
    /// In order.
    pub parameters: Vec<Parameter>,
    /// Its type; `record` for rows of several columns.
    pub result: String,
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub of: String,
    /// An SQL expression.
    pub default: Option<String>,
}

impl Signature {
    /// The functions of a heading such as `f(a int, b text = NULL), g() → void`. A result counts for every function
    /// before it that has none of its own.
    pub fn shown(heading: &str) -> Result<Vec<Signature>> {
        let mut signatures: Vec<Signature> = Vec::new();
        for part in split(heading) {
            let (call, result) = match part.split_once('→') {
                Some((call, result)) => (call.trim(), result.trim()),
                None => (part.as_str(), ""),
            };
            let inside = call.strip_suffix(')').and_then(|call| call.split_once('('));
            let (name, parameters) = inside.with_context(|| format!("not a signature: {call}"))?;
            let parameters = split(parameters).iter().map(|p| Parameter::parse(p, " = ")).collect();
            signatures.push(Signature { name: name.trim().to_owned(), parameters, result: result.to_owned() });
        }
        let mut result = String::new();
        for signature in signatures.iter_mut().rev() {
            if signature.result.is_empty() {
                signature.result.clone_from(&result);
            }
            result.clone_from(&signature.result);
            ensure!(!result.is_empty(), "{} has no result", signature.name);
        }
        Ok(signatures)
    }

    /// A function by what `pg_get_function_arguments` and `pg_get_function_result` say.
    pub fn cataloged(name: &str, arguments: &str, result: &str) -> Signature {
        let parameters = split(arguments).iter().map(|p| Parameter::parse(p, " DEFAULT ")).collect();
        let result = if result.starts_with("TABLE(") { "record" } else { result };
        Signature { name: name.to_owned(), parameters, result: result.to_owned() }
    }
}

impl Parameter {
    fn parse(text: &str, before_default: &str) -> Parameter {
        let (declared, default) = match text.split_once(before_default) {
            Some((declared, default)) => (declared, Some(default.to_owned())),
            None => (text, None),
        };
        let (name, of) = declared.split_once(' ').unwrap_or((declared, ""));
        Parameter { name: name.to_owned(), of: of.to_owned(), default }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (at, Parameter { name, of, default }) in self.parameters.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {of}")?;
            if let Some(default) = default {
                write!(f, " = {default}")?;
            }
        }
        write!(f, ") → {}", self.result)
    }
}

/// The parts between commas that stand in no parentheses and no quotes.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut depth, mut quoted) = (0_usize, false);
    for c in text.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_read_alike() -> Result<()> {
        let shown = Signature::shown("f(a int = 1, b text[] = '{x,y}'), g() → void, h(c date) → record")?;
        let cataloged = [
            Signature::cataloged("f", "a int DEFAULT 1, b text[] DEFAULT '{x,y}'", "void"),
            Signature::cataloged("g", "", "void"),
            Signature::cataloged("h", "c date", "TABLE(d int, e int)"),
        ];
        let told = |signatures: &[Signature]| signatures.iter().map(ToString::to_string).collect::<Vec<_>>();
        ensure!(told(&shown) == told(&cataloged), "{shown:?}\n{cataloged:?}");
        Ok(())
    }
}
