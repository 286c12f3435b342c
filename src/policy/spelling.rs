//! Which tenant a user means: a key may be typed in any form that a tenant column's type reads.

use super::composite;
use super::tenant::{TenantKey, TenantType};

/// The types of the keys that a database's tables hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTypes {
    /// Of keys of one column.
    single: Vec<TenantType>,
    /// Of keys of several columns, each by its columns.
    composite: Vec<Vec<TenantType>>,
}

impl KeyTypes {
    /// Adds those of a table whose keys have columns of these types.
    pub fn add(&mut self, columns: &[TenantType]) {
        match columns {
            [] => {}
            [only] => self.single.push(*only),
            several => self.composite.push(several.to_vec()),
        }
    }

    /// Whether any keys have several columns.
    pub fn of_several_columns(&self) -> bool {
        !self.composite.is_empty()
    }

    /// The canonical key that `input` stands for. `fold` is the way to lower case that citext goes, which depends on the
    /// database's locale.
    ///
    /// # Errors
    /// When it is none; what it isn't, as clauses.
    pub fn canonical(&self, input: &str, fold: &dyn Fn(&str) -> TenantKey) -> Result<TenantKey, Vec<String>> {
        // Where nothing is guarded yet, any text may be a key.
        if self.single.is_empty() && self.composite.is_empty() {
            return Ok(TenantKey::text(input));
        }
        if let Some(key) = self.composite_key(input, fold) {
            return Ok(key);
        }
        key_of_types(&self.single, input, fold).ok_or_else(|| {
            let rows = self.composite.iter().map(|types| {
                let nouns: Vec<&str> = types.iter().map(|of| of.noun()).collect();
                format!("not a row of types ({})", nouns.join(", "))
            });
            let mut wrong: Vec<String> = sorted(&self.single).iter().map(|of| of.wrong().to_string()).collect();
            wrong.extend(rows);
            wrong.dedup();
            wrong
        })
    }

    /// A key of as many columns as `input` has components. Each may be of any type that a column has in its place.
    fn composite_key(&self, input: &str, fold: &dyn Fn(&str) -> TenantKey) -> Option<TenantKey> {
        let components = composite::read(input)?;
        let alike: Vec<_> = self.composite.iter().filter(|types| types.len() == components.len()).collect();
        let keys = components.iter().enumerate().map(|(place, component)| {
            let types: Vec<TenantType> = alike.iter().map(|types| types[place]).collect();
            key_of_types(&types, component, fold)
        });
        Some(TenantKey::composite(&keys.collect::<Option<Vec<_>>>()?))
    }
}

fn sorted(types: &[TenantType]) -> Vec<TenantType> {
    let mut types = types.to_vec();
    types.sort_unstable();
    types.dedup();
    types
}

fn key_of_types(types: &[TenantType], input: &str, fold: &dyn Fn(&str) -> TenantKey) -> Option<TenantKey> {
    let mut types = sorted(types);
    // A text is a key as it is given; it is a number only where it couldn't be anything else.
    if types.contains(&TenantType::Text) {
        types.retain(|of| *of != TenantType::Integer);
    }
    let (of, key) = types.iter().find_map(|of| of.parse(input).ok().map(|key| (*of, key)))?;
    let folded = matches!(of, TenantType::Text | TenantType::Citext) && types.contains(&TenantType::Citext);
    Some(if folded { fold(input) } else { key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_spelling() {
        use TenantType::*;
        let uuid = "6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0B";
        let row = format!("({uuid},\" 007\",\\\\xAB)");
        type Case<'a> = (&'a [&'a [TenantType]], &'a str, Result<&'a str, &'a str>);
        let cases: &[Case] = &[
            (&[], "(anything", Ok("(anything")),
            (&[&[Integer]], " 042", Ok("42")),
            (&[&[Integer], &[Text]], "042", Ok("042")),
            (&[&[Text], &[Citext]], "ACME", Ok("acme")),
            (&[&[Text, Integer]], "(eu,42)", Ok("(eu,42)")),
            (&[&[Text, Integer]], " (\"eu\", 042) ", Ok("(eu,42)")),
            (&[&[Text, Integer]], "(EU,42)", Ok("(EU,42)")),
            (&[&[Citext, Integer]], "(EU,42)", Ok("(eu,42)")),
            (&[&[Uuid, Text, Bytea]], &row, Ok("(6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b,\" 007\",\"\\\\xab\")")),
            (&[&[Text, Text]], "(\"a,b\",c)", Ok("(\"a,b\",c)")),
            (&[&[Text, Text]], "(\"\",x)", Ok("(\"\",x)")),
            // Of the same number of columns, by different types.
            (&[&[Text, Integer], &[Text, Text]], "(eu,042)", Ok("(eu,042)")),
            // Beside texts, a row is a row, and everything else a text.
            (&[&[Text, Integer], &[Text]], "(eu, 42)", Ok("(eu,42)")),
            (&[&[Text, Integer], &[Text]], "(eu,x)", Ok("(eu,x)")),
            (&[&[Text, Integer], &[Text]], "acme", Ok("acme")),
            (&[&[Text, Integer]], "eu", Err("not a row of types (text, integer)")),
            (&[&[Text, Integer]], "(eu,x)", Err("not a row of types (text, integer)")),
            (&[&[Text, Integer]], "(eu,)", Err("not a row of types (text, integer)")),
            (&[&[Text, Integer]], "(eu,42,1)", Err("not a row of types (text, integer)")),
            (&[&[Integer], &[Uuid]], "x", Err("not a value of type integer; not a value of type uuid")),
        ];
        for (tables, input, expected) in cases {
            let mut types = KeyTypes::default();
            tables.iter().for_each(|columns| types.add(columns));
            let told = types.canonical(input, &|text| TenantKey::text(&text.to_lowercase()));
            let told = told.as_ref().map(TenantKey::as_str).map_err(|wrong| wrong.join("; "));
            assert_eq!(told, (*expected).map_err(str::to_owned), "{tables:?} {input:?}");
        }
    }
}
