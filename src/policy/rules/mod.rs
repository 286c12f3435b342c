//! Every reason to refuse: its name, its SQLSTATE, and the message, DETAIL and HINT that a client sees.
//!
//! All refusals are worded here and nowhere else. Wording follows Postgres's style guide: the message is a lower-case
//! clause, DETAIL and HINT are sentences, and the hint is the next step, as a command wherever there is one.

use std::fmt::{self, Write};
use std::str::FromStr;

use super::backend::UnknownWord;

mod commands;
mod limits;
mod ownership;
mod settings;
mod surface;
mod tampering;

pub use limits::{Reached, Way};

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $sqlstate:literal;)*) => {
        /// A named reason to refuse. Every refusal names exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule { $($(#[$doc])* $variant,)* }

        impl Rule {
            /// Every rule, in the order of their SQLSTATEs.
            pub const ALL: &[Rule] = &[$(Rule::$variant,)*];

            /// The name used in SQL and in the constraint field of a refusal.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name,)* }
            }

            /// The SQLSTATE of a refusal: five characters of class WG.
            pub fn sqlstate(self) -> &'static str {
                match self { $(Rule::$variant => $sqlstate,)* }
            }
        }
    };
}

rules! {
    /// A write to a tenant that another backend owns.
    NotOwner = "not_owner", "WG001";
    /// A write to a frozen tenant.
    TenantFrozen = "tenant_frozen", "WG002";
    /// A guarded write by a session that belongs to no backend.
    Unidentified = "unidentified", "WG003";
    /// A table, command or column outside the write surface.
    OutsideSurface = "outside_surface", "WG010";
    /// A write to rows that belong to every tenant.
    GlobalWrite = "global_write", "WG011";
    /// A statement that writes more tenants than it may.
    CrossTenant = "cross_tenant", "WG012";
    /// More rows than a statement or a transaction may write.
    RowBudget = "row_budget", "WG013";
    /// A DELETE or UPDATE whose foreign keys reach further than it may.
    Cascade = "cascade", "WG014";
    /// An UPDATE or DELETE that no condition limits.
    UnfilteredWrite = "unfiltered_write", "WG015";
    /// A command that destroys more than rows, or that reaches beyond the database.
    DestructiveCommand = "destructive_command", "WG016";
    /// A setting that would loosen a guard.
    ForbiddenSetting = "forbidden_setting", "WG022";
    /// A guard that is missing or switched off, or a command that would make it so.
    GuardTampering = "guard_tampering", "WG023";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rule {
    type Err = UnknownWord;

    fn from_str(name: &str) -> Result<Self, UnknownWord> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == name).ok_or(UnknownWord)
    }
}

/// A table as refusals name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What a statement was about to do when a rule stopped it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The session's backend; none = unidentified.
    pub backend: Option<String>,
    /// The command, in capitals.
    pub command: String,
    /// The table written, if the command is about one.
    pub table: Option<TableName>,
    /// The table that stands for it in policy, where that is another: a partition's guarded ancestor.
    pub classified: Option<TableName>,
    /// The tenant's canonical key, if one is concerned.
    pub tenant: Option<String>,
    /// The backend that owns the tenant.
    pub owner: Option<String>,
}

/// The columns of a command that was allowed for some columns only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns<'a> {
    /// Those that were allowed.
    pub allowed: Vec<&'a str>,
    /// Those that the statement names beyond them; none = the command isn't allowed at all.
    pub beyond: Vec<&'a str>,
}

/// A broken rule, worded for the client and for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// The primary message.
    pub message: String,
    /// DETAIL: backend, command, table, tenant, owner, rule.
    pub detail: String,
    /// HINT: the next step.
    pub hint: String,
    /// What was attempted.
    pub attempt: Attempt,
}

impl Refusal {
    fn new(rule: Rule, attempt: Attempt, message: String, reason: &str, hint: String) -> Refusal {
        let detail = detail(rule, &attempt, reason);
        Refusal { rule, message, detail, hint, attempt }
    }
}

fn not_allowed(attempt: &Attempt, columns: &Columns) -> (String, String) {
    let backend = name(&attempt.backend);
    let message = format!("backend \"{backend}\" may not {} table \"{}\"", verb(attempt), table(attempt));
    // allow_writes replaces what was allowed, so the hint repeats it.
    let columns = if columns.beyond.is_empty() {
        String::new()
    } else {
        let all = columns.allowed.iter().chain(&columns.beyond).map(|c| array_element(c));
        format!(", columns => {}", literal(&format!("{{{}}}", all.collect::<Vec<_>>().join(","))))
    };
    let hint = format!(
        "If it should, allow it: SELECT holdfast.allow_writes({}, {}, '{{{}}}'{columns});",
        literal(backend),
        table_literal(attempt),
        attempt.command.to_lowercase()
    );
    (message, hint)
}

fn detail(rule: Rule, attempt: &Attempt, reason: &str) -> String {
    let mut text = String::with_capacity(160);
    // Writing to a String can't fail.
    let _ = match &attempt.backend {
        Some(backend) => write!(text, "Backend \"{backend}\" attempted {}", attempt.command),
        None => write!(text, "A session of no backend attempted {}", attempt.command),
    };
    if let Some(table) = &attempt.table {
        let _ = write!(text, " on table \"{table}\"");
    }
    if let Some(tenant) = &attempt.tenant {
        let _ = write!(text, " for tenant \"{tenant}\"");
    }
    if let Some(owner) = &attempt.owner {
        let _ = write!(text, ", which backend \"{owner}\" owns");
    }
    let _ = write!(text, ". ");
    if !reason.is_empty() {
        let _ = write!(text, "{reason} ");
    }
    let _ = write!(text, "Rule: {rule}.");
    text
}

fn name(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("(none)")
}

fn table(attempt: &Attempt) -> &str {
    attempt.table.as_ref().map_or("(none)", |t| &t.name)
}

/// What the command does to a table, as it goes into "may not ... table".
fn verb(attempt: &Attempt) -> &str {
    match attempt.command.as_str() {
        "INSERT" => "insert into",
        "UPDATE" => "update",
        "DELETE" => "delete from",
        command => command,
    }
}

/// The table as a `regclass` argument: quoted as an identifier where it must be, then as a literal.
fn table_literal(attempt: &Attempt) -> String {
    let table = attempt.classified.as_ref().or(attempt.table.as_ref());
    table.map_or_else(|| "'...'".to_owned(), |t| literal(&format!("{}.{}", identifier(&t.schema), identifier(&t.name))))
}

fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if starts_well && name.chars().all(plain) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// An element of an array's text form.
fn array_element(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !value.is_empty() && value.chars().all(plain) && !value.eq_ignore_ascii_case("null") {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A string constant that is safe whatever `standard_conforming_strings` says.
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::super::surface::{GuardState, Table, TableClass, TenantSource};
    use super::*;

    fn attempt(command: &str) -> Attempt {
        Attempt {
            backend: Some("rebuilt".into()),
            command: command.into(),
            table: Some(TableName { schema: "public".into(), name: "Home owners".into() }),
            tenant: Some("o'hara".into()),
            owner: Some("legacy".into()),
            classified: None,
        }
    }

    #[test]
    fn every_rule_has_its_own_name_and_sqlstate() {
        let expected = [
            ("not_owner", "WG001"),
            ("tenant_frozen", "WG002"),
            ("unidentified", "WG003"),
            ("outside_surface", "WG010"),
            ("global_write", "WG011"),
            ("cross_tenant", "WG012"),
            ("row_budget", "WG013"),
            ("cascade", "WG014"),
            ("unfiltered_write", "WG015"),
            ("destructive_command", "WG016"),
            ("forbidden_setting", "WG022"),
            ("guard_tampering", "WG023"),
        ];
        let actual: Vec<_> = Rule::ALL.iter().map(|r| (r.name(), r.sqlstate())).collect();
        assert_eq!(actual, expected);
        for rule in Rule::ALL {
            assert_eq!(rule.name().parse(), Ok(*rule));
        }
    }

    #[test]
    fn a_refusal_says_who_what_whose_why_and_what_next() {
        let r = Refusal::not_owner(attempt("UPDATE"));
        assert_eq!(r.message, "backend \"rebuilt\" may not write tenant \"o'hara\"");
        assert_eq!(
            r.detail,
            "Backend \"rebuilt\" attempted UPDATE on table \"public.Home owners\" for tenant \"o'hara\", \
             which backend \"legacy\" owns. Rule: not_owner."
        );
        assert_eq!(
            r.hint,
            "Retry on backend \"legacy\", or hand the tenant over: SELECT holdfast.cutover('o''hara', 'rebuilt');"
        );
    }

    #[test]
    fn hints_are_commands_that_can_be_typed() {
        let table = "'public.\"Home owners\"'";
        let cases = [
            (
                Refusal::outside_surface(attempt("DELETE"), &Columns::default()),
                format!("holdfast.allow_writes('rebuilt', {table}, '{{delete}}');"),
            ),
            (
                Refusal::outside_surface(
                    attempt("UPDATE"),
                    &Columns { allowed: vec!["price"], beyond: vec!["So ld", "it's"] },
                ),
                format!(
                    "holdfast.allow_writes('rebuilt', {table}, '{{update}}', columns => '{{price,\"So ld\",\"it''s\"}}');"
                ),
            ),
            (
                Refusal::global_table(attempt("INSERT"), &Columns::default()),
                format!("holdfast.allow_writes('rebuilt', {table}, '{{insert}}');"),
            ),
            (
                Refusal::unclassified(attempt("INSERT")),
                format!("holdfast.guard_table({table}, tenant_column => '...');"),
            ),
            (Refusal::tenant_frozen(attempt("INSERT"), "audit"), "holdfast.unfreeze('o''hara');".into()),
            (Refusal::unidentified(attempt("INSERT"), "bob"), "holdfast.add_identity('...', role => 'bob');".into()),
            (
                Refusal::unreliable_guard(
                    attempt("INSERT"),
                    &Table {
                        name: TableName { schema: "public".into(), name: "orders".into() },
                        classified: None,
                        class: TableClass::Tenant(TenantSource::Columns("t".into())),
                        guard: GuardState::Disabled,
                        child: None,
                    },
                ),
                format!("holdfast.guard_table({table}, 't');"),
            ),
            (Refusal::retired(attempt("INSERT")), "holdfast.set_trust('rebuilt', 'unproven');".into()),
        ];
        for (refusal, command) in cases {
            assert!(refusal.hint.contains(&command), "{} lacks {command}", refusal.hint);
            assert!(refusal.detail.ends_with(&format!("Rule: {}.", refusal.rule)), "{}", refusal.detail);
        }
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("\\xde'"), "E'\\\\xde'''");
    }
}
