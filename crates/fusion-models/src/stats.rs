//! How fast a model answered lately.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fusion_types::{
    chat::{ChatEvent, Usage},
    model::ModelId,
};
use metrics::{Counter, Histogram, counter, histogram};

use crate::{ModelStats, Percentiles};

/// Requests over which percentiles are taken.
const WINDOW: usize = 512;
/// Requests that "lately" means, and how many before them must be known to say what is usual.
const RECENT: usize = 8;
const USUAL: usize = 24;

/// A request that was answered whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// From the call to the end of the answer, waiting included.
    pub(crate) latency: Duration,
    /// From the call to the first token of a generation.
    pub(crate) first_token: Option<Duration>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) tokens_in: u32,
    pub(crate) tokens_out: u32,
}

impl Sample {
    /// Tokens, where reading one counts as a tenth of writing one; at least one.
    pub(crate) fn work(&self) -> f64 {
        (f64::from(self.tokens_out) + f64::from(self.tokens_in) / 10.0).max(1.0)
    }
}

/// Follows one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    asked: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            asked: Instant::now(),
            first: None,
            last: None,
        }
    }

    /// The end of a request that generates nothing.
    pub(crate) fn read(&self, tokens_in: u32) -> Sample {
        self.end(&Usage::new(tokens_in, 0))
    }

    /// Notes a generation's event; its usage is the end.
    pub(crate) fn hear(&mut self, event: &ChatEvent) -> Option<Sample> {
        match event {
            // The first delta may only say whose turn it is.
            ChatEvent::Delta(delta) if delta.role.is_none() || delta.content.is_some() => {
                let now = Instant::now();
                self.first.get_or_insert(now);
                self.last = Some(now);
                None
            }
            ChatEvent::Usage(usage) => Some(self.end(usage)),
            _ => None,
        }
    }

    fn end(&self, usage: &Usage) -> Sample {
        let pace = |(first, last): (Instant, Instant)| {
            let seconds = last.duration_since(first).as_secs_f64();
            let steps = f64::from(usage.completion_tokens.saturating_sub(1));
            (seconds > 0.0 && steps > 0.0).then(|| steps / seconds)
        };
        Sample {
            latency: self.asked.elapsed(),
            first_token: self.first.map(|first| first.duration_since(self.asked)),
            tokens_per_second: self.first.zip(self.last).and_then(pace),
            tokens_in: usage.prompt_tokens,
            tokens_out: usage.completion_tokens,
        }
    }
}

/// The last samples, and sums over all.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    samples: VecDeque<Sample>,
    tokens_in: u64,
    tokens_out: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, sample: Sample) {
        if self.samples.len() == WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.tokens_in += u64::from(sample.tokens_in);
        self.tokens_out += u64::from(sample.tokens_out);
    }

    pub(crate) fn report(&self) -> ModelStats {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let samples = || self.samples.iter();
        ModelStats {
            window: self.samples.len(),
            tokens_in: self.tokens_in,
            tokens_out: self.tokens_out,
            latency_ms: percentiles(samples().map(|sample| millis(sample.latency))),
            first_token_ms: percentiles(
                samples().filter_map(|sample| sample.first_token.map(millis)),
            ),
            tokens_per_second: percentiles(samples().filter_map(|sample| sample.tokens_per_second)),
            is_slow: self.is_slow(),
        }
    }

    /// Whether the last requests went at less than half the pace of those before them: by tokens a second where the model
    /// generates, else by the time an answer took.
    fn is_slow(&self) -> bool {
        let paces: Vec<_> = self.samples.iter().filter_map(Sample::pace).collect();
        let Some((before, recent)) = paces.len().checked_sub(RECENT).map(|at| paces.split_at(at))
        else {
            return false;
        };
        before.len() >= USUAL && median(recent) < median(before) / 2.0
    }
}

impl Sample {
    /// The more, the faster; comparable within one model.
    fn pace(&self) -> Option<f64> {
        match (self.first_token, self.latency.as_secs_f64()) {
            (Some(_), _) => self.tokens_per_second,
            (None, latency) => (latency > 0.0).then(|| 1.0 / latency),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    percentiles(values.iter().copied()).map_or(0.0, |known| known.p50)
}

/// By nearest rank: each value is one that was measured.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<Percentiles> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let rank = |percent: usize| {
        let rank = (count * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied()
    };
    Some(Percentiles {
        avg: values.iter().sum::<f64>() / count as f64,
        p50: rank(50)?,
        p95: rank(95)?,
        p99: rank(99)?,
    })
}

/// A model's figures for `/metrics`, looked up once.
pub(crate) struct Counters {
    requests: Counter,
    tokens_in: Counter,
    tokens_out: Counter,
    first_token: Histogram,
}

impl Counters {
    pub(crate) fn of(model: &ModelId) -> Self {
        let model = || model.to_string();
        Self {
            requests: counter!("fusiond_model_requests_total", "model" => model()),
            tokens_in: counter!("fusiond_model_prompt_tokens_total", "model" => model()),
            tokens_out: counter!("fusiond_model_completion_tokens_total", "model" => model()),
            first_token: histogram!("fusiond_model_first_token_duration_seconds", "model" => model()),
        }
    }

    /// A slot was given to a request.
    pub(crate) fn count_request(&self) {
        self.requests.increment(1);
    }

    /// A request was answered whole.
    pub(crate) fn count_sample(&self, sample: &Sample) {
        self.tokens_in.increment(u64::from(sample.tokens_in));
        self.tokens_out.increment(u64::from(sample.tokens_out));
        if let Some(first) = sample.first_token {
            self.first_token.record(first.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(millis: u64) -> Sample {
        Sample {
            latency: Duration::from_millis(millis),
            first_token: None,
            tokens_per_second: Some(millis as f64),
            tokens_in: 2,
            tokens_out: 3,
        }
    }

    #[test]
    fn percentiles_are_of_the_last_requests_and_sums_of_all() {
        let mut stats = Stats::default();
        assert_eq!(stats.report().latency_ms, None);
        for millis in (1..=WINDOW as u64).chain(1..=100).chain(101..=512) {
            stats.add(sample(millis));
        }
        let report = stats.report();
        assert_eq!(
            (report.window, report.tokens_in, report.tokens_out),
            (512, 2048, 3072)
        );
        let expected = Percentiles {
            avg: 256.5,
            p50: 256.0,
            p95: 487.0,
            p99: 507.0,
        };
        assert_eq!(report.tokens_per_second, Some(expected));
        assert_eq!(report.first_token_ms, None);
    }

    #[test]
    fn a_model_is_slow_when_its_pace_has_halved() {
        let mut stats = Stats::default();
        let add = |stats: &mut Stats, count: usize, pace: f64| {
            for _ in 0..count {
                stats.add(Sample {
                    first_token: Some(Duration::from_millis(1)),
                    tokens_per_second: Some(pace),
                    ..sample(10)
                });
            }
        };
        add(&mut stats, USUAL, 40.0);
        add(&mut stats, RECENT, 21.0);
        assert!(!stats.report().is_slow);
        add(&mut stats, RECENT, 15.0);
        assert!(stats.report().is_slow);
        add(&mut stats, RECENT, 40.0);
        assert!(!stats.report().is_slow);
        let mut embedder = Stats::default();
        for millis in std::iter::repeat_n(10, USUAL).chain([30; RECENT]) {
            assert!(!embedder.report().is_slow);
            embedder.add(sample(millis));
        }
        assert!(embedder.report().is_slow);
    }

    #[test]
    fn one_request_is_every_percentile() {
        let mut stats = Stats::default();
        stats.add(sample(7));
        let all = stats.report().latency_ms.unwrap();
        assert_eq!((all.avg, all.p50, all.p95, all.p99), (7.0, 7.0, 7.0, 7.0));
    }
}
