use serde_json::{Value, json};

use crate::child::FakeEngine;

fn chat(stream: bool) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "one two" }], "stream": stream })
}

#[tokio::test]
async fn streams_deltas_then_finish_and_usage_with_the_last_and_done() {
    let engine = FakeEngine::start(&["tokens=2"]).await;
    assert!(engine.is_ready());
    let body = engine
        .post("/v1/chat/completions", &chat(true))
        .await
        .text()
        .await
        .unwrap();
    let lines: Vec<_> = body
        .split_terminator("\n\n")
        .map(|line| line.strip_prefix("data: ").unwrap())
        .collect();
    let chunks: Vec<Value> = lines[..lines.len() - 1]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.last(), Some(&"[DONE]"));
    assert_eq!(chunks[0]["choices"][0]["delta"]["content"], "tok0");
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"], " tok1");
    assert_eq!(chunks[0]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        chunks[1]["usage"],
        json!({ "prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4 })
    );
}

#[tokio::test]
async fn gathers_an_answer_that_was_not_asked_for_as_a_stream() {
    let engine = FakeEngine::start(&["tokens=2"]).await;
    let answer: Value = engine
        .post("/v1/chat/completions", &chat(false))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        answer["choices"][0]["message"],
        json!({ "role": "assistant", "content": "tok0 tok1" })
    );
}

#[tokio::test]
async fn a_closed_connection_frees_its_slot() {
    let engine = FakeEngine::start(&["tokens=1000000", "delay_ms=5"]).await;
    let mut answer = engine.post("/v1/chat/completions", &chat(true)).await;
    answer.chunk().await.unwrap();
    assert_eq!(engine.stats().await.slots_busy, 1);
    drop(answer);
    engine.idle().await;
}

#[tokio::test]
async fn refuses_more_than_it_has_slots_for() {
    let engine = FakeEngine::start(&["hang_after=0"]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(engine.post("/v1/chat/completions", &chat(true)).await);
    }
    let refused = engine.post("/v1/chat/completions", &chat(true)).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(
        refused.json::<Value>().await.unwrap()["error"]["code"],
        "engine_unavailable"
    );
}

#[tokio::test]
async fn embeddings_are_the_same_in_both_encodings() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let engine = FakeEngine::start(&[]).await;
    let ask = |encoding: &str| json!({ "model": "m", "input": "a b", "encoding_format": encoding });
    let floats: Value = engine
        .post("/v1/embeddings", &ask("float"))
        .await
        .json()
        .await
        .unwrap();
    let packed: Value = engine
        .post("/v1/embeddings", &ask("base64"))
        .await
        .json()
        .await
        .unwrap();
    let bytes = STANDARD
        .decode(packed["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let unpacked: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let floats: Vec<f32> = serde_json::from_value(floats["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(floats, unpacked);
    assert_eq!(floats.len(), 64);
}

#[tokio::test]
async fn bad_bodies_are_told_apart() {
    let engine = FakeEngine::start(&[]).await;
    for (body, code) in [
        ("{", "invalid_json"),
        (r#"{"model":1,"messages":[]}"#, "invalid_value"),
    ] {
        let request = engine
            .client
            .post("http://engine/v1/chat/completions")
            .body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], code);
    }
}
