//! Minutes of load on simulated models, in steps of some milliseconds: how often they swap, and how long anybody waits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fusion_types::{Class, Tenant, model::ModelId};

use super::{
    Decision,
    board::{Board, Limits, Model, Waiter, WaiterId, Want},
    settle,
};
use crate::EvictionPolicy;

const STEP: Duration = Duration::from_millis(5);
const LOAD: Duration = Duration::from_millis(600);
const UNLOAD: Duration = Duration::from_millis(50);
const LEAST_TURN: Duration = Duration::from_secs(2);
const SWITCH_AFTER: Duration = Duration::from_secs(4);

/// What is under way ends at its time.
enum Doing {
    Load(ModelId),
    Unload(ModelId),
    Serve(ModelId),
}

struct Simulation {
    board: Board,
    start: Instant,
    now: Instant,
    doing: Vec<(Instant, u64, Doing)>,
    service: Duration,
    next: WaiterId,
    asked: BTreeMap<WaiterId, (Instant, Class, Tenant)>,
    /// How long whoever got a slot had waited.
    waits: Vec<(Duration, Class, Tenant)>,
    refused: usize,
    starts: usize,
}

impl Simulation {
    /// Models of 100 bytes each with one slot, in a budget with room for one of them.
    fn new(models: usize, service: Duration) -> Self {
        let now = Instant::now();
        let mut board = Board::new(Limits {
            budget_bytes: 150,
            max_models: None,
            policy: EvictionPolicy::Lru,
            max_queue: 100,
            queue_timeout: Duration::from_secs(300),
            least_turn: LEAST_TURN,
            switch_after: SWITCH_AFTER,
        });
        for nth in 0..models {
            let model = Model {
                predicted: Some(100),
                ..Model::new(now)
            };
            board.models.insert(id(nth), model);
        }
        Self {
            board,
            start: now,
            now,
            doing: Vec::new(),
            service,
            next: 0,
            asked: BTreeMap::new(),
            waits: Vec::new(),
            refused: 0,
            starts: 0,
        }
    }

    fn ask(&mut self, model: usize, class: Class, tenant: &str) {
        self.next += 1;
        let tenant = Tenant::new(tenant);
        self.asked
            .insert(self.next, (self.now, class, tenant.clone()));
        self.board.ask(Waiter {
            id: self.next,
            model: id(model),
            want: Want::Slot,
            tenant,
            class,
            since: self.now,
            deadline: None,
        });
    }

    fn waiting(&self, model: usize) -> usize {
        self.board.queued(&id(model))
    }

    /// Runs for a time; `clients` are asked at every step what they do.
    fn run(&mut self, time: Duration, mut clients: impl FnMut(&mut Self)) {
        let end = self.now + time;
        while self.now < end {
            clients(self);
            self.finish();
            self.decide();
            self.now += STEP;
        }
    }

    fn finish(&mut self) {
        let now = self.now;
        let (over, rest) = self.doing.drain(..).partition(|(at, ..)| *at <= now);
        self.doing = rest;
        for (_, incarnation, doing) in over {
            match doing {
                Doing::Load(id) => self.board.started(&id, incarnation, 100, 1, now),
                Doing::Unload(id) => self.board.ended(&id, incarnation, "ended", now),
                Doing::Serve(id) => self.board.release(&id, incarnation, self.service, now),
            }
        }
    }

    fn decide(&mut self) {
        for decision in settle(&mut self.board, self.now) {
            let mut begin = |model: ModelId, time, doing: fn(ModelId) -> Doing| {
                let incarnation = self.board.models[&model].incarnation;
                let what = (self.now + time, incarnation, doing(model));
                self.doing.push(what);
            };
            match decision {
                Decision::Grant { waiter, model } => {
                    begin(model, self.service, Doing::Serve);
                    let (since, class, tenant) = self.asked.remove(&waiter).unwrap();
                    self.waits.push((self.now - since, class, tenant));
                }
                Decision::Start { model, .. } => {
                    begin(model, LOAD, Doing::Load);
                    self.starts += 1;
                }
                Decision::Evict { model, .. } => begin(model, UNLOAD, Doing::Unload),
                Decision::Refuse { waiter, .. } => {
                    self.asked.remove(&waiter);
                    self.refused += 1;
                }
                _ => {}
            }
        }
    }

    fn longest_wait(&self, of: impl Fn(Class, &Tenant) -> bool) -> Duration {
        let served = self
            .waits
            .iter()
            .filter(|(_, class, tenant)| of(*class, tenant));
        let waiting = self
            .asked
            .values()
            .filter(|(_, class, tenant)| of(*class, tenant));
        let served = served.map(|(wait, ..)| *wait);
        served
            .chain(waiting.map(|(since, ..)| self.now - *since))
            .max()
            .unwrap_or_default()
    }

    fn served(&self, of: impl Fn(Class, &Tenant) -> bool) -> usize {
        let served = self
            .waits
            .iter()
            .filter(|(_, class, tenant)| of(*class, tenant));
        served.count()
    }
}

fn id(nth: usize) -> ModelId {
    ModelId::new(&format!("m{nth}"))
}

fn every(simulation: &Simulation, period: u64) -> bool {
    let elapsed = simulation.now - simulation.start;
    elapsed.as_millis().is_multiple_of(u128::from(period))
}

fn anybody(_: Class, _: &Tenant) -> bool {
    true
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn alternating_requests_for_two_models_swap_seldom_and_wait_little() {
    let service = Duration::from_millis(20);
    let mut simulation = Simulation::new(2, service);
    let mut turn = 0;
    // In the order of arrival each of these 1200 requests would need a swap.
    simulation.run(MINUTE, |world| {
        if every(world, 50) {
            world.ask(turn % 2, Class::Interactive, "t");
            turn += 1;
        }
    });
    let least = LEAST_TURN + LOAD + UNLOAD;
    let most = MINUTE.as_millis() / least.as_millis() + 1;
    assert!(
        simulation.starts as u128 <= most,
        "{} of {most} swaps",
        simulation.starts
    );
    assert!(simulation.starts >= 8, "only {} swaps", simulation.starts);
    let bound = SWITCH_AFTER + 2 * LOAD + UNLOAD + 30 * service;
    let longest = simulation.longest_wait(anybody);
    assert!(longest <= bound, "{longest:?}");
    assert_eq!(simulation.refused, 0);
}

/// One client asks two models in turn, two others each their own again and again.
#[test]
fn a_pause_is_waited_for_only_where_somebody_comes_in_it() {
    let service = Duration::from_millis(20);
    let mut simulation = Simulation::new(2, service);
    let asked = |world: &Simulation| {
        world.asked.len()
            + world
                .board
                .models
                .values()
                .map(|model| model.leases as usize)
                .sum::<usize>()
    };
    let mut turn = 0;
    simulation.run(MINUTE, |world| {
        if asked(world) == 0 {
            world.ask(turn % 2, Class::Interactive, "t");
            turn += 1;
        }
    });
    let swaps = simulation.starts as u32;
    let each = MINUTE / swaps;
    assert!(
        each <= UNLOAD + LOAD + service + 4 * STEP,
        "{each:?} a swap"
    );

    let mut next = [simulation.now; 2];
    let before = simulation.starts;
    simulation.run(MINUTE, |world| {
        for (model, next) in next.iter_mut().enumerate() {
            let is_served = world.waiting(model) == 0 && world.board.models[&id(model)].leases == 0;
            if !is_served {
                *next = world.now + Duration::from_millis(40);
            } else if world.now >= *next {
                world.ask(model, Class::Interactive, "t");
            }
        }
    });
    let most = MINUTE.as_millis() / (LEAST_TURN + LOAD + UNLOAD).as_millis() + 3;
    let swaps = (simulation.starts - before) as u128;
    assert!(swaps <= most, "{swaps} of {most} swaps");
}

#[test]
fn a_steadily_busy_model_yields_after_the_limit_and_comes_back() {
    let service = Duration::from_millis(500);
    let mut simulation = Simulation::new(2, service);
    simulation.run(10 * LEAST_TURN, |world| {
        // Three clients that never pause, so that the model is never idle.
        while world.waiting(0) < 3 {
            world.ask(0, Class::Interactive, "busy");
        }
        if world.now == world.start + 3 * LEAST_TURN {
            world.ask(1, Class::Interactive, "other");
        }
    });
    let waited = simulation.longest_wait(|_, tenant| tenant.as_str() == "other");
    assert!(waited >= SWITCH_AFTER, "{waited:?}");
    assert!(
        waited <= SWITCH_AFTER + service + UNLOAD + LOAD + 2 * STEP,
        "{waited:?}"
    );
    assert_eq!(simulation.starts, 3);
}

#[test]
fn many_models_on_one_place_are_all_served_within_the_bound() {
    let service = Duration::from_millis(40);
    let models = 4;
    let mut simulation = Simulation::new(models, service);
    simulation.run(2 * MINUTE, |world| {
        for model in 0..models {
            while world.waiting(model) < 2 {
                world.ask(model, Class::Interactive, "t");
            }
        }
    });
    let round = SWITCH_AFTER + LOAD + UNLOAD + service;
    let longest = simulation.longest_wait(anybody);
    assert!(
        longest <= u32::try_from(models).unwrap() * round,
        "{longest:?}"
    );
    let most = (2 * MINUTE).as_millis() / (LEAST_TURN + LOAD + UNLOAD).as_millis() + 1;
    assert!(
        simulation.starts as u128 <= most,
        "{} of {most}",
        simulation.starts
    );
}

#[test]
fn a_job_gets_through_a_saturated_model_within_its_bound() {
    let service = Duration::from_millis(100);
    let mut simulation = Simulation::new(1, service);
    simulation.run(MINUTE, |world| {
        while world.waiting(0) < 20 {
            world.ask(0, Class::Interactive, "t");
        }
        if every(world, 10_000) {
            world.ask(0, Class::Job, "t");
            world.ask(0, Class::Ingest, "t");
        }
    });
    // Its handicap, and the interactive requests that came before the handicap was over.
    for (class, handicap) in [(Class::Job, 5), (Class::Ingest, 15)] {
        let longest = simulation.longest_wait(|other, _| other == class);
        let bound = Duration::from_secs(handicap) + LOAD + 25 * service;
        assert!(
            longest > Duration::from_secs(handicap),
            "{class:?}: {longest:?}"
        );
        assert!(longest <= bound, "{class:?}: {longest:?}");
    }
    let urgent = simulation.longest_wait(|class, _| class == Class::Interactive);
    assert!(urgent <= LOAD + 25 * service, "{urgent:?}");
}

#[test]
fn a_flood_of_one_tenant_leaves_others_their_share() {
    let service = Duration::from_millis(50);
    let mut simulation = Simulation::new(1, service);
    simulation.run(MINUTE, |world| {
        for _ in 0..3 {
            world.ask(0, Class::Interactive, "flood");
        }
        if every(world, 500) {
            world.ask(0, Class::Interactive, "other");
        }
    });
    let is_other = |_: Class, tenant: &Tenant| tenant.as_str() == "other";
    assert_eq!(simulation.served(is_other), 120);
    let longest = simulation.longest_wait(is_other);
    assert!(longest <= LOAD + 4 * service, "{longest:?}");
    assert!(simulation.refused > 10_000);
}
