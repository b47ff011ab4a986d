//! How likely the model found a token, and which tokens it found likeliest.

use llama_cpp_4::token::LlamaToken;

/// Natural logarithms of the model's own distribution, before penalties, temperature and grammar.
#[derive(Debug, PartialEq)]
pub(crate) struct Likely {
    pub(crate) drawn: f32,
    /// Best first.
    pub(crate) top: Vec<(LlamaToken, f32)>,
}

/// The softmax of all logits, for the token drawn and for the `top` best.
pub(crate) fn likely(logits: &[f32], drawn: LlamaToken, top: usize) -> Likely {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - most).exp())
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a logarithm of a sum of at most some hundred thousand numbers up to 1"
    )]
    let log_sum = sum.ln() as f32;
    let logprob = |logit: f32| (logit - most - log_sum).max(f32::MIN);
    let index = usize::try_from(drawn.0).unwrap_or(usize::MAX);
    Likely {
        drawn: logprob(logits.get(index).copied().unwrap_or(f32::NEG_INFINITY)),
        top: best(logits, top)
            .into_iter()
            .map(|(index, logit)| (token(index), logprob(logit)))
            .collect(),
    }
}

/// The `count` highest values with their places, best first; among equals the first.
fn best(values: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    for (index, &value) in values.iter().enumerate() {
        let least = best.last().filter(|_| best.len() == count);
        if least.is_some_and(|(_, least)| value <= *least) {
            continue;
        }
        let at = best.partition_point(|(_, other)| *other >= value);
        best.insert(at, (index, value));
        best.truncate(count);
    }
    best
}

fn token(index: usize) -> LlamaToken {
    LlamaToken(i32::try_from(index).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_and_quarters() {
        let logits = [0.0, 2.0_f32.ln(), f32::NEG_INFINITY, 0.0];
        let told = likely(&logits, LlamaToken(3), 2);
        assert!((told.drawn - 0.25_f32.ln()).abs() < 1e-6, "{told:?}");
        assert_eq!(told.top[0].0, LlamaToken(1));
        assert!((told.top[0].1 - 0.5_f32.ln()).abs() < 1e-6, "{told:?}");
        assert_eq!(told.top[1].0, LlamaToken(0));
        assert!(likely(&logits, LlamaToken(2), 0).drawn.is_finite());
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_sort(values in prop::collection::vec(-50.0_f32..50.0, 1..60), count in 0_usize..25) {
            let mut sorted: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            sorted.truncate(count);
            prop_assert_eq!(best(&values, count), sorted);
            let all = likely(&values, LlamaToken(0), values.len());
            let sum: f32 = all.top.iter().map(|(_, logprob)| logprob.exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-3, "{}", sum);
        }
    }
}
