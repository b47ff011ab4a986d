//! Text that a model goes on with, without a chat template around it: the dialect's older way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    chat::{Delta, FinishReason, Sampling, TokenLogprob, TopLogprob, Usage, one_or_many},
    engine::EngineChoice,
};

pub use crate::completion_body::CompletionBody;

/// A text for one model, checked at the edge. Serialized as it is, it is the body of the engine's `/v1/completions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionRequest {
    pub model: String,
    pub prompt: Prompt,
    /// What comes after the text that is asked for: the model fills in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: bool,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub stop: Vec<String>,
    /// Most tokens to generate; without it as many as the context has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Added to the logits of tokens, by id; -100 bans, 100 all but forces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<String, f32>,
    /// How many of the likeliest tokens are told at each place; `None` tells no likelihoods at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    #[serde(default)]
    pub stream: bool,
}

impl CompletionRequest {
    pub fn new(model: String, prompt: Prompt) -> Self {
        Self {
            model,
            prompt,
            suffix: None,
            echo: false,
            stop: Vec::new(),
            max_tokens: None,
            sampling: Sampling::default(),
            logit_bias: BTreeMap::new(),
            logprobs: None,
            stream: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of token ids")]
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompt {
    /// A rough count of tokens, for estimates.
    pub fn rough_tokens(&self) -> usize {
        match self {
            Self::Text(text) => text.len() / 4 + 1,
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// One `text_completion` to a client, whole or a piece of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextChunk {
    pub id: String,
    pub object: &'static str,
    pub created: i64,
    pub model: String,
    pub choices: Vec<TextChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextChoice {
    #[serde(default)]
    pub text: String,
    #[serde(default)]
    pub index: u32,
    #[serde(default)]
    pub logprobs: Option<TextLogprobs>,
    pub finish_reason: Option<FinishReason>,
}

/// The older shape of likelihoods: lists side by side, one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<Option<f32>>,
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins in the choice's text, in characters.
    pub text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// `offset` is where the first token begins.
    pub fn new(logprobs: Vec<TokenLogprob>, mut offset: usize) -> Self {
        let mut lists = Self::default();
        for logprob in logprobs {
            lists.text_offset.push(offset);
            offset += logprob.token.chars().count();
            lists.tokens.push(logprob.token);
            lists.token_logprobs.push(Some(logprob.logprob));
            let top = logprob.top_logprobs.into_iter();
            let top: BTreeMap<_, _> = top.map(|top| (top.token, top.logprob)).collect();
            lists.top_logprobs.push(Some(top));
        }
        lists
    }

    pub fn append(&mut self, more: Self) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }

    fn into_list(self) -> Vec<TokenLogprob> {
        let mut tops = self.top_logprobs.into_iter();
        let tokens = self.tokens.into_iter().zip(self.token_logprobs);
        tokens
            .map(|(token, logprob)| {
                let top = tops.next().flatten().unwrap_or_default();
                let mut top_logprobs: Vec<_> = top
                    .into_iter()
                    .map(|(token, logprob)| TopLogprob {
                        bytes: token.clone().into_bytes(),
                        token,
                        logprob,
                    })
                    .collect();
                top_logprobs.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
                TokenLogprob {
                    bytes: token.clone().into_bytes(),
                    token,
                    logprob: logprob.unwrap_or(0.0),
                    top_logprobs,
                }
            })
            .collect()
    }
}

impl TextChoice {
    /// `offset`: characters of the choice's text that came before.
    pub fn delta(index: u32, delta: Delta, offset: usize) -> Self {
        let logprobs = delta.logprobs;
        Self {
            text: delta.content.unwrap_or_default(),
            index,
            logprobs: (!logprobs.is_empty()).then(|| TextLogprobs::new(logprobs, offset)),
            finish_reason: None,
        }
    }

    pub fn finish(index: u32, reason: FinishReason) -> Self {
        Self {
            index,
            finish_reason: Some(reason),
            ..Self::default()
        }
    }
}

impl EngineChoice for TextChoice {
    fn said(self) -> (Delta, Option<FinishReason>) {
        let delta = Delta {
            content: Some(self.text).filter(|text| !text.is_empty()),
            logprobs: self.logprobs.unwrap_or_default().into_list(),
            ..Delta::default()
        };
        (delta, self.finish_reason)
    }
}

impl TextChunk {
    pub const OBJECT: &str = "text_completion";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, logprob: f32) -> TokenLogprob {
        TokenLogprob {
            token: text.to_owned(),
            logprob,
            bytes: text.as_bytes().to_vec(),
            top_logprobs: vec![TopLogprob {
                token: text.to_owned(),
                logprob,
                bytes: text.as_bytes().to_vec(),
            }],
        }
    }

    #[test]
    fn likelihoods_stand_side_by_side_with_their_places() {
        let delta = Delta {
            logprobs: vec![token(" né", -0.5), token("e", -1.0)],
            ..Delta::text(" née")
        };
        let choice = TextChoice::delta(2, delta.clone(), 7);
        let logprobs = choice.logprobs.clone().unwrap();
        assert_eq!(logprobs.text_offset, [7, 10]);
        assert_eq!(logprobs.tokens, [" né", "e"]);
        assert_eq!(choice.said(), (delta, None));
    }

    #[test]
    fn a_prompt_is_text_or_tokens() {
        let read = |text: &str| serde_json::from_str::<Prompt>(text);
        assert_eq!(read("\"a\"").unwrap(), Prompt::Text("a".to_owned()));
        assert_eq!(read("[1,2]").unwrap(), Prompt::Tokens(vec![1, 2]));
        assert!(read("[\"a\"]").is_err() && read("[-1]").is_err());
    }
}
