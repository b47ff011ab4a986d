//! ⚡ Two servers on one MongoDB that have different models: each answers for both.

use std::time::Duration;

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::{Client, chat},
    databases,
    server::{DEADLINE, Home, Server, until},
};

/// `a` has the models `near` and `both`, `b` has `far`, `both` and the embeddings of `vectors`.
struct Pair {
    a: Server,
    b: Server,
    _homes: [Home; 2],
    _mongo: databases::Server,
}

impl Pair {
    /// `None` where there is no database to test with; that was said then.
    async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// With more in the configuration.
    async fn start_with(configured: &str) -> Option<Self> {
        let mongo = databases::mongo()?;
        let database = format!("fusiond_forwarding_{}", rand::random::<u64>());
        let b_home = Home::new().fake("vectors", "embeddings", &[]);
        let homes = [("near", Home::new()), ("far", b_home)].map(|(own, home)| {
            home.fake(own, "lm", &[("tokens", "40"), ("delay_ms", "20")])
                .fake("both", "lm", &[("tokens", "2")])
                .configured(configured)
                .argument("mongo-uri", &mongo.uri)
                .argument("mongo-db", &database)
        });
        let (a, b) = tokio::join!(homes[0].start(), homes[1].start());
        for client in [a.client(), b.client()] {
            until("each knows the other", DEADLINE, async || {
                let nodes = client.look("/internal/nodes").await;
                let nodes = nodes["nodes"].as_array().unwrap();
                nodes.len() == 2 && nodes.iter().all(|node| node["is_reachable"] == true)
            })
            .await;
        }
        Some(Self {
            a,
            b,
            _homes: homes,
            _mongo: mongo,
        })
    }
}

fn short(model: &str) -> Value {
    let mut chat = chat(model, "hi", false);
    chat["max_tokens"] = 1.into();
    chat
}

async fn info(client: &Client, model: &str) -> Value {
    client.look(&format!("/v1/models/{model}/info")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_the_model_passes_the_request_on_to_one_that_has_it() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let (a, b) = (pair.a.client(), pair.b.client());
    let nodes = b.look("/internal/nodes").await;
    let nodes = nodes["nodes"].as_array().unwrap();
    let b_id = nodes.iter().find(|node| node["is_this"] == true).unwrap()["node_id"].clone();

    // Whole and streamed, as if it had been asked itself.
    let path = "/v1/chat/completions";
    let request = a.http().post(a.url(path)).json(&chat("far", "hi", false));
    let answer = request.header("x-request-id", "mine").send().await.unwrap();
    let headers = answer.headers().clone();
    let place = format!("at {}", b_id.as_str().unwrap());
    assert_eq!(headers["x-fusion-route"], place);
    assert_eq!(headers["x-fusion-model"], "far");
    assert_eq!(headers["x-request-id"], "mine");
    assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    let passed_on: Value = answer.json().await.unwrap();
    let direct = b.ask(path, &chat("far", "hi", false)).await;
    assert_eq!(passed_on["choices"], direct["choices"]);
    assert_eq!(passed_on["usage"], direct["usage"]);
    let events = a.stream(&chat("far", "hi", true)).await.rest().await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert!(events.len() > 40, "{events:?}");

    // Errors are the other's own, and what nobody has is found nowhere.
    let mut bad = chat("far", "hi", false);
    bad["temperature"] = json!(-1);
    assert_eq!(a.post(path, &bad).await, b.post(path, &bad).await);
    let (status, nowhere) = a.post(path, &chat("fat", "hi", false)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{nowhere}");

    // What is loaded there isn't loaded here for one request.
    a.ask(path, &short("near")).await;
    b.ask(path, &short("both")).await;
    until("it is known to be loaded", DEADLINE, async || {
        let nodes = a.look("/internal/nodes").await;
        nodes["nodes"].as_array().unwrap().iter().any(|node| {
            node["node_id"] == b_id && node["models"].as_array().unwrap().contains(&"both".into())
        })
    })
    .await;
    // That it said so doesn't mean that this one has looked, which it does every five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    a.ask(path, &short("both")).await;
    assert_eq!(info(&a, "both").await["status"], "unloaded");
    assert_eq!(info(&b, "both").await["request_count"], 2);

    // Who goes away, ends the work there.
    let mut events = a.stream(&chat("far", "hi", true)).await;
    events.next().await.unwrap();
    assert_eq!(info(&b, "far").await["active_requests"], 1);
    drop(events);
    until(
        "it is cancelled there",
        Duration::from_secs(2),
        async || info(&b, "far").await["active_requests"] == 0,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_where_their_models_are() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let (a, b) = (pair.a.client(), pair.b.client());
    let job =
        |model: &str| json!({ "operation": "chat", "model_id": model, "input": short(model) });
    let jobs: Vec<Value> = ["near", "far", "both"]
        .repeat(2)
        .into_iter()
        .map(job)
        .collect();
    let submitted = a.ask("/api/mcp/jobs/bulk", &json!({ "jobs": jobs })).await;
    for submitted in submitted["jobs"].as_array().unwrap() {
        let id = submitted["job_id"].as_str().unwrap();
        let job = b.look(&format!("/api/mcp/jobs/{id}?wait_ms=30000")).await;
        assert_eq!(
            (&job["status"], &job["attempt"]),
            (&"completed".into(), &1.into()),
            "{job}"
        );
    }
    let (status, nobody) = a.post("/api/mcp/jobs", &job("fat")).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_on_several_models_runs_each_where_it_is() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let job = json!({
        "operation": "rag_ingest",
        "input": { "collection": "facts", "documents": [
            { "filename": "sea", "text": "The blue whale is the largest animal." },
            { "filename": "sky", "text": "The sun is a star." },
        ] },
    });
    let clients = [pair.a.client(), pair.b.client()];
    let submitted = clients[0].ask("/api/mcp/jobs", &job).await;
    let id = submitted["job_id"].as_str().unwrap();
    let done = clients[1]
        .look(&format!("/api/mcp/jobs/{id}?wait_ms=30000"))
        .await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["result"]["documents_ingested"], 2, "{done}");
    for client in &clients {
        let collections = client.look("/api/rag/collections").await;
        let collection = &collections["collections"][0];
        assert_eq!(collection["embedding_model"], "vectors", "{collections}");
        for model in ["near", "far"] {
            let query = json!({
                "query": "the largest whale", "collection": "facts", "top_k": 1, "model_id": model,
                "generation_config": { "max_tokens": 3 },
            });
            let answer = client.ask("/api/rag/query", &query).await;
            assert_eq!(answer["sources"][0]["metadata"]["file"], "sea", "{answer}");
            assert_ne!(answer["answer"], "", "{answer}");
            let run = json!({
                "workflow": "rag_with_rerank",
                "input": { "query": "the largest whale", "collection": "facts", "top_k": 1 },
                "models": { "generation": model },
                "config": { "max_tokens": 3 },
            });
            let run = client.ask("/api/fusion/orchestrate", &run).await;
            assert_eq!(run["status"], "completed", "{run}");
            assert_eq!(run["result"]["sources"][0]["metadata"]["file"], "sea");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_vanishes_costs_its_requests_only_and_for_a_bounded_time() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let a = pair.a.client();
    let mut events = a.stream(&chat("far", "hi", true)).await;
    events.next().await.unwrap();
    // It holds its connections and answers nothing.
    pair.b.signal(Signal::STOP);
    let began = Instant::now();
    let whole = chat("far", "hi", false);
    let waiting = a.post("/v1/chat/completions", &whole);
    let (rest, (status, answer)) = tokio::join!(events.rest(), waiting);
    assert!(began.elapsed() < Duration::from_secs(40));
    let last: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    for (told, what) in [(&last, "the stream"), (&answer, "the request")] {
        assert_eq!(
            told["error"]["code"], "engine_unavailable",
            "{what}: {told}"
        );
    }
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let (status, answer) = a.post("/v1/chat/completions", &short("far")).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
    a.ask("/v1/chat/completions", &short("both")).await;
    pair.b.signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_passed_on_counts_once() {
    let limits = "[limits]\nrequests_per_minute = 1\nburst = 6";
    let Some(pair) = Pair::start_with(limits).await else {
        return;
    };
    let a = pair.a.client();
    let nodes = a.look("/internal/nodes").await;
    let nodes = nodes["nodes"].as_array().unwrap();
    let other = nodes.iter().find(|node| node["is_this"] == false).unwrap();
    let guess = format!("{} guessed", other["node_id"].as_str().unwrap());
    let path = "/v1/chat/completions";
    let mut last = a.post(path, &short("far")).await;
    let mut taken = 0;
    while last.0 == StatusCode::OK {
        taken += 1;
        assert!(taken <= 6, "no limit");
        last = a.post(path, &short("far")).await;
    }
    let (status, answer) = last;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer["error"]["code"], "rate_limit_exceeded", "{answer}");
    assert_eq!(answer["error"]["type"], "rate_limit_error", "{answer}");
    // Without Redis each server has its own count: the other's is as it was.
    let b = pair.b.client();
    b.ask(path, &short("far")).await;
    // The servers' own way in is no way around it.
    let asked = json!({
        "request_id": "mine", "tenant": "default", "class": "interactive", "deadline_ms": null, "depth": 0,
        "request": short("near"),
    });
    for sign in [None, Some(""), Some("me x"), Some(guess.as_str())] {
        let mut request = a
            .http()
            .post(a.url("/internal/inference/chat"))
            .json(&asked);
        if let Some(sign) = sign {
            request = request.header("x-fusion-node", sign);
        }
        let status = request.send().await.unwrap().status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{sign:?}");
    }
    let request = a.http().post(a.url(path)).json(&short("near"));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let after: u64 = answer.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&after), "{after}");
    // Who watches over the server isn't kept out.
    a.look("/health").await;
    let nodes = a.look("/internal/nodes").await;
    assert!(!nodes.to_string().contains("token"), "{nodes}");
}
