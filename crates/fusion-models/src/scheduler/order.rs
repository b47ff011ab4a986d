//! In which order a model's requests get its slots, and who is turned away when too many wait. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use fusion_types::{Class, Tenant};

use super::board::{Waiter, WaiterId};

/// Tenants whose last turn is remembered, a model.
const REMEMBERED: usize = 64;

/// The tenants that a model served last, the latest at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(VecDeque<Tenant>);

impl Turns {
    pub(crate) fn served(&mut self, tenant: &Tenant) {
        self.0.retain(|known| known != tenant);
        self.0.push_back(tenant.clone());
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// How recently the tenant was served; `None`, which sorts first, where that isn't known.
    fn recency(&self, tenant: &Tenant) -> Option<usize> {
        self.0.iter().position(|known| known == tenant)
    }
}

/// By how much longer a request of the class waits than an interactive one that came with it.
fn handicap(class: Class) -> Duration {
    match class {
        Class::Interactive => Duration::ZERO,
        Class::Job => Duration::from_secs(5),
        Class::Ingest => Duration::from_secs(15),
    }
}

/// The waiters of one model, in the order in which they get slots:
///
/// 1. The class whose oldest request is the oldest, its handicap added to its time of arrival. So the urgent classes go
///    first, and none waits for ever.
/// 2. Of that class the tenant whose last turn is the longest ago.
/// 3. Of that tenant the request that came first.
pub(crate) fn in_order<'a>(
    waiters: impl Iterator<Item = &'a Waiter>,
    turns: &Turns,
) -> impl Iterator<Item = &'a Waiter> {
    let mut line = Line {
        classes: BTreeMap::new(),
        turns: turns.clone(),
    };
    for waiter in waiters {
        let tenants = line.classes.entry(waiter.class).or_default();
        tenants.entry(&waiter.tenant).or_default().push_back(waiter);
    }
    line
}

type Tenants<'a> = BTreeMap<&'a Tenant, VecDeque<&'a Waiter>>;

struct Line<'a> {
    classes: BTreeMap<Class, Tenants<'a>>,
    turns: Turns,
}

impl<'a> Iterator for Line<'a> {
    type Item = &'a Waiter;

    fn next(&mut self) -> Option<&'a Waiter> {
        let due = |(class, tenants): &(&Class, &Tenants<'a>)| -> Option<Instant> {
            let oldest = tenants.values().filter_map(VecDeque::front);
            let oldest = oldest.map(|waiter| waiter.since).min()?;
            Some(oldest + handicap(**class))
        };
        let class = *self.classes.iter().min_by_key(due)?.0;
        let tenants = self.classes.get_mut(&class)?;
        let turns = &self.turns;
        let turn = |(tenant, waiters): &(&&Tenant, &VecDeque<&Waiter>)| {
            let first = waiters.front().map(|waiter| (waiter.since, waiter.id));
            (turns.recency(tenant), first)
        };
        let tenant = *tenants.iter().min_by_key(turn)?.0;
        let waiters = tenants.get_mut(tenant)?;
        let next = waiters.pop_front();
        if waiters.is_empty() {
            tenants.remove(tenant);
        }
        if tenants.is_empty() {
            self.classes.remove(&class);
        }
        self.turns.served(tenant);
        next
    }
}

/// Those to turn away so that no more than `most` wait. Whoever has the most requests waiting, a tenant in one class,
/// loses the newest of them: a flood costs whoever makes it.
pub(crate) fn beyond(waiters: &[&Waiter], most: usize) -> BTreeSet<WaiterId> {
    let mut flows: BTreeMap<(&Tenant, Class), Vec<WaiterId>> = BTreeMap::new();
    for waiter in waiters {
        let flow = flows.entry((&waiter.tenant, waiter.class)).or_default();
        flow.push(waiter.id);
    }
    let mut away = BTreeSet::new();
    for _ in most..waiters.len() {
        // Among equally long ones the least urgent.
        let longest = flows
            .iter_mut()
            .max_by_key(|((_, class), flow)| (flow.len(), *class));
        away.extend(longest.and_then(|(_, flow)| flow.pop()));
    }
    away
}

#[cfg(test)]
mod tests {
    use fusion_types::model::ModelId;

    use super::*;
    use crate::scheduler::board::Want;

    fn waiters(start: Instant, list: &[(u64, &str, Class)]) -> Vec<Waiter> {
        let waiter = |(id, (second, tenant, class)): (u64, &(u64, &str, Class))| Waiter {
            id,
            model: ModelId::new("m"),
            want: Want::Slot,
            tenant: Tenant::new(tenant),
            class: *class,
            since: start + Duration::from_secs(*second),
            deadline: None,
        };
        (0..).zip(list).map(waiter).collect()
    }

    fn order(list: &[(u64, &str, Class)], turns: &Turns) -> Vec<WaiterId> {
        let waiters = waiters(Instant::now(), list);
        in_order(waiters.iter(), turns)
            .map(|waiter| waiter.id)
            .collect()
    }

    #[test]
    fn urgent_classes_go_first_until_others_have_waited_their_bound() {
        use Class::{Ingest, Interactive, Job};
        let list = [
            (0, "a", Ingest),
            (1, "a", Job),
            (2, "a", Interactive),
            (7, "a", Interactive),
            (14, "a", Interactive),
            (16, "a", Interactive),
        ];
        assert_eq!(order(&list, &Turns::default()), [2, 1, 3, 4, 0, 5]);
    }

    #[test]
    fn tenants_take_turns_and_the_last_turn_counts() {
        use Class::Interactive;
        let list = [
            (0, "a", Interactive),
            (0, "a", Interactive),
            (0, "a", Interactive),
            (1, "b", Interactive),
            (2, "c", Interactive),
        ];
        let mut turns = Turns::default();
        assert_eq!(order(&list, &turns), [0, 3, 4, 1, 2]);
        turns.served(&Tenant::new("b"));
        turns.served(&Tenant::new("a"));
        assert_eq!(order(&list, &turns), [4, 3, 0, 1, 2]);
    }

    #[test]
    fn a_flood_costs_whoever_makes_it() {
        use Class::{Ingest, Interactive};
        let list = [
            (0, "a", Interactive),
            (0, "a", Interactive),
            (0, "a", Interactive),
            (1, "b", Interactive),
            (2, "a", Ingest),
        ];
        let waiters = waiters(Instant::now(), &list);
        let waiters: Vec<_> = waiters.iter().collect();
        let away = |most| beyond(&waiters, most).into_iter().collect::<Vec<_>>();
        assert_eq!(away(5), [0; 0]);
        assert_eq!(away(3), [1, 2]);
        assert_eq!(away(2), [1, 2, 4]);
    }
}
