//! Numbers that stand for pieces of media among the tokens of a prompt.
//!
//! The prefix cache compares prompts token by token. A piece's cells have no tokens: they get a number below zero, the same
//! for the same piece of the same file, and never one that another piece had.

use std::collections::{HashMap, VecDeque};

/// Pieces that are remembered. One that was forgotten gets a new number: its cells are then read again, that is all.
const MOST: usize = 4096;

/// SHA-256 of the file, which of its pieces it is, and how many cells it has.
pub(super) type Key = ([u8; 32], usize, usize);

pub(super) struct Names {
    numbers: HashMap<Key, i32>,
    order: VecDeque<Key>,
    last: i32,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            order: VecDeque::new(),
            // -1 is no token in llama.cpp.
            last: -1,
        }
    }
}

impl Names {
    /// None once all numbers were given: after two thousand million pieces.
    pub(super) fn number(&mut self, key: Key) -> Option<i32> {
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        self.last = self.last.checked_sub(1)?;
        if self.order.len() == MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
        self.order.push_back(key);
        self.numbers.insert(key, self.last);
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_piece_keeps_its_number_and_no_number_is_given_twice() {
        let mut names = Names::default();
        let mut number = |file: u8, piece, cells| names.number(([file; 32], piece, cells)).unwrap();
        let first = number(1, 0, 64);
        assert_eq!(number(1, 0, 64), first);
        let others = [number(2, 0, 64), number(1, 1, 64), number(1, 0, 65)];
        assert!(!others.contains(&first) && others.iter().all(|number| *number < -1));
        for piece in 0..2 * MOST {
            assert!(number(3, piece, 64) < first);
        }
        // It was forgotten.
        assert!(number(1, 0, 64) < others[2]);
        assert_eq!(names.numbers.len(), MOST);
    }
}
