//! `report_html()`: a page that tells where the migration stands, whatever users have called things.

mod browser;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use scraper::{Html, Selector};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::scene::in_break_glass;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("before_anything_has_happened", before_anything),
        Test::shared("it_tells_what_has_happened", tells_what_has_happened),
        Test::own("hostile_texts_are_harmless", ClusterOptions::new(), hostile_texts),
        Test::shared("it_stays_a_page_however_much_there_is", stays_a_page),
        Test::shared("auditors_read_it_and_nobody_else", auditors_read_it),
        Test::own("it_looks_right_in_a_browser", ClusterOptions::new(), looks_right).needs_program(browser::PROGRAM),
    ]
}

/// What names, keys and reasons may be.
const HOSTILE: [&str; 6] = [
    "</title></style><script>document.title = 'taken'</script>",
    "\" onmouseover=\"alert(1)\" x='",
    "{{ 7 * 7 }} &lt;b&gt; <!-- <![CDATA[ ]]> -->",
    "\u{202e}txt.exe \u{200f}\u{2067}עברית",
    "\u{1}\u{1b}[31m\u{7f}\u{85}\u{fffe}\r\n\tend",
    "a'b\"c\\d%s$1",
];

/// What a role may be called.
const ROLE: &str = "ro'le \"<b>\u{202e}é%s\\";

fn page(session: &mut Session) -> Result<String> {
    session.exec("SELECT holdfast.flush_events()")?;
    session.one("SELECT holdfast.report_html()")
}

/// The page, if a parser has nothing to say against it, and nothing in it is or does more than text.
fn parsed(page: &str) -> Result<Html> {
    let html = Html::parse_document(page);
    ensure!(html.errors.is_empty(), "{:?}", html.errors);
    let elements: BTreeSet<&str> = html.root_element().descendent_elements().map(|e| e.value().name()).collect();
    for active in ["script", "iframe", "object", "embed", "img", "form", "base", "foreignObject", "use", "image"] {
        ensure!(!elements.contains(active), "<{active}>");
    }
    for element in html.root_element().descendent_elements() {
        for (name, value) in element.value().attrs() {
            ensure!(!name.starts_with("on"), "{name}={value}");
            let leads_away = matches!(name, "src" | "href" | "xlink:href" | "action") && !value.starts_with("data:");
            ensure!(!leads_away && !value.contains("url("), "{name}={value}");
        }
    }
    Ok(html)
}

/// The text of what a selector finds, white space as one space.
fn texts(html: &Html, selector: &str) -> Result<Vec<String>> {
    let selector = Selector::parse(selector).map_err(|error| anyhow::anyhow!("{error}"))?;
    let text = |element: scraper::ElementRef| element.text().collect::<Vec<_>>().join(" ");
    Ok(html.select(&selector).map(|e| text(e).split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

fn before_anything(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("report")?;
    let html = parsed(&page(&mut database.connect()?)?)?;
    let told = texts(&html, "main")?.concat();
    for sentence in ["No migration has begun", "No tenant has been handed over yet", "Nothing was refused"] {
        ensure!(told.contains(sentence), "{told}");
    }
    ensure!(texts(&html, "svg")?.is_empty());
    Ok(())
}

fn tells_what_has_happened(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "report")?;
    let mut dba = guarded.database.connect()?;
    for tenant in 10..25 {
        dba.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt')"))?;
    }
    dba.exec("SELECT holdfast.rollback_cutover('10')")?;
    dba.exec("SELECT holdfast.freeze('11', 'audit')")?;
    dba.exec("SELECT holdfast.set_mode('off', 'legacy', 'cascade'); CREATE TABLE forgotten (id int)")?;
    let mut rebuilt = guarded.rebuilt()?;
    for _ in 0..3 {
        rebuilt.refused(FOREIGN_WRITE)?;
    }
    let html = parsed(&page(&mut dba)?)?;
    let cards = texts(&html, ".cards > div")?;
    let has = |rows: &[String], wanted: &str| rows.iter().any(|row| row.contains(wanted));
    for wanted in [
        "Phase shared",
        "Mode enforce but for exceptions: 1",
        "30 days left",
        "Tenants moved 15 away from legacy",
        "Refused 3",
    ] {
        ensure!(has(&cards, wanted), "{wanted}: {cards:#?}");
    }
    let rows = texts(&html, "tr")?;
    for wanted in [
        "legacy cascade off",
        "rebuilt unproven 15 1",
        "not_owner 3 0 0",
        "rebuilt not_owner public.orders 3",
        "forgotten unclassified not classified",
    ] {
        ensure!(has(&rows, wanted), "{wanted}: {rows:#?}");
    }
    ensure!(
        rows.iter().any(|row| row.ends_with(
            "mode added legacy, cascade {\"mode\": \"off\", \"rule\": \"cascade\", \"backend\": \"legacy\"}"
        )),
        "{rows:#?}"
    );
    // Every figure has words, and a table beside it.
    let figures = texts(&html, "figure")?.len();
    ensure!(figures == 2 && texts(&html, "figure [role=img][aria-label]")?.len() == figures);
    ensure!(texts(&html, ".beside table caption")?.len() == figures);
    ensure!(texts(&html, "table")?.len() == texts(&html, "table > caption")?.len());
    Ok(())
}

/// Backends, roles, tables, tenants, reasons and application names with such names, all of them on the page.
fn make_hostile(cluster: &Cluster) -> Result<Guarded> {
    let guarded = Guarded::enforcing(cluster, "report")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("CREATE TABLE docs (tenant text, note text); SELECT holdfast.guard_table('docs', 'tenant')")?;
    dba.exec(&format!("GRANT ALL ON docs TO {}; SELECT holdfast.allow_writes('rebuilt', 'docs')", guarded.rebuilt))?;
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let identifier = |text: &str| format!("\"{}\"", text.replace('"', "\"\"").chars().take(30).collect::<String>());
    for text in HOSTILE {
        dba.exec(&format!("SELECT pg_catalog.set_config('application_name', {}, false)", quoted(text)))?;
        dba.exec(&format!("SELECT holdfast.add_backend({}, 'proven')", quoted(text)))?;
        dba.exec(&format!("SELECT holdfast.cutover({0}, {0})", quoted(text)))?;
        dba.exec(&format!("SELECT holdfast.freeze({0}, {0})", quoted(&format!("2{text}"))))?;
        dba.exec(&format!("CREATE TABLE {} (id int)", identifier(text)))?;
        let mut client = guarded.database.session().role(&guarded.rebuilt).connect()?;
        client.exec(&format!("SELECT pg_catalog.set_config('application_name', {}, false)", quoted(text)))?;
        client
            .refused(&format!("INSERT INTO docs /* {text} */ VALUES ({}, 'x')", quoted(text)).replace("*/ */", "*/"))?;
    }
    let role = ROLE.replace('"', "\"\"");
    dba.exec(&format!("CREATE ROLE \"{role}\" LOGIN; GRANT ALL ON docs TO \"{role}\""))?;
    dba.execute("SELECT holdfast.add_identity('rebuilt', role => $1)", &[&ROLE])?;
    guarded.database.connect_as(ROLE)?.refused("INSERT INTO docs VALUES ('of legacy')")?;
    let long = "<b>".repeat(300_000);
    dba.exec("SELECT holdfast.freeze('long', 'x')")?;
    let by_hand = format!("UPDATE holdfast.ownership SET freeze_reason = '{long}' WHERE tenant = 'long'");
    dba.exec(&in_break_glass(&by_hand))?;
    Ok(guarded)
}

fn hostile_texts(cluster: &mut Cluster) -> Result<()> {
    let guarded = make_hostile(cluster)?;
    let mut dba = guarded.database.connect()?;
    let page = page(&mut dba)?;
    let html = parsed(&page)?;
    ensure!(page.len() < 100_000, "{} bytes", page.len());
    let isolated = texts(&html, "bdi")?.join("\n");
    for text in [
        "</style><script>document.title",
        "\" onmouseover=\"alert(1)\" x='",
        "{{ 7 * 7 }} &lt;b&gt; <!-- <![CDATA[ ]]> -->",
        "\u{202e}txt.exe",
        "␁␛[31m␡",
        "a'b\"c\\d%s$1",
    ] {
        ensure!(isolated.contains(text), "{text:?} isn't told: {isolated}");
    }
    // The views give everything back as it was.
    for text in HOSTILE {
        let row = dba.query_one(
            "SELECT (SELECT count(*) FROM holdfast.tenants WHERE tenant = $1),
                (SELECT count(*) FROM holdfast.ownership_history WHERE tenant = $1 AND to_backend = $1),
                (SELECT count(*) FROM holdfast.backends WHERE backend = $1),
                (SELECT count(*) FROM holdfast.policy_log WHERE object = $1 AND what = 'backend added'
                    AND new ->> 'backend' = $1),
                (SELECT count(*) FROM holdfast.policy_log WHERE new ->> 'reason' = '2' || $1),
                (SELECT count(*) FROM holdfast.blocked_writes WHERE tenant = $1 AND message LIKE '%tenant%')",
            &[&text],
        )?;
        let counts: Vec<i64> = (0..6).map(|n| row.try_get(n)).collect::<Result<_, _>>()?;
        ensure!(counts == [1; 6], "{text:?}: {counts:?}");
    }
    let row = dba.query_one(
        "SELECT (SELECT count(*) FROM holdfast.blocked_writes WHERE usename = $1 AND tenant = 'of legacy'),
            (SELECT count(*) FROM holdfast.identities WHERE role::text = $1)",
        &[&ROLE],
    )?;
    let counts: Vec<i64> = (0..2).map(|n| row.try_get(n)).collect::<Result<_, _>>()?;
    ensure!(counts == [1; 2], "the role: {counts:?}");
    let metrics: String = dba.one("SELECT holdfast.metrics()")?;
    let strange = metrics.lines().find(|line| !line.starts_with("holdfast_") && !line.starts_with("# "));
    ensure!(strange.is_none(), "{strange:?}");
    let names: String = dba.one(
        "SELECT string_agg(DISTINCT application_name, '') FROM holdfast.blocked_writes WHERE application_name ~ '[^ -~]'",
    ).unwrap_or_default();
    ensure!(names.is_empty(), "Postgres lets application_name be ASCII only, but {names:?}");
    Ok(())
}

fn stays_a_page(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "report")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(
        "DO $$ BEGIN
             FOR n IN 1..300 LOOP EXECUTE format('CREATE TABLE unclassified_%s (id int)', n); END LOOP;
         END $$",
    )?;
    dba.exec(
        "BEGIN; SELECT holdfast.break_glass('many', scope => 'transaction');
         INSERT INTO holdfast.backend SELECT 'backend ' || n, 'proven' FROM generate_series(1, 50) n;
         INSERT INTO holdfast.ownership (tenant, owner, epoch, changed_at, changed_by)
             SELECT 'tenant ' || n, 'backend ' || n % 50 + 1, 1, now(), 'x' FROM generate_series(1, 5000) n;
         INSERT INTO holdfast.ownership_change (at, tenant, action, from_backend, to_backend, epoch, changed_by)
             SELECT now() - interval '1 minute' * n, 'tenant ' || n, 'cutover', 'legacy', 'backend 1', 1, 'x'
             FROM generate_series(1, 5000) n;
         COMMIT",
    )?;
    let page = page(&mut dba)?;
    let html = parsed(&page)?;
    ensure!(page.len() < 60_000, "{} bytes", page.len());
    let more = texts(&html, ".more")?;
    for wanted in ["… and 39 more", "… and 280 more"] {
        ensure!(more.iter().any(|line| line == wanted), "{wanted}: {more:?}");
    }
    Ok(())
}

fn auditors_read_it(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "report")?;
    let auditor = guarded.database.role("auditor")?;
    guarded.database.connect()?.exec(&format!("SELECT holdfast.grant_auditor('{auditor}')"))?;
    parsed(&page(&mut guarded.database.connect_as(&auditor)?)?)?;
    for mut session in [guarded.rebuilt()?, guarded.legacy()?] {
        ensure!(session.refused("SELECT holdfast.report_html()")?.code == "42501");
    }
    Ok(())
}

fn looks_right(cluster: &mut Cluster) -> Result<()> {
    let guarded = make_hostile(cluster)?;
    let mut dba = guarded.database.connect()?;
    let folder = cluster.postgres().folder("browser")?;
    let empty = cluster.guarded_database("report")?;
    for (name, page) in [("report", page(&mut dba)?), ("empty", page(&mut empty.connect()?)?)] {
        browser::ensure_fits(&folder, name, &page)?;
    }
    Ok(())
}
