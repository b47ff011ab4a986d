use reqwest::header::HeaderMap;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{chat, content},
    server::{DEADLINE, Home, until},
};

#[tokio::test]
async fn a_stream_ends_with_usage_and_done() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "3")]);
    let server = home.start().await;
    let client = server.client();

    let events = client
        .stream(&chat("echo", "one two", true))
        .await
        .rest()
        .await;
    let (done, chunks) = events.split_last().unwrap();
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect();
    assert_eq!(done, "[DONE]");
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "tok0" })
    );
    assert_eq!(chunks[0]["model"], "echo");
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        last["usage"],
        json!({ "prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5 })
    );

    let mut apart = chat("echo", "one two", true);
    apart["stream_options"] = json!({ "include_usage": true });
    let events = client.stream(&apart).await.rest().await;
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 5);
}

#[tokio::test]
async fn an_answer_comes_whole_with_its_headers() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let server = home.start().await;
    let client = server.client();

    let request = client
        .http()
        .post(client.url("/v1/chat/completions"))
        .header("x-request-id", "mine-1");
    let answer = request
        .json(&chat("echo", "hi", false))
        .send()
        .await
        .unwrap();
    let headers: HeaderMap = answer.headers().clone();
    assert_eq!(headers["x-request-id"], "mine-1");
    assert_eq!(headers["x-fusion-model"], "echo");
    assert!(
        headers["x-process-time"]
            .to_str()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            > 0.0
    );
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        answer["choices"][0]["message"],
        json!({ "role": "assistant", "content": "tok0 tok1" })
    );
    assert_eq!(answer["request_id"], "mine-1");
}

#[tokio::test]
async fn eight_streams_share_four_slots_and_all_finish() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "20"), ("delay_ms", "1")]);
    let server = home.start().await;
    let client = server.client();
    let body = chat("echo", "hi", true);
    let streams = (0..8).map(|_| async { client.stream(&body).await.rest().await });
    for events in futures::future::join_all(streams).await {
        assert_eq!(events.last().unwrap(), "[DONE]");
        assert!(content(&events).ends_with("tok19"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_slot_back() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "1000000"), ("delay_ms", "5")]);
    let server = home.start().await;
    let client = server.client();
    let mut events = client.stream(&chat("slow", "hi", true)).await;
    events.next().await.unwrap();
    assert_eq!(
        client.look("/v1/queue/stats").await["queue_stats"]["queue_stats"]["active_requests"],
        1
    );
    drop(events);
    until("the slot's return", DEADLINE, async || {
        client.look("/v1/queue/stats").await["queue_stats"]["queue_stats"]["active_requests"] == 0
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_a_running_stream_end() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "50"), ("delay_ms", "10")]);
    let mut server = home.start().await;
    let client = server.client();
    let mut events = client.stream(&chat("slow", "hi", true)).await;
    events.next().await.unwrap();
    server.signal(Signal::TERM);
    let events = events.rest().await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let status = timeout(DEADLINE, server.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success());
}
