//! The paths that a statement can take to the server, each made of the statement itself.

use std::fmt;

/// A path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The simple protocol.
    Plain,
    /// The extended protocol, with parameters.
    Extended,
    /// A generic plan that was made and run while it was allowed.
    CachedPlan,
    /// EXPLAIN ANALYZE of one.
    CachedExplained,
    /// A plpgsql function that was run while it was allowed.
    CachedFunction,
    /// A plpgsql function.
    Plpgsql,
    /// A function in SQL, as text.
    SqlFunction,
    /// A function in SQL, parsed when it was created.
    AtomicBody,
    /// DO.
    DoBlock,
    /// EXECUTE in plpgsql.
    DynamicSql,
    /// A procedure between its COMMITs.
    Procedure,
    /// Behind an operator.
    Operator,
    /// In an aggregate.
    Aggregate,
    /// In the check of a domain.
    Domain,
    /// In a table's check constraint.
    CheckConstraint,
    /// In a policy of row-level security.
    RowSecurity,
    /// In an event trigger.
    EventTrigger,
    /// In a row trigger of another table.
    RowTrigger,
    /// In a constraint trigger, at COMMIT.
    DeferredTrigger,
    /// CREATE TABLE AS EXECUTE.
    CreateTableAs,
    /// SELECT INTO.
    SelectInto,
    /// COPY of a query.
    CopyQuery,
    /// EXPLAIN ANALYZE.
    ExplainAnalyze,
    /// A WITH query.
    WithQuery,
    /// A cursor, for a statement in a function.
    Cursor,
    /// A rewrite rule of a superuser's table.
    Rule,
    /// An updatable view.
    View,
    /// An updatable view with security_barrier.
    BarrierView,
    /// A view with INSTEAD OF triggers.
    InsteadOf,
    /// A view with rules.
    RuleView,
    /// A SECURITY DEFINER function of legacy.
    AsLegacy,
    /// A SECURITY DEFINER function of a superuser.
    AsSuperuser,
    /// SET ROLE to legacy.
    SetRole,
    /// After a savepoint to go back to.
    Savepoint,
    /// After a savepoint, in a transaction that is prepared and committed by another session.
    PreparedTransaction,
    /// In a loop that swallows every error.
    Swallowed,
    /// Over a connection back to the database, as the same role.
    Dblink,
    /// COPY FROM STDIN.
    CopyText,
    /// COPY FROM STDIN (FORMAT csv).
    CopyCsv,
    /// COPY FROM STDIN (FORMAT binary).
    CopyBinary,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whose privileges a path runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The rebuilt backend's own.
    Own,
    /// Those of the owner of the shop.
    Legacy,
    /// A superuser's.
    Superuser,
}

/// What a statement is, which says what paths it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// INSERT, UPDATE, DELETE.
    Write,
    /// INSERT ... ON CONFLICT.
    Upsert,
    /// MERGE, or a WITH query that writes.
    Compound,
    /// SELECT.
    Query,
    /// Any other command that may be run in a transaction and in functions.
    Command,
    /// A command that must be sent by itself.
    TopLevel,
    /// Several statements, in a transaction.
    Script,
    /// What COPY FROM STDIN is given: `into <- rows`.
    Copy,
}

use Path::*;

/// Ways to run any statement that may stand in a function.
const FUNCTIONS: &[Path] = &[
    Plain,
    Extended,
    Plpgsql,
    SqlFunction,
    DoBlock,
    DynamicSql,
    Procedure,
    Operator,
    Aggregate,
    Domain,
    CheckConstraint,
    RowSecurity,
    EventTrigger,
    RowTrigger,
    DeferredTrigger,
    CreateTableAs,
    SelectInto,
    CopyQuery,
    Cursor,
    AsLegacy,
    AsSuperuser,
    SetRole,
    Savepoint,
    PreparedTransaction,
    Swallowed,
    Dblink,
];
/// Ways for what has a plan.
const PLANNED: &[Path] = &[CachedPlan, CachedExplained, CachedFunction, AtomicBody, ExplainAnalyze];
/// Ways for what names a table to write.
const VIEWS: &[Path] = &[View, BarrierView];
/// Ways for what a rule can do, or be done instead of.
const REWRITTEN: &[Path] = &[WithQuery, Rule, InsteadOf, RuleView];

impl Kind {
    /// The paths that such a statement can take.
    pub fn paths(self) -> impl Iterator<Item = Path> {
        let lists: &[&[Path]] = match self {
            Kind::Write => &[FUNCTIONS, PLANNED, VIEWS, REWRITTEN],
            Kind::Upsert => &[FUNCTIONS, PLANNED, VIEWS, &[WithQuery, Rule]],
            Kind::Compound => &[FUNCTIONS, PLANNED],
            Kind::Query => &[FUNCTIONS, &[AtomicBody, ExplainAnalyze]],
            Kind::Command => &[FUNCTIONS],
            Kind::TopLevel => &[&[Plain, Extended]],
            Kind::Script => &[&[Plain]],
            Kind::Copy => &[&[CopyText, CopyCsv, CopyBinary]],
        };
        lists.iter().copied().flatten().copied()
    }
}

impl Path {
    /// Whose privileges count.
    pub fn rights(self) -> Rights {
        match self {
            AsSuperuser | Rule => Rights::Superuser,
            AsLegacy | SetRole => Rights::Legacy,
            _ => Rights::Own,
        }
    }

    /// Whether the server reaches the statement with the fields of the refusal intact.
    pub fn keeps_fields(self) -> bool {
        self != Dblink
    }
}

/// A statement with at most one parameter, written `{10}`.
pub struct Statement {
    /// With the value.
    pub literal: String,
    /// With `$1`.
    pub parameterised: String,
    /// The value.
    pub argument: Option<i32>,
}

impl Statement {
    /// Finds the parameter, if there is one.
    pub fn parse(sql: &str) -> Statement {
        for (start, _) in sql.match_indices('{') {
            let Some(length) = sql[start..].find('}') else { break };
            if let Ok(argument) = sql[start + 1..start + length].parse::<i32>() {
                let (before, after) = (&sql[..start], &sql[start + length + 1..]);
                return Statement {
                    literal: format!("{before}{argument}{after}"),
                    parameterised: format!("{before}$1{after}"),
                    argument: Some(argument),
                };
            }
        }
        Statement { literal: sql.to_owned(), parameterised: sql.to_owned(), argument: None }
    }

    /// `(int)` for the head of a PREPARE or function.
    pub fn parameters(&self) -> &'static str {
        if self.argument.is_some() { "(int)" } else { "" }
    }

    /// `(10)` for the call.
    pub fn arguments(&self) -> String {
        self.argument.map_or(String::new(), |argument| format!("({argument})"))
    }
}

/// How a statement is sent.
#[derive(Clone, Default)]
pub enum Protocol {
    /// As text, alone.
    #[default]
    Simple,
    /// Parsed, bound to its parameter if it has one, executed.
    Extended(Option<i32>),
    /// As text; what comes back is COPY's.
    CopyOut,
    /// As text, and then what a superuser gets from this COPY TO STDOUT.
    CopyIn(String),
}

/// How a statement takes a path.
#[derive(Default)]
pub struct Way {
    /// What a superuser puts in place before.
    pub carrier: Option<String>,
    /// What the session does before, which succeeds.
    pub before: Vec<String>,
    /// What decides.
    pub decisive: String,
    /// How that is sent.
    pub protocol: Protocol,
    /// What the session does afterwards, whatever came of it.
    pub after: Vec<String>,
    /// What a superuser does at last.
    pub completion: Option<String>,
    /// How many times the statement is run.
    pub times: usize,
    /// Whether the client is not told of the refusals.
    pub swallowed: bool,
}

/// A string constant.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The statement inside plpgsql.
pub fn in_plpgsql(kind: Kind, sql: &str) -> String {
    match kind {
        Kind::Query => format!("PERFORM * FROM ({sql}) AS result"),
        _ => sql.to_owned(),
    }
}

impl Way {
    fn simple(decisive: String) -> Way {
        Way { decisive, times: 1, ..Way::default() }
    }

    fn before(mut self, sql: impl Into<String>) -> Way {
        self.before.push(sql.into());
        self
    }

    fn after(mut self, sql: impl Into<String>) -> Way {
        self.after.push(sql.into());
        self
    }

    /// The way of `statement` along `path`; none for those that need preparation long before.
    pub fn along(path: Path, kind: Kind, statement: &Statement) -> Option<Way> {
        let sql = &statement.literal;
        let text = quote(sql);
        let calling = |function: &str| Way::simple(format!("SELECT carriers.{function}({text})"));
        let function = |body: String| {
            let (parameters, arguments) = match statement.argument {
                Some(argument) => ("(int)", format!("({argument})")),
                None => ("()", "()".to_owned()),
            };
            Way::simple(format!("SELECT pg_temp.attempt{arguments}")).before(format!(
                "DROP FUNCTION IF EXISTS pg_temp.attempt, pg_temp.attempt(int);
                 CREATE FUNCTION pg_temp.attempt{parameters} RETURNS void {body}"
            ))
        };
        let parameterised = &statement.parameterised;
        let in_schema = |schema: &str| Way::simple(sql.replace("shop.", &format!("{schema}.")));
        Some(match path {
            CachedPlan | CachedExplained | CachedFunction => return None,
            Plain if kind == Kind::Script => Way::simple(sql.clone()).before("BEGIN").after("ROLLBACK"),
            Plain => Way::simple(sql.clone()),
            Extended => Way { protocol: Protocol::Extended(statement.argument), ..Way::simple(parameterised.clone()) },
            Plpgsql => {
                let body = in_plpgsql(kind, parameterised);
                function(format!("LANGUAGE plpgsql AS $try$BEGIN {body}; END$try$"))
            }
            SqlFunction => function(format!("LANGUAGE sql AS $try${parameterised}$try$")),
            AtomicBody => function(format!("BEGIN ATOMIC {parameterised}; END")),
            DoBlock => Way::simple(format!("DO $try$BEGIN {}; END$try$", in_plpgsql(kind, sql))),
            DynamicSql => {
                let using = statement.argument.map_or(String::new(), |argument| format!(" USING {argument}"));
                Way::simple(format!("DO $try$BEGIN EXECUTE {}{using}; END$try$", quote(parameterised)))
            }
            Procedure => Way::simple(format!("CALL carriers.call({text})")),
            Operator => Way::simple(format!("SELECT OPERATOR(carriers.!!!) {text}")),
            Aggregate => Way::simple(format!("SELECT carriers.gather(s) FROM (VALUES ({text})) AS v (s)")),
            Domain => Way::simple(format!("SELECT {text}::carriers.checked")),
            CheckConstraint => Way::simple(format!("INSERT INTO carriers.listed VALUES ({text})")),
            RowSecurity => Way::simple("SELECT * FROM carriers.secured".to_owned())
                .before("BEGIN")
                .before(format!("SET LOCAL try.statement = {text}"))
                .after("ROLLBACK"),
            EventTrigger => Way::simple("CREATE TEMP TABLE overheard (id int)".to_owned())
                .before("BEGIN")
                .before(format!("SET LOCAL try.statement = {text}"))
                .after("ROLLBACK"),
            RowTrigger => Way::simple(format!("INSERT INTO carriers.bell VALUES ({text})")),
            DeferredTrigger => Way::simple("COMMIT".to_owned())
                .before("BEGIN")
                .before(format!("INSERT INTO carriers.late VALUES ({text})")),
            CreateTableAs => Way::simple("CREATE TEMP TABLE made AS EXECUTE make".to_owned())
                .before("DEALLOCATE ALL")
                .before(format!("PREPARE make AS SELECT carriers.run({text})"))
                .before("BEGIN")
                .after("ROLLBACK"),
            SelectInto => Way::simple(format!("SELECT carriers.run({text}) AS done INTO TEMP made"))
                .before("BEGIN")
                .after("ROLLBACK"),
            CopyQuery => Way {
                protocol: Protocol::CopyOut,
                ..Way::simple(format!("COPY (SELECT carriers.run({text}) AS done) TO STDOUT"))
            },
            ExplainAnalyze => Way::simple(format!("EXPLAIN ANALYZE {sql}")),
            WithQuery => {
                let returning = if sql.contains(" RETURNING ") { "" } else { " RETURNING 1" };
                Way::simple(format!("WITH written AS ({sql}{returning}) SELECT count(*) FROM written"))
            }
            Cursor => Way::simple("FETCH ALL FROM opened".to_owned())
                .before("BEGIN")
                .before(format!("DECLARE opened CURSOR FOR SELECT carriers.run({text})"))
                .after("ROLLBACK"),
            Rule => {
                let action = match statement.argument {
                    Some(_) => parameterised.replace("$1", "new.k"),
                    None => sql.clone(),
                };
                let knock = format!("INSERT INTO carriers.door VALUES ({})", statement.argument.unwrap_or_default());
                let rule = format!("CREATE OR REPLACE RULE knock AS ON INSERT TO carriers.door DO INSTEAD ({action})");
                Way { carrier: Some(rule), ..Way::simple(knock) }
            }
            View => in_schema("shop_view"),
            BarrierView => in_schema("shop_barrier"),
            InsteadOf => in_schema("shop_instead"),
            RuleView => in_schema("shop_rules"),
            AsLegacy => calling("run_as_legacy"),
            AsSuperuser => calling("run_as_superuser"),
            SetRole => Way::simple(sql.clone()).before("SET ROLE :legacy").after("RESET ROLE"),
            Savepoint => {
                Way::simple(sql.clone()).before("BEGIN; SAVEPOINT s").after("ROLLBACK TO s; RELEASE s; COMMIT")
            }
            PreparedTransaction => Way {
                completion: Some("COMMIT PREPARED ':database'".to_owned()),
                ..Way::simple(sql.clone())
                    .before("BEGIN; SAVEPOINT s")
                    .after("ROLLBACK TO s")
                    .after("PREPARE TRANSACTION ':database'")
            },
            Swallowed => Way {
                swallowed: true,
                times: 3,
                ..Way::simple(format!(
                    "DO $try$BEGIN FOR n IN 1..3 LOOP
                         BEGIN EXECUTE {text}; EXCEPTION WHEN OTHERS THEN NULL; END;
                     END LOOP; END$try$"
                ))
            },
            Dblink => calling("elsewhere"),
            CopyText => copy_in(sql, "text")?,
            CopyCsv => copy_in(sql, "csv")?,
            CopyBinary => copy_in(sql, "binary")?,
        })
    }
}

/// COPY of `into <- rows`.
fn copy_in(sql: &str, format: &str) -> Option<Way> {
    let (into, rows) = sql.split_once(" <- ")?;
    Some(Way {
        protocol: Protocol::CopyIn(format!("COPY ({rows}) TO STDOUT (FORMAT {format})")),
        ..Way::simple(format!("COPY {into} FROM STDIN (FORMAT {format})"))
    })
}
