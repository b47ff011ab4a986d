//! Whether and when a job that went wrong is tried again.

use std::time::Duration;

use fusion_types::Error;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after this long.
    Retry(Duration),
    Fail,
}

/// Retries where it can help and an attempt is left. `luck` is drawn from [0, 1).
pub(super) fn after_failure(error: &Error, attempt: u32, max_attempts: u32, luck: f64) -> Next {
    if error.code.is_retryable() && attempt < max_attempts {
        Next::Retry(delay(attempt, error.retry_after, luck))
    } else {
        Next::Fail
    }
}

/// Exponential backoff with full jitter: anywhere between nothing and 1 s, 2 s, 4 s … after the 1st, 2nd, 3rd … attempt, so
/// that jobs that failed together don't come back together. Never earlier than whoever refused asked for.
fn delay(attempt: u32, retry_after: Option<Duration>, luck: f64) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let jittered = doubled.min(LONGEST).mul_f64(luck.clamp(0.0, 1.0));
    retry_after.unwrap_or_default().saturating_add(jittered)
}

#[cfg(test)]
mod tests {
    use fusion_types::ErrorCode;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_can_help_is_retried() {
        let crashed = Error::new(ErrorCode::EngineCrashed, "");
        assert!(matches!(after_failure(&crashed, 1, 3, 0.5), Next::Retry(_)));
        assert_eq!(after_failure(&crashed, 3, 3, 0.5), Next::Fail);
        assert_eq!(
            after_failure(&Error::invalid("input", ""), 1, 3, 0.5),
            Next::Fail
        );
    }

    #[test]
    fn the_bound_doubles_up_to_a_limit() {
        let bound = |attempt| delay(attempt, None, 1.0).as_secs();
        assert_eq!(
            [1, 2, 3, 4, 9, 10, 40].map(bound),
            [1, 2, 4, 8, 256, 300, 300]
        );
    }

    proptest! {
        #[test]
        fn never_before_the_time_asked_for_and_never_past_the_bound(attempt in 1..100_u32, asked in 0..900_u64, luck in 0.0..1.0) {
            let asked = Duration::from_secs(asked);
            let delay = delay(attempt, Some(asked), luck);
            prop_assert!(delay >= asked && delay <= asked + LONGEST);
        }
    }
}
