//! Which tokens of which slot go into the next batch: a pure decision.

/// A slot that can run now: it has tokens to feed, and its receiver has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) slot: usize,
    /// Tokens that the model hasn't read yet, at least 1. A slot that generates has exactly its last token.
    pub(crate) unread: usize,
    /// An image or a sound comes after them, so that nothing can be drawn yet.
    pub(crate) more: bool,
}

/// A slot's part of a batch: its next `tokens` unread tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) slot: usize,
    pub(crate) tokens: usize,
    /// Nothing stays unread, so that the next token can be drawn.
    pub(crate) draws: bool,
}

/// How much may go into a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Tokens in all.
    pub(crate) batch: usize,
    /// Tokens of prompts, while streams are running.
    pub(crate) prefill_beside_streams: usize,
    /// Streams run that can't be in this batch.
    pub(crate) streams_elsewhere: bool,
}

/// 1. Every slot that only waits for its next token gets it: no prompt, however long, holds up a running stream.
/// 2. Prompts share what is left: all of it when nothing streams, the smaller allowance otherwise.
/// 3. They share it evenly, and what the short ones don't need goes to the longer ones, so that a short prompt behind a long
///    one is read at once and the long one still moves.
///
/// The shares are in the order of the slots: llama.cpp computes neighbouring sequences together.
pub(crate) fn plan(ready: &[Ready], room: Room) -> Vec<Share> {
    let (streams, mut prompts): (Vec<Ready>, Vec<Ready>) =
        ready.iter().partition(|slot| slot.unread == 1);
    let mut shares: Vec<Share> = streams
        .iter()
        .take(room.batch)
        .map(|slot| share(*slot, 1))
        .collect();

    let left = room.batch - shares.len();
    let mut left = if shares.is_empty() && !room.streams_elsewhere {
        left
    } else {
        left.min(room.prefill_beside_streams)
    };

    prompts.sort_by_key(|slot| slot.unread);
    for (index, slot) in prompts.iter().enumerate() {
        let tokens = slot.unread.min(left.div_ceil(prompts.len() - index));
        left -= tokens;
        if tokens > 0 {
            shares.push(share(*slot, tokens));
        }
    }
    shares.sort_by_key(|share| share.slot);
    shares
}

fn share(slot: Ready, tokens: usize) -> Share {
    Share {
        slot: slot.slot,
        tokens,
        draws: tokens == slot.unread && !slot.more,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room {
        batch: 512,
        prefill_beside_streams: 20,
        streams_elsewhere: false,
    };

    fn ready(unread: &[usize]) -> Vec<Ready> {
        unread
            .iter()
            .enumerate()
            .map(|(slot, &unread)| Ready {
                slot,
                unread,
                more: false,
            })
            .collect()
    }

    fn tokens(shares: &[Share]) -> Vec<(usize, usize, bool)> {
        shares
            .iter()
            .map(|share| (share.slot, share.tokens, share.draws))
            .collect()
    }

    #[test]
    fn a_long_prompt_gets_the_allowance_and_streams_their_token() {
        let shares = plan(&ready(&[1, 900, 1]), ROOM);
        assert_eq!(
            tokens(&shares),
            [(0, 1, true), (1, 20, false), (2, 1, true)]
        );
    }

    #[test]
    fn alone_a_prompt_gets_the_whole_batch() {
        assert_eq!(tokens(&plan(&ready(&[900]), ROOM)), [(0, 512, false)]);
    }

    #[test]
    fn a_short_prompt_leaves_its_rest_to_the_long_one() {
        let shares = plan(&ready(&[900, 6, 1]), ROOM);
        assert_eq!(
            tokens(&shares),
            [(0, 14, false), (1, 6, true), (2, 1, true)]
        );
    }

    #[test]
    fn before_an_image_nothing_is_drawn() {
        let slot = Ready {
            slot: 0,
            unread: 6,
            more: true,
        };
        assert_eq!(tokens(&plan(&[slot], ROOM)), [(0, 6, false)]);
    }

    proptest! {
        #[test]
        fn holds_its_promises(
            unread in prop::collection::vec(prop_oneof![Just(1_usize), 1_usize..3000], 0..16),
            batch in 16_usize..600,
            prefill_beside_streams in 16_usize..600,
        ) {
            let ready = ready(&unread);
            let room = Room { batch, prefill_beside_streams, streams_elsewhere: false };
            let shares = plan(&ready, room);

            let streams = unread.iter().filter(|&&unread| unread == 1).count();
            let total: usize = shares.iter().map(|share| share.tokens).sum();
            prop_assert!(total <= batch);
            prop_assert!(streams == 0 || total - streams <= prefill_beside_streams);
            prop_assert!(shares.windows(2).all(|pair| pair[0].slot < pair[1].slot));
            for share in &shares {
                prop_assert!(share.tokens >= 1 && share.tokens <= unread[share.slot]);
                prop_assert_eq!(share.draws, share.tokens == unread[share.slot]);
            }
            for (slot, &unread) in unread.iter().enumerate() {
                let given = shares.iter().find(|share| share.slot == slot).map_or(0, |share| share.tokens);
                prop_assert!(unread > 1 || given == 1, "a stream waited");
            }
            // Nothing is left over while a prompt could use it.
            let wanted: usize = unread.iter().sum();
            let most = if streams == 0 { batch } else { batch.min(streams + prefill_beside_streams) };
            prop_assert_eq!(total, wanted.min(most));
        }

        #[test]
        fn every_prompt_is_read_to_its_end(mut unread in prop::collection::vec(2_usize..2000, 1..8)) {
            unread.push(1);
            for _ in 0..2000 {
                let shares = plan(&ready(&unread), ROOM);
                let stream = Share { slot: unread.len() - 1, tokens: 1, draws: true };
                prop_assert!(shares.contains(&stream));
                for share in shares {
                    unread[share.slot] = (unread[share.slot] - share.tokens).max(1);
                }
                if unread.iter().all(|&unread| unread == 1) {
                    return Ok(());
                }
            }
            prop_assert!(false, "prompts were left unread: {:?}", unread);
        }
    }
}
