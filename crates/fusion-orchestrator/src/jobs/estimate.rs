//! When a queued job may be expected to be done. A guess: said so in the contract, and nothing depends on it.

use std::time::Duration;

use fusion_types::{
    inference::{Needs, WorkEstimate, WorkSize},
    job::Job,
};

use super::{Forecast, Parts};

/// Stands for a job whose input is no longer looked at.
const TYPICAL: WorkSize = WorkSize {
    prompt_tokens: 256,
    max_tokens: 256,
};

impl Parts {
    /// Milliseconds from now; `None` while nothing is known about the model's speed.
    pub(super) fn estimate(&self, forecast: &Forecast, position: u64) -> Option<u64> {
        let model = forecast.model.as_ref()?;
        let expected = self.planner.estimate(model, &forecast.size);
        let completion = completion(&expected, position, self.config.parallel)?;
        Some(u64::try_from(completion.as_millis()).unwrap_or(u64::MAX))
    }

    /// What can still be said about a job that was submitted earlier.
    pub(super) fn forecast(&self, job: &Job) -> Forecast {
        let reference = job.model_id.as_deref().and_then(|text| text.parse().ok());
        let choice =
            reference.and_then(|reference| self.planner.choose(&reference, &Needs::default()).ok());
        Forecast {
            model: choice.map(|choice| choice.model),
            size: TYPICAL,
        }
    }
}

/// As if the jobs ahead were all like this one, `parallel` of them side by side.
fn completion(expected: &WorkEstimate, position: u64, parallel: u32) -> Option<Duration> {
    if expected.run.is_zero() {
        return None;
    }
    let rounds = u32::try_from(position / u64::from(parallel.max(1)))
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    Some(
        expected
            .wait
            .saturating_add(expected.run.saturating_mul(rounds)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_ahead_take_their_time_in_rounds() {
        let expected = WorkEstimate {
            wait: Duration::from_secs(1),
            run: Duration::from_secs(2),
            free_slots: 0,
            runnable: true,
        };
        assert_eq!(completion(&expected, 0, 4), Some(Duration::from_secs(3)));
        assert_eq!(completion(&expected, 3, 4), Some(Duration::from_secs(3)));
        assert_eq!(completion(&expected, 8, 4), Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_unknown_speed_is_not_guessed() {
        assert_eq!(completion(&WorkEstimate::default(), 5, 4), None);
    }
}
