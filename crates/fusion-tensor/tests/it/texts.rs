//! Lengths, limits and places of texts.

use fusion_engine::{Engine, Launch, types::ErrorCode};
use fusion_tensor::Tensor;
use serde_json::json;

use crate::{
    model::{cosine, embed, launch, length, load, minilm, request},
    tiny,
};

#[tokio::test]
async fn spans_are_bytes_of_the_text_as_it_was_sent() {
    let Some(path) = minilm("token spans") else {
        return;
    };
    let engine = load(&path, "onnx").unwrap();
    let text = "Ünïcödé  漢字 🙂 naïve-ly. [x]";
    let spans = engine
        .tokenize(vec![text.to_owned()])
        .await
        .unwrap()
        .remove(0);
    let parts: Vec<_> = spans
        .iter()
        .map(|(start, end)| &text[*start as usize..*end as usize])
        .collect();
    assert_eq!(
        parts,
        [
            "Ünïcödé",
            "漢",
            "字",
            "🙂",
            "naïve",
            "-",
            "l",
            "y",
            ".",
            "[",
            "x",
            "]"
        ]
        .as_slice()
    );
}

#[tokio::test]
async fn spans_of_a_long_document_cover_all_of_it() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let text = "é cd ".repeat(400);
    let spans = engine
        .tokenize(vec![text.clone(), String::new()])
        .await
        .unwrap();
    assert_eq!(spans[0].len(), 400 * 3);
    assert!(spans[0].windows(2).all(|pair| pair[0].1 <= pair[1].0));
    assert_eq!(
        spans[0].last(),
        Some(&(text.len() as u32 - 2, text.len() as u32 - 1))
    );
    assert!(spans[1].is_empty());
}

#[tokio::test]
async fn too_long_a_text_is_refused_by_name_or_cut() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let long = "a ".repeat(30);
    let error = embed(&engine, &["a", &long]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
    assert_eq!(error.param.as_deref(), Some("input"));
    assert_eq!(
        error.details,
        json!({ "index": 1, "tokens": 32, "limit": 16 })
    );

    let cut = engine.embed(request(&[&long], true)).await.unwrap();
    let fitting = embed(&engine, &[&"a ".repeat(14)]).await.unwrap();
    assert_eq!((cut.tokens, &cut.data), (16, &fitting.data));
}

#[tokio::test]
async fn the_context_can_be_set_as_far_as_the_positions_reach() {
    let folder = tiny::folder();
    for (asked, got) in [(5, 5), (24, 24), (1000, tiny::POSITIONS as u32)] {
        let engine = Tensor::load(&Launch {
            context_length: Some(asked),
            ..launch(folder.path())
        })
        .unwrap();
        assert_eq!(engine.card().context_length, got);
        let most = "a ".repeat(got as usize - 2);
        assert_eq!(embed(&engine, &[&most]).await.unwrap().tokens, got);
    }
    let error = Tensor::load(&Launch {
        context_length: Some(2),
        ..launch(folder.path())
    })
    .err()
    .unwrap();
    assert_eq!(error.param.as_deref(), Some("context_length"));
}

#[tokio::test]
async fn padding_does_not_change_a_vector() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let texts = [
        "",
        "a",
        "b cd",
        "a b c a b c a b c",
        "c c c",
        "[SEP] a",
        "cd",
    ];
    let together = embed(&engine, &texts).await.unwrap();
    for (text, vector) in texts.iter().zip(together.rows()) {
        let alone = embed(&engine, &[text]).await.unwrap();
        assert!(cosine(&alone.data, vector) > 0.99999, "{text:?}");
        assert!(
            (length(&alone.data) - length(vector)).abs() < 1e-4,
            "{text:?}"
        );
    }
}

#[tokio::test]
async fn vectors_are_normalised_where_the_folder_says_so() {
    let folder = tiny::folder();
    let raw = embed(&load(folder.path(), "auto").unwrap(), &["a b"])
        .await
        .unwrap();
    assert!((length(&raw.data) - 1.0).abs() > 0.01);
    let modules = folder.path().join("modules.json");
    let mut list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&modules).unwrap()).unwrap();
    list.as_array_mut().unwrap().push(json!({ "idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" }));
    tiny::write_json(&modules, &list);
    let engine = load(folder.path(), "auto").unwrap();
    let normal = embed(&engine, &["a b"]).await.unwrap();
    assert!((length(&normal.data) - 1.0).abs() < 1e-5);
    assert!(cosine(&raw.data, &normal.data) > 0.99999);
    assert_ne!(raw.fingerprint, normal.fingerprint);
}

#[tokio::test]
async fn nothing_asked_is_nothing_answered() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "auto").unwrap();
    let vectors = embed(&engine, &[]).await.unwrap();
    assert_eq!((vectors.rows().len(), vectors.tokens), (0, 0));
}
