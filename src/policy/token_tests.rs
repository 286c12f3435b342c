use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::policy::proofs::Proofs;

const NOW: i64 = 800_000_000_000_000;

fn seconds(from_now: i64) -> i64 {
    (NOW + EPOCH) / 1_000_000 + from_now
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn key(label: &str, backend: &str, n: u8) -> PublicKey {
    PublicKey { label: label.into(), backend: backend.into(), bytes: signer(n).verifying_key().to_bytes() }
}

fn keys() -> Vec<PublicKey> {
    vec![key("2026-10", "legacy", 1), key("2026-11", "legacy", 2), key("new", "rebuilt", 3)]
}

fn part(value: &Value) -> String {
    Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
}

fn token(header: &Value, claims: &Value, by: u8) -> String {
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = signer(by).sign(signed.as_bytes());
    format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
}

fn good() -> (Value, Value) {
    (json!({"alg": "EdDSA", "kid": "2026-11"}), json!({"aud": "shop", "exp": seconds(60)}))
}

fn answer(header: Value, claims: Value, by: u8) -> Result<String, TokenError> {
    verify(&keys(), &token(&header, &claims, by), "shop", NOW).map(|c| format!("{} {}", c.key.backend, c.key.label))
}

#[test]
fn a_token_proves_the_backend_of_its_key() {
    let (header, claims) = good();
    assert_eq!(answer(header.clone(), claims.clone(), 2), Ok("legacy 2026-11".into()));
    assert_eq!(answer(json!({"alg": "EdDSA"}), claims.clone(), 3), Ok("rebuilt new".into()), "without kid");
    assert_eq!(answer(json!({"alg": "Ed25519", "typ": "JWT"}), claims, 1), Ok("legacy 2026-10".into()));
    let several = json!({"aud": ["other", "shop"], "exp": seconds(60), "sub": "legacy", "nbf": seconds(0)});
    assert_eq!(answer(header, several, 2), Ok("legacy 2026-11".into()));
}

#[test]
fn what_is_wrong_with_a_token_is_told() {
    let (header, claims) = good();
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        answer(header.clone(), claims, 2)
    };
    assert_eq!(with("exp", json!(seconds(-29))).map(|_| ()), Ok(()), "within the leeway");
    assert_eq!(with("exp", json!(seconds(-31))), Err(TokenError::Expired(31)));
    assert!(matches!(with("exp", json!(-1e300)), Err(TokenError::Expired(_))));
    assert_eq!(with("exp", Value::Null), Err(TokenError::NoExpiry));
    assert_eq!(with("exp", json!("soon")).map_err(|e| matches!(e, TokenError::Malformed(_))), Err(true));
    assert_eq!(with("nbf", json!(seconds(29))).map(|_| ()), Ok(()));
    assert_eq!(with("nbf", json!(seconds(31))), Err(TokenError::NotYet(31)));
    assert_eq!(with("aud", json!("other")), Err(TokenError::Audience(vec!["other".into()])));
    assert_eq!(with("aud", Value::Null), Err(TokenError::Audience(vec![])));
    assert_eq!(with("sub", json!("rebuilt")), Err(TokenError::Subject("rebuilt".into())));
    assert_eq!(answer(header.clone(), claims.clone(), 3), Err(TokenError::Signature), "signed by another's key");
    let unknown = json!({"alg": "EdDSA", "kid": "gone"});
    assert_eq!(answer(unknown, claims.clone(), 2), Err(TokenError::UnknownKey(Some("gone".into()))));
    for alg in ["none", "HS256", "RS256", "eddsa", ""] {
        let header = json!({"alg": alg});
        assert_eq!(answer(header, claims.clone(), 2), Err(TokenError::Algorithm(alg.into())));
    }
    let critical = json!({"alg": "EdDSA", "crit": ["exp"], "exp": 1});
    assert_eq!(answer(critical, claims, 2), Err(TokenError::Critical));
}

#[test]
fn no_other_bytes_pass() {
    let (header, claims) = good();
    let whole = token(&header, &claims, 2);
    for at in 0..whole.len() {
        for byte in [b'A', b'B', b'.', b'=', b'%'] {
            let mut bytes = whole.clone().into_bytes();
            if bytes[at] == byte {
                continue;
            }
            bytes[at] = byte;
            let changed = String::from_utf8(bytes).unwrap_or_default();
            assert!(verify(&keys(), &changed, "shop", NOW).is_err(), "byte {at} as {byte}");
        }
    }
    for broken in ["", ".", "..", "a.b.c", "a.b.c.d", "é.é.é", &"x".repeat(LONGEST + 1), &whole[..whole.len() - 1]] {
        assert!(verify(&keys(), broken, "shop", NOW).is_err(), "{broken}");
    }
    assert_eq!(verify(&[], &whole, "shop", NOW), Err(TokenError::UnknownKey(Some("2026-11".into()))));
}

#[test]
fn a_credential_ends_with_its_time_or_its_key() {
    let (header, claims) = good();
    let credential = verify(&keys(), &token(&header, &claims, 2), "shop", NOW);
    let Ok(credential) = credential else { return assert!(credential.is_ok()) };
    assert!(credential.holds(&keys(), NOW));
    assert!(credential.holds(&keys(), NOW + 89_000_000));
    assert!(!credential.holds(&keys(), NOW + 90_000_000));
    assert!(!credential.holds(&keys()[..1], NOW), "its key is gone");
    let moved = PublicKey { backend: "rebuilt".into(), ..keys()[1].clone() };
    assert!(!credential.holds(&[moved], NOW), "its key is another backend's now");
}

#[test]
fn public_keys_are_read_in_the_usual_forms() {
    let bytes = signer(2).verifying_key().to_bytes();
    let url = Base64UrlUnpadded::encode_string(&bytes);
    let plain = Base64::encode_string(&bytes);
    // What `openssl pkey -pubout` writes: a fixed prefix and the key.
    let mut der = vec![0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend_from_slice(&bytes);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", Base64::encode_string(&der));
    for text in [&url, &plain, &pem, &format!(" {url}\n")] {
        assert_eq!(parse_public_key(text), Ok(bytes), "{text}");
    }
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----";
    assert_eq!(parse_public_key(private), Err(KeyError::Private));
    for text in ["", "x", &url[1..], "-----BEGIN PUBLIC KEY-----"] {
        assert_eq!(parse_public_key(text), Err(KeyError::Unreadable), "{text}");
    }
    assert_eq!(parse_public_key(&Base64UrlUnpadded::encode_string(&[0; 32])), Err(KeyError::Weak));
}

#[test]
fn a_token_that_was_proved_is_asked_again_what_may_have_changed() {
    let (header, claims) = good();
    let token = token(&header, &claims, 2);
    let mut proofs = Proofs::new();
    let mut ask = |keys: &[PublicKey], token: &str, audience: &str, now: i64| {
        proofs.verify(keys, token, audience, now).map(|c| c.key.backend)
    };
    for _ in 0..2 {
        assert_eq!(ask(&keys(), &token, "shop", NOW), Ok("legacy".into()));
    }
    // Its key is gone, has become another one's, and is back.
    assert_eq!(ask(&keys()[2..], &token, "shop", NOW), Err(TokenError::UnknownKey(Some("2026-11".into()))));
    assert_eq!(ask(&[key("2026-11", "legacy", 4)], &token, "shop", NOW), Err(TokenError::Signature));
    assert_eq!(ask(&[key("2026-11", "rebuilt", 2)], &token, "shop", NOW), Ok("rebuilt".into()));
    assert_eq!(ask(&keys(), &token, "shop", NOW), Ok("legacy".into()));
    let later = NOW + (60 + LEEWAY) * 1_000_000;
    assert_eq!(ask(&keys(), &token, "shop", later), Err(TokenError::Expired(LEEWAY)));
    assert_eq!(ask(&keys(), &token, "elsewhere", NOW), Err(TokenError::Audience(vec!["shop".into()])));
    let cut = token.rsplit_once('.').map_or("", |(cut, _)| cut);
    let other = format!("{cut}.{}", Base64UrlUnpadded::encode_string(&[7; 64]));
    assert_eq!(ask(&keys(), &other, "shop", NOW), Err(TokenError::Signature));
}

#[test]
fn no_more_tokens_are_remembered_than_a_pool_has_clients() {
    let (header, _) = good();
    let mut proofs = Proofs::new();
    for n in 0..100 {
        let claims = json!({"aud": "shop", "exp": seconds(60 + n)});
        assert!(proofs.verify(&keys(), &token(&header, &claims, 2), "shop", NOW).is_ok());
    }
    assert_eq!(proofs.count(), 64);
}
