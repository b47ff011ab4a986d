//! Scores: by a classification head, and by what a language model says.

use std::path::PathBuf;

use fusion_engine::{
    Engine, Launch,
    types::{
        ErrorCode, Result,
        model::{Capability, ModelType},
        rerank::{RerankRequest, Scores},
    },
};
use fusion_llama::{Embedder, Reranker};

use crate::support::{launch, made, model_file, refusal};

const QUERY: &str = "what is the capital of france?";
const DOCUMENTS: [&str; 4] = [
    "paris is the capital city of france.",
    "the sky is blue",
    "a red apple tree, and bread in the oven!",
    "",
];

fn reranker(model: PathBuf, context_length: u32, options: &[(&str, &str)]) -> Launch {
    Launch {
        model_type: ModelType::Rerank,
        options: options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..launch(model, 4, context_length)
    }
}

fn request(query: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest {
        model: "m".to_owned(),
        query: query.to_owned(),
        documents: documents.iter().map(|text| (*text).to_owned()).collect(),
        truncate: false,
    }
}

fn values(scores: &Scores) -> Vec<f32> {
    scores
        .results
        .iter()
        .map(|score| score.relevance_score)
        .collect()
}

async fn rerank(engine: &Reranker, documents: &[&str]) -> Result<Scores> {
    engine.rerank(request(QUERY, documents)).await
}

#[tokio::test]
async fn heads_score_as_llama_server_does_on_the_same_files() {
    // llama-server 10068 on the same weights. The first model has the pair as BERT was trained on it, `[CLS] query [SEP] document
    // [SEP]`, which llama-server only does when the file holds that as a template: without one it leaves the last [SEP] out.
    let expected = [
        (
            "tiny-cross-encoder.gguf",
            [1.038_539, 0.927_306, 0.723_443, 0.821_242],
            63,
        ),
        (
            "tiny-template-reranker.gguf",
            [0.091_978, 0.094_794, 0.140_386, 0.083_051],
            308,
        ),
    ];
    for (name, expected, tokens) in expected {
        let Some(file) = made(name) else { return };
        let engine = Reranker::load(&reranker(file, 128, &[])).unwrap();
        assert_eq!(engine.card().capabilities, [Capability::Rerank]);
        let scores = rerank(&engine, &DOCUMENTS).await.unwrap();
        assert_eq!(scores.tokens, tokens, "{name}");
        for (score, expected) in values(&scores).iter().zip(expected) {
            assert!(
                (score - expected).abs() < 0.01,
                "{name}: {score} instead of {expected}"
            );
        }
        for (document, score) in DOCUMENTS.iter().zip(values(&scores)) {
            let alone = values(&rerank(&engine, &[document]).await.unwrap());
            assert!(
                (alone[0] - score).abs() < 0.001,
                "{name}: {alone:?} and {score}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_and_documents_are_cut_where_that_is_asked_for() {
    let long = "the sky is blue ".repeat(100);
    for name in ["tiny-cross-encoder.gguf", "tiny-template-reranker.gguf"] {
        let Some(file) = made(name) else { return };
        let engine = Reranker::load(&reranker(file, 128, &[])).unwrap();
        for (query, documents, param) in [
            (QUERY, ["a", &long], "documents"),
            (&long, ["a", "b"], "query"),
        ] {
            let error = engine.rerank(request(query, &documents)).await.unwrap_err();
            assert_eq!(
                (error.code, error.param.as_deref()),
                (ErrorCode::ContextLengthExceeded, Some(param)),
                "{name}: {error}"
            );
        }
        let cut = RerankRequest {
            truncate: true,
            ..request(QUERY, &[&long])
        };
        assert_eq!(engine.rerank(cut).await.unwrap().tokens, 128, "{name}");
    }
}

#[tokio::test]
async fn a_language_model_is_asked_and_reads_the_query_once() {
    let Some(file) = model_file() else { return };
    let engine = Reranker::load(&reranker(file.clone(), 2048, &[])).unwrap();
    let many: Vec<_> = DOCUMENTS.iter().cycle().take(40).copied().collect();
    let scores = rerank(&engine, &many).await.unwrap();
    let read = engine.stats().tokens_in;
    assert!(
        read * 3 < u64::from(scores.tokens),
        "{read} tokens were computed for prompts of {}",
        scores.tokens
    );
    let scores = values(&scores);
    assert!(
        scores.iter().all(|score| (0.0..=1.0).contains(score)),
        "{scores:?}"
    );
    // What llama-server 10068 makes of the same prompts. The model is small and strongly quantized: sums in another order, as
    // batches of other sizes make them, move its probabilities by some hundredths.
    let expected = [0.749, 0.744, 0.764, 0.673];
    for (index, score) in scores.iter().enumerate() {
        assert!((score - expected[index % 4]).abs() < 0.08, "{scores:?}");
    }
    for (document, score) in DOCUMENTS.iter().zip(&scores) {
        let alone = values(&rerank(&engine, &[document]).await.unwrap());
        assert!((alone[0] - score).abs() < 0.08, "{alone:?} and {score}");
    }

    let other = Reranker::load(&reranker(
        file,
        2048,
        &[("instruction", "Find texts about the weather")],
    ))
    .unwrap();
    assert_ne!(other.card().fingerprint, engine.card().fingerprint);
    let others = values(&rerank(&other, &DOCUMENTS).await.unwrap());
    assert!(
        others
            .iter()
            .zip(&scores)
            .any(|(a, b)| (a - b).abs() > 0.001)
    );
}

#[tokio::test]
async fn a_long_document_for_a_language_model_is_cut_to_what_it_reads() {
    let Some(file) = model_file() else { return };
    let engine = Reranker::load(&reranker(file, 256, &[])).unwrap();
    let long = "the sky is blue ".repeat(200);
    let error = rerank(&engine, &["a", &long]).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded, "{error}");
    let cut = RerankRequest {
        truncate: true,
        ..request(QUERY, &["a", &long])
    };
    let scores = engine.rerank(cut).await.unwrap();
    assert!(
        scores.tokens > 256 && scores.tokens <= 512,
        "{}",
        scores.tokens
    );
    let error = engine.rerank(request(&long, &["a"])).await.unwrap_err();
    assert_eq!(error.param.as_deref(), Some("query"), "{error}");
}

#[tokio::test]
async fn a_model_that_cannot_rerank_is_refused() {
    let Some(file) = made("all-MiniLM-L6-v2-f16.gguf") else {
        return;
    };
    let error = refusal(Reranker::load(&reranker(file, 128, &[])));
    assert_eq!(error.code, ErrorCode::InvalidValue, "{error}");
    assert!(error.message.contains("chat template"), "{error}");

    let Some(file) = made("tiny-cross-encoder.gguf") else {
        return;
    };
    let embeddings = Launch {
        model_type: ModelType::Embeddings,
        ..reranker(file.clone(), 128, &[])
    };
    let error = refusal(Embedder::load(&embeddings));
    assert!(error.message.contains("rerank"), "{error}");
    let error = refusal(Reranker::load(&reranker(
        file,
        128,
        &[("instruction", "x")],
    )));
    assert_eq!(error.param.as_deref(), Some("options.instruction"));
}
