//! The end: what the clients felt, and the verdict over the rows.

use anyhow::{Result, bail};

use super::check::{Finding, judge};
use super::evidence::Evidence;
use super::screen::{Screen, ms};
use super::stage::Stage;
use super::traffic::Traffic;

/// The latencies of the acts, side by side.
pub fn felt(screen: &Screen, traffic: &Traffic) {
    screen.act("What the clients felt: from a request to its commit, holds, reroutes and retries included.");
    screen.say("                  writes/s        p50        p99        max");
    for stretch in traffic.meter.take_stretches() {
        // Too short to say anything.
        if stretch.latency.count() < 100 {
            continue;
        }
        screen.say(&format!(
            "{:<16} {:>9.0} {:>10} {:>10} {:>10}",
            stretch.name,
            stretch.latency.count() as f64 / stretch.lasted.as_secs_f64(),
            ms(stretch.latency.quantile(0.5)),
            ms(stretch.latency.quantile(0.99)),
            ms(stretch.latency.max())
        ));
    }
    let (asked, heard) = traffic.router.counts();
    screen.say(&format!(
        "Router: {asked} questions to owner_of, {heard} notifications heard, {} requests rerouted.",
        traffic.meter.totals().rerouted
    ));
    for (sqlstate, times) in traffic.meter.retries() {
        let why = match sqlstate.as_str() {
            "40001" => "the application's own REPEATABLE READ",
            "40P01" => "a deadlock",
            _ => "a lock not had in time",
        };
        screen.say(&format!("Retried after {sqlstate}, {why}: {times} times."));
    }
}

/// Compares what stands in the database with what the clients were told. An error if any claim is false.
pub fn examine(screen: &Screen, stage: &Stage, traffic: Traffic) -> Result<()> {
    screen.act("The check. It reads rows and the clients' own record, and compares no clock.");
    let evidence = Evidence::read(&mut *stage.admin()?)?;
    let (told, refusals) = traffic.ledger.close();
    let mut findings = judge(&evidence, &told, &refusals);
    findings.push(Finding {
        claim: "the server log tells of no crash",
        examined: "whole log".to_owned(),
        contradictions: stage.cluster.crashes(0)?,
    });
    for finding in &findings {
        screen.verdict(finding.holds(), finding.claim, &finding.examined);
        for contradiction in &finding.contradictions {
            screen.block(contradiction);
        }
    }
    let wrong = findings.iter().filter(|finding| !finding.holds()).count();
    if wrong > 0 {
        bail!("{wrong} of {} claims are false", findings.len());
    }
    screen.say(&format!(
        "All {} claims hold: {} writes, {} cutovers, {} refusals; every write by its tenant's owner, none lost.",
        findings.len(),
        evidence.operations.len(),
        evidence.marks.len(),
        refusals.values().sum::<i64>()
    ));
    Ok(())
}
