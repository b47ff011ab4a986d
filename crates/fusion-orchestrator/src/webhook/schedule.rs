//! Which delivery is attempted when: by time, with a bound on each endpoint, so that one that hangs holds up nobody else.

use std::collections::{BTreeSet, HashMap, HashSet};

use fusion_types::Timestamp;

use super::breaker::Breaker;

/// Attempts under way in all, and of one endpoint.
const MOST: usize = 64;
const MOST_PER_ENDPOINT: usize = 4;

/// A delivery that may be attempted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) endpoint: String,
    pub(super) key: String,
}

/// The keys of pending deliveries by endpoint and time; the deliveries themselves are the store's.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    endpoints: HashMap<String, Endpoint>,
    /// Waiting or under way.
    known: HashSet<String>,
    under_way: usize,
}

#[derive(Debug, Default)]
struct Endpoint {
    waiting: BTreeSet<(Timestamp, String)>,
    under_way: usize,
    breaker: Breaker,
}

impl Endpoint {
    fn has_room(&self) -> bool {
        self.under_way < self.breaker.room(MOST_PER_ENDPOINT)
    }

    /// When its first delivery may be attempted.
    fn first(&self) -> Option<Timestamp> {
        let (at, _) = self.waiting.first()?;
        Some((*at).max(self.breaker.open_until().unwrap_or(*at)))
    }
}

impl Schedule {
    /// Adds a delivery; one that is known already stays as it is.
    pub(super) fn add(&mut self, url: &str, key: String, at: Timestamp) {
        if self.known.insert(key.clone()) {
            self.endpoints
                .entry(endpoint(url).to_owned())
                .or_default()
                .waiting
                .insert((at, key));
        }
    }

    /// Takes what is due, as far as there is room.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Due> {
        let mut taken = Vec::new();
        for (name, endpoint) in &mut self.endpoints {
            while self.under_way < MOST
                && endpoint.has_room()
                && endpoint.first().is_some_and(|at| at <= now)
            {
                let Some((_, key)) = endpoint.waiting.pop_first() else {
                    break;
                };
                endpoint.under_way += 1;
                self.under_way += 1;
                taken.push(Due {
                    endpoint: name.clone(),
                    key,
                });
            }
        }
        taken
    }

    /// An attempt ended; `again` is when the next one is due, `worked` what it says about the endpoint.
    pub(super) fn ended(
        &mut self,
        due: Due,
        again: Option<Timestamp>,
        worked: Option<bool>,
        now: Timestamp,
    ) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(endpoint) = self.endpoints.get_mut(&due.endpoint) else {
            return;
        };
        endpoint.under_way = endpoint.under_way.saturating_sub(1);
        if let Some(worked) = worked {
            endpoint.breaker.heard(worked, now);
        }
        if let Some(at) = again {
            endpoint.waiting.insert((at, due.key));
            return;
        }
        self.known.remove(&due.key);
        if endpoint.under_way == 0 && endpoint.waiting.is_empty() {
            self.endpoints.remove(&due.endpoint);
        }
    }

    /// When something can be taken next, if only time stands in the way.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let free = self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.has_room());
        let first = free.filter_map(Endpoint::first).min();
        first.filter(|_| self.under_way < MOST)
    }
}

/// Scheme, host and port: whatever comes before the path.
fn endpoint(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_endpoint_is_the_url_without_its_path() {
        assert_eq!(
            endpoint("https://a.example:8443/hook?x=1"),
            "https://a.example:8443"
        );
        assert_eq!(endpoint("https://a.example?x=/"), "https://a.example");
        assert_eq!(endpoint("nonsense"), "nonsense");
    }

    #[test]
    fn one_endpoint_takes_only_its_share() {
        let mut schedule = Schedule::default();
        for index in 0..10 {
            schedule.add("http://hangs/", format!("h{index}"), at(0));
        }
        schedule.add("http://works/", "w".to_owned(), at(1));
        let taken = schedule.take_due(at(1));
        assert_eq!(
            taken
                .iter()
                .filter(|due| due.endpoint == "http://hangs")
                .count(),
            MOST_PER_ENDPOINT
        );
        assert!(taken.iter().any(|due| due.key == "w"));
        assert_eq!(schedule.next(), None);
        assert!(schedule.take_due(at(1)).is_empty());
    }

    #[test]
    fn an_endpoint_that_keeps_failing_is_asked_once_in_a_while() {
        let mut schedule = Schedule::default();
        for index in 0..10 {
            schedule.add("http://down/", format!("d{index}"), at(0));
        }
        for _ in 0..2 {
            for due in schedule.take_due(at(0)) {
                schedule.ended(due, Some(at(1_000_000)), Some(false), at(0));
            }
        }
        // Eight attempts failed: the other two wait, and then one of them tells whether it works again.
        assert!(schedule.take_due(at(1_000)).is_empty());
        let next = schedule.next().unwrap();
        let mut probe = schedule.take_due(next);
        assert_eq!(probe.len(), 1);
        schedule.ended(probe.remove(0), None, Some(true), next);
        assert_eq!(schedule.take_due(next).len(), 1);
    }

    #[test]
    fn what_is_known_is_not_added_twice_and_retries_wait_their_time() {
        let mut schedule = Schedule::default();
        schedule.add("http://a/", "k".to_owned(), at(5));
        assert_eq!(schedule.next(), Some(at(5)));
        assert!(schedule.take_due(at(4)).is_empty());
        let due = schedule.take_due(at(5)).remove(0);
        schedule.add("http://a/", "k".to_owned(), at(5));
        assert_eq!(schedule.next(), None);
        schedule.ended(due, Some(at(9)), Some(false), at(5));
        assert_eq!(schedule.next(), Some(at(9)));
        let due = schedule.take_due(at(9)).remove(0);
        schedule.ended(due, None, Some(true), at(9));
        assert!(
            schedule.endpoints.is_empty() && schedule.known.is_empty() && schedule.under_way == 0
        );
    }
}
