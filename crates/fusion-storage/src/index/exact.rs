//! Exact nearest neighbours: every vector is looked at.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result,
    document::{CollectionRef, Hit, IndexChange, IndexChangeKind, IndexQuery},
    id::ChunkId,
    job::Seq,
    store::ChunkIndex,
};

use super::{Shelves, blocking, unsupported};

/// Up to this many multiplications a search is done on the spot; it takes about as long as waking another thread.
const QUICK: usize = 1 << 17;

/// Sums kept side by side in [`dot`]: two registers of AVX-512, four of AVX, eight of SSE.
const LANES: usize = 32;

#[derive(Default)]
pub(crate) struct ExactIndex {
    shelves: Shelves<RwLock<Vectors>>,
}

/// A collection's vectors, one behind the other.
#[derive(Default)]
struct Vectors {
    upto: Seq,
    dimension: usize,
    ids: Vec<ChunkId>,
    values: Vec<f32>,
    rows: HashMap<ChunkId, usize>,
}

#[async_trait]
impl ChunkIndex for ExactIndex {
    async fn upto(&self, collection: &CollectionRef) -> Result<Seq> {
        let shelf = self.shelves.get(collection);
        Ok(shelf
            .map(|shelf| shelf.read().unwrap_or_else(PoisonError::into_inner).upto)
            .unwrap_or_default())
    }

    async fn apply(&self, collection: &CollectionRef, changes: Vec<IndexChange>) -> Result<Seq> {
        if changes.is_empty() {
            return self.upto(collection).await;
        }
        let shelf = self
            .shelves
            .get_or_make(collection, || Ok(RwLock::default()))?;
        blocking(move || {
            shelf
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(changes)
        })
        .await
    }

    async fn search(
        &self,
        collection: &CollectionRef,
        query: IndexQuery,
        k: usize,
    ) -> Result<Vec<Hit>> {
        let IndexQuery::Dense(query) = query else {
            return Err(unsupported("exact", "keyword"));
        };
        let Some(shelf) = self.shelves.get(collection) else {
            return Ok(Vec::new());
        };
        let is_quick = shelf
            .try_read()
            .is_ok_and(|vectors| vectors.values.len() <= QUICK);
        let search = move |shelf: Arc<RwLock<Vectors>>| {
            shelf
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .search(&query, k)
        };
        if is_quick {
            search(shelf)
        } else {
            blocking(move || search(shelf)).await
        }
    }

    async fn drop_collection(&self, collection: &CollectionRef) -> Result<()> {
        self.shelves.remove(collection);
        Ok(())
    }
}

impl Vectors {
    /// Changes that were seen before are skipped: two callers may bring the same.
    fn apply(&mut self, changes: Vec<IndexChange>) -> Result<Seq> {
        for change in changes {
            if change.seq <= self.upto {
                continue;
            }
            match change.kind {
                IndexChangeKind::Add {
                    chunk_id,
                    embedding,
                    ..
                } => self.put(chunk_id, &embedding)?,
                IndexChangeKind::Remove { chunk_id } => self.remove(&chunk_id),
            }
            self.upto = change.seq;
        }
        Ok(self.upto)
    }

    fn put(&mut self, id: ChunkId, vector: &[f32]) -> Result<()> {
        if self.ids.is_empty() {
            self.dimension = vector.len();
        }
        if vector.len() != self.dimension || vector.is_empty() {
            return Err(mismatch(vector.len(), self.dimension));
        }
        match self.rows.get(&id) {
            Some(row) => {
                let start = row * self.dimension;
                self.values[start..start + self.dimension].copy_from_slice(vector);
            }
            None => {
                self.rows.insert(id.clone(), self.ids.len());
                self.ids.push(id);
                self.values.extend_from_slice(vector);
            }
        }
        Ok(())
    }

    /// The last row takes the place of the one removed.
    fn remove(&mut self, id: &ChunkId) {
        let Some(row) = self.rows.remove(id) else {
            return;
        };
        let last = self.ids.len() - 1;
        self.values
            .copy_within(last * self.dimension.., row * self.dimension);
        self.values.truncate(last * self.dimension);
        self.ids.swap_remove(row);
        if let Some(moved) = self.ids.get(row) {
            self.rows.insert(moved.clone(), row);
        }
    }

    fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        if self.ids.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        if query.len() != self.dimension {
            return Err(mismatch(query.len(), self.dimension));
        }
        let rows = self.values.chunks_exact(self.dimension).zip(&self.ids);
        Ok(best(rows.map(|(vector, id)| (dot(query, vector), id)), k))
    }
}

fn mismatch(found: usize, expected: usize) -> Error {
    let message = format!(
        "a vector of length {found} doesn't fit a collection of length {expected}: another model made it"
    );
    Error::new(ErrorCode::EmbeddingModelMismatch, message)
}

/// A score on its way into a ranking: higher is greater, and of equals the smaller id.
#[derive(PartialEq)]
struct Ranked<'a> {
    score: f32,
    id: &'a ChunkId,
}

impl Eq for Ranked<'_> {}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score
            .total_cmp(&other.score)
            .then_with(|| other.id.cmp(self.id))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` best, best first; never holds more than those.
fn best<'a>(scores: impl Iterator<Item = (f32, &'a ChunkId)>, k: usize) -> Vec<Hit> {
    let mut heap = BinaryHeap::new();
    for (score, id) in scores {
        let candidate = Ranked { score, id };
        if heap.len() < k {
            heap.push(Reverse(candidate));
        } else if let Some(mut worst) = heap.peek_mut()
            && candidate > worst.0
        {
            *worst = Reverse(candidate);
        }
    }
    let hits = heap.into_sorted_vec().into_iter();
    hits.map(|Reverse(Ranked { score, id })| Hit {
        chunk_id: id.clone(),
        score,
    })
    .collect()
}

/// The dot product, in sums that don't depend on one another, so that the compiler can keep them in vector registers.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest = left_rest
        .iter()
        .zip(right_rest)
        .map(|(left, right)| left * right);
    sums.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bounded_ranking_is_the_full_sort_cut_short(scores in prop::collection::vec(-2i8..2, 0..40), k in 0usize..12) {
            let ids = (0..scores.len()).map(|row| ChunkId::from_text(&format!("{row:02}"))).collect::<Vec<_>>();
            let scored = scores.iter().map(|score| f32::from(*score)).zip(&ids);
            let mut sorted = scored.clone().map(|(score, id)| Ranked { score, id }).collect::<Vec<_>>();
            sorted.sort_by(|left, right| right.cmp(left));
            sorted.truncate(k);
            let expected = sorted.iter().map(|ranked| ranked.id.clone()).collect::<Vec<_>>();
            let found = best(scored, k).into_iter().map(|hit| hit.chunk_id).collect::<Vec<_>>();
            prop_assert_eq!(found, if k == 0 { Vec::new() } else { expected });
        }

        #[test]
        fn dot_agrees_with_double_precision(pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 0..200)) {
            let (left, right): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let exact = pairs.iter().map(|(left, right)| f64::from(*left) * f64::from(*right)).sum::<f64>();
            prop_assert!((f64::from(dot(&left, &right)) - exact).abs() < 1e-4);
        }
    }
}
