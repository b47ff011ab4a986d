//! What idle slots held, outside the KV cache: kept for whoever comes back, and no burden to those who run.
//!
//! Attention looks at every cell of the cache, those of other sequences included, so that a step costs by what the cache holds
//! and not by what the step needs.

use llama_cpp_4::token::LlamaToken;

use super::prefix::common_prefix;
use crate::adapters::Mix;

pub(super) struct Stowed {
    /// The one used last is the last.
    prefixes: Vec<Prefix>,
    bytes: usize,
    most_bytes: usize,
}

pub(super) struct Prefix {
    pub(super) tokens: Vec<LlamaToken>,
    /// The adapters that they were read with.
    pub(super) mix: Mix,
    /// The cells, as llama.cpp writes them.
    pub(super) state: Vec<u8>,
}

impl Stowed {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            prefixes: Vec::new(),
            bytes: 0,
            most_bytes,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// Whether something kept begins with these tokens.
    pub(super) fn holds(&self, tokens: &[LlamaToken], mix: &Mix) -> bool {
        self.best(tokens, mix)
            .is_some_and(|(_, common)| common == tokens.len())
    }

    /// Keeps a prefix, in place of those that it begins with and of those left alone longest. It must not be larger than all
    /// that may be kept.
    pub(super) fn add(&mut self, prefix: Prefix) {
        self.prefixes
            .retain(|old| old.mix != prefix.mix || !prefix.tokens.starts_with(&old.tokens));
        self.prefixes.push(prefix);
        self.bytes = self.prefixes.iter().map(|it| it.state.len()).sum();
        while self.bytes > self.most_bytes {
            self.bytes -= self.prefixes.remove(0).state.len();
        }
    }

    /// Which of the kept has most tokens in common with the beginning of these, and how many.
    pub(super) fn best(&self, tokens: &[LlamaToken], mix: &Mix) -> Option<(usize, usize)> {
        self.prefixes
            .iter()
            .enumerate()
            .filter(|(_, prefix)| prefix.mix == *mix)
            .map(|(index, prefix)| (index, common_prefix(&prefix.tokens, tokens)))
            .filter(|&(_, common)| common > 0)
            .max_by_key(|&(_, common)| common)
    }

    /// How many tokens one of the kept has.
    pub(super) fn tokens(&self, index: usize) -> usize {
        self.prefixes
            .get(index)
            .map_or(0, |prefix| prefix.tokens.len())
    }

    /// One of the kept, which from now on is the one used last.
    pub(super) fn touch(&mut self, index: usize) -> Option<&Prefix> {
        if index < self.prefixes.len() {
            self.prefixes[index..].rotate_left(1);
        }
        self.prefixes.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<LlamaToken> {
        text.bytes()
            .map(|byte| LlamaToken(i32::from(byte)))
            .collect()
    }

    fn prefix(text: &str) -> Prefix {
        Prefix {
            tokens: tokens(text),
            mix: Mix::default(),
            state: vec![0; text.len()],
        }
    }

    fn kept(stowed: &Stowed, text: &str) -> usize {
        stowed
            .best(&tokens(text), &Mix::default())
            .map_or(0, |(_, common)| common)
    }

    #[test]
    fn the_longest_common_beginning_is_found() {
        let mut stowed = Stowed::new(100);
        stowed.add(prefix("once upon"));
        stowed.add(prefix("once more"));
        assert_eq!(kept(&stowed, "once upon a time"), 9);
        assert_eq!(kept(&stowed, "once again"), 5);
        assert_eq!(kept(&stowed, "never"), 0);
        assert!(stowed.holds(&tokens("once u"), &Mix::default()));
        assert!(!stowed.holds(&tokens("once upon a"), &Mix::default()));
    }

    #[test]
    fn a_conversation_that_goes_on_is_kept_once() {
        let mut stowed = Stowed::new(100);
        stowed.add(prefix("hello"));
        stowed.add(prefix("hello, how are you?"));
        assert_eq!((stowed.prefixes.len(), stowed.bytes()), (1, 19));
    }

    #[test]
    fn what_was_left_alone_longest_goes_first() {
        let mut stowed = Stowed::new(12);
        stowed.add(prefix("first"));
        stowed.add(prefix("second"));
        assert_eq!(stowed.touch(0).unwrap().tokens, tokens("first"));
        stowed.add(prefix("third"));
        assert_eq!(stowed.bytes(), 10);
        assert_eq!((kept(&stowed, "first"), kept(&stowed, "second")), (5, 0));
    }
}
