//! Somebody who waits for webhooks.

use std::collections::HashMap;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};

use crate::server::DEADLINE;

pub(crate) struct Received {
    headers: HashMap<String, String>,
    body: Bytes,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    calls: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(sender);
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's own server, ended with the receiver"
        )]
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, calls, task }
    }

    pub(crate) async fn next(&mut self) -> Received {
        timeout(DEADLINE, self.calls.recv())
            .await
            .expect("no webhook arrived")
            .unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(sender): State<mpsc::UnboundedSender<Received>>,
    headers: HeaderMap,
    body: Bytes,
) {
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    // The test may have ended: then nobody wants it.
    let _ = sender.send(Received { headers, body });
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Checks both signatures, from the two specifications alone.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        let key = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).unwrap(),
            None => secret.as_bytes().to_vec(),
        };
        let sign = |parts: &[&[u8]]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes()
        };
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let standard = sign(&[id.as_bytes(), b".", at.as_bytes(), b".", &self.body]);
        let older = sign(&[&self.body]);
        self.header("webhook-signature") == format!("v1,{}", STANDARD.encode(standard))
            && self.header("x-webhook-signature") == format!("sha256={}", hex::encode(older))
    }
}
