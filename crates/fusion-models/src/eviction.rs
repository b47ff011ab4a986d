//! Who goes when room is needed. Pure.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use fusion_types::model::{ModelId, Priority};

use crate::EvictionPolicy;

/// A resident model that could go: no lease, no pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) model: ModelId,
    /// With what it shares.
    pub(crate) bytes: u64,
    pub(crate) share: Option<Share>,
    /// Another process of the same model goes on.
    pub(crate) is_spare: bool,
    pub(crate) priority: Priority,
    pub(crate) last_used: Instant,
}

/// Weights that several processes map, and that go with the last of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) file: Arc<Path>,
    pub(crate) bytes: u64,
    pub(crate) holders: usize,
}

/// Room in both currencies: bytes, and places where the number of models is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    pub(crate) places: usize,
}

impl Room {
    /// What one process of so many bytes takes.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { bytes, places: 1 }
    }

    pub(crate) fn covers(self, need: Self) -> bool {
        self.bytes >= need.bytes && self.places >= need.places
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            places: self.places.saturating_add(other.places),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            places: self.places.saturating_sub(other.places),
        }
    }

    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            places: self.places.min(other.places),
        }
    }
}

/// The candidates to evict so that at least `missing` becomes free; `None` when all of them together aren't enough.
///
/// 1. In the policy's order, take candidates until the room is there; processes without which their model goes on are
///    taken before others.
/// 2. From the last taken to the first, spare each whose bytes turn out not to be needed.
pub(crate) fn choose(
    mut candidates: Vec<Candidate>,
    missing: Room,
    policy: EvictionPolicy,
) -> Option<Vec<ModelId>> {
    match policy {
        EvictionPolicy::Manual => candidates.clear(),
        EvictionPolicy::Lru => {
            candidates.sort_by_key(|candidate| (!candidate.is_spare, candidate.last_used))
        }
        EvictionPolicy::Priority => candidates.sort_by_key(|candidate| {
            (candidate.priority, !candidate.is_spare, candidate.last_used)
        }),
    }
    let mut victims: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if freed(&victims).covers(missing) {
            break;
        }
        victims.push(candidate);
    }
    if !freed(&victims).covers(missing) {
        return None;
    }
    for index in (0..victims.len()).rev() {
        let spared = victims.remove(index);
        if !freed(&victims).covers(missing) {
            victims.insert(index, spared);
        }
    }
    Some(victims.into_iter().map(|victim| victim.model).collect())
}

/// What is free once the victims are gone: shared weights only if nobody holds them any more.
pub(crate) fn freed(victims: &[Candidate]) -> Room {
    let mut files: BTreeMap<&Path, (&Share, u64)> = BTreeMap::new();
    for share in victims.iter().filter_map(|victim| victim.share.as_ref()) {
        files.entry(&share.file).or_insert((share, 0)).1 += 1;
    }
    let stays = files.values().map(|(share, gone)| {
        let is_last = usize::try_from(*gone).is_ok_and(|gone| gone >= share.holders);
        (gone - u64::from(is_last)) * share.bytes
    });
    let bytes = victims.iter().map(|victim| victim.bytes).sum::<u64>();
    Room {
        bytes: bytes.saturating_sub(stays.sum()),
        places: victims.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn candidates(list: &[(&str, u64, Priority)]) -> Vec<Candidate> {
        let start = Instant::now();
        let aged = |(age, (id, bytes, priority)): (u64, &(&str, u64, Priority))| Candidate {
            model: ModelId::new(id),
            bytes: *bytes,
            share: None,
            is_spare: false,
            priority: *priority,
            last_used: start + Duration::from_secs(age),
        };
        (0..).zip(list).map(aged).collect()
    }

    fn chosen(
        list: &[(&str, u64, Priority)],
        bytes: u64,
        policy: EvictionPolicy,
    ) -> Option<Vec<String>> {
        let victims = choose(candidates(list), Room { bytes, places: 0 }, policy)?;
        Some(victims.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_oldest_go_first_and_only_as_many_as_needed() {
        let models = [
            ("a", 10, Priority::High),
            ("b", 10, Priority::Low),
            ("c", 10, Priority::Normal),
        ];
        assert_eq!(
            chosen(&models, 15, EvictionPolicy::Lru).unwrap(),
            ["a", "b"]
        );
        assert_eq!(
            chosen(&models, 15, EvictionPolicy::Priority).unwrap(),
            ["b", "c"]
        );
        assert_eq!(chosen(&models, 1, EvictionPolicy::Manual), None);
        assert_eq!(chosen(&models, 31, EvictionPolicy::Lru), None);
        assert_eq!(chosen(&models, 0, EvictionPolicy::Manual).unwrap(), [""; 0]);
    }

    #[test]
    fn a_small_model_is_spared_when_a_later_one_makes_enough_room_alone() {
        let models = [
            ("small", 1, Priority::Normal),
            ("big", 100, Priority::Normal),
        ];
        assert_eq!(chosen(&models, 50, EvictionPolicy::Lru).unwrap(), ["big"]);
    }

    #[test]
    fn places_count_beside_bytes() {
        let models = candidates(&[("a", 100, Priority::Normal), ("b", 1, Priority::Normal)]);
        let victims = choose(
            models,
            Room {
                bytes: 0,
                places: 2,
            },
            EvictionPolicy::Lru,
        )
        .unwrap();
        assert_eq!(victims.len(), 2);
    }
}
