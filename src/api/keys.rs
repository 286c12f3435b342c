//! Signed identity: the keys, and the tokens that sessions show.

use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::{affected, bounds, facts, known_backend, required};
use crate::pg::report::error;
use crate::pg::{credential, session};
use crate::policy::token::{self, KeyError, LEEWAY, LONGEST, PublicKey, TokenError};

/// Registers the public key that tokens of a backend are signed with: PEM, or 32 bytes in base64 or base64url. Tokens name it
/// by its label (`kid`).
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn add_key(backend: Option<&str>, public_key: Option<&str>, label: Option<&str>) {
    let session = facts();
    let backend = known_backend(&session, required(backend, "backend"));
    let label = bounds::name(label, "label");
    let bytes = match token::parse_public_key(required(public_key, "public_key")) {
        Ok(bytes) => bytes,
        Err(why) => not_a_key(why),
    };
    let known = |key: &&PublicKey| key.label == label || key.bytes == bytes;
    if let Some(key) = session.policy.set.keys.iter().find(known) {
        error(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("key \"{}\" is registered already, for backend \"{}\"", key.label, key.backend),
            "A label names one key, and a key one backend.",
            "See SELECT * FROM holdfast.keys; take it out of use with SELECT holdfast.drop_key(...).",
        );
    }
    affected(
        "INSERT INTO holdfast.identity_key (label, backend, public_key) VALUES ($1, $2, $3) RETURNING label",
        &[label.into(), backend.into(), bytes.as_slice().into()],
    );
}

fn not_a_key(why: KeyError) -> ! {
    let (message, detail) = match why {
        KeyError::Private => ("this is a private key", "It must not be given to anybody, the database included."),
        KeyError::Unreadable => ("this is not an Ed25519 public key", "It is neither PEM nor 32 bytes in base64."),
        KeyError::Weak => ("this public key is not safe", "Signatures of it can be forged."),
    };
    error(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message,
        detail,
        "Make a key with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout",
    )
}

/// Takes a key out of use. Whoever has shown a token that it signed is judged without it from the next statement on.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_key(label: Option<&str>) {
    let label = required(label, "label");
    if affected("DELETE FROM holdfast.identity_key WHERE label = $1 RETURNING label", &[label.into()]) == 0 {
        error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("key \"{label}\" does not exist"),
            "",
            "See SELECT * FROM holdfast.keys;",
        );
    }
}

/// Shows a signed token: from the next statement on this transaction belongs to the backend whose key signed it, until the
/// token's time is over. Returns that backend. With `for_session` it holds until the session ends, DISCARD ALL included.
#[pg_extern(parallel_unsafe)]
fn identify(token: Option<&str>, for_session: default!(Option<bool>, "false")) -> String {
    let session = facts();
    let for_session = required(for_session, "for_session");
    let database = session::database_name();
    match credential::show(&session.policy.set.keys, required(token, "token"), &database, for_session) {
        Ok(backend) => backend,
        Err(why) => refuse(&why, &database),
    }
}

/// No message repeats what could be a secret, and none what an unsigned token says, but for the names that tell which key
/// was looked for.
fn refuse(why: &TokenError, database: &str) -> ! {
    let cut = |text: &str| text.chars().take(64).collect::<String>();
    let (message, detail, hint) = match why {
        TokenError::TooLong(bytes) => (
            "the token is too long".to_owned(),
            format!("It has {bytes} bytes; {LONGEST} are allowed."),
            "Put nothing into it but exp, aud and, if wanted, nbf and sub.",
        ),
        TokenError::Malformed(what) => (
            "the token is malformed".to_owned(),
            format!("As a JWS in compact form, {what}."),
            "Give the token as it was issued: header.claims.signature.",
        ),
        TokenError::Algorithm(algorithm) => (
            format!("the token's algorithm \"{}\" is not accepted", cut(algorithm)),
            String::new(),
            "Sign with Ed25519: \"alg\": \"EdDSA\".",
        ),
        TokenError::Critical => (
            "the token's header asks for extensions".to_owned(),
            "No \"crit\" is supported.".to_owned(),
            "Leave \"crit\" out.",
        ),
        TokenError::UnknownKey(Some(label)) => (
            format!("the token's key \"{}\" is not registered", cut(label)),
            String::new(),
            "It may have been dropped; a DBA sees SELECT * FROM holdfast.keys;",
        ),
        TokenError::UnknownKey(None) => (
            "no key is registered that could have signed the token".to_owned(),
            String::new(),
            "A DBA registers one with SELECT holdfast.add_key(...).",
        ),
        TokenError::Signature => (
            "the token's signature is wrong".to_owned(),
            "No registered key of that name has signed it.".to_owned(),
            "See that the issuer signs with the private key of a key in holdfast.keys.",
        ),
        TokenError::NoExpiry => {
            ("the token does not expire".to_owned(), String::new(), "Give it \"exp\", a few minutes from now.")
        }
        TokenError::Expired(ago) => (
            "the token has expired".to_owned(),
            format!("Its time was over {ago} s ago; {LEEWAY} s are allowed for differing clocks."),
            "Get a new one.",
        ),
        TokenError::NotYet(ahead) => (
            "the token is not valid yet".to_owned(),
            format!("Its time begins in {ahead} s; {LEEWAY} s are allowed for differing clocks."),
            "Compare the clocks of the issuer and the database.",
        ),
        TokenError::Audience(audiences) => (
            format!("the token is not for database \"{database}\""),
            match audiences.as_slice() {
                [] => "It has no \"aud\".".to_owned(),
                all => format!("It is for: {}.", cut(&all.join(", "))),
            },
            "Give it the database's name as \"aud\".",
        ),
        TokenError::Subject(subject) => (
            "the token is of another backend than its key".to_owned(),
            format!("Its \"sub\" is \"{}\".", cut(subject)),
            "Sign it with a key of that backend, or leave \"sub\" out.",
        ),
    };
    error(PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, message, detail, hint)
}
