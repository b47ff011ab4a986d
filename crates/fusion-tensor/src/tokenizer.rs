//! Texts to token ids, and to the byte spans of their tokens.

use std::{ops::Range, path::Path};

use fusion_engine::types::{Error, Result};
use tokenizers::{
    Tokenizer,
    normalizers::{Lowercase, NormalizerWrapper, Sequence},
};

use crate::{
    fault::{contain_panic, invalid, unreadable},
    folder::Folder,
};

pub(crate) struct TextTokenizer {
    inner: Tokenizer,
}

/// One text as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Special tokens included.
    pub(crate) ids: Vec<u32>,
    /// Where the text's own tokens lie between the special ones.
    pub(crate) body: Range<usize>,
}

impl Tokens {
    /// Ids that a client made, of which none is known to be special.
    pub(crate) fn given(ids: Vec<u32>) -> Self {
        Self {
            body: 0..ids.len(),
            ids,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Drops the text's last tokens until all fit; special tokens stay.
    pub(crate) fn truncate(&mut self, limit: usize) {
        let excess = self.len().saturating_sub(limit).min(self.body.len());
        let end = self.body.end - excess;
        self.ids.drain(end..self.body.end);
        self.body.end = end;
    }
}

impl TextTokenizer {
    /// # Errors
    /// `invalid_value` naming tokenizer.json where it is missing, broken, or of another model.
    pub(crate) fn load(folder: &Folder) -> Result<Self> {
        let file = folder.tokenizer_file()?;
        let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, &error))?;
        let mut inner = contain_panic(|| Tokenizer::from_bytes(&bytes))
            .map_err(|panic| invalid(&file, panic))?
            .map_err(|error| invalid(&file, error))?;
        // What is cut, and how long a batch is, is decided here and not by the file.
        inner
            .with_truncation(None)
            .map_err(|error| invalid(&file, error))?;
        inner.with_padding(None);
        if folder.lowercase {
            lowercase_first(&mut inner).map_err(|error| invalid(&file, error))?;
        }
        let tokenizer = Self { inner };
        tokenizer.check(&file, folder)?;
        Ok(tokenizer)
    }

    fn check(&self, file: &Path, folder: &Folder) -> Result<()> {
        let (tokens, known) = (self.inner.get_vocab_size(true), folder.bert.vocab_size);
        if tokens > known {
            return Err(invalid(
                file,
                format_args!("it has {tokens} tokens, but the model knows {known}"),
            ));
        }
        let special = self.tokens("")?.len();
        if special == 0 {
            return Err(invalid(file, "it puts no special tokens around a text"));
        }
        folder.check_room_for(special)
    }

    /// # Errors
    /// `internal_error` where the tokenizer fails on the text.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens> {
        let encoding = self.inner.encode_fast(text, true).map_err(failed)?;
        let special = encoding.get_special_tokens_mask();
        let start = special.iter().take_while(|flag| **flag == 1).count();
        let tail = special[start..]
            .iter()
            .rev()
            .take_while(|flag| **flag == 1)
            .count();
        Ok(Tokens {
            body: start..special.len() - tail,
            ids: encoding.get_ids().to_vec(),
        })
    }

    pub(crate) fn knows(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// `[start, end)` bytes of the text for each of its tokens, special ones left out, however long the text is.
    ///
    /// # Errors
    /// `internal_error` where the tokenizer fails on the text.
    pub(crate) fn spans(&self, text: &str) -> Result<Vec<(u32, u32)>> {
        // `encode` counts offsets in bytes of the text before normalisation.
        let encoding = self.inner.encode(text, false).map_err(failed)?;
        let spans = encoding
            .get_offsets()
            .iter()
            .map(|(start, end)| Ok((u32::try_from(*start)?, u32::try_from(*end)?)));
        let spans: Result<_, std::num::TryFromIntError> = spans.collect();
        spans.map_err(|_| Error::invalid("texts", "a text has more than 4 GiB"))
    }
}

fn lowercase_first(tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
    let mut steps = vec![NormalizerWrapper::Lowercase(Lowercase)];
    steps.extend(tokenizer.get_normalizer().cloned());
    tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    Ok(())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "map_err hands the error over"
)]
fn failed(error: tokenizers::Error) -> Error {
    Error::internal(format!("the tokenizer failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_keeps_the_special_tokens() {
        let mut tokens = Tokens {
            ids: vec![101, 1, 2, 3, 4, 102],
            body: 1..5,
        };
        tokens.truncate(6);
        assert_eq!(tokens.ids, [101, 1, 2, 3, 4, 102]);
        tokens.truncate(4);
        assert_eq!(
            tokens,
            Tokens {
                ids: vec![101, 1, 2, 102],
                body: 1..3
            }
        );
        tokens.truncate(1);
        assert_eq!(
            tokens,
            Tokens {
                ids: vec![101, 102],
                body: 1..1
            }
        );
    }

    #[test]
    fn reads_the_reference_texts_as_the_same_ids() {
        let Some(path) = crate::real::minilm("reference token ids") else {
            return;
        };
        let tokenizer = TextTokenizer::load(&Folder::read(&path, None).unwrap()).unwrap();
        let text = include_str!("../tests/fixtures/minilm-reference.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        let rows = reference["vectors"].as_array().unwrap();
        assert_eq!(rows.len(), 12);
        for row in rows {
            let mut tokens = tokenizer.tokens(row["text"].as_str().unwrap()).unwrap();
            tokens.truncate(256);
            assert_eq!(
                serde_json::json!(tokens.ids),
                row["token_ids"],
                "{}",
                row["text"]
            );
            assert_eq!(tokens.body.len(), tokens.ids.len() - 2);
        }
    }
}
