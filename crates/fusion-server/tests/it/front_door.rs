//! Whatever is posted, the answer is the contract's: never a fault of the server's own, never another shape.
//!
//! `FUZZ_CASES` says how many bodies each route gets (`make fuzz`: many).

use std::cell::Cell;

use fusion_types::error::{ErrorBody, ErrorCode};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    client::Client,
    hostile,
    server::{Home, Server},
};

const NAMES: &[&str] = &[
    "model",
    "messages",
    "role",
    "user",
    "content",
    "type",
    "text",
    "max_tokens",
    "temperature",
    "stream",
    "stop",
    "n",
    "input",
    "encoding_format",
    "base64",
    "dimensions",
    "query",
    "documents",
    "top_n",
    "return_documents",
    "model_path",
    "model_type",
    "model_id",
    "context_length",
    "priority",
    "high",
    "pinned",
    "ttl_seconds",
    "concurrency",
    "auto",
    "engine",
    "replicas",
    "aliases",
    "options",
    "metadata",
    "operation",
    "chat",
    "embed",
    "rerank",
    "rag_query",
    "workflow",
    "callback_url",
    "idempotency_key",
    "run_at",
    "timeout_ms",
    "max_attempts",
    "depends_on",
    "group",
    "collection",
    "collections",
    "top_k",
    "rerank",
    "filter",
    "mode",
    "hybrid",
    "similarity_threshold",
    "generation_config",
    "include_sources",
    "url",
    "events",
    "secret",
    "job.completed",
    "echo",
    "vectors",
    "rag_with_rerank",
    "config",
    "prompt",
    "id",
    "response_format",
    "tools",
    "tool_choice",
    "embedding_model",
    "echo:x",
    "workflow:x",
    "../x",
    "/",
    "",
];

/// Each route with a body that it takes.
fn routes() -> Vec<(&'static str, Value)> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let chat = json!({ "model": "echo", "messages": messages, "max_tokens": 3, "temperature": 0.5, "stop": ["x"], "seed": 1 });
    let job = json!({
        "model_id": "echo", "operation": "chat", "input": { "messages": messages }, "priority": "high", "metadata": { "a": 1 },
        "timeout_ms": 1000, "max_attempts": 1,
    });
    vec![
        ("/v1/chat/completions", chat),
        (
            "/v1/embeddings",
            json!({ "model": "vectors", "input": ["a"], "encoding_format": "float" }),
        ),
        (
            "/v1/rerank",
            json!({ "model": "vectors", "query": "q", "documents": ["a", { "text": "b" }], "top_n": 1 }),
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "once", "max_tokens": 3 }),
        ),
        (
            "/v1/models/load",
            json!({
                "model_path": "echo", "model_type": "lm", "context_length": 512, "priority": "low", "pinned": false, "ttl_seconds": 60,
                "concurrency": 2, "engine": "fake-engine", "options": { "tokens": 3 }, "aliases": ["e"], "metadata": {},
            }),
        ),
        (
            "/v1/models/load?dry_run=true",
            json!({ "model_path": "echo", "engine": "fake-engine" }),
        ),
        ("/v1/models/echo/warmup", json!({ "prompt": "hi" })),
        ("/api/mcp/jobs", job),
        (
            "/api/mcp/webhooks",
            json!({ "url": "http://127.0.0.1:9/x", "events": ["job.completed"], "metadata": {} }),
        ),
        (
            "/api/rag/query",
            json!({
                "query": "q", "collection": "c", "top_k": 2, "model_id": "echo", "mode": "hybrid", "include_sources": true,
                "generation_config": { "max_tokens": 3 },
            }),
        ),
        (
            "/api/rag/search",
            json!({ "query": "q", "collections": ["c"], "top_k": 2, "similarity_threshold": 0.1 }),
        ),
        (
            "/api/rag/ingest",
            json!({ "collection": "c", "documents": [{ "id": "d", "text": "one two", "metadata": {} }] }),
        ),
        (
            "/api/rag/collections",
            json!({ "name": "c", "embedding_model": "vectors", "metadata": {} }),
        ),
        (
            "/api/fusion/orchestrate",
            json!({ "workflow": "rag_with_rerank", "input": { "query": "q", "collection": "c" } }),
        ),
        (
            "/api/fusion/compose",
            json!({ "name": "w", "steps": [{ "type": "model_call", "model_id": "echo", "input": "x" }] }),
        ),
        ("/api/fusion/route", json!({ "capability": "chat" })),
    ]
}

fn cases() -> u32 {
    let named = std::env::var("FUZZ_CASES").ok();
    named.map_or(40, |count| count.parse().unwrap())
}

/// The contract's shape, with the status and the type that go with the code.
fn check(status: StatusCode, text: &str) -> Result<(), TestCaseError> {
    if status.is_success() {
        return Ok(());
    }
    let body: ErrorBody = serde_json::from_str(text)
        .map_err(|error| TestCaseError::fail(format!("{status} {text:?}: {error}")))?;
    let code = body.error.code.as_deref().and_then(ErrorCode::parse);
    let code = code.ok_or_else(|| TestCaseError::fail(format!("a code of its own: {text}")))?;
    prop_assert_eq!(code.status(), status.as_u16(), "{}", text);
    prop_assert_eq!(code.kind(), &body.error.kind, "{}", text);
    prop_assert!(code != ErrorCode::InternalError, "{}", text);
    Ok(())
}

async fn post(client: &Client, path: &str, body: Vec<u8>) -> (StatusCode, String) {
    let request = client.http().post(client.url(path)).body(body);
    let request = request.header("content-type", "application/json");
    let answer = request.send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn started() -> (Home, Server) {
    let home = Home::new()
        .fake("echo", "lm", &[("tokens", "3")])
        .fake("vectors", "embeddings", &[])
        .argument("queue-timeout", "5");
    let server = home.start().await;
    (home, server)
}

#[test]
fn every_route_answers_for_whatever_is_posted() {
    let runtime = Runtime::new().unwrap();
    let (_home, mut server) = runtime.block_on(started());
    let client = server.client();
    let answered = Cell::new(0_u32);
    for (path, good) in routes() {
        let body = prop_oneof![
            1 => hostile::json(NAMES).prop_map(|body| body.to_string().into_bytes()),
            4 => hostile::spoiled(good, NAMES).prop_map(|body| body.to_string().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ];
        // Where it fails, the smallest body that does is told; nothing is kept for the next time.
        let mut runner = TestRunner::new(Config {
            cases: cases(),
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        });
        let outcome = runner.run(&body, |body| {
            let (status, text) = runtime.block_on(post(&client, path, body));
            answered.set(answered.get() + 1);
            check(status, &text)
        });
        if let Err(error) = outcome {
            panic!("{path}: {error}");
        }
    }
    assert!(answered.get() >= cases() * 16);
    let health = runtime.block_on(client.look("/health"));
    assert_eq!(health["status"], "ok");
    runtime.block_on(server.child.kill()).unwrap();
}
