//! Models without weights: words are hashed into vectors, answers are written in advance.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp,
    chat::{ChatEvent, ChatRequest, Delta, FinishReason, Usage},
    embedding::{EmbedInput, EmbedRequest, Vectors},
    inference::{
        Choice, Embedded, Generation, Inference, ModelPlanner, Needs, Reranked, WorkEstimate,
        WorkSize,
    },
    model::{Capability, ModelCard, ModelId, ModelStatus, ModelType, Priority},
    model_ref::ModelRef,
    rerank::{RerankRequest, Score, Scores},
};
use futures::{StreamExt, stream};
use serde_json::Map;

const DIMENSION: usize = 128;

pub(crate) struct FakeModels {
    state: Mutex<State>,
    /// Cloned into each chat's stream: who holds it besides us is still generating.
    pub(crate) generating: Arc<()>,
}

struct State {
    cards: Vec<ModelCard>,
    /// Every text embedded so far.
    embedded: Vec<String>,
    embed_requests: usize,
    chats: Vec<ChatRequest>,
    reply: Reply,
    rerank_fails: bool,
    /// Texts that hold this crash the embedding model.
    poison: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Reply {
    Text(String),
    FailAfter(String),
    Hang,
}

impl Default for FakeModels {
    fn default() -> Self {
        let mut chatter = card("chatter", ModelType::Lm, &[Capability::Chat]);
        chatter.context_length = Some(2048);
        let state = State {
            cards: vec![
                card(
                    "embedder",
                    ModelType::Embeddings,
                    &[Capability::Embeddings, Capability::Rerank],
                ),
                card(
                    "other-embedder",
                    ModelType::Embeddings,
                    &[Capability::Embeddings],
                ),
                chatter,
            ],
            embedded: Vec::new(),
            embed_requests: 0,
            chats: Vec::new(),
            reply: Reply::Text("I don't know.".to_owned()),
            rerank_fails: false,
            poison: None,
        };
        Self {
            state: Mutex::new(state),
            generating: Arc::new(()),
        }
    }
}

impl FakeModels {
    pub(crate) fn reply(&self, reply: Reply) {
        self.state.lock().unwrap().reply = reply;
    }

    pub(crate) fn say(&self, text: &str) {
        self.reply(Reply::Text(text.to_owned()));
    }

    pub(crate) fn fail_rerank(&self) {
        self.state.lock().unwrap().rerank_fails = true;
    }

    pub(crate) fn poison(&self, text: Option<&str>) {
        self.state.lock().unwrap().poison = text.map(str::to_owned);
    }

    pub(crate) fn change(&self, model: &str, change: impl Fn(&mut ModelCard)) {
        self.state
            .lock()
            .unwrap()
            .cards
            .iter_mut()
            .filter(|card| card.id.as_str() == model)
            .for_each(change);
    }

    pub(crate) fn remove(&self, model: &str) {
        self.state
            .lock()
            .unwrap()
            .cards
            .retain(|card| card.id.as_str() != model);
    }

    /// The texts embedded since last asked, without the probes for a model's kind.
    pub(crate) fn take_embedded(&self) -> Vec<String> {
        let mut texts = std::mem::take(&mut self.state.lock().unwrap().embedded);
        texts.retain(|text| text != "a");
        texts
    }

    pub(crate) fn embed_requests(&self) -> usize {
        self.state.lock().unwrap().embed_requests
    }

    pub(crate) fn chats(&self) -> Vec<ChatRequest> {
        self.state.lock().unwrap().chats.clone()
    }

    fn card(&self, id: &str) -> Result<ModelCard> {
        let cards = &self.state.lock().unwrap().cards;
        let card = cards.iter().find(|card| card.id.as_str() == id).cloned();
        card.ok_or_else(|| Error::new(ErrorCode::ModelNotFound, format!("no model {id}")))
    }
}

#[async_trait]
impl Inference for FakeModels {
    async fn chat(&self, _call: &Call, request: ChatRequest) -> Result<Generation> {
        let model = self.card(&request.model)?.id;
        let reply = {
            let mut state = self.state.lock().unwrap();
            state.chats.push(request);
            state.reply.clone()
        };
        let words = |text: &str| -> Vec<Result<ChatEvent>> {
            text.split_inclusive(' ')
                .map(|word| Ok(ChatEvent::Delta(Delta::text(word))))
                .collect()
        };
        let events = match reply {
            Reply::Text(text) => {
                let mut events = words(&text);
                events.push(Ok(ChatEvent::Finish(FinishReason::Stop)));
                events.push(Ok(ChatEvent::Usage(Usage::new(7, 3))));
                stream::iter(events).boxed()
            }
            Reply::FailAfter(text) => {
                let mut events = words(&text);
                events.push(Err(Error::new(
                    ErrorCode::EngineCrashed,
                    "the engine crashed",
                )));
                stream::iter(events).boxed()
            }
            Reply::Hang => stream::pending().boxed(),
        };
        let guard = self.generating.clone();
        let events = events
            .map(move |event| {
                let _generating = &guard;
                event
            })
            .boxed();
        Ok(Generation {
            model,
            route: None,
            events,
        })
    }

    async fn embed(&self, _call: &Call, request: EmbedRequest) -> Result<Embedded> {
        let card = self.card(&request.model)?;
        let limit = card.context_length.unwrap() as usize - 2;
        let mut state = self.state.lock().unwrap();
        state.embed_requests += 1;
        let poison = state.poison.clone();
        let mut data = Vec::new();
        let EmbedInput::Texts(texts) = &request.input else {
            return Err(Error::invalid("input", "retrieval embeds texts"));
        };
        for text in texts {
            if poison.as_ref().is_some_and(|poison| text.contains(poison)) {
                return Err(Error::new(ErrorCode::EngineCrashed, "the engine crashed"));
            }
            if !request.truncate && words(text).len() > limit {
                return Err(Error::new(
                    ErrorCode::ContextLengthExceeded,
                    format!("over {limit} tokens: {text}"),
                ));
            }
            data.extend(vector(text));
            state.embedded.push(text.clone());
        }
        let fingerprint = card.fingerprint.unwrap();
        let vectors = Vectors {
            dimension: DIMENSION,
            data,
            fingerprint,
            tokens: 1,
        };
        Ok(Embedded {
            model: card.id,
            vectors,
        })
    }

    /// Longer is better.
    async fn rerank(&self, _call: &Call, request: RerankRequest) -> Result<Reranked> {
        let model = self.card(&request.model)?.id;
        if self.state.lock().unwrap().rerank_fails {
            return Err(Error::new(ErrorCode::EngineCrashed, "the engine crashed"));
        }
        let score = |(index, text): (usize, &String)| Score {
            index,
            relevance_score: text.len() as f32,
        };
        let results = request.documents.iter().enumerate().map(score).collect();
        Ok(Reranked {
            model,
            scores: Scores { results, tokens: 5 },
        })
    }

    async fn tokenize(
        &self,
        _call: &Call,
        _model: &ModelRef,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        Ok(texts.iter().map(|text| words(text)).collect())
    }
}

impl ModelPlanner for FakeModels {
    fn models(&self) -> Arc<[ModelCard]> {
        self.state.lock().unwrap().cards.clone().into()
    }

    fn names(&self) -> Vec<String> {
        let models = self.models();
        models.iter().map(|card| card.id.to_string()).collect()
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let able = |card: &ModelCard| {
            needs
                .capability
                .is_none_or(|capability| card.can(capability))
        };
        let card = match model {
            ModelRef::Named(name) => {
                let card = self.card(name)?;
                if !able(&card) {
                    return Err(Error::new(
                        ErrorCode::UnsupportedOperation,
                        format!("{name} can't"),
                    ));
                }
                card
            }
            _ => {
                let cards = self.models();
                let card = cards.iter().find(|card| able(card));
                card.ok_or_else(|| Error::new(ErrorCode::ModelNotFound, "no model can"))?
                    .clone()
            }
        };
        Ok(Choice {
            context_length: card.context_length,
            model: card.id,
            reason: "chosen".to_owned(),
        })
    }

    fn estimate(&self, _model: &ModelId, _work: &WorkSize) -> WorkEstimate {
        WorkEstimate::default()
    }
}

fn card(id: &str, model_type: ModelType, capabilities: &[Capability]) -> ModelCard {
    ModelCard {
        id: ModelId::new(id),
        model_type,
        status: ModelStatus::Loaded,
        family: None,
        description: None,
        tags: Vec::new(),
        capabilities: capabilities.to_vec(),
        context_length: Some(66),
        dimension: Some(DIMENSION as u32),
        fingerprint: Some(format!("weights of {id}").into()),
        footprint_bytes: Some(90_000_000),
        file_bytes: 1000,
        load: 0.0,
        slots: 4,
        pinned: false,
        priority: Priority::Normal,
        aliases: Vec::new(),
        adapters: Vec::new(),
        created_at: Timestamp::now(),
        metadata: Map::new(),
    }
}

/// A token is a run of letters and digits, or a mark.
fn words(text: &str) -> Vec<Range<u32>> {
    let mut spans: Vec<Range<u32>> = Vec::new();
    let mut in_word = false;
    for (at, c) in text.char_indices() {
        let (start, end) = (at as u32, (at + c.len_utf8()) as u32);
        match spans.last_mut() {
            Some(last) if in_word && c.is_alphanumeric() => last.end = end,
            _ if c.is_whitespace() => {}
            _ => spans.push(start..end),
        }
        in_word = c.is_alphanumeric();
    }
    spans
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0f32; DIMENSION];
    for span in words(text) {
        let mut hasher = DefaultHasher::new();
        text[span.start as usize..span.end as usize]
            .to_lowercase()
            .hash(&mut hasher);
        vector[hasher.finish() as usize % DIMENSION] += 1.0;
    }
    let length = vector
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    vector.iter().map(|value| value / length).collect()
}
