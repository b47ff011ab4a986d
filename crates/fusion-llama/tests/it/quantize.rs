//! The executable's own command for files.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use fusion_engine::Engine;
use fusion_llama::Embedder;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{launch, made, model_file};

fn quantize(input: &Path, output: &Path, arguments: &[&str]) -> Output {
    // Standard input stays open: its end would end the work.
    let mut child = Command::new(env!("CARGO_BIN_EXE_fusiond-llama"))
        .arg("quantize")
        .args([input, output])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    output
}

fn told(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn a_converted_model_is_as_large_as_was_said_and_works() {
    let Some(input) = made("all-MiniLM-L6-v2-f16.gguf") else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("q8.gguf");
    let predicted = told(&quantize(&input, &output, &["--type", "q8_0", "--dry-run"]));
    assert!(!output.exists());
    let made = told(&quantize(&input, &output, &["--type", "Q8_0"]));
    let size = output.metadata().unwrap().len();
    assert_eq!(made["bytes"], size);
    let predicted = predicted["bytes"].as_u64().unwrap();
    assert!(
        size > predicted && size - predicted < 2_000_000,
        "{size} and {predicted}"
    );
    assert!(size < input.metadata().unwrap().len() * 6 / 10);

    let mut launch = launch(output, 1, 64);
    launch.model_type = fusion_engine::types::model::ModelType::Embeddings;
    let card = Embedder::load(&launch).unwrap().card();
    assert_eq!(card.quantization.as_deref(), Some("q8_0"));
}

#[test]
fn what_cannot_be_converted_is_told() {
    let Some(input) = model_file() else { return };
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("out.gguf");
    let refused = |input: &Path, arguments: &[&str]| {
        let output = quantize(input, &output, arguments);
        assert!(!output.status.success());
        told(&output)["error"].clone()
    };
    let error = refused(&input, &["--type", "q99"]);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&"invalid_value".into(), &"type".into())
    );
    assert!(
        error["message"].as_str().unwrap().contains("Q4_K_M"),
        "{error}"
    );
    // Its tensors are quantized already.
    let error = refused(&input, &["--type", "q8_0"]);
    assert!(
        error["message"].as_str().unwrap().contains("requantizing"),
        "{error}"
    );
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "not a model").unwrap();
    assert_eq!(refused(&text, &["--type", "q8_0"])["code"], "invalid_value");
    assert_eq!(
        refused(&folder.path().join("none"), &["--type", "q8_0"])["code"],
        "invalid_value"
    );
}
