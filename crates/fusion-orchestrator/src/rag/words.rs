//! Text as words and sentences, each knowing where it stood.

use std::{collections::HashMap, ops::Range};

/// Ids of words and of what stands between them, shared by the texts that are compared.
pub(super) type Vocabulary = HashMap<String, u32>;

pub(super) struct Words {
    pub(super) words: Vec<Word>,
    /// Ranges of words.
    pub(super) sentences: Vec<Range<usize>>,
}

/// A run of letters and digits, or one character of a script without spaces.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// Equal for words that differ in letter case alone.
    pub(super) id: u32,
    /// What stands between this word and the next, white space collapsed.
    gap: u32,
    /// Bytes.
    pub(super) start: usize,
    end: usize,
    /// Unicode scalar values.
    chars: Range<usize>,
    /// Says something by itself.
    pub(super) content: bool,
}

impl Words {
    pub(super) fn read(text: &str, vocabulary: &mut Vocabulary) -> Self {
        let mut id_of = |key: String| {
            let next = vocabulary.len() as u32;
            *vocabulary.entry(key).or_insert(next)
        };
        let places = places(text);
        let mut words = Vec::with_capacity(places.len());
        let mut sentences: Vec<Range<usize>> = Vec::new();
        let mut sentence = 0;
        for (index, (bytes, chars)) in places.iter().enumerate() {
            let lower = text[bytes.clone()].to_lowercase();
            let next = places
                .get(index + 1)
                .map_or(text.len(), |(next, _)| next.start);
            let gap = &text[bytes.end..next];
            let content = !is_stop_word(&lower);
            let (start, end) = (bytes.start, bytes.end);
            words.push(Word {
                id: id_of(lower),
                gap: id_of(collapsed(gap)),
                start,
                end,
                chars: chars.clone(),
                content,
            });
            if ends_sentence(gap) || next == text.len() {
                sentences.push(sentence..index + 1);
                sentence = index + 1;
            }
        }
        Self { words, sentences }
    }

    /// Whether the words at `at` here and at `other_at` there are the same, followed by the same words after the same gap.
    pub(super) fn joined(&self, at: usize, other: &Self, other_at: usize) -> bool {
        let next_two = |words: &Self, at: usize| {
            let (word, next) = (words.words.get(at)?, words.words.get(at + 1)?);
            Some((word.id, word.gap, next.id))
        };
        next_two(self, at).is_some_and(|here| next_two(other, other_at) == Some(here))
    }

    pub(super) fn sentence_of(&self, word: usize) -> usize {
        self.sentences
            .partition_point(|sentence| sentence.end <= word)
    }

    /// Where a run of at least one word stands, from its first letter to its last.
    pub(super) fn bytes(&self, run: &Range<usize>) -> Range<usize> {
        self.words[run.start].start..self.words[run.end - 1].end
    }

    pub(super) fn chars(&self, run: &Range<usize>) -> Range<usize> {
        self.words[run.start].chars.start..self.words[run.end - 1].chars.end
    }
}

/// Byte and character ranges of the words.
fn places(text: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let mut places: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let mut open = false;
    for (index, (at, c)) in text.char_indices().enumerate() {
        let end = at + c.len_utf8();
        match places.last_mut() {
            Some((bytes, chars)) if open && c.is_alphanumeric() && !stands_alone(c) => {
                bytes.end = end;
                chars.end = index + 1;
            }
            _ if c.is_alphanumeric() => places.push((at..end, index..index + 1)),
            _ => {}
        }
        open = c.is_alphanumeric() && !stands_alone(c);
    }
    places
}

/// Characters of scripts that are written without spaces: Thai, Lao, Khmer, kana and Han.
fn stands_alone(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// Prefixed, so that a gap is never taken for a word.
fn collapsed(gap: &str) -> String {
    let mut text = String::from("\0");
    for c in gap.chars() {
        match c {
            c if !c.is_whitespace() => text.push(c),
            _ if !text.ends_with(' ') => text.push(' '),
            _ => {}
        }
    }
    text
}

/// A full stop within a number or a name, such as `3.5` or `e.g.x`, ends nothing.
fn ends_sentence(gap: &str) -> bool {
    let stop = gap.contains(['.', '!', '?', '…']) && gap.contains(char::is_whitespace);
    stop || gap.contains(['。', '！', '？']) || gap.contains('\n') && gap.matches('\n').count() > 1
}

/// English words that say nothing by themselves, in order.
const STOP_WORDS: &[&str] = &[
    "a",
    "about",
    "according",
    "also",
    "an",
    "and",
    "answer",
    "are",
    "as",
    "at",
    "be",
    "been",
    "but",
    "by",
    "can",
    "context",
    "did",
    "do",
    "does",
    "for",
    "from",
    "had",
    "has",
    "have",
    "he",
    "her",
    "his",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "no",
    "not",
    "of",
    "on",
    "or",
    "our",
    "question",
    "s",
    "she",
    "so",
    "source",
    "sources",
    "t",
    "text",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "to",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "will",
    "with",
    "yes",
    "you",
    "your",
];

/// `word` is in lower case.
fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_sentences_of_several_scripts() {
        let mut vocabulary = Vocabulary::new();
        let text = "Élan costs 3.5 now. 漢字。\n\nEnd";
        let words = Words::read(text, &mut vocabulary);
        let texts: Vec<_> = (0..words.words.len())
            .map(|at| &text[words.bytes(&(at..at + 1))])
            .collect();
        assert_eq!(texts, ["Élan", "costs", "3", "5", "now", "漢", "字", "End"]);
        assert_eq!(words.sentences, [0..5, 5..7, 7..8]);
        assert_eq!(words.chars(&(1..2)), 5..10);
    }

    #[test]
    fn stop_words_are_in_order_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
        assert!(is_stop_word("the") && !is_stop_word("paris"));
    }
}
