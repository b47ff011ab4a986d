//! The way to a free slot while nobody waits: a grant without the registry, which would only say yes.
//!
//! Every process has a gate, which counts its leases. The registry shuts all gates before it hears or decides anything, so
//! that its picture holds while it does: shut, only the registry hands out leases, and all that can happen by itself is
//! that some come back. Afterwards it opens those of which it knows that a request would be granted at once
//! ([`crate::scheduler::is_open`]).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fusion_types::{Tenant, model::ModelId};

use crate::{
    engine::{Engine, Limiter, Outcome},
    lease::Lease,
    registry::{Mailbox, Message},
    scheduler::board::{Incarnation, Usage},
    stats::Sample,
    tally::Tally,
};

/// Tenants remembered between two looks of the registry: more than that take no part in whose turn it is.
const REMEMBERED: usize = 64;

/// Of one process at a time.
pub(crate) struct Gate {
    inside: Mutex<Inside>,
    tally: Arc<Tally>,
    cpu: Cpu,
}

/// How many engines are busy, counted by all gates together, and how many threads one alone gets.
#[derive(Clone)]
pub(crate) struct Cpu {
    pub(crate) busy: Arc<AtomicU32>,
    pub(crate) cores: u32,
}

#[derive(Default)]
struct Inside {
    process: Option<Process>,
    is_open: bool,
    leases: u32,
    last_used: Option<Instant>,
    service: Option<Duration>,
    /// Who came in since the registry looked last.
    served: Vec<Tenant>,
}

struct Process {
    engine: Arc<Engine>,
    incarnation: Incarnation,
    slots: u32,
    /// Where the slots are found while it runs.
    limiter: Option<Limiter>,
}

/// A lease of the least busy process whose gate is open; `likes` chooses among equals.
pub(crate) fn enter(
    gates: &[Arc<Gate>],
    likes: Option<u64>,
    model: &ModelId,
    tenant: &Tenant,
    mailbox: &Mailbox,
) -> Option<Lease> {
    let [only] = gates else {
        let count = gates.len().max(1) as u64;
        let liked = likes.map(|likes| likes % count);
        let open = (0..).zip(gates).filter_map(|(nth, gate)| {
            let crowd = gate.crowd()?;
            Some((crowd, Some(nth) != liked, gate))
        });
        let best = open.min_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        return best?.2.enter(model, tenant, mailbox);
    };
    only.enter(model, tenant, mailbox)
}

impl Gate {
    pub(crate) fn new(tally: Arc<Tally>, cpu: Cpu) -> Self {
        Self {
            inside: Mutex::default(),
            tally,
            cpu,
        }
    }

    /// A lease, if the gate is open and a slot is free.
    pub(crate) fn enter(
        self: &Arc<Self>,
        model: &ModelId,
        tenant: &Tenant,
        mailbox: &Mailbox,
    ) -> Option<Lease> {
        let mut inside = self.lock();
        // The registry may not have heard of its end yet.
        let has_room =
            |process: &Process| inside.leases < process.slots && !process.engine.life.is_over();
        if !inside.is_open || !inside.process.as_ref().is_some_and(has_room) {
            return None;
        }
        if inside.served.last() != Some(tenant) && inside.served.len() < REMEMBERED {
            inside.served.push(tenant.clone());
        }
        let (lease, changes_shares) = self.admit(&mut inside, model, mailbox)?;
        drop(inside);
        if changes_shares {
            // Without a registry nobody shares anything.
            let _ = mailbox.send(Message::Look);
        }
        Some(lease)
    }

    /// The lease that the registry decided to grant.
    pub(crate) fn grant(self: &Arc<Self>, model: &ModelId, mailbox: &Mailbox) -> Option<Lease> {
        self.admit(&mut self.lock(), model, mailbox)
            .map(|(lease, _)| lease)
    }

    /// Counts a lease; says as well whether engines may have to share the processor in another way now.
    fn admit(
        self: &Arc<Self>,
        inside: &mut Inside,
        model: &ModelId,
        mailbox: &Mailbox,
    ) -> Option<(Lease, bool)> {
        let Process {
            engine,
            incarnation,
            ..
        } = inside.process.as_ref()?;
        let now = Instant::now();
        let lease = Lease::new(
            model.clone(),
            engine.clone(),
            self.clone(),
            *incarnation,
            mailbox.clone(),
            now,
        );
        let has_all_cores = engine.threads.load(Relaxed) == self.cpu.cores;
        inside.leases += 1;
        inside.last_used = Some(now);
        self.tally.count_request();
        let turns_busy = inside.leases == 1;
        let joins_others = turns_busy && self.cpu.busy.fetch_add(1, Relaxed) > 0;
        Some((lease, joins_others || (turns_busy && !has_all_cores)))
    }

    /// Takes back a lease that was out `since` then; says whether the registry must know, as somebody may wait for just that.
    pub(crate) fn leave(
        &self,
        incarnation: Incarnation,
        since: Instant,
        sample: Option<Sample>,
        failed: bool,
    ) -> bool {
        if let Some(sample) = sample {
            self.tally.count_sample(sample);
        }
        let now = Instant::now();
        let held = now.duration_since(since);
        let mut inside = self.lock();
        if inside.process.as_ref().map(|process| process.incarnation) != Some(incarnation) {
            return false;
        }
        let in_flight = inside.leases;
        if let Some(process) = &mut inside.process {
            process.adapt(in_flight, held, sample, failed);
        }
        inside.leases = inside.leases.saturating_sub(1);
        inside.last_used = Some(now);
        inside.service = Some(
            inside
                .service
                .map_or(held, |service| (service * 7 + held) / 8),
        );
        let others_are_busy = inside.leases == 0 && self.cpu.busy.fetch_sub(1, Relaxed) > 1;
        !inside.is_open || others_are_busy
    }

    /// A process is ready behind the gate, which stays shut.
    pub(crate) fn attach(
        &self,
        engine: Arc<Engine>,
        incarnation: Incarnation,
        slots: u32,
        limiter: Option<Limiter>,
    ) {
        let mut inside = self.lock();
        self.clear(&mut inside);
        inside.process = Some(Process {
            engine,
            incarnation,
            slots,
            limiter,
        });
    }

    /// The process is gone, and every lease with it.
    pub(crate) fn detach(&self) {
        self.clear(&mut self.lock());
    }

    fn clear(&self, inside: &mut Inside) {
        if inside.leases > 0 {
            self.cpu.busy.fetch_sub(1, Relaxed);
        }
        inside.process = None;
        inside.is_open = false;
        inside.leases = 0;
    }

    pub(crate) fn open(&self) {
        self.lock().is_open = true;
    }

    /// Shuts the gate and tells what happened at it. `None` where there is no process.
    pub(crate) fn shut(&self) -> Option<Usage> {
        let mut inside = self.lock();
        inside.is_open = false;
        let served = std::mem::take(&mut inside.served);
        let process = inside.process.as_ref()?;
        Some(Usage {
            incarnation: process.incarnation,
            // The registry may not have heard of its end yet.
            slots: if process.engine.life.is_over() {
                0
            } else {
                process.slots
            },
            leases: inside.leases,
            last_used: inside.last_used,
            service: inside.service,
            served,
        })
    }

    /// Leases for each slot, if the gate is open.
    fn crowd(&self) -> Option<f64> {
        let inside = self.lock();
        let serves = |process: &&Process| inside.is_open && !process.engine.life.is_over();
        let slots = inside.process.as_ref().filter(serves)?.slots;
        Some(f64::from(inside.leases) / f64::from(slots.max(1)))
    }

    pub(crate) fn leases(&self) -> u32 {
        self.lock().leases
    }

    /// Nothing is ever left half done inside.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// A request came back: as many slots as the engine is found to be good for.
    fn adapt(&mut self, in_flight: u32, held: Duration, sample: Option<Sample>, failed: bool) {
        let Some(limiter) = &mut self.limiter else {
            return;
        };
        // A client that went away says nothing of the engine.
        let pace = sample.map(|sample| held.as_secs_f64() / sample.work());
        if failed || pace.is_some() {
            limiter.observe(Outcome {
                pace: pace.filter(|_| !failed),
                in_flight,
            });
            self.slots = limiter.limit().max(1);
        }
    }
}
