//! Whose job comes next: by priority, and where a tenant has many jobs waiting, in turn with the others' jobs.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use fusion_types::{Tenant, Timestamp, job::handicap, model::Priority};

/// The virtual time that one job of a tenant takes, in milliseconds: about what a job takes a small server. A tenant that hands in
/// more than it can get has its later jobs placed so far in the future, and others come in between.
const QUANTUM: i64 = 2_000;
/// Tenants remembered before those that are not ahead of the clock are forgotten.
const FORGET_ABOVE: usize = 10_000;

/// Where each tenant's next job would be, by priority. A restart forgets it: then those that wait are only fair among themselves.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: Mutex<HashMap<Tenant, Places>>,
}

/// In milliseconds since 1970, for [`CLASSES`].
type Places = [i64; CLASSES.len()];

const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

impl Turns {
    /// The sort key of a job that is handed in now.
    pub(super) fn place(&self, tenant: &Tenant, priority: Priority, now: Timestamp) -> i64 {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.as_millis();
        if next.len() > FORGET_ABOVE {
            next.retain(|_, places| places.iter().any(|place| *place > now));
        }
        let places = next.entry(tenant.clone()).or_insert([now; CLASSES.len()]);
        let class = CLASSES
            .iter()
            .position(|class| *class == priority)
            .unwrap_or_default();
        // Not before the tenant's own jobs of a higher priority that were handed in earlier.
        let place = places[..=class].iter().copied().fold(now, i64::max);
        places[class] = place.saturating_add(QUANTUM);
        place.saturating_add(handicap(priority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn tenants_take_turns() {
        let turns = Turns::default();
        let (many, few) = (Tenant::new("many"), Tenant::new("few"));
        let flood: Vec<i64> = (0..100)
            .map(|_| turns.place(&many, Priority::Normal, at(0)))
            .collect();
        assert!(flood.is_sorted());
        let late: Vec<i64> = (0..5)
            .map(|_| turns.place(&few, Priority::Normal, at(1_000)))
            .collect();
        for (index, place) in late.iter().enumerate() {
            let before = flood.iter().filter(|other| *other < place).count();
            assert_eq!(before, index + 1);
        }
    }

    #[test]
    fn priorities_go_by_time_and_handicap() {
        let turns = Turns::default();
        let place = |tenant: &str, priority, millis| {
            turns.place(&Tenant::new(tenant), priority, at(millis))
        };
        let normal = place("a", Priority::Normal, 0);
        assert!(place("b", Priority::High, 1_000) < normal);
        let low = place("c", Priority::Low, 0);
        assert!(normal < low);
        // Waiting makes up for the handicap.
        assert!(low < place("d", Priority::High, 120_001));
    }

    #[test]
    fn a_tenants_own_flood_keeps_its_order() {
        let turns = Turns::default();
        let tenant = Tenant::new("a");
        let flood: Vec<i64> = (0..100)
            .map(|_| turns.place(&tenant, Priority::Normal, at(0)))
            .collect();
        assert!(turns.place(&tenant, Priority::Low, at(1)) > flood[99]);
        assert!(turns.place(&tenant, Priority::High, at(1)) < flood[0]);
    }
}
