//! What is told of a model's work.

use serde_json::json;

use crate::{client::chat, server::Home};

#[tokio::test]
async fn a_model_s_work_is_counted_and_timed() {
    let options = [("tokens", "5"), ("delay_ms", "10")];
    let home = Home::new().fake("m", "lm", &options);
    let server = home.start().await;
    let client = server.client();
    let before = client.look("/v1/models/m/stats").await;
    assert_eq!(before["latency_p99_ms"], json!(null));
    for _ in 0..4 {
        client
            .ask("/v1/chat/completions", &chat("m", "one two", false))
            .await;
    }
    let stats = client.look("/v1/models/m/stats").await;
    assert_eq!(
        (&stats["request_count"], &stats["window"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(stats["tokens_out"], 20);
    let number = |name: &str| stats[name].as_f64().unwrap();
    assert!(number("latency_p50_ms") >= 40.0);
    assert!(number("latency_p50_ms") <= number("latency_p95_ms"));
    assert!(number("latency_p95_ms") <= number("latency_p99_ms"));
    assert!(number("ttft_p50_ms") < number("latency_p50_ms"));
    assert!(number("tokens_per_second_avg") > 1.0);

    let metrics = client
        .http()
        .get(client.url("/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        "fusiond_model_requests_total{model=\"m\"} 4",
        "fusiond_model_completion_tokens_total{model=\"m\"} 20",
        "fusiond_model_first_token_duration_seconds_count{model=\"m\"} 4",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn warming_up_loads_the_model_and_runs_it_once() {
    let home = Home::new().fake("m", "lm", &[("tokens", "5")]);
    let server = home.start().await;
    let client = server.client();
    let warmed = client
        .ask("/v1/models/m/warmup", &json!({ "prompt": "be ready" }))
        .await;
    assert_eq!(
        (&warmed["model_id"], &warmed["status"]),
        (&json!("m"), &json!("warmed"))
    );
    assert!(warmed["warmup_time_ms"].as_u64().unwrap() > 0);
    let info = client.look("/v1/models/m/info").await;
    assert_eq!(
        (&info["status"], &info["request_count"]),
        (&json!("loaded"), &json!(1))
    );
    let (status, _) = client.post("/v1/models/x/warmup", &json!({})).await;
    assert_eq!(status, 404);

    // The configuration names the model: it is unloaded, and stays known.
    let (status, left) = client.delete("/v1/models/m").await;
    assert_eq!((status.as_u16(), &left["deleted"]), (200, &json!(false)));
    assert_eq!(left["status"], "unloaded");
    assert_eq!(client.look("/v1/models/m").await["status"], "unloaded");
    let (status, refused) = client.delete("/v1/models/m?files=true").await;
    assert_eq!(
        (status.as_u16(), &refused["error"]["code"]),
        (409, &json!("model_in_use"))
    );
}
