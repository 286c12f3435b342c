//! Refusals as fast as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use postgres::NoTls;

use super::Bench;
use super::contender::Contender;

const SESSIONS: usize = 16;

/// How many writes each statement tries: the machine is to refuse, not to talk.
const TRIES: i32 = 50;

/// Writes of tenants that belong to nobody's session here, refused again and again by 16 sessions; all of them have to be on record
/// in the end.
pub fn flood(bench: &Bench, contender: Contender) -> Result<Vec<f64>> {
    let mut admin = bench.arena.admin(contender)?;
    admin.exec(
        "CREATE OR REPLACE FUNCTION try_to_write(tries int) RETURNS int LANGUAGE plpgsql AS $$
         DECLARE refused int := 0;
         BEGIN
             FOR n IN 1..tries LOOP
                 BEGIN
                     INSERT INTO items VALUES (-n, 1000000000, 0, 'not ours');
                 EXCEPTION WHEN SQLSTATE 'WG001' THEN
                     refused := refused + 1;
                 END;
             END LOOP;
             RETURN refused;
         END $$",
    )?;
    let counted = "SELECT coalesce(sum(occurrences), 0)::int8 FROM holdfast.blocked_writes";
    let before: i64 = admin.one(counted)?;
    let over = Arc::new(AtomicBool::new(false));
    let config = bench.arena.database(contender)?.session().role("app").config()?;
    let start = Instant::now();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (over, config) = (Arc::clone(&over), config.clone());
            std::thread::spawn(move || -> Result<i64> {
                let mut client = config.connect(NoTls)?;
                let mut told = 0;
                while !over.load(Ordering::Relaxed) {
                    let refused: i32 = client.query_one("SELECT try_to_write($1)", &[&TRIES])?.try_get(0)?;
                    ensure!(refused == TRIES, "{refused} of {TRIES} writes were refused");
                    told += i64::from(refused);
                }
                Ok(told)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(bench.course.seconds));
    over.store(true, Ordering::Relaxed);
    let mut told = 0;
    for session in sessions {
        told += session.join().map_err(|_| anyhow!("a client panicked"))??;
    }
    let took = start.elapsed();
    admin.exec("SELECT holdfast.flush_events()")?;
    let recorded = admin.one::<i64>(counted)? - before;
    ensure!(recorded == told, "{told} refusals, and {recorded} on record");
    Ok(vec![told as f64 / took.as_secs_f64()])
}
