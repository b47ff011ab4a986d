//! How many prompt tokens fit beside running streams, learned from the steps before.

use std::time::Duration;

/// A pause that no reader notices: below it there is no point in cutting prompts into smaller chunks.
const UNNOTICED: f64 = 0.005;
/// Prompt tokens may make a step this many decode steps longer: a stream's pauses stay within three times those without.
const DECODE_STEPS: f64 = 1.5;
/// A prompt has to get on, however quick the other steps are.
const FEWEST: usize = 2;
/// The allowance before anything was measured.
const UNMEASURED: usize = 32;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.3;

/// What steps cost here, as moving averages in seconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// A step that only generates.
    decode_step: Option<f64>,
    /// One more prompt token.
    prompt_token: Option<f64>,
}

impl Pace {
    pub(crate) fn observe(&mut self, streams: usize, prompt_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if prompt_tokens == 0 {
            average(&mut self.decode_step, took);
            return;
        }
        let streaming = if streams == 0 {
            0.0
        } else {
            self.decode_step.unwrap_or(0.0)
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "a batch is thousands of tokens at most"
        )]
        let each = (took - streaming).max(0.0) / prompt_tokens as f64;
        average(&mut self.prompt_token, each);
    }

    /// Prompt tokens that may share a step with streams, at most `most`.
    pub(crate) fn prefill_beside_streams(&self, most: usize) -> usize {
        let Some(each) = self.prompt_token else {
            return UNMEASURED.min(most);
        };
        let seconds = (DECODE_STEPS * self.decode_step.unwrap_or(0.0)).max(UNNOTICED);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped right below"
        )]
        let tokens = (seconds / each.max(f64::MIN_POSITIVE)) as usize;
        tokens.clamp(FEWEST.min(most), most)
    }
}

fn average(value: &mut Option<f64>, newest: f64) {
    *value = Some(value.map_or(newest, |value| value + NEWEST * (newest - value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn allows_so_many_decode_steps_of_prompt() {
        let mut pace = Pace::default();
        pace.observe(0, 500, millis(2000));
        pace.observe(3, 0, millis(100));
        assert_eq!(pace.prefill_beside_streams(512), 37);
    }

    #[test]
    fn quick_steps_allow_what_nobody_notices() {
        let mut pace = Pace::default();
        pace.observe(0, 100, millis(400));
        pace.observe(1, 0, millis(1));
        assert_eq!(pace.prefill_beside_streams(512), 2);
        for _ in 0..100 {
            pace.observe(0, 100, millis(50));
        }
        assert!((9..=10).contains(&pace.prefill_beside_streams(512)));
    }

    #[test]
    fn stays_within_bounds_and_learns_from_mixed_steps() {
        let mut pace = Pace::default();
        assert_eq!(pace.prefill_beside_streams(512), UNMEASURED);
        pace.observe(1, 0, millis(50));
        pace.observe(1, 10, millis(1050));
        assert_eq!(pace.prefill_beside_streams(512), FEWEST);
        for _ in 0..100 {
            pace.observe(1, 10, millis(50));
        }
        assert_eq!(pace.prefill_beside_streams(512), 512);
    }
}
