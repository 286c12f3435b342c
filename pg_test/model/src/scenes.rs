//! The bounds: who is there, and how much each may do. Within them every order of every choice is tried.

use crate::state::{Backend, Handover, TenantId};
use Backend::{Legacy, Rebuilt};
use Handover::{Cutover, Rollback};

/// A session's part.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// On whose side.
    pub backend: Backend,
    /// The tenants that it may write.
    pub tenants: &'static [TenantId],
    /// How many rows it writes, in transactions as it likes.
    pub writes: u8,
    /// How many savepoints it may set.
    pub savepoints: u8,
    /// Whether it may prepare its transactions.
    pub prepares: bool,
    /// What it hands over, in this order.
    pub handovers: &'static [Handover],
}

/// A scene.
#[derive(Debug)]
pub struct Scene {
    /// What it is about.
    pub name: &'static str,
    /// The sessions.
    pub parts: &'static [Part],
    /// Whether writers also fight for rows.
    pub rows: bool,
    /// How many tenants a transaction locks one by one (`tenants::ESCALATE_AFTER`).
    pub escalate_after: usize,
    /// How many crashes.
    pub crashes: u8,
    /// How many cancels, timeouts and terminations.
    pub interrupts: u8,
}

const NOBODY: Part = Part { backend: Legacy, tenants: &[], writes: 0, savepoints: 0, prepares: false, handovers: &[] };

const fn writer(backend: Backend, tenants: &'static [TenantId], writes: u8) -> Part {
    Part { backend, tenants, writes, ..NOBODY }
}

const fn operator(handovers: &'static [Handover]) -> Part {
    Part { handovers, ..NOBODY }
}

/// All scenes.
pub static SCENES: [Scene; 7] = [
    Scene {
        name: "savepoints",
        parts: &[
            Part { savepoints: 3, ..writer(Legacy, &[0], 4) },
            Part { savepoints: 1, ..writer(Rebuilt, &[0], 2) },
            operator(&[Cutover(0, Rebuilt), Rollback(0)]),
        ],
        rows: false,
        escalate_after: 2,
        crashes: 0,
        interrupts: 1,
    },
    Scene {
        name: "crash",
        parts: &[
            Part { savepoints: 1, ..writer(Legacy, &[0], 3) },
            writer(Rebuilt, &[0], 3),
            operator(&[Cutover(0, Rebuilt), Rollback(0)]),
        ],
        rows: false,
        escalate_after: 2,
        crashes: 2,
        interrupts: 2,
    },
    Scene {
        name: "prepared transaction",
        parts: &[
            Part { prepares: true, savepoints: 1, ..writer(Legacy, &[0, 1], 3) },
            writer(Rebuilt, &[0], 2),
            operator(&[Cutover(0, Rebuilt), Rollback(0)]),
        ],
        rows: false,
        escalate_after: 1,
        crashes: 1,
        interrupts: 1,
    },
    Scene {
        name: "all tenants",
        parts: &[
            Part { savepoints: 1, ..writer(Legacy, &[0, 1], 3) },
            writer(Rebuilt, &[0, 1], 2),
            operator(&[Cutover(0, Rebuilt)]),
            operator(&[Cutover(1, Rebuilt)]),
        ],
        rows: false,
        escalate_after: 1,
        crashes: 0,
        interrupts: 1,
    },
    Scene {
        name: "two operators",
        parts: &[
            writer(Legacy, &[0], 3),
            writer(Rebuilt, &[0], 2),
            operator(&[Cutover(0, Rebuilt), Rollback(0)]),
            operator(&[Cutover(0, Rebuilt), Cutover(0, Legacy)]),
        ],
        rows: false,
        escalate_after: 2,
        crashes: 1,
        interrupts: 1,
    },
    Scene {
        name: "row locks",
        parts: &[
            writer(Legacy, &[0, 1], 3),
            writer(Legacy, &[0, 1], 2),
            writer(Legacy, &[0, 1], 1),
            operator(&[Cutover(0, Rebuilt)]),
        ],
        rows: true,
        escalate_after: 1,
        crashes: 0,
        interrupts: 0,
    },
    Scene {
        name: "an operator who writes",
        parts: &[
            Part { savepoints: 2, handovers: &[Cutover(0, Rebuilt)], ..writer(Legacy, &[0], 3) },
            writer(Rebuilt, &[0], 2),
            writer(Legacy, &[0], 2),
        ],
        rows: false,
        escalate_after: 2,
        crashes: 1,
        interrupts: 1,
    },
];

impl Scene {
    /// The scene of a name.
    pub fn named(name: &str) -> Option<&'static Scene> {
        SCENES.iter().find(|scene| scene.name == name)
    }
}
