//! Which streams run when the KV cache can't hold all of them: pure decisions.
//!
//! The streams that rank first run, the others wait their turn. A stream ranks by when it was taken, and a less urgent one as if
//! it had been taken some requests later: so many may pass it, and no more. Who has to make room ranks last, who comes back
//! ranks first, and nobody passes it: so the first always goes on, and everybody ends.

use fusion_engine::types::Class;

/// Tokens ahead of a stream that must fit before another one joins it: without them the newcomer would soon be thrown out
/// again, and what it had read be read once more.
const AHEAD: usize = 64;

/// A request that has a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) slot: usize,
    pub(crate) class: Class,
    /// When it was taken; higher is later.
    pub(crate) taken: u64,
    pub(crate) running: bool,
    /// Its client has read nothing for a while.
    pub(crate) stalled: bool,
    /// It begins as a running stream whose prompt is still being read, and will share what that one reads.
    pub(crate) follows: bool,
    /// Cells that it needs until its first or next token, beyond those that running streams hold.
    pub(crate) unread: usize,
    /// Tokens that it may still generate.
    pub(crate) remaining: usize,
}

impl Stream {
    fn rank(&self) -> u64 {
        let passed_by = match self.class {
            Class::Interactive => 0,
            Class::Job => 8,
            Class::Ingest => 32,
        };
        self.taken + passed_by
    }

    fn expects(&self) -> usize {
        self.unread + self.remaining.min(AHEAD)
    }

    /// Its turn goes on: a client that reads nothing is not counted on.
    pub(crate) fn is_moving(&self) -> bool {
        self.running && !self.stalled
    }
}

/// The running stream that gives up its cells for the others: none while it is the only one.
pub(crate) fn preempted(streams: &[Stream]) -> Option<usize> {
    let running = || streams.iter().filter(|stream| stream.running);
    let last = running().max_by_key(|stream| (stream.stalled, stream.rank()))?;
    (running().count() > 1).then_some(last.slot)
}

/// The waiting stream that may run now; `free` are the cells that no moving stream holds.
pub(crate) fn resumed(streams: &[Stream], free: usize) -> Option<usize> {
    let next = next(streams)?;
    let mut moving = streams
        .iter()
        .filter(|stream| stream.is_moving())
        .peekable();
    let alone = moving.peek().is_none();
    let expected: usize = moving.map(Stream::expects).sum();
    (alone || expected + next.expects() <= free).then_some(next.slot)
}

/// The running stream that gives way to a more urgent one that waits and ranks before it.
pub(crate) fn displaced(streams: &[Stream]) -> Option<usize> {
    let next = next(streams)?;
    let running = streams.iter().filter(|stream| stream.running);
    let last = running.max_by_key(|stream| stream.rank())?;
    (next.class < last.class && next.rank() < last.rank()).then_some(last.slot)
}

fn next(streams: &[Stream]) -> Option<&Stream> {
    streams
        .iter()
        .filter(|stream| !stream.running && !stream.stalled && !stream.follows)
        .min_by_key(|stream| stream.rank())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(slot: usize, running: bool) -> Stream {
        Stream {
            slot,
            class: Class::Interactive,
            taken: slot as u64,
            running,
            stalled: false,
            follows: false,
            unread: 1,
            remaining: 1000,
        }
    }

    #[test]
    fn the_youngest_makes_room_but_first_one_that_nobody_reads() {
        let mut streams = [stream(0, true), stream(1, true), stream(2, false)];
        assert_eq!(preempted(&streams), Some(1));
        streams[0].stalled = true;
        assert_eq!(preempted(&streams), Some(0));
        streams[1].running = false;
        assert_eq!(preempted(&streams), None);
    }

    #[test]
    fn the_oldest_comes_back_first_and_nobody_passes_it() {
        let mut streams = [stream(0, true), stream(1, false), stream(2, false)];
        streams[1].unread = 500;
        assert_eq!(resumed(&streams, 600), None);
        assert_eq!(resumed(&streams, 629), Some(1));
        streams[0].running = false;
        assert_eq!(resumed(&streams, 0), Some(0));
    }

    #[test]
    fn one_that_follows_holds_up_nobody() {
        let mut streams = [stream(0, true), stream(1, false), stream(2, false)];
        streams[1].follows = true;
        assert_eq!(resumed(&streams, 1000), Some(2));
    }

    #[test]
    fn the_urgent_pass_the_others_so_many_times() {
        let mut streams = [stream(0, true), stream(1, true), stream(2, false)];
        streams[0].class = Class::Job;
        streams[1].class = Class::Ingest;
        assert_eq!(preempted(&streams), Some(1));
        assert_eq!(displaced(&streams), Some(1));
        streams[1].running = false;
        assert_eq!(displaced(&streams), Some(0));
        assert_eq!(resumed(&streams, 1000), Some(2));
        streams[2].taken = 9;
        assert_eq!(displaced(&streams), None);
        streams[2].taken = 40;
        assert_eq!(resumed(&streams, 1000), Some(1));
        let [a, b] = [stream(0, true), stream(1, false)];
        assert_eq!(displaced(&[a, b]), None);
    }

    /// What a stream is to read and to generate, and what it has done.
    #[derive(Clone, Debug)]
    struct Work {
        prompt: usize,
        answer: usize,
        class: Class,
        held: usize,
        generated: usize,
        running: bool,
    }

    impl Work {
        fn tokens(&self) -> usize {
            self.prompt + self.generated
        }

        fn is_done(&self) -> bool {
            self.generated == self.answer
        }
    }

    fn crowd(works: &[Work]) -> Vec<Stream> {
        let busy = works.iter().enumerate().filter(|(_, work)| !work.is_done());
        busy.map(|(slot, work)| Stream {
            class: work.class,
            unread: work.tokens() - work.held,
            remaining: work.answer - work.generated,
            ..stream(slot, work.running)
        })
        .collect()
    }

    fn free(works: &[Work], cells: usize) -> usize {
        cells
            - works
                .iter()
                .filter(|work| work.running)
                .map(|work| work.held)
                .sum::<usize>()
    }

    /// One step of all running streams, each reading up to 32 tokens.
    fn step(works: &mut [Work], cells: usize) {
        loop {
            if let Some(slot) = resumed(&crowd(works), free(works, cells)) {
                works[slot].running = true;
            } else if let Some(slot) = displaced(&crowd(works)) {
                works[slot].running = false;
                works[slot].held = 0;
            } else {
                break;
            }
        }
        let read = |work: &Work| (work.tokens() - work.held).min(32);
        while works
            .iter()
            .filter(|work| work.running)
            .map(read)
            .sum::<usize>()
            > free(works, cells)
        {
            let Some(slot) = preempted(&crowd(works)) else {
                break;
            };
            works[slot].running = false;
            works[slot].held = 0;
        }
        let mut room = free(works, cells);
        for work in works.iter_mut().filter(|work| work.running) {
            let tokens = read(work).min(room);
            room -= tokens;
            work.held += tokens;
            if work.held == work.tokens() {
                work.generated += 1;
                work.running = !work.is_done();
            }
        }
    }

    proptest! {
        #[test]
        fn everybody_ends_and_the_first_always_goes_on(
            cells in 64_usize..600,
            sizes in prop::collection::vec((1_usize..600, 1_usize..600, 0_usize..3), 1..9),
        ) {
            let mut works: Vec<Work> = sizes
                .into_iter()
                .map(|(prompt, answer, class)| {
                    let prompt = prompt.min(cells - 1);
                    let class = Class::ALL[class];
                    Work { prompt, answer: answer.min(cells - prompt), class, held: 0, generated: 0, running: false }
                })
                .collect();
            while let Some(first) = crowd(&works).iter().min_by_key(|stream| stream.rank()).map(|stream| stream.slot) {
                let before = works[first].clone();
                step(&mut works, cells);
                let now = &works[first];
                prop_assert!(now.held > before.held || now.is_done(), "{before:?} {now:?}");
            }
        }
    }
}
