//! Tenant keys: when two values of tenant columns name the same tenant.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::composite;

/// The family of types that a tenant column has, those with the narrowest syntax first. Columns of one family hold comparable keys: an `int4` 42 and an
/// `int8` 42 are the same tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TenantType {
    /// `int2`, `int4`, `int8`.
    Integer,
    /// `uuid`.
    Uuid,
    /// `bytea`.
    Bytea,
    /// `text`, `varchar`.
    Text,
    /// `citext`: equal when equal in lower case.
    Citext,
}

impl TenantType {
    /// The types that a tenant column may have, as an error message lists them.
    pub const NAMES: &str = "smallint, integer, bigint, uuid, text, varchar, citext, bytea";

    /// As an error message calls one.
    pub fn noun(self) -> &'static str {
        match self {
            TenantType::Integer => "integer",
            TenantType::Uuid => "uuid",
            TenantType::Text => "text",
            TenantType::Citext => "citext",
            TenantType::Bytea => "bytea",
        }
    }

    /// The canonical form of `input`, as a user types it. Citext is taken as it is: its lower case depends on the
    /// database's locale, which the caller knows.
    ///
    /// # Errors
    /// When `input` is no value of this type.
    pub fn parse(self, input: &str) -> Result<TenantKey, NotOfType> {
        let wrong = self.wrong();
        match self {
            TenantType::Integer => input.trim().parse().map(TenantKey::integer).map_err(|_| wrong),
            TenantType::Uuid => parse_uuid(input.trim()).map(|u| TenantKey::uuid(u.as_bytes())).ok_or(wrong),
            TenantType::Text | TenantType::Citext => Ok(TenantKey::text(input)),
            TenantType::Bytea => decode_hex(input).map(|b| TenantKey::bytea(&b)).ok_or(wrong),
        }
    }

    /// What is said of a value that isn't one of this type.
    pub fn wrong(self) -> NotOfType {
        NotOfType { of: self }
    }
}

/// A value that its tenant column's type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOfType {
    /// The type.
    pub of: TenantType,
}

impl fmt::Display for NotOfType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a value of type {}", self.of.noun())
    }
}

/// A tenant, in the canonical text form that is stored, locked and shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantKey(String);

impl TenantKey {
    /// Of an integer column.
    pub fn integer(value: i64) -> Self {
        TenantKey(value.to_string())
    }

    /// Of a `uuid` column, from its 16 bytes: lower case with hyphens, as Postgres prints it.
    pub fn uuid(bytes: &[u8; 16]) -> Self {
        TenantKey(Uuid::from_bytes(*bytes).hyphenated().to_string())
    }

    /// Of a text column; for citext the caller has folded it.
    pub fn text(value: &str) -> Self {
        TenantKey(value.to_owned())
    }

    /// Of a `bytea` column: hex, whatever `bytea_output` says.
    pub fn bytea(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(2 + bytes.len() * 2);
        text.push_str("\\x");
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        TenantKey(text)
    }

    /// Of several columns, from the keys of each: the text that Postgres gives for a row of them.
    pub fn composite(components: &[TenantKey]) -> Self {
        TenantKey(composite::write(components.iter().map(TenantKey::as_str)))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the tenant's lock is taken on. Two tenants with one hash share a lock: they wait for each other's cutover,
    /// which costs time and never correctness. FNV-1a, because every server of a cluster's life must agree on it.
    pub fn lock_hash(&self) -> u64 {
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl fmt::Display for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As Postgres reads a uuid: braces around it and hyphens between groups of digits are optional.
fn parse_uuid(input: &str) -> Option<Uuid> {
    let inner = input.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(input);
    Uuid::try_parse(&inner.replace('-', "")).ok()
}

fn decode_hex(input: &str) -> Option<Vec<u8>> {
    let digits = input.strip_prefix("\\x")?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.as_bytes().chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_canonical_form() {
        use TenantType::*;
        let uuid = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b";
        let cases: &[(TenantType, &str, Option<&str>)] = &[
            (Integer, "42", Some("42")),
            (Integer, " 0042 ", Some("42")),
            (Integer, "-7", Some("-7")),
            (Integer, "+7", Some("7")),
            (Integer, "9223372036854775807", Some("9223372036854775807")),
            (Integer, "9223372036854775808", None),
            (Integer, "4.2", None),
            (Integer, "acme", None),
            (Integer, "", None),
            (Uuid, uuid, Some(uuid)),
            (Uuid, "6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0B", Some(uuid)),
            (Uuid, "{6ec0bd7f11c043da975e2a8ad9ebae0b}", Some(uuid)),
            (Uuid, "6ec0-bd7f-11c0-43da-975e-2a8a-d9eb-ae0b", Some(uuid)),
            (Uuid, "6ec0bd7f11c043da975e2a8ad9ebae", None),
            (Uuid, "6ec0bd7f11c043da975e2a8ad9ebae0b", Some(uuid)),
            (Uuid, "42", None),
            (Text, " Acme ", Some(" Acme ")),
            (Text, "", Some("")),
            (Citext, "acme", Some("acme")),
            (Bytea, "\\xDEAD", Some("\\xdead")),
            (Bytea, "\\x", Some("\\x")),
            (Bytea, "\\xDEA", None),
            (Bytea, "dead", None),
        ];
        for (of, input, expected) in cases {
            let key = of.parse(input);
            assert_eq!(key.as_ref().map(TenantKey::as_str).ok(), *expected, "{of:?} {input:?}");
        }
    }

    #[test]
    fn the_lock_hash_never_changes() {
        // Known answers of FNV-1a: a change here would let two server versions lock different things.
        assert_eq!(TenantKey::text("").lock_hash(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(TenantKey::text("a").lock_hash(), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(TenantKey::text("foobar").lock_hash(), 0x8594_4171_f739_67e8);
    }
}
