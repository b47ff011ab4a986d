//! Texts and token ids to the sequences that a model reads.

use fusion_engine::types::{Error, ErrorCode, Result, embedding::EmbedInput};
use llama_cpp_4::{
    model::{AddBos, LlamaModel, Special},
    token::LlamaToken,
};
use serde_json::json;

/// The special tokens that the model's vocabulary puts around a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) before: Vec<LlamaToken>,
    pub(crate) after: Vec<LlamaToken>,
}

impl Frame {
    /// Found by what the tokenizer makes of a text with and without them.
    ///
    /// # Errors
    /// `invalid_value` for a vocabulary that can't even do that.
    pub(crate) fn of(model: &LlamaModel) -> Result<Self> {
        let bare = plain_tokens(model, "a", "model")?;
        let framed = model
            .str_to_token_with_special("a", AddBos::Always, Special::Plaintext)
            .map_err(|error| Error::invalid("model", format!("its tokenizer fails: {error}")))?;
        let at = framed
            .windows(bare.len().max(1))
            .position(|window| window == bare);
        Ok(at.map_or_else(Self::default, |at| Self {
            before: framed[..at].to_vec(),
            after: framed[at + bare.len()..].to_vec(),
        }))
    }

    fn around(&self, body: &[LlamaToken]) -> Vec<LlamaToken> {
        [&self.before, body, &self.after].concat()
    }

    fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

/// How long a sequence may be, and whether a longer one is cut or refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) tokens: usize,
    pub(crate) truncate: bool,
}

impl Limit {
    /// How much of `length` tokens is read.
    ///
    /// # Errors
    /// `context_length_exceeded` naming the place, unless cutting was asked for.
    pub(crate) fn apply(self, length: usize, param: &str, index: Option<usize>) -> Result<usize> {
        if length <= self.tokens || self.truncate {
            return Ok(length.min(self.tokens));
        }
        let limit = self.tokens;
        let place = index.map_or_else(|| param.to_owned(), |index| format!("{param}[{index}]"));
        let what = format!("{place} has {length} tokens, the model reads at most {limit}");
        Err(Error::new(ErrorCode::ContextLengthExceeded, what)
            .with_param(param)
            .with_details(json!({ "index": index, "tokens": length, "limit": limit })))
    }
}

/// # Errors
/// `context_length_exceeded`; `invalid_value` for what can't be tokenized, unknown ids, and entries without any token.
pub(super) fn sequences(
    model: &LlamaModel,
    frame: &Frame,
    input: &EmbedInput,
    limit: Limit,
) -> Result<Vec<Vec<LlamaToken>>> {
    match input {
        EmbedInput::Texts(texts) => {
            let texts = texts.iter().enumerate();
            texts
                .map(|(index, text)| of_text(model, frame, text, index, limit))
                .collect()
        }
        EmbedInput::Tokens(rows) => {
            let rows = rows.iter().enumerate();
            rows.map(|(index, ids)| of_ids(model, ids, index, limit))
                .collect()
        }
    }
}

/// The special tokens stay where a text is cut.
fn of_text(
    model: &LlamaModel,
    frame: &Frame,
    text: &str,
    index: usize,
    limit: Limit,
) -> Result<Vec<LlamaToken>> {
    let body = plain_tokens(model, text, "input")?;
    let length = limit.apply(body.len() + frame.len(), "input", Some(index))?;
    let tokens = frame.around(&body[..length.saturating_sub(frame.len()).min(body.len())]);
    not_empty(tokens, index)
}

fn of_ids(model: &LlamaModel, ids: &[u32], index: usize, limit: Limit) -> Result<Vec<LlamaToken>> {
    let known = |id: &u32| i32::try_from(*id).ok().filter(|id| *id < model.n_vocab());
    let length = limit.apply(ids.len(), "input", Some(index))?;
    let tokens = ids.iter().take(length).map(|id| {
        known(id).map(LlamaToken::new).ok_or_else(|| {
            let what = format!("input[{index}]: the model has no token {id}");
            Error::invalid("input", what)
        })
    });
    not_empty(tokens.collect::<Result<_>>()?, index)
}

fn not_empty(tokens: Vec<LlamaToken>, index: usize) -> Result<Vec<LlamaToken>> {
    if tokens.is_empty() {
        return Err(Error::invalid(
            "input",
            format!("input[{index}] has no tokens"),
        ));
    }
    Ok(tokens)
}

/// The text's own tokens; what looks like a special token in it is text.
///
/// # Errors
/// `invalid_value` for what can't be tokenized, such as a NUL character.
pub(crate) fn plain_tokens(model: &LlamaModel, text: &str, param: &str) -> Result<Vec<LlamaToken>> {
    model
        .str_to_token_with_special(text, AddBos::Never, Special::Plaintext)
        .map_err(|error| Error::invalid(param, format!("a text can't be tokenized: {error}")))
}
