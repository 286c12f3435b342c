//! Transaction pooling with a real PgBouncer: who a client is never depends on who used its server connection before.
//!
//! Three set-ups: a pool for each role; one pool that all share, with a token in each transaction; one pool that all share,
//! where PgBouncer is told to track the claim `holdfast.backend`.

mod bouncer;
mod fleet;
mod mixed;

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use postgres::{Client, NoTls};

use self::bouncer::{Bouncer, Setup};
use super::Test;
use super::guarded::Guarded;
use super::tokens::Issuer;
use crate::cluster::{Cluster, ClusterOptions};
use crate::setup::Program;
use crate::setup::poolers::Release;

pub use mixed::benchmark;

/// Of poolers.
pub fn tests() -> Vec<Test> {
    let by = |release, name, run| Test::shared(name, run).needs_program(Program::PgBouncer(release));
    let own =
        |release, name, run| Test::own(name, ClusterOptions::new(), run).needs_program(Program::PgBouncer(release));
    let (bookworm, trixie) = (Release::Bookworm, Release::Trixie);
    vec![
        by(bookworm, "a_pool_a_role_passes_no_claim_on", a_pool_a_role),
        by(bookworm, "a_shared_pool_passes_no_token_on", tokens),
        by(trixie, "a_shared_pool_passes_no_tracked_claim_on", tracked),
        by(trixie, "a_tracked_claim_that_is_reset_is_none", tracked_and_reset),
        own(bookworm, "mixed_clients_write_what_is_theirs_with_a_pool_a_role", mixed::a_pool_a_role),
        own(bookworm, "mixed_clients_write_what_is_theirs_by_tokens", mixed::tokens),
        own(trixie, "mixed_clients_write_what_is_theirs_by_tracked_claims", mixed::tracked),
    ]
}

/// What the pooler does between two clients.
const RESETS: [&[&str]; 2] =
    [&["server_reset_query ="], &["server_reset_query = DISCARD ALL", "server_reset_query_always = 1"]];

/// The line that has PgBouncer follow the claim.
const TRACK: &str = "track_extra_parameters = holdfast.backend";

/// A claim that names no backend, which a session of the shared role begins with.
const UNCLAIMED: &str = "unclaimed";

/// How a client's transaction ends.
const ENDINGS: [Ending; 11] = [
    Ending::Sql("COMMIT"),
    Ending::Sql("ROLLBACK"),
    Ending::Sql("SAVEPOINT a; ROLLBACK TO a; COMMIT"),
    Ending::Sql("COMMIT AND CHAIN; COMMIT"),
    Ending::Sql("PREPARE TRANSACTION 'pooled'; ROLLBACK PREPARED 'pooled'"),
    Ending::Sql("COMMIT; DISCARD ALL"),
    Ending::Sql("COMMIT; RESET ALL"),
    Ending::Failure("SELECT 1/0"),
    Ending::Failure("SET LOCAL statement_timeout = '50ms'; SELECT pg_sleep(60)"),
    Ending::Cancelled,
    Ending::Disconnected,
];

#[derive(Clone, Copy, Debug)]
enum Ending {
    Sql(&'static str),
    Failure(&'static str),
    /// Its statement is cancelled.
    Cancelled,
    /// It goes away without a word.
    Disconnected,
}

impl Ending {
    fn happens_to(self, mut client: Client, release: Release, guarded: &Guarded) -> Result<()> {
        match self {
            Ending::Sql(sql) => sql.split("; ").try_for_each(|sql| client.batch_execute(sql)).context(sql)?,
            Ending::Failure(sql) => {
                ensure!(client.batch_execute(sql).is_err(), "no failure: {sql}");
                client.batch_execute("ROLLBACK")?;
            }
            Ending::Cancelled => {
                let canceller = canceller(&mut client, release, guarded)?;
                let ended = client.batch_execute("SELECT pg_sleep(60)");
                let code = ended.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
                ensure!(code.as_deref() == Some("57014"), "not cancelled: {code:?}");
                canceller.join().map_err(|_| anyhow!("the canceller panicked"))??;
                client.batch_execute("ROLLBACK")?;
            }
            Ending::Disconnected => drop(client),
        }
        Ok(())
    }
}

/// Cancels what the client does next: through the pooler, or by a DBA where that would kill it. PgBouncer 1.18 ends with "bad
/// client state" when whoever asks for a cancel doesn't wait for the answer, and our driver doesn't.
fn canceller(client: &mut Client, release: Release, guarded: &Guarded) -> Result<JoinHandle<Result<()>>> {
    let pause = Duration::from_millis(200);
    if release == Release::Bookworm {
        let pid = one(client, "SELECT pg_backend_pid()")?.unwrap_or_default();
        let mut dba = guarded.database.connect()?;
        return Ok(std::thread::spawn(move || {
            std::thread::sleep(pause);
            dba.exec(&format!("SELECT pg_cancel_backend({pid})"))
        }));
    }
    let token = client.cancel_token();
    Ok(std::thread::spawn(move || {
        std::thread::sleep(pause);
        Ok(token.cancel_query(NoTls)?)
    }))
}

/// Who a client is now, as far as Holdfast knows.
fn backend(client: &mut Client) -> Result<Option<String>> {
    one(client, "SELECT holdfast.current_backend()")
}

/// The single value of a query, by the simple protocol: what is prepared stays with a server connection.
fn one(client: &mut Client, sql: &str) -> Result<Option<String>> {
    for message in client.simple_query(sql)? {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).map(str::to_owned));
        }
    }
    bail!("no row: {sql}")
}

fn ensure_is(client: &mut Client, expected: Option<&str>, when: &str) -> Result<()> {
    let actual = backend(client)?;
    ensure!(actual.as_deref() == expected, "{when}: {actual:?} instead of {expected:?}");
    Ok(())
}

/// A pooler with one connection to the server for each pool.
fn pooler(cluster: &Cluster, guarded: &Guarded, release: Release, shared: bool, lines: &[&str]) -> Result<Bouncer> {
    let (legacy, rebuilt) = (guarded.legacy.to_string(), guarded.rebuilt.to_string());
    Bouncer::start(
        cluster,
        &Setup {
            release,
            database: guarded.database.name.clone(),
            shared: shared.then(|| legacy.clone()),
            roles: vec![legacy, rebuilt],
            pool_size: 1,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        },
    )
}

fn a_pool_a_role(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "pools")?;
    for reset in RESETS {
        let bouncer = pooler(cluster, &guarded, Release::Bookworm, false, reset)?;
        let [legacy, rebuilt] = [&guarded.legacy, &guarded.rebuilt].map(|role| role.to_string());
        let (mut old, mut new) = (bouncer.connect(&legacy)?, bouncer.connect(&rebuilt)?);
        for ending in ENDINGS {
            let mut client = bouncer.connect(&legacy)?;
            client.batch_execute("BEGIN; SET LOCAL holdfast.backend = 'rebuilt'")?;
            ensure_is(&mut client, Some("rebuilt"), "who claims so")?;
            ending.happens_to(client, Release::Bookworm, &guarded).with_context(|| bouncer.log())?;
            ensure_is(&mut old, Some("legacy"), &format!("after {ending:?}, with {reset:?}"))?;
            ensure_is(&mut new, Some("rebuilt"), &format!("after {ending:?}, with {reset:?}"))?;
        }
    }
    // A claim beyond the transaction stays with the connection where nothing resets it: README.md warns of it.
    let bouncer = pooler(cluster, &guarded, Release::Bookworm, false, RESETS[1])?;
    let role = guarded.legacy.to_string();
    bouncer.connect(&role)?.batch_execute("SET holdfast.backend = 'rebuilt'")?;
    ensure_is(&mut bouncer.connect(&role)?, Some("legacy"), "after DISCARD ALL")
}

fn tokens(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "pools")?;
    // Nobody is anybody without a token.
    guarded.database.connect()?.exec(&format!(
        "SELECT holdfast.drop_identity(id) FROM holdfast.identities WHERE role = '{}';
         SELECT holdfast.set_default_backend(NULL)",
        guarded.legacy
    ))?;
    let show = |backend: &'static str, seed| -> Result<String> {
        let issuer = Issuer::new(backend, seed);
        guarded.database.connect()?.exec(&issuer.registered_for(backend))?;
        let token = issuer.issues(&guarded.database.name, 600.0)?;
        Ok(format!("SELECT holdfast.identify('{token}')"))
    };
    let (legacy, rebuilt) = (show("legacy", 11)?, show("rebuilt", 12)?);
    let role = guarded.legacy.to_string();
    for reset in RESETS {
        let bouncer = pooler(cluster, &guarded, Release::Bookworm, true, reset)?;
        let (mut bare, mut other) = (bouncer.connect(&role)?, bouncer.connect(&role)?);
        for ending in ENDINGS {
            let mut client = bouncer.connect(&role)?;
            client.batch_execute(&format!("BEGIN; {rebuilt}"))?;
            ensure_is(&mut client, Some("rebuilt"), "by its token")?;
            let served = one(&mut client, "SELECT pg_backend_pid()")?;
            ending.happens_to(client, Release::Bookworm, &guarded).with_context(|| bouncer.log())?;
            let when = format!("after {ending:?}, with {reset:?}");
            ensure_is(&mut bare, None, &when)?;
            let write = bare.batch_execute("UPDATE orders SET note = 'x' WHERE tenant = 2");
            let code = write.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
            ensure!(code.as_deref() == Some("WG003"), "{when}: a write without a token: {code:?}");
            other.batch_execute(&format!("BEGIN; {legacy}"))?;
            ensure_is(&mut other, Some("legacy"), &when)?;
            other.batch_execute("COMMIT")?;
            // A connection that is left in mid-transaction is closed by the pooler.
            let same = one(&mut bare, "SELECT pg_backend_pid()")? == served;
            ensure!(same || matches!(ending, Ending::Disconnected), "{when}: another connection");
        }
    }
    Ok(())
}

/// As README.md says: who claims nothing is nobody.
fn tracking(cluster: &Cluster) -> Result<Guarded> {
    let guarded = Guarded::enforcing(cluster, "pools")?;
    let role = &guarded.legacy;
    guarded.database.connect()?.exec(&format!("ALTER ROLE {role} SET holdfast.backend = '{UNCLAIMED}'"))?;
    Ok(guarded)
}

fn claiming(bouncer: &Bouncer, role: &str, backend: &str) -> Result<Client> {
    let mut config = bouncer.config(role);
    config.options(&format!("-c holdfast.backend={backend}"));
    config.connect(NoTls).context("connecting with a claim")
}

fn tracked(cluster: &Cluster) -> Result<()> {
    let guarded = tracking(cluster)?;
    let role = guarded.legacy.to_string();
    for reset in RESETS {
        let lines: Vec<&str> = reset.iter().copied().chain([TRACK]).collect();
        let bouncer = pooler(cluster, &guarded, Release::Trixie, true, &lines)?;
        let (mut bare, mut other) = (bouncer.connect(&role)?, claiming(&bouncer, &role, "legacy")?);
        for ending in ENDINGS {
            let mut client = claiming(&bouncer, &role, "rebuilt")?;
            client.batch_execute("BEGIN")?;
            ensure_is(&mut client, Some("rebuilt"), "by its claim")?;
            ending.happens_to(client, Release::Trixie, &guarded).with_context(|| bouncer.log())?;
            let when = format!("after {ending:?}, with {reset:?}");
            ensure_is(&mut bare, None, &when)?;
            ensure_is(&mut other, Some("legacy"), &when)?;
        }
        // Whatever a client sets meanwhile is its own.
        let mut client = claiming(&bouncer, &role, "rebuilt")?;
        client.batch_execute("BEGIN; SET LOCAL holdfast.backend = 'legacy'; COMMIT")?;
        ensure_is(&mut other, Some("legacy"), "after SET LOCAL")?;
        ensure_is(&mut client, Some("rebuilt"), "after its own SET LOCAL")?;
    }
    Ok(())
}

fn tracked_and_reset(cluster: &Cluster) -> Result<()> {
    let guarded = tracking(cluster)?;
    let role = guarded.legacy.to_string();
    let bouncer = pooler(cluster, &guarded, Release::Trixie, true, &[RESETS[0][0], TRACK])?;
    for reset in ["DISCARD ALL", "RESET ALL", "RESET holdfast.backend"] {
        let mut client = claiming(&bouncer, &role, "rebuilt")?;
        client.batch_execute(reset)?;
        // Not what the other clients are, and nothing at all rather than legacy.
        ensure_is(&mut claiming(&bouncer, &role, "legacy")?, Some("legacy"), reset)?;
        ensure_is(&mut client, None, reset)?;
    }
    Ok(())
}
