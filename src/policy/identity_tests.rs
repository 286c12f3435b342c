use super::super::token::PublicKey;
use super::*;

fn backends() -> Vec<Backend> {
    [("legacy", Trust::Proven), ("rebuilt", Trust::Unproven), ("old", Trust::Retired)]
        .map(|(name, trust)| Backend { name: name.into(), trust })
        .to_vec()
}

fn rule(id: i64, backend: &str, priority: i32) -> IdentityRule {
    IdentityRule {
        id,
        backend: backend.into(),
        role: None,
        left_behind: false,
        database: None,
        application_name: None,
        client_network: None,
        priority,
    }
}

fn role(id: i64, backend: &str, role: &str) -> IdentityRule {
    IdentityRule { role: Some(role.into()), ..rule(id, backend, 100) }
}

/// As [`role`], where the rule's own role is gone or has another name.
fn left(id: i64, backend: &str, name: &str) -> IdentityRule {
    IdentityRule { left_behind: true, ..role(id, backend, name) }
}

fn app(id: i64, backend: &str, pattern: &str) -> IdentityRule {
    IdentityRule { application_name: Some(pattern.into()), ..rule(id, backend, 100) }
}

fn net(id: i64, backend: &str, network: &str, priority: i32) -> IdentityRule {
    IdentityRule { client_network: Network::parse(network), ..rule(id, backend, priority) }
}

fn login(role: &str, application_name: &str) -> Login {
    Login {
        role: role.into(),
        database: "app".into(),
        application_name: application_name.into(),
        client: "10.1.2.3".parse().ok(),
    }
}

fn who(rules: &[IdentityRule], default: Option<&str>, login: &Login, claims: Claims) -> Option<String> {
    identify(&backends(), rules, default, login, None, &claims).backend.map(|b| b.name)
}

fn says(application_name: &str) -> Claims {
    Claims { application_name: application_name.into(), ..Claims::default() }
}

fn claims(backend: &str) -> Claims {
    Claims { backend: Some(backend.into()), ..Claims::default() }
}

#[test]
fn the_first_match_by_priority_is_the_base() {
    let rules = [role(1, "rebuilt", "rb"), net(2, "old", "10.0.0.0/8", 200), net(3, "legacy", "10.1.2.3", 50)];
    // Rules, default, login role, expected.
    type Case<'a> = (&'a [IdentityRule], Option<&'a str>, &'a str, Option<&'a str>);
    let cases: &[Case] = &[
        (&[], None, "rb", None),
        (&[], Some("legacy"), "rb", Some("legacy")),
        (&rules[..1], Some("legacy"), "rb", Some("rebuilt")),
        (&rules[..1], Some("legacy"), "other", Some("legacy")),
        (&rules[..1], None, "other", None),
        (&rules[..2], None, "rb", Some("rebuilt")),
        (&rules[..2], None, "other", Some("old")),
        (&rules, None, "rb", Some("legacy")),
        (&[role(1, "gone", "rb")], Some("legacy"), "rb", None),
    ];
    for (rules, default, user, expected) in cases {
        assert_eq!(who(rules, *default, &login(user, ""), Claims::default()).as_deref(), *expected, "{rules:?} {user}");
    }
}

#[test]
fn an_application_name_only_restricts() {
    let by_name = [app(1, "legacy", "legacy-%"), app(2, "rebuilt", "rebuilt-%")];
    let with_role = [app(1, "legacy", "legacy-%"), role(2, "rebuilt", "rb")];
    // Rules, default, application_name at login, application_name now, expected.
    type Case<'a> = (&'a [IdentityRule], Option<&'a str>, &'a str, &'a str, Option<&'a str>);
    let cases: &[Case] = &[
        (&by_name, Some("legacy"), "rebuilt-1", "rebuilt-1", Some("rebuilt")),
        (&by_name, Some("legacy"), "psql", "rebuilt-1", Some("rebuilt")),
        (&by_name, Some("legacy"), "rebuilt-1", "legacy-1", Some("rebuilt")),
        (&by_name, Some("legacy"), "rebuilt-1", "", Some("rebuilt")),
        (&by_name, Some("rebuilt"), "legacy-1", "legacy-1", Some("rebuilt")),
        (&with_role, Some("legacy"), "legacy-1", "legacy-1", Some("rebuilt")),
        (&by_name, None, "legacy-1", "legacy-1", Some("legacy")),
        (&by_name, None, "legacy-1", "rebuilt-1", Some("rebuilt")),
        (&by_name, None, "psql", "legacy-1", None),
    ];
    for (rules, default, at_login, now, expected) in cases {
        let actual = who(rules, *default, &login("rb", at_login), says(now));
        assert_eq!(actual.as_deref(), *expected, "{default:?} {at_login} → {now}");
    }
}

#[test]
fn the_setting_only_restricts() {
    let rules = [role(1, "rebuilt", "rb"), role(2, "legacy", "lg")];
    let cases = [
        ("lg", "rebuilt", Some("rebuilt")),
        ("lg", "old", Some("old")),
        ("lg", "legacy", Some("legacy")),
        ("rb", "legacy", Some("rebuilt")),
        ("rb", "old", Some("old")),
        ("lg", "no such backend", None),
        ("rb", "no such backend", Some("rebuilt")),
        ("stranger", "legacy", None),
    ];
    for (user, claim, expected) in cases {
        assert_eq!(who(&rules, None, &login(user, ""), claims(claim)).as_deref(), expected, "{user} claims {claim}");
    }
}

#[test]
fn who_becomes_unidentified_stays_bound() {
    let rules = [role(1, "rebuilt", "rb"), role(2, "legacy", "lg")];
    for (user, bound) in [("rb", true), ("lg", false)] {
        let claimed = identify(&backends(), &rules, None, &login(user, ""), None, &claims("no such backend"));
        let lent = identify(&backends(), &rules, None, &login(user, ""), None, &Claims::default()).lent();
        for identity in [claimed, lent] {
            assert!(identity.is_unidentified(), "{user}: {identity:?}");
            assert_eq!(identity.is_bound_by_every_rule(), bound, "{user}: {identity:?}");
        }
    }
}

#[test]
fn a_superusers_session_authorization_only_restricts() {
    let rules = [role(1, "rebuilt", "rb"), role(2, "legacy", "postgres")];
    let becomes = |role: &str| Claims { session_role: Some(role.into()), ..Claims::default() };
    assert_eq!(who(&rules, None, &login("postgres", ""), becomes("rb")).as_deref(), Some("rebuilt"));
    assert_eq!(who(&rules, None, &login("rb", ""), becomes("postgres")).as_deref(), Some("rebuilt"));
}

#[test]
fn networks_match_by_prefix() {
    let cases = [
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "11.1.2.3", false),
        ("10.1.2.3", "10.1.2.3", true),
        ("10.1.2.3/32", "10.1.2.4", false),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("::/0", "203.0.113.9", false),
        ("::/0", "2001:db8::1", true),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
    ];
    for (network, client, expected) in cases {
        let (network, client) = (Network::parse(network), client.parse().ok());
        assert_eq!(network.zip(client).map(|(n, c)| n.contains(c)), Some(expected), "{network:?} {client:?}");
    }
    for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "acme", "10.0.0.0/x"] {
        assert_eq!(Network::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn like_is_sqls_like() {
    let cases = [
        ("rebuilt-%", "rebuilt-7", true),
        ("rebuilt-%", "rebuilt", false),
        ("%", "", true),
        ("_", "é", true),
        ("_", "", false),
        ("a%b%c", "a--b--c", true),
        ("a%b%c", "a--c--b", false),
        ("100\\%", "100%", true),
        ("100\\%", "1000", false),
        ("%%%%%%%%%%%%%%%%%%%%%%%%x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(like(pattern, text), expected, "{pattern} {text}");
    }
}

#[test]
fn a_token_takes_the_base_s_place_and_claims_still_restrict() {
    let rules = [role(1, "rebuilt", "rb")];
    let proved = |backend: &str| Credential {
        key: PublicKey { label: "k".into(), backend: backend.into(), bytes: [1; 32] },
        until: 0,
    };
    let who = |credential: &Credential, claims: &Claims| {
        let identity = identify(&backends(), &rules, None, &login("rb", ""), Some(credential), claims);
        (identity.name().map(str::to_owned), identity.source)
    };
    assert_eq!(who(&proved("legacy"), &Claims::default()), (Some("legacy".into()), Source::Token));
    assert_eq!(who(&proved("legacy"), &claims("rebuilt")), (Some("rebuilt".into()), Source::Setting));
    assert_eq!(who(&proved("rebuilt"), &claims("legacy")).0.as_deref(), Some("rebuilt"));
    // A key outlives its backend in no way: the login's own rule decides again.
    assert_eq!(who(&proved("gone"), &Claims::default()), (Some("rebuilt".into()), Source::Rule(1)));
}

#[test]
fn a_name_that_is_left_behind_only_restricts() {
    let everywhere =
        |backend: &str, priority| IdentityRule { database: Some("app".into()), ..rule(9, backend, priority) };
    let app_of = |id, backend: &str| IdentityRule { role: Some("r".into()), ..app(id, backend, "a%") };
    let cases = [
        (vec![left(1, "rebuilt", "r")], Some("legacy"), Some("rebuilt")),
        (vec![left(1, "old", "r")], Some("rebuilt"), Some("old")),
        (vec![left(1, "legacy", "r")], Some("rebuilt"), Some("rebuilt")),
        // Without a default it may write nothing, or what an unproven backend may.
        (vec![left(1, "legacy", "r")], None, None),
        (vec![left(1, "rebuilt", "r")], None, Some("rebuilt")),
        (vec![left(1, "rebuilt", "another")], Some("legacy"), Some("legacy")),
        // A rule that names the role itself counts alone.
        (vec![left(1, "rebuilt", "r"), role(2, "legacy", "r")], Some("rebuilt"), Some("legacy")),
        // Of others it depends on which came first.
        (vec![left(1, "rebuilt", "r"), everywhere("legacy", 101)], None, Some("rebuilt")),
        (vec![left(1, "rebuilt", "r"), everywhere("legacy", 99)], None, Some("legacy")),
        (vec![left(1, "legacy", "r"), everywhere("rebuilt", 101)], None, Some("rebuilt")),
        // An application_name is a claim already, and identifies nobody by a name that another role had.
        (vec![IdentityRule { left_behind: true, ..app_of(1, "rebuilt") }], Some("legacy"), Some("rebuilt")),
        (vec![IdentityRule { left_behind: true, ..app_of(1, "legacy") }], None, None),
        (
            vec![IdentityRule { left_behind: true, ..app_of(1, "legacy") }, app(2, "rebuilt", "a%")],
            Some("legacy"),
            Some("rebuilt"),
        ),
    ];
    for (rules, default, expected) in cases {
        let found = who(&rules, default, &login("r", "a"), Claims::default());
        assert_eq!(found.as_deref(), expected, "{rules:?} {default:?}");
    }
    // By SET SESSION AUTHORIZATION as by a login.
    let claims = Claims { session_role: Some("r".into()), application_name: "a".into(), ..Claims::default() };
    let rules = [left(1, "rebuilt", "r")];
    assert_eq!(who(&rules, Some("legacy"), &login("dba", "a"), claims).as_deref(), Some("rebuilt"));
}

#[test]
fn a_rule_leaves_a_name_behind_when_its_role_has_lost_it() {
    assert_eq!(role(1, "rebuilt", "r").left_behind_as("r".into()), None);
    assert_eq!(rule(1, "rebuilt", 100).left_behind_as("r".into()), None);
    for renamed_or_gone in ["other", ""] {
        let left_behind = role(1, "rebuilt", renamed_or_gone).left_behind_as("r".into());
        assert_eq!(left_behind, Some(left(1, "rebuilt", "r")));
    }
}
