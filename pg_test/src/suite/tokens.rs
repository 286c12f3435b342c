//! Signed identity: what a token proves, for how long, and what it never does.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_token_raises_a_transaction_and_no_more", transaction),
        Test::shared("a_token_can_hold_for_the_session_until_discard_all", for_session),
        Test::shared("a_savepoint_takes_its_token_along", savepoints),
        Test::shared("an_expired_token_proves_nothing_from_the_next_statement_on", expiry),
        Test::shared("a_dropped_key_counts_at_once_in_every_session", revocation),
        Test::shared("keys_rotate_without_a_gap", rotation),
        Test::shared("claims_restrict_what_a_token_raised", claims),
        Test::shared("each_wrong_token_has_its_own_error", wrong_tokens),
        Test::shared("keys_that_are_none_are_told_from_each_other", wrong_keys),
        Test::shared("a_token_leaves_no_trace_in_the_record", no_trace),
    ]
}

/// Who signs tokens.
pub(super) struct Issuer {
    label: &'static str,
    key: SigningKey,
}

impl Issuer {
    pub(super) fn new(label: &'static str, seed: u8) -> Issuer {
        Issuer { label, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    /// The statement that registers its key for a backend.
    pub(super) fn registered_for(&self, backend: &str) -> String {
        let key = Base64::encode_string(self.key.verifying_key().as_bytes());
        format!("SELECT holdfast.add_key('{backend}', '{key}', '{}')", self.label)
    }

    fn token(&self, header: Value, claims: Value) -> String {
        let part = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }

    /// A token for a database that ends in so many seconds.
    pub(super) fn issues(&self, database: &str, seconds: f64) -> Result<String> {
        Ok(self.token(json!({"alg": "EdDSA", "kid": self.label}), json!({"aud": database, "exp": now()? + seconds})))
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}

/// A guarded database, an issuer whose key is registered for legacy, and a session of the rebuilt backend.
fn scene(cluster: &Cluster) -> Result<(Guarded, Issuer, Session)> {
    let guarded = Guarded::enforcing(cluster, "tokens")?;
    let issuer = Issuer::new("first", 1);
    guarded.database.connect()?.exec(&issuer.registered_for("legacy"))?;
    let session = guarded.rebuilt()?;
    Ok((guarded, issuer, session))
}

fn is(session: &mut Session, backend: &str, source: &str) -> Result<()> {
    let who = session.rows("SELECT backend, source FROM holdfast.whoami()")?;
    ensure!(who == [[Some(backend.to_owned()), Some(source.to_owned())]], "{who:?}");
    Ok(())
}

const BY_ROLE: &str = "identity rule 2";

fn show(token: &str) -> String {
    format!("SELECT holdfast.identify('{token}')")
}

fn transaction(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let token = issuer.issues(&guarded.database.name, 60.0)?;
    session.exec("PREPARE write AS UPDATE orders SET note = 'by token' WHERE tenant = 1")?;
    ensure!(session.refused("EXECUTE write")?.code == "WG001");
    session.exec("BEGIN")?;
    let backend: String = session.one(&show(&token))?;
    ensure!(backend == "legacy", "{backend}");
    is(&mut session, "legacy", "token")?;
    session.exec("EXECUTE write; COMMIT")?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    ensure!(session.refused("EXECUTE write")?.code == "WG001");
    // A transaction of its own, which ends at once.
    session.exec(&show(&token))?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    // Whatever ends a transaction ends it.
    for end in ["ROLLBACK", "PREPARE TRANSACTION 'tokens'; ROLLBACK PREPARED 'tokens'", "SELECT 1/0"] {
        session.exec("BEGIN")?;
        session.exec(&show(&token))?;
        is(&mut session, "legacy", "token")?;
        let _ = session.exec(end);
        let _ = session.exec("ROLLBACK");
        is(&mut session, "rebuilt", BY_ROLE)?;
    }
    let note: String = session.one("SELECT note FROM orders WHERE tenant = 1")?;
    ensure!(note == "by token", "{note}");
    Ok(())
}

fn for_session(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let token = issuer.issues(&guarded.database.name, 60.0)?;
    let show = format!("SELECT holdfast.identify('{token}', for_session => true)");
    session.exec(&show)?;
    is(&mut session, "legacy", "token")?;
    let _ = session.exec("SELECT 1/0");
    session.exec(FOREIGN_WRITE)?;
    session.exec("RESET ALL")?;
    is(&mut session, "legacy", "token")?;
    session.exec("DISCARD ALL")?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    // Undone with the transaction that showed it.
    session.exec(&format!("BEGIN; {show}; ROLLBACK"))?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    Ok(())
}

fn savepoints(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let show = show(&issuer.issues(&guarded.database.name, 60.0)?);
    session.exec(&format!("BEGIN; SAVEPOINT a; {show}"))?;
    is(&mut session, "legacy", "token")?;
    session.exec("ROLLBACK TO a")?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    session.exec(&format!("SAVEPOINT b; SAVEPOINT c; {show}; RELEASE c"))?;
    is(&mut session, "legacy", "token")?;
    session.exec("ROLLBACK TO b")?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    session.exec(&format!("{show}; SAVEPOINT d; ROLLBACK TO d"))?;
    is(&mut session, "legacy", "token")?;
    session.exec("COMMIT")?;
    is(&mut session, "rebuilt", BY_ROLE)
}

fn expiry(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    // Its time was over 27 s ago, of which 30 s are forgiven.
    let token = issuer.issues(&guarded.database.name, -27.0)?;
    session.exec("BEGIN")?;
    session.exec(&show(&token))?;
    session.exec(FOREIGN_WRITE)?;
    sleep(Duration::from_millis(3_200));
    is(&mut session, "rebuilt", BY_ROLE)?;
    ensure!(session.refused(FOREIGN_WRITE)?.code == "WG001");
    session.exec("ROLLBACK")?;
    let late = session.refused(&show(&token))?;
    ensure!(late.message == "the token has expired", "{late:?}");
    Ok(())
}

fn revocation(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let token = issuer.issues(&guarded.database.name, 60.0)?;
    session.exec(&format!("SELECT holdfast.identify('{token}', true)"))?;
    session.exec("BEGIN")?;
    session.exec(FOREIGN_WRITE)?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.drop_key('first')")?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    ensure!(session.refused(FOREIGN_WRITE)?.code == "WG001");
    session.exec("ROLLBACK")?;
    let gone = session.refused(&show(&token))?;
    ensure!(gone.message == "the token's key \"first\" is not registered", "{gone:?}");
    // Another key under the same label doesn't bring it back.
    dba.exec(&Issuer::new("first", 9).registered_for("legacy"))?;
    is(&mut session, "rebuilt", BY_ROLE)?;
    ensure!(session.refused(&show(&token))?.message == "the token's signature is wrong");
    // The same key, for another backend, proves that backend.
    dba.exec("SELECT holdfast.drop_key('first')")?;
    dba.exec("SELECT holdfast.add_backend('batch', 'proven')")?;
    dba.exec(&issuer.registered_for("batch"))?;
    session.exec("BEGIN")?;
    ensure!(session.one::<String>(&show(&token))? == "batch");
    is(&mut session, "batch", "token")
}

fn rotation(cluster: &Cluster) -> Result<()> {
    let (guarded, first, mut session) = scene(cluster)?;
    let second = Issuer::new("second", 2);
    let mut dba = guarded.database.connect()?;
    dba.exec(&second.registered_for("legacy"))?;
    for issuer in [&first, &second] {
        session.exec("BEGIN")?;
        session.exec(&show(&issuer.issues(&guarded.database.name, 60.0)?))?;
        session.exec(FOREIGN_WRITE)?;
        session.exec("COMMIT")?;
    }
    dba.exec("SELECT holdfast.drop_key('first')")?;
    session.refused(&show(&first.issues(&guarded.database.name, 60.0)?))?;
    session.exec(&show(&second.issues(&guarded.database.name, 60.0)?))?;
    let keys = dba.rows("SELECT label, backend FROM holdfast.keys")?;
    ensure!(keys == [[Some("second".to_owned()), Some("legacy".to_owned())]], "{keys:?}");
    Ok(())
}

fn claims(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    session.exec("BEGIN; SET LOCAL holdfast.backend = 'rebuilt'")?;
    session.exec(&show(&issuer.issues(&guarded.database.name, 60.0)?))?;
    is(&mut session, "rebuilt", "setting holdfast.backend")?;
    ensure!(session.refused(FOREIGN_WRITE)?.code == "WG001");
    session.exec("ROLLBACK")?;
    // A legacy session that shows a token of the rebuilt backend is the rebuilt backend: a shared pool's way.
    let rebuilt = Issuer::new("rebuilt", 3);
    guarded.database.connect()?.exec(&rebuilt.registered_for("rebuilt"))?;
    let mut legacy = guarded.legacy()?;
    legacy.exec("BEGIN")?;
    legacy.exec(&show(&rebuilt.issues(&guarded.database.name, 60.0)?))?;
    is(&mut legacy, "rebuilt", "token")?;
    ensure!(legacy.refused(FOREIGN_WRITE)?.code == "WG001");
    Ok(())
}

fn wrong_tokens(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let database = &guarded.database.name;
    let header = json!({"alg": "EdDSA", "kid": "first"});
    let exp = now()? + 60.0;
    let unsigned = issuer.token(json!({"alg": "none"}), json!({"aud": database, "exp": exp}));
    let unsigned = unsigned.rsplit_once('.').map_or(String::new(), |(signed, _)| format!("{signed}."));
    let too_long = json!({"aud": database, "exp": exp, "x": "y".repeat(5_000)});
    let other_audience = format!("the token is not for database \"{database}\"");
    let cases = [
        ("nonsense".to_owned(), "the token is malformed"),
        (String::new(), "the token is malformed"),
        ("a.b.c".to_owned(), "the token is malformed"),
        (issuer.token(header.clone(), too_long), "the token is too long"),
        ("x".repeat(1_000_000), "the token is too long"),
        (unsigned, "the token's algorithm \"none\" is not accepted"),
        (
            issuer.token(json!({"alg": "HS256"}), json!({"aud": database, "exp": exp})),
            "the token's algorithm \"HS256\" is not accepted",
        ),
        (issuer.issues(database, -60.0)?, "the token has expired"),
        (issuer.issues("another", 60.0)?, &other_audience),
        (issuer.token(header.clone(), json!({"exp": exp})), &other_audience),
        (issuer.token(header.clone(), json!({"aud": database})), "the token does not expire"),
        (
            issuer.token(header.clone(), json!({"aud": database, "exp": exp, "nbf": exp + 100.0})),
            "the token is not valid yet",
        ),
        (Issuer::new("second", 2).issues(database, 60.0)?, "the token's key \"second\" is not registered"),
        (Issuer::new("first", 2).issues(database, 60.0)?, "the token's signature is wrong"),
        (
            issuer.token(header.clone(), json!({"aud": database, "exp": exp, "sub": "rebuilt"})),
            "the token is of another backend than its key",
        ),
        (
            issuer.token(json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), json!({"aud": database, "exp": exp})),
            "the token's header asks for extensions",
        ),
    ];
    for (token, message) in cases {
        let refusal = session.refused(&show(&token))?;
        ensure!(refusal.code == "28000" && refusal.message == message, "{message}: {refusal:?}");
        is(&mut session, "rebuilt", BY_ROLE)?;
    }
    // Differing clocks are forgiven.
    for claims in [json!({"exp": now()? - 20.0}), json!({"exp": exp, "nbf": now()? + 20.0})] {
        let mut claims = claims;
        claims["aud"] = json!(database);
        session.exec(&show(&issuer.token(header.clone(), claims)))?;
    }
    // A token for one database is worth nothing in another.
    let elsewhere = Guarded::enforcing(cluster, "elsewhere")?;
    elsewhere.database.connect()?.exec(&issuer.registered_for("legacy"))?;
    let replayed = elsewhere.rebuilt()?.refused(&show(&issuer.issues(database, 60.0)?))?;
    let expected = format!("the token is not for database \"{}\"", elsewhere.database.name);
    ensure!(replayed.message == expected && replayed.code == "28000", "{replayed:?}");
    let null = session.refused("SELECT holdfast.identify(NULL)")?;
    ensure!(null.code == "22004", "{null:?}");
    Ok(())
}

fn wrong_keys(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, _) = scene(cluster)?;
    let mut dba = guarded.database.connect()?;
    let good = Base64::encode_string(Issuer::new("x", 7).key.verifying_key().as_bytes());
    let zeros = Base64::encode_string(&[0; 32]);
    let cases = [
        ("'legacy', 'rubbish', 'k'".to_owned(), "22023", "this is not an Ed25519 public key"),
        ("'legacy', '-----BEGIN PRIVATE KEY-----', 'k'".to_owned(), "22023", "this is a private key"),
        (format!("'legacy', '{zeros}', 'k'"), "22023", "this public key is not safe"),
        (format!("'legacy', '{good}', ''"), "22023", "parameter \"label\" must not be empty"),
        (format!("'nobody', '{good}', 'k'"), "42704", "backend \"nobody\" does not exist"),
        (
            format!("'legacy', '{good}', 'first'"),
            "42710",
            "key \"first\" is registered already, for backend \"legacy\"",
        ),
        ("'legacy', NULL, 'k'".to_owned(), "22004", "parameter \"public_key\" must not be null"),
    ];
    for (arguments, code, message) in cases {
        let refusal = dba.refused(&format!("SELECT holdfast.add_key({arguments})"))?;
        ensure!(refusal.code == code && refusal.message == message, "{arguments}: {refusal:?}");
    }
    // One key can't prove two backends.
    let again = Issuer { label: "again", key: issuer.key.clone() };
    ensure!(dba.refused(&again.registered_for("rebuilt"))?.code == "42710");
    let missing = dba.refused("SELECT holdfast.drop_key('nothing')")?;
    ensure!(missing.code == "42704", "{missing:?}");
    // Keys are for operators.
    let refusal = guarded.rebuilt()?.refused(&Issuer::new("own", 8).registered_for("legacy"))?;
    ensure!(refusal.code == "42501", "{refusal:?}");
    Ok(())
}

fn no_trace(cluster: &Cluster) -> Result<()> {
    let (guarded, issuer, mut session) = scene(cluster)?;
    let rebuilt = Issuer::new("rebuilt", 3);
    guarded.database.connect()?.exec(&rebuilt.registered_for("rebuilt"))?;
    let token = rebuilt.issues(&guarded.database.name, 60.0)?;
    // In one message with the statement that is refused.
    let refusal = session.refused(&format!("BEGIN; {}; {FOREIGN_WRITE}", show(&token)))?;
    ensure!(refusal.code == "WG001", "{refusal:?}");
    session.exec("ROLLBACK")?;
    session.refused(&show(&issuer.issues("elsewhere", 60.0)?))?;
    let signature = token.rsplit_once('.').map_or("", |(_, signature)| signature);
    let mut dba = guarded.database.connect()?;
    let seen: i64 =
        dba.one(&format!("SELECT count(*) FROM holdfast.event e WHERE e::text LIKE '%{}%'", &signature[..40]))?;
    ensure!(seen == 0, "the token is in {seen} events");
    Ok(())
}
