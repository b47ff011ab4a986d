//! Sources in, an answer with checked citations out.

use std::{ops::Range, time::Instant};

use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest, FinishReason, Usage},
    inference::Generation,
    model::{Capability, ModelId},
    model_ref::ModelRef,
};
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::{
    Inner, citation,
    ingest::millis_since,
    prompt,
    request::GenerationConfig,
    response::{Citation, Source},
};

/// What is answered where nothing was found: a model without sources would make something up.
pub(super) const NOTHING_FOUND: &str = "Nothing in the documents answers this question.";
/// Assumed of models that don't tell.
const DEFAULT_CONTEXT: u32 = 2048;
/// Tokens of a chat template around the messages, with room to spare.
const TEMPLATE_TOKENS: usize = 64;
/// Bytes of a token, at least, where a model can't be asked to count.
const BYTES_PER_TOKEN: usize = 3;

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) citations: Vec<Citation>,
    pub(crate) model: Option<ModelId>,
    pub(crate) usage: Option<Usage>,
    pub(crate) finish_reason: Option<FinishReason>,
    pub(crate) sources_shown: usize,
    pub(crate) latency_ms: u64,
}

/// An answer that is being written.
pub(super) struct Writing {
    pub(super) generation: Generation,
    answer: Answer,
    started: Instant,
}

impl Inner {
    pub(super) async fn answer(
        &self,
        call: &Call,
        query: &str,
        sources: &[Source],
        model: Option<&str>,
        config: &GenerationConfig,
    ) -> Result<Answer> {
        if sources.is_empty() {
            return Ok(Answer::nothing_found());
        }
        let mut writing = self
            .start_answer(call, query, sources, model, config)
            .await?;
        while let Some(event) = writing.generation.events.next().await {
            writing.read(event?);
        }
        Ok(writing.finish(sources))
    }

    /// Starts the generation over as many of the sources as the model has room for.
    pub(super) async fn start_answer(
        &self,
        call: &Call,
        query: &str,
        sources: &[Source],
        model: Option<&str>,
        config: &GenerationConfig,
    ) -> Result<Writing> {
        let started = Instant::now();
        let model = self.choose(
            model.unwrap_or(&self.config.generation_model),
            Capability::Chat,
        )?;
        let mut request = ChatRequest {
            model: model.to_string(),
            stream: true,
            ..ChatRequest::default()
        };
        config.apply(&mut request);
        request.max_tokens = Some(config.max_tokens.unwrap_or(self.config.answer_tokens));
        let shown = self
            .shown(call, &model, query, sources, &mut request)
            .await?;
        let texts: Vec<&str> = sources
            .iter()
            .zip(&shown)
            .map(|(source, bytes)| &source.text[..*bytes])
            .collect();
        request.messages = prompt::messages(query, &texts);
        let generation = self.inference.chat(call, request).await?;
        let answer = Answer {
            model: Some(generation.model.clone()),
            sources_shown: shown.len(),
            ..Answer::empty()
        };
        Ok(Writing {
            generation,
            answer,
            started,
        })
    }

    /// Bytes of each source that fit beside the question and an answer; the answer gets half of a small context at most.
    async fn shown(
        &self,
        call: &Call,
        model: &ModelId,
        query: &str,
        sources: &[Source],
        request: &mut ChatRequest,
    ) -> Result<Vec<usize>> {
        let texts = [prompt::frame(), query]
            .into_iter()
            .chain(sources.iter().map(|source| source.text.as_str()));
        let texts: Vec<String> = texts.map(str::to_owned).collect();
        let mut tokens = self.count(call, model, texts).await?;
        let sources_tokens = tokens.split_off(2);
        let asked: usize = tokens.iter().map(Vec::len).sum();

        let context = self.context_length(model).unwrap_or(DEFAULT_CONTEXT);
        let answer_tokens = request
            .max_tokens
            .map_or(context / 2, |tokens| tokens.min(context / 2));
        request.max_tokens = Some(answer_tokens.max(1));
        let budget =
            (context as usize).saturating_sub(answer_tokens as usize + TEMPLATE_TOKENS + asked);
        let sources: Vec<(&str, Vec<Range<u32>>)> = sources
            .iter()
            .map(|source| source.text.as_str())
            .zip(sources_tokens)
            .collect();
        let shown = prompt::fit(&sources, budget);
        if shown.is_empty() {
            let message =
                format!("the question leaves no room for a source in {model}'s {context} tokens");
            return Err(Error::new(ErrorCode::ContextLengthExceeded, message).with_param("query"));
        }
        Ok(shown)
    }

    /// Tokens by the model's own tokenizer, or a careful guess where it has none to ask.
    async fn count(
        &self,
        call: &Call,
        model: &ModelId,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        let reference = ModelRef::Named(model.to_string());
        match self
            .inference
            .tokenize(call, &reference, texts.clone())
            .await
        {
            Ok(tokens) if tokens.len() == texts.len() => Ok(tokens),
            Err(error) if !cannot_tokenize(error.code) => Err(error),
            _ => Ok(texts.iter().map(|text| guessed(text)).collect()),
        }
    }
}

impl Writing {
    /// Takes an event in; what it adds to the answer comes back.
    pub(super) fn read(&mut self, event: ChatEvent) -> Option<String> {
        match event {
            ChatEvent::Delta(delta) => {
                let text = delta.content?;
                self.answer.text.push_str(&text);
                return Some(text);
            }
            ChatEvent::Finish(reason) => self.answer.finish_reason = Some(reason),
            ChatEvent::Usage(usage) => self.answer.usage = Some(usage),
        }
        None
    }

    pub(super) fn finish(mut self, sources: &[Source]) -> Answer {
        self.answer.latency_ms = millis_since(self.started);
        let shown = &sources[..self.answer.sources_shown];
        self.answer.citations = cite(&self.answer.text, shown);
        self.answer
    }
}

impl Answer {
    fn empty() -> Self {
        Self {
            text: String::new(),
            citations: Vec::new(),
            model: None,
            usage: None,
            finish_reason: None,
            sources_shown: 0,
            latency_ms: 0,
        }
    }

    pub(super) fn nothing_found() -> Self {
        Self {
            text: NOTHING_FOUND.to_owned(),
            ..Self::empty()
        }
    }

    pub(super) fn describe(&self, metadata: &mut Map<String, Value>) {
        let about = [
            ("model_id", json!(self.model)),
            ("usage", json!(self.usage)),
            ("finish_reason", json!(self.finish_reason)),
            ("sources_shown", json!(self.sources_shown)),
        ];
        metadata.extend(about.map(|(name, value)| (name.to_owned(), value)));
    }
}

/// The quotes, placed in the stored documents.
fn cite(answer: &str, sources: &[Source]) -> Vec<Citation> {
    let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
    let cite = |quote: citation::Quote| {
        let source = &sources[quote.source];
        Citation {
            source: quote.source + 1,
            chunk_id: source.chunk_id.clone(),
            document_id: source.document_id.clone(),
            char_start: source.char_start + quote.chars.start as u64,
            char_end: source.char_start + quote.chars.end as u64,
            quote: quote.text,
        }
    };
    citation::quotes(answer, &texts)
        .into_iter()
        .map(cite)
        .collect()
}

fn cannot_tokenize(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotImplemented | ErrorCode::UnsupportedOperation | ErrorCode::NotFound
    )
}

fn guessed(text: &str) -> Vec<Range<u32>> {
    let span = |start: usize| start as u32..(start + BYTES_PER_TOKEN).min(text.len()) as u32;
    (0..text.len()).step_by(BYTES_PER_TOKEN).map(span).collect()
}
