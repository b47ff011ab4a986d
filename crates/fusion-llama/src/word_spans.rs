//! Where tokens lie in a text that the tokenizer changes: BERT's word pieces are lower case and without accents, SentencePiece's
//! unigrams have their spaces replaced.
//!
//! Neither joins words, so each is tokenized by itself and its tokens share out its characters. Where a word keeps its number of
//! characters, as most do, the spans are exact; elsewhere they are off by some characters inside that word.

use fusion_engine::types::{Error, Result};
use llama_cpp_4::{
    model::{AddBos, LlamaModel, Special},
    token::LlamaToken,
};

/// Where a word begins, in both kinds of vocabulary.
const WORD_START: char = '\u{2581}';

/// # Errors
/// `invalid_value` for a text with a NUL character.
pub(crate) fn word_spans(model: &LlamaModel, text: &str) -> Result<Vec<(u32, u32)>> {
    let mut spans = Vec::new();
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        model
            .str_to_token_into_with_special(word, AddBos::Never, Special::Plaintext, &mut tokens)
            .map_err(|error| {
                Error::invalid("texts", format!("a text can't be tokenized: {error}"))
            })?;
        let lengths: Vec<_> = tokens.iter().map(|token| length(model, *token)).collect();
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        spans.extend(
            share(word, &lengths)
                .map(|end| start + end)
                .scan(start, |begin, end| {
                    Some((offset(std::mem::replace(begin, end)), offset(end)))
                }),
        );
    }
    Ok(spans)
}

/// Characters that a token stands for; `None` where it only says that it doesn't know.
fn length(model: &LlamaModel, token: LlamaToken) -> Option<usize> {
    let text = model.token_get_text(token).ok()?;
    let is_special = model.token_is_control(token) || text == "[UNK]" || text == "<unk>";
    (!is_special).then(|| text.chars().filter(|c| *c != WORD_START).count())
}

/// Where each token ends in the word, in bytes: the last one at its end.
fn share(word: &str, lengths: &[Option<usize>]) -> impl Iterator<Item = usize> {
    let characters = word.chars().count();
    let known: usize = lengths.iter().flatten().sum();
    let unknown = lengths.iter().filter(|length| length.is_none()).count();
    // What is left goes to the unknown ones in equal parts.
    let each = characters.saturating_sub(known) / unknown.max(1);
    let lengths: Vec<_> = lengths
        .iter()
        .map(|length| length.unwrap_or(each))
        .collect();
    let total = lengths.iter().sum::<usize>().max(1);
    let mut ends: Vec<_> = word.char_indices().map(|(at, _)| at).collect();
    ends.push(word.len());
    let last = lengths.len();
    lengths
        .into_iter()
        .scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        })
        .enumerate()
        .map(move |(index, sum)| {
            if index + 1 == last {
                ends[characters]
            } else {
                ends[sum * characters / total]
            }
        })
        .collect::<Vec<_>>()
        .into_iter()
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(word: &str, lengths: &[Option<usize>]) -> Vec<usize> {
        share(word, lengths).collect()
    }

    #[test]
    fn tokens_share_a_word_by_their_characters() {
        assert_eq!(ends("walking", &[Some(4), Some(3)]), [4, 7]);
        assert_eq!(ends("Caf\u{e9}s", &[Some(4), Some(1)]), [5, 6]);
        // A letter that became two: the second token begins a little early, and the last still ends the word.
        assert_eq!(ends("\u{fb01}nds", &[Some(2), Some(3)]), [3, 6]);
        assert_eq!(ends("a\u{1f600}.", &[Some(1), None, Some(1)]), [1, 5, 6]);
        assert_eq!(ends("x", &[None]), [1]);
        assert_eq!(ends("x", &[]), [0; 0]);
    }
}
