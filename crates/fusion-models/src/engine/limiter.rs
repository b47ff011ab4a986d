//! How many requests a foreign engine should have at a time, found from how long they take and whether they fail. Pure.
//!
//! Up to some number of requests an engine answers each as fast as one alone; from there on they only wait for each other. The
//! limit follows the gradient between the two: what a unit of work takes when few requests run, against what it takes now.

/// Takes longer than alone by less than this part: not slower, only noisy.
const TOLERANCE: f64 = 1.15;
/// What the limit grows by as long as nothing gets slower.
const HEADROOM: f64 = 1.0;
/// How far one request moves the limit towards where it should be.
const GAIN: f64 = 0.1;
/// How far one request moves the time that a unit takes now.
const SMOOTHING: f64 = 0.15;
/// The limit after a failure.
const BACK_OFF: f64 = 0.8;
const MOST: f64 = 256.0;
/// After so many requests it is looked at again how fast the engine is when few run.
const LOOK_EVERY: u32 = 400;
/// Requests that such a look takes.
const LOOK: u32 = 12;
/// How far a look moves the figure, where the engine has become slower; to a better one it moves at once.
const FORGET: f64 = 0.25;

/// A request that came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Seconds for one unit of work, such as a token; `None` where the engine failed.
    pub(crate) pace: Option<f64>,
    /// Requests that ran at the time, this one included.
    pub(crate) in_flight: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limiter {
    limit: f64,
    /// Seconds for one unit when few requests run.
    unhindered: Option<f64>,
    /// Seconds for one unit lately.
    lately: Option<f64>,
    since_look: u32,
    look: Option<Look>,
}

/// Half as many requests run while it lasts.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// Requests that may have begun before it.
    to_skip: u32,
    seen: u32,
    sum: f64,
}

impl Limiter {
    pub(crate) fn new(start: u32) -> Self {
        Self {
            limit: f64::from(start.max(1)).min(MOST),
            unhindered: None,
            lately: None,
            since_look: 0,
            look: Some(Look::default()),
        }
    }

    /// Requests that may run now.
    pub(crate) fn limit(&self) -> u32 {
        let limit = match self.look {
            Some(_) => (self.limit / 2.0).floor(),
            None => self.limit.round(),
        };
        // At most `MOST`, so that nothing is cut.
        limit.max(1.0) as u32
    }

    pub(crate) fn observe(&mut self, outcome: Outcome) {
        let pace = outcome.pace.filter(|pace| pace.is_finite() && *pace > 0.0);
        match (outcome.pace, pace) {
            (None, _) => self.limit = (self.limit * BACK_OFF).max(1.0),
            (Some(_), None) => {}
            (Some(_), Some(pace)) => match &mut self.look {
                Some(_) => self.look_on(pace),
                None => self.follow(pace, outcome.in_flight),
            },
        }
    }

    fn look_on(&mut self, pace: f64) {
        let Some(look) = &mut self.look else { return };
        if look.to_skip > 0 {
            look.to_skip -= 1;
            return;
        }
        look.seen += 1;
        look.sum += pace;
        if look.seen < LOOK {
            return;
        }
        let mean = look.sum / f64::from(look.seen);
        self.unhindered = Some(match self.unhindered {
            Some(before) if mean > before => before + (mean - before) * FORGET,
            _ => mean,
        });
        self.look = None;
        self.lately = None;
        self.since_look = 0;
    }

    fn follow(&mut self, pace: f64, in_flight: u32) {
        let lately = self
            .lately
            .map_or(pace, |before| before + (pace - before) * SMOOTHING);
        self.lately = Some(lately);
        let unhindered = self.unhindered.unwrap_or(lately);
        let gradient = (TOLERANCE * unhindered / lately).clamp(0.5, 1.0);
        let target = self.limit * gradient + HEADROOM;
        let is_used = f64::from(in_flight) >= (0.8 * self.limit).floor();
        if target < self.limit || is_used {
            self.limit += (target - self.limit) * GAIN;
            self.limit = self.limit.clamp(1.0, MOST);
        }
        self.since_look += 1;
        if self.since_look >= LOOK_EVERY {
            self.look = Some(Look {
                to_skip: in_flight,
                ..Look::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An engine that works on `knee` requests at full speed, shares itself among more, and refuses those over `most`.
    struct Simulated {
        knee: f64,
        most: usize,
        unit: f64,
        now: f64,
        /// When each began, its units of work, and how many are left.
        running: Vec<(f64, f64, f64)>,
        random: u64,
    }

    impl Simulated {
        fn new(knee: u32, seed: u64) -> Self {
            Self {
                knee: f64::from(knee),
                most: usize::MAX,
                unit: 0.02,
                now: 0.0,
                running: Vec::new(),
                random: seed | 1,
            }
        }

        fn draw(&mut self) -> f64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            (self.random >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Keeps as many running as it may, and gives the mean limit over the later half of so many requests.
        fn saturate(&mut self, limiter: &mut Limiter, requests: u32) -> f64 {
            let mut limits = 0.0;
            for request in 0..requests {
                while self.running.len() < limiter.limit() as usize {
                    let work = 20.0 + 180.0 * self.draw();
                    self.running.push((self.now, work, work));
                }
                let in_flight = u32::try_from(self.running.len()).unwrap();
                let pace = self.finish_one();
                let failed = self.running.len() >= self.most;
                limiter.observe(Outcome {
                    pace: (!failed).then_some(pace),
                    in_flight,
                });
                if request >= requests / 2 {
                    limits += f64::from(limiter.limit());
                }
            }
            limits / f64::from(requests - requests / 2)
        }

        fn finish_one(&mut self) -> f64 {
            let speed = (self.knee / self.running.len() as f64).min(1.0) / self.unit;
            let (index, _) = self
                .running
                .iter()
                .enumerate()
                .min_by(|(_, a), (_, b)| a.2.total_cmp(&b.2))
                .unwrap();
            let (began, work, left) = self.running.swap_remove(index);
            self.now += left / speed;
            for other in &mut self.running {
                other.2 -= left;
            }
            let noise = 0.9 + 0.2 * self.draw();
            (self.now - began) / work * noise
        }
    }

    proptest! {
        #[test]
        fn it_converges_near_the_knee_from_wherever_it_starts(
            knee in 1..48_u32, start in 1..64_u32, seed in any::<u64>(),
        ) {
            let mut limiter = Limiter::new(start);
            let mean = Simulated::new(knee, seed).saturate(&mut limiter, 4000);
            let knee = f64::from(knee);
            prop_assert!((0.75 * knee..=1.5 * knee + 2.0).contains(&mean), "{mean} for {knee}");
        }

        #[test]
        fn it_follows_an_engine_that_changes(before in 2..32_u32, after in 2..32_u32, seed in any::<u64>()) {
            let mut limiter = Limiter::new(4);
            let mut engine = Simulated::new(before, seed);
            engine.saturate(&mut limiter, 2000);
            engine.knee = f64::from(after);
            let mean = engine.saturate(&mut limiter, 6000);
            let knee = f64::from(after);
            prop_assert!((0.7 * knee..=1.5 * knee + 2.0).contains(&mean), "{mean} for {knee}");
        }

        #[test]
        fn failures_bring_it_down(most in 1..16_usize, seed in any::<u64>()) {
            let mut limiter = Limiter::new(32);
            let mut engine = Simulated { most, ..Simulated::new(64, seed) };
            let mean = engine.saturate(&mut limiter, 4000);
            prop_assert!(mean <= most as f64 + 2.0, "{mean} for {most}");
        }

        #[test]
        fn whatever_it_hears_the_limit_stays_within_bounds(
            heard in prop::collection::vec((prop::option::of(any::<f64>()), any::<u32>()), 0..1000),
        ) {
            let mut limiter = Limiter::new(4);
            for (pace, in_flight) in heard {
                limiter.observe(Outcome { pace, in_flight });
                prop_assert!((1..=256).contains(&limiter.limit()));
            }
        }
    }

    #[test]
    fn a_limit_that_nobody_uses_does_not_grow() {
        let mut limiter = Limiter::new(8);
        for _ in 0..2000 {
            limiter.observe(Outcome {
                pace: Some(0.02),
                in_flight: 1,
            });
        }
        assert!(limiter.limit() <= 8, "{}", limiter.limit());
    }
}
