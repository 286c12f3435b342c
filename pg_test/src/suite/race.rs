//! Eight writers, four a backend, on one tenant that is cut over to and fro all the while.
//!
//! The verdict ([`verdict`]) reads the rows: every transaction takes the next number of the tenant's counter, so the
//! tenant's commits have one order, and every cutover notes, in its own transaction, how far the counter has come.

mod baton;
mod verdict;
mod writer;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::baton::Baton;
use self::writer::{Tally, Writer};
use super::Test;
use super::two_backends::TwoBackends;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

/// Cutovers that commit.
const CUTOVERS: u64 = 1_000;
/// Writers of each backend.
const WRITERS: u64 = 4;
/// Rows that the writers fight for besides the counter.
const SLOTS: i32 = 3;
/// The tenant.
const TENANT: i32 = 7;

/// The race.
pub fn tests() -> Vec<Test> {
    vec![Test::own("only_the_owner_commits_while_a_hot_tenant_is_cut_over", ClusterOptions::new(), race)]
}

fn race(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "race")?;
    prepare(&stage)?;
    let baton = Baton::new();
    let mut writers = Vec::new();
    for number in 0..WRITERS * 2 {
        let backend = if number % 2 == 0 { "legacy" } else { "rebuilt" };
        let role = stage.role(backend);
        let session = stage.database.session().role(role).option("plan_cache_mode", "force_generic_plan").connect()?;
        let writer = Writer::new(number, backend, stage.database.name.clone(), baton.clone());
        writers.push(session.start_with("a writer of the race", move |session| writer.run(session)));
    }

    let start = Instant::now();
    let driven = cut_over_to_and_fro(&mut stage.operator()?, &baton);
    let took = start.elapsed();
    baton.end();
    let mut tally = Tally::default();
    for writer in writers {
        tally.add(writer.finish()?.1?);
    }
    let pauses = driven?;
    println!("    {CUTOVERS} cutovers and {} commits of 8 writers in {took:.1?}", tally.committed.len());
    println!("    paused: {}", percentiles(pauses));
    println!("    a transaction, waits included: {}", percentiles(std::mem::take(&mut tally.latencies)));
    println!("    held by a cutover and then committed: {}", percentiles(std::mem::take(&mut tally.held)));
    println!("    refused {}, serialization failures {}; {:?}", tally.refused, tally.conflicts, tally.by_kind);
    verdict::judge(&stage, &tally)
}

fn prepare(stage: &TwoBackends) -> Result<()> {
    stage.operator()?.exec(&format!(
        "CREATE TABLE counter (tenant int PRIMARY KEY, n bigint NOT NULL);
         CREATE TABLE slot (tenant int, slot int, hits bigint NOT NULL, PRIMARY KEY (tenant, slot));
         CREATE TABLE operation (id bigint PRIMARY KEY, tenant int NOT NULL, sequence bigint NOT NULL,
             written_by name NOT NULL DEFAULT session_user);
         CREATE TABLE part (operation bigint, n int, tenant int NOT NULL,
             written_by name NOT NULL DEFAULT session_user, PRIMARY KEY (operation, n));
         CREATE TABLE mark (epoch bigint PRIMARY KEY, sequence bigint NOT NULL, owner text NOT NULL);
         INSERT INTO counter VALUES ({TENANT}, 0);
         INSERT INTO slot SELECT {TENANT}, slot, 0 FROM generate_series(1, {SLOTS}) AS slot;
         SELECT holdfast.guard_table(t, 'tenant'), holdfast.allow_writes('rebuilt', t)
         FROM unnest('{{counter,slot,operation,part}}'::regclass[]) AS t;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {}, {};

         CREATE FUNCTION write_in_block(op bigint, hot int) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             BEGIN
                 INSERT INTO operation (id, tenant, sequence) VALUES (-op, {TENANT}, 0);
                 RAISE 'not this one';
             EXCEPTION WHEN raise_exception THEN NULL;
             END;
             UPDATE slot SET hits = hits + 1 WHERE tenant = {TENANT} AND slot = hot;
             WITH next AS (UPDATE counter SET n = n + 1 WHERE tenant = {TENANT} RETURNING n)
             INSERT INTO operation (id, tenant, sequence) SELECT op, {TENANT}, n FROM next;
         END $$",
        stage.role("legacy"),
        stage.role("rebuilt"),
    ))
}

/// Cuts the tenant over, and now and then takes it back within the transaction. Gives the pauses.
fn cut_over_to_and_fro(operator: &mut Session, baton: &Baton) -> Result<Vec<Duration>> {
    let (mut owner, mut other) = ("legacy", "rebuilt");
    let mut pauses = Vec::new();
    for epoch in 1..=CUTOVERS {
        // A cutover now and then follows the one before at once; mostly the owner gets a few writes done.
        baton.wait_for_commits(owner, epoch % 4)?;
        if epoch % 7 == 0 {
            baton.advance();
            operator.exec(&format!("BEGIN; SELECT holdfast.cutover('{TENANT}', '{other}', '10 s'); ROLLBACK"))?;
            baton.advance();
            baton.wait_for_commits(owner, 1)?;
        }
        baton.advance();
        let mut transaction = operator.transaction()?;
        // The way back is a rollback as often as another cutover.
        let call = if epoch % 4 == 2 {
            format!("holdfast.rollback_cutover('{TENANT}')")
        } else {
            format!("holdfast.cutover('{TENANT}', '{other}', '10 s')")
        };
        let sql = format!("SELECT epoch, (extract(epoch FROM paused) * 1000000)::int8 FROM {call}");
        let row = transaction.query_one(&sql, &[]).with_context(|| format!("cutover {epoch}"))?;
        ensure!(row.try_get::<_, i64>(0)? == i64::try_from(epoch)?, "an epoch was skipped");
        pauses.push(Duration::from_micros(row.try_get::<_, i64>(1)?.try_into()?));
        transaction.execute(
            &format!("INSERT INTO mark SELECT $1, n, $2 FROM counter WHERE tenant = {TENANT}"),
            &[&i64::try_from(epoch)?, &other],
        )?;
        transaction.commit()?;
        (owner, other) = (other, owner);
        baton.advance();
    }
    Ok(pauses)
}

fn percentiles(mut durations: Vec<Duration>) -> String {
    durations.sort_unstable();
    let Some(max) = durations.last() else { return "none".to_owned() };
    let at = |percent: usize| durations[durations.len() * percent / 100];
    format!("p50 {:.1?}, p99 {:.1?}, max {max:.1?} of {}", at(50), at(99), durations.len())
}
