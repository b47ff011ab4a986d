//! Cuts a tokenized text into chunks, by arithmetic alone.

use std::ops::Range;

/// A chunk's place in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Range<usize>,
    /// The same place in Unicode scalar values.
    pub(super) chars: Range<u64>,
}

/// Sizes in tokens; `overlap` is at most half of `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cutting {
    pub(super) size: u32,
    pub(super) overlap: u32,
}

/// The chunks of `text`, whose tokens are at the byte spans `tokens`, in order.
///
/// Every chunk starts and ends on text that isn't blank, together they hold all such text, and each ends further on than the
/// one before. A chunk has at most `size` tokens, unless a single character has more.
///
/// 1. As many tokens as fit make a chunk.
/// 2. It is shortened, to half at most, to end with a paragraph; or else a line, a sentence, a word.
/// 3. The next one starts up to `overlap` tokens earlier, with a sentence or else a word.
pub(super) fn chunk(text: &str, tokens: &[Range<usize>], cutting: Cutting) -> Vec<Piece> {
    let atoms = atoms(text, tokens);
    let cutter = Cutter {
        text,
        atoms: &atoms,
        cutting,
    };
    let mut pieces = Pieces::new(text);
    let (mut start, mut covered) = (0, 0);
    while covered < atoms.len() {
        let mut end = cutter.end(start, covered);
        if end <= covered {
            start = covered;
            end = cutter.end(start, covered);
        }
        pieces.push(cutter.byte(start)..cutter.byte(end));
        covered = end;
        start = cutter.next_start(start, end);
    }
    pieces.done
}

/// What is never cut: tokens that start at the same byte, with the text up to the next ones.
#[derive(Clone, Copy, Debug)]
struct Atom {
    start: usize,
    /// Tokens before this atom.
    before: usize,
    tokens: usize,
}

/// Spans may come from any tokenizer: they are moved to character borders and into order.
fn atoms(text: &str, tokens: &[Range<usize>]) -> Vec<Atom> {
    let mut atoms = vec![Atom {
        start: 0,
        before: 0,
        tokens: 0,
    }];
    for (index, token) in tokens.iter().enumerate() {
        let start = text.floor_char_boundary(token.start);
        match atoms.last_mut() {
            Some(last) if start <= last.start || last.tokens == 0 => last.tokens += 1,
            _ if start >= text.len() => {}
            _ => atoms.push(Atom {
                start,
                before: index,
                tokens: 1,
            }),
        }
    }
    atoms
}

/// How good a place for a cut is; later is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Border {
    /// Within a word.
    None,
    Word,
    Sentence,
    Line,
    Paragraph,
}

/// White space further from a cut than this isn't looked at, so that no text makes the cutter slow.
const MOST_GAP: usize = 16;
/// What may stand between the end of a sentence and the next.
const CLOSING: &str = "\"')]”’»*_」）";

struct Cutter<'a> {
    text: &'a str,
    atoms: &'a [Atom],
    cutting: Cutting,
}

impl Cutter<'_> {
    fn byte(&self, atom: usize) -> usize {
        self.atoms
            .get(atom)
            .map_or(self.text.len(), |atom| atom.start)
    }

    fn tokens(&self, atoms: Range<usize>) -> usize {
        let before = |index: usize| match self.atoms.get(index) {
            Some(atom) => atom.before,
            None => self
                .atoms
                .last()
                .map_or(0, |last| last.before + last.tokens),
        };
        before(atoms.end) - before(atoms.start)
    }

    /// Where the chunk that starts at `start` ends; past `covered` where tokens allow.
    fn end(&self, start: usize, covered: usize) -> usize {
        let most = self.most_tokens(start);
        let fits = self.atoms[start..]
            .partition_point(|atom| atom.before + atom.tokens <= self.atoms[start].before + most);
        let longest = start + fits.max(1);
        if longest >= self.atoms.len() {
            return self.atoms.len();
        }
        let shortest = (start + (longest - start).div_ceil(2)).max(covered + 1);
        let well = [Border::Paragraph, Border::Line, Border::Sentence]
            .into_iter()
            .find_map(|border| {
                (shortest..=longest)
                    .rev()
                    .find(|at| self.border(*at) >= border)
            });
        let at_word = || {
            (start.max(covered) + 1..=longest)
                .rev()
                .find(|at| self.border(*at) >= Border::Word)
        };
        well.or_else(at_word).unwrap_or(longest)
    }

    /// The rest of a word that was cut may be more tokens by itself than it was within the word.
    fn most_tokens(&self, start: usize) -> usize {
        let size = self.cutting.size as usize;
        let within_word = start > 0 && self.border(start) == Border::None;
        if within_word {
            size - size.div_ceil(16)
        } else {
            size
        }
    }

    fn next_start(&self, start: usize, end: usize) -> usize {
        if end >= self.atoms.len() {
            return end;
        }
        let earliest = (start + 1..end)
            .rev()
            .take_while(|at| self.tokens(*at..end) <= self.cutting.overlap as usize)
            .last()
            .unwrap_or(end);
        let middle = earliest + (end - earliest) / 2;
        let at_sentence = (earliest..middle).find(|at| self.border(*at) >= Border::Sentence);
        let at_word = || (earliest..end).find(|at| self.border(*at) >= Border::Word);
        at_sentence.or_else(at_word).unwrap_or(earliest)
    }

    /// What a cut right before this atom would part.
    fn border(&self, atom: usize) -> Border {
        let (before, after) = self.text.split_at(self.byte(atom));
        let gap_before = before
            .chars()
            .rev()
            .take(MOST_GAP)
            .take_while(|c| c.is_whitespace());
        let gap_after = after
            .chars()
            .take(MOST_GAP)
            .take_while(|c| c.is_whitespace());
        let blanks_before = gap_before.clone().count();
        let blanks = blanks_before + gap_after.clone().count();
        let lines = gap_before.chain(gap_after).filter(|c| *c == '\n').count();
        let mut ends = before
            .chars()
            .rev()
            .skip(blanks_before)
            .take(4)
            .skip_while(|c| CLOSING.contains(*c));
        match (blanks, lines, ends.next()) {
            (_, 2.., _) => Border::Paragraph,
            (_, 1, _) => Border::Line,
            (1.., _, Some('.' | '!' | '?' | '…')) => Border::Sentence,
            (_, _, Some('。' | '！' | '？')) => Border::Sentence,
            (1.., ..) => Border::Word,
            (0, ..) => Border::None,
        }
    }
}

/// Trims chunks, drops those that say nothing new, and counts characters as it goes.
struct Pieces<'a> {
    text: &'a str,
    done: Vec<Piece>,
    byte: usize,
    chars: u64,
}

impl<'a> Pieces<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            done: Vec::new(),
            byte: 0,
            chars: 0,
        }
    }

    fn push(&mut self, range: Range<usize>) {
        let whole = &self.text[range.clone()];
        let start = range.start + (whole.len() - whole.trim_start().len());
        let end = start + self.text[start..range.end].trim_end().len();
        let says_more = self.done.last().is_none_or(|last| end > last.bytes.end);
        if start >= end || !says_more {
            return;
        }
        self.chars += count_chars(&self.text[self.byte..start]);
        self.byte = start;
        let chars = self.chars..self.chars + count_chars(&self.text[start..end]);
        self.done.push(Piece {
            bytes: start..end,
            chars,
        });
    }
}

fn count_chars(text: &str) -> u64 {
    text.chars().count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A token is a word or a mark, as in a word-piece tokenizer without long words.
    fn words(text: &str) -> Vec<Range<usize>> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        let mut in_word = false;
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            match spans.last_mut() {
                Some(last) if in_word && c.is_alphanumeric() => last.end = end,
                _ if c.is_whitespace() => {}
                _ => spans.push(at..end),
            }
            in_word = c.is_alphanumeric();
        }
        spans
    }

    fn texts(text: &str, size: u32, overlap: u32) -> Vec<&str> {
        chunk(text, &words(text), Cutting { size, overlap })
            .into_iter()
            .map(|piece| &text[piece.bytes])
            .collect()
    }

    #[test]
    fn prefers_paragraphs_then_lines_then_sentences_then_words() {
        assert_eq!(
            texts("a b c. d e\n\nf g h i", 6, 0),
            ["a b c. d e", "f g h i"]
        );
        assert_eq!(
            texts("a b c d\ne f. g h i", 7, 0),
            ["a b c d", "e f. g h i"]
        );
        assert_eq!(texts("a b c d. e f g h i", 7, 0), ["a b c d.", "e f g h i"]);
        assert_eq!(texts("a b c d e f g", 4, 0), ["a b c d", "e f g"]);
        assert_eq!(texts("一。二三。四五六", 4, 0), ["一。二三。", "四五六"]);
    }

    #[test]
    fn neighbours_share_the_overlap() {
        assert_eq!(
            texts("a b c d e f g h", 4, 2),
            ["a b c d", "c d e f", "e f g h"]
        );
        assert_eq!(
            texts("a b. c d e f g h i j", 8, 4),
            ["a b. c d e f g", "d e f g h i j"]
        );
    }

    #[test]
    fn a_short_text_is_one_chunk_and_a_blank_one_none() {
        assert_eq!(texts("  hello there \n", 16, 4), ["hello there"]);
        assert_eq!(texts(" \n\t ", 16, 4), Vec::<&str>::new());
        assert_eq!(
            chunk(
                "\u{200b}x",
                &[],
                Cutting {
                    size: 16,
                    overlap: 0
                }
            )
            .len(),
            1,
            "text without tokens is kept"
        );
    }

    /// Words of 1 to 3 tokens with every kind of border, beyond ASCII too.
    fn any_text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            6 => "[a-zé]{1,8}",
            4 => Just(" ".to_owned()),
            1 => Just(". ".to_owned()),
            1 => Just("\n".to_owned()),
            1 => Just("\r\n\r\n".to_owned()),
            1 => Just("😀".to_owned()),
            1 => Just("漢字。".to_owned()),
            1 => Just("\u{a0}\u{3000}".to_owned()),
        ];
        proptest::collection::vec(part, 0..120).prop_map(|parts| parts.concat())
    }

    /// What a tokenizer may say at its worst: any spans in order of their starts, inside characters too, empty ones, many at
    /// one place, past the end.
    fn any_tokens() -> impl Strategy<Value = Vec<Range<usize>>> {
        proptest::collection::vec((0usize..5, 0usize..6), 0..200).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|(step, length)| {
                    at += step;
                    at..at + length
                })
                .collect()
        })
    }

    fn check(text: &str, tokens: &[Range<usize>], cutting: Cutting) {
        let pieces = chunk(text, tokens, cutting);
        let chars: Vec<char> = text.chars().collect();
        let mut held = vec![false; chars.len()];
        let atoms = atoms(text, tokens);
        let most = atoms
            .iter()
            .map(|atom| atom.tokens)
            .max()
            .unwrap_or(0)
            .max(cutting.size as usize);
        for piece in &pieces {
            let place = piece.chars.start as usize..piece.chars.end as usize;
            assert_eq!(
                chars[place.clone()].iter().collect::<String>(),
                text[piece.bytes.clone()]
            );
            assert!(
                !piece.bytes.is_empty()
                    && text[piece.bytes.clone()].trim() == &text[piece.bytes.clone()]
            );
            held[place].fill(true);
            let inside: usize = atoms
                .iter()
                .filter(|atom| piece.bytes.contains(&atom.start))
                .map(|atom| atom.tokens)
                .sum();
            assert!(inside <= most, "{inside} tokens where {most} are allowed");
        }
        assert!(
            pieces
                .windows(2)
                .all(|two| two[0].bytes.end < two[1].bytes.end)
        );
        assert!(
            chars
                .iter()
                .zip(held)
                .all(|(c, held)| held || c.is_whitespace()),
            "all text is in some chunk"
        );
    }

    proptest! {
        #[test]
        fn chunks_are_exact_and_whole(text in any_text(), size in 16u32..40, share in 0u32..=8) {
            check(&text, &words(&text), Cutting { size, overlap: size * share / 16 });
        }

        #[test]
        fn no_tokenizer_can_break_it(text in any_text(), tokens in any_tokens(), size in 2u32..40, share in 0u32..=8) {
            check(&text, &tokens, Cutting { size, overlap: size * share / 16 });
        }
    }
}
