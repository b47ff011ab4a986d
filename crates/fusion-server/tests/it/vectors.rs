//! `/v1/embeddings` and `/v1/rerank`, and the GGUF models behind them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{client::Client, server::Home};

async fn refused(client: &Client, path: &str, body: Value) -> (String, String) {
    let (status, answer) = client.post(path, &body).await;
    assert_eq!(status.as_u16(), 400, "{body}: {answer}");
    let text = |field: &str| {
        answer["error"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    (text("code"), text("param"))
}

fn vector(answer: &Value, row: usize) -> Vec<f64> {
    let values = answer["data"][row]["embedding"].as_array().unwrap();
    values.iter().map(|value| value.as_f64().unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn every_shape_of_input_and_encoding_is_taken() {
    let home = Home::new().fake("vectors", "embeddings", &[]);
    let server = home.start().await;
    let client = server.client();
    let embed = async |body: Value| {
        let mut body = body;
        body["model"] = "vectors".into();
        client.ask("/v1/embeddings", &body).await
    };
    let one = embed(json!({ "input": "red apple" })).await;
    assert_eq!(one["object"], "list");
    assert_eq!(one["model"], "vectors");
    assert_eq!(one["data"][0]["object"], "embedding");
    assert_eq!(
        one["usage"],
        json!({ "prompt_tokens": 2, "total_tokens": 2 })
    );

    let list =
        embed(json!({ "input": ["red apple", "blue sky"], "encoding_format": "base64" })).await;
    assert_eq!(list["data"][1]["index"], 1);
    let bytes = STANDARD
        .decode(list["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let decoded: Vec<f64> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f64::from(f32::from_le_bytes(*value)))
        .collect();
    assert!((dot(&decoded, &vector(&one, 0)) - 1.0).abs() < 1e-5);

    let ids = embed(json!({ "input": [7, 8] })).await;
    assert_eq!(ids["data"].as_array().unwrap().len(), 1);
    let rows = embed(json!({ "input": [[9], [7, 8]] })).await;
    assert_eq!(vector(&rows, 1), vector(&ids, 0));
    assert_eq!(rows["usage"]["total_tokens"], 3);

    let short = vector(
        &embed(json!({ "input": "red apple", "dimensions": 8 })).await,
        0,
    );
    assert_eq!(short.len(), 8);
    assert!((dot(&short, &short) - 1.0).abs() < 1e-5);

    for (body, param) in [
        (json!({ "input": [] }), "input"),
        (json!({ "input": [1.5] }), "input"),
        (json!({ "input": ["a", 1] }), "input"),
        (json!({ "input": "a", "dimensions": 0 }), "dimensions"),
        (json!({ "input": "a", "dimensions": 65 }), "dimensions"),
        (
            json!({ "input": "a", "encoding_format": "hex" }),
            "encoding_format",
        ),
        (json!({ "input": vec!["a"; 2049] }), "input"),
    ] {
        let mut body = body;
        body["model"] = "vectors".into();
        let refusal = refused(&client, "/v1/embeddings", body).await;
        assert_eq!(refusal, ("invalid_value".to_owned(), param.to_owned()));
    }
}

#[tokio::test]
async fn documents_come_back_best_first() {
    let home = Home::new().fake("vectors", "embeddings", &[]);
    let server = home.start().await;
    let client = server.client();
    let body = json!({
        "model": "vectors",
        "query": "red apple",
        "documents": ["blue sky", { "text": "red apple pie" }, "red"],
        "top_n": 2,
        "return_documents": true,
    });
    let answer = client.ask("/v1/rerank", &body).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{answer}");
    assert_eq!(results[0]["index"], 1);
    assert_eq!(results[0]["document"], json!({ "text": "red apple pie" }));
    assert!(results[0]["relevance_score"].as_f64() > results[1]["relevance_score"].as_f64());
    assert!(answer["usage"]["total_tokens"].is_u64());
    for (change, param) in [
        (json!({ "documents": [] }), "documents"),
        (json!({ "documents": [{ "title": "a" }] }), "documents[0]"),
        (json!({ "top_n": 0 }), "top_n"),
        (json!({ "top_n": -1 }), "top_n"),
    ] {
        let mut body = body.clone();
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let refusal = refused(&client, "/v1/rerank", body).await;
        assert_eq!(refusal, ("invalid_value".to_owned(), param.to_owned()));
    }
}

/// A home over the models that `scripts/gguf_models.py` made.
fn real() -> Option<Home> {
    let home = Home::with_real_models().filter(|home| {
        home.models_dir()
            .join(".made/tiny-cross-encoder.gguf")
            .is_file()
    });
    if home.is_none() {
        println!("SKIPPED: the models have not been made; run `make models`");
    }
    home
}

async fn load(client: &Client, home: &Home, file: &str, body: Value) -> Value {
    let mut body = body;
    body["model_path"] = json!(home.models_dir().join(".made").join(file));
    client.ask("/v1/models/load", &body).await
}

#[tokio::test]
async fn a_gguf_embedder_serves_clients_jobs_and_retrieval() {
    let Some(home) = real() else { return };
    let server = home.start().await;
    let client = server.client();
    // Its name says what it is.
    let loaded = load(
        &client,
        &home,
        "all-MiniLM-L6-v2-f16.gguf",
        json!({ "model_id": "gguf", "context_length": 64 }),
    )
    .await;
    assert_eq!(loaded["metadata"]["type"], "embeddings", "{loaded}");

    let long = "word ".repeat(100);
    let body = json!({ "model": "gguf", "input": ["short", long] });
    let refusal = refused(&client, "/v1/embeddings", body.clone()).await;
    assert_eq!(
        refusal,
        ("context_length_exceeded".to_owned(), "input".to_owned())
    );
    let mut cut = body;
    cut["truncate"] = true.into();
    let answer = client.ask("/v1/embeddings", &cut).await;
    assert_eq!(answer["usage"]["total_tokens"], 3 + 64);

    let job = json!({ "model_id": "gguf", "operation": "embed", "input": { "input": [[101, 2304, 102]] } });
    let job = client.ask("/api/mcp/jobs", &job).await;
    let path = format!(
        "/api/mcp/jobs/{}?wait_ms=30000",
        job["job_id"].as_str().unwrap()
    );
    let job = client.look(&path).await;
    assert_eq!(
        job["result"]["embeddings"][0].as_array().unwrap().len(),
        384,
        "{job}"
    );

    let documents = json!([
        { "id": "whale", "text": "The blue whale is the largest animal that has ever lived. It eats tiny krill." },
        { "id": "bread", "text": "Bread is made of flour, water, salt and yeast. It is baked in a hot oven. ".repeat(8) },
    ]);
    let body = json!({ "collection": "facts", "documents": documents, "embedding_model": "gguf", "chunk_size": 32, "overlap": 4 });
    let report = client.ask("/api/rag/ingest", &body).await;
    assert_eq!(report["documents_ingested"], 2, "{report}");
    assert!(report["chunks_created"].as_u64().unwrap() > 4, "{report}");
    let query = json!({ "query": "Which animal is the biggest?", "collection": "facts", "top_k": 1, "mode": "dense" });
    let answer = client.ask("/api/rag/search", &query).await;
    assert_eq!(answer["sources"][0]["document_id"], "whale", "{answer}");
}

#[tokio::test]
async fn gguf_rerankers_serve_clients_and_jobs() {
    let Some(home) = real() else { return };
    let server = home.start().await;
    let client = server.client();
    load(
        &client,
        &home,
        "tiny-cross-encoder.gguf",
        json!({ "model_id": "head", "model_type": "rerank" }),
    )
    .await;
    let rerank = json!({
        "model": "head",
        "query": "what is the capital of france?",
        "documents": ["paris is the capital city of france.", "the sky is blue"],
    });
    let answer = client.ask("/v1/rerank", &rerank).await;
    assert_eq!(answer["results"][0]["index"], 0);
    assert_eq!(answer["usage"]["total_tokens"], 32, "{answer}");
    let refusal = refused(
        &client,
        "/v1/embeddings",
        json!({ "model": "head", "input": "a" }),
    )
    .await;
    assert_eq!(refusal.0, "unsupported_operation");

    let mut input = rerank;
    input.as_object_mut().unwrap().remove("model");
    let job = json!({ "model_id": "head", "operation": "rerank", "input": input });
    let job = client.ask("/api/mcp/jobs", &job).await;
    let path = format!(
        "/api/mcp/jobs/{}?wait_ms=30000",
        job["job_id"].as_str().unwrap()
    );
    let job = client.look(&path).await;
    assert_eq!(job["result"]["results"][0]["index"], 0, "{job}");
}

#[tokio::test]
async fn engine_options_reach_the_engine_and_wrong_ones_are_refused_by_name() {
    let Some(home) = real() else { return };
    let server = home.start().await;
    let client = server.client();
    for (options, param) in [
        (json!({ "kv_type": "q3_0" }), "options.kv_type"),
        (json!({ "kvtype": "f16" }), "options.kvtype"),
        (json!({ "threads": 0 }), "options.threads"),
    ] {
        let body = json!({ "model_path": "SmolLM2-135M-Instruct-Q4_1", "model_id": "wrong", "options": options });
        let refusal = refused(&client, "/v1/models/load", body).await;
        assert_eq!(refusal, ("invalid_value".to_owned(), param.to_owned()));
    }
    let body = json!({ "model_path": "SmolLM2-135M-Instruct-Q4_1", "model_id": "m", "context_length": 1024 });
    let half = client.ask("/v1/models/load?dry_run=true", &body).await;
    let mut small = body;
    small["options"] = json!({ "kv_type": "q4_0", "threads": 1, "gpu_layers": 0 });
    let quarter = client.ask("/v1/models/load?dry_run=true", &small).await;
    assert!(
        half["needed_bytes"].as_u64() > quarter["needed_bytes"].as_u64(),
        "{half} {quarter}"
    );
    client.ask("/v1/models/load", &small).await;
}
