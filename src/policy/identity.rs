//! Which backend a session belongs to. Claims can only restrict.
//!
//! 1. Identity rules that rest on what the server knows (login role, database, client network) give the *base*: the
//!    first match by priority, else the default backend.
//!    A *token* that is signed with a registered key takes the base's place.
//! 2. A rule with an application_name pattern rests on what the client says. Like the other claims (the setting
//!    `holdfast.backend`, a superuser's SET SESSION AUTHORIZATION) it moves a session to a backend of lower trust, never
//!    higher. One exception: a session that would otherwise be unidentified may be identified by the application_name it
//!    logged in with, since the DBA who wrote such a rule and no default asked for just that.
//! 3. A rule is for the role that it was added for, by its number. Where that role has been dropped or renamed, its name is left
//!    behind, and another role may come to bear it: by DROP ROLE and CREATE ROLE, as tools for deployment do it. To take that one
//!    for the first would let whoever may create roles come by a proven backend; to take no notice of the name would make the unproven
//!    backend's role the default backend's, which is proven most of the time. So a name that is left behind is one more claim: it
//!    lowers trust, never raises it, until the DBA has added the rule anew.
//! 4. Who is unidentified may not write what is guarded, and that is all. So a session that every rule binds stays bound when it
//!    becomes unidentified, by its own claim or by the code it runs: otherwise that would be a way out.

use std::net::IpAddr;

use super::backend::{Backend, Trust};
use super::token::Credential;

/// A rule that maps sessions to a backend. A condition that is `None` holds for every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRule {
    /// Its number, for `drop_identity`.
    pub id: i64,
    /// The backend it names.
    pub backend: String,
    /// The login role.
    pub role: Option<String>,
    /// Whether the role that the rule was added for doesn't bear this name any more.
    pub left_behind: bool,
    /// The database.
    pub database: Option<String>,
    /// A LIKE pattern for application_name.
    pub application_name: Option<String>,
    /// The client's network.
    pub client_network: Option<Network>,
    /// Smaller comes first; equal priorities in order of `id`.
    pub priority: i32,
}

impl IdentityRule {
    /// The rule as it holds for another role that has come to bear the name which its own had; none while that one still has it.
    pub fn left_behind_as(&self, name: String) -> Option<IdentityRule> {
        let gone = self.role.as_ref().is_some_and(|role| *role != name);
        gone.then(|| IdentityRule { role: Some(name), left_behind: true, ..self.clone() })
    }
}

/// A CIDR block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, `::1/128` or a single address.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(width), |p| p.parse().ok())?;
        (prefix <= width).then_some(Network { address, prefix })
    }

    fn contains(&self, client: IpAddr) -> bool {
        match (self.address, client) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - self.prefix;
                u32::from(net).checked_shr(shift) == u32::from(ip).checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - self.prefix;
                u128::from(net).checked_shr(shift) == u128::from(ip).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// What the server knows of a session's login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The role that was authenticated.
    pub role: String,
    /// The database.
    pub database: String,
    /// application_name as it was at login.
    pub application_name: String,
    /// The client's address; none for a Unix socket or no client.
    pub client: Option<IpAddr>,
}

/// What the session says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `session_user` now, where a superuser changed it.
    pub session_role: Option<String>,
    /// application_name now.
    pub application_name: String,
    /// The setting `holdfast.backend`, if not empty.
    pub backend: Option<String>,
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The identity rule of this number.
    Rule(i64),
    /// The default backend.
    Default,
    /// A token, signed with a key that is registered for the backend.
    Token,
    /// The setting `holdfast.backend`.
    Setting,
    /// Nothing matched.
    Nothing,
    /// The setting `holdfast.backend`, which names no backend.
    Unknown,
    /// The session runs the code of a table's owner because it maintains the table.
    Lent,
}

/// The verified answer to "which backend is this session?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The backend and its trust; none if there is none, or if it is proven and the session unidentified.
    pub backend: Option<Backend>,
    /// The backend before any claim.
    pub base: Option<String>,
    /// What decided.
    pub source: Source,
}

impl Identity {
    /// Of code that runs in a session which its backend has nothing to do with.
    pub fn lent(self) -> Identity {
        self.unidentified(Source::Lent)
    }

    fn unidentified(self, source: Source) -> Identity {
        let bound = self.is_bound_by_every_rule();
        Identity { backend: self.backend.filter(|_| bound), source, ..self }
    }

    /// Whether the session may not write what is guarded, whatever its backend may.
    pub fn is_unidentified(&self) -> bool {
        self.backend.is_none() || matches!(self.source, Source::Unknown | Source::Lent)
    }

    /// The backend's name, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.backend.as_ref().map(|b| b.name.as_str())
    }

    /// Whether every rule binds the session: it belongs to a backend that isn't proven.
    pub fn is_bound_by_every_rule(&self) -> bool {
        self.trust().is_some_and(|trust| trust != Trust::Proven)
    }

    /// The backend's trust, if there is one.
    pub fn trust(&self) -> Option<Trust> {
        self.backend.as_ref().map(|b| b.trust)
    }
}

/// Decides a session's identity.
pub fn identify(
    backends: &[Backend],
    rules: &[IdentityRule],
    default: Option<&str>,
    login: &Login,
    credential: Option<&Credential>,
    claims: &Claims,
) -> Identity {
    let directory = Directory { backends, rules };
    let proved = credential.and_then(|credential| directory.backend(&credential.key.backend));
    let (base, source) = match proved {
        Some(backend) => (Some(backend), Source::Token),
        None => directory.base(login, &login.role, default),
    };
    let mut identity = Identity { base: base.map(|b| b.name.clone()), backend: base.cloned(), source };

    if base.is_none()
        && let Some(rule) = directory.first(login, &login.role, Some(&login.application_name))
    {
        identity.backend = directory.backend(&rule.backend).cloned();
        identity.source = Source::Rule(rule.id);
    }
    if let Some(role) = claims.session_role.as_deref().filter(|role| *role != login.role) {
        let (claimed, source) = directory.base(login, role, default);
        restrict(&mut identity, claimed, source);
    }
    let role = claims.session_role.as_deref().unwrap_or(&login.role);
    for application_name in [&login.application_name, &claims.application_name] {
        // A rule whose role is another's by now must not keep one from counting that isn't.
        for left_behind in [false, true] {
            let mut claim = directory.rules().filter(|r| r.application_name.is_some() && r.left_behind == left_behind);
            if let Some(rule) = claim.find(|r| directory.matches(r, login, role, Some(application_name))) {
                restrict(&mut identity, directory.backend(&rule.backend), Source::Rule(rule.id));
            }
        }
    }
    if let Some(name) = &claims.backend {
        match directory.backend(name) {
            Some(claimed) => restrict(&mut identity, Some(claimed), Source::Setting),
            // A claim that nobody can check must not leave the session with more than it asked for.
            None => identity = identity.unidentified(Source::Unknown),
        }
    }
    identity
}

fn restrict(identity: &mut Identity, claimed: Option<&Backend>, source: Source) {
    if let (Some(now), Some(claimed)) = (&identity.backend, claimed)
        && claimed.trust < now.trust
    {
        (identity.backend, identity.source) = (Some(claimed.clone()), source);
    }
}

struct Directory<'a> {
    backends: &'a [Backend],
    rules: &'a [IdentityRule],
}

impl<'a> Directory<'a> {
    fn backend(&self, name: &str) -> Option<&'a Backend> {
        self.backends.iter().find(|b| b.name == name)
    }

    fn rules(&self) -> impl Iterator<Item = &'a IdentityRule> + use<'a> {
        let mut rules: Vec<_> = self.rules.iter().collect();
        rules.sort_by_key(|r| (r.priority, r.id));
        rules.into_iter()
    }

    /// The first rule that matches and is still for its role; without an application_name only rules that rest on what the server
    /// knows.
    fn first(&self, login: &Login, role: &str, application_name: Option<&str>) -> Option<&'a IdentityRule> {
        self.rules().find(|r| !r.left_behind && self.matches(r, login, role, application_name))
    }

    fn base(&self, login: &Login, role: &str, default: Option<&str>) -> (Option<&'a Backend>, Source) {
        let first = self.first(login, role, None);
        let (backend, source) = match first {
            Some(rule) => (self.backend(&rule.backend), Source::Rule(rule.id)),
            None => match default.and_then(|name| self.backend(name)) {
                Some(backend) => (Some(backend), Source::Default),
                None => (None, Source::Nothing),
            },
        };
        let Some(left) = self.left_behind(login, role, first) else { return (backend, source) };
        match self.backend(&left.backend) {
            // Whom nothing else identifies isn't bound by every rule, which such a backend is.
            Some(bound) if bound.trust < backend.map_or(Trust::Proven, |b| b.trust) => {
                (Some(bound), Source::Rule(left.id))
            }
            _ => (backend, source),
        }
    }

    /// The rule that would have counted in place of `first` if its role still had this name. One that names the role itself
    /// says more of it than a name that another had.
    fn left_behind(&self, login: &Login, role: &str, first: Option<&IdentityRule>) -> Option<&'a IdentityRule> {
        let comes_first = |rule: &&IdentityRule| {
            first.is_none_or(|first| first.role.is_none() && (rule.priority, rule.id) < (first.priority, first.id))
        };
        self.rules().filter(|r| r.left_behind && self.matches(r, login, role, None)).find(comes_first)
    }

    fn matches(&self, rule: &IdentityRule, login: &Login, role: &str, application_name: Option<&str>) -> bool {
        rule.role.as_deref().is_none_or(|r| r == role)
            && rule.database.as_deref().is_none_or(|d| d == login.database)
            && rule.client_network.is_none_or(|n| login.client.is_some_and(|c| n.contains(c)))
            && match (&rule.application_name, application_name) {
                (None, _) => true,
                (Some(pattern), Some(name)) => like(pattern, name),
                (Some(_), None) => false,
            }
    }
}

/// SQL's LIKE: `%` any run, `_` any one character, backslash takes the next character as it is.
///
/// Going back to the last `%` alone is enough, which keeps hostile patterns at pattern × text steps.
fn like(pattern: &str, text: &str) -> bool {
    let pattern = parse_like(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Like::Run) => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(one) if one.takes(text[t]) => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after_run, from)) => {
                    retry = Some((after_run, from + 1));
                    (p, t) = (after_run, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == Like::Run)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Like {
    Run,
    Any,
    Char(char),
}

impl Like {
    fn takes(self, c: char) -> bool {
        matches!(self, Like::Any) || self == Like::Char(c)
    }
}

fn parse_like(pattern: &str) -> Vec<Like> {
    let mut chars = pattern.chars();
    std::iter::from_fn(|| {
        Some(match chars.next()? {
            '%' => Like::Run,
            '_' => Like::Any,
            '\\' => Like::Char(chars.next().unwrap_or('\\')),
            c => Like::Char(c),
        })
    })
    .collect()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
