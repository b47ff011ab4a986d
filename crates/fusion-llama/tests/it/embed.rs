//! Vectors: against a reference, alone and in company, long, cut and refused.

use std::path::PathBuf;

use fusion_engine::{
    Engine, Launch,
    types::{
        Error, ErrorCode, Result,
        embedding::{EmbedInput, EmbedRequest, Vectors},
        model::{Capability, ModelType},
    },
};
use fusion_llama::{Embedder, Llama};
use serde::Deserialize;

use crate::support::{launch, made, refusal};

const MINILM: &str = "all-MiniLM-L6-v2-f16.gguf";
const LAST: &str = "tiny-last-embedder.gguf";

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

fn embeddings(model: PathBuf, context_length: Option<u32>, options: &[(&str, &str)]) -> Launch {
    Launch {
        model_type: ModelType::Embeddings,
        context_length,
        options: options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..launch(model, 4, 0)
    }
}

fn load(name: &str, context_length: u32) -> Option<Embedder> {
    Some(Embedder::load(&embeddings(made(name)?, Some(context_length), &[])).unwrap())
}

fn texts(texts: &[&str]) -> EmbedInput {
    EmbedInput::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
}

async fn embed(engine: &Embedder, input: EmbedInput, truncate: bool) -> Result<Vectors> {
    let model = "m".to_owned();
    engine
        .embed(EmbedRequest {
            model,
            input,
            truncate,
        })
        .await
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn assert_too_long(error: &Error, index: u64, tokens: u64, limit: u64) {
    assert_eq!(
        (error.code, error.param.as_deref()),
        (ErrorCode::ContextLengthExceeded, Some("input")),
        "{error}"
    );
    assert_eq!(
        error.details,
        serde_json::json!({ "index": index, "tokens": tokens, "limit": limit })
    );
}

#[tokio::test]
async fn the_real_model_agrees_with_its_reference_alone_and_in_company() {
    let Some(engine) = load(MINILM, 256) else {
        return;
    };
    let card = engine.card();
    assert_eq!(card.model_type, ModelType::Embeddings);
    assert_eq!(card.capabilities, [Capability::Embeddings]);
    assert_eq!((card.dimension, card.context_length), (Some(384), 256));
    assert_eq!(card.family.as_deref(), Some("bert"));

    let rows = reference();
    let expect = |vector: &[f32], row: &Row| {
        let likeness = cosine(vector, &row.embedding);
        assert!(likeness > 0.9999, "{likeness} for {}", row.text);
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    };
    for row in &rows {
        let alone = embed(&engine, texts(&[&row.text]), true).await.unwrap();
        assert_eq!(alone.tokens as usize, row.token_ids.len(), "{}", row.text);
        expect(&alone.data, row);
    }
    let all: Vec<_> = rows.iter().chain(rows.iter().rev()).collect();
    let input: Vec<_> = all.iter().map(|row| row.text.as_str()).collect();
    let together = embed(&engine, texts(&input), true).await.unwrap();
    assert_eq!(*together.fingerprint, *card.fingerprint);
    for (vector, row) in together.rows().zip(&all) {
        expect(vector, row);
    }
    let ids = rows.iter().map(|row| row.token_ids.clone()).collect();
    let by_ids = embed(&engine, EmbedInput::Tokens(ids), false)
        .await
        .unwrap();
    for (vector, row) in by_ids.rows().zip(&rows) {
        expect(vector, row);
    }
}

#[tokio::test]
async fn a_vector_hangs_on_its_own_text_only() {
    for name in [MINILM, LAST] {
        let Some(engine) = load(name, 256) else {
            return;
        };
        let words = [
            "river",
            "a quick brown fox jumps",
            "x",
            "the sky is blue and the bread is in the oven",
        ];
        let many: Vec<_> = words.iter().cycle().take(40).copied().collect();
        let requests = [
            embed(&engine, texts(&many), false),
            embed(&engine, texts(&words), false),
            embed(&engine, texts(&words[1..2]), false),
        ];
        let [many, few, one] =
            <[_; 3]>::try_from(futures::future::join_all(requests).await).unwrap();
        let (many, few, one) = (many.unwrap(), few.unwrap(), one.unwrap());
        for (index, vector) in many.rows().enumerate() {
            let other = few.rows().nth(index % words.len()).unwrap();
            let likeness = cosine(vector, other);
            assert!(likeness > 0.99999, "{name}: {likeness} at {index}");
        }
        assert!(cosine(&one.data, few.rows().nth(1).unwrap()) > 0.99999);
        assert!(cosine(few.rows().next().unwrap(), few.rows().nth(2).unwrap()) < 0.99);
    }
}

#[tokio::test]
async fn the_last_token_of_a_causal_model_is_its_vector() {
    let Some(engine) = load(LAST, 512) else {
        return;
    };
    let vectors = embed(&engine, texts(&["hello river", "a"]), false)
        .await
        .unwrap();
    assert_eq!((vectors.dimension, vectors.tokens), (64, 14));
    // What llama-server 10068 answers on the same file.
    let expected = [
        [
            0.115_533, -0.056_304, -0.132_818, -0.036_501, -0.034_582, 0.027_288, 0.006_305,
            -0.221_226,
        ],
        [
            0.291_007, 0.108_651, 0.136_110, 0.035_938, 0.112_691, 0.133_768, -0.156_560,
            -0.052_418,
        ],
    ];
    for (vector, expected) in vectors.rows().zip(expected) {
        for (value, expected) in vector.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 0.01,
                "{value} instead of {expected}"
            );
        }
    }
    // Longer than a batch: it is read in parts, and the vector is that of the end.
    let long = "red apple ".repeat(51);
    let whole = embed(&engine, texts(&[&long]), false).await.unwrap();
    assert_eq!(whole.tokens, 511);
    let again = embed(&engine, texts(&["sky", &long, "tree"]), false)
        .await
        .unwrap();
    assert!(cosine(&whole.data, again.rows().nth(1).unwrap()) > 0.9999);
}

#[tokio::test]
async fn too_long_a_text_is_refused_unless_cutting_is_asked_for() {
    let Some(engine) = load(MINILM, 16) else {
        return;
    };
    let long = "river ".repeat(20);
    let error = embed(&engine, texts(&["a", &long]), false)
        .await
        .unwrap_err();
    assert_too_long(&error, 1, 22, 16);
    let cut = embed(&engine, texts(&[&long]), true).await.unwrap();
    let fitting = embed(&engine, texts(&[&"river ".repeat(14)]), false)
        .await
        .unwrap();
    assert_eq!((cut.tokens, fitting.tokens), (16, 16));
    assert!(cosine(&cut.data, &fitting.data) > 0.999_99);

    let ids = EmbedInput::Tokens(vec![vec![101; 17]]);
    let error = embed(&engine, ids.clone(), false).await.unwrap_err();
    assert_too_long(&error, 0, 17, 16);
    assert_eq!(embed(&engine, ids, true).await.unwrap().tokens, 16);
}

#[tokio::test]
async fn what_is_no_input_is_refused() {
    let Some(engine) = load(MINILM, 256) else {
        return;
    };
    for input in [
        EmbedInput::Tokens(vec![vec![101], vec![30_522]]),
        EmbedInput::Tokens(vec![vec![u32::MAX]]),
        EmbedInput::Tokens(vec![vec![]]),
        texts(&["a\0b"]),
    ] {
        let error = embed(&engine, input, false).await.unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref()),
            (ErrorCode::InvalidValue, Some("input")),
            "{error}"
        );
    }
    assert!(
        embed(&engine, texts(&[]), false)
            .await
            .unwrap()
            .data
            .is_empty()
    );
    // What looks like a special token is text.
    let plain = embed(&engine, texts(&["[SEP]"]), false).await.unwrap();
    assert_eq!(plain.tokens, 5);
}

#[tokio::test]
async fn pooling_is_the_file_s_unless_said_otherwise_and_marks_the_vectors() {
    let Some(file) = made(MINILM) else { return };
    let mean = Embedder::load(&embeddings(file.clone(), Some(64), &[])).unwrap();
    let cls = Embedder::load(&embeddings(file.clone(), Some(64), &[("pooling", "cls")])).unwrap();
    assert_ne!(mean.card().fingerprint, cls.card().fingerprint);
    let input = || texts(&["a cat sat on the mat"]);
    let (a, b) = (
        embed(&mean, input(), false).await.unwrap(),
        embed(&cls, input(), false).await.unwrap(),
    );
    assert!(cosine(&a.data, &b.data) < 0.99);

    let error = refusal(Embedder::load(&embeddings(
        file.clone(),
        None,
        &[("pooling", "max")],
    )));
    assert_eq!(error.param.as_deref(), Some("options.pooling"));
    assert!(error.message.contains("mean, cls, last"), "{error}");
    // A model has no positions beyond those it was trained on.
    let error = refusal(Embedder::load(&embeddings(file.clone(), Some(513), &[])));
    assert_eq!(error.param.as_deref(), Some("context_length"));
    let error = refusal(Llama::load(&launch(file, 1, 256)));
    assert!(error.message.contains("embeddings"), "{error}");
}

#[tokio::test]
async fn an_estimate_says_what_loading_will_reserve() {
    for name in [MINILM, LAST] {
        let Some(file) = made(name) else { return };
        let launch = embeddings(file, None, &[]);
        let estimate = Embedder::estimate(&launch).unwrap();
        let stats = Embedder::load(&launch).unwrap().stats();
        assert_eq!(stats.kv_reserved_bytes, estimate.context_bytes, "{name}");
        assert_eq!(stats.scratch_bytes, estimate.compute_bytes, "{name}");
    }
}

#[tokio::test]
async fn tokens_are_found_in_a_text_that_the_tokenizer_changes() {
    let Some(engine) = load(MINILM, 256) else {
        return;
    };
    let given = [
        "Caf\u{e9}s don't  SLEEP",
        "\u{6f22}\u{5b57} unbelievability",
        "",
        " \n ",
    ];
    let spans = engine
        .tokenize(given.iter().map(|text| (*text).to_owned()).collect())
        .await
        .unwrap();
    let cut = |index: usize| -> Vec<&str> {
        let spans: &Vec<(u32, u32)> = &spans[index];
        spans
            .iter()
            .map(|(start, end)| &given[index][*start as usize..*end as usize])
            .collect()
    };
    assert_eq!(cut(0), ["Caf\u{e9}s", "don", "'", "t", "SLEEP"]);
    assert_eq!(cut(1)[..2], ["\u{6f22}", "\u{5b57}"]);
    assert_eq!(cut(1)[2..].concat(), "unbelievability");
    assert!(cut(1).len() > 4);
    assert!(spans[2].is_empty() && spans[3].is_empty());
    for row in reference().iter().filter(|row| row.token_ids.len() < 256) {
        let spans = engine.tokenize(vec![row.text.clone()]).await.unwrap();
        assert_eq!(spans[0].len() + 2, row.token_ids.len(), "{}", row.text);
    }
}
