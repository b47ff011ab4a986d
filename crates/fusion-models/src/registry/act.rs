//! The scheduler's decisions, carried out. Everything that takes time is a task that sends its outcome as a message.

use std::{sync::Arc, time::Instant};

use fusion_types::{
    Error,
    model::{ModelId, ModelStatus},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Message, Registry, Reply, Services, Undo, message::Started};
use crate::{
    Config, LoadReport, MemoryReader,
    catalog::Definition,
    engine::{self, Engine, Held, LogRing, Start, StartError, Stop},
    gate::Gate,
    memory::{Learned, Need},
    scheduler::{
        Decision, Why,
        board::{Incarnation, State, WaiterId},
    },
};

/// A measured footprint is kept again once it has changed by more than one part in so many.
const NOTABLE: u64 = 50;

impl Registry {
    pub(super) fn carry_out(&mut self, decision: Decision) {
        match decision {
            Decision::Grant { waiter, model } => self.grant(waiter, &model),
            Decision::Report { waiter, model } => self.report(waiter, &model),
            Decision::Refuse { waiter, error } => self.refuse(waiter, error),
            Decision::Predict { model } => self.predict(model),
            Decision::Start { model, bytes } => self.start(&model, bytes),
            Decision::Evict { model, why } => self.evict(&model, &why),
            Decision::Yield { model, to } => {
                tracing::info!(%model, %to, "a busy model makes room");
            }
            Decision::Move { .. } | Decision::Resume { .. } => {}
        }
    }

    fn grant(&mut self, waiter: WaiterId, id: &ModelId) {
        let reply = self.replies.remove(&waiter);
        let (Some(entry), Some(mailbox)) = (self.entries.get(id), self.mailbox.upgrade()) else {
            return;
        };
        // A lease that nobody takes is returned as it is dropped.
        if let (Some(Reply::Slot(reply)), Some(lease)) = (reply, entry.gate.grant(id, &mailbox)) {
            let _ = reply.send(Ok(lease));
        }
    }

    fn report(&mut self, waiter: WaiterId, id: &ModelId) {
        let Some(Reply::Loaded { reply, already, .. }) = self.replies.remove(&waiter) else {
            return;
        };
        let (Some(entry), Some(model)) = (self.entries.get(id), self.board.models.get(id)) else {
            return;
        };
        let fresh = entry.load_time.filter(|_| !already);
        let report = LoadReport {
            model_id: id.clone(),
            status: ModelStatus::Loaded,
            footprint_bytes: self.board.charged_for(id),
            load_time: fresh.unwrap_or_default(),
            evicted: if already {
                Vec::new()
            } else {
                entry.evicted.clone()
            },
            card: entry.card(model, &self.together(id)),
        };
        let _ = reply.send(Ok(report));
    }

    fn refuse(&mut self, waiter: WaiterId, error: Error) {
        match self.replies.remove(&waiter) {
            Some(Reply::Loaded { reply, undo, .. }) => {
                if let Some(undo) = undo {
                    self.undo(undo);
                }
                let _ = reply.send(Err(error));
            }
            Some(reply) => reply.refuse(error),
            None => {}
        }
    }

    /// A setup that couldn't be loaded doesn't stay in the catalog, unless somebody counts on it by now.
    fn undo(&mut self, Undo { model: id, before }: Undo) {
        let state = self.board.models.get(&id).map(|model| model.state);
        if state != Some(State::Unloaded) || self.board.waiting_for(&id).next().is_some() {
            return;
        }
        self.has_changed = true;
        match before {
            Some(definition) => self.adopt(Definition::clone(&definition), None),
            None => {
                self.remove(&id);
            }
        }
    }

    fn predict(&mut self, id: ModelId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.abort = CancellationToken::new();
        let (services, definition, abort) = (
            self.services.clone(),
            entry.definition.clone(),
            entry.abort.clone(),
        );
        let mailbox = self.mailbox.clone();
        self.children.spawn(async move {
            let launch = definition.launch(&services.config);
            let predicted = services.footprints.predict(&definition, launch);
            if let Some(outcome) = abort.run_until_cancelled(predicted).await {
                send(&mailbox, Message::Predicted { model: id, outcome });
            }
        });
    }

    fn start(&mut self, id: &ModelId, bytes: u64) {
        let Some(incarnation) = self.board.models.get(id).map(|model| model.incarnation) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.abort = CancellationToken::new();
        tracing::info!(model = %id, bytes, "starting a model");
        let child = ModelProcess {
            services: self.services.clone(),
            definition: entry.definition.clone(),
            incarnation,
            need: Need {
                bytes,
                estimate: entry.estimate.unwrap_or(bytes),
                mapped: 0,
            },
            log: entry.log.clone(),
            abort: entry.abort.clone(),
            gate: entry.gate.clone(),
            mailbox: self.mailbox.clone(),
        };
        self.children.spawn(child.run(self.children.clone()));
    }

    fn evict(&mut self, id: &ModelId, why: &Why) {
        tracing::info!(model = %id, ?why, "evicting a model");
        let bytes = self
            .board
            .models
            .get(id)
            .map_or(0, |model| model.state.bytes());
        self.history.evicted(id, why.into(), bytes);
        if let Why::RoomFor(other) = why
            && let Some(other) = self.entries.get_mut(other)
        {
            other.evicted.push(id.clone());
        }
        self.stop(id, Stop::Unload);
    }

    /// Ends a model's process, or gives up its start.
    pub(super) fn stop(&self, id: &ModelId, how: Stop) {
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        // The reason first: giving the start up is a reason of its own.
        if let Some(engine) = &entry.engine {
            engine.life.stop(how);
        }
        entry.abort.cancel();
    }

    /// Measures what is loaded; growth is charged, and remembered.
    pub(super) fn measure(&self) {
        for (id, entry) in &self.entries {
            let (Some(engine), Some(model)) = (entry.engine.clone(), self.board.models.get(id))
            else {
                continue;
            };
            if !model.state.is_loaded() {
                continue;
            }
            let charged = model.state.bytes();
            let mapped = model.weights.as_ref().map_or(0, |weights| weights.bytes);
            let estimate = entry.estimate.unwrap_or(charged);
            let (services, definition, mailbox) = (
                self.services.clone(),
                entry.definition.clone(),
                self.mailbox.clone(),
            );
            let (id, incarnation) = (id.clone(), model.incarnation);
            self.children.spawn(async move {
                let need = Need {
                    bytes: charged,
                    estimate,
                    mapped,
                };
                let need = measure(&services.config, &engine, &definition, need).await;
                let is_notable = |now: u64, before: u64| now.abs_diff(before) > charged / NOTABLE;
                if is_notable(need.bytes, charged) || is_notable(need.mapped, mapped) {
                    let learned = Learned {
                        need,
                        card: engine.card.clone(),
                    };
                    services.footprints.learn(&definition, &learned).await;
                    send(
                        &mailbox,
                        Message::Measured {
                            model: id,
                            incarnation,
                            need,
                        },
                    );
                }
            });
        }
    }
}

/// One process of one model, from its start to its end.
struct ModelProcess {
    services: Arc<Services>,
    definition: Arc<Definition>,
    incarnation: Incarnation,
    need: Need,
    log: LogRing,
    abort: CancellationToken,
    gate: Arc<Gate>,
    mailbox: mpsc::WeakUnboundedSender<Message>,
}

impl ModelProcess {
    async fn run(self, tasks: TaskTracker) {
        let began = Instant::now();
        let (model, incarnation) = (self.definition.id.clone(), self.incarnation);
        let engine = match self.start(&tasks).await {
            Ok(engine) => Arc::new(engine),
            Err(error) => {
                send(
                    &self.mailbox,
                    Message::Started {
                        model,
                        incarnation,
                        outcome: Err(error),
                    },
                );
                return;
            }
        };
        let config = &self.services.config;
        let need = measure(config, &engine, &self.definition, self.need).await;
        let (life, client) = (engine.life.clone(), engine.client.clone());
        let learned = Learned {
            need,
            card: engine.card.clone(),
        };
        let started = Started {
            engine,
            need,
            load_time: began.elapsed(),
        };
        if !send(
            &self.mailbox,
            Message::Started {
                model: model.clone(),
                incarnation,
                outcome: Ok(started),
            },
        ) {
            life.stop(Stop::Force);
        }
        let end = async {
            tokio::select! {
                end = life.ended() => end,
                // The registry may have given the start up before it heard of its success.
                () = self.abort.cancelled() => {
                    life.stop(Stop::Unload);
                    life.ended().await
                }
                () = client.watch(|| self.gate.leases() == 0) => life.ended().await,
            }
        };
        let ((), end) = tokio::join!(
            self.services.footprints.learn(&self.definition, &learned),
            end
        );
        send(
            &self.mailbox,
            Message::Ended {
                model,
                incarnation,
                end,
            },
        );
    }

    async fn start(&self, tasks: &TaskTracker) -> Result<Engine, StartError> {
        let config = &self.services.config;
        let launch = self.definition.launch(config).map_err(|error| StartError {
            error,
            crashed: false,
        })?;
        let start = Start {
            model: self.definition.id.clone(),
            launch,
            socket: self.services.runtime_dir.socket(),
            load_timeout: config.load_timeout,
            hang_timeout: config.hang_timeout,
            log: self.log.clone(),
        };
        engine::start(&self.services.spawner, tasks, start, &self.abort).await
    }
}

/// What the process holds; the prediction where that can't be told.
async fn measure(
    config: &Config,
    engine: &Engine,
    definition: &Arc<Definition>,
    need: Need,
) -> Need {
    let (pid, definition) = (engine.pid, definition.clone());
    let reader = config.memory.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let reader = reader.unwrap_or_else(MemoryReader::of_this_machine);
        reader.measure(pid, &definition.setup.path, need.estimate)
    });
    match measured.await.ok().flatten() {
        Some(Held { own, mapped }) => Need {
            bytes: own + mapped,
            mapped,
            ..need
        },
        None => need,
    }
}

/// Whether there is still a registry to hear it.
pub(super) fn send(mailbox: &mpsc::WeakUnboundedSender<Message>, message: Message) -> bool {
    mailbox
        .upgrade()
        .is_some_and(|mailbox| mailbox.send(message).is_ok())
}

impl Reply {
    pub(super) fn refuse(self, error: Error) {
        // Whoever asked may be gone.
        match self {
            Self::Slot(reply) => drop(reply.send(Err(error))),
            Self::Loaded { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
