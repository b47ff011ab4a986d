//! Jobs in bulk, in groups, and watched as they happen.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    receiver::Receiver,
    server::{DEADLINE, Home, until},
};

fn chat_job() -> Value {
    json!({
        "operation": "chat",
        "model_id": "echo",
        "input": { "messages": [{ "role": "user", "content": "hi" }] },
    })
}

#[tokio::test]
async fn a_group_runs_in_its_order_and_calls_back() {
    let home = Home::new()
        .fake("echo", "lm", &[("tokens", "2")])
        .argument("webhook-secret", "a plain secret");
    let server = home.start().await;
    let client = server.client();
    let mut receiver = Receiver::start().await;
    let (mut last, mut first) = (chat_job(), chat_job());
    first["metadata"] = json!({ "step": 1 });
    last["depends_on"] = json!(["#0"]);
    last["priority"] = "high".into();
    let body = json!({ "jobs": [first, last], "group": "night", "callback_url": receiver.url });
    let (status, answer) = client.post("/api/mcp/jobs/bulk", &body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(answer["group"], "night");
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 2);

    let call = receiver.next().await;
    assert!(call.is_signed_with("a plain secret"));
    assert_eq!(call.json()["group"]["counts"]["completed"], 2);
    let group = client.look("/api/mcp/groups/night").await;
    assert_eq!(
        (&group["status"], &group["total"]),
        (&"completed".into(), &2.into())
    );

    let times = |id: &Value| {
        let path = format!("/api/mcp/jobs/{}", id.as_str().unwrap());
        let client = server.client();
        async move {
            let job = client.look(&path).await;
            let at = |name: &str| job[name].as_str().unwrap().to_owned();
            (at("started_at"), at("completed_at"))
        }
    };
    let (_, first_ended) = times(&answer["jobs"][0]["job_id"]).await;
    let (last_began, _) = times(&answer["jobs"][1]["job_id"]).await;
    assert!(first_ended <= last_began);

    let found = client
        .look("/api/mcp/jobs?metadata.step=1&group=night")
        .await;
    assert_eq!(found["total"], 1);
    assert_eq!(found["jobs"][0]["job_id"], answer["jobs"][0]["job_id"]);
}

#[tokio::test]
async fn a_group_is_cancelled_whole_and_failures_are_dead_letters() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "500"), ("delay_ms", "20")]);
    let server = home.start().await;
    let client = server.client();
    let body = json!({ "jobs": vec![chat_job(); 20], "group": "g" });
    client.ask("/api/mcp/jobs/bulk", &body).await;
    let (status, cancelled) = client.delete("/api/mcp/jobs?group=g").await;
    assert_eq!(
        (status, &cancelled["cancelled"]),
        (StatusCode::OK, &20.into())
    );
    until("all cancelled", DEADLINE, async || {
        client.look("/api/mcp/groups/g").await["counts"]["cancelled"] == 20
    })
    .await;
    let (status, answer) = client.delete("/api/mcp/jobs?group=none").await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (404, &"job_not_found".into())
    );
    let (status, _) = client.delete("/api/mcp/jobs").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    let mut long = chat_job();
    long["timeout_ms"] = 50.into();
    long["max_attempts"] = 1.into();
    let id = client.ask("/api/mcp/jobs", &long).await["job_id"].clone();
    until("a dead letter", DEADLINE, async || {
        let dead = client.look("/api/mcp/jobs/dead").await;
        dead["jobs"][0]["job_id"] == id && dead["total"] == 1
    })
    .await;
}

#[tokio::test]
async fn a_job_is_watched_to_its_end() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "5"), ("delay_ms", "50")]);
    let server = home.start().await;
    let client = server.client();
    let id = client.ask("/api/mcp/jobs", &chat_job()).await["job_id"].clone();
    let path = format!("/api/mcp/jobs/{}/events", id.as_str().unwrap());
    let mut events = client.events(&path).await;
    let (mut text, mut names) = (String::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event["event"].as_str().unwrap() {
            "delta" => text.push_str(event["content"].as_str().unwrap()),
            name => names.push(name.to_owned()),
        }
    }
    assert_eq!(names.last().unwrap(), "job.completed");
    assert_eq!(text, "tok0 tok1 tok2 tok3 tok4");
    let (status, answer) = client.get("/api/mcp/jobs/job-nothing/events").await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (404, &"job_not_found".into())
    );
}

#[tokio::test]
async fn the_log_is_watched_from_a_cursor_on() {
    let home = Home::new().fake("echo", "lm", &[("tokens", "1")]);
    let server = home.start().await;
    let client = server.client();
    let mut events = client.events("/api/mcp/sync").await;
    let mut seen = 0;
    for _ in 0..2 {
        client.ask("/api/mcp/jobs", &chat_job()).await;
        for name in ["job.queued", "job.processing", "job.completed"] {
            let event = events.next().await.unwrap();
            assert_eq!(event["event"], name);
            seen += 1;
            assert_eq!(event["seq"], seen);
        }
    }
    let mut rest = client.events("/api/mcp/sync?since=5").await;
    assert_eq!(rest.next().await.unwrap()["seq"], 6);
    // A stream that never ends doesn't hold up the end of the server.
    let mut server = server;
    server.signal(Signal::TERM);
    let ended = tokio::time::timeout(DEADLINE / 2, server.child.wait()).await;
    assert!(ended.unwrap().unwrap().success());
}
