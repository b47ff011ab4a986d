//! The likelihoods of tokens on their way to the client, in step with the text.

use std::collections::VecDeque;

use fusion_engine::types::chat::{TokenLogprob, TopLogprob};
use llama_cpp_4::{
    model::{LlamaModel, Special},
    token::LlamaToken,
};

use crate::decode::Likely;

/// Those whose text is still held back, as it may be a part of a stop string. Of a stop string nothing is told.
#[derive(Default)]
pub(crate) struct Logprobs {
    /// Where the token's text begins, in bytes of the answer.
    waiting: VecDeque<(usize, TokenLogprob)>,
    written: usize,
    told: usize,
}

impl Logprobs {
    /// A token that added so many bytes to the answer.
    pub(crate) fn push(&mut self, bytes: usize, logprob: TokenLogprob) {
        self.waiting.push_back((self.written, logprob));
        self.written += bytes;
    }

    /// Those of the next `bytes` of the answer, which the client now sees.
    pub(crate) fn tell(&mut self, bytes: usize) -> Vec<TokenLogprob> {
        self.told += bytes;
        let told = self.told;
        let count = self
            .waiting
            .iter()
            .take_while(|(begin, _)| *begin < told)
            .count();
        self.waiting
            .drain(..count)
            .map(|(_, logprob)| logprob)
            .collect()
    }

    /// All others: the answer ended where the tokens do.
    pub(crate) fn rest(&mut self) -> Vec<TokenLogprob> {
        self.waiting.drain(..).map(|(_, logprob)| logprob).collect()
    }
}

pub(crate) fn of_token(model: &LlamaModel, token: LlamaToken, likely: &Likely) -> TokenLogprob {
    let (text, bytes) = spelled(model, token);
    let top = likely.top.iter().map(|&(token, logprob)| {
        let (token, bytes) = spelled(model, token);
        TopLogprob {
            token,
            logprob,
            bytes,
        }
    });
    TokenLogprob {
        token: text,
        logprob: likely.drawn,
        bytes,
        top_logprobs: top.collect(),
    }
}

/// A token's text and bytes, its name where it is a mark.
fn spelled(model: &LlamaModel, token: LlamaToken) -> (String, Vec<u8>) {
    let bytes = model
        .token_to_raw_bytes(token, Special::Tokenize)
        .unwrap_or_default();
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(token: &str) -> TokenLogprob {
        TokenLogprob {
            token: token.to_owned(),
            logprob: 0.0,
            bytes: Vec::new(),
            top_logprobs: Vec::new(),
        }
    }

    fn names(logprobs: Vec<TokenLogprob>) -> String {
        logprobs.into_iter().map(|logprob| logprob.token).collect()
    }

    #[test]
    fn what_is_held_back_is_told_with_its_text() {
        let mut logprobs = Logprobs::default();
        logprobs.push(3, named("a"));
        assert_eq!(names(logprobs.tell(3)), "a");
        logprobs.push(2, named("b"));
        logprobs.push(0, named("mark"));
        assert_eq!(names(logprobs.tell(0)), "");
        logprobs.push(2, named("c"));
        assert_eq!(names(logprobs.tell(3)), "bmarkc");
        logprobs.push(1, named("d"));
        assert_eq!(names(logprobs.rest()), "d");
    }
}
