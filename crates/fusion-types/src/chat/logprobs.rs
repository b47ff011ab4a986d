//! How likely the model found the tokens of its answer.

use serde::{Deserialize, Serialize};

/// The `logprobs` of a choice, in a chunk or in a whole answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoiceLogprobs {
    #[serde(default)]
    pub content: Vec<TokenLogprob>,
}

/// A token that was drawn. Logarithms are natural, of the model's own distribution, before temperature and other sampling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f32,
    /// The token's own bytes, which may be a part of a character.
    pub bytes: Vec<u8>,
    /// The likeliest tokens at this place, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}
