//! Against vectors that a float64 forward pass of the published weights made.

use fusion_engine::Engine;
use serde::Deserialize;

use crate::model::{cosine, embed, length, load, minilm, request};

#[derive(Deserialize)]
struct Reference {
    vectors: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    token_ids: Vec<u32>,
    embedding: Vec<f32>,
}

fn reference() -> Vec<Row> {
    let text = include_str!("../fixtures/minilm-reference.json");
    serde_json::from_str::<Reference>(text).unwrap().vectors
}

#[tokio::test]
async fn safetensors_agree_in_fp32() {
    agree("safetensors", "f32", 0.9999).await;
}

#[tokio::test]
async fn onnx_agrees_in_int8() {
    agree("onnx", "int8", 0.99).await;
}

/// Each text alone, and all in one request, where short texts stand beside long ones.
async fn agree(backend: &str, quantization: &str, least: f32) {
    let Some(path) = minilm(&format!("parity of {backend}")) else {
        return;
    };
    let engine = load(&path, backend).unwrap();
    let card = engine.card();
    assert_eq!((card.dimension, card.context_length), (Some(384), 256));
    assert_eq!(card.quantization.as_deref(), Some(quantization));

    let rows = reference();
    for row in &rows {
        let alone = engine.embed(request(&[&row.text], true)).await.unwrap();
        assert_eq!(alone.tokens as usize, row.token_ids.len(), "{}", row.text);
        expect(&alone.data, row, least);
    }

    let twice: Vec<_> = rows.iter().chain(rows.iter().rev()).collect();
    let texts: Vec<_> = twice.iter().map(|row| row.text.as_str()).collect();
    let together = engine.embed(request(&texts, true)).await.unwrap();
    assert_eq!(together.rows().len(), twice.len());
    assert_eq!(*together.fingerprint, *card.fingerprint);
    for (vector, row) in together.rows().zip(twice) {
        expect(vector, row, least);
    }
}

fn expect(vector: &[f32], row: &Row, least: f32) {
    let likeness = cosine(vector, &row.embedding);
    assert!(likeness >= least, "{likeness} for {:?}", row.text);
    assert!(
        (length(vector) - 1.0).abs() < 1e-4,
        "not normalised: {:?}",
        row.text
    );
}

#[tokio::test]
async fn the_quantized_file_is_chosen_and_has_its_own_fingerprint() {
    let Some(path) = minilm("choice of backend") else {
        return;
    };
    let cards = ["auto", "onnx", "safetensors"].map(|backend| load(&path, backend).unwrap().card());
    assert_eq!(cards[0], cards[1]);
    assert_ne!(cards[0].fingerprint, cards[2].fingerprint);
}

#[tokio::test]
async fn threads_change_nothing_but_time() {
    let Some(path) = minilm("threads") else {
        return;
    };
    for backend in ["safetensors", "onnx"] {
        let engine = load(&path, backend).unwrap();
        let one = embed(&engine, &["a cat sat on the mat"]).await.unwrap();
        engine.set_threads(2);
        let two = embed(&engine, &["a cat sat on the mat"]).await.unwrap();
        assert!(cosine(&one.data, &two.data) > 0.99999, "{backend}");
    }
}
