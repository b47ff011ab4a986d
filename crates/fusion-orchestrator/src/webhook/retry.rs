//! What follows an attempt at a delivery.

use std::time::Duration;

use fusion_types::{Result, outgoing::OutResponse};

/// Waits before the 2nd, 3rd … attempt; the last one stands for all after it.
const SCHEDULE: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
];
/// The most that an endpoint may ask us to wait beyond the schedule.
const MOST_ASKED: Duration = Duration::from_secs(24 * 3600);
const GONE: u16 = 410;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Delivered,
    /// After this long.
    Retry(Duration),
    Failed,
    /// Nobody is there any more: the delivery failed, and the webhook is disabled.
    Gone,
}

/// `tries` counts the attempts made, this one included; `retry_count` those allowed after the first. Redirects count as
/// failures: nobody checked where they lead.
pub(super) fn after_attempt(result: &Result<OutResponse>, tries: u32, retry_count: u32) -> Next {
    match result {
        Ok(response) if (200..300).contains(&response.status) => Next::Delivered,
        Ok(response) if response.status == GONE => Next::Gone,
        Err(error) if !error.code.is_retryable() => Next::Failed,
        _ if tries > retry_count => Next::Failed,
        Ok(response) => Next::Retry(delay(tries, response.retry_after)),
        Err(error) => Next::Retry(delay(tries, error.retry_after)),
    }
}

fn delay(tries: u32, asked: Option<Duration>) -> Duration {
    let index = usize::try_from(tries.saturating_sub(1))
        .unwrap_or(usize::MAX)
        .min(SCHEDULE.len() - 1);
    SCHEDULE[index].max(asked.unwrap_or_default().min(MOST_ASKED))
}

#[cfg(test)]
mod tests {
    use fusion_types::{Error, ErrorCode};

    use super::*;

    fn answered(status: u16) -> Result<OutResponse> {
        Ok(OutResponse {
            status,
            retry_after: None,
        })
    }

    #[test]
    fn only_2xx_delivers() {
        assert_eq!(after_attempt(&answered(200), 1, 3), Next::Delivered);
        assert_eq!(after_attempt(&answered(299), 9, 3), Next::Delivered);
        for status in [100, 301, 307, 400, 404, 429, 500, 503] {
            assert!(
                matches!(after_attempt(&answered(status), 1, 3), Next::Retry(_)),
                "{status}"
            );
        }
        assert_eq!(after_attempt(&answered(410), 1, 3), Next::Gone);
    }

    #[test]
    fn the_schedule_is_kept_and_ends() {
        let next = |tries| after_attempt(&answered(500), tries, 3);
        let seconds = |seconds| Next::Retry(Duration::from_secs(seconds));
        assert_eq!(
            [1, 2, 3, 4].map(next),
            [seconds(5), seconds(300), seconds(1800), Next::Failed]
        );
        assert_eq!(after_attempt(&answered(500), 1, 0), Next::Failed);
        assert_eq!(after_attempt(&answered(500), 40, 99), seconds(14 * 3600));
    }

    #[test]
    fn errors_are_retried_where_that_can_help() {
        let timeout = Err(Error::new(ErrorCode::Timeout, ""));
        assert!(matches!(after_attempt(&timeout, 1, 3), Next::Retry(_)));
        let refused = Err(Error::new(ErrorCode::UrlNotAllowed, ""));
        assert_eq!(after_attempt(&refused, 1, 3), Next::Failed);
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time_but_not_for_ever() {
        let asked = |seconds| {
            Ok(OutResponse {
                status: 503,
                retry_after: Some(Duration::from_secs(seconds)),
            })
        };
        assert_eq!(
            after_attempt(&asked(60), 1, 3),
            Next::Retry(Duration::from_secs(60))
        );
        assert_eq!(
            after_attempt(&asked(1), 1, 3),
            Next::Retry(Duration::from_secs(5))
        );
        assert_eq!(
            after_attempt(&asked(u64::MAX), 1, 3),
            Next::Retry(MOST_ASKED)
        );
    }
}
