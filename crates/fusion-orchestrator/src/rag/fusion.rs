//! Two rankings made one.

/// What each search says of one chunk; `None` where it didn't find it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pair {
    pub(super) dense: Option<f32>,
    pub(super) keyword: Option<f32>,
}

/// The mean of both scores, each first stretched to 0–1 over the chunks found; a chunk that a search didn't find has 0 there.
///
/// Measured better than reciprocal rank fusion on the sets tried.
pub(super) fn min_max_mean(pairs: &[Pair]) -> Vec<f32> {
    let dense = Stretch::over(pairs.iter().filter_map(|pair| pair.dense));
    let keyword = Stretch::over(pairs.iter().filter_map(|pair| pair.keyword));
    pairs
        .iter()
        .map(|pair| (dense.apply(pair.dense) + keyword.apply(pair.keyword)) / 2.0)
        .collect()
}

struct Stretch {
    least: f32,
    most: f32,
}

impl Stretch {
    fn over(scores: impl Iterator<Item = f32>) -> Self {
        let start = Self {
            least: f32::INFINITY,
            most: f32::NEG_INFINITY,
        };
        scores.fold(start, |range, score| Self {
            least: range.least.min(score),
            most: range.most.max(score),
        })
    }

    /// Where all scores are the same, all are best.
    fn apply(&self, score: Option<f32>) -> f32 {
        match score {
            None => 0.0,
            Some(_) if self.most <= self.least => 1.0,
            Some(score) => (score - self.least) / (self.most - self.least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_the_stretched_scores() {
        let pairs = [
            Pair {
                dense: Some(0.9),
                keyword: Some(4.0),
            },
            Pair {
                dense: Some(0.5),
                keyword: Some(12.0),
            },
            Pair {
                dense: Some(0.1),
                keyword: None,
            },
        ];
        assert_eq!(min_max_mean(&pairs), [0.5, 0.75, 0.0]);
        assert_eq!(
            min_max_mean(&[Pair {
                dense: None,
                keyword: Some(3.0)
            }]),
            [0.5]
        );
        assert_eq!(min_max_mean(&[]), Vec::<f32>::new());
    }
}
