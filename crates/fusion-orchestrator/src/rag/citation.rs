//! Finds what an answer verifiably took from its sources.

use std::{collections::HashMap, ops::Range};

use super::words::{Vocabulary, Words};

/// Shorter runs of shared words are chance, unless they are a whole sentence of the answer.
const LEAST_WORDS: usize = 4;
const LEAST_CONTENT: usize = 2;
/// Part of a marked sentence's content words that its source's sentence must have.
const LEAST_SHARED: f32 = 0.5;

/// A passage of a source; `chars` counts Unicode scalar values from the start of the source's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// The source's place in the list, from 0.
    pub(super) source: usize,
    pub(super) chars: Range<usize>,
    pub(super) text: String,
}

/// Quotes in the order of the answer. Every `text` stands in its source as it is.
///
/// 1. Runs of words that the answer shares with a source, letter case and white space aside, are quotes: longest first, each
///    part of the answer once. Of equal runs the source wins that the sentence names by its marker, such as `[2]`.
/// 2. A marker whose sentence has no quote from that source stands for the source's sentence that shares most of its content
///    words, if that is half of them at least. A marker that nothing supports is dropped.
pub(super) fn quotes(answer: &str, texts: &[&str]) -> Vec<Quote> {
    let (plain, markers) = take_markers(answer);
    let mut vocabulary = Vocabulary::new();
    let answer = Words::read(&plain, &mut vocabulary);
    let sources: Vec<Words> = texts
        .iter()
        .map(|text| Words::read(text, &mut vocabulary))
        .collect();
    let marks = Marks::place(&answer, &markers);

    let mut found = shared_runs(&answer, &sources, &marks);
    for (sentence, source) in marks.iter() {
        let Some(words) = sources.get(source) else {
            continue;
        };
        let range = answer.sentences[sentence].clone();
        let quoted = found
            .iter()
            .any(|run| run.source == source && range.contains(&run.answer.start));
        if !quoted && let Some(passage) = closest_sentence(&answer, range.clone(), words) {
            found.push(Run {
                answer: range,
                source,
                passage,
            });
        }
    }
    found.sort_by_key(|run| (run.answer.start, run.source));
    let mut quotes: Vec<Quote> = Vec::new();
    for run in found {
        let words = &sources[run.source];
        let text = texts[run.source][words.bytes(&run.passage)].to_owned();
        let quote = Quote {
            source: run.source,
            chars: words.chars(&run.passage),
            text,
        };
        if !quotes.contains(&quote) {
            quotes.push(quote);
        }
    }
    quotes
}

/// Words of the answer that stand in a source, both as ranges of words.
#[derive(Clone, Debug)]
struct Run {
    answer: Range<usize>,
    source: usize,
    passage: Range<usize>,
}

fn shared_runs(answer: &Words, sources: &[Words], marks: &Marks) -> Vec<Run> {
    let mut runs: Vec<Run> = sources
        .iter()
        .enumerate()
        .flat_map(|(source, words)| runs_in(answer, source, words))
        .collect();
    let unmarked = |run: &Run| !marks.has(answer.sentence_of(run.answer.start), run.source);
    runs.sort_by_key(|run| {
        (
            std::cmp::Reverse(run.answer.len()),
            unmarked(run),
            run.source,
            run.passage.start,
        )
    });
    let mut taken = vec![false; answer.words.len()];
    runs.retain(|run| {
        let free = !taken[run.answer.clone()].contains(&true);
        if free {
            taken[run.answer.clone()].fill(true);
        }
        free
    });
    runs
}

/// The longest runs of each alignment, so that work is bounded by words times words.
fn runs_in(answer: &Words, source: usize, words: &Words) -> Vec<Run> {
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    for (at, word) in words.words.iter().enumerate() {
        places.entry(word.id).or_default().push(at);
    }
    let mut runs = Vec::new();
    for (from, word) in answer.words.iter().enumerate() {
        for &to in places.get(&word.id).into_iter().flatten() {
            let goes_on_from_before = from > 0 && to > 0 && answer.joined(from - 1, words, to - 1);
            if goes_on_from_before {
                continue;
            }
            let steps = (0..)
                .take_while(|step| answer.joined(from + step, words, to + step))
                .count();
            let run = Run {
                answer: from..from + steps + 1,
                source,
                passage: to..to + steps + 1,
            };
            if is_telling(answer, &run.answer) {
                runs.push(run);
            }
        }
    }
    runs
}

fn is_telling(answer: &Words, run: &Range<usize>) -> bool {
    let content = answer.words[run.clone()]
        .iter()
        .filter(|word| word.content)
        .count();
    let next_sentence = answer
        .sentences
        .partition_point(|sentence| sentence.start < run.start);
    let whole_sentence = answer
        .sentences
        .get(next_sentence)
        .is_some_and(|sentence| sentence.end <= run.end);
    (run.len() >= LEAST_WORDS && content >= LEAST_CONTENT) || (whole_sentence && content >= 1)
}

/// The sentence that shares most content words with the answer's, the first of equals.
fn closest_sentence(answer: &Words, sentence: Range<usize>, words: &Words) -> Option<Range<usize>> {
    let mut asked: Vec<u32> = answer.words[sentence]
        .iter()
        .filter(|word| word.content)
        .map(|word| word.id)
        .collect();
    asked.sort_unstable();
    asked.dedup();
    let shared = |range: &Range<usize>| {
        asked
            .iter()
            .filter(|id| {
                words.words[range.clone()]
                    .iter()
                    .any(|word| word.id == **id)
            })
            .count()
    };
    let (range, count) = words
        .sentences
        .iter()
        .map(|range| (range, shared(range)))
        .rev()
        .max_by_key(|(_, count)| *count)?;
    let enough = count >= LEAST_CONTENT && count as f32 >= asked.len() as f32 * LEAST_SHARED;
    enough.then(|| range.clone())
}

/// A source's number in brackets, and where in the plain text it stood.
struct Marker {
    byte: usize,
    number: usize,
}

/// The answer without its markers, which would part words that stand together in the source.
fn take_markers(answer: &str) -> (String, Vec<Marker>) {
    let (mut plain, mut markers) = (String::with_capacity(answer.len()), Vec::new());
    let mut rest = answer;
    while let Some(open) = rest.find('[') {
        plain.push_str(&rest[..open]);
        let inside = &rest[open + 1..];
        let numbers = inside
            .find(']')
            .and_then(|close| Some((numbers(&inside[..close])?, close)));
        match numbers {
            Some((numbers, close)) => {
                let byte = plain.len();
                markers.extend(numbers.into_iter().map(|number| Marker { byte, number }));
                rest = &inside[close + 1..];
            }
            None => {
                plain.push('[');
                rest = inside;
            }
        }
    }
    plain.push_str(rest);
    (plain, markers)
}

/// `3` or `1, 2`.
fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(',')
        .map(|number| number.trim().parse().ok().filter(|number| *number > 0))
        .collect()
}

/// Which sentence names which source, from 0.
struct Marks(Vec<(usize, usize)>);

impl Marks {
    /// A marker belongs to the sentence of the word before it, or else to the first.
    fn place(answer: &Words, markers: &[Marker]) -> Self {
        let place = |marker: &Marker| {
            let word = answer
                .words
                .partition_point(|word| word.start < marker.byte)
                .saturating_sub(1);
            (!answer.words.is_empty()).then(|| (answer.sentence_of(word), marker.number - 1))
        };
        let mut marks: Vec<_> = markers.iter().filter_map(place).collect();
        marks.sort_unstable();
        marks.dedup();
        Self(marks)
    }

    fn has(&self, sentence: usize, source: usize) -> bool {
        self.0.binary_search(&(sentence, source)).is_ok()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAVY: &str = "The Normans were a people.  They gave their name to\nNormandy, a region in France. The Duke had 308 ships.";
    const FOOD: &str = "Cheese is made from milk. Great cheese takes time.";

    fn found(answer: &str) -> Vec<(usize, String)> {
        quotes(answer, &[FOOD, NAVY])
            .into_iter()
            .map(|quote| (quote.source + 1, quote.text))
            .collect()
    }

    fn pairs(expected: &[(usize, &str)]) -> Vec<(usize, String)> {
        expected
            .iter()
            .map(|(source, text)| (*source, (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_quote_is_the_stored_text_exactly() {
        assert_eq!(
            found("they GAVE their name to Normandy!"),
            pairs(&[(2, "They gave their name to\nNormandy")])
        );
        assert_eq!(
            found("It is Normandy, a region in [2] France."),
            pairs(&[(2, "Normandy, a region in France")])
        );
    }

    #[test]
    fn a_short_answer_is_a_quote_when_it_is_the_whole_sentence() {
        assert_eq!(found("308"), pairs(&[(2, "308")]));
        assert_eq!(found("Normandy."), pairs(&[(2, "Normandy")]));
        assert_eq!(found("I like the 308 a lot"), []);
        assert_eq!(found("The."), []);
    }

    #[test]
    fn a_marker_counts_only_with_support() {
        assert_eq!(
            found("308 is what that duke had [2]."),
            pairs(&[(2, "The Duke had 308 ships")])
        );
        assert_eq!(found("Aliens landed in Ohio [2]."), []);
        assert_eq!(
            found("Milk makes cheese [1, 7][0]."),
            pairs(&[(1, "Cheese is made from milk")])
        );
    }

    #[test]
    fn nothing_comes_from_nothing() {
        assert_eq!(found(""), []);
        assert_eq!(found("[1]"), []);
        assert_eq!(quotes("Anything at all.", &[]), []);
    }

    #[test]
    fn words_repeated_without_end_take_no_time() {
        let (answer, source) = ("big cat ".repeat(500), "big cat ".repeat(300));
        assert!(!quotes(&answer, &[source.as_str(); 5]).is_empty());
    }

    proptest! {
        #[test]
        fn every_quote_stands_in_its_source(answer in "([a-cİß]{1,2}[ .,\n]{1,2}|漢字。|\\[[0-3]\\]){0,30}",
                                            first in "([a-cİß]{1,2}[ .,\n]{1,2}|漢字。){0,30}",
                                            second in "\\PC{0,40}") {
            let sources = [first.as_str(), second.as_str()];
            for quote in quotes(&answer, &sources) {
                let chars: Vec<char> = sources[quote.source].chars().collect();
                prop_assert!(!quote.text.is_empty());
                prop_assert_eq!(chars[quote.chars].iter().collect::<String>(), quote.text);
            }
        }
    }
}
