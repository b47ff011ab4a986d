//! ⚡ Two servers on one MongoDB and one Redis.

use std::{collections::BTreeMap, time::Duration};

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::Client,
    databases::{self, Server as Database},
    receiver::Receiver,
    server::{DEADLINE, Home, until},
};

/// The databases, and homes of servers that share them.
struct Cluster {
    mongo: Database,
    redis: Database,
    name: String,
}

impl Cluster {
    /// `None` where there are no databases to test with; that was said then.
    fn start() -> Option<Self> {
        let (mongo, redis) = (databases::mongo()?, databases::start("redis", None)?);
        let name = format!("fusiond_nodes_{}", rand::random::<u64>());
        Some(Self { mongo, redis, name })
    }

    fn home(&self) -> Home {
        Home::new()
            .fake("echo", "lm", &[("tokens", "2")])
            .fake("slow", "lm", &[("tokens", "60"), ("delay_ms", "50")])
            .argument("mongo-uri", &self.mongo.uri)
            .argument("mongo-db", &self.name)
            .argument("redis-uri", &self.redis.uri)
    }
}

fn chat_job(model: &str) -> Value {
    json!({
        "operation": "chat",
        "model_id": model,
        "input": { "messages": [{ "role": "user", "content": "hi" }] },
    })
}

async fn submit(client: &Client, body: &Value) -> String {
    let (status, answer) = client.post("/api/mcp/jobs", body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    answer["job_id"].as_str().unwrap().to_owned()
}

async fn status(client: &Client, id: &str) -> String {
    let job = client.look(&format!("/api/mcp/jobs/{id}")).await;
    job["status"].as_str().unwrap().to_owned()
}

async fn finished(client: &Client, id: &str) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        let job = client
            .look(&format!("/api/mcp/jobs/{id}?wait_ms=20000"))
            .await;
        let status = job["status"].as_str().unwrap();
        if ["completed", "failed", "cancelled"].contains(&status) {
            return job;
        }
        assert!(Instant::now() < until, "{job}");
    }
}

/// How often each job was heard to be completed, until all were.
async fn heard(receiver: &mut Receiver, ids: &[String]) -> BTreeMap<String, usize> {
    let mut heard = BTreeMap::new();
    while !ids.iter().all(|id| heard.contains_key(id)) {
        let call = receiver.next().await.json();
        let id = call["job"]["job_id"].as_str().unwrap().to_owned();
        *heard.entry(id).or_default() += 1;
    }
    heard
}

async fn events(client: &Client) -> Vec<Value> {
    let page = client.look("/api/mcp/sync?limit=1000").await;
    page["events"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_takes_in_the_other_knows() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (home_a, home_b) = (cluster.home(), cluster.home());
    let (a, b) = tokio::join!(home_a.start(), home_b.start());
    let (a, b) = (a.client(), b.client());
    let ready = b.look("/health/ready").await;
    assert_eq!(ready["persistence"]["mongodb_connected"], true, "{ready}");
    assert_eq!(ready["persistence"]["redis_connected"], true, "{ready}");

    until("both are there", DEADLINE, async || {
        let nodes = b.look("/internal/nodes").await;
        nodes["nodes"].as_array().unwrap().len() == 2
    })
    .await;

    // 100 equal posts over both are one job.
    let mut same = chat_job("echo");
    same["idempotency_key"] = "k".into();
    let posts = (0..100).map(|number| submit(if number % 2 == 0 { &a } else { &b }, &same));
    let ids = futures::future::join_all(posts).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(a.look("/api/mcp/jobs").await["total"], 1);

    // Taken in by one: seen, waited for and cancelled at the other.
    assert_eq!(finished(&b, &ids[0]).await["status"], "completed");
    let slow = submit(&a, &chat_job("slow")).await;
    until("it runs", DEADLINE, async || {
        status(&b, &slow).await == "processing"
    })
    .await;
    let began = Instant::now();
    for client in [&a, &b] {
        let (code, _) = client.delete(&format!("/api/mcp/jobs/{slow}")).await;
        // At the server that doesn't run it, the job may have ended by now.
        assert!(
            [StatusCode::OK, StatusCode::CONFLICT].contains(&code),
            "{code}"
        );
    }
    assert_eq!(finished(&b, &slow).await["status"], "cancelled");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(events(&a).await, events(&b).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_servers_jobs_and_webhooks_are_taken_over() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (home_a, home_b) = (cluster.home(), cluster.home());
    // The first one leads, and dies.
    let first = home_a.start().await;
    let a = first.client();
    let mut receiver = Receiver::start().await;
    let hook = json!({ "url": receiver.url, "events": ["job.completed"] });
    let (created, _) = a.post("/api/mcp/webhooks", &hook).await;
    assert_eq!(created, StatusCode::CREATED);
    let mut ids = vec![submit(&a, &chat_job("echo")).await];
    heard(&mut receiver, &ids).await;
    for _ in 0..3 {
        ids.push(submit(&a, &chat_job("slow")).await);
    }
    until("one runs", DEADLINE, async || {
        status(&a, &ids[1]).await == "processing"
    })
    .await;
    let second = home_b.start().await;
    let b = second.client();
    first.kill().await;
    let died = Instant::now();
    until("the other has it", DEADLINE, async || {
        let job = b.look(&format!("/api/mcp/jobs/{}", ids[1])).await;
        job["attempt"] == 2 || job["status"] == "completed"
    })
    .await;
    assert!(
        died.elapsed() < Duration::from_secs(20),
        "{:?}",
        died.elapsed()
    );
    for id in &ids {
        assert_eq!(finished(&b, id).await["status"], "completed");
    }
    // Every job is heard of, also those that ended while nobody led.
    heard(&mut receiver, &ids[1..]).await;
    let completed = events(&b)
        .await
        .into_iter()
        .filter(|event| event["event"] == "job.completed");
    assert_eq!(completed.count(), ids.len(), "each is completed once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let homes = [cluster.home(), cluster.home()];
    let (a, b) = tokio::join!(homes[0].start(), homes[1].start());
    let mut servers = vec![a, b];
    let mut receiver = Receiver::start().await;
    let hook = json!({ "url": receiver.url, "events": ["job.completed"] });
    servers[0].client().post("/api/mcp/webhooks", &hook).await;
    let mut ids = Vec::new();
    for home in &homes {
        for server in &servers {
            for _ in 0..4 {
                ids.push(submit(&server.client(), &chat_job("echo")).await);
            }
        }
        let old = servers.remove(0);
        old.signal(Signal::TERM);
        let other = servers[0].client();
        for _ in 0..4 {
            ids.push(submit(&other, &chat_job("echo")).await);
        }
        old.ended().await;
        servers.push(home.start().await);
    }
    let client = servers[1].client();
    for id in &ids {
        let job = finished(&client, id).await;
        assert_eq!(
            (&job["status"], &job["attempt"]),
            (&"completed".into(), &1.into()),
            "{job}"
        );
    }
    let heard = heard(&mut receiver, &ids).await;
    assert!(heard.values().all(|times| *times == 1), "{heard:?}");
    let seqs: Vec<u64> = events(&client)
        .await
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "no gap");
}
