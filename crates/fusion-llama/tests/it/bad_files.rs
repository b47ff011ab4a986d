//! Files that are no model, or not all of one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fusion_engine::{
    Engine,
    types::{Class, Error, ErrorCode},
};
use fusion_llama::Llama;
use tempfile::TempDir;

use crate::support::{ask, launch, model_file, refusal};

/// What both loading and estimating answer.
fn refused(model: &Path) -> Error {
    let launch = launch(model.to_owned(), 1, 512);
    let loading = refusal(Llama::load(&launch));
    let estimating = refusal(Llama::estimate(&launch));
    assert_eq!(loading.code, ErrorCode::InvalidValue, "{loading}");
    assert_eq!(estimating.code, ErrorCode::InvalidValue, "{estimating}");
    loading
}

fn written(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// The real model with a few bytes replaced by as many others.
fn changed(folder: &TempDir, from: &[u8], to: &[u8]) -> Option<PathBuf> {
    let mut bytes = fs::read(model_file()?).unwrap();
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    Some(written(folder, "changed.gguf", &bytes))
}

#[test]
fn something_else_is_refused() {
    let folder = TempDir::new().unwrap();
    for bytes in [
        &b""[..],
        b"GG",
        b"# Readme\n\nNot a model at all, but long enough to look like one.",
        &[0; 4096],
    ] {
        let error = refused(&written(&folder, "else.gguf", bytes));
        assert!(error.message.contains("else.gguf"), "{error}");
    }
    refused(&folder.path().join("missing.gguf"));
    refused(folder.path());
}

#[test]
fn impossible_heads_are_refused_at_once() {
    let folder = TempDir::new().unwrap();
    let head = |version: u32, tensors: u64, values: u64, rest: &[u8]| {
        [
            b"GGUF",
            &version.to_le_bytes()[..],
            &tensors.to_le_bytes(),
            &values.to_le_bytes(),
            rest,
        ]
        .concat()
    };
    let endless_key = [&u64::MAX.to_le_bytes()[..], b"key"].concat();
    for bytes in [
        head(1, 0, 0, b""),
        head(3, 0, 0, b""),
        head(3, u64::MAX, u64::MAX, b""),
        head(3, 1, 1, &endless_key),
        head(0x0300_0000, 1, 1, b""),
    ] {
        refused(&written(&folder, "head.gguf", &bytes));
    }
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let Some(model) = model_file() else { return };
    let folder = TempDir::new().unwrap();
    let whole = fs::read(model).unwrap();
    for length in [30, 10_000, 1_500_000, whole.len() / 2, whole.len() - 4096] {
        let error = refused(&written(&folder, "cut.gguf", &whole[..length]));
        assert!(
            error.message.contains("cut short"),
            "{length} bytes: {error}"
        );
    }
}

#[test]
fn what_only_llama_cpp_can_tell_is_told_with_its_cause() {
    let folder = TempDir::new().unwrap();
    let Some(model) = changed(&folder, b"llama.block_count", b"llama.bl0ck_count") else {
        return;
    };
    let error = refused(&model);
    assert!(error.message.contains("block_count"), "{error}");
}

#[tokio::test]
async fn a_model_without_a_template_loads_and_refuses_to_chat() {
    let folder = TempDir::new().unwrap();
    let Some(model) = changed(
        &folder,
        b"tokenizer.chat_template",
        b"tokenizer.chat_templ8te",
    ) else {
        return;
    };
    let engine = Llama::load(&launch(model, 1, 512)).unwrap();
    assert!(engine.card().capabilities.is_empty());
    let error = refusal(engine.chat(ask("Hello", 4), Class::Interactive).await);
    assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    assert!(error.message.contains("chat template"), "{error}");
}
