//! LoRA adapters: chosen by each request, and never mixed up.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use fusion_engine::{
    Engine, Launch,
    types::{
        Class, ErrorCode,
        chat::{AdapterScale, ChatRequest},
        engine::Adapter,
    },
};
use fusion_llama::Llama;
use futures::future::join;
use tempfile::TempDir;

use crate::{
    adapter_file::{Fault, write},
    support::{answer, ask, launch, load, model_file, refusal, whole},
};

const QUESTION: &str = "What is the capital of France?";

fn with_adapters(file: PathBuf, adapters: &[(&str, &Path, f32)]) -> Launch {
    let list: Vec<Adapter> = adapters
        .iter()
        .map(|&(name, path, scale)| Adapter {
            name: name.to_owned(),
            path: path.to_owned(),
            scale,
        })
        .collect();
    let mut launch = launch(file, 4, 1024);
    let json = serde_json::to_string(&list).unwrap();
    launch.options.push(("adapters".to_owned(), json));
    launch
}

/// An engine with two adapters: `red`, which is applied unless a request says otherwise, and `blue`, which isn't.
fn engine(folder: &TempDir) -> Option<Llama> {
    let file = model_file()?;
    let (red, blue) = (
        folder.path().join("red.gguf"),
        folder.path().join("blue.gguf"),
    );
    write(&red, 1, Fault::None);
    write(&blue, 2, Fault::None);
    let launch = with_adapters(file, &[("red", &red, 1.0), ("blue", &blue, 0.0)]);
    Some(Llama::load(&launch).unwrap())
}

fn asked(question: &str, adapters: &[(&str, f32)]) -> ChatRequest {
    let mut request = ask(question, 40);
    let scales = adapters.iter().map(|&(name, scale)| AdapterScale {
        name: name.to_owned(),
        scale,
    });
    request.sampling.adapters = Some(scales.collect());
    request
}

/// The probabilities of the answer's first token. Unlike a text, they hardly change with how many tokens are computed together.
struct First(BTreeMap<String, f32>);

async fn first(engine: &Llama, adapters: &[(&str, f32)]) -> First {
    first_of(engine, asked(QUESTION, adapters)).await
}

async fn first_of(engine: &Llama, request: ChatRequest) -> First {
    let request = ChatRequest {
        max_tokens: Some(1),
        logprobs: true,
        top_logprobs: Some(20),
        ..request
    };
    let whole = whole(engine, request).await;
    let likeliest = whole.logprobs[0].top_logprobs.iter();
    First(
        likeliest
            .map(|token| (token.token.clone(), token.logprob.exp()))
            .collect(),
    )
}

impl First {
    fn is_like(&self, other: &Self) -> bool {
        let tokens: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let difference = |token| {
            let [one, other] = [self, other].map(|first| first.0.get(token).unwrap_or(&0.0));
            (one - other).abs()
        };
        let total_variation = tokens.into_iter().map(difference).sum::<f32>() / 2.0;
        total_variation < 0.1
    }
}

#[tokio::test]
async fn a_request_says_which_adapters_are_applied() {
    let folder = TempDir::new().unwrap();
    let Some(engine) = engine(&folder) else {
        return;
    };
    let Some(plain) = load(4, 1024) else { return };
    let base = first_of(&plain, ask(QUESTION, 1)).await;
    assert!(first(&engine, &[]).await.is_like(&base));
    assert!(first(&engine, &[("red", 0.0)]).await.is_like(&base));

    let red = first(&engine, &[("red", 1.0)]).await;
    assert!(!red.is_like(&base));
    assert!(first_of(&engine, ask(QUESTION, 1)).await.is_like(&red));
    let blue = first(&engine, &[("blue", 1.0)]).await;
    assert!(!blue.is_like(&base) && !blue.is_like(&red));
    let half = first(&engine, &[("red", 0.5)]).await;
    assert!(!half.is_like(&base) && !half.is_like(&red));
    assert_ne!(plain.card().fingerprint, engine.card().fingerprint);
}

#[tokio::test]
async fn several_are_applied_together() {
    let Some(file) = model_file() else { return };
    let folder = TempDir::new().unwrap();
    let red = folder.path().join("red.gguf");
    write(&red, 1, Fault::None);
    let twice = with_adapters(file, &[("one", &red, 0.0), ("same", &red, 0.0)]);
    let engine = Llama::load(&twice).unwrap();
    let whole = first(&engine, &[("one", 1.0)]).await;
    let halves = first(&engine, &[("same", 0.5), ("one", 0.5)]).await;
    assert!(halves.is_like(&whole));
    assert!(!first(&engine, &[("one", 0.5)]).await.is_like(&whole));
}

#[tokio::test]
async fn requests_with_different_adapters_run_side_by_side_and_answer_as_if_alone() {
    let folder = TempDir::new().unwrap();
    let Some(engine) = engine(&folder) else {
        return;
    };
    let (red, none): (&[_], &[_]) = (&[("red", 1.0)], &[]);
    let alone = (first(&engine, red).await, first(&engine, none).await);
    let together = join(first(&engine, red), first(&engine, none)).await;
    assert!(together.0.is_like(&alone.0) && together.1.is_like(&alone.1));
    assert!(!together.0.is_like(&together.1));
}

#[tokio::test]
async fn what_was_read_with_other_adapters_is_not_reused() {
    let folder = TempDir::new().unwrap();
    let Some(engine) = engine(&folder) else {
        return;
    };
    let cached =
        async |adapters: &[(&str, f32)]| answer(&engine, asked(QUESTION, adapters)).await.cached();
    assert_eq!(cached(&[]).await, 0);
    assert_eq!(cached(&[("red", 1.0)]).await, 0);
    assert_eq!(cached(&[("red", 0.5)]).await, 0);
    assert!(cached(&[]).await > 0);
    assert!(cached(&[("red", 1.0)]).await > 0);
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let Some(file) = model_file() else { return };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("wrong.gguf");
    let launch = with_adapters(file.clone(), &[("wrong", &path, 1.0)]);
    for (fault, why) in [
        (None, "can't be read"),
        (Some(Fault::Architecture), "qwen2"),
        (Some(Fault::Shape), "shape"),
    ] {
        if let Some(fault) = fault {
            write(&path, 1, fault);
        }
        let error = refusal(Llama::load(&launch));
        let told = (error.code, error.param.as_deref());
        assert_eq!(told, (ErrorCode::InvalidValue, Some("adapters")), "{error}");
        assert!(error.message.contains(why), "{error}");
    }
    // The model itself is no adapter.
    let model = with_adapters(file.clone(), &[("model", &file, 1.0)]);
    assert_eq!(refusal(Llama::load(&model)).code, ErrorCode::InvalidValue);

    let Some(engine) = engine(&folder) else {
        return;
    };
    let error = refusal(
        engine
            .chat(asked(QUESTION, &[("green", 1.0)]), Class::Interactive)
            .await,
    );
    assert_eq!(error.param.as_deref(), Some("adapters"));
    assert!(error.message.contains("red, blue"), "{error}");
}

#[test]
fn an_estimate_counts_them() {
    let Some(file) = model_file() else { return };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("red.gguf");
    write(&path, 1, Fault::None);
    let plain = Llama::estimate(&launch(file.clone(), 4, 1024)).unwrap();
    let with = Llama::estimate(&with_adapters(file, &[("red", &path, 1.0)])).unwrap();
    let bytes = with.weights_bytes - plain.weights_bytes;
    // Thirty layers, two matrices each, of rank four.
    assert_eq!(bytes, 30 * 4 * 4 * (576 + 576 + 576 + 192));
}

/// For a comparison by hand with another server on the same file.
#[test]
#[ignore = "writes the file that ADAPTER_FILE names"]
fn an_adapter_for_comparison() {
    let path = std::env::var_os("ADAPTER_FILE").unwrap();
    write(Path::new(&path), 1, Fault::None);
}
