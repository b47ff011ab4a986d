//! Endpoints of webhooks that do what none should: nobody else notices.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    receiver::Receiver,
    server::{DEADLINE, Home, until},
};

/// Takes calls, answers each in its own way, and counts them.
struct Endpoint {
    url: String,
    calls: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Endpoint {
    async fn start<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 64 * 1024];
                let _ = connection.read(&mut request).await;
                open.spawn(answer(connection));
            }
        });
        Self {
            url,
            calls,
            _task: task,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn say(mut connection: TcpStream, text: &[u8]) {
    let _ = connection.write_all(text).await;
}

#[tokio::test]
async fn an_endpoint_that_misbehaves_harms_nobody() {
    let home = Home::new()
        .fake("echo", "lm", &[("tokens", "1")])
        .argument("webhook-timeout-seconds", "1")
        .argument("webhook-retry-count", "0");
    let server = home.start().await;
    let client = server.client();
    let mut good = Receiver::start().await;
    let elsewhere = Endpoint::start(|connection| say(connection, b"")).await;
    let target = elsewhere.url.clone();

    let hangs = Endpoint::start(|connection| async move {
        std::future::pending::<()>().await;
        drop(connection);
    })
    .await;
    let streams = Endpoint::start(|mut connection| async move {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut sent = connection.write_all(head).await;
        while sent.is_ok() {
            sent = connection
                .write_all(&[b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat())
                .await;
        }
    })
    .await;
    let long_head = Endpoint::start(|mut connection| async move {
        let mut sent = connection.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while sent.is_ok() {
            sent = connection.write_all(b"x-more: and more\r\n").await;
        }
    })
    .await;
    let redirects = Endpoint::start(move |connection| {
        let answer =
            format!("HTTP/1.1 307 Elsewhere\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
        async move { say(connection, answer.as_bytes()).await }
    })
    .await;
    let garbage = Endpoint::start(|connection| say(connection, &[0xff; 4096])).await;
    let silent = Endpoint::start(|connection| say(connection, b"")).await;

    let bad = [&hangs, &streams, &long_head, &redirects, &garbage, &silent];
    let hook = |url: &str| json!({ "url": url, "events": ["job.completed"] });
    let mut hooks = Vec::new();
    for endpoint in bad {
        let hook = client.ask("/api/mcp/webhooks", &hook(&endpoint.url)).await;
        hooks.push(hook["webhook_id"].as_str().unwrap().to_owned());
    }
    client.ask("/api/mcp/webhooks", &hook(&good.url)).await;
    let job = json!({
        "operation": "chat",
        "model_id": "echo",
        "input": { "messages": [{ "role": "user", "content": "hi" }] },
    });
    for _ in 0..10 {
        client.ask("/api/mcp/jobs", &job).await;
    }
    for _ in 0..10 {
        good.next().await;
    }
    for endpoint in bad {
        until("a call", DEADLINE, async || endpoint.calls() > 0).await;
    }
    for (id, endpoint) in hooks.iter().zip(bad) {
        let path = format!("/api/mcp/webhooks/{id}/deliveries");
        let has_ended = async || {
            let deliveries = client.look(&path).await;
            let ended = |delivery: &&Value| delivery["status"] != "pending";
            deliveries["deliveries"]
                .as_array()
                .unwrap()
                .iter()
                .filter(ended)
                .count()
                > 0
        };
        until("the end of an attempt", DEADLINE, has_ended).await;
        let deliveries = client.look(&path).await;
        let ended = deliveries["deliveries"].as_array().unwrap().iter();
        for delivery in ended.filter(|delivery| delivery["status"] != "pending") {
            // Whoever says 200 has it, whatever else comes.
            let expected = if endpoint.url == streams.url {
                "delivered"
            } else {
                "failed"
            };
            assert_eq!(delivery["status"], expected, "{delivery}");
        }
    }
    assert_eq!(
        elsewhere.calls(),
        0,
        "nobody checked where the redirect leads"
    );
    let chat = json!({ "model": "echo", "messages": job["input"]["messages"] });
    client.ask("/v1/chat/completions", &chat).await;
}
