//! The demo's acts: each says in a line what is done, does it under traffic, and shows what was seen.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use crate::client::{Refusal, Session};

use super::backend::Backend;
use super::driver::{Driver, HandOver};
use super::ledger::Outcome;
use super::meter::Durations;
use super::operation::{Kind, Worker};
use super::screen::{Screen, ms};
use super::stage::Stage;
use super::traffic::Traffic;

/// Requests under way at any time.
const USERS: usize = 8;

/// Writes that the rebuilt backend's broken router sends, in observe mode and again in enforce mode.
const MISDIRECTED: usize = 80;

/// Tenants that the wave moves, at most.
const WAVE: usize = 500;

/// Traffic follows the wave: half of it is for tenants that were moved just now or are about to be.
const AROUND: RangeInclusive<usize> = 4..=8;

/// Which tenant has which part.
pub struct Casting {
    canaries: [i32; 3],
    wave: Vec<i32>,
    stays: Vec<i32>,
}

impl Casting {
    /// Deals out the parts.
    pub fn of(tenants: i32, random: &mut Rng) -> Casting {
        let mut all: Vec<i32> = (1..=tenants).collect();
        random.shuffle(&mut all);
        let wave = all.split_off(3);
        let mut casting = Casting { canaries: [all[0], all[1], all[2]], wave, stays: Vec::new() };
        casting.stays = casting.wave.split_off(WAVE.min(casting.wave.len() / 2));
        casting
    }
}

/// Everything the acts need.
pub struct Play<'a> {
    /// The cluster.
    pub stage: &'a Stage,
    /// The traffic, whose workers run already.
    pub traffic: &'a Traffic,
    /// The watcher's terminal.
    pub screen: &'a Screen,
    /// The operator's session for policy.
    pub operator: Session,
    /// The operator's session for cutovers.
    pub driver: Driver,
    /// A session of the rebuilt backend that pays no heed to the router.
    pub stray: Worker,
    /// Somebody at psql, as the rebuilt backend's role.
    pub visitor: Session,
    /// Who has which part.
    pub casting: Casting,
    /// Draws what isn't drawn by the workers.
    pub random: Rng,
}

impl Play<'_> {
    /// All acts, in order.
    pub fn perform(&mut self) -> Result<()> {
        self.legacy_alone()?;
        self.observe()?;
        self.enforce()?;
        self.refusals()?;
        self.canaries()?;
        self.busy_tenant()?;
        self.wave()?;
        self.rollback()?;
        self.audit()
    }

    fn legacy_alone(&mut self) -> Result<()> {
        self.screen.act("Traffic on the legacy backend. Every tenant is its own; the guard observes.");
        self.traffic.open(USERS, &mut self.random)?;
        self.watch(7)?;
        self.traffic.meter.begin("observe mode")
    }

    fn observe(&mut self) -> Result<()> {
        self.screen.act("Observe mode. The rebuilt backend starts, and does several things wrong.");
        let outcomes = self.misdirect()?;
        let passed = count(&outcomes, |outcome| *outcome == Outcome::Committed);
        self.screen.say(&format!(
            "It wrote to {MISDIRECTED} tenants that it doesn't own ({passed} commits), \
             changed every plan, emptied a table:"
        ));
        for sql in [
            "BEGIN; UPDATE plans SET monthly_price = monthly_price * 1.1; ROLLBACK",
            "BEGIN; TRUNCATE documents; ROLLBACK",
        ] {
            self.screen.typed("rebuilt_app=>", sql);
            self.visitor.exec(sql).context("observe mode lets everything pass")?;
        }
        self.watch(2)?;
        self.operator.exec("SELECT holdfast.flush_events()")?;
        self.screen.say("All of it passed, and all of it was recorded. What enforce mode would have refused:");
        self.show(SUMMARY)?;
        ensure!(passed * 10 >= MISDIRECTED * 9, "observe mode let only {passed} of {MISDIRECTED} writes pass");
        self.screen.say("One entry is the policy's fault, not the application's: the write surface forgot a table.");
        self.policy("SELECT holdfast.allow_writes('rebuilt', 'notification_preferences', '{insert,update}')")
    }

    fn enforce(&mut self) -> Result<()> {
        self.screen.act("Enforce mode. The same mistakes again, while legacy works on.");
        self.policy("SELECT holdfast.set_mode('enforce')")?;
        self.traffic.meter.begin("enforce mode")?;
        let outcomes = self.misdirect()?;
        let refused = count(&outcomes, |outcome| matches!(outcome, Outcome::Refused(_)));
        self.screen.say(&format!("Of {MISDIRECTED} writes to tenants of legacy {refused} were refused."));
        ensure!(refused == MISDIRECTED, "enforce mode let writes pass: {outcomes:?}");
        self.watch(6)
    }

    fn refusals(&mut self) -> Result<()> {
        self.screen.act("What the rebuilt backend's developer sees. (It has every table privilege.)");
        let tenant = self.casting.stays[0];
        let update = format!("UPDATE properties SET asking_price = 1 WHERE brokerage_id = {tenant}");
        self.must_refuse("WG001", &update, Some(tenant))?;
        self.must_refuse("WG016", "TRUNCATE messages", None)?;
        self.must_refuse("WG015", "UPDATE valuations SET high = high * 1.1", None)?;
        self.must_refuse("WG011", "UPDATE feature_flags SET enabled = true WHERE name = 'new_inbox'", None)?;
        let read = "SELECT count(*) FROM messages WHERE operation_id IS NULL";
        self.screen.typed("rebuilt_app=>", read);
        let messages: i64 = self.visitor.one(read)?;
        self.screen.block(&format!("{messages}    -- reads are never refused"));
        Ok(())
    }

    fn canaries(&mut self) -> Result<()> {
        let canaries = self.casting.canaries;
        self.screen.act("Three canaries move to the rebuilt backend while half of the traffic is for them.");
        self.traffic.aim_at(&canaries);
        self.watch(3)?;
        self.traffic.meter.begin("canaries move")?;
        for tenant in canaries {
            let handed = self.driver.cut_over(tenant, Backend::Rebuilt)?;
            self.told(&format!("cutover('{tenant}', 'rebuilt')"), &handed);
            self.watch(3)?;
        }
        self.screen.say("The former owner, should it still try:");
        let mut former = self.stage.login(Backend::Legacy.role(), "psql")?;
        let sql = format!("UPDATE agents SET name = 'Nobody' WHERE brokerage_id = {}", canaries[0]);
        self.screen.typed("legacy_app=>", &sql);
        let refusal = former.refused(&sql)?;
        self.screen.refusal(&refusal);
        self.received(Backend::Legacy, &refusal, "WG001", Some(canaries[0]))
    }

    fn busy_tenant(&mut self) -> Result<()> {
        self.screen.act("A cutover that can't have its tenant: somebody left a transaction open.");
        let tenant = self.casting.wave[0];
        self.traffic.aim_at(&[tenant]);
        self.traffic.meter.begin("tenant held")?;
        let mut nightly = self.stage.login(Backend::Legacy.role(), "nightly-report")?;
        nightly.exec(&format!("BEGIN; UPDATE agents SET name = name WHERE brokerage_id = {tenant}"))?;
        let sql = format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', max_pause => '300 ms')");
        self.screen.typed("operator=>", &sql);
        let refusal = self.operator.refused(&sql)?;
        self.screen.refusal(&refusal);
        ensure!(refusal.code == "55P03", "the cutover failed otherwise: {refusal:?}");
        nightly.exec("ROLLBACK")?;
        let owner: String = self.operator.one(&format!("SELECT holdfast.owner_of('{tenant}')"))?;
        ensure!(owner == Backend::Legacy.name(), "the failed cutover changed the owner to {owner}");
        self.screen.say("The owner is the same as before; writers of that tenant were held, then went on.");
        self.watch(1)?;
        self.traffic.meter.begin("between")
    }

    fn wave(&mut self) -> Result<()> {
        let wave = std::mem::take(&mut self.casting.wave);
        self.screen
            .act(&format!("{} tenants move, one transaction each, and the traffic is where the wave is.", wave.len()));
        self.traffic.meter.begin("wave")?;
        let gauge = self.screen.gauge(wave.len());
        let (mut paused, mut took) = (Durations::new()?, Durations::new()?);
        let before = self.traffic.meter.totals();
        let started = Instant::now();
        for (place, tenant) in wave.iter().enumerate() {
            let from = place.saturating_sub(*AROUND.start());
            let to = wave.len().min(place + *AROUND.end());
            self.traffic.aim_at(&wave[from..to]);
            let handed = self.driver.cut_over(*tenant, Backend::Rebuilt)?;
            paused.add(handed.paused);
            took.add(handed.took);
            ensure!(!self.traffic.has_failed(), "the traffic stopped");
            if let Some(gauge) = &gauge {
                gauge.inc(1);
                gauge.set_message(format!("pause of this one: {}", ms(handed.paused)));
            }
        }
        let lasted = started.elapsed().as_secs_f64();
        if let Some(gauge) = gauge {
            gauge.finish_and_clear();
        }
        let rerouted = self.traffic.meter.totals().rerouted - before.rerouted;
        self.traffic.meter.begin("after the wave")?;
        self.screen.say(&format!(
            "{} cutovers in {lasted:.1} s: {:.0} a second beside the traffic.",
            took.count(),
            took.count() as f64 / lasted
        ));
        for (what, durations) in [("pause of a tenant's writers", &paused), ("whole transaction", &took)] {
            self.screen.say(&format!(
                "{what:<28} p50 {:>9}   p99 {:>9}   max {:>9}",
                ms(durations.quantile(0.5)),
                ms(durations.quantile(0.99)),
                ms(durations.max())
            ));
        }
        self.screen.say(&format!("{rerouted} requests came to the former owner and were served by the new one."));
        self.traffic.aim_at(&wave);
        self.watch(6)
    }

    fn rollback(&mut self) -> Result<()> {
        let tenant = self.casting.canaries[0];
        self.screen.act("A canary goes back to legacy, as easily as it came.");
        self.traffic.aim_at(&self.casting.canaries);
        self.traffic.meter.begin("rollback")?;
        self.watch(3)?;
        let handed = self.driver.roll_back(tenant)?;
        self.told(&format!("rollback_cutover('{tenant}')"), &handed);
        self.watch(4)?;
        self.traffic.meter.begin("end")
    }

    fn audit(&mut self) -> Result<()> {
        self.screen.act("What the audit trail says.");
        self.operator.exec("SELECT holdfast.flush_events()")?;
        self.show(SUMMARY)?;
        self.show("SELECT item, value FROM holdfast.status")
    }

    /// Writes by the rebuilt backend to tenants of legacy, one each.
    fn misdirect(&mut self) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for place in 0..MISDIRECTED {
            let tenant = self.casting.stays[place % self.casting.stays.len()];
            let kind = Kind::draw(&mut self.random);
            let outcome = self.traffic.perform(&mut self.stray, tenant, kind, &mut self.random, true);
            if let Outcome::Failed(error) | Outcome::Unknown(error) = &outcome {
                anyhow::bail!("a misdirected write failed: {error}");
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn must_refuse(&mut self, sqlstate: &str, sql: &str, tenant: Option<i32>) -> Result<()> {
        self.screen.typed("rebuilt_app=>", sql);
        let refusal = self.visitor.refused(sql)?;
        self.screen.refusal(&refusal);
        self.received(Backend::Rebuilt, &refusal, sqlstate, tenant)
    }

    /// Notes a refusal that a client received; it must be the expected one and say what to do next.
    fn received(&self, backend: Backend, refusal: &Refusal, sqlstate: &str, tenant: Option<i32>) -> Result<()> {
        let rule = refusal.constraint.as_deref().unwrap_or_default();
        self.traffic.ledger.note_refusal(backend, rule, tenant);
        ensure!(refusal.code == sqlstate, "expected {sqlstate}, but: {refusal:?}");
        ensure!(refusal.detail.is_some() && refusal.hint.is_some(), "DETAIL or HINT is missing: {refusal:?}");
        Ok(())
    }

    fn policy(&mut self, sql: &str) -> Result<()> {
        self.screen.typed("operator=>", sql);
        self.operator.exec(sql)
    }

    fn told(&self, call: &str, handed: &HandOver) {
        self.screen.say(&format!("{call}: writers paused for {}, {} in all", ms(handed.paused), ms(handed.took)));
    }

    fn show(&self, sql: &str) -> Result<()> {
        self.screen.typed("operator=>", sql);
        let table = self.stage.psql(&format!("\\pset footer off\n{sql};"))?;
        self.screen.block(&table);
        Ok(())
    }

    fn watch(&self, seconds: u64) -> Result<()> {
        self.screen.watch(self.traffic, Duration::from_secs(seconds))
    }
}

const SUMMARY: &str = "\
SELECT backend, rule, outcome, sum(occurrences) AS times, count(DISTINCT tenant) AS tenants,
       CASE count(DISTINCT relation::text) WHEN 1 THEN min(relation::text)
            ELSE count(DISTINCT relation::text) || ' tables' END AS relation
FROM holdfast.blocked_summary GROUP BY backend, rule, outcome ORDER BY outcome, backend, rule";

fn count(outcomes: &[Outcome], wanted: impl Fn(&Outcome) -> bool) -> usize {
    outcomes.iter().filter(|outcome| wanted(outcome)).count()
}
