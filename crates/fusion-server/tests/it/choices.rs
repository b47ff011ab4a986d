//! Several answers to one request, likelihoods, and text without a chat template.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    client::{Client, chat},
    server::{DEADLINE, Home, until},
};

fn parsed(events: &[String]) -> Vec<Value> {
    let chunks = events.iter().filter(|event| *event != "[DONE]");
    chunks
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

/// The text of each answer, and the places of those that said that they ended.
fn told(chunks: &[Value], text: fn(&Value) -> &Value) -> (BTreeMap<u64, String>, Vec<u64>) {
    let mut texts: BTreeMap<u64, String> = BTreeMap::new();
    let mut finished = Vec::new();
    for choice in chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
    {
        let index = choice["index"].as_u64().unwrap();
        let told = texts.entry(index).or_default();
        told.push_str(text(choice).as_str().unwrap_or_default());
        if choice["finish_reason"] == "stop" {
            finished.push(index);
        }
    }
    finished.sort_unstable();
    (texts, finished)
}

async fn active(client: &Client) -> Value {
    client.look("/v1/queue/stats").await["queue_stats"]["queue_stats"]["active_requests"].clone()
}

#[tokio::test]
async fn more_answers_than_slots_all_come_streamed_and_whole() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "3"), ("delay_ms", "1")]);
    let home = home.argument("concurrency", "2");
    let server = home.start().await;
    let client = server.client();
    let mut body = chat("echo", "one two", false);
    body["n"] = 7.into();
    let whole = client.ask("/v1/chat/completions", &body).await;
    let choices = whole["choices"].as_array().unwrap();
    let indices: Vec<_> = choices
        .iter()
        .map(|choice| choice["index"].clone())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
    assert!(
        choices
            .iter()
            .all(|choice| choice["message"]["content"] == "tok0 tok1 tok2"),
        "{whole}"
    );
    let usage = json!({ "prompt_tokens": 2, "completion_tokens": 21, "total_tokens": 23 });
    assert_eq!(whole["usage"], usage);

    body["stream"] = true.into();
    let events = client.stream(&body).await.rest().await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = parsed(&events);
    let (texts, finished) = told(&chunks, |choice| &choice["delta"]["content"]);
    assert_eq!(finished, [0, 1, 2, 3, 4, 5, 6]);
    assert!(texts.values().all(|text| text == "tok0 tok1 tok2"));
    let roles = chunks
        .iter()
        .filter(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant");
    assert_eq!(roles.count(), 7);
    let usages: Vec<_> = chunks
        .iter()
        .filter(|chunk| !chunk["usage"].is_null())
        .collect();
    assert_eq!(usages.len(), 1);
    assert_eq!(usages[0]["usage"], usage);
    assert_eq!(usages[0], chunks.last().unwrap());
}

#[tokio::test]
async fn a_client_that_leaves_cancels_all_its_answers() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "1000000"), ("delay_ms", "5")]);
    let server = home.start().await;
    let client = server.client();
    let mut body = chat("slow", "hi", true);
    body["n"] = 6.into();
    let mut events = client.stream(&body).await;
    events.next().await.unwrap();
    until("four of six to run", DEADLINE, async || {
        active(&client).await == 4
    })
    .await;
    drop(events);
    until("the return of all slots", DEADLINE, async || {
        let stats = client.look("/v1/queue/stats").await;
        let stats = &stats["queue_stats"]["queue_stats"];
        stats["active_requests"] == 0 && stats["queue_size"] == 0
    })
    .await;
}

#[tokio::test]
async fn every_answer_counts_in_the_queue() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "1000000"), ("delay_ms", "5")]);
    let home = home
        .argument("concurrency", "1")
        .argument("queue-size", "3");
    let server = home.start().await;
    let client = server.client();
    let mut running = client.stream(&chat("slow", "hi", true)).await;
    running.next().await.unwrap();
    let mut body = chat("slow", "hi", false);
    body["n"] = 5.into();
    let (status, answer) = client.post("/v1/chat/completions", &body).await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (429, &"queue_full".into()),
        "{answer}"
    );
    until("an empty queue", DEADLINE, async || {
        client.look("/v1/queue/stats").await["queue_stats"]["queue_stats"]["queue_size"] == 0
    })
    .await;
}

#[tokio::test]
async fn likelihoods_come_in_the_shape_of_each_route() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let server = home.start().await;
    let client = server.client();
    let mut body = chat("echo", "hi", false);
    body["logprobs"] = true.into();
    body["top_logprobs"] = 2.into();
    let answer = client.ask("/v1/chat/completions", &body).await;
    let content = answer["choices"][0]["logprobs"]["content"].clone();
    assert_eq!(content.as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(content[1]["token"], " tok1");
    assert_eq!(content[1]["bytes"], json!([32, 116, 111, 107, 49]));
    let tops = content[1]["top_logprobs"].as_array().unwrap();
    assert_eq!((tops.len(), &tops[1]["token"]), (2, &" tok1'".into()));
    body["stream"] = true.into();
    let chunks = parsed(&client.stream(&body).await.rest().await);
    let streamed: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed.len(), 2);
    assert_eq!(streamed[1]["bytes"], content[1]["bytes"]);
    assert_eq!(streamed[1]["top_logprobs"].as_array().unwrap().len(), 2);

    let body = json!({ "model": "echo", "prompt": "hi", "logprobs": 1 });
    let answer = client.ask("/v1/completions", &body).await;
    let half = f64::from(0.5_f32.ln());
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["tok0", " tok1"]));
    assert_eq!(logprobs["text_offset"], json!([0, 4]));
    let second = logprobs["token_logprobs"][1].as_f64().unwrap();
    assert!((second - half).abs() < 1e-6, "{answer}");
    assert!(logprobs["top_logprobs"][0]["tok0"].is_number(), "{answer}");
}

#[tokio::test]
async fn texts_are_gone_on_with_each_several_times() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let server = home.start().await;
    let client = server.client();
    let body = json!({ "model": "echo", "prompt": ["a b", "c"], "n": 2, "echo": true });
    let answer = client.ask("/v1/completions", &body).await;
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    let texts: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts,
        ["a btok0 tok1", "a btok0 tok1", "ctok0 tok1", "ctok0 tok1"]
    );
    assert_eq!(answer["choices"][3]["finish_reason"], "stop");
    assert_eq!(
        answer["usage"],
        json!({ "prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11 })
    );

    let body = json!({ "model": "echo", "prompt": [7, 8, 9], "max_tokens": 1, "stream": true });
    let answer = client
        .http()
        .post(client.url("/v1/completions"))
        .json(&body)
        .send()
        .await
        .unwrap();
    let text = answer.text().await.unwrap();
    let events: Vec<String> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(str::to_owned)
        .collect();
    let chunks = parsed(&events);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let (texts, finished) = told(&chunks, |choice| &choice["text"]);
    assert_eq!((texts[&0].as_str(), finished), ("tok0", vec![0]));
    assert_eq!(chunks.last().unwrap()["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn a_completion_runs_as_a_job() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let server = home.start().await;
    let client = server.client();
    let job = json!({ "operation": "completion", "model_id": "echo", "input": { "prompt": "hi" } });
    let accepted = client.ask("/api/mcp/jobs", &job).await;
    let path = format!("/api/mcp/jobs/{}", accepted["job_id"].as_str().unwrap());
    let mut job = Value::Null;
    until("the job's end", DEADLINE, async || {
        job = client.look(&path).await;
        job["status"] == "completed"
    })
    .await;
    assert_eq!(job["result"]["content"], "tok0 tok1", "{job}");
    assert_eq!(job["result"]["finish_reason"], "stop");
    assert_eq!(job["result"]["usage"]["total_tokens"], 3);
}
