//! `/v1/batches`: answers like the routes', over kills, cancellations and windows.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    client::Client,
    files::{content, upload},
    server::{DEADLINE, Home},
};

const CHAT: &str = "/v1/chat/completions";

fn line(custom_id: &str, url: &str, body: &Value) -> String {
    let line = json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body});
    format!("{line}\n")
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

fn chats(model: &str, count: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        text += &line(&format!("line-{n}"), CHAT, &chat(model));
        text
    })
}

async fn submit(client: &Client, url: &str, text: String) -> String {
    let input = upload(client, text).await;
    let body = json!({
        "input_file_id": input,
        "endpoint": url,
        "completion_window": "24h",
        "metadata": {"run": "nightly"},
    });
    let batch = client.ask("/v1/batches", &body).await;
    assert_eq!(batch["object"], "batch");
    assert_eq!(batch["status"], "validating");
    batch["id"].as_str().unwrap().to_owned()
}

async fn until(client: &Client, id: &str, at_most: Duration, holds: fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let batch = client.look(&format!("/v1/batches/{id}")).await;
        if holds(&batch) {
            return batch;
        }
        assert!(begun.elapsed() < at_most, "it never came to this: {batch}");
        tokio::time::sleep(at_most / 1000).await;
    }
}

fn has_ended(batch: &Value) -> bool {
    ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap())
}

async fn ended(client: &Client, id: &str) -> Value {
    until(client, id, DEADLINE, has_ended).await
}

/// The lines of a file by their ids, each of which is there once.
async fn lines(client: &Client, file: &Value) -> HashMap<String, Value> {
    let Some(file) = file.as_str() else {
        return HashMap::new();
    };
    let mut found = HashMap::new();
    for line in content(client, file).await.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let id = line["custom_id"].as_str().unwrap().to_owned();
        assert!(found.insert(id, line).is_none(), "a line is there twice");
    }
    found
}

/// Answers and the rest; together every line once.
async fn outcomes(
    client: &Client,
    batch: &Value,
) -> (HashMap<String, Value>, HashMap<String, Value>) {
    let output = lines(client, &batch["output_file_id"]).await;
    let errors = lines(client, &batch["error_file_id"]).await;
    assert!(output.keys().all(|id| !errors.contains_key(id)));
    let counts = &batch["request_counts"];
    assert_eq!(counts["total"], output.len() + errors.len(), "{batch}");
    assert_eq!(counts["completed"], output.len());
    assert_eq!(counts["failed"], errors.len());
    (output, errors)
}

/// Without what differs between two answers to the same request.
fn lasting(mut answer: Value) -> Value {
    for field in ["id", "created", "request_id"] {
        answer.as_object_mut().unwrap().remove(field);
    }
    answer
}

/// Numbers as the `f32` that they are of, however many digits they were written with.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!(number.as_f64().unwrap() as f32),
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, rounded(value)))
            .collect(),
        other => other,
    }
}

#[tokio::test]
async fn a_line_is_answered_as_its_route_would() {
    let home =
        Home::new()
            .fake("echo", "lm", &[("tokens", "3")])
            .fake("vectors", "embeddings", &[]);
    let server = home.start().await;
    let client = server.client();
    let mut with_logprobs = chat("echo");
    with_logprobs["logprobs"] = true.into();
    with_logprobs["top_logprobs"] = 1.into();
    let mut twice = chat("echo");
    twice["n"] = 2.into();
    let cases = [
        (CHAT, chat("echo")),
        (CHAT, with_logprobs),
        (CHAT, twice),
        (
            "/v1/completions",
            json!({"model": "echo", "prompt": ["One,", "Three, four,"], "n": 2}),
        ),
        (
            "/v1/completions",
            json!({"model": "echo", "prompt": "One, two,", "max_tokens": 2}),
        ),
        (
            "/v1/completions",
            json!({"model": "echo", "prompt": "One,", "logprobs": 1}),
        ),
        (
            "/v1/embeddings",
            json!({"model": "vectors", "input": ["one", "two"]}),
        ),
        (
            "/v1/embeddings",
            json!({"model": "vectors", "input": "one", "dimensions": 8, "encoding_format": "base64"}),
        ),
    ];
    for (url, body) in cases {
        let expected = client.ask(url, &body).await;
        let id = submit(&client, url, line("only", url, &body)).await;
        let batch = ended(&client, &id).await;
        assert_eq!(batch["status"], "completed", "{batch}");
        assert_eq!(batch["metadata"], json!({"run": "nightly"}));
        assert_eq!(batch["error_file_id"], Value::Null);
        let (output, _) = outcomes(&client, &batch).await;
        let answer = &output["only"];
        assert!(answer["id"].as_str().unwrap().starts_with("batch_req_"));
        assert_eq!(answer["error"], Value::Null);
        let response = &answer["response"];
        assert_eq!(response["status_code"], 200);
        let body = &response["body"];
        if url != "/v1/embeddings" {
            assert_eq!(body["request_id"], response["request_id"]);
        }
        // An engine that has read a prompt before says so.
        let mut expected = lasting(expected);
        expected["usage"] = body["usage"].clone();
        assert_eq!(rounded(lasting(body.clone())), rounded(expected), "{url}");
    }
    let listed = client.look("/v1/batches?limit=4").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 4);
    assert_eq!(listed["has_more"], true);
    let after = listed["last_id"].as_str().unwrap();
    let rest = client.look(&format!("/v1/batches?after={after}")).await;
    assert_eq!(rest["data"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_bad_input_fails_with_its_lines_and_a_bad_request_at_once() {
    let home = Home::new().fake("echo", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    let mut text = line("good", CHAT, &chat("echo"));
    text += "{\"custom_id\":\n";
    text += &line("good", CHAT, &chat("echo"));
    text += &line("url", "/v1/embeddings", &chat("echo"));
    text += &line("model", CHAT, &chat("nobody"));
    let mut hot = chat("echo");
    hot["temperature"] = 3.into();
    text += &line("temperature", CHAT, &hot);
    let id = submit(&client, CHAT, text).await;
    let batch = ended(&client, &id).await;
    assert_eq!(batch["status"], "failed", "{batch}");
    assert_eq!(batch["errors"]["object"], "list");
    let errors: Vec<_> = batch["errors"]["data"].as_array().unwrap().iter().collect();
    let told = |error: &Value| {
        (
            error["line"].as_u64(),
            error["code"].as_str().unwrap().to_owned(),
        )
    };
    let expected = [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "url_mismatch"),
        (5, "model_not_found"),
        (6, "invalid_value"),
    ];
    let expected = expected.map(|(line, code)| (Some(line), code.to_owned()));
    assert_eq!(
        errors.iter().map(|error| told(error)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(errors[3]["param"], "body.model");
    assert_eq!(errors[4]["param"], "body.temperature");
    assert!(
        errors[4]["message"]
            .as_str()
            .unwrap()
            .contains("temperature")
    );

    let refused = [
        (json!({"endpoint": CHAT, "completion_window": "24h"}), 400),
        (
            json!({"endpoint": "/v1/rerank", "completion_window": "24h", "input_file_id": "file-1"}),
            400,
        ),
        (
            json!({"endpoint": CHAT, "completion_window": "24h", "input_file_id": "file-1"}),
            404,
        ),
    ];
    for (body, status) in refused {
        let (answered, body) = client.post("/v1/batches", &body).await;
        assert_eq!(answered.as_u16(), status, "{body}");
    }
    let (status, missing) = client.get("/v1/batches/batch_1").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(missing["error"]["code"], "batch_not_found");
}

#[tokio::test]
async fn a_batch_is_cancelled_midway() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "20"), ("delay_ms", "10")]);
    let server = home.start().await;
    let client = server.client();
    let id = submit(&client, CHAT, chats("slow", 300)).await;
    until(&client, &id, DEADLINE, |batch| {
        batch["request_counts"]["completed"].as_u64().unwrap() > 2
    })
    .await;
    let batch = client
        .ask(&format!("/v1/batches/{id}/cancel"), &json!({}))
        .await;
    assert_eq!(batch["status"], "cancelling");
    let input = batch["input_file_id"].as_str().unwrap().to_owned();
    let (status, in_use) = client.delete(&format!("/v1/files/{input}")).await;
    assert_eq!(
        (status, &in_use["error"]["code"]),
        (StatusCode::CONFLICT, &"file_in_use".into())
    );
    let batch = ended(&client, &id).await;
    assert_eq!(batch["status"], "cancelled", "{batch}");
    let (output, errors) = outcomes(&client, &batch).await;
    assert!(output.len() > 2 && output.len() < 300, "{}", output.len());
    assert_eq!(output.len() + errors.len(), 300);
    assert!(
        errors
            .values()
            .all(|line| line["error"]["code"] == "batch_cancelled")
    );
    let (status, _) = client.delete(&format!("/v1/files/{input}")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn every_line_is_answered_once_over_killed_servers() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "5"), ("delay_ms", "2")]);
    let server = home.start().await;
    let count = 1_200;
    let id = submit(&server.client(), CHAT, chats("slow", count)).await;
    server.kill().await;
    for round in 1..6 {
        let server = home.start().await;
        let client = server.client();
        client.look(&format!("/v1/batches/{id}")).await;
        // Now in the middle of feeding, now in the middle of the work.
        tokio::time::sleep(Duration::from_millis(150 * round * round)).await;
        server.kill().await;
    }
    let server = home.start().await;
    let client = server.client();
    let batch = ended(&client, &id).await;
    assert_eq!(batch["status"], "completed", "{batch}");
    let (output, errors) = outcomes(&client, &batch).await;
    assert_eq!((output.len(), errors.len()), (count, 0));
    let jobs = client
        .look(&format!("/api/mcp/jobs?group={id}&limit=1"))
        .await;
    assert_eq!(jobs["total"], count);
}

#[tokio::test]
async fn what_is_not_done_within_the_window_expires() {
    let home = Home::new()
        .fake("slow", "lm", &[("tokens", "20"), ("delay_ms", "20")])
        .configured("[batches]\nwindow_seconds = 3");
    let server = home.start().await;
    let client = server.client();
    let id = submit(&client, CHAT, chats("slow", 500)).await;
    let batch = ended(&client, &id).await;
    assert_eq!(batch["status"], "expired", "{batch}");
    let (output, errors) = outcomes(&client, &batch).await;
    assert!(!output.is_empty());
    assert!(errors.values().all(|line| {
        line["error"]["code"] == "batch_expired" && line["response"] == Value::Null
    }));
}

#[tokio::test]
async fn somebody_who_waits_goes_first() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "10"), ("delay_ms", "10")]);
    let server = home.start().await;
    let client = server.client();
    let id = submit(&client, CHAT, chats("slow", 400)).await;
    until(&client, &id, DEADLINE, |batch| {
        batch["request_counts"]["completed"].as_u64().unwrap() > 0
    })
    .await;
    let job = json!({"operation": "chat", "model_id": "slow", "input": {"messages": chat("")["messages"]}});
    let job = client.ask("/api/mcp/jobs", &job).await;
    client.ask(CHAT, &chat("slow")).await;
    let job = job["job_id"].as_str().unwrap();
    let job = client
        .look(&format!("/api/mcp/jobs/{job}?wait_ms=20000"))
        .await;
    assert_eq!(job["status"], "completed");
    let batch = client.look(&format!("/v1/batches/{id}")).await;
    let completed = batch["request_counts"]["completed"].as_u64().unwrap();
    assert!(completed < 300, "{completed} lines were done before");
}

#[tokio::test]
#[ignore = "takes minutes; says how long each part took, and how much memory the server had"]
async fn fifty_thousand_lines() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "5")]);
    let server = home.start().await;
    let client = server.client();
    let at_most = Duration::from_secs(3600);
    let mut text = String::new();
    for n in 0..50_000 {
        let mut body = chat("echo");
        body["messages"][0]["content"] = format!("Question {n}: {}", "why? ".repeat(40)).into();
        write!(text, "{}", line(&format!("line-{n}"), CHAT, &body)).unwrap();
    }
    let begun = Instant::now();
    println!("{} bytes; at first {}", text.len(), memory(&server));
    let id = submit(&client, CHAT, text).await;
    println!("uploaded after {:?}, {}", begun.elapsed(), memory(&server));
    until(&client, &id, at_most, |batch| {
        batch["status"] != "validating"
    })
    .await;
    println!("checked after {:?}, {}", begun.elapsed(), memory(&server));
    until(&client, &id, at_most, |batch| {
        batch["status"] != "in_progress"
    })
    .await;
    println!("done after {:?}, {}", begun.elapsed(), memory(&server));
    let batch = until(&client, &id, at_most, has_ended).await;
    println!("written after {:?}, {}", begun.elapsed(), memory(&server));
    let (output, _) = outcomes(&client, &batch).await;
    assert_eq!(output.len(), 50_000);
}

/// The server's memory now and at its most.
fn memory(server: &crate::server::Server) -> String {
    let pid = server.child.id().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    format!("{} {}", of("VmRSS"), of("VmHWM"))
}
