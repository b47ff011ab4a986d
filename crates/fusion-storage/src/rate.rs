//! How often a client may ask: the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").
//!
//! A client has the time at which its next request would be on schedule. A request that comes too long before that is refused;
//! each one that is taken moves it on by the interval.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A steady rate, and how many requests may run ahead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two requests.
    pub interval: Duration,
    /// At least 1.
    pub burst: u32,
}

impl Rate {
    /// How far ahead of its schedule a client may be.
    pub(crate) fn tolerance(self) -> Duration {
        self.interval * self.burst.saturating_sub(1)
    }
}

/// Clients that are remembered. Beyond that, new ones share one schedule until others are back on theirs.
const MOST: usize = 100_000;
const THE_REST: &str = "";

/// Schedules of this server alone.
#[derive(Default)]
pub(crate) struct Local {
    on_schedule: Mutex<HashMap<String, Instant>>,
}

impl Local {
    /// How long to wait where that is too early.
    pub(crate) fn admit(&self, client: &str, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut clients = self
            .on_schedule
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut client = client;
        if clients.len() >= MOST && !clients.contains_key(client) {
            clients.retain(|_, next| *next > now);
            if clients.len() >= MOST {
                client = THE_REST;
            }
        }
        let next = clients.get(client).map_or(now, |next| (*next).max(now));
        let early = next.duration_since(now);
        if early > rate.tolerance() {
            return Err(early.saturating_sub(rate.tolerance()));
        }
        clients.insert(client.to_owned(), next + rate.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        interval: Duration::from_secs(2),
        burst: 3,
    };

    #[test]
    fn a_burst_is_taken_then_one_an_interval() {
        let local = Local::default();
        let start = Instant::now();
        let ask = |client, seconds: f64| {
            local.admit(client, RATE, start + Duration::from_secs_f64(seconds))
        };
        for _ in 0..3 {
            assert_eq!(ask("a", 0.0), Ok(()));
        }
        assert_eq!(ask("a", 0.0), Err(Duration::from_secs(2)));
        assert_eq!(ask("a", 1.5), Err(Duration::from_millis(500)));
        assert_eq!(ask("b", 1.5), Ok(()), "each has its own");
        assert_eq!(ask("a", 2.0), Ok(()));
        assert_eq!(
            ask("a", 2.0),
            Err(Duration::from_secs(2)),
            "a refusal costs nothing"
        );
        for _ in 0..3 {
            assert_eq!(
                ask("a", 60.0),
                Ok(()),
                "a pause brings no more than a burst"
            );
        }
        assert!(ask("a", 60.0).is_err());
    }

    #[test]
    fn many_clients_take_bounded_room() {
        let local = Local::default();
        let start = Instant::now();
        for number in 0..MOST + 10 {
            let _ = local.admit(&number.to_string(), RATE, start);
        }
        assert!(local.on_schedule.lock().unwrap().len() <= MOST + 1);
        assert!(local.admit("another", RATE, start).is_err());
        assert_eq!(
            local.admit("another", RATE, start + Duration::from_secs(60)),
            Ok(())
        );
        assert!(local.on_schedule.lock().unwrap().len() < 10);
    }
}
