//! Loading the real model, asking it, and waiting for what must come.

use std::{env, path::PathBuf, time::Duration};

use fusion_engine::{
    ChatStream, Engine, Launch,
    types::{
        Class, Error, Result,
        chat::{ChatEvent, ChatRequest, FinishReason, Message, Role, Sampling, Usage, WholeAnswer},
        model::ModelType,
    },
};
use fusion_llama::Llama;
use futures::StreamExt;

const FILE: &str = "SmolLM2-135M-Instruct-Q4_1.gguf";
const OTHER_FILE: &str = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf";
const DEADLINE: Duration = Duration::from_secs(120);

const CODER: &str = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf";

/// A model whose template knows tools, and that fills in the middle.
pub(crate) fn launch_coder(slots: u32, context_length: u32) -> Option<Launch> {
    Some(launch(file(CODER)?, slots, context_length))
}

pub(crate) fn load_coder(slots: u32, context_length: u32) -> Option<Llama> {
    Some(Llama::load(&launch_coder(slots, context_length)?).unwrap())
}

/// The model's file; without one the test says that it was skipped.
pub(crate) fn model_file() -> Option<PathBuf> {
    file(FILE)
}

/// A model with another vocabulary.
pub(crate) fn other_model_file() -> Option<PathBuf> {
    file(OTHER_FILE)
}

/// A model that `scripts/gguf_models.py` makes.
pub(crate) fn made(name: &str) -> Option<PathBuf> {
    file(&format!(".made/{name}"))
}

fn file(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("FUSIOND_MODELS_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/fusiond/models")))?;
    let file = folder.join(name);
    if file.is_file() {
        return Some(file);
    }
    eprintln!(
        "SKIPPED: {} is missing; `make models` fetches it",
        file.display()
    );
    None
}

pub(crate) fn launch(model: PathBuf, slots: u32, context_length: u32) -> Launch {
    Launch {
        model,
        model_type: ModelType::Lm,
        context_length: Some(context_length),
        slots,
        threads: 1,
        cache_dir: None,
        options: Vec::new(),
    }
}

pub(crate) fn load(slots: u32, context_length: u32) -> Option<Llama> {
    Some(Llama::load(&launch(model_file()?, slots, context_length)).unwrap())
}

/// A question that the model answers with "Paris", clearly enough that the rounding of no processor changes it.
pub(crate) fn ask_for_paris() -> ChatRequest {
    let mut request = ask("Name the capital of France.", 32);
    request.messages.insert(
        0,
        Message::new(Role::System, "You are a helpful assistant."),
    );
    request
}

/// One question, answered with the likeliest tokens.
pub(crate) fn ask(question: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        model: "smollm2".to_owned(),
        messages: vec![Message::new(Role::User, question)],
        max_tokens: Some(max_tokens),
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        stream: true,
        ..ChatRequest::default()
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish: FinishReason,
    pub(crate) usage: Usage,
}

impl Answer {
    pub(crate) fn cached(&self) -> u32 {
        self.usage
            .prompt_tokens_details
            .as_ref()
            .unwrap()
            .cached_tokens
    }
}

/// Everything that a stream says.
pub(crate) async fn whole(engine: &Llama, request: ChatRequest) -> WholeAnswer {
    let mut stream = engine.chat(request, Class::Interactive).await.unwrap();
    let mut whole = WholeAnswer::default();
    while let Some(event) = within_deadline(stream.next()).await {
        whole.add(event.unwrap());
    }
    whole
}

/// Reads a stream to its end, and checks that its events come in the promised order.
pub(crate) async fn read(mut stream: ChatStream) -> Answer {
    let mut text = String::new();
    let mut finish = None;
    let mut usage = None;
    while let Some(event) = within_deadline(stream.next()).await {
        assert!(usage.is_none(), "an event after the usage");
        match event.unwrap() {
            ChatEvent::Delta(delta) => {
                assert!(finish.is_none(), "text after the end");
                text.push_str(&delta.content.unwrap());
            }
            ChatEvent::Finish(reason) => finish = Some(reason),
            ChatEvent::Usage(total) => usage = Some(total),
        }
    }
    Answer {
        text,
        finish: finish.unwrap(),
        usage: usage.unwrap(),
    }
}

pub(crate) async fn answer(engine: &Llama, request: ChatRequest) -> Answer {
    read(engine.chat(request, Class::Interactive).await.unwrap()).await
}

/// The next piece of text.
pub(crate) async fn piece(stream: &mut ChatStream) -> String {
    match within_deadline(stream.next()).await.unwrap().unwrap() {
        ChatEvent::Delta(delta) => delta.content.unwrap(),
        other => panic!("{other:?} instead of text"),
    }
}

/// Waits until something is true of the engine.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let check = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    within_deadline(check).await;
}

pub(crate) fn refusal<T>(outcome: Result<T>) -> Error {
    outcome.err().unwrap()
}

async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}
