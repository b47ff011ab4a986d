//! Where each token of a text lies in it.

use fusion_engine::types::{Error, ErrorCode, Result};
use llama_cpp_4::model::{AddBos, LlamaModel, Special};

use crate::word_spans::word_spans;

/// Byte spans of the text's tokens, in order; special tokens are not looked for, and none are added.
///
/// # Errors
/// `invalid_value` for a text with a NUL character or one too long to address, `unsupported_operation` where the tokenizer
/// changes the text, so that its tokens can't be found in it.
pub(crate) fn spans(model: &LlamaModel, text: &str) -> Result<Vec<(u32, u32)>> {
    u32::try_from(text.len())
        .map_err(|_| Error::invalid("texts", "a text is longer than 4 GiB"))?;
    if changes_text(model) {
        return word_spans(model, text);
    }
    let tokens = model
        .str_to_token_with_special(text, AddBos::Never, Special::Plaintext)
        .map_err(|error| Error::invalid("texts", format!("a text can't be tokenized: {error}")))?;
    let mut rest = text.as_bytes();
    let mut piece = Vec::new();
    let mut spans = Vec::with_capacity(tokens.len());
    for token in tokens {
        // A token without bytes of its own is reported as an error, and covers nothing.
        if model
            .token_to_raw_bytes_into(token, Special::Tokenize, &mut piece)
            .is_err()
        {
            piece.clear();
        }
        let taken = covered(rest, &piece).ok_or_else(unaligned)?;
        let start = text.len() - rest.len();
        rest = &rest[taken..];
        spans.push((offset(start), offset(start + taken)));
    }
    if rest.is_empty() {
        Ok(spans)
    } else {
        Err(unaligned())
    }
}

/// llama.cpp's numbers of the vocabularies that [`word_spans`] is for: word pieces and unigrams.
fn changes_text(model: &LlamaModel) -> bool {
    matches!(model.get_vocab().vocab_type(), 3 | 4)
}

/// How many bytes of the text a token covers. SentencePiece puts a space before the first word that the text doesn't have.
fn covered(rest: &[u8], piece: &[u8]) -> Option<usize> {
    if rest.starts_with(piece) {
        return Some(piece.len());
    }
    piece
        .strip_prefix(b" ")
        .filter(|piece| rest.starts_with(piece))
        .map(<[u8]>::len)
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn unaligned() -> Error {
    Error::new(
        ErrorCode::UnsupportedOperation,
        "this model's tokens can't be found in the text they were made of",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_that_the_tokenizer_added_covers_nothing() {
        assert_eq!(covered(b"Hello you", b" Hello"), Some(5));
        assert_eq!(covered(b" you", b" you"), Some(4));
        assert_eq!(covered(b"Hello", b"hello"), None);
    }
}
