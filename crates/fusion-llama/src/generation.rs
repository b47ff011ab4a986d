//! One generation as its client sees it: tokens in, events out, on the request's own task.

use std::{collections::VecDeque, sync::Arc};

use fusion_engine::{
    ChatStream,
    types::{
        Error, ErrorCode, Result,
        chat::{ChatEvent, Delta, FinishReason, PromptTokensDetails, TokenLogprob, Usage},
    },
};
use futures::{StreamExt, stream};
use llama_cpp_4::{
    chat::ChatParams,
    model::{AddBos, LlamaModel, Special},
    token::LlamaToken,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    decode::{Likely, Output, Waker},
    logprobs::{self, Logprobs},
    reply::Reply,
    text::Assembler,
};

/// Dropping it frees the slot within one step.
pub(crate) struct Generation {
    model: Arc<LlamaModel>,
    // The order matters: the permit goes back once the decode thread can see that the receiver has gone.
    outputs: mpsc::Receiver<Output>,
    _permit: OwnedSemaphorePermit,
    _wake: WakeOnDrop,
    /// Control tokens that the parser needs to see.
    preserved: Vec<LlamaToken>,
    text: Assembler,
    reply: Option<Reply>,
    logprobs: Logprobs,
    /// Of text that the client has been told, or soon is.
    untold: Vec<TokenLogprob>,
    usage: Usage,
    events: VecDeque<Result<ChatEvent>>,
    ended: bool,
}

/// What the prompt says about the answer to come.
pub(crate) struct Answer {
    pub(crate) stops: Vec<String>,
    pub(crate) parser: Option<ChatParams>,
    /// The tools that it may call.
    pub(crate) tools: Vec<String>,
    pub(crate) prompt_tokens: usize,
}

impl Generation {
    pub(crate) fn new(
        model: Arc<LlamaModel>,
        outputs: mpsc::Receiver<Output>,
        permit: OwnedSemaphorePermit,
        waker: Waker,
        Answer {
            stops,
            parser,
            tools,
            prompt_tokens,
        }: Answer,
    ) -> Self {
        Self {
            preserved: parser
                .as_ref()
                .map_or_else(Vec::new, |parser| preserved(&model, parser)),
            model,
            outputs,
            _permit: permit,
            _wake: WakeOnDrop(waker),
            text: Assembler::new(stops),
            reply: parser.map(|parser| Reply::new(parser, tools)),
            logprobs: Logprobs::default(),
            untold: Vec::new(),
            usage: Usage::new(count(prompt_tokens), 0),
            events: VecDeque::new(),
            ended: false,
        }
    }

    pub(crate) fn into_stream(self) -> ChatStream {
        stream::unfold(self, |mut generation| async move {
            let event = generation.next().await?;
            Some((event, generation))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<ChatEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            let output = self.outputs.recv().await;
            // The slot may have been waiting for the room that this made.
            self._wake.0.wake();
            match output {
                Some(Output::Started { cached }) => {
                    let details = PromptTokensDetails {
                        cached_tokens: count(cached),
                    };
                    self.usage.prompt_tokens_details = Some(details);
                }
                Some(Output::Token(token, likely)) => self.token(token, likely.as_ref()),
                Some(Output::Finished(reason)) => {
                    let rest = self.text.finish();
                    self.delta(rest);
                    let logprobs = self.logprobs.rest();
                    self.untold.extend(logprobs);
                    self.finish(reason);
                }
                Some(Output::Failed(error)) => self.fail(error),
                None => self.fail(Error::new(
                    ErrorCode::EngineUnavailable,
                    "the engine is ending",
                )),
            }
        }
    }

    fn token(&mut self, token: LlamaToken, likely: Option<&Likely>) {
        self.usage.completion_tokens += 1;
        // A token without text of its own, such as a control token, is reported as an error.
        let special = if self.preserved.contains(&token) {
            Special::Tokenize
        } else {
            Special::Plaintext
        };
        let bytes = self
            .model
            .token_to_raw_bytes(token, special)
            .unwrap_or_default();
        if let Some(likely) = likely {
            let logprob = logprobs::of_token(&self.model, token, likely);
            self.logprobs.push(bytes.len(), logprob);
        }
        let certain = self.text.push(&bytes);
        self.delta(certain.text);
        if certain.stopped {
            // Not only once the client has read to the end: from here on every step of this slot would be wasted.
            self.outputs.close();
            self.finish(FinishReason::Stop);
        }
    }

    fn delta(&mut self, text: String) {
        let logprobs = self.logprobs.tell(text.len());
        self.untold.extend(logprobs);
        let delta = match &mut self.reply {
            Some(reply) => reply.push(&text),
            None => (!text.is_empty()).then(|| Delta::text(text)),
        };
        if let Some(delta) = delta {
            self.tell(delta);
        }
    }

    fn tell(&mut self, delta: Delta) {
        let delta = Delta {
            logprobs: std::mem::take(&mut self.untold),
            ..delta
        };
        self.events.push_back(Ok(ChatEvent::Delta(delta)));
    }

    fn finish(&mut self, mut reason: FinishReason) {
        self.ended = true;
        if let Some(reply) = &mut self.reply {
            let rest = reply.finish();
            if reason == FinishReason::Stop && reply.has_calls() {
                reason = FinishReason::ToolCalls;
            }
            if let Some(delta) = rest {
                self.tell(delta);
            }
        }
        if !self.untold.is_empty() {
            self.tell(Delta::default());
        }
        self.usage.total_tokens = self
            .usage
            .prompt_tokens
            .saturating_add(self.usage.completion_tokens);
        self.events.push_back(Ok(ChatEvent::Finish(reason)));
        self.events
            .push_back(Ok(ChatEvent::Usage(self.usage.clone())));
    }

    fn fail(&mut self, error: Error) {
        self.ended = true;
        self.events.push_back(Err(error));
    }
}

/// Tokens that are one by one what the parser calls its marks.
fn preserved(model: &LlamaModel, parser: &ChatParams) -> Vec<LlamaToken> {
    let marks: Vec<String> =
        serde_json::from_str(&parser.preserved_tokens_json).unwrap_or_default();
    let tokens = marks.iter().filter_map(|mark| {
        let tokens = model
            .str_to_token_with_special(mark, AddBos::Never, Special::Tokenize)
            .ok()?;
        <[LlamaToken; 1]>::try_from(tokens).ok()
    });
    tokens.flatten().collect()
}

struct WakeOnDrop(Waker);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
