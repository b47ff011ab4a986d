//! What goes into the next batch.

/// Tokens of several sequences in one batch, at most; a single longer sequence goes alone.
///
/// Sequences in a batch don't see each other, but attention is computed for all pairs of their tokens before the others are
/// masked out: a large batch of short texts does mostly needless work, while a small one already keeps the arithmetic busy.
pub(super) const BATCH_TOKENS: usize = 128;

/// How many sequences of each job go into the next batch, given the lengths of those that wait: as many as fit, of the first job
/// first, and of that at least one.
pub(super) fn fill<'a>(jobs: impl Iterator<Item = &'a [usize]>, most: usize) -> Vec<usize> {
    let (mut tokens, mut sequences) = (0, 0);
    let mut taken = Vec::new();
    for lengths in jobs {
        let mut count = 0;
        for length in lengths {
            let fits = tokens + length <= BATCH_TOKENS && sequences < most;
            if !fits && sequences > 0 {
                break;
            }
            (tokens, sequences, count) = (tokens + length, sequences + 1, count + 1);
        }
        taken.push(count);
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_jobs_share_a_batch_and_a_long_text_goes_alone() {
        let take = |jobs: &[&[usize]]| fill(jobs.iter().copied(), 64);
        assert_eq!(take(&[&[10, 20], &[30], &[40]]), [2, 1, 1]);
        assert_eq!(take(&[&[100, 100], &[28], &[1]]), [1, 1, 0]);
        assert_eq!(take(&[&[5000, 1], &[1]]), [1, 0]);
        assert_eq!(take(&[]), [0; 0]);
        assert_eq!(fill([&[1, 1, 1][..], &[1]].into_iter(), 2), [2, 0]);
    }

    proptest! {
        #[test]
        fn the_first_job_always_goes_on_and_batches_are_bounded(
            jobs in prop::collection::vec(prop::collection::vec(1_usize..300, 1..20), 1..10),
        ) {
            let taken = fill(jobs.iter().map(Vec::as_slice), 16);
            prop_assert!(taken[0] >= 1);
            let sequences: usize = taken.iter().sum();
            let tokens: usize = jobs.iter().zip(&taken).map(|(job, count)| job[..*count].iter().sum::<usize>()).sum();
            prop_assert!(sequences <= 16);
            prop_assert!(tokens <= BATCH_TOKENS || sequences == 1);
        }
    }
}
