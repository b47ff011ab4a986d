//! Jobs and webhooks by the routes, over kills of the server.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use fusion_types::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    client::Client,
    receiver::Receiver,
    server::{DEADLINE, Home, until},
};

fn chat_job(model: &str) -> Value {
    json!({
        "operation": "chat",
        "model_id": model,
        "input": { "messages": [{ "role": "user", "content": "hi" }] },
        "metadata": { "user_id": "user123" },
    })
}

async fn submit(client: &Client, body: &Value) -> String {
    let (status, answer) = client.post("/api/mcp/jobs", body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(answer["status"], "queued");
    answer["job_id"].as_str().unwrap().to_owned()
}

async fn finished(client: &Client, id: &str) -> Value {
    let job = client
        .look(&format!("/api/mcp/jobs/{id}?wait_ms=30000"))
        .await;
    assert!(
        ["completed", "failed", "cancelled"].contains(&job["status"].as_str().unwrap()),
        "{job}"
    );
    job
}

#[tokio::test]
async fn a_job_runs_and_its_callback_is_signed() {
    let home = Home::new()
        .fake("echo", "lm", &[("tokens", "2")])
        .argument("webhook-secret", "a plain secret");
    let server = home.start().await;
    let client = server.client();
    let mut receiver = Receiver::start().await;
    let mut job = chat_job("echo");
    job["callback_url"] = receiver.url.clone().into();
    let id = submit(&client, &job).await;

    let job = finished(&client, &id).await;
    assert_eq!(job["status"], "completed", "{job}");
    assert_eq!(job["result"]["content"], "tok0 tok1");
    assert_eq!(job["result"]["usage"]["completion_tokens"], 2);
    assert_eq!(job["metadata"], json!({ "user_id": "user123" }));

    let call = receiver.next().await;
    assert!(call.is_signed_with("a plain secret"));
    assert!(!call.is_signed_with("another"));
    assert_eq!(call.json()["event"], "job.completed");
    assert_eq!(call.json()["job"]["job_id"], id.as_str());
    assert_eq!(call.header("x-webhook-event"), "job.completed");
}

#[tokio::test]
async fn a_registered_webhook_hears_of_every_job() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "1")]);
    let server = home.start().await;
    let client = server.client();
    let mut receiver = Receiver::start().await;
    let hook = json!({ "url": receiver.url, "events": ["job.completed"] });
    let (status, hook) = client.post("/api/mcp/webhook", &hook).await;
    assert_eq!(status, StatusCode::CREATED);
    let secret = hook["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let mut expected = BTreeSet::new();
    for _ in 0..3 {
        expected.insert(submit(&client, &chat_job("echo")).await);
    }
    let mut heard = BTreeSet::new();
    while heard.len() < expected.len() {
        let call = receiver.next().await;
        assert!(call.is_signed_with(secret));
        assert_eq!(
            call.header("x-webhook-id"),
            hook["webhook_id"].as_str().unwrap()
        );
        heard.insert(call.json()["job"]["job_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, expected);
    let listed = client.look("/api/mcp/webhooks").await;
    assert!(listed["webhooks"][0].get("secret").is_none());
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_server() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "5"), ("delay_ms", "20")]);
    let mut receiver = Receiver::start().await;
    let mut job = chat_job("slow");
    job["callback_url"] = receiver.url.clone().into();
    // Each kill may cost each job one.
    job["max_attempts"] = 5.into();
    let mut ids = Vec::new();
    for round in 0..3 {
        let server = home.start().await;
        let client = server.client();
        for _ in 0..4 {
            ids.push(submit(&client, &job).await);
        }
        if round == 1 {
            finished(&client, &ids[0]).await;
        }
        server.kill().await;
    }
    let server = home.start().await;
    let client = server.client();
    for id in &ids {
        let job = finished(&client, id).await;
        assert_eq!(job["status"], "completed", "{job}");
    }
    let mut heard = BTreeSet::new();
    while heard.len() < ids.len() {
        heard.insert(
            receiver.next().await.json()["job"]["job_id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let terminal = client.look("/api/mcp/sync?limit=1000").await;
    let completed = terminal["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["event"] == "job.completed");
    assert_eq!(
        completed.count(),
        ids.len(),
        "each job is completed exactly once"
    );
}

/// With the folder's own key, made at the first start; what waits is read also by a server that encrypts no more.
#[tokio::test]
async fn an_encrypted_input_is_in_no_file() {
    const SECRET: &str = "nobody is to read this";
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let encrypting = home.argument("job-payloads", "encrypted");
    let server = encrypting.start().await;
    let mut job = chat_job("echo");
    job["input"]["messages"][0]["content"] = SECRET.into();
    job["run_at"] = json!(Timestamp::now().plus(Duration::from_secs(3)));
    let id = submit(&server.client(), &job).await;
    server.kill().await;
    assert!(!holds(encrypting.path(), SECRET));

    let home = encrypting
        .without_arguments()
        .argument("job-payloads", "until_done");
    let server = home.start().await;
    let done = finished(&server.client(), &id).await;
    assert_eq!(done["status"], "completed", "{done}");
    job["run_at"] = json!(Timestamp::now().plus(Duration::from_secs(3_600)));
    submit(&server.client(), &job).await;
    assert!(holds(home.path(), SECRET), "not encrypted, it can be found");
}

/// Whether any file of the folder does.
fn holds(folder: &Path, text: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        let content = fs::read(path).unwrap();
        content
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn a_running_job_is_cancelled_down_to_the_engine() {
    let home = Home::new().fake("slow", "lm", &[("tokens", "100000"), ("delay_ms", "10")]);
    let server = home.start().await;
    let client = server.client();
    let id = submit(&client, &chat_job("slow")).await;
    let running = async || {
        client.look("/v1/queue/stats").await["queue_stats"]["queue_stats"]["active_requests"] == 1
    };
    until("the job's start", DEADLINE, running).await;
    let (status, answer) = client.delete(&format!("/api/mcp/jobs/{id}")).await;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"cancelled".into()),
        "{answer}"
    );
    until("the slot's return", DEADLINE, async || !running().await).await;
    let (status, again) = client.delete(&format!("/api/mcp/jobs/{id}")).await;
    assert_eq!(
        (status, &again["error"]["code"]),
        (StatusCode::CONFLICT, &"job_finished".into())
    );
}

#[tokio::test]
async fn a_key_is_one_job() {
    let home = Home::new().fake("echo", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    let mut job = chat_job("echo");
    job["idempotency_key"] = "once".into();
    let posts = (0..20).map(|_| client.post("/api/mcp/jobs", &job));
    let ids: BTreeSet<_> = futures::future::join_all(posts)
        .await
        .into_iter()
        .map(|(_, answer)| answer["job_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1);
    job["priority"] = "high".into();
    let (status, answer) = client.post("/api/mcp/jobs", &job).await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (422, &"idempotency_mismatch".into())
    );
}
