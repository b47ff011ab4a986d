//! Models that are defined, loaded, and have come up.

use std::{sync::Arc, time::Instant};

use fusion_types::{Class, Error, ErrorCode, Result, Tenant, Timestamp, model::ModelId};
use tokio::sync::oneshot;

use crate::{
    LoadPlan, LoadReport,
    catalog::{Definition, Origin},
    engine::{Limiter, StartError},
    eviction::Room,
    gate::Gate,
    memory::{Learned, Need},
    registry::{Registry, Reply, Undo, entry::Entry, message::Started},
    scheduler::{
        self,
        board::{Incarnation, Model, State, Waiter, WaiterId, Want, Weights},
    },
    tally::Tally,
};

impl Registry {
    /// A definition joins the catalog, or takes the place of the one with its id.
    pub(in crate::registry) fn adopt(&mut self, definition: Definition, learned: Option<Learned>) {
        let now = Instant::now();
        let id = definition.id.clone();
        let model = self
            .board
            .models
            .entry(definition.id.clone())
            .or_insert_with(|| Model::new(now));
        model.pinned = definition.pinned;
        model.priority = definition.priority;
        model.keep_warm = definition.keep_warm;
        let ttl = definition.idle_ttl.or(self.services.config.idle_ttl);
        model.idle_ttl = ttl.filter(|_| !definition.keep_warm);
        match self.entries.get_mut(&definition.id) {
            Some(entry) if entry.definition.setup == definition.setup => {
                entry.definition = definition.into();
            }
            Some(entry) => {
                model.predicted = learned.as_ref().map(|learned| learned.need.bytes);
                entry.set_up_anew(definition, learned);
            }
            None => {
                model.is_wanted = definition.keep_warm;
                model.predicted = learned.as_ref().map(|learned| learned.need.bytes);
                let tally = Arc::new(Tally::of(&definition.id));
                let gate = Gate::new(tally.clone(), self.shares.cpu());
                self.entries.insert(
                    definition.id.clone(),
                    Entry::new(definition, learned, tally, gate.into()),
                );
            }
        }
        self.adopt_replicas(&id);
    }

    pub(super) fn load_replica(
        &mut self,
        waiter: WaiterId,
        id: ModelId,
        reply: oneshot::Sender<Result<LoadReport>>,
        now: Instant,
    ) {
        let Some(model) = self.board.models.get_mut(&id) else {
            let _ = reply.send(Err(self.unknown(&id)));
            return;
        };
        let already = model.state.is_loaded();
        if !already {
            model.backoff = Default::default();
        }
        let reply = Reply::Loaded {
            reply,
            already,
            undo: None,
        };
        self.replies.insert(waiter, reply);
        self.board.ask(Waiter {
            id: waiter,
            model: id,
            want: Want::Loaded,
            tenant: Tenant::default(),
            class: Class::Interactive,
            since: now,
            deadline: None,
        });
    }

    pub(super) fn load(
        &mut self,
        waiter: WaiterId,
        definition: Definition,
        reply: oneshot::Sender<Result<LoadReport>>,
    ) {
        if let Err(error) = self.check(&definition) {
            let _ = reply.send(Err(error));
            return;
        }
        let (id, now) = (definition.id.clone(), Instant::now());
        let before = self.entries.get(&id).map(|entry| entry.definition.clone());
        let changed = before
            .as_ref()
            .is_none_or(|before| before.setup != definition.setup);
        let undo = changed.then(|| Undo {
            model: id.clone(),
            before,
        });
        self.adopt(definition, None);
        let Some(model) = self.board.models.get_mut(&id) else {
            return;
        };
        let already = model.state.is_loaded();
        if !already {
            model.backoff = Default::default();
        }
        self.replies.insert(
            waiter,
            Reply::Loaded {
                reply,
                already,
                undo,
            },
        );
        self.board.ask(Waiter {
            id: waiter,
            model: id,
            want: Want::Loaded,
            tenant: Tenant::default(),
            class: Class::Interactive,
            since: now,
            deadline: None,
        });
    }

    /// Whether the definition may have its id and its aliases.
    pub(super) fn check(&self, definition: &Definition) -> Result<()> {
        if let Some(entry) = self.entries.get(&definition.id)
            && entry.definition.setup != definition.setup
        {
            let active = self
                .board
                .models
                .get(&definition.id)
                .is_some_and(|model| model.state != State::Unloaded);
            if active || entry.definition.origin == Origin::Configured {
                let message = format!("the model {} exists with another definition", definition.id);
                return Err(Error::new(ErrorCode::ModelAlreadyLoaded, message));
            }
        }
        let others = || {
            self.entries
                .values()
                .map(|entry| &entry.definition)
                .filter(|other| other.id != definition.id)
        };
        let taken = |name: &str| {
            others()
                .any(|other| other.id.as_str() == name || other.aliases.iter().any(|a| a == name))
        };
        match definition.aliases.iter().find(|alias| taken(alias)) {
            Some(alias) => Err(Error::invalid(
                "aliases",
                format!("another model has the name {alias:?}"),
            )),
            None if others().any(|other| {
                other
                    .aliases
                    .iter()
                    .any(|alias| alias == definition.id.as_str())
            }) =>
            {
                Err(Error::invalid(
                    "model_id",
                    format!("another model has the alias {:?}", definition.id.as_str()),
                ))
            }
            None => Ok(()),
        }
    }

    pub(super) fn plan(&self, definition: &Definition, need: Need) -> Result<LoadPlan> {
        self.check(definition)?;
        let runs = |state| matches!(state, State::Loading { .. } | State::Loaded { .. });
        let members = self.board.members(&definition.id);
        let running = members.filter(|(_, model)| runs(model.state)).count();
        let missing = (definition.replicas as usize).saturating_sub(running);
        let already_loaded = missing == 0;
        // Whatever weights the processes share are there with the first.
        let first = need.bytes * u64::from(running == 0 && missing > 0);
        let others = missing.saturating_sub(usize::from(running == 0)) as u64;
        let room = Room {
            bytes: first + others * need.bytes.saturating_sub(need.mapped),
            places: missing,
        };
        let mut candidates = self.board.candidates();
        candidates.retain(|candidate| {
            let mut members = self.board.members(&definition.id);
            !members.any(|(id, _)| *id == candidate.model)
        });
        let plan = scheduler::plan(
            &self.board,
            Some(&definition.id),
            room,
            self.board.free(),
            self.board.coming(),
            candidates,
        );
        let possible = already_loaded || plan != scheduler::Plan::Never;
        let (fits, evict) = match plan {
            _ if already_loaded => (true, Vec::new()),
            scheduler::Plan::Start | scheduler::Plan::Wait => (true, Vec::new()),
            scheduler::Plan::Evict(victims) => (true, victims),
            scheduler::Plan::InUse | scheduler::Plan::Never => (false, Vec::new()),
        };
        Ok(LoadPlan {
            model_id: definition.id.clone(),
            already_loaded,
            fits,
            possible,
            replicas: definition.replicas,
            needed_bytes: if already_loaded {
                self.board.charged_for(&definition.id)
            } else {
                room.bytes
            },
            budget_bytes: self.board.limits.budget_bytes,
            free_bytes: self.board.free().bytes,
            evict,
            protected: self.board.protected(),
        })
    }

    /// The models folder as it is now: new models join, and those whose files went leave, unless something uses them.
    pub(super) fn take_found(&mut self, definitions: Vec<Definition>) {
        let found: Vec<_> = definitions
            .iter()
            .map(|definition| definition.id.clone())
            .collect();
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(id, entry)| entry.definition.origin == Origin::Found && !found.contains(id))
            .filter(|(id, _)| {
                let mut members = self.board.members(id);
                members.all(|(id, model)| {
                    model.state == State::Unloaded && self.board.waiting_for(id).next().is_none()
                })
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.remove(&id);
        }
        for definition in definitions {
            if !self.entries.contains_key(&definition.id) {
                self.adopt(definition, None);
            }
        }
    }

    pub(super) fn predicted(&mut self, id: &ModelId, outcome: Result<Need>, now: Instant) {
        match (&outcome, self.entries.get_mut(id)) {
            (Ok(need), Some(entry)) => entry.estimate = Some(need.estimate),
            (Err(error), _) => self.note_error(id, &error.message),
            (Ok(_), None) => {}
        }
        self.board
            .predicted(id, outcome.map(|need| need.bytes), now);
    }

    pub(super) fn started(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        outcome: Result<Started, StartError>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        match outcome {
            Ok(Started {
                engine,
                need,
                load_time,
            }) => {
                let bytes = need.bytes;
                tracing::info!(model = %id, bytes, ?load_time, pid = engine.pid, "model loaded");
                entry.known = Some(engine.card.clone());
                entry.load_time = Some(load_time);
                entry.loaded_at = Some(Timestamp::now());
                let limiter =
                    (entry.definition.setup.auto_slots).then(|| Limiter::new(engine.card.slots));
                let slots = limiter.map_or(engine.card.slots, |found| found.limit());
                let slots = slots.max(1);
                self.board.started(id, incarnation, bytes, slots, now);
                entry
                    .gate
                    .attach(engine.clone(), incarnation, slots, limiter);
                entry.engine = Some(engine);
                self.note_need(id, need);
            }
            Err(StartError { error, crashed }) => {
                tracing::warn!(model = %id, %error, crashed, "a model can't be loaded");
                self.note_error(id, &error.message);
                self.board
                    .start_failed(id, incarnation, error, crashed, now);
                self.left(id);
            }
        }
    }

    /// What a process holds, as it was measured.
    pub(super) fn note_need(&mut self, id: &ModelId, need: Need) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.measured = Some(need.bytes);
        if let Some(model) = self.board.models.get_mut(id) {
            model.weights = (need.mapped > 0).then(|| Weights {
                file: entry.definition.setup.path.as_path().into(),
                bytes: need.mapped,
            });
        }
        self.board.tell_siblings(id);
    }
}
