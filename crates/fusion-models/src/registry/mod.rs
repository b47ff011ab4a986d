//! The one owner of everything that changes. It hears what happened, lets the scheduler decide, and carries that out.

mod act;
mod entry;
mod hear;
mod history;
mod limits;
mod message;
mod pressure;
mod replicas;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{Result, model::ModelId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{entry::Entry, history::History, limits::Shares};
pub(crate) use self::{
    message::{Mailbox, Message},
    view::{Catalog, View},
};
use crate::{
    Config, LoadReport,
    catalog::Definition,
    engine::{RuntimeDir, Spawner, Stop},
    lease::Lease,
    memory::{Footprints, Learned},
    scheduler::{
        self,
        board::{Board, Limits, WaiterId},
    },
};

/// How often loaded models are measured again: contexts fill up.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How often the machine's own memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages heard before the scheduler decides.
const BATCH: usize = 256;

/// What the registry's tasks work with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) spawner: Spawner,
    pub(crate) runtime_dir: RuntimeDir,
    pub(crate) footprints: Footprints,
}

pub(crate) struct Registry {
    services: Arc<Services>,
    board: Board,
    entries: BTreeMap<ModelId, Entry>,
    replies: HashMap<WaiterId, Reply>,
    /// Doesn't keep the mailbox open: the registry ends with its last handle.
    mailbox: mpsc::WeakUnboundedSender<Message>,
    view: watch::Sender<Arc<View>>,
    catalog: Arc<Catalog>,
    /// Since the catalog was made.
    has_changed: bool,
    shares: Shares,
    history: History,
    started: Instant,
    /// The children's own tasks; the registry ends after the last of them.
    children: TaskTracker,
}

enum Reply {
    Slot(oneshot::Sender<Result<Lease>>),
    Loaded {
        reply: oneshot::Sender<Result<LoadReport>>,
        /// The model was loaded when it was asked for.
        already: bool,
        /// How the catalog is to look again if the model can't be loaded.
        undo: Option<Undo>,
    },
}

/// What the catalog had before a load request came with another setup.
struct Undo {
    model: ModelId,
    before: Option<Arc<Definition>>,
}

impl Registry {
    pub(crate) fn new(
        services: Services,
        definitions: Vec<(Definition, Option<Learned>)>,
        mailbox: &Mailbox,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let config = services.config.clone();
        let board = Board::new(Limits {
            budget_bytes: config.budget_bytes,
            max_models: config.max_models,
            policy: config.eviction,
            max_queue: config.max_queue,
            queue_timeout: config.queue_timeout,
            least_turn: config.least_turn,
            switch_after: config.switch_after,
        });
        let (view, seen) = watch::channel(Arc::default());
        let children = TaskTracker::new();
        let mut registry = Self {
            shares: Shares::start(config.threads, &children),
            services: Arc::new(services),
            board,
            entries: BTreeMap::new(),
            replies: HashMap::new(),
            mailbox: mailbox.downgrade(),
            view,
            catalog: Arc::default(),
            has_changed: true,
            history: History::default(),
            started: Instant::now(),
            children,
        };
        for (definition, learned) in definitions {
            registry.adopt(definition, learned);
        }
        registry.publish();
        (registry, seen)
    }

    /// Runs until `token` is cancelled and everything has ended, or until nobody holds a handle any more.
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::UnboundedReceiver<Message>,
        token: CancellationToken,
    ) {
        let mut measuring = tokio::time::interval(MEASURE_EVERY);
        let mut looking = tokio::time::interval(LOOK_EVERY);
        let mut drain_until: Option<Instant> = None;
        loop {
            self.decide();
            if self.is_drained() || drain_until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let wake = self.board.next_wake(Instant::now());
            let wake = wake.into_iter().chain(drain_until).min();
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.hear_batch(message, &mut messages),
                    None => break,
                },
                () = token.cancelled(), if drain_until.is_none() => {
                    self.board.draining = true;
                    drain_until = Some(Instant::now() + self.services.config.drain_timeout);
                }
                () = until(wake) => {}
                _ = measuring.tick() => self.measure(),
                _ = looking.tick() => self.look_at_machine(),
            }
        }
        self.end(messages).await;
    }

    fn hear_batch(&mut self, first: Message, messages: &mut mpsc::UnboundedReceiver<Message>) {
        self.shut_gates();
        self.hear(first);
        for _ in 0..BATCH {
            let Ok(message) = messages.try_recv() else {
                break;
            };
            self.hear(message);
        }
    }

    fn decide(&mut self) {
        self.shut_gates();
        for decision in scheduler::settle(&mut self.board, Instant::now()) {
            self.has_changed |= decision.changes_catalog();
            self.carry_out(decision);
        }
        self.shares.balance(&self.board, &self.entries);
        self.publish();
        self.open_gates();
    }

    /// What is known of leases holds from here on: nobody but the registry hands one out.
    fn shut_gates(&mut self) {
        for (id, entry) in &self.entries {
            if entry.engine.is_some()
                && let Some(usage) = entry.gate.shut()
            {
                let slots = |board: &Board| board.models.get(id).map(|model| model.slots);
                let before = slots(&self.board);
                self.board.used(id, &usage);
                self.has_changed |= before != slots(&self.board);
            }
        }
    }

    fn open_gates(&self) {
        let running = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.engine.is_some());
        for (id, entry) in running {
            if scheduler::is_open(&self.board, id) {
                entry.gate.open();
            }
        }
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.has_changed) {
            self.catalog = Arc::new(view::catalog(self));
        }
        let view = view::view(self, self.catalog.clone());
        self.view.send_replace(Arc::new(view));
    }

    fn is_drained(&self) -> bool {
        self.board.draining
            && !self
                .board
                .models
                .values()
                .any(|model| model.state.is_resident())
    }

    /// Whoever still waits is refused, whatever still runs is ended, and nothing is left behind.
    async fn end(mut self, messages: mpsc::UnboundedReceiver<Message>) {
        drop(messages);
        self.shut_gates();
        self.board.draining = true;
        for entry in self.entries.values() {
            if let Some(engine) = &entry.engine {
                engine.life.stop(Stop::Force);
            }
            entry.abort.cancel();
        }
        for (_, reply) in self.replies.drain() {
            reply.refuse(scheduler::refusal::draining());
        }
        self.children.close();
        drop(self.shares);
        self.children.wait().await;
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
