//! Which backend a session belongs to, and that what it says of itself can only restrict it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Test;
use super::guarded::Guarded;
use super::scene::Outcome::{Passes, Refused};
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::database::Database;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("the_first_rule_by_priority_counts", first_rule_by_priority),
        Test::shared("application_name_patterns_are_like_patterns", like_patterns),
        Test::shared("claims_lower_trust_and_never_raise_it", claims_only_restrict),
        Test::shared("an_unknown_claim_leaves_no_backend", an_unknown_claim),
        Test::shared("who_becomes_unidentified_stays_bound", who_becomes_unidentified_stays_bound),
        Test::shared("the_claim_is_reported_to_the_client", the_claim_is_reported),
        Test::shared("the_default_backend_is_for_those_whom_no_rule_names", the_default_backend),
        Test::shared("a_superuser_in_another_role_is_bound_like_it", session_authorization),
        Test::shared("changed_rules_reach_open_sessions", changed_rules_reach_open_sessions),
        Test::shared("a_renamed_role_keeps_its_backend", a_renamed_role),
        Test::shared("a_recreated_role_gets_no_more_than_its_rule_and_the_default", a_recreated_role),
        Test::own("networks_are_told_apart", ClusterOptions::new().tcp(), networks),
    ]
}

const RULES: &str = "SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 9);
    SELECT holdfast.add_backend('mobile', 'unproven'); SELECT holdfast.add_backend('old', 'retired');
    SELECT holdfast.add_backend('batch', 'proven'); SELECT holdfast.set_mode('enforce')";

fn database(cluster: &Cluster) -> Result<Database> {
    let database = cluster.guarded_database("identity")?;
    for sql in RULES.split(';') {
        database.connect()?.exec(sql)?;
    }
    Ok(database)
}

fn backend(session: &mut Session) -> Result<Option<String>> {
    let rows = session.rows("SELECT backend, holdfast.current_backend() FROM holdfast.whoami()")?;
    let Some([backend, current]) = rows.first().map(Vec::as_slice) else { bail!("{rows:?}") };
    ensure!(backend == current, "{rows:?}");
    Ok(backend.clone())
}

fn is(session: &mut Session, expected: &str) -> Result<()> {
    let backend = backend(session)?;
    ensure!(backend.as_deref().unwrap_or("none") == expected, "{backend:?} instead of {expected}");
    Ok(())
}

fn first_rule_by_priority(cluster: &Cluster) -> Result<()> {
    let database = database(cluster)?;
    let role = database.role("client")?;
    let mut operator = database.connect()?;
    let name = &database.name;
    // Each rule is added to those before; the smaller priority wins, then the older rule.
    let steps = [
        (format!("'mobile', role := '{role}'"), "mobile"),
        (format!("'batch', database := '{name}'"), "mobile"),
        (format!("'rebuilt', role := '{role}', priority := 99"), "rebuilt"),
        (format!("'batch', role := '{role}', database := '{name}', priority := 1"), "batch"),
        ("'old', role := 'postgres', priority := -5".to_owned(), "batch"),
        (format!("'old', database := '{name}', priority := -2147483648"), "old"),
    ];
    for (number, (rule, expected)) in steps.iter().enumerate() {
        let id: i64 = operator.one(&format!("SELECT holdfast.add_identity({rule})"))?;
        ensure!(usize::try_from(id)? == number + 1, "rule {id}");
        let mut client = database.connect_as(&role)?;
        is(&mut client, expected).context(rule.clone())?;
    }
    for (id, expected) in [(6, "batch"), (4, "rebuilt"), (3, "mobile"), (1, "batch"), (2, "legacy")] {
        operator.exec(&format!("SELECT holdfast.drop_identity({id})"))?;
        is(&mut database.connect_as(&role)?, expected)?;
    }
    let who =
        database.session().role(&role).application_name("app").connect()?.rows("SELECT * FROM holdfast.whoami()")?;
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        text("legacy"),
        text("proven"),
        text("default backend"),
        text("legacy"),
        text(&role),
        text("app"),
        None,
        text("enforce"),
        None,
    ];
    ensure!(who == [expected], "{who:?}");
    Ok(())
}

fn like_patterns(cluster: &Cluster) -> Result<()> {
    let cases = [
        ("rebuilt", "rebuilt", true),
        ("rebuilt", "rebuilt-2", false),
        ("rebuilt%", "rebuilt-2", true),
        ("%built%", "a rebuilt app", true),
        ("re_uilt", "rebuilt", true),
        ("re_uilt", "reuilt", false),
        ("100\\%", "100%", true),
        ("100\\%", "1000", false),
        ("%", "", true),
        ("Rebuilt", "rebuilt", false),
        ("r\u{e9}%", "r\u{e9}b", true),
    ];
    for (pattern, name, matches) in cases {
        let database = database(cluster)?;
        let mut operator = database.connect()?;
        operator.execute("SELECT holdfast.add_identity('rebuilt', application_name := $1)", &[&pattern])?;
        // As Postgres cuts what isn't ASCII out of application_name, so may a case not match.
        let mut client = database.session().application_name(name).connect()?;
        let shown: String = client.one("SHOW application_name")?;
        if shown == name {
            is(&mut client, if matches { "rebuilt" } else { "legacy" }).with_context(|| format!("{pattern} {name}"))?;
        }
    }
    Ok(())
}

fn claims_only_restrict(cluster: &Cluster) -> Result<()> {
    let database = database(cluster)?;
    let (proven, unproven, retired) = (database.role("proven")?, database.role("unproven")?, database.role("retired")?);
    let mut operator = database.connect()?;
    for (backend, role) in [("batch", &proven), ("rebuilt", &unproven), ("old", &retired)] {
        operator.exec(&format!("SELECT holdfast.add_identity('{backend}', role := '{role}')"))?;
    }
    operator.exec("SELECT holdfast.add_identity('mobile', application_name := 'mobile%', priority := 1)")?;
    operator.exec("SELECT holdfast.add_identity('legacy', application_name := 'legacy%', priority := 1)")?;
    // Role, application_name at login, then a statement and what the session is afterwards.
    let cases = [
        (&proven, "app", "SET holdfast.backend = 'rebuilt'", "rebuilt"),
        (&proven, "app", "SET holdfast.backend = 'legacy'", "batch"),
        (&proven, "app", "SET application_name = 'mobile 1'", "mobile"),
        (&proven, "mobile 1", "SET application_name = 'something else'", "mobile"),
        (&proven, "mobile 1", "RESET ALL", "mobile"),
        (&proven, "mobile 1", "SET holdfast.backend = 'old'", "old"),
        (&proven, "mobile 1", "SET holdfast.backend = 'rebuilt'", "mobile"),
        (&proven, "app", "SET holdfast.backend = 'rebuilt'; RESET holdfast.backend", "batch"),
        (&proven, "app", "SET holdfast.backend = 'rebuilt'; DISCARD ALL", "batch"),
        (&proven, "app", "BEGIN; SET LOCAL holdfast.backend = 'rebuilt'; COMMIT", "batch"),
        (&proven, "app", "BEGIN; SET holdfast.backend = 'rebuilt'; ROLLBACK", "batch"),
        (&proven, "app", "SET holdfast.backend = ''", "batch"),
        (&unproven, "app", "SET holdfast.backend = 'legacy'", "rebuilt"),
        (&unproven, "app", "SET holdfast.backend = 'mobile'", "rebuilt"),
        (&unproven, "legacy", "SET application_name = 'legacy 2'", "rebuilt"),
        (&unproven, "app", "SET holdfast.backend = 'old'", "old"),
        (&unproven, "mobile", "SELECT 1", "rebuilt"),
        (&retired, "legacy", "SET holdfast.backend = 'legacy'", "old"),
    ];
    for (role, name, sql, expected) in cases {
        let mut client = database.session().role(role).application_name(name).connect()?;
        for statement in sql.split("; ") {
            client.exec(statement)?;
        }
        is(&mut client, expected).with_context(|| format!("{role} {name}: {sql}"))?;
    }
    // A claim that a role or database carries is one too.
    operator.exec(&format!(
        "ALTER ROLE {unproven} SET holdfast.backend = 'legacy'; ALTER ROLE {proven} SET holdfast.backend = 'rebuilt'"
    ))?;
    is(&mut database.connect_as(&unproven)?, "rebuilt")?;
    is(&mut database.connect_as(&proven)?, "rebuilt")?;
    is(&mut database.session().role(&unproven).option("holdfast.backend", "batch").connect()?, "rebuilt")
}

fn an_unknown_claim(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "identity")?;
    for mut session in [scene.operator()?, scene.legacy()?, scene.rebuilt()?] {
        session.exec("SET holdfast.backend = 'Legacy'")?;
        is(&mut session, "none")?;
        let source: String = session.one("SELECT source FROM holdfast.whoami()")?;
        ensure!(source == "setting holdfast.backend names no backend", "{source}");
        scene.judge(
            &mut session,
            &[("SELECT * FROM orders", Passes), ("INSERT INTO orders VALUES (6, 10)", Refused("unidentified"))],
        )?;
        let hint = session.refused("INSERT INTO orders VALUES (6, 10)")?.hint.unwrap_or_default();
        ensure!(hint.contains("holdfast.backend"), "the hint leads on: {hint}");
    }
    Ok(())
}

/// An unproven backend's session is no freer for being nobody's, by its own claim or in code that maintains a table of its own.
fn who_becomes_unidentified_stays_bound(cluster: &Cluster) -> Result<()> {
    let Guarded { database, rebuilt, .. } = &Guarded::enforcing(cluster, "bound")?;
    database.connect()?.exec(&format!(
        "CREATE TABLE loose (id int); CREATE SEQUENCE numbers; GRANT ALL ON loose, numbers TO {rebuilt};
         CREATE SCHEMA mine AUTHORIZATION {rebuilt}"
    ))?;
    let attempts = [
        ("INSERT INTO public.orders VALUES (2, 9)", "unidentified"),
        ("INSERT INTO public.loose VALUES (9)", "outside_surface"),
        ("TRUNCATE public.loose", "destructive_command"),
        ("SELECT setval('public.numbers', 9)", "destructive_command"),
    ];
    // Names are qualified: from PostgreSQL 17 on, such code runs with a search_path of its own.
    for (number, (attempt, rule)) in attempts.into_iter().enumerate() {
        let mut session = database.connect_as(rebuilt)?;
        session.exec("SET holdfast.backend = 'nobody'")?;
        refused_by(rule, &session.refused(attempt)?, attempt)?;
        let mut session = database.connect_as(rebuilt)?;
        session.exec(&format!(
            "CREATE FUNCTION mine.attempt_{number}() RETURNS int LANGUAGE plpgsql AS
             $$ BEGIN EXECUTE $x$ {attempt} $x$; RETURN 1; END $$"
        ))?;
        let maintained = format!("CREATE MATERIALIZED VIEW mine.view_{number} AS SELECT mine.attempt_{number}()");
        refused_by(rule, &session.refused(&maintained)?, &maintained)?;
    }
    Ok(())
}

/// The ParameterStatus messages about the claim that a client gets, read from the wire: the client crate keeps them to
/// itself, and a pooler lives on them.
fn the_claim_is_reported(cluster: &Cluster) -> Result<()> {
    let database = database(cluster)?;
    let endpoint = cluster.endpoint();
    let mut wire = UnixStream::connect(endpoint.socket_dir().join(format!(".s.PGSQL.{}", endpoint.port())))?;
    wire.set_read_timeout(Some(Duration::from_secs(10)))?;
    let startup = format!("user\0postgres\0database\0{}\0options\0-c holdfast.backend=rebuilt\0\0", database.name);
    // Protocol 3.0.
    send(&mut wire, None, &[&196_608_u32.to_be_bytes(), startup.as_bytes()].concat())?;
    ensure!(claims_reported(&mut wire)? == ["rebuilt"], "at login");
    let steps: [(&str, &[&str]); 4] = [
        ("SET holdfast.backend = 'mobile'", &["mobile"]),
        ("SET holdfast.backend = 'mobile'", &[]),
        ("BEGIN; SET LOCAL holdfast.backend = 'old'; ROLLBACK", &[]),
        ("DISCARD ALL", &["rebuilt"]),
    ];
    for (sql, expected) in steps {
        send(&mut wire, Some(b'Q'), format!("{sql}\0").as_bytes())?;
        let reported = claims_reported(&mut wire)?;
        ensure!(reported == expected, "{sql}: {reported:?}");
    }
    Ok(())
}

/// A message of the frontend/backend protocol; the first of a connection has no type.
fn send(wire: &mut UnixStream, kind: Option<u8>, body: &[u8]) -> Result<()> {
    wire.write_all(kind.as_slice())?;
    wire.write_all(&u32::try_from(body.len() + 4)?.to_be_bytes())?;
    Ok(wire.write_all(body)?)
}

/// Reads up to ReadyForQuery; the values of the setting that were reported.
fn claims_reported(wire: &mut UnixStream) -> Result<Vec<String>> {
    let mut reported = Vec::new();
    loop {
        let mut head = [0; 5];
        wire.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?.saturating_sub(4)];
        wire.read_exact(&mut body)?;
        let text = String::from_utf8_lossy(&body);
        match kind {
            b'Z' => return Ok(reported),
            b'E' => bail!("{text}"),
            b'S' => {
                reported.extend(text.strip_prefix("holdfast.backend\0").map(|v| v.trim_end_matches('\0').to_owned()))
            }
            _ => {}
        }
    }
}

fn the_default_backend(cluster: &Cluster) -> Result<()> {
    let database = database(cluster)?;
    let role = database.role("client")?;
    let mut operator = database.connect()?;
    let mut client = database.session().role(&role).application_name("mobile 7").connect()?;
    for default in ["rebuilt", "old", "legacy"] {
        operator.exec(&format!("SELECT holdfast.set_default_backend('{default}')"))?;
        is(&mut client, default)?;
        // Whatever the default, an operator isn't locked out.
        operator.exec("SELECT holdfast.set_mode('enforce'); SELECT holdfast.set_mode('observe', 'mobile')")?;
    }
    operator.exec("SELECT holdfast.set_default_backend(NULL)")?;
    is(&mut client, "none")?;
    // With no default, a name at login may identify; a later one can't raise.
    operator.exec("SELECT holdfast.add_identity('mobile', application_name := 'mobile%')")?;
    operator.exec("SELECT holdfast.add_identity('batch', application_name := 'batch%')")?;
    is(&mut client, "mobile")?;
    client.exec("SET application_name = 'batch'")?;
    is(&mut client, "mobile")?;
    let mut nobody = database.connect_as(&role)?;
    nobody.exec("SET application_name = 'batch'")?;
    is(&mut nobody, "none")?;
    nobody.exec("SET holdfast.backend = 'mobile'")?;
    is(&mut nobody, "none")
}

fn session_authorization(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "identity")?;
    let mut superuser = scene.operator()?;
    is(&mut superuser, "legacy")?;
    superuser.exec(&format!("SET SESSION AUTHORIZATION {}", scene.rebuilt))?;
    is(&mut superuser, "rebuilt")?;
    let sql = "UPDATE orders SET note = 'x' WHERE id = 1";
    refused_by("not_owner", &superuser.refused(sql)?, sql)?;
    superuser.exec("RESET SESSION AUTHORIZATION")?;
    is(&mut superuser, "legacy")
}

fn changed_rules_reach_open_sessions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "identity")?;
    let mut operator = scene.operator()?;
    let (mut client, own) = (scene.rebuilt()?, "UPDATE orders SET note = 'x' WHERE id = 2");
    client.exec(own)?;
    let steps = [
        (
            format!("SELECT holdfast.add_identity('legacy', role := '{}', priority := 1)", scene.rebuilt),
            Some("not_owner"),
        ),
        ("SELECT holdfast.drop_identity(3)".to_owned(), None),
        ("SELECT holdfast.drop_identity(2)".to_owned(), Some("not_owner")),
        ("SELECT holdfast.set_default_backend(NULL)".to_owned(), Some("unidentified")),
        ("SELECT holdfast.set_default_backend('rebuilt')".to_owned(), None),
        ("SELECT holdfast.disallow_writes('rebuilt', 'orders')".to_owned(), Some("outside_surface")),
    ];
    for (change, rule) in steps {
        operator.exec(&change)?;
        match rule {
            None => client.exec(own)?,
            Some(rule) => refused_by(rule, &client.refused(own)?, &change)?,
        }
    }
    Ok(())
}

/// A rule names a role, not a spelling: renaming it must not hand its sessions the default backend's trust.
fn a_renamed_role(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "identity")?;
    let (old, new) = (scene.rebuilt.to_string(), format!("{}_renamed", scene.rebuilt));
    let mut operator = scene.operator()?;
    if operator.exec(&format!("ALTER ROLE {old} RENAME TO {new}")).is_err() {
        return Ok(());
    }
    let outcome = scene.database.connect_as(&new).and_then(|mut client| is(&mut client, "rebuilt"));
    operator.exec(&format!("ALTER ROLE {new} RENAME TO {old}"))?;
    outcome
}

fn a_recreated_role(cluster: &Cluster) -> Result<()> {
    let database = database(cluster)?;
    let mut operator = database.connect()?;
    // The backend of the rule, the default backend, and what the new role is.
    let cases = [
        ("rebuilt", "'legacy'", "rebuilt"),
        ("rebuilt", "NULL", "rebuilt"),
        ("old", "'rebuilt'", "old"),
        ("batch", "'legacy'", "legacy"),
        ("batch", "'mobile'", "mobile"),
        ("batch", "NULL", "none"),
    ];
    let setup =
        "SELECT hint FROM holdfast.check_setup() WHERE finding = 'identity_of_recreated' AND severity = 'error'";
    for (backend, default, expected) in cases {
        let role = database.role("again")?;
        operator.exec(&format!(
            "SELECT holdfast.set_default_backend('legacy');
             SELECT holdfast.add_identity('{backend}', role => '{role}', priority => 7);
             DROP ROLE {role}; CREATE ROLE {role} LOGIN; SELECT holdfast.set_default_backend({default})"
        ))?;
        is(&mut database.connect_as(&role)?, expected).with_context(|| format!("{backend} {default}"))?;
        let hint: String = operator.one(setup)?;
        operator.exec(&hint)?;
        is(&mut database.connect_as(&role)?, backend).with_context(|| format!("{backend} {default} {hint}"))?;
        ensure!(operator.rows(setup)?.is_empty());
        let rules: String = operator.one("SELECT string_agg(priority::text, ' ') FROM holdfast.identities")?;
        ensure!(rules == "7", "{rules}");
        operator.exec("SELECT holdfast.drop_identity(id) FROM holdfast.identities")?;
    }
    // Renamed: the rule goes along, and the name that is left behind lowers the next bearer's trust.
    let (role, renamed) = (database.role("again")?, database.role("renamed")?);
    operator.exec(&format!(
        "SELECT holdfast.set_default_backend('legacy'); SELECT holdfast.add_identity('rebuilt', role => '{role}');
         DROP ROLE {renamed}; ALTER ROLE {role} RENAME TO {renamed}; CREATE ROLE {role} LOGIN"
    ))?;
    is(&mut database.connect_as(&role)?, "rebuilt")?;
    is(&mut database.connect_as(&renamed)?, "rebuilt")?;
    let hint: String = operator.one(setup)?;
    ensure!(hint.contains(&*renamed), "{hint}");
    Ok(())
}

fn networks(cluster: &mut Cluster) -> Result<()> {
    let database = database(cluster)?;
    let mut operator = database.connect()?;
    // Rule by rule; does 127.0.0.1 match?
    let cases = [
        ("127.0.0.1", true),
        ("127.0.0.1/32", true),
        ("127.0.0.0/8", true),
        ("127.0.0.77/8", true),
        ("0.0.0.0/0", true),
        ("127.0.0.2", false),
        ("10.0.0.0/8", false),
        ("::/0", false),
        ("::1", false),
    ];
    for (network, matches) in cases {
        let id: i64 =
            operator.one(&format!("SELECT holdfast.add_identity('rebuilt', client_network := '{network}')"))?;
        is(&mut database.session().tcp().connect()?, if matches { "rebuilt" } else { "legacy" }).context(network)?;
        // A Unix socket has no address, so it is in no network.
        is(&mut database.connect()?, "legacy").context(network)?;
        operator.exec(&format!("SELECT holdfast.drop_identity({id})"))?;
    }
    operator.exec("SELECT holdfast.add_identity('rebuilt', role := 'postgres', client_network := '127.0.0.1')")?;
    let mut client = database.session().tcp().connect()?;
    let who = client.rows("SELECT backend, source, host(client_addr) FROM holdfast.whoami()")?;
    ensure!(who[0][0].as_deref() == Some("rebuilt") && who[0][2].as_deref() == Some("127.0.0.1"), "{who:?}");
    operator.exec("CREATE TABLE t (id int)")?;
    client.refused("INSERT INTO t VALUES (1)")?;
    let address: String = operator.one("SELECT host(client_addr) FROM holdfast.blocked_writes")?;
    ensure!(address == "127.0.0.1", "{address}");
    Ok(())
}
