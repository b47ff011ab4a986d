//! `fusiond migrate`, as it is called: one server's jobs go on at another, on MongoDB.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use fusion_types::Timestamp;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::{
    databases,
    server::{DEADLINE, Home, Server, until},
};

const JOBS: usize = 100;

/// The move, which may be killed before it is done.
async fn migrate(home: &Home, uri: &str, killed_after: Option<Duration>) -> Option<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fusiond"))
        .args(["migrate", "--json", "--mongo-db", "fusiond_migrate"])
        .args(["--mongo-uri", uri, "--data-dir"])
        .arg(home.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    if let Some(after) = killed_after
        && timeout(after, child.wait()).await.is_err()
    {
        // Until it is gone, the folder is in use.
        child.kill().await.unwrap();
        return None;
    }
    Some(child.wait_with_output().await.unwrap())
}

fn error(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    told["error"].clone()
}

async fn stop(server: Server) {
    server.signal(Signal::TERM);
    server.ended().await;
}

async fn all(server: &Server, status: &str) -> u64 {
    let jobs = format!("/api/mcp/jobs?status={status}&limit=1");
    server.client().look(&jobs).await["total"].as_u64().unwrap()
}

async fn events(server: &Server) -> Vec<Value> {
    let page = server
        .client()
        .look("/api/mcp/sync?since=0&limit=1000")
        .await;
    page["events"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_move_began_the_next_one_ends_and_the_jobs_run() {
    let Some(mongo) = databases::mongo() else {
        return;
    };
    let home = Home::new().fake("echo", "lm", &[("tokens", "2")]);
    let server = home.start().await;
    let job = json!({
        "operation": "chat", "model_id": "echo",
        "input": { "messages": [{ "role": "user", "content": "before the move" }] },
    });
    let (_, done) = server.client().post("/api/mcp/jobs", &job).await;
    let done = format!("/api/mcp/jobs/{}", done["job_id"].as_str().unwrap());
    let done_before = server.client().look(&format!("{done}?wait_ms=20000")).await;
    assert_eq!(done_before["status"], "completed", "{done_before}");
    // Not before the server has stopped, as a rule.
    let mut later = job.clone();
    later["run_at"] = json!(Timestamp::now().plus(Duration::from_secs(5)));
    let bulk = json!({ "jobs": vec![later; JOBS] });
    let (status, answer) = server.client().post("/api/mcp/jobs/bulk", &bulk).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    let events_before = events(&server).await;

    let meanwhile = migrate(&home, &mongo.uri, None).await.unwrap();
    let message = error(&meanwhile)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("in use"), "{message}");
    stop(server).await;

    let mut output = None;
    for round in 1..=20 {
        output = migrate(&home, &mongo.uri, Some(Duration::from_millis(40 * round))).await;
        if output.is_some() {
            break;
        }
    }
    let output = match output {
        Some(output) => output,
        None => migrate(&home, &mongo.uri, None).await.unwrap(),
    };
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["jobs"], JOBS + 1, "{told}");
    let again = migrate(&home, &mongo.uri, None).await.unwrap();
    assert_eq!(error(&again)["param"], "state.mongo_db");

    let home = home
        .argument("mongo-uri", &mongo.uri)
        .argument("mongo-db", "fusiond_migrate");
    let server = home.start().await;
    assert_eq!(server.client().look(&done).await, done_before);
    until("the jobs have run", DEADLINE, async || {
        all(&server, "completed").await == JOBS as u64 + 1
    })
    .await;
    let events_after = events(&server).await;
    assert_eq!(events_after[..events_before.len()], events_before);
    assert!(events_after.len() > events_before.len());
}
