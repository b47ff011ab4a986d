//! Sequences of about one length, padded to the longest.

/// Most tokens that a batch holds, padding included; a single longer sequence goes alone.
///
/// More would hardly be faster on a CPU (its caches are full), but it would make a short request wait longer for the batch
/// before it, and the scratch memory grow.
pub(crate) const BATCH_TOKENS: usize = 1024;

/// What a backend computes at once: `rows × length` tokens.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    pub(crate) length: usize,
    pub(crate) ids: Vec<u32>,
    /// 1 for a token, 0 for padding.
    pub(crate) mask: Vec<u32>,
}

impl Batch {
    pub(crate) fn new(sequences: &[&[u32]], pad: u32) -> Self {
        let length = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(sequences.len() * length);
        let mut mask = Vec::with_capacity(sequences.len() * length);
        for sequence in sequences {
            let end = ids.len() + length;
            ids.extend_from_slice(sequence);
            ids.resize(end, pad);
            mask.resize(end - (length - sequence.len()), 1);
            mask.resize(end, 0);
        }
        Self {
            rows: sequences.len(),
            length,
            ids,
            mask,
        }
    }
}

/// How many sequences, longest first, go into one batch: as many as fit, while none would be mostly padding.
pub(crate) fn fill(lengths: impl IntoIterator<Item = usize>) -> usize {
    let mut lengths = lengths.into_iter();
    let Some(longest) = lengths.next() else {
        return 0;
    };
    let room = (BATCH_TOKENS / longest.max(1)).saturating_sub(1);
    1 + lengths
        .take(room)
        .take_while(|length| is_near(*length, longest))
        .count()
}

/// Below three quarters of the batch's length the padding costs more than another batch; tiny sequences always go together.
fn is_near(length: usize, longest: usize) -> bool {
    longest <= 16 || length * 4 >= longest * 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pads_to_the_longest() {
        let batch = Batch::new(&[&[5, 6, 7], &[8]], 0);
        assert_eq!((batch.rows, batch.length), (2, 3));
        assert_eq!(batch.ids, [5, 6, 7, 8, 0, 0]);
        assert_eq!(batch.mask, [1, 1, 1, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn batches_are_bounded_and_take_everything(mut lengths in prop::collection::vec(1_usize..3000, 0..200)) {
            lengths.sort_by(|a, b| b.cmp(a));
            let mut left = lengths.as_slice();
            while !left.is_empty() {
                let count = fill(left.iter().copied());
                prop_assert!(count >= 1 && count <= left.len());
                prop_assert!(count == 1 || count * left[0] <= BATCH_TOKENS);
                let tokens: usize = left[..count].iter().sum();
                prop_assert!(left[0] <= 16 || tokens * 4 >= count * left[0] * 3);
                left = &left[count..];
            }
        }
    }
}
