//! Which tokens of which slot go into the next batch: a pure decision.

use std::cmp::Reverse;

use fusion_engine::types::Class;

/// Those less urgent than the most urgent one there is get this part of what there is: one in so many.
const PART: usize = 4;

/// A slot that can run now: it has tokens to feed, and its receiver has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) slot: usize,
    pub(crate) class: Class,
    /// Tokens that the model hasn't read yet, at least 1. A slot that generates has exactly its last token.
    pub(crate) unread: usize,
    /// An image, a sound or the prompt's last token comes after them, so that nothing can be drawn yet.
    pub(crate) more: bool,
    /// Steps that it was left out of since its last token.
    pub(crate) skipped: usize,
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

/// 1. Every slot of the most urgent class there is that only waits for its next token gets it: no prompt, however long, and
///    nobody less urgent holds up a running stream.
/// 2. A less urgent stream gets its token every fourth time, and no more than a quarter of them at once, those first that were
///    left out longest: so each has one in eight steps at the latest.
/// 3. Prompts share what is left: all of it when nothing urgent streams, the smaller allowance otherwise. The less urgent ones
///    have a quarter of it, and what the others don't need where no urgent stream would pay for it.
/// 4. They share it evenly, and what the short ones don't need goes to the longer ones, so that a short prompt behind a long
///    one is read at once and the long one still moves.
///
/// The shares are in the order of the slots: llama.cpp computes neighbouring sequences together.
pub(crate) fn plan(ready: &[Ready], room: Room) -> Vec<Share> {
    let Some(urgent) = ready.iter().map(|slot| slot.class).min() else {
        return Vec::new();
    };
    let (streams, prompts): (Vec<Ready>, Vec<Ready>) =
        ready.iter().partition(|slot| slot.unread == 1);
    let (first, mut others): (Vec<Ready>, Vec<Ready>) =
        streams.iter().partition(|slot| slot.class == urgent);
    let most = others.len().div_ceil(PART);
    others.retain(|slot| slot.skipped + 1 >= PART);
    others.sort_by_key(|slot| (Reverse(slot.skipped), slot.class));
    others.truncate(most);
    let mut shares: Vec<Share> = first
        .iter()
        .chain(&others)
        .take(room.batch)
        .map(|slot| share(*slot, 1))
        .collect();

    let left = room.batch - shares.len();
    let left = if first.is_empty() && !room.streams_elsewhere {
        left
    } else {
        left.min(room.prefill_beside_streams)
    };
    let (first_prompts, other_prompts): (Vec<Ready>, Vec<Ready>) =
        prompts.iter().partition(|slot| slot.class == urgent);
    let part = left.div_ceil(PART).min(unread(&other_prompts));
    let for_first = unread(&first_prompts).min(left - part);
    let for_others = if first.is_empty() {
        left - for_first
    } else {
        part
    };
    shares.extend(evenly(first_prompts, for_first));
    shares.extend(evenly(other_prompts, for_others));
    shares.sort_by_key(|share| share.slot);
    shares
}

fn evenly(mut prompts: Vec<Ready>, mut left: usize) -> Vec<Share> {
    prompts.sort_by_key(|slot| slot.unread);
    let mut shares = Vec::with_capacity(prompts.len());
    for (index, slot) in prompts.iter().enumerate() {
        let tokens = slot.unread.min(left.div_ceil(prompts.len() - index));
        left -= tokens;
        if tokens > 0 {
            shares.push(share(*slot, tokens));
        }
    }
    shares
}

fn unread(slots: &[Ready]) -> usize {
    slots.iter().map(|slot| slot.unread).sum()
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
        let slots: Vec<_> = unread
            .iter()
            .map(|unread| (Class::Interactive, *unread))
            .collect();
        classed(&slots)
    }

    fn classed(slots: &[(Class, usize)]) -> Vec<Ready> {
        slots
            .iter()
            .enumerate()
            .map(|(slot, &(class, unread))| Ready {
                slot,
                class,
                unread,
                more: false,
                skipped: 0,
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
            class: Class::Job,
            unread: 6,
            more: true,
            skipped: 0,
        };
        assert_eq!(tokens(&plan(&[slot], ROOM)), [(0, 6, false)]);
    }

    #[test]
    fn a_person_goes_before_jobs_and_jobs_still_get_on() {
        let [person, job, ingest] = Class::ALL;
        let mut ready = classed(&[(job, 1), (person, 1), (job, 1), (ingest, 1), (job, 900)]);
        ready[2].skipped = 3;
        let shares = plan(&ready, ROOM);
        assert_eq!(tokens(&shares), [(1, 1, true), (2, 1, true), (4, 5, false)]);
        // Nobody who streams would pay for it: the person's prompt is read as if it were alone but for their part.
        let shares = plan(&classed(&[(person, 900), (job, 1), (ingest, 900)]), ROOM);
        assert_eq!(tokens(&shares), [(0, 384, false), (2, 128, false)]);
        let shares = plan(&classed(&[(ingest, 1), (ingest, 900)]), ROOM);
        assert_eq!(tokens(&shares), [(0, 1, true), (1, 20, false)]);
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
            // Nothing is left over while a prompt of the same class could use it.
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

        #[test]
        fn the_less_urgent_are_never_forgotten(
            slots in prop::collection::vec((0_usize..3, prop_oneof![Just(1_usize), 2_usize..400]), 1..10),
        ) {
            let slots: Vec<_> = slots.into_iter().map(|(class, unread)| (Class::ALL[class], unread)).collect();
            let urgent = slots.iter().map(|(class, _)| *class).min().unwrap();
            let mut ready = classed(&slots);
            for _ in 0..2000 {
                let shares = plan(&ready, ROOM);
                let total: usize = shares.iter().map(|share| share.tokens).sum();
                prop_assert!(total <= ROOM.batch);
                let urgent_streams = ready.iter().any(|slot| slot.class == urgent && slot.unread == 1);
                let of_others: usize = shares.iter().filter(|share| ready[share.slot].class != urgent).map(|share| share.tokens).sum();
                prop_assert!(!urgent_streams || of_others <= ready.len().div_ceil(PART) + ROOM.prefill_beside_streams.div_ceil(PART));
                for slot in &mut ready {
                    let given = shares.iter().find(|share| share.slot == slot.slot).map_or(0, |share| share.tokens);
                    let streams = slot.unread == 1;
                    prop_assert!(!streams || slot.class != urgent || given == 1, "an urgent stream waited");
                    prop_assert!(slot.skipped < 2 * PART, "a stream was left out of {} steps", slot.skipped);
                    slot.skipped = if streams && given == 0 { slot.skipped + 1 } else { 0 };
                    if !streams {
                        slot.unread = (slot.unread - given).max(1);
                    }
                }
            }
            prop_assert!(ready.iter().all(|slot| slot.unread == 1), "{:?}", ready);
        }
    }
}
