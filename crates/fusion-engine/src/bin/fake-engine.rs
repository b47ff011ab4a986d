//! An engine without a model, for tests: it speaks the real dialect and misbehaves on request.
//!
//! Options, each as `--option KEY=VALUE`: `tokens` (length of an answer), `delay_ms` (between tokens), `load_ms`,
//! `fail_load` (an error code), `estimate_mb`, `resident_mb` (held and touched), `crash_after` and `hang_after` (tokens).

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use fusion_engine::{ChatStream, Engine, Launch};
use fusion_types::{
    Class, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest, Delta, FinishReason, Part, TokenLogprob, TopLogprob, Usage},
    completion::{CompletionRequest, Prompt},
    embedding::{EmbedInput, EmbedRequest, Vectors},
    engine::{EngineCard, EngineStats, Estimate},
    model::{Capability, ModelType},
    rerank::{RerankRequest, Score, Scores},
};
use futures::{StreamExt, stream};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const DIMENSION: usize = 64;

fn main() -> ExitCode {
    fusion_engine::main::<Fake>()
}

struct Fake {
    launch: Launch,
    script: Script,
    counters: Arc<Counters>,
    _ballast: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Script {
    tokens: u32,
    delay: Duration,
    crash_after: Option<u32>,
    hang_after: Option<u32>,
}

#[derive(Default)]
struct Counters {
    busy: AtomicU32,
    tokens_in: AtomicU64,
    tokens_out: AtomicU64,
}

#[async_trait]
impl Engine for Fake {
    fn load(launch: &Launch) -> Result<Self> {
        if let Some(code) = launch.option("fail_load") {
            let code = ErrorCode::parse(code).unwrap_or(ErrorCode::EngineUnavailable);
            return Err(Error::new(code, "the test asked for this load to fail"));
        }
        wait(Duration::from_millis(
            number(launch, "load_ms")?.unwrap_or(0),
        ));
        let script = Script {
            tokens: count(launch, "tokens")?.unwrap_or(8),
            delay: Duration::from_millis(number(launch, "delay_ms")?.unwrap_or(0)),
            crash_after: count(launch, "crash_after")?,
            hang_after: count(launch, "hang_after")?,
        };
        let ballast =
            usize::try_from(number(launch, "resident_mb")?.unwrap_or(0) << 20).unwrap_or(0);
        Ok(Self {
            launch: launch.clone(),
            script,
            counters: Arc::default(),
            _ballast: vec![1; ballast],
        })
    }

    fn estimate(launch: &Launch) -> Result<Estimate> {
        let weights_bytes = number(launch, "estimate_mb")?.unwrap_or(1) << 20;
        Ok(Estimate {
            weights_bytes,
            context_bytes: 0,
            compute_bytes: 0,
        })
    }

    fn card(&self) -> EngineCard {
        let capabilities = match self.launch.model_type {
            ModelType::Embeddings => vec![Capability::Embeddings, Capability::Rerank],
            ModelType::Multimodal => {
                vec![Capability::Chat, Capability::Vision, Capability::AudioInput]
            }
            _ => vec![Capability::Chat],
        };
        EngineCard {
            model_type: self.launch.model_type,
            family: Some("fake".to_owned()),
            capabilities,
            context_length: self.launch.context_length.unwrap_or(4096),
            slots: self.launch.slots,
            dimension: (self.launch.model_type == ModelType::Embeddings).then_some(64),
            fingerprint: "fake".to_owned(),
            quantization: None,
        }
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            slots_busy: self.counters.busy.load(Relaxed),
            tokens_in: self.counters.tokens_in.load(Relaxed),
            tokens_out: self.counters.tokens_out.load(Relaxed),
            decode_steps: self.counters.tokens_out.load(Relaxed),
            ..EngineStats::default()
        }
    }

    async fn chat(&self, request: ChatRequest, _class: Class) -> Result<ChatStream> {
        let words = request
            .messages
            .iter()
            .map(|message| message.content.text().split_whitespace().count())
            .sum::<usize>();
        let bytes = media_bytes(&request)?;
        let top = request.logprobs.then(|| request.top_logprobs.unwrap_or(0));
        let answer = self.answer(words + bytes, request.max_tokens, top)?;
        Ok(Box::pin(stream::unfold(answer, Answer::next)))
    }

    async fn complete(&self, request: CompletionRequest, _class: Class) -> Result<ChatStream> {
        let (words, text) = match request.prompt {
            Prompt::Text(text) => (text.split_whitespace().count(), text),
            Prompt::Tokens(tokens) => (tokens.len(), format!("{tokens:?}")),
        };
        let answer = self.answer(words, request.max_tokens, request.logprobs)?;
        let echo = request
            .echo
            .then(|| Ok(ChatEvent::Delta(Delta::text(text))));
        let answer = stream::unfold(answer, Answer::next);
        Ok(Box::pin(stream::iter(echo).chain(answer)))
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Vectors> {
        let texts = match request.input {
            EmbedInput::Texts(texts) => texts,
            // A token is a word that is a number.
            EmbedInput::Tokens(rows) => rows.iter().map(|row| written(row)).collect(),
        };
        let data: Vec<f32> = texts.iter().flat_map(|text| embed(text)).collect();
        let tokens = texts
            .iter()
            .flat_map(|text| text.split_whitespace())
            .count();
        Ok(Vectors {
            dimension: DIMENSION,
            data,
            fingerprint: "fake".into(),
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        })
    }

    async fn rerank(&self, request: RerankRequest) -> Result<Scores> {
        let query = embed(&request.query);
        let results = request.documents.iter().enumerate().map(|(index, text)| {
            let relevance_score = query.iter().zip(embed(text)).map(|(a, b)| a * b).sum();
            Score {
                index,
                relevance_score,
            }
        });
        Ok(Scores {
            results: results.collect(),
            tokens: 0,
        })
    }

    async fn tokenize(&self, texts: Vec<String>) -> Result<Vec<Vec<(u32, u32)>>> {
        Ok(texts.iter().map(|text| words(text)).collect())
    }
}

/// What it sees of a file is how long it is.
fn media_bytes(request: &ChatRequest) -> Result<usize> {
    let mut bytes = 0;
    for (_, _, part) in request.media() {
        let Part::MediaFile { media_file } = part else {
            return Err(Error::invalid("messages", "an engine is given files"));
        };
        let file = std::fs::read(&media_file.path)
            .map_err(|error| Error::invalid("messages", error.to_string()))?;
        bytes += file.len();
    }
    Ok(bytes)
}

impl Fake {
    fn answer(&self, words: usize, most: Option<u32>, top: Option<u32>) -> Result<Answer> {
        let slot = Slot::take(&self.counters, self.launch.slots)?;
        let prompt_tokens = u32::try_from(words).unwrap_or(u32::MAX);
        self.counters
            .tokens_in
            .fetch_add(u64::from(prompt_tokens), Relaxed);
        Ok(Answer {
            slot,
            script: self.script,
            prompt_tokens,
            tokens: self.script.tokens.min(most.unwrap_or(u32::MAX)),
            top_logprobs: top,
            written: 0,
            finished: false,
        })
    }
}

/// A slot is busy as long as this lives.
struct Slot(Arc<Counters>);

impl Slot {
    fn take(counters: &Arc<Counters>, slots: u32) -> Result<Self> {
        let taken = counters
            .busy
            .try_update(Relaxed, Relaxed, |busy| (busy < slots).then_some(busy + 1));
        match taken {
            Ok(_) => Ok(Self(counters.clone())),
            Err(_) => Err(Error::new(
                ErrorCode::EngineUnavailable,
                "all slots are busy",
            )),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

struct Answer {
    slot: Slot,
    script: Script,
    prompt_tokens: u32,
    tokens: u32,
    top_logprobs: Option<u32>,
    written: u32,
    finished: bool,
}

impl Answer {
    async fn next(mut self) -> Option<(Result<ChatEvent>, Self)> {
        if self.finished {
            return None;
        }
        if self.written == self.tokens + 1 {
            self.finished = true;
            let usage = Usage::new(self.prompt_tokens, self.tokens);
            return Some((Ok(ChatEvent::Usage(usage)), self));
        }
        if self.script.crash_after == Some(self.written) {
            std::process::abort();
        }
        if self.script.hang_after == Some(self.written) {
            std::future::pending::<()>().await;
        }
        if self.written == self.tokens {
            self.written += 1;
            return Some((Ok(ChatEvent::Finish(FinishReason::Stop)), self));
        }
        if !self.script.delay.is_zero() {
            tokio::time::sleep(self.script.delay).await;
        }
        let space = if self.written == 0 { "" } else { " " };
        let text = format!("{space}tok{}", self.written);
        self.written += 1;
        self.slot.0.tokens_out.fetch_add(1, Relaxed);
        let logprobs = self.top_logprobs.map(|top| logprob(&text, top));
        let delta = Delta {
            logprobs: logprobs.into_iter().collect(),
            ..Delta::text(text)
        };
        Some((Ok(ChatEvent::Delta(delta)), self))
    }
}

/// Each further one of the likeliest is half as likely.
fn logprob(text: &str, top: u32) -> TokenLogprob {
    let half = 0.5_f32.ln();
    let mut logprob = 0.0;
    let top_logprobs = (0..top).map(|rank| {
        logprob += half;
        let token = format!("{text}{}", "'".repeat(rank as usize));
        TopLogprob {
            bytes: token.clone().into_bytes(),
            token,
            logprob,
        }
    });
    TokenLogprob {
        top_logprobs: top_logprobs.collect(),
        token: text.to_owned(),
        logprob: half,
        bytes: text.as_bytes().to_vec(),
    }
}

/// A bag of hashed words, normalised: texts that share words are near.
fn written(tokens: &[u32]) -> String {
    let words: Vec<_> = tokens.iter().map(ToString::to_string).collect();
    words.join(" ")
}

fn embed(text: &str) -> Vec<f32> {
    let mut row = vec![0.0_f32; DIMENSION];
    for word in text.split_whitespace() {
        let mut hasher = DefaultHasher::new();
        word.trim_matches(|letter: char| !letter.is_alphanumeric())
            .to_lowercase()
            .hash(&mut hasher);
        row[(hasher.finish() % 64) as usize] += 1.0;
    }
    let length = row
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    row.iter_mut().for_each(|value| *value /= length);
    row
}

fn words(text: &str) -> Vec<(u32, u32)> {
    let position = |word: &str| word.as_ptr().addr() - text.as_ptr().addr();
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    text.split_whitespace()
        .map(|word| (at(position(word)), at(position(word) + word.len())))
        .collect()
}

fn number(launch: &Launch, key: &str) -> Result<Option<u64>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| Error::invalid(key, format!("{text:?} is not a number")))
    };
    launch.option(key).map(parse).transpose()
}

fn count(launch: &Launch, key: &str) -> Result<Option<u32>> {
    Ok(number(launch, key)?.map(|value| u32::try_from(value).unwrap_or(u32::MAX)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "loading runs on a plain thread, as a real engine's does"
)]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
