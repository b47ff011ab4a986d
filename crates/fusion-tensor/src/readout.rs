//! From a text's token vectors to what was asked for.
//!
//! MaxSim is the late interaction of ColBERT (Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via
//! Contextualized Late Interaction over BERT", SIGIR 2020). With q₁…qₙ the query's and d₁…dₘ the document's token vectors,
//! each of length 1 and without special tokens,
//!
//! ```text
//! score(q, d) = 1/n · Σᵢ maxⱼ qᵢ·dⱼ
//! ```
//!
//! The paper sums over the query's tokens; the mean ranks alike and stays within −1…1 whatever the query's length. Unlike the
//! paper's model, which is trained for it, the vectors are an embedding model's last hidden states.

use std::sync::Arc;

use crate::{folder::Pooling, tokenizer::Tokens};

/// What becomes of a sequence's hidden states.
#[derive(Clone, Debug)]
pub(crate) enum Readout {
    /// One vector.
    Pooled,
    /// The vectors of the text's own tokens, one after the other.
    Tokens,
    /// One number: how well the text answers the query with these token vectors.
    MaxSim(Arc<[f32]>),
}

/// How a model's hidden states are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
    pub(crate) dimension: usize,
}

impl Reader {
    /// `states`: the vectors of all of the sequence's tokens, padding left out.
    pub(crate) fn read(self, readout: &Readout, tokens: &Tokens, states: &[f32]) -> Vec<f32> {
        match readout {
            Readout::Pooled => self.pooled(states),
            Readout::Tokens => self.token_vectors(tokens, states),
            Readout::MaxSim(query) => {
                let document = self.token_vectors(tokens, states);
                vec![max_sim(query, &document, self.dimension)]
            }
        }
    }

    fn pooled(self, states: &[f32]) -> Vec<f32> {
        let mut vector = pool(states, self.dimension, self.pooling);
        if self.normalize {
            normalize(&mut vector);
        }
        vector
    }

    fn token_vectors(self, tokens: &Tokens, states: &[f32]) -> Vec<f32> {
        let own = tokens.body.start * self.dimension..tokens.body.end * self.dimension;
        let mut vectors = states[own].to_vec();
        vectors.chunks_exact_mut(self.dimension).for_each(normalize);
        vectors
    }
}

fn pool(states: &[f32], dimension: usize, pooling: Pooling) -> Vec<f32> {
    let mut rows = states.chunks_exact(dimension);
    let mut vector = rows
        .next()
        .map_or_else(|| vec![0.0; dimension], <[f32]>::to_vec);
    match pooling {
        Pooling::Cls => {}
        Pooling::Max => rows.for_each(|row| fold(&mut vector, row, f32::max)),
        Pooling::Mean => {
            rows.for_each(|row| fold(&mut vector, row, |sum, value| sum + value));
            scale(&mut vector, dimension as f32 / states.len().max(1) as f32);
        }
    }
    vector
}

fn fold(vector: &mut [f32], row: &[f32], join: impl Fn(f32, f32) -> f32) {
    for (place, value) in vector.iter_mut().zip(row) {
        *place = join(*place, *value);
    }
}

/// To length 1; a vector of zeros stays one.
fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    scale(vector, 1.0 / length.max(1e-12));
}

fn scale(vector: &mut [f32], factor: f32) {
    vector.iter_mut().for_each(|value| *value *= factor);
}

/// A query without tokens says nothing: 0. A document without tokens is the least alike: −1.
fn max_sim(query: &[f32], document: &[f32], dimension: usize) -> f32 {
    let tokens = query.len() / dimension;
    if tokens == 0 {
        return 0.0;
    }
    let best = |token: &[f32]| {
        let likeness = document
            .chunks_exact(dimension)
            .map(|other| dot(token, other));
        likeness.fold(-1.0, f32::max)
    };
    query.chunks_exact(dimension).map(best).sum::<f32>() / tokens as f32
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side let the compiler use vector registers, which one running sum forbids.
    const LANES: usize = 8;
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes
        .remainder()
        .iter()
        .zip(b_lanes.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (xs, ys) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += xs[lane] * ys[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(pooling: Pooling, normalize: bool) -> Reader {
        Reader {
            pooling,
            normalize,
            dimension: 2,
        }
    }

    #[test]
    fn pools_as_asked() {
        let states = [1.0, 4.0, 3.0, 0.0];
        let tokens = Tokens {
            ids: vec![101, 102],
            body: 1..1,
        };
        let pooled = |pooling, normalize| {
            reader(pooling, normalize).read(&Readout::Pooled, &tokens, &states)
        };
        assert_eq!(pooled(Pooling::Mean, false), [2.0, 2.0]);
        assert_eq!(pooled(Pooling::Cls, false), [1.0, 4.0]);
        assert_eq!(pooled(Pooling::Max, false), [3.0, 4.0]);
        assert_eq!(pooled(Pooling::Max, true), [0.6, 0.8]);
    }

    #[test]
    fn token_vectors_leave_special_tokens_out() {
        let states = [9.0, 9.0, 3.0, 4.0, 0.0, 2.0, 9.0, 9.0];
        let tokens = Tokens {
            ids: vec![101, 1, 2, 102],
            body: 1..3,
        };
        let vectors = reader(Pooling::Mean, true).read(&Readout::Tokens, &tokens, &states);
        assert_eq!(vectors, [0.6, 0.8, 0.0, 1.0]);
    }

    #[test]
    fn max_sim_is_the_mean_of_the_best() {
        let query = [1.0, 0.0, 0.0, 1.0];
        assert_eq!(
            max_sim(&query, &[1.0, 0.0, 0.6, 0.8], 2),
            f32::midpoint(1.0, 0.8)
        );
        assert_eq!(max_sim(&query, &[], 2), -1.0);
        assert_eq!(max_sim(&[], &query, 2), 0.0);
    }

    #[test]
    fn dot_counts_every_place() {
        let ones = [1.0; 19];
        assert_eq!(dot(&ones, &ones), 19.0);
    }
}
