use serde_json::{Value, json};

use super::*;

fn page(facts: Value) -> String {
    let facts: Result<Facts, _> = serde_json::from_value(facts);
    assert!(facts.is_ok(), "{facts:?}");
    render(&facts.unwrap_or_default()).unwrap_or_default()
}

fn list(first: Vec<Value>, total: usize) -> Value {
    json!({ "first": first, "total": total })
}

fn facts(name: &str) -> Value {
    json!({
        "database": name, "written_at": "now", "server_version": "15", "version": "0",
        "migration": { "phase": "shared", "mode": "enforce", "begun_on": "2026-01-01", "ends_on": "2026-02-01",
            "days_left": 3, "default_owner": name },
        "exceptions": list(vec![json!({ "backend": name, "rule": null, "mode": "off" })], 1),
        "owners": list(vec![json!({ "owner": name, "trust": "proven", "tenants": 3, "frozen": 1 })], 9),
        "moved": 3,
        "moves": [{ "at": "a", "cutovers": 1, "rollbacks": 0, "moved": 1 }, { "at": "b", "cutovers": 2, "rollbacks": 0, "moved": 3 }],
        "waves": list(vec![json!({ "wave": name, "to_backend": name, "state": "halted", "tenants": 6, "percent": 50, "moved": 2,
            "waiting": 3, "skipped": 0, "stopped": 1, "reason": name })], 14),
        "counted_since": "in 30 days",
        "rules": list(vec![json!({ "rule": "not_owner", "refused": 5, "observed": 2, "in_break_glass": 0, "last_at": "x" })], 1),
        "refusals": [{ "at": "a", "refused": 5, "observed": 2 }],
        "frequent": list(vec![json!({ "backend": name, "rule": "not_owner", "relation": name, "occurrences": 7, "last_at": "x" })], 1),
        "findings": list(vec![json!({ "relation": name, "class": "tenant", "finding": name })], 30),
        "setup": list(vec![json!({ "severity": "error", "finding": "f", "detail": name, "hint": name })], 1),
        "log": list(vec![json!({ "at": "x", "changed_by": name, "what": "w", "object": name, "old": name, "new": name,
            "application_name": name, "client_addr": null })], 1),
    })
}

#[test]
fn what_users_supply_is_text() {
    let name = "<script>alert('1')</script>\"' onload=x \u{202e}&amp;\u{1}";
    let page = page(facts(name));
    assert!(!page.contains("<script") && !page.contains("' onload") && !page.contains('\u{1}'), "{page}");
    assert!(page.contains("&#60;script&#62;") && page.contains("&#38;amp;"), "{page}");
    assert!(page.contains("… and 8 more") && page.contains("… and 29 more"));
    assert!(page.contains("… and 13 more"), "of the waves");
}

#[test]
fn nothing_comes_from_elsewhere() {
    let page = page(facts("x")).replace("http://www.w3.org/2000/svg", "");
    for elsewhere in ["http:", "https:", "//", "url(", "@import", "<script", "<iframe", "src="] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert_eq!(page.matches("<svg").count(), 2);
}

#[test]
fn before_anything_has_happened() {
    let page = render(&Facts::default()).unwrap_or_default();
    for told in ["No migration has begun", "No tenant has been handed over", "None.", "Nothing has been changed"] {
        assert!(page.contains(told), "{told}");
    }
    assert!(!page.contains("<svg"));
}

#[test]
fn the_end_date_is_told_in_words() {
    let cases = [
        (90, "90 days left", false),
        (1, "1 day left", true),
        (0, "ends today", true),
        (-1, "over since yesterday", true),
        (-9, "over for 9 days", true),
    ];
    for (days, words, urgent) in cases {
        let mut facts = facts("x");
        facts["migration"]["days_left"] = json!(days);
        let page = page(facts);
        assert!(page.contains(words) && page.contains("class=\"urgent\"") == urgent, "{words}");
    }
}
