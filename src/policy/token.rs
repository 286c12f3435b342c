//! Signed identity: a token says, for a while, which backend a session belongs to.
//!
//! A token is a JWS in compact form (RFC 7515) over the claims of RFC 7519, signed with Ed25519 (`alg` EdDSA, RFC 8037). The
//! backend is that of the key which signed it, so nothing that a token says of itself can raise a session beyond its key.
//! Only this one algorithm is read: a library that knows them all would bring RSA and its kin into every server process.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The longest token that is looked at, in bytes.
pub const LONGEST: usize = 4_096;

/// How far the clock of whoever issues tokens may differ from the server's, in seconds.
pub const LEEWAY: i64 = 30;

/// Microseconds from 1970-01-01, which tokens count from, to 2000-01-01, which Postgres counts from.
const EPOCH: i64 = 946_684_800_000_000;

/// A key that tokens of a backend are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Names it, also as `kid` in a token's header.
    pub label: String,
    /// The backend whose tokens it signs.
    pub backend: String,
    /// The key.
    pub bytes: [u8; 32],
}

/// What a token has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The key that proved it.
    pub key: PublicKey,
    /// When it ends, in microseconds since 2000-01-01 UTC, the leeway included.
    pub until: i64,
}

impl Credential {
    /// Whether it holds at `now`: its time isn't over, and its key is still registered for its backend.
    pub fn holds(&self, keys: &[PublicKey], now: i64) -> bool {
        now < self.until && keys.contains(&self.key)
    }
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It has so many bytes.
    TooLong(usize),
    /// It isn't a JWS in compact form.
    Malformed(&'static str),
    /// It is signed by another algorithm than EdDSA, or by none.
    Algorithm(String),
    /// Its header demands extensions.
    Critical,
    /// Its `kid` names no registered key, or it has none and no key is registered.
    UnknownKey(Option<String>),
    /// No registered key has signed it.
    Signature,
    /// It has no `exp`.
    NoExpiry,
    /// It ended so many seconds ago.
    Expired(i64),
    /// It begins in so many seconds.
    NotYet(i64),
    /// Its `aud` doesn't name this database.
    Audience(Vec<String>),
    /// Its `sub` names another backend than its key's.
    Subject(String),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audience>,
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Checks a token for the database `audience` at `now`, in microseconds since 2000-01-01 UTC.
///
/// # Errors
/// Why it proves nothing. What a token says is believed, and told in an error, only once its signature is checked; the
/// algorithm and the key's name are needed before.
pub fn verify(keys: &[PublicKey], token: &str, audience: &str, now: i64) -> Result<Credential, TokenError> {
    if token.len() > LONGEST {
        return Err(TokenError::TooLong(token.len()));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed("it has not three parts"));
    };
    let signed = &token[..header.len() + 1 + claims.len()];
    let header: Header = json(header).ok_or(TokenError::Malformed("its header is no JSON object with \"alg\""))?;
    if header.alg != "EdDSA" && header.alg != "Ed25519" {
        return Err(TokenError::Algorithm(header.alg));
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    let signature = Base64UrlUnpadded::decode_vec(signature).ok();
    let signature = signature.and_then(|bytes| Signature::from_slice(&bytes).ok());
    let signature = signature.ok_or(TokenError::Malformed("its signature is not 64 bytes in base64url"))?;
    let named = keys.iter().filter(|key| header.kid.as_ref().is_none_or(|kid| *kid == key.label));
    let candidates: Vec<&PublicKey> = named.collect();
    if candidates.is_empty() {
        return Err(TokenError::UnknownKey(header.kid));
    }
    let key = candidates.into_iter().find(|key| {
        let verifier = VerifyingKey::from_bytes(&key.bytes);
        verifier.is_ok_and(|verifier| verifier.verify_strict(signed.as_bytes(), &signature).is_ok())
    });
    let key = key.ok_or(TokenError::Signature)?;
    let claims: Claims =
        json(claims).ok_or(TokenError::Malformed("its claims are no JSON object, or of wrong types"))?;
    check(&claims, key, audience, now)
}

fn check(claims: &Claims, key: &PublicKey, audience: &str, now: i64) -> Result<Credential, TokenError> {
    let until = micros(claims.exp.ok_or(TokenError::NoExpiry)?);
    if now >= until.saturating_add(LEEWAY * 1_000_000) {
        return Err(TokenError::Expired(now.saturating_sub(until) / 1_000_000));
    }
    if let Some(from) = claims.nbf.map(micros)
        && from > now.saturating_add(LEEWAY * 1_000_000)
    {
        return Err(TokenError::NotYet(from.saturating_sub(now) / 1_000_000));
    }
    let audiences = match &claims.aud {
        None => Vec::new(),
        Some(Audience::One(one)) => vec![one.clone()],
        Some(Audience::Several(several)) => several.clone(),
    };
    if !audiences.iter().any(|a| a == audience) {
        return Err(TokenError::Audience(audiences));
    }
    if let Some(subject) = claims.sub.as_ref().filter(|subject| **subject != key.backend) {
        return Err(TokenError::Subject(subject.clone()));
    }
    Ok(Credential { key: key.clone(), until: until.saturating_add(LEEWAY * 1_000_000) })
}

fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    // An object, and nothing before it: what is taken for a token here must be seen to be one by `redaction`, too.
    let decoded = Base64UrlUnpadded::decode_vec(part).ok().filter(|bytes| bytes.first() == Some(&b'{'))?;
    serde_json::from_slice(&decoded).ok()
}

/// Seconds since 1970, which may have a fraction, as Postgres counts.
fn micros(seconds: f64) -> i64 {
    // The cast saturates, and makes no number 0, which is long ago.
    ((seconds * 1e6) as i64).saturating_sub(EPOCH)
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It is a private one.
    Private,
    /// It is neither PEM nor 32 bytes in base64 or base64url.
    Unreadable,
    /// It is a point that signatures can be forged for.
    Weak,
}

/// Reads a public key: PEM (as OpenSSL writes it), or its 32 bytes in base64 or base64url, as in a JWK.
///
/// # Errors
/// Why it can't be used.
pub fn parse_public_key(text: &str) -> Result<[u8; 32], KeyError> {
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        return Err(KeyError::Private);
    }
    let key = match VerifyingKey::from_public_key_pem(text) {
        Ok(key) => key,
        Err(_) => {
            let unpadded = text.trim_end_matches('=');
            let bytes = Base64UrlUnpadded::decode_vec(unpadded).or_else(|_| Base64::decode_vec(text));
            let bytes: [u8; 32] = bytes.ok().and_then(|b| b.try_into().ok()).ok_or(KeyError::Unreadable)?;
            VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Unreadable)?
        }
    };
    if key.is_weak() { Err(KeyError::Weak) } else { Ok(key.to_bytes()) }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
