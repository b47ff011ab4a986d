use fusion_engine::{
    Engine,
    types::{ErrorCode, rerank::RerankRequest},
};

use crate::{
    model::{load, minilm},
    tiny,
};

fn request(query: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest {
        model: "m".to_owned(),
        query: query.to_owned(),
        documents: documents.iter().map(|text| (*text).to_owned()).collect(),
        truncate: false,
    }
}

#[tokio::test]
async fn the_document_that_answers_comes_first() {
    let Some(path) = minilm("rerank") else {
        return;
    };
    let documents = [
        "Stock markets fell sharply on Monday.",
        "A kitten rests on a rug.",
        "Paris is the capital and most populous city of France.",
        "Bread is made of flour, water, salt and yeast.",
        "",
    ];
    for backend in ["safetensors", "onnx"] {
        let engine = load(&path, backend).unwrap();
        let scores = engine
            .rerank(request("What is the capital of France?", &documents))
            .await
            .unwrap();
        let order: Vec<_> = scores.results.iter().map(|score| score.index).collect();
        assert_eq!(order, [0, 1, 2, 3, 4]);
        let score = |index: usize| scores.results[index].relevance_score;
        assert!(
            [0, 1, 3].iter().all(|other| score(2) > score(*other) + 0.1),
            "{backend}: {scores:?}"
        );
        assert!(
            [0, 1, 2, 3].iter().all(|other| score(4) < score(*other)),
            "{backend}: {scores:?}"
        );
    }
}

#[tokio::test]
async fn a_text_is_wholly_like_itself() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let scores = engine
        .rerank(request("a b cd", &["a b cd", "c"]))
        .await
        .unwrap();
    assert!(
        (scores.results[0].relevance_score - 1.0).abs() < 1e-4,
        "{scores:?}"
    );
    assert!(scores.results[1].relevance_score < 0.999, "{scores:?}");
}

#[tokio::test]
async fn what_is_too_long_is_refused_and_documents_are_cut_where_that_is_asked_for() {
    let folder = tiny::folder();
    let engine = load(folder.path(), "safetensors").unwrap();
    let long = "a b ".repeat(20);
    for (query, documents, param) in [
        ("a", ["a", &long], "documents"),
        (&*long, ["a", "a"], "query"),
    ] {
        let error = engine.rerank(request(query, &documents)).await.unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref()),
            (ErrorCode::ContextLengthExceeded, Some(param))
        );
    }
    let cut = RerankRequest {
        truncate: true,
        ..request("a", &[&long])
    };
    assert_eq!(engine.rerank(cut).await.unwrap().tokens, 3 + 16);
}
