//! Who holds which cells of the KV cache: one cell a token, and sequences that begin alike may hold the same cells.
//!
//! llama.cpp knows it too but doesn't tell, and a batch that doesn't fit must be known before it is computed. The numbers of
//! the cells are ours: only who shares with whom has to be right.

pub(crate) struct Ledger {
    /// The cells of each sequence, in the order of its tokens.
    sequences: Vec<Vec<u32>>,
    /// How many sequences hold each cell that was ever held.
    holders: Vec<u32>,
    /// Cells that were held, and no longer are.
    released: Vec<u32>,
    cells: usize,
}

impl Ledger {
    pub(crate) fn new(sequences: usize, cells: usize) -> Self {
        Self {
            sequences: vec![Vec::new(); sequences],
            holders: Vec::new(),
            released: Vec::new(),
            cells,
        }
    }

    /// Cells that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.cells - self.used()
    }

    /// Cells that somebody holds.
    pub(crate) fn used(&self) -> usize {
        self.holders.len() - self.released.len()
    }

    /// Tokens that a sequence holds.
    pub(crate) fn held(&self, sequence: usize) -> usize {
        self.sequences[sequence].len()
    }

    /// Adds tokens to a sequence, as many as there is room for.
    pub(crate) fn extend(&mut self, sequence: usize, tokens: usize) {
        for _ in 0..tokens.min(self.free()) {
            let cell = self.released.pop().unwrap_or_else(|| {
                self.holders.push(0);
                number(self.holders.len() - 1)
            });
            self.holders[cell as usize] = 1;
            self.sequences[sequence].push(cell);
        }
    }

    /// Leaves a sequence its first `tokens`.
    pub(crate) fn truncate(&mut self, sequence: usize, tokens: usize) {
        let from = tokens.min(self.held(sequence));
        for cell in self.sequences[sequence].drain(from..).rev() {
            let holders = &mut self.holders[cell as usize];
            *holders -= 1;
            if *holders == 0 {
                self.released.push(cell);
            }
        }
    }

    /// Gives the sequence `to` the first `tokens` of `from`, in place of all that it held.
    pub(crate) fn share(&mut self, from: usize, to: usize, tokens: usize) {
        if from == to {
            return;
        }
        self.truncate(to, 0);
        let shared: Vec<u32> = self.sequences[from].iter().take(tokens).copied().collect();
        for &cell in &shared {
            self.holders[cell as usize] += 1;
        }
        self.sequences[to] = shared;
    }

    /// Cells beyond a sequence's first `tokens` that it alone holds: what cutting it there frees.
    pub(crate) fn alone_beyond(&self, sequence: usize, tokens: usize) -> usize {
        let beyond = self.sequences[sequence].iter().skip(tokens);
        beyond
            .filter(|&&cell| self.holders[cell as usize] == 1)
            .count()
    }

    /// Cells that would be free if only these sequences held any.
    pub(crate) fn free_beside(&self, sequences: impl Iterator<Item = usize>) -> usize {
        let mut kept = vec![false; self.holders.len()];
        for sequence in sequences {
            for &cell in &self.sequences[sequence] {
                kept[cell as usize] = true;
            }
        }
        self.cells - kept.iter().filter(|kept| **kept).count()
    }
}

fn number(cell: usize) -> u32 {
    u32::try_from(cell).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shared_counts_once_and_is_freed_by_the_last() {
        let mut ledger = Ledger::new(3, 100);
        ledger.extend(0, 40);
        ledger.share(0, 1, 30);
        ledger.extend(1, 5);
        assert_eq!((ledger.used(), ledger.held(1)), (45, 35));
        assert_eq!(ledger.alone_beyond(0, 0), 10);
        assert_eq!(ledger.alone_beyond(1, 32), 3);
        assert_eq!(ledger.free_beside([1].into_iter()), 65);
        ledger.truncate(0, 0);
        assert_eq!((ledger.used(), ledger.alone_beyond(1, 0)), (35, 35));
    }

    #[derive(Clone, Debug)]
    enum Change {
        Extend(usize, usize),
        Truncate(usize, usize),
        Share(usize, usize, usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..4_usize, 0..40_usize).prop_map(|(at, tokens)| Change::Extend(at, tokens)),
            (0..4_usize, 0..40_usize).prop_map(|(at, tokens)| Change::Truncate(at, tokens)),
            (0..4_usize, 0..4_usize, 0..40_usize)
                .prop_map(|(from, to, tokens)| Change::Share(from, to, tokens)),
        ]
    }

    proptest! {
        #[test]
        fn every_cell_is_free_or_held(changes in prop::collection::vec(change(), 1..60)) {
            let mut ledger = Ledger::new(4, 64);
            for change in changes {
                let (free, before) = (ledger.free(), (0..4).map(|at| ledger.held(at)).collect::<Vec<_>>());
                match change {
                    Change::Extend(at, tokens) => {
                        ledger.extend(at, tokens);
                        prop_assert_eq!(ledger.held(at), before[at] + tokens.min(free));
                    }
                    Change::Truncate(at, tokens) => {
                        let freed = ledger.alone_beyond(at, tokens);
                        ledger.truncate(at, tokens);
                        prop_assert_eq!(ledger.free(), free + freed);
                    }
                    Change::Share(from, to, tokens) => {
                        ledger.share(from, to, tokens);
                        let expected = if from == to { before[to] } else { tokens.min(before[from]) };
                        prop_assert_eq!(ledger.held(to), expected);
                    }
                }
                prop_assert_eq!(ledger.free_beside(0..4), ledger.free());
                prop_assert_eq!(ledger.free_beside(0..0), 64);
            }
        }
    }
}
