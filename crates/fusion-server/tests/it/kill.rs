//! ⚡ Processes that are killed, and what must survive that.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use crate::{
    client::chat,
    server::{DEADLINE, Home, is_alive, kill_hard, until},
};

#[tokio::test]
async fn a_killed_engine_ends_its_stream_with_an_error_and_nothing_else() {
    let home = Home::new()
        .fake("slow", "lm", &[("tokens", "200"), ("delay_ms", "10")])
        .fake("other", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    client
        .ask("/v1/chat/completions", &chat("other", "hi", false))
        .await;
    let other = client.pid("other").await;

    let mut events = client.stream(&chat("slow", "hi", true)).await;
    events.next().await.unwrap();
    let first = client.pid("slow").await;
    kill_hard(first);
    let rest = events.rest().await;
    let last: Value =
        serde_json::from_str(rest.last().unwrap()).expect("the last event is an error, not [DONE]");
    assert_eq!(last["error"]["code"], "engine_crashed", "{last}");

    assert_eq!(
        client.pid("other").await,
        other,
        "the other model was not touched"
    );
    let mut short = chat("slow", "hi", false);
    short["max_tokens"] = 2.into();
    let answer = client.ask("/v1/chat/completions", &short).await;
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    assert_ne!(client.pid("slow").await, first);
}

#[tokio::test]
async fn an_engine_that_aborts_or_hangs_is_answered_for() {
    let home = Home::new()
        .fake("crashes", "lm", &[("crash_after", "0")])
        .fake("hangs", "lm", &[("hang_after", "2")])
        .argument("hang-timeout", "1");
    let server = home.start().await;
    let client = server.client();
    for model in ["crashes", "hangs"] {
        let (status, answer) = client
            .post("/v1/chat/completions", &chat(model, "hi", false))
            .await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::BAD_GATEWAY, &"engine_crashed".into()),
            "{model}: {answer}"
        );
    }
    client.look("/health").await;
}

#[tokio::test]
async fn no_engine_outlives_a_killed_server() {
    let home = Home::new()
        .fake("one", "lm", &[])
        .fake("two", "embeddings", &[("hang_after", "0")]);
    let server = home.start().await;
    let client = server.client();
    for model in ["one", "two"] {
        client
            .ask(
                "/v1/models/load",
                &serde_json::json!({ "model_path": model }),
            )
            .await;
    }
    let pids = [client.pid("one").await, client.pid("two").await];
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    server.kill().await;
    until(
        "the end of all engines",
        Duration::from_secs(2),
        async || !pids.iter().any(|&pid| is_alive(pid)),
    )
    .await;
}

#[tokio::test]
async fn a_stopped_server_leaves_no_engine() {
    let home = Home::new().fake("one", "lm", &[]);
    let mut server = home.start().await;
    let client = server.client();
    client
        .ask("/v1/chat/completions", &chat("one", "hi", false))
        .await;
    let pid = client.pid("one").await;
    server.signal(rustix::process::Signal::TERM);
    let ended = tokio::time::timeout(DEADLINE, server.child.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(ended.success());
    assert!(!is_alive(pid));
}
