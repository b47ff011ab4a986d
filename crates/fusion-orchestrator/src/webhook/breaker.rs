//! An endpoint that fails again and again is left alone for a while, so that a long queue of deliveries doesn't spend its attempts on it.

use std::time::Duration;

use fusion_types::Timestamp;

/// Failures in a row that open it.
const OPENS_AT: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    failures: u32,
    open_until: Option<Timestamp>,
}

impl Breaker {
    /// How many attempts may be under way at the same time: while it isn't known whether the endpoint works again, one.
    pub(super) fn room(&self, most: usize) -> usize {
        if self.failures < OPENS_AT { most } else { 1 }
    }

    /// Not asked before.
    pub(super) fn open_until(&self) -> Option<Timestamp> {
        self.open_until
    }

    pub(super) fn heard(&mut self, worked: bool, now: Timestamp) {
        if worked {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(further) = self.failures.checked_sub(OPENS_AT) {
            let pause = FIRST_PAUSE.saturating_mul(1 << further.min(16));
            self.open_until = Some(now.plus(pause.min(LONGEST_PAUSE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_a_success() {
        let mut breaker = Breaker::default();
        let now = Timestamp::from_millis(0);
        for _ in 1..OPENS_AT {
            breaker.heard(false, now);
        }
        assert_eq!((breaker.room(4), breaker.open_until()), (4, None));
        breaker.heard(false, now);
        assert_eq!(breaker.room(4), 1);
        assert_eq!(breaker.open_until(), Some(now.plus(FIRST_PAUSE)));
        breaker.heard(false, now);
        assert_eq!(breaker.open_until(), Some(now.plus(FIRST_PAUSE * 2)));
        for _ in 0..100 {
            breaker.heard(false, now);
        }
        assert_eq!(breaker.open_until(), Some(now.plus(LONGEST_PAUSE)));
        breaker.heard(true, now);
        assert_eq!(breaker, Breaker::default());
    }
}
