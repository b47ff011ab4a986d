//! How long a model that died or was refused stays down.

use std::time::{Duration, Instant};

use fusion_types::{Error, ErrorCode};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// Crashes further apart than this have nothing to do with each other.
const WINDOW: Duration = Duration::from_secs(600);
const MOST_CRASHES: usize = 5;

/// A model's recent misfortunes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    crashes: Vec<Instant>,
    not_before: Option<Instant>,
    /// What the last start was refused with; repeated until `not_before`, so that a broken file isn't loaded per request.
    refusal: Option<Error>,
    /// Set once there were too many crashes; only an explicit load clears it.
    failed: Option<Error>,
}

impl Backoff {
    /// The process died. Each crash within the window doubles the wait; the last one allowed ends in `failed`.
    pub(crate) fn crashed(&mut self, why: &str, now: Instant) {
        self.crashes
            .retain(|at| now.saturating_duration_since(*at) < WINDOW);
        self.crashes.push(now);
        self.wait(self.crashes.len(), now);
        if self.crashes.len() >= MOST_CRASHES {
            let times = self.crashes.len();
            let message = format!(
                "the model crashed {times} times and stays down until it is loaded explicitly; last: {why}"
            );
            self.failed = Some(Error::new(ErrorCode::EngineUnavailable, message));
        }
    }

    /// The model can't be loaded, as the engine said.
    pub(crate) fn refused(&mut self, error: Error, now: Instant) {
        self.wait(self.crashes.len().max(1), now);
        self.refusal = Some(error);
    }

    fn wait(&mut self, failures: usize, now: Instant) {
        let doublings = u32::try_from(failures.saturating_sub(1))
            .unwrap_or(u32::MAX)
            .min(16);
        self.not_before = Some(now + (FIRST * 2u32.pow(doublings)).min(LONGEST));
    }

    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|until| now >= until)
    }

    /// What a request must be answered now instead of waiting.
    pub(crate) fn answer(&self, now: Instant) -> Option<&Error> {
        self.failed
            .as_ref()
            .or(self.refusal.as_ref().filter(|_| !self.is_over(now)))
    }

    /// Whether the last start was refused, so that another would be as well until something changes.
    pub(crate) fn was_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// A start succeeded.
    pub(crate) fn started(&mut self) {
        self.refusal = None;
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(crate) fn recent_crashes(&self) -> usize {
        self.crashes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_in_failed() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..5 {
            assert!(!backoff.has_failed());
            backoff.crashed("signal 9", start);
            waits.push(
                backoff
                    .not_before()
                    .unwrap()
                    .duration_since(start)
                    .as_millis(),
            );
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000]);
        assert!(
            backoff
                .answer(start + LONGEST)
                .unwrap()
                .message
                .contains("signal 9")
        );
    }

    #[test]
    fn crashes_far_apart_never_fail_a_model() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        for nth in 0..20 {
            backoff.crashed("signal 9", start + WINDOW * nth);
        }
        assert!(!backoff.has_failed());
    }

    #[test]
    fn a_refusal_is_repeated_only_while_the_wait_lasts() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        backoff.refused(Error::invalid("model_path", "not a model"), start);
        assert!(backoff.answer(start).is_some());
        assert!(backoff.answer(start + FIRST).is_none());
    }
}
