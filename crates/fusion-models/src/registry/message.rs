//! What the registry is told and asked. The mailbox has no bound because a lease is returned where nobody can wait, in a
//! drop; what may wait is bounded by the queues' lengths.

use std::time::{Duration, Instant};

use fusion_types::{Class, Error, Result, Tenant, model::ModelId};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Diagnostics, LoadPlan, LoadReport, MachineMemory, ModelInfo, UnloadReport,
    catalog::Definition,
    engine::{End, Engine, StartError},
    lease::Lease,
    memory::Need,
    scheduler::board::{Incarnation, WaiterId},
};

pub(crate) type Mailbox = mpsc::UnboundedSender<Message>;

pub(crate) enum Message {
    Acquire {
        waiter: WaiterId,
        model: ModelId,
        tenant: Tenant,
        class: Class,
        /// Requests with the same number had better go to the same process.
        likes: Option<u64>,
        deadline: Option<Instant>,
        reply: oneshot::Sender<Result<Lease>>,
    },
    Load {
        waiter: WaiterId,
        definition: Box<Definition>,
        reply: oneshot::Sender<Result<LoadReport>>,
    },
    /// The model's further process of that number is to be loaded.
    LoadReplica {
        waiter: WaiterId,
        model: ModelId,
        number: u32,
        reply: oneshot::Sender<Result<LoadReport>>,
    },
    Plan {
        definition: Box<Definition>,
        need: Need,
        reply: oneshot::Sender<Result<LoadPlan>>,
    },
    Unload {
        model: ModelId,
        force: bool,
        reply: oneshot::Sender<Result<UnloadReport>>,
    },
    /// The definition leaves the catalog, unless the configuration has it.
    Forget {
        model: ModelId,
        reply: oneshot::Sender<Result<()>>,
    },
    Info {
        model: ModelId,
        reply: oneshot::Sender<Result<ModelInfo>>,
    },
    Diagnostics {
        reply: oneshot::Sender<Diagnostics>,
    },
    /// What lies in the models folder now.
    Found {
        definitions: Vec<Definition>,
        reply: oneshot::Sender<()>,
    },
    /// Whoever asked doesn't wait any more.
    Withdraw {
        waiter: WaiterId,
    },
    /// A lease went out or came back in a way that may matter to others.
    Look,
    /// A request failed by the model's fault.
    Failed {
        model: ModelId,
        error: String,
    },
    Predicted {
        model: ModelId,
        outcome: Result<Need, Error>,
    },
    Started {
        model: ModelId,
        incarnation: Incarnation,
        outcome: Result<Started, StartError>,
    },
    Measured {
        model: ModelId,
        incarnation: Incarnation,
        need: Need,
    },
    /// What is left of the memory that models are budgeted in, and what the engines hold of it as their own.
    Machine {
        memory: MachineMemory,
        held: u64,
    },
    Ended {
        model: ModelId,
        incarnation: Incarnation,
        end: End,
    },
}

impl Message {
    /// Whether it may change what everybody sees of the models, beside who uses them.
    pub(super) fn changes_catalog(&self) -> bool {
        match self {
            Self::Acquire { .. }
            | Self::Withdraw { .. }
            | Self::Look
            | Self::Failed { .. }
            | Self::Plan { .. }
            | Self::Info { .. }
            | Self::Diagnostics { .. } => false,
            Self::Load { .. }
            | Self::LoadReplica { .. }
            | Self::Unload { .. }
            | Self::Forget { .. }
            | Self::Found { .. }
            | Self::Predicted { .. }
            | Self::Started { .. }
            | Self::Measured { .. }
            | Self::Machine { .. }
            | Self::Ended { .. } => true,
        }
    }
}

pub(crate) struct Started {
    pub(crate) engine: std::sync::Arc<Engine>,
    pub(crate) need: Need,
    pub(crate) load_time: Duration,
}
