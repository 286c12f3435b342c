//! What is recorded of a refusal.

use serde::{Deserialize, Serialize};

use super::rules::{Attempt, Refusal};

/// What became of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was.
    Refused,
    /// It would have been; the rule's mode is `observe`.
    Observed,
    /// It ran in break-glass: a rule would have refused it, or it is on record because of the glass alone.
    #[serde(rename = "break_glass")]
    BreakGlass,
}

impl Outcome {
    /// The word stored in the event table.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Refused => "refused",
            Outcome::Observed => "observed",
            Outcome::BreakGlass => "break_glass",
        }
    }
}

/// Who was refused, as the server sees the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `session_user`.
    pub role: String,
    /// application_name at that moment.
    pub application_name: String,
    /// The client's address; none for a Unix socket.
    pub client: Option<String>,
    /// The server process.
    pub pid: i32,
    /// The statement that the client sent, as the setting `holdfast.audit_query` allows.
    pub query: Option<String>,
}

/// One recorded refusal, on its way from the session to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, in microseconds since 2000-01-01 UTC, as Postgres counts.
    pub at: i64,
    /// Refused, observed, or let pass in break-glass.
    pub outcome: Outcome,
    /// The rule's name; none where break-glass alone is the reason to record.
    pub rule: Option<String>,
    /// The rule's SQLSTATE.
    pub sqlstate: Option<String>,
    /// The session's backend.
    pub backend: Option<String>,
    /// The command.
    pub command: String,
    /// The table's schema.
    pub schema: Option<String>,
    /// The table's name.
    pub table: Option<String>,
    /// The tenant's canonical key.
    pub tenant: Option<String>,
    /// The tenant's owner.
    pub owner: Option<String>,
    /// The message that the client saw or would have seen.
    pub message: String,
    /// Who.
    pub origin: Origin,
}

impl Event {
    /// Describes a refusal.
    pub fn new(refusal: &Refusal, outcome: Outcome, at: i64, origin: Origin) -> Event {
        let rule = Some(refusal.rule.name().to_owned());
        let sqlstate = Some(refusal.rule.sqlstate().to_owned());
        let message = refusal.message.clone();
        Event { outcome, rule, sqlstate, ..Event::in_break_glass(&refusal.attempt, message, at, origin) }
    }

    /// Describes what no rule refuses, but is done in break-glass.
    pub fn in_break_glass(attempt: &Attempt, message: String, at: i64, origin: Origin) -> Event {
        Event {
            at,
            outcome: Outcome::BreakGlass,
            rule: None,
            sqlstate: None,
            backend: attempt.backend.clone(),
            command: attempt.command.clone(),
            schema: attempt.table.as_ref().map(|t| t.schema.clone()),
            table: attempt.table.as_ref().map(|t| t.name.clone()),
            tenant: attempt.tenant.clone(),
            owner: attempt.owner.clone(),
            message,
            origin,
        }
    }

    /// Whether it tells that break-glass began or ended.
    pub fn is_of_glass_itself(&self) -> bool {
        let command = matches!(self.command.as_str(), "break_glass" | "end_break_glass");
        self.outcome == Outcome::BreakGlass && self.rule.is_none() && command
    }

    /// The event as bytes of at most `limit`: what a user supplied is cut, longest first, until it fits.
    ///
    /// # Errors
    /// When even an event without any of it doesn't fit, which no limit of at least 2,048 bytes meets.
    pub fn encode(mut self, limit: usize) -> Result<Vec<u8>, TooLong> {
        loop {
            let bytes = serde_json::to_vec(&self).map_err(|_| TooLong)?;
            if bytes.len() <= limit {
                return Ok(bytes);
            }
            let fields = [
                self.origin.query.as_mut(),
                Some(&mut self.message),
                self.tenant.as_mut(),
                Some(&mut self.origin.application_name),
            ];
            let longest =
                fields.into_iter().flatten().max_by_key(|f| f.len()).filter(|f| f.len() > 64).ok_or(TooLong)?;
            // Escaping makes a byte up to six; halving gets there in a few rounds and keeps the beginning.
            longest.truncate(longest.floor_char_boundary(longest.len() / 2));
            longest.push('…');
        }
    }

    /// Reads what [`Event::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not an event.
    pub fn decode(bytes: &[u8]) -> Result<Event, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// An event that doesn't fit where it should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

#[cfg(test)]
mod tests {
    use super::super::rules::TableName;
    use super::*;

    fn event(query: &str, tenant: &str) -> Event {
        let attempt = Attempt {
            backend: Some("rebuilt".into()),
            command: "UPDATE".into(),
            table: Some(TableName { schema: "public".into(), name: "agents".into() }),
            tenant: Some(tenant.into()),
            owner: Some("legacy".into()),
            classified: None,
        };
        let origin = Origin { role: "rb".into(), pid: 7, query: Some(query.into()), ..Origin::default() };
        Event::new(&Refusal::not_owner(attempt), Outcome::Refused, 1, origin)
    }

    #[test]
    fn an_event_survives_the_queue() {
        let event = event("UPDATE agents SET name = 'é\u{1}\"\\'", "42");
        let bytes = event.clone().encode(4000).unwrap_or_default();
        assert_eq!(Event::decode(&bytes).ok(), Some(event));
    }

    #[test]
    fn what_users_supply_is_cut_to_fit() {
        for (query, tenant) in [
            ("é".repeat(1_000_000), "42".to_owned()),
            ("\u{1}".repeat(100_000), "42".to_owned()),
            ("x".to_owned(), "ü".repeat(50_000)),
            ("x".repeat(9_000), "\"".repeat(9_000)),
        ] {
            let bytes = event(&query, &tenant).encode(2_048).unwrap_or_default();
            assert!(!bytes.is_empty() && bytes.len() <= 2_048);
            let read = Event::decode(&bytes).ok();
            assert_eq!(read.and_then(|e| e.rule), Some("not_owner".to_owned()));
        }
    }
}
