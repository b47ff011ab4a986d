//! Asking a server, as a client would.

use futures::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::server::{DEADLINE, Server};

pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

impl Server {
    pub(crate) fn client(&self) -> Client {
        Client {
            http: reqwest::Client::new(),
            url: self.url.clone(),
        }
    }
}

impl Client {
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.http.get(self.url(path)).send().await.unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        read(self.http.delete(self.url(path)).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(
            self.http
                .post(self.url(path))
                .json(body)
                .send()
                .await
                .unwrap(),
        )
        .await
    }

    /// Posts and expects success.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert!(status.is_success(), "{path} answered {status}: {answer}");
        answer
    }

    /// Gets and expects success.
    pub(crate) async fn look(&self, path: &str) -> Value {
        let (status, answer) = self.get(path).await;
        assert!(status.is_success(), "{path} answered {status}: {answer}");
        answer
    }

    /// Follows what happens.
    pub(crate) async fn events(&self, path: &str) -> Happenings {
        let request = self.http.get(self.url(path));
        let request = request.header("accept", "text/event-stream");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Happenings {
            body: Box::pin(answer.bytes_stream()),
            text: String::new(),
        }
    }

    pub(crate) async fn stream(&self, body: &Value) -> Events {
        let answer = self
            .http
            .post(self.url("/v1/chat/completions"))
            .json(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        Events {
            body: Box::pin(answer.bytes_stream()),
            text: String::new(),
        }
    }

    pub(crate) async fn pid(&self, model: &str) -> u64 {
        self.look(&format!("/v1/models/{model}/info")).await["pid"]
            .as_u64()
            .expect("the model is not loaded")
    }
}

async fn read(answer: Response) -> (StatusCode, Value) {
    let status = answer.status();
    let text = answer.text().await.unwrap();
    let body = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{status} with a body that isn't JSON: {text:?}"));
    (status, body)
}

pub(crate) fn chat(model: &str, text: &str, stream: bool) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": text }], "stream": stream })
}

/// Things that happen, each as JSON.
pub(crate) struct Happenings {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Happenings {
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let mut lines = event.lines();
                // Comments keep the connection alive and have none.
                let data = lines.find_map(|line| line.strip_prefix("data: "));
                let event = data.map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let piece = tokio::time::timeout(DEADLINE, self.body.next());
            let piece = piece.await.expect("nothing happens")?.unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

/// The `data:` lines of a stream, one by one.
pub(crate) struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event
                    .strip_prefix("data: ")
                    .expect("an event without data")
                    .to_owned();
                self.text = rest.to_owned();
                return Some(data);
            }
            self.text
                .push_str(std::str::from_utf8(&self.body.next().await?.ok()?).unwrap());
        }
    }

    /// Everything that is still to come.
    pub(crate) async fn rest(mut self) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

pub(crate) fn content(events: &[String]) -> String {
    let chunks = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok());
    chunks
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}
