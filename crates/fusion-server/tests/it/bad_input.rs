//! Every way to ask wrongly, with the answer that the contract has for it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{client::chat, server::Home};

#[tokio::test]
async fn every_bad_request_gets_its_code() {
    let home = Home::new()
        .fake("echo", "lm", &[])
        .fake("vectors", "embeddings", &[]);
    let server = home.start().await;
    let client = server.client();
    let message = json!([{ "role": "user", "content": "hi" }]);
    let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "data:," } }] }]);
    let many_stops = vec!["x"; 10_000];
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (
            "/v1/chat/completions",
            json!({ "messages": message }),
            400,
            "missing_field",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo" }),
            400,
            "missing_field",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": [] }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": "hi" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": 7, "messages": message }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": [{ "role": "king", "content": "" }] }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "temperature": "hot" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "temperature": 9 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "max_tokens": -1 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "ecco", "messages": message }),
            404,
            "model_not_found",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "vectors", "messages": message }),
            400,
            "unsupported_operation",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "n": 0 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "n": 17 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "n": 1_000_000_000 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "n": 4_294_967_297_u64 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "n": "two" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "tools": [{}] }),
            400,
            "missing_field",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "tool_choice": "required" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "tool_choice": { "type": "function", "function": { "name": "f" } } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "tools": [{ "type": "function", "function": { "name": "no spaces" } }] }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "logprobs": true, "top_logprobs": 21 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "top_logprobs": 2 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "logit_bias": { "word": 1 } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "logit_bias": { "1": 101 } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "stop": many_stops }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "stop": "" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "max_tokens": 1e30 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "seed": -1 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "top_p": 1.5 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "repetition_penalty": 0 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "response_format": { "type": "xml" } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "response_format": { "type": "json_schema" } }),
            400,
            "missing_field",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": message, "logit_bias": { "the": 1 } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/chat/completions",
            json!({ "model": "echo", "messages": image }),
            400,
            "invalid_value",
        ),
        (
            "/v1/embeddings",
            json!({ "model": "vectors", "input": [] }),
            400,
            "invalid_value",
        ),
        (
            "/v1/embeddings",
            json!({ "model": "echo", "input": "hi" }),
            400,
            "unsupported_operation",
        ),
        (
            "/v1/embeddings",
            json!({ "model": "vectors", "input": { "a": 1 } }),
            400,
            "invalid_value",
        ),
        (
            "/v1/models/load",
            json!({ "model_path": "" }),
            400,
            "invalid_value",
        ),
        (
            "/v1/models/load",
            json!({ "model_path": "owner/unknown" }),
            404,
            "model_not_found",
        ),
        (
            "/v1/models/load",
            json!({ "model_path": "echo", "model_type": "song" }),
            400,
            "invalid_value",
        ),
        ("/v1/completions", json!({}), 400, "missing_field"),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": [] }),
            400,
            "invalid_value",
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "a", "n": 17 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "a", "best_of": 3 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "a", "logprobs": 21 }),
            400,
            "invalid_value",
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "a", "logprobs": 1, "echo": true }),
            400,
            "invalid_value",
        ),
        (
            "/v1/completions",
            json!({ "model": "echo", "prompt": "a", "max_tokens": 0 }),
            400,
            "invalid_value",
        ),
        (
            "/api/rag/query",
            json!({ "query": "hi", "wrong": 1 }),
            400,
            "unknown_field",
        ),
        (
            "/api/rag/query",
            json!({ "query": "hi", "collection": "nowhere" }),
            404,
            "collection_not_found",
        ),
        (
            "/api/rag/query",
            json!({ "query": "", "collection": "nowhere" }),
            400,
            "invalid_value",
        ),
        (
            "/api/rag/ingest",
            json!({ "documents": [] }),
            400,
            "invalid_value",
        ),
        (
            "/api/fusion/orchestrate",
            json!({ "workflow": "nothing", "input": {} }),
            404,
            "workflow_not_found",
        ),
        (
            "/api/fusion/orchestrate",
            json!({ "workflow": "best_of_n", "input": {} }),
            501,
            "not_implemented",
        ),
        (
            "/api/mcp/jobs",
            json!({ "operation": "dance", "input": {} }),
            400,
            "invalid_value",
        ),
        (
            "/api/mcp/jobs",
            json!({ "operation": "chat", "model_id": "ecco", "input": { "messages": message } }),
            404,
            "model_not_found",
        ),
        (
            "/api/mcp/jobs",
            json!({ "operation": "chat", "model_id": "echo", "input": { "messages": [] } }),
            400,
            "invalid_value",
        ),
        (
            "/api/mcp/jobs",
            json!({ "operation": "chat", "model_id": "echo", "input": { "messages": message }, "callback_url": "http://10.0.0.1/" }),
            400,
            "url_not_allowed",
        ),
        (
            "/api/mcp/webhook",
            json!({ "url": "ftp://example.com/", "events": ["job.completed"] }),
            400,
            "url_not_allowed",
        ),
        (
            "/api/mcp/webhook",
            json!({ "url": "http://127.0.0.1/", "events": ["job.danced"] }),
            400,
            "invalid_value",
        ),
        ("/nowhere", json!({}), 404, "not_found"),
    ];
    for (path, body, status, code) in cases {
        let (found_status, answer) = client.post(path, &body).await;
        let found = (
            found_status.as_u16(),
            answer["error"]["code"].as_str().unwrap_or_default(),
        );
        assert_eq!(found, (status, code), "{path} {body} answered {answer}");
        assert!(
            answer["error"]["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{path} {body}"
        );
        assert!(answer["error"]["type"].is_string());
    }
    client
        .ask("/v1/chat/completions", &chat("echo", "still here", false))
        .await;
}

#[tokio::test]
async fn bytes_that_are_not_a_request() {
    let home = Home::new().fake("echo", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    for body in [
        &b"{"[..],
        b"\xff\xfe\xfd",
        b"",
        b"[1,2",
        b"{\"model\":\"echo\",\"messages\":[{\"role\":\"user\",\"content\":\"\xc3\x28\"}]}",
    ] {
        let request = client
            .http()
            .post(client.url("/v1/chat/completions"))
            .header("content-type", "application/json");
        let answer = request.body(body.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            answer.json::<Value>().await.unwrap()["error"]["code"],
            "invalid_json",
            "{body:?}"
        );
    }
    let answer = client
        .http()
        .request(Method::PUT, client.url("/v1/chat/completions"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["error"]["code"],
        "method_not_allowed"
    );
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_and_leave_no_mark() {
    let home = Home::new().fake("echo", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    let body = vec![b'a'; 100_000_000];
    let answer = client
        .http()
        .post(client.url("/v1/chat/completions"))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["error"]["code"],
        "file_too_large"
    );
    client
        .ask("/v1/chat/completions", &chat("echo", "still here", false))
        .await;
}

#[tokio::test]
async fn a_feature_that_is_off_says_so() {
    let home = Home::new().argument("enable-rag", "false");
    let server = home.start().await;
    let (status, answer) = server.client().get("/api/rag/collections").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::NOT_FOUND, &"feature_disabled".into())
    );
}
