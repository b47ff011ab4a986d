//! A first run before the first request, so that nobody waits for memory to be touched, nor for what all requests begin with.

use std::thread;

use fusion_engine::types::{
    Class, Error, Result,
    chat::{ChatRequest, Message, Role, Sampling},
};
use llama_cpp_4::{
    model::{AddBos, LlamaModel, Special},
    token::LlamaToken,
};
use tokio::sync::mpsc;

use crate::{
    adapters::Mix,
    decode::{DecodeThread, Job, OUTPUTS, Output},
    prompt::{Prompt, Template},
    sampler::sampler,
};

const GREETING: &str = "Hello";

/// A model that was just loaded.
pub(crate) struct Cold<'a> {
    pub(crate) model: &'a LlamaModel,
    pub(crate) template: &'a Template,
    pub(crate) decode: &'a DecodeThread,
    /// The adapters of requests that name none.
    pub(crate) mix: Mix,
}

impl Cold<'_> {
    /// Reads `text` as a system message, which then is in the prefix cache; `true` only greets. What goes wrong is logged: a
    /// model that is cold answers all the same.
    pub(crate) fn warm_up(self, text: &str) {
        if let Err(error) = read(self, text) {
            tracing::warn!(%error, "the model could not be warmed up");
        }
    }
}

fn read(
    Cold {
        model,
        template,
        decode,
        mix,
    }: Cold<'_>,
    text: &str,
) -> Result<()> {
    let prompt = if template.is_usable() {
        template.prompt(model, &greeting(text), None)?
    } else {
        Prompt::plain(tokens(model, text))
    };
    let length = decode.memory().context_length as usize;
    if prompt.tokens.is_empty() || prompt.tokens.len() >= length {
        tracing::warn!("the text to warm up with is empty, or longer than the context");
        return Ok(());
    }
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let sampler = sampler(model, &greedy, &Default::default(), &prompt)?;
    let (outputs, mut received) = mpsc::channel(OUTPUTS);
    decode.submit(Job {
        class: Class::Interactive,
        prompt: prompt.tokens,
        pieces: prompt.pieces,
        max_tokens: 1,
        sampler,
        is_seeded: false,
        mix,
        top_logprobs: None,
        outputs,
    })?;
    // On a thread of its own, as the caller's may be one on which nothing may wait.
    let waited = thread::scope(|scope| {
        let read = scope.spawn(|| {
            while let Some(output) = received.blocking_recv() {
                if let Output::Failed(error) = output {
                    return Err(error);
                }
            }
            Ok(())
        });
        read.join()
    });
    waited.unwrap_or_else(|_| Err(Error::internal("the thread that waited panicked")))
}

fn greeting(text: &str) -> ChatRequest {
    let mut messages = vec![Message::new(Role::User, GREETING)];
    if text != "true" {
        messages.insert(0, Message::new(Role::System, text));
    }
    ChatRequest {
        messages,
        ..ChatRequest::default()
    }
}

fn tokens(model: &LlamaModel, text: &str) -> Vec<LlamaToken> {
    let text = if text == "true" { GREETING } else { text };
    model
        .str_to_token_with_special(text, AddBos::Always, Special::Plaintext)
        .unwrap_or_default()
}
