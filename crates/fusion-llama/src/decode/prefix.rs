//! Which free slot takes a request, so that what it still holds of earlier prompts is read once only.

/// A slot without a request, and what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free {
    pub(crate) slot: usize,
    /// Tokens in its KV cache.
    pub(crate) held: usize,
    /// Tokens of the new prompt that it would have: its own, or those that another slot shares with it.
    pub(crate) common: usize,
    /// Tokens that nobody else holds, and that taking it destroys.
    pub(crate) lost: usize,
    /// When it was last given a request; higher is later.
    pub(crate) last_used: u64,
}

/// Tokens that two sequences begin with.
pub(crate) fn common_prefix<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

/// The slot with the longest common prefix, unless taking it destroys far more than it spares: a token that is lost counts a
/// quarter of one that is reused, since it may never be asked for again. Among equals the emptiest, then the one that was
/// left alone longest, then the lowest: neighbouring slots are computed together.
pub(crate) fn choose(free: &[Free]) -> Option<Free> {
    free.iter().copied().max_by_key(|slot| {
        let gain = slot.common.cast_signed() * 4 - slot.lost.cast_signed();
        (
            gain,
            std::cmp::Reverse((slot.held, slot.last_used, slot.slot)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(slots: &[(usize, usize)]) -> usize {
        let free: Vec<Free> = slots
            .iter()
            .enumerate()
            .map(|(slot, &(held, common))| Free {
                slot,
                held,
                common,
                lost: held - common,
                last_used: slot as u64,
            })
            .collect();
        choose(&free).unwrap().slot
    }

    #[test]
    fn the_longest_prefix_wins() {
        assert_eq!(chosen(&[(100, 10), (100, 90), (0, 0)]), 1);
    }

    #[test]
    fn a_long_conversation_is_not_thrown_away_for_a_greeting() {
        assert_eq!(chosen(&[(2000, 30), (0, 0)]), 1);
        assert_eq!(chosen(&[(2000, 30), (1900, 30)]), 1);
    }

    #[test]
    fn a_slot_whose_tokens_others_hold_too_is_taken_before_one_that_alone_holds_them() {
        let slot = |slot, lost| Free {
            slot,
            held: 300,
            common: 20,
            lost,
            last_used: 0,
        };
        assert_eq!(choose(&[slot(0, 280), slot(1, 1)]).unwrap().slot, 1);
    }

    #[test]
    fn among_empty_slots_the_lowest() {
        assert_eq!(chosen(&[(0, 0), (0, 0), (0, 0)]), 0);
        assert!(choose(&[]).is_none());
    }
}
