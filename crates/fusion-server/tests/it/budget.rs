//! Several models in one budget, by the routes.

use reqwest::StatusCode;
use serde_json::json;

use crate::{client::chat, server::Home};

fn home() -> Home {
    let size = [("estimate_mb", "100"), ("resident_mb", "100")];
    Home::new()
        .fake("a", "lm", &size)
        .fake("b", "lm", &size)
        .fake("c", "lm", &size)
        .argument("max-vram-gb", "0.25")
}

#[tokio::test]
async fn loading_evicts_the_least_recently_used_and_unloading_frees() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    for model in ["a", "b", "a"] {
        client
            .ask("/v1/chat/completions", &chat(model, "hi", false))
            .await;
    }
    let loaded = client
        .ask("/v1/models/load", &json!({ "model_path": "c" }))
        .await;
    assert_eq!(loaded["evicted"], json!(["b"]));
    assert!(loaded["vram_usage_bytes"].as_u64().unwrap() > 100 << 20);
    assert!(loaded["vram_usage_gb"].as_f64().unwrap() >= 0.1);

    let (status, freed) = client.delete("/v1/models/c/unload").await;
    assert_eq!(
        (status, &freed["status"]),
        (StatusCode::OK, &"unloaded".into())
    );
    assert!(freed["vram_freed_bytes"].as_u64().unwrap() > 100 << 20);
    let health = client.look("/health").await;
    assert_eq!(health["models"]["models"], json!(["a"]));
}

#[tokio::test]
async fn what_is_pinned_stays_and_what_does_not_fit_is_refused_with_figures() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    for model in ["a", "b"] {
        client
            .ask(
                "/v1/models/load",
                &json!({ "model_path": model, "pinned": true }),
            )
            .await;
    }
    let (status, refused) = client
        .post("/v1/models/load", &json!({ "model_path": "c" }))
        .await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"insufficient_vram".into()),
        "{refused}"
    );
    let details = &refused["error"]["details"];
    assert_eq!(details["budget_bytes"], 250_000_000);
    assert_eq!(details["protected"], json!(["a", "b"]));
    assert!(details["needed_bytes"].as_u64() > details["free_bytes"].as_u64());
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    let plan = client
        .ask(
            "/v1/models/load?dry_run=true",
            &json!({ "model_path": "a" }),
        )
        .await;
    assert_eq!(plan["fits"], true);
    assert_eq!(client.look("/health").await["models"]["loaded_count"], 0);
}

#[tokio::test]
async fn a_model_in_use_is_not_unloaded_unless_forced() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "100000"), ("delay_ms", "5")]);
    let server = home.start().await;
    let client = server.client();
    let mut events = client.stream(&chat("slow", "hi", true)).await;
    events.next().await.unwrap();
    let (status, refused) = client.delete("/v1/models/slow/unload").await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::CONFLICT, &"model_in_use".into())
    );
    let (status, _) = client.delete("/v1/models/slow/unload?force=true").await;
    assert_eq!(status, StatusCode::OK);
    let last = events.rest().await.pop().unwrap();
    assert!(last.contains("\"error\""), "the stream ended with {last}");
}

#[tokio::test]
async fn ids_with_slashes_work_raw_and_encoded() {
    let home = Home::new();
    std::fs::create_dir(home.models_dir().join("owner")).unwrap();
    let home = home.fake("owner/name", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    for path in [
        "/v1/models/owner/name",
        "/v1/models/owner%2Fname",
        "/v1/models/owner/name/info",
    ] {
        assert_eq!(client.look(path).await["id"], "owner/name", "{path}");
    }
    client
        .ask("/v1/models/load", &json!({ "model_path": "owner/name" }))
        .await;
    let (status, _) = client.delete("/v1/models/owner%2Fname/unload").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn why_a_model_went_and_whether_it_would_fit_is_told() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    for model in ["a", "b", "a", "c"] {
        client
            .ask("/v1/chat/completions", &chat(model, "hi", false))
            .await;
    }
    let info = client.look("/v1/models/b/info").await;
    let last = &info["last_eviction"];
    assert_eq!(
        (&last["reason"], &last["for_model"]),
        (&json!("room_for"), &json!("c"))
    );
    assert!(last["bytes"].as_u64().unwrap() > 100 << 20);
    assert_eq!(info["plan"]["fits"], true);
    assert_eq!(info["plan"]["evict"], json!(["a"]));
    assert_eq!(
        client.look("/v1/models/a/info").await["last_eviction"],
        json!(null)
    );

    client.delete("/v1/models/c/unload").await;
    let diagnostics = client.look("/internal/diagnostics").await;
    let log: Vec<_> = diagnostics["eviction_log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["model"].clone(), entry["reason"].clone()))
        .collect();
    assert_eq!(
        log,
        [
            (json!("c"), json!("requested")),
            (json!("b"), json!("room_for"))
        ]
    );
    let resources = &diagnostics["resources"];
    assert_eq!(resources["memory"], "machine");
    let bytes = |name: &str| resources[name].as_u64().unwrap();
    assert_eq!(bytes("budget_bytes"), 250_000_000);
    assert_eq!(
        bytes("charged_bytes") + bytes("free_bytes"),
        bytes("budget_bytes")
    );
    assert_eq!(diagnostics["recent_errors"], json!([]));
    assert_eq!(diagnostics["jobs"]["queued"], 0);
    assert_eq!(diagnostics["queues"]["a"]["running"], 0);
    assert!(
        diagnostics["system"]["memory"]["available_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
}
