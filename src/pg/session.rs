//! Who this session is, and the policy in force. Everything is cached for the life of the process and read again when
//! `invalidation` says so.
//!
//! No borrow of a cell is held across a call into Postgres: such a call may run our invalidation callbacks, or raise an
//! error.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::net::IpAddr;
use std::rc::Rc;

use pgrx::{Inet, direct_function_call, pg_sys};

use super::catalog::{Catalog, Classification, Installation};
use super::process::process_local;
use super::stats::{self, Counts};
use super::{audit, compat, credential, end_date, gucs, invalidation, reading};
use crate::policy::identity::{Claims, Identity, Login};
use crate::policy::limits::Limits;
use crate::policy::set::PolicySet;
use crate::policy::token::Credential;

/// What a hook or the row guard needs to know of the session.
#[derive(Clone)]
pub struct Session {
    /// The extension's tables.
    pub catalog: Catalog,
    /// The policy.
    pub policy: Rc<Policy>,
    /// Who the session is.
    pub who: Rc<Who>,
}

/// The policy as it was read at once.
pub struct Policy {
    /// What the pure layer decides from.
    pub set: PolicySet,
    /// How each classified table is classified.
    pub classified: BTreeMap<u32, Classification>,
    /// The tables from whose rows those of others get their tenants.
    pub parents: BTreeSet<u32>,
    /// When this process looks at the end date again.
    pub next_look: Cell<i64>,
}

/// The session's identity and what follows from it.
pub struct Who {
    /// Counts what the session has been, and under which policies.
    pub serial: u64,
    /// Its backend.
    pub identity: Identity,
    /// Its login role.
    pub login_role: String,
    /// Whether no rule is on for it.
    pub all_off: bool,
    /// Where it counts what rules are asked.
    pub counts: &'static Counts,
}

impl Session {
    /// The limits of its backend.
    pub fn limits(&self) -> &Limits {
        self.who.identity.name().map_or(&Limits::DEFAULT, |backend| self.policy.set.limits_of(backend))
    }
}

#[derive(Clone, Copy)]
enum Presence {
    Unknown,
    Absent,
    Present(Catalog),
}

#[derive(PartialEq)]
struct Basis {
    session_role: pg_sys::Oid,
    application_name: String,
    claim: Option<String>,
    credential: Option<Credential>,
    lent: bool,
}

/// An identity, and all that it was decided from.
struct Decided {
    policy: Rc<Policy>,
    basis: Basis,
    who: Rc<Who>,
}

impl Decided {
    /// Whether it still is the identity, which can be told from this process's memory alone; and no reminder is due, which is
    /// written by who finds everything out anew.
    fn is_in_force(&self, policy: &Rc<Policy>) -> bool {
        Rc::ptr_eq(&self.policy, policy)
            && !credential::is_shown()
            && self.basis.holds(&None)
            && !end_date::is_due(policy)
    }
}

struct State {
    presence: Cell<Presence>,
    watched: Cell<Option<Catalog>>,
    policy: RefCell<Option<Rc<Policy>>>,
    login: RefCell<Option<Rc<Login>>>,
    who: RefCell<Option<Decided>>,
    /// Counts them.
    decisions: Cell<u64>,
    worker: Cell<bool>,
    operating: Cell<bool>,
}

process_local! {
    static STATE: State = const {
        State {
            presence: Cell::new(Presence::Unknown),
            watched: Cell::new(None),
            policy: RefCell::new(None),
            login: RefCell::new(None),
            who: RefCell::new(None),
            decisions: Cell::new(0),
            worker: Cell::new(false),
            operating: Cell::new(false),
        }
    };
}

/// Whether the guard has nothing to do with what runs in this process, or can't look: no transaction or an aborted one,
/// single-user mode, binary upgrade, a parallel worker (its leader was checked), autovacuum, our own worker.
///
/// Called first by every hook, also in databases without the extension, so it costs a few loads.
pub fn inert() -> bool {
    // SAFETY: plain reads of the server's globals by its only thread; the functions have no precondition.
    let outside = unsafe {
        !pg_sys::IsUnderPostmaster
            || pg_sys::IsBinaryUpgrade
            || pg_sys::ParallelWorkerNumber >= 0
            || pg_sys::MyDatabaseId == pg_sys::InvalidOid
    };
    outside || known_absent() || !gucs::enabled() || STATE.with(|s| s.worker.get() || s.operating.get())
}

/// Whether the policy caps times, as far as is known without reading it.
pub fn may_cap_times() -> bool {
    STATE.with(|s| s.policy.borrow().as_ref().is_none_or(|policy| policy.set.caps_times()))
}

fn known_absent() -> bool {
    STATE.with(|s| matches!(s.presence.get(), Presence::Absent))
}

/// Marks this process as the extension's own worker.
pub fn become_worker() {
    STATE.with(|s| s.worker.set(true));
}

/// Runs a statement of the extension's own: as the extension's owner, with names that nothing of a user's hides, and with the guard
/// out of the way. Who may call the functions that this is for is a matter of privileges, so an operator whose session belongs to
/// an unproven backend isn't stopped by the guard that the call is about.
pub fn operate<R>(statement: impl FnOnce() -> R) -> R {
    let _operation = Operation::begin();
    reading::with_pinned_names(statement)
}

/// The role and the guard as they were before.
struct Operation {
    operating: bool,
    role: pg_sys::Oid,
    context: i32,
}

impl Operation {
    fn begin() -> Operation {
        let (mut role, mut context) = (pg_sys::InvalidOid, 0);
        // Without the catalog its script is running, as its owner.
        let owner = catalog().map(|catalog| catalog.owner);
        // SAFETY: the role is changed as for a SECURITY DEFINER function, and changed back. The functions aren't declared so:
        // a server with the extension in template1 then passes Postgres's own test that its built-in functions have none such.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
            let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
            pg_sys::SetUserIdAndSecContext(owner.unwrap_or(role), context | local);
        }
        Operation { operating: STATE.with(|s| s.operating.replace(true)), role, context }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        STATE.with(|s| s.operating.set(self.operating));
        // SAFETY: what it was before; raises no error.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) };
    }
}

/// Whether one of our own functions' statements runs.
pub fn is_operating() -> bool {
    STATE.with(|s| s.operating.get())
}

/// An apply worker: an error there stops replication for ever, so it is observed and never refused.
pub fn only_observed() -> bool {
    // SAFETY: reads a global of the process.
    unsafe { pg_sys::IsLogicalWorker() }
}

/// Whether code of a table's owner runs here because somebody maintains the table: ANALYZE, REINDEX, REFRESH, autovacuum.
/// What the session is says nothing about it then.
fn is_lent() -> bool {
    // SAFETY: reads of the process's globals, which raise no error. An apply worker restricts itself, too, from version 16 on.
    unsafe { compat::InSecurityRestrictedOperation() && !pg_sys::IsLogicalWorker() }
}

/// The session's facts; none where the guard is inert.
pub fn current() -> Option<Session> {
    if inert() { None } else { load() }
}

/// Hears of what other sessions have committed; whether the guard may have something to do with what runs here. A plain frame.
pub fn listen() -> bool {
    // SAFETY: inside a transaction; nothing here needs to be dropped if it raises an error.
    unsafe {
        if inert() || !compat::IsTransactionState() {
            return false;
        }
        compat::AcceptInvalidationMessages();
    }
    true
}

/// The session's facts as they were found last, if nothing that this process has heard of has changed them since. They are asked
/// for where somebody has listened for this statement already.
pub fn as_heard() -> Option<Session> {
    if inert() { None } else { known() }
}

/// Looks at who the session is, if that is known as for [`as_heard`]. A plain frame, as long as `look` calls nothing of Postgres
/// that may raise an error.
pub fn glance<R>(look: impl FnOnce(&Rc<Who>) -> R) -> Option<R> {
    let Presence::Present(_) = STATE.presence.get() else { return None };
    let (policy, decided) = (STATE.policy.try_borrow().ok()?, STATE.who.try_borrow().ok()?);
    let (policy, decided) = (policy.as_ref()?, decided.as_ref()?);
    decided.is_in_force(policy).then(|| look(&decided.who))
}

fn known() -> Option<Session> {
    let Presence::Present(catalog) = STATE.presence.get() else { return None };
    let (policy, decided) = (STATE.policy.borrow(), STATE.who.borrow());
    let (policy, decided) = (policy.as_ref()?, decided.as_ref()?);
    let session = || Session { catalog, policy: policy.clone(), who: decided.who.clone() };
    decided.is_in_force(policy).then(session)
}

/// The session's facts, whether or not the guard is on; none where the extension isn't, or catalogs can't be read.
pub fn load() -> Option<Session> {
    // SAFETY: has no precondition. In an aborted transaction catalogs can't be read.
    if !unsafe { compat::IsTransactionState() } {
        return None;
    }
    // What other sessions committed counts from this statement on, also where no new lock made Postgres look.
    // SAFETY: inside a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if let Some(session) = known() {
        return Some(session);
    }
    let catalog = catalog()?;
    let policy = policy(&catalog);
    end_date::look(&policy);
    let who = who(&catalog, &policy);
    Some(Session { catalog, policy, who })
}

fn catalog() -> Option<Catalog> {
    invalidation::register();
    match STATE.with(|s| s.presence.get()) {
        Presence::Present(catalog) => return Some(catalog),
        Presence::Absent => return None,
        Presence::Unknown => {}
    }
    let (presence, catalog) = match Catalog::find() {
        Installation::Complete(catalog) => (Presence::Present(catalog), Some(catalog)),
        Installation::Absent => (Presence::Absent, None),
        Installation::Partial => (Presence::Unknown, None),
    };
    STATE.with(|s| {
        s.presence.set(presence);
        if catalog.is_some() {
            s.watched.set(catalog);
        }
    });
    catalog
}

fn policy(catalog: &Catalog) -> Rc<Policy> {
    if let Some(policy) = STATE.with(|s| s.policy.borrow().clone()) {
        return policy;
    }
    loop {
        let before = invalidation::policy_generation();
        let classified: BTreeMap<_, _> = catalog.load_classifications().into_iter().collect();
        let parents = classified.values().filter_map(|c| c.parent).collect();
        let policy = Rc::new(Policy { set: catalog.load_policy(), classified, parents, next_look: Cell::new(0) });
        // A change that was committed while we read makes what we read a mixture.
        if invalidation::policy_generation() == before {
            STATE.with(|s| *s.policy.borrow_mut() = Some(policy.clone()));
            audit::schedule::announce(policy.set.waves_watched);
            return policy;
        }
    }
}

impl Basis {
    /// What an identity is decided from now.
    fn now(credential: Option<Credential>) -> Basis {
        Basis {
            // SAFETY: has no precondition in a session.
            session_role: unsafe { compat::GetSessionUserId() },
            // SAFETY: a C string whenever a session runs, or null before.
            application_name: unsafe { text(pg_sys::application_name) },
            claim: gucs::claimed_backend(),
            credential,
            lent: is_lent(),
        }
    }

    /// Whether that hasn't changed. Asked several times in each statement, so it copies nothing.
    fn holds(&self, credential: &Option<Credential>) -> bool {
        // SAFETY: has no precondition in a session; application_name is a C string whenever one runs, or null before.
        let (session_role, application_name) = unsafe { (compat::GetSessionUserId(), bytes(pg_sys::application_name)) };
        self.session_role == session_role
            && self.application_name.as_bytes() == application_name
            && gucs::claims(self.claim.as_deref())
            && self.credential == *credential
            && self.lent == is_lent()
    }
}

fn who(catalog: &Catalog, policy: &Rc<Policy>) -> Rc<Who> {
    let credential = credential::current(&policy.set.keys);
    let cached = STATE.with(|s| match &*s.who.borrow() {
        Some(d) if Rc::ptr_eq(&d.policy, policy) && d.basis.holds(&credential) => Some(d.who.clone()),
        _ => None,
    });
    if let Some(who) = cached {
        return who;
    }
    let basis = Basis::now(credential);
    let login = login();
    let claims = Claims {
        session_role: role_name(basis.session_role),
        application_name: basis.application_name.clone(),
        backend: basis.claim.clone(),
    };
    let identity = policy.set.identify(&login, basis.credential.as_ref(), &claims);
    let identity = if basis.lent { identity.lent() } else { identity };
    let all_off = !policy.set.is_complete() || policy.set.modes.all_off(identity.name());
    let counts = stats::counts_of(catalog.extension, identity.name());
    let serial = STATE.decisions.get() + 1;
    STATE.decisions.set(serial);
    let who = Rc::new(Who { serial, identity, login_role: login.role.clone(), all_off, counts });
    STATE.with(|s| *s.who.borrow_mut() = Some(Decided { policy: policy.clone(), basis, who: who.clone() }));
    who
}

/// Whether the session is still who it was, as far as it has heard. Touches this process's memory only. A plain frame.
pub fn is_still(who: &Rc<Who>) -> bool {
    glance(|now| Rc::ptr_eq(now, who)).unwrap_or(false)
}

/// What is known of the login. It can't change during a session, but for names.
fn login() -> Rc<Login> {
    if let Some(login) = STATE.with(|s| s.login.borrow().clone()) {
        return login;
    }
    // SAFETY: catalog look-ups inside a transaction. The reset value of application_name is what the client sent at
    // login: SET leaves it alone.
    let (role, database, application_name) = unsafe {
        (
            role_name(pg_sys::GetAuthenticatedUserId()).unwrap_or_default(),
            text(pg_sys::get_database_name(pg_sys::MyDatabaseId)),
            text(pg_sys::GetConfigOptionResetString(c"application_name".as_ptr())),
        )
    };
    let login = Rc::new(Login { role, database, application_name, client: client_address() });
    STATE.with(|s| *s.login.borrow_mut() = Some(login.clone()));
    login
}

/// The database's name as it was when the session's identity was decided.
pub fn database_name() -> String {
    login().database.clone()
}

/// application_name as it is now; none where there is no client.
pub fn application_name() -> Option<String> {
    // SAFETY: a C string whenever a session runs, or null before.
    Some(unsafe { text(pg_sys::application_name) })
}

/// The client's address; none for a Unix socket or a process without a client.
pub fn client_address() -> Option<IpAddr> {
    // SAFETY: the function reads the process's connection, if it has one, and takes no arguments.
    let address: Option<Inet> = unsafe { direct_function_call(pg_sys::inet_client_addr, &[]) };
    address?.0.split(['/', '%']).next()?.parse().ok()
}

/// The name of a role, if it still exists.
pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a syscache look-up inside a transaction; with noerr a missing role gives null.
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    // SAFETY: null or a C string.
    (!name.is_null()).then(|| unsafe { text(name) })
}

/// A C string of the server as text; null is empty.
///
/// # Safety
/// `string` is null or a valid C string.
pub unsafe fn text(string: *const std::ffi::c_char) -> String {
    // SAFETY: the caller's.
    String::from_utf8_lossy(unsafe { bytes(string) }).into_owned()
}

/// The bytes of a C string of the server; null has none.
///
/// # Safety
/// `string` is null or a valid C string, and stays as it is.
unsafe fn bytes<'a>(string: *const std::ffi::c_char) -> &'a [u8] {
    // SAFETY: not null, and the caller vouches for the rest.
    if string.is_null() { &[] } else { unsafe { CStr::from_ptr(string) }.to_bytes() }
}

/// For `invalidation`: the extension may have come or gone.
pub(super) fn forget_presence() {
    STATE.with(|s| s.presence.set(Presence::Unknown));
}

/// For `invalidation`: where the extension was found absent it may be back.
pub(super) fn doubt_absence() {
    if known_absent() {
        forget_presence();
        forget_policy();
    }
}

/// For `invalidation`: the policy must be read again.
pub(super) fn forget_policy() {
    STATE.with(|s| {
        // Nobody holds a borrow across a call into Postgres, hence not while a callback runs.
        if let Ok(mut policy) = s.policy.try_borrow_mut() {
            *policy = None;
        }
        if let Ok(mut login) = s.login.try_borrow_mut() {
            *login = None;
        }
    });
}

/// For `invalidation`: the tables whose changes matter, also while it is doubted that they are still there; none as long as
/// this session has read nothing from any.
pub(super) fn watched() -> Option<Catalog> {
    STATE.with(|s| s.watched.get())
}

/// Whether a policy is the one in force, as far as this session has heard.
pub(super) fn is_current(policy: &Rc<Policy>) -> bool {
    STATE.with(|s| s.policy.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, policy)))
}
