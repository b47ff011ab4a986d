//! LoRA adapters: chosen by each request, and never mixed up.

use std::path::{Path, PathBuf};

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
    support::{answer, ask, launch, load, model_file, refusal},
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

#[tokio::test]
async fn a_request_says_which_adapters_are_applied() {
    let folder = TempDir::new().unwrap();
    let Some(engine) = engine(&folder) else {
        return;
    };
    let Some(plain) = load(4, 1024) else { return };
    let base = answer(&plain, ask(QUESTION, 40)).await.text;
    assert_eq!(answer(&engine, asked(QUESTION, &[])).await.text, base);
    let nothing = answer(&engine, asked(QUESTION, &[("red", 0.0)])).await;
    assert_eq!(nothing.text, base);

    let red = answer(&engine, asked(QUESTION, &[("red", 1.0)])).await.text;
    assert_ne!(red, base);
    assert_eq!(answer(&engine, ask(QUESTION, 40)).await.text, red);
    let blue = answer(&engine, asked(QUESTION, &[("blue", 1.0)]))
        .await
        .text;
    assert!(blue != base && blue != red);
    let half = answer(&engine, asked(QUESTION, &[("red", 0.5)])).await.text;
    assert_ne!(half, red);
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
    // Few tokens: the sums are rounded otherwise, and near ties fall otherwise in the end.
    let few = |adapters| ChatRequest {
        max_tokens: Some(6),
        ..asked(QUESTION, adapters)
    };
    let whole = answer(&engine, few(&[("one", 1.0)])).await;
    let halves = answer(&engine, few(&[("same", 0.5), ("one", 0.5)])).await;
    assert_eq!(whole.text, halves.text);
}

#[tokio::test]
async fn requests_with_different_adapters_run_side_by_side_and_answer_as_if_alone() {
    let folder = TempDir::new().unwrap();
    let Some(engine) = engine(&folder) else {
        return;
    };
    let (red, base) = (asked(QUESTION, &[("red", 1.0)]), asked(QUESTION, &[]));
    let alone = (
        answer(&engine, red.clone()).await.text,
        answer(&engine, base.clone()).await.text,
    );
    let together = join(answer(&engine, red), answer(&engine, base)).await;
    assert_eq!((together.0.text, together.1.text), alone);
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
