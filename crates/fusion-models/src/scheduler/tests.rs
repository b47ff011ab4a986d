//! A machine made of random events: whatever happens, the promises hold after every one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use fusion_types::{Class, Error, ErrorCode, Tenant, model::ModelId};
use proptest::prelude::*;

use super::{
    Decision, Why,
    board::{Board, Limits, Model, State, Waiter, WaiterId, Want, Weights},
    is_open,
    replicas::replica_id,
    settle,
};
use crate::EvictionPolicy;

#[derive(Clone, Copy, Debug)]
enum Happening {
    Ask {
        model: usize,
        explicit: bool,
        deadline_ms: Option<u64>,
    },
    Withdraw {
        nth: usize,
    },
    Release {
        nth: usize,
    },
    Predicted {
        nth: usize,
        fine: bool,
    },
    /// A start is over: well, with three quarters of the predicted bytes held in fact, or it failed.
    StartOver {
        nth: usize,
        fine: bool,
        crashed: bool,
    },
    Gone {
        nth: usize,
    },
    Crash {
        nth: usize,
    },
    Later {
        ms: u64,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..6usize, prop::bool::weighted(0.2), prop::option::weighted(0.2, 0..5000u64))
            .prop_map(|(model, explicit, deadline_ms)| Happening::Ask { model, explicit, deadline_ms }),
        1 => (0..8usize).prop_map(|nth| Happening::Withdraw { nth }),
        4 => (0..8usize).prop_map(|nth| Happening::Release { nth }),
        3 => (0..4usize, prop::bool::weighted(0.9)).prop_map(|(nth, fine)| Happening::Predicted { nth, fine }),
        4 => (0..4usize, prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(nth, fine, crashed)| Happening::StartOver { nth, fine, crashed }),
        3 => (0..4usize).prop_map(|nth| Happening::Gone { nth }),
        1 => (0..4usize).prop_map(|nth| Happening::Crash { nth }),
        2 => (0..20_000u64).prop_map(|ms| Happening::Later { ms }),
    ]
}

fn policy() -> impl Strategy<Value = EvictionPolicy> {
    prop_oneof![
        Just(EvictionPolicy::Lru),
        Just(EvictionPolicy::Priority),
        Just(EvictionPolicy::Manual)
    ]
}

fn models() -> impl Strategy<Value = Vec<(u64, bool, u32)>> {
    prop::collection::vec((1..120u64, prop::bool::weighted(0.2), 1..3u32), 5)
}

struct World {
    board: Board,
    now: Instant,
    sizes: BTreeMap<ModelId, (u64, u32)>,
    next: WaiterId,
    unanswered: BTreeSet<WaiterId>,
    /// One entry a granted slot.
    leases: Vec<(ModelId, u64)>,
}

impl World {
    fn new(specs: &[(u64, bool, u32)], policy: EvictionPolicy, max_models: Option<usize>) -> Self {
        let now = Instant::now();
        let mut board = Board::new(Limits {
            budget_bytes: 150,
            max_models,
            policy,
            max_queue: 4,
            queue_timeout: Duration::from_secs(10),
            least_turn: Duration::from_millis(500),
            switch_after: Duration::from_secs(1),
        });
        let mut sizes = BTreeMap::new();
        for (nth, (bytes, pinned, slots)) in specs.iter().enumerate() {
            let id = ModelId::new(&format!("m{nth}"));
            let ttl = Some(Duration::from_secs(30));
            board.models.insert(
                id.clone(),
                Model {
                    pinned: *pinned,
                    idle_ttl: ttl,
                    ..Model::new(now)
                },
            );
            sizes.insert(id, (*bytes, *slots));
        }
        Self {
            board,
            now,
            sizes,
            next: 0,
            unanswered: BTreeSet::new(),
            leases: Vec::new(),
        }
    }

    /// The first model gets a second process, and half of its bytes are weights that both map.
    fn add_replica(&mut self) {
        let (first, second) = (ModelId::new("m0"), replica_id(&ModelId::new("m0"), 1));
        let (bytes, slots) = self.sizes[&first];
        self.sizes.insert(second.clone(), (bytes, slots));
        let model = self.board.models.get_mut(&first).unwrap();
        model.replicas = vec![second.clone()];
        model.weights = Some(Weights {
            file: Path::new("weights").into(),
            bytes: bytes / 2,
        });
        let replica = Model {
            replica_of: Some(first),
            replicas: Vec::new(),
            ..model.clone()
        };
        self.board.models.insert(second, replica);
    }

    /// The `nth` model in a state, counted round.
    fn nth(&self, nth: usize, fits: impl Fn(State) -> bool) -> Option<(ModelId, u64)> {
        let found: Vec<_> = self
            .board
            .models
            .iter()
            .filter(|(_, model)| fits(model.state))
            .collect();
        let (id, model) = found.get(nth % found.len().max(1))?;
        Some(((*id).clone(), model.incarnation))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Ask {
                model,
                explicit,
                deadline_ms,
            } => self.ask(model, explicit, deadline_ms),
            Happening::Withdraw { nth } => {
                if let Some(id) = self.board.waiters.get(nth).map(|waiter| waiter.id) {
                    self.board.withdraw(id);
                    self.unanswered.remove(&id);
                }
            }
            Happening::Release { nth } if !self.leases.is_empty() => {
                let (id, incarnation) = self.leases.remove(nth % self.leases.len());
                self.board
                    .release(&id, incarnation, Duration::from_millis(50), self.now);
            }
            Happening::Release { .. } => {}
            Happening::Predicted { nth, fine } => {
                if let Some((id, _)) = self.nth(nth, |state| state == State::Predicting) {
                    let outcome = if fine {
                        Ok(self.sizes[&id].0)
                    } else {
                        Err(refusal())
                    };
                    self.board.predicted(&id, outcome, self.now);
                }
            }
            Happening::StartOver { nth, fine, crashed } => self.start_over(nth, fine, crashed),
            Happening::Gone { nth } => {
                if let Some((id, incarnation)) =
                    self.nth(nth, |state| matches!(state, State::Unloading { .. }))
                {
                    self.board.ended(&id, incarnation, "ended", self.now);
                }
            }
            Happening::Crash { nth } => {
                if let Some((id, incarnation)) = self.nth(nth, State::is_loaded) {
                    self.board.ended(&id, incarnation, "signal 9", self.now);
                }
            }
            Happening::Later { ms } => self.now += Duration::from_millis(ms),
        }
        self.settle();
    }

    fn ask(&mut self, model: usize, explicit: bool, deadline_ms: Option<u64>) {
        self.next += 1;
        self.unanswered.insert(self.next);
        let replica = replica_id(&ModelId::new("m0"), 1);
        let model = match model {
            5 if explicit && self.board.models.contains_key(&replica) => replica,
            nth => ModelId::new(&format!("m{}", nth % 5)),
        };
        self.board.ask(Waiter {
            id: self.next,
            model: if explicit {
                model
            } else {
                self.board.route(&model, Some(self.next), self.now)
            },
            want: if explicit { Want::Loaded } else { Want::Slot },
            tenant: Tenant::new(["a", "b", "c"][self.next as usize % 3]),
            class: [Class::Interactive, Class::Job, Class::Ingest, Class::Job]
                [self.next as usize % 4],
            since: self.now,
            deadline: deadline_ms.map(|ms| self.now + Duration::from_millis(ms)),
        });
    }

    fn start_over(&mut self, nth: usize, fine: bool, crashed: bool) {
        let Some((id, incarnation)) = self.nth(nth, |state| matches!(state, State::Loading { .. }))
        else {
            return;
        };
        let (bytes, slots) = self.sizes[&id];
        if fine {
            self.board
                .started(&id, incarnation, bytes - bytes / 4, slots, self.now);
        } else {
            self.board
                .start_failed(&id, incarnation, refusal(), crashed, self.now);
        }
    }

    /// Lets the scheduler decide, and checks each decision against the board as it was before it.
    fn settle(&mut self) {
        let mut before = self.board.clone();
        for decision in settle(&mut self.board, self.now) {
            match &decision {
                Decision::Grant { waiter, model } => {
                    assert!(self.unanswered.remove(waiter), "answered twice");
                    assert!(before.models[model].leases < before.models[model].slots);
                    assert!(before.models[model].state.is_loaded());
                    assert!(
                        before.models[model].yields.is_none(),
                        "granted while yielding"
                    );
                    self.leases
                        .push((model.clone(), before.models[model].incarnation));
                }
                Decision::Report { waiter, model } => {
                    assert!(self.unanswered.remove(waiter), "answered twice");
                    assert!(before.models[model].state.is_loaded());
                }
                Decision::Refuse { waiter, .. } => {
                    assert!(self.unanswered.remove(waiter), "answered twice")
                }
                Decision::Move { waiter, to } => {
                    let moved = before.waiters.iter().find(|other| other.id == *waiter);
                    let moved = moved.expect("moved somebody who doesn't wait");
                    assert_eq!(moved.want, Want::Slot);
                    assert!(before.are_siblings(&moved.model, to) && moved.model != *to);
                    assert!(before.models[to].state.is_loaded());
                }
                Decision::Predict { model } => {
                    assert_eq!(before.models[model].state, State::Unloaded)
                }
                Decision::Start { model, .. } => {
                    assert_eq!(
                        before.models[model].state,
                        State::Unloaded,
                        "two processes of one model"
                    );
                    assert!(before.free().places > 0, "more models than allowed");
                }
                Decision::Evict { model, .. } => {
                    assert_eq!(before.models[model].leases, 0, "evicted while leased");
                    assert!(!before.models[model].pinned, "evicted a pinned model");
                }
                Decision::Yield { model, to } => {
                    assert!(before.models[model].state.is_loaded());
                    assert!(!before.models[model].pinned, "a pinned model yields");
                    assert_eq!(before.models[to].state, State::Unloaded);
                }
                Decision::Resume { model } => assert!(before.models[model].yields.is_some()),
            }
            before.apply(&decision, self.now);
        }
        assert!(
            self.board.charged() <= self.board.limits.budget_bytes,
            "over budget"
        );
        let waiting: BTreeSet<_> = self.board.waiters.iter().map(|waiter| waiter.id).collect();
        assert_eq!(waiting, self.unanswered, "a waiter was lost");
        self.check_gates();
    }

    /// Where a gate is open, the scheduler would grant at once, and a lease that comes back changes nothing for anybody.
    fn check_gates(&self) {
        let mut open = self
            .board
            .models
            .iter()
            .filter(|(id, _)| is_open(&self.board, id));
        // Not each time: copying boards takes long.
        if let Some((id, model)) = open.nth(self.next as usize % 16) {
            if model.leases < model.slots {
                let mut board = self.board.clone();
                board.ask(Waiter {
                    id: WaiterId::MAX,
                    model: id.clone(),
                    want: Want::Slot,
                    tenant: Tenant::new("d"),
                    class: Class::Ingest,
                    since: self.now,
                    deadline: None,
                });
                let grant = Decision::Grant {
                    waiter: WaiterId::MAX,
                    model: id.clone(),
                };
                assert_eq!(settle(&mut board, self.now), [grant]);
            }
            if model.leases > 0 {
                let mut board = self.board.clone();
                board.release(id, model.incarnation, Duration::from_millis(50), self.now);
                assert_eq!(settle(&mut board, self.now), []);
            }
        }
    }

    /// Everything under way ends well and time goes by; nobody may be left waiting.
    fn run_out(&mut self) {
        for _ in 0..60 {
            while !self.leases.is_empty() {
                self.happen(Happening::Release { nth: 0 });
            }
            for nth in 0..6 {
                self.happen(Happening::Predicted { nth, fine: true });
                self.happen(Happening::StartOver {
                    nth,
                    fine: true,
                    crashed: false,
                });
                self.happen(Happening::Gone { nth });
            }
            self.happen(Happening::Later { ms: 400 });
        }
    }
}

fn refusal() -> Error {
    Error::invalid("model_path", "not a model")
}

proptest! {
    #[test]
    fn the_promises_hold_whatever_happens(
        specs in models(),
        policy in policy(),
        max_models in prop::option::of(1..4usize),
        has_replica in any::<bool>(),
        happenings in prop::collection::vec(happening(), 1..120),
    ) {
        let mut world = World::new(&specs, policy, max_models);
        if has_replica {
            world.add_replica();
        }
        for happening in happenings {
            world.happen(happening);
        }
        world.run_out();
        prop_assert!(world.unanswered.is_empty(), "left waiting: {:?}", world.board.waiters);
    }
}

fn two_models(first: u64, second: u64) -> World {
    World::new(
        &[(first, false, 1), (second, false, 1)],
        EvictionPolicy::Lru,
        None,
    )
}

fn load(world: &mut World, model: usize) {
    world.happen(Happening::Ask {
        model,
        explicit: true,
        deadline_ms: None,
    });
    world.happen(Happening::Predicted { nth: 0, fine: true });
    world.happen(Happening::StartOver {
        nth: 0,
        fine: true,
        crashed: false,
    });
    assert!(
        world.board.models[&ModelId::new(&format!("m{model}"))]
            .state
            .is_loaded()
    );
}

#[test]
fn a_start_waits_for_a_leased_model_and_goes_on_when_it_is_returned() {
    let mut world = two_models(120, 100);
    load(&mut world, 0);
    world.happen(Happening::Ask {
        model: 0,
        explicit: false,
        deadline_ms: None,
    });
    world.happen(Happening::Ask {
        model: 1,
        explicit: false,
        deadline_ms: None,
    });
    world.happen(Happening::Predicted { nth: 0, fine: true });
    assert!(world.board.models[&ModelId::new("m0")].state.is_loaded());
    assert_eq!(world.unanswered.len(), 1);

    // In its turn a model stays for a moment: its next request may be on the way.
    world.happen(Happening::Release { nth: 0 });
    assert!(world.board.models[&ModelId::new("m0")].state.is_loaded());
    let pause = world.board.next_wake(world.now).unwrap() - world.now;
    assert_eq!(pause, Duration::from_millis(100));
    world.happen(Happening::Later { ms: 100 });
    assert_eq!(
        world.board.models[&ModelId::new("m0")].state,
        State::Unloading { bytes: 90 }
    );
    world.happen(Happening::Gone { nth: 0 });
    assert_eq!(
        world.board.models[&ModelId::new("m1")].state,
        State::Loading { bytes: 100 }
    );
}

#[test]
fn where_memory_has_room_for_both_a_start_does_not_wait_for_the_end_of_another() {
    let mut world = World::new(
        &[(40, false, 1), (40, false, 1)],
        EvictionPolicy::Lru,
        Some(1),
    );
    load(&mut world, 0);
    ask(&mut world, 1);
    world.happen(Happening::Predicted { nth: 0, fine: true });
    world.happen(Happening::Later { ms: 100 });
    let expected = [
        ("m0", State::Unloading { bytes: 30 }),
        ("m1", State::Loading { bytes: 40 }),
    ];
    assert_eq!(states(&world)[..2], expected);
}

#[test]
fn what_can_never_fit_is_refused_with_the_figures() {
    let mut board = two_models(100, 100).board;
    let now = Instant::now();
    let pinned = board.models.get_mut(&ModelId::new("m0")).unwrap();
    (pinned.pinned, pinned.state) = (true, State::Loaded { bytes: 100 });
    board.models.get_mut(&ModelId::new("m1")).unwrap().predicted = Some(60);
    board.ask(Waiter {
        id: 1,
        model: ModelId::new("m1"),
        want: Want::Slot,
        tenant: Tenant::default(),
        class: Class::Interactive,
        since: now,
        deadline: None,
    });
    let decisions = settle(&mut board, now);
    let [Decision::Refuse { waiter: 1, error }] = decisions.as_slice() else {
        panic!("{decisions:?}")
    };
    assert_eq!(error.code, ErrorCode::InsufficientVram);
    let expected = serde_json::json!({
        "needed_bytes": 60, "budget_bytes": 150, "free_bytes": 50, "protected": ["m0"],
    });
    assert_eq!(error.details, expected);
}

#[test]
fn models_that_outgrew_the_budget_make_the_oldest_idle_one_go() {
    let mut world = two_models(60, 60);
    load(&mut world, 0);
    load(&mut world, 1);
    let grown = ModelId::new("m1");
    let incarnation = world.board.models[&grown].incarnation;
    world.board.measured(&grown, incarnation, 120);
    let decisions = settle(&mut world.board, world.now);
    assert_eq!(
        decisions,
        [Decision::Evict {
            model: ModelId::new("m0"),
            why: Why::OverBudget
        }]
    );
}

#[test]
fn an_idle_model_expires_and_the_scheduler_knows_when() {
    let mut world = two_models(60, 60);
    load(&mut world, 0);
    let ends = world.board.next_wake(world.now).unwrap();
    assert_eq!(ends - world.now, Duration::from_secs(30));
    world.now = ends;
    let decisions = settle(&mut world.board, world.now);
    assert_eq!(
        decisions,
        [Decision::Evict {
            model: ModelId::new("m0"),
            why: Why::Idle
        }]
    );
}

fn replicated(bytes: u64) -> World {
    let mut world = two_models(bytes, 50);
    world.add_replica();
    load(&mut world, 0);
    world
}

fn states(world: &World) -> Vec<(&str, State)> {
    let models = world.board.models.iter();
    models
        .map(|(id, model)| (id.as_str(), model.state))
        .collect()
}

fn ask(world: &mut World, model: usize) {
    world.happen(Happening::Ask {
        model,
        explicit: false,
        deadline_ms: None,
    });
}

#[test]
fn a_replica_starts_where_there_is_room_and_shared_weights_count_once() {
    let mut world = replicated(100);
    // 75 bytes were measured, of which 50 are weights: another process adds 50 of its predicted 75.
    assert_eq!(
        states(&world),
        [
            ("m0", State::Loaded { bytes: 75 }),
            ("m0#1", State::Loading { bytes: 100 }),
            ("m1", State::Unloaded),
        ]
    );
    assert_eq!(world.board.charged(), 125);
    world.happen(Happening::StartOver {
        nth: 0,
        fine: true,
        crashed: false,
    });
    assert_eq!(world.board.charged(), 100);
}

#[test]
fn requests_go_to_the_least_busy_replica_and_none_waits_while_one_is_free() {
    let mut world = replicated(100);
    // Both wait for the only process there is, with one slot.
    ask(&mut world, 0);
    ask(&mut world, 0);
    assert_eq!((world.leases.len(), world.unanswered.len()), (1, 1));
    world.happen(Happening::StartOver {
        nth: 0,
        fine: true,
        crashed: false,
    });
    assert_eq!((world.leases.len(), world.unanswered.len()), (2, 0));
    let served: BTreeSet<_> = world.leases.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(served, BTreeSet::from(["m0", "m0#1"]));
}

#[test]
fn a_dead_replica_s_waiters_go_to_the_other() {
    let mut world = replicated(100);
    world.happen(Happening::StartOver {
        nth: 0,
        fine: true,
        crashed: false,
    });
    for _ in 0..4 {
        ask(&mut world, 0);
    }
    world.happen(Happening::Crash { nth: 0 });
    let waits: Vec<_> = world
        .board
        .waiters
        .iter()
        .map(|waiter| waiter.model.as_str())
        .collect();
    assert_eq!(waits, ["m0#1", "m0#1"]);
    // What died comes back once its backoff is over.
    world.happen(Happening::Later { ms: 300 });
    assert!(matches!(states(&world)[0].1, State::Loading { .. }));
}

#[test]
fn a_model_is_shrunk_before_another_is_unloaded() {
    let mut world = two_models(60, 60);
    load(&mut world, 1);
    world.add_replica();
    load(&mut world, 0);
    // 45 for each model, and 15 beside the weights for the replica: 105 of 150.
    world.happen(Happening::StartOver {
        nth: 0,
        fine: true,
        crashed: false,
    });
    let third = ModelId::new("m2");
    let model = Model {
        predicted: Some(60),
        ..Model::new(world.now)
    };
    world.board.models.insert(third.clone(), model);
    world.happen(Happening::Later { ms: 5000 });
    world.sizes.insert(third, (60, 1));
    ask(&mut world, 2);
    let going: Vec<_> = states(&world)
        .into_iter()
        .filter(|(_, state)| matches!(state, State::Unloading { .. }))
        .map(|(id, _)| id)
        .collect();
    assert_eq!(going, ["m0"]);
}
