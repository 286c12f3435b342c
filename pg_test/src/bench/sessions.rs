//! What belongs to a session: its identity, its memory; and what there is once for all of them.

use std::fs;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signer, SigningKey};
use procfs::process::Process;
use serde_json::{Value, json};

use super::Bench;
use super::contender::Contender;
use super::oltp;
use crate::client::Session;

/// Transactions of one UPDATE with a token, and without.
pub fn tokens(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = Base64::encode_string(key.verifying_key().as_bytes());
    let mut admin = bench.arena.admin(contender)?;
    let registered: bool = admin.one("SELECT count(*) > 0 FROM holdfast.identity_key WHERE label = 'bench'")?;
    if !registered {
        admin.exec(&format!("SELECT holdfast.add_key('legacy', '{public}', 'bench')"))?;
    }
    let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 3_600;
    let part = |value: Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
    let claims = json!({"aud": contender.name(), "exp": until});
    let signed = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": "bench"})), part(claims));
    let token = format!("{signed}.{}", Base64UrlUnpadded::encode_string(&key.sign(signed.as_bytes()).to_bytes()));
    let script = |identify: &str| {
        let rows = bench.arena.scale.rows;
        format!(
            "\\set id random(1, {rows})\nBEGIN;\n{identify}UPDATE items SET amount = amount + 1 WHERE id = :id;\nCOMMIT;\n"
        )
    };
    let identify = format!("SELECT holdfast.identify('{token}');\n");
    let with = oltp::custom(bench, contender, 1, &script(&identify), &[])?;
    let without = oltp::custom(bench, contender, 1, &script(""), &[])?;
    Ok([with, without].concat())
}

/// Anonymous memory of a session's process when it has written rows of many tenants.
pub fn memory(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let mut admin = bench.arena.admin(contender)?;
    let mut measured = Vec::new();
    let crowd = if bench.course.quick { 100_000 } else { 1_000_000 };
    let each_commits = |tenants: u32| {
        format!(
            "DO $$ BEGIN FOR n IN 1..{tenants} LOOP INSERT INTO items VALUES (-n, n, 0, NULL); COMMIT; END LOOP; END $$"
        )
    };
    let at_once = format!("INSERT INTO items SELECT -n, n, 0, NULL FROM generate_series(1, {crowd}) n");
    for work in [each_commits(1_000), each_commits(crowd), at_once] {
        let mut session: Session = bench.arena.session(contender)?;
        session.exec(&work)?;
        let status = Process::new(session.pid()).and_then(|process| process.status()).context("reading /proc")?;
        measured.push(status.rssanon.unwrap_or_default() as f64);
        session.exec("DELETE FROM items WHERE id < 0")?;
        admin.exec("VACUUM items")?;
    }
    Ok(measured)
}

/// Shared memory that is there from the server's start, and the library's file.
pub fn footprint(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let shared: i64 = bench
        .arena
        .admin(contender)?
        .one("SELECT sum(allocated_size)::int8 FROM pg_catalog.pg_shmem_allocations WHERE name ILIKE '%holdfast%'")?;
    let library = bench.arena.cluster(contender)?.postgres().module_dir().join("holdfast.so");
    let bytes = fs::metadata(&library).with_context(|| library.display().to_string())?.len();
    Ok(vec![shared as f64 / 1_024.0, bytes as f64 / 1_024.0])
}

/// A call of owner_of() as the applications' routers make it, without the way to the server.
pub fn owner_of(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    const CALLS: u32 = 50_000;
    let mut session = bench.arena.session(contender)?;
    let time = |session: &mut Session, expression: &str| -> Result<f64> {
        let start = Instant::now();
        session.exec(&format!("SELECT count({expression}) FROM generate_series(1, {CALLS}) n"))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let without = time(&mut session, "(n % 10)::text")?;
    let with = time(&mut session, "holdfast.owner_of((n % 10)::text)")?;
    Ok(vec![(with - without) / f64::from(CALLS) * 1e6])
}
