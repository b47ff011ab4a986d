//! The whole path on real weights. Skipped, and said so, where they haven't been fetched (`make models`).

use std::fs;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    client::{Client, chat, content},
    receiver::Receiver,
    server::Home,
};

const SMOL: &str = "SmolLM2-135M-Instruct-Q4_1";
const MINILM: &str = "all-MiniLM-L6-v2";

/// A home over the real models, or a word on why the test doesn't run.
fn home() -> Option<Home> {
    let home = Home::with_real_models();
    if home.is_none() {
        println!("SKIPPED: the models have not been fetched; run `make models`");
    }
    home
}

fn greedy(text: &str, most: u32) -> Value {
    let mut body = chat(SMOL, text, true);
    body["temperature"] = 0.into();
    body["max_tokens"] = most.into();
    body
}

#[tokio::test]
async fn the_capital_of_france_is_paris() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    // Under its template's own system message this model, so strongly quantized, answers with the Marseillaise, as it does in
    // llama-server too.
    let mut body = greedy("Name the capital of France.", 40);
    let system = json!({ "role": "system", "content": "You are a helpful assistant." });
    body["messages"].as_array_mut().unwrap().insert(0, system);
    let events = server.client().stream(&body).await.rest().await;
    assert!(content(&events).contains("Paris"), "{events:?}");
    assert!(events.len() > 5, "it came as a stream");
    assert_eq!(events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn eight_streams_at_once_all_finish() {
    let Some(home) = home() else { return };
    let home = home.argument("concurrency", "8");
    let server = home.start().await;
    let client = server.client();
    let bodies: Vec<_> = (0..8)
        .map(|number| greedy(&format!("Count to {number}."), 24))
        .collect();
    let streams = bodies
        .iter()
        .map(|body| async { client.stream(body).await.rest().await });
    for events in futures::future::join_all(streams).await {
        assert_eq!(events.last().unwrap(), "[DONE]");
    }
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    let body = json!({ "model_path": SMOL, "model_id": "short", "context_length": 256 });
    client.ask("/v1/models/load", &body).await;
    let (status, answer) = client
        .post(
            "/v1/chat/completions",
            &chat("short", &"word ".repeat(400), false),
        )
        .await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (400, &"context_length_exceeded".into()),
        "{answer}"
    );
    let (status, answer) = client
        .post(
            "/v1/embeddings",
            &json!({ "model": MINILM, "input": "word ".repeat(600) }),
        )
        .await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (400, &"context_length_exceeded".into()),
        "{answer}"
    );
}

#[tokio::test]
async fn files_that_are_not_what_they_say_are_refused_and_harm_nothing() {
    let Some(home) = home() else { return };
    let folder = home.path().to_path_buf();
    let whole = fs::read(home.models_dir().join(format!("{SMOL}.gguf"))).unwrap();
    let truncated = folder.join("truncated.gguf");
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let corrupt = folder.join("corrupt.gguf");
    let mut bytes = whole[..1 << 20].to_vec();
    bytes[8..4096].iter_mut().for_each(|byte| *byte ^= 0x5a);
    fs::write(&corrupt, bytes).unwrap();
    let text = folder.join("text.gguf");
    fs::write(&text, "I am not a model").unwrap();
    let untokenized = folder.join("untokenized");
    copy_folder(
        &home.models_dir().join(MINILM),
        &untokenized,
        "tokenizer.json",
    );

    let server = home.start().await;
    let client = server.client();
    for (path, kind) in [
        (truncated, "lm"),
        (corrupt, "lm"),
        (text, "lm"),
        (untokenized, "embeddings"),
    ] {
        let body = json!({ "model_path": path, "model_type": kind });
        let (status, answer) = client.post("/v1/models/load", &body).await;
        assert_eq!(
            (status.as_u16(), &answer["error"]["code"]),
            (400, &"invalid_value".into()),
            "{path:?}: {answer}"
        );
    }
    client.look("/health").await;
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path, without: &str) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target, without);
        } else if entry.file_name() != without {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn ingest(client: &Client) {
    let documents = json!([
        { "id": "doc-eiffel", "text": "The Eiffel Tower stands in Paris. It was finished in 1889 and is 330 metres tall." },
        { "id": "doc-whale", "text": "The blue whale is the largest animal that has ever lived. It eats tiny krill." },
        { "id": "doc-bread", "text": "Bread is made of flour, water, salt and yeast. It is baked in a hot oven." },
    ]);
    let body = json!({ "collection": "facts", "documents": documents, "embedding_model": MINILM });
    let report = client.ask("/api/rag/ingest", &body).await;
    assert_eq!(report["documents_ingested"], 3, "{report}");
}

#[tokio::test]
async fn answers_over_documents_with_sources_a_trace_and_a_signed_job() {
    let Some(home) = home() else { return };
    let home = home.argument("webhook-secret", "whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ=");
    let server = home.start().await;
    let client = server.client();
    ingest(&client).await;

    let query = json!({ "query": "Which animal is the biggest?", "collection": "facts", "top_k": 2, "model_id": SMOL });
    let answer = client.ask("/api/rag/query", &query).await;
    assert_eq!(answer["sources"][0]["document_id"], "doc-whale", "{answer}");

    let workflow = json!({
        "workflow": "rag_with_rerank",
        "input": { "query": "How tall is the tower in Paris?", "collection": "facts", "top_k": 2 },
        "models": { "generation": SMOL },
    });
    let run = client.ask("/api/fusion/orchestrate", &workflow).await;
    assert_eq!(run["status"], "completed", "{run}");
    assert_eq!(run["result"]["sources"][0]["document_id"], "doc-eiffel");
    assert_eq!(run["execution_trace"].as_array().unwrap().len(), 3);

    let mut receiver = Receiver::start().await;
    let job = json!({ "operation": "workflow", "input": workflow, "callback_url": receiver.url });
    let (status, accepted) = client.post("/api/mcp/jobs", &job).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let call = receiver.next().await;
    assert!(call.is_signed_with("whsec_c2VjcmV0IHNlY3JldCBzZWNyZXQ="));
    assert_eq!(call.json()["job"]["status"], "completed", "{}", call.json());
    assert_eq!(
        call.json()["job"]["result"]["result"]["sources"][0]["document_id"],
        "doc-eiffel"
    );
}

#[tokio::test]
async fn unloading_gives_memory_back() {
    let Some(home) = home() else { return };
    let server = home.start().await;
    let client = server.client();
    let loaded = client
        .ask("/v1/models/load", &json!({ "model_path": SMOL }))
        .await;
    assert!(
        loaded["vram_usage_bytes"].as_u64().unwrap() > 90_000_000,
        "{loaded}"
    );
    let (status, freed) = client.delete(&format!("/v1/models/{SMOL}/unload")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(freed["vram_freed_bytes"], loaded["vram_usage_bytes"]);
    assert_eq!(client.look("/health").await["models"]["loaded_count"], 0);
}
