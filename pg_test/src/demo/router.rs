//! The router in front of both backends: which of them serves a tenant now?
//!
//! It keeps a map, follows `NOTIFY holdfast`, asks `holdfast.owner_of` when it doesn't know, and forgets what it
//! knew when a backend is told that it isn't the owner. Nothing more is needed: a stale answer costs one refused
//! transaction, never a wrong write.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use crate::client::Session;

use super::backend::Backend;

/// How long the listener waits before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// The router's knowledge, shared by all who route.
pub struct Router {
    routes: Mutex<HashMap<i32, Backend>>,
    asker: Mutex<Session>,
    asked: AtomicU64,
    heard: AtomicU64,
}

impl Router {
    /// A router that knows nothing yet and asks over `asker`.
    pub fn new(asker: Session) -> Router {
        Router {
            routes: Mutex::default(),
            asker: Mutex::new(asker),
            asked: AtomicU64::new(0),
            heard: AtomicU64::new(0),
        }
    }

    /// The backend that serves `tenant`, as far as is known.
    pub fn backend_of(&self, tenant: i32) -> Result<Backend> {
        if let Some(backend) = self.routes.lock().get(&tenant) {
            return Ok(*backend);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let owner: String = self
            .asker
            .lock()
            .query_one("SELECT holdfast.owner_of($1)", &[&tenant.to_string()])
            .context("asking holdfast.owner_of")?
            .get(0);
        let backend = Backend::named(&owner)?;
        self.routes.lock().insert(tenant, backend);
        Ok(backend)
    }

    /// Forgets what is known about `tenant`: a backend was told that it isn't the owner.
    pub fn forget(&self, tenant: i32) {
        self.routes.lock().remove(&tenant);
    }

    /// Follows the notifications until `stop`. LISTEN must have been sent on `listener`.
    pub fn follow(&self, listener: &mut Session, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let mut notifications = listener.notifications();
            let mut waiting = notifications.timeout_iter(PATIENCE);
            while let Some(notification) = waiting.next().context("waiting for notifications")? {
                self.hear(notification.payload())?;
            }
        }
        Ok(())
    }

    fn hear(&self, payload: &str) -> Result<()> {
        let news: Value =
            serde_json::from_str(payload).with_context(|| format!("a notification is no JSON: {payload}"))?;
        let tenant = news.get("tenant").and_then(Value::as_str).and_then(|tenant| tenant.parse::<i32>().ok());
        let owner = news.get("to").and_then(Value::as_str);
        if let (Some(tenant), Some(owner)) = (tenant, owner) {
            self.heard.fetch_add(1, Ordering::Relaxed);
            self.routes.lock().insert(tenant, Backend::named(owner)?);
        }
        Ok(())
    }

    /// How often it asked, and how many cutovers it heard of.
    pub fn counts(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed))
    }
}
