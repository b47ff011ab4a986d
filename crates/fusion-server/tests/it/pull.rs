//! `fusiond pull` from a hub on this machine.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::server::{DEADLINE, until};

/// A hub that sends half of its model, and the rest only once it is asked to go on from there.
#[derive(Clone)]
struct Hub {
    weights: Bytes,
    was_continued: Arc<AtomicBool>,
}

async fn start(hub: Hub) -> (String, AbortOnDropHandle<()>) {
    let router = Router::new()
        .route("/api/models/owner/name/tree/main", get(tree))
        .route("/owner/name/resolve/main/m.gguf", get(resolve))
        .with_state(hub);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = async move { axum::serve(listener, router).await.unwrap() };
    (
        endpoint,
        AbortOnDropHandle::new(TaskTracker::new().spawn(serve)),
    )
}

async fn tree(State(hub): State<Hub>) -> Json<Value> {
    Json(json!([{ "type": "file", "path": "m.gguf", "size": hub.weights.len() }]))
}

async fn resolve(State(hub): State<Hub>, headers: HeaderMap) -> Response {
    let range = headers.get("range").map(|range| range.to_str().unwrap());
    let offset = range.map(|range| range["bytes=".len()..].trim_end_matches('-'));
    if let Some(offset) = offset {
        hub.was_continued.store(true, SeqCst);
        let rest = hub.weights.slice(offset.parse::<usize>().unwrap()..);
        return (StatusCode::PARTIAL_CONTENT, rest).into_response();
    }
    let half = hub.weights.slice(..hub.weights.len() / 2);
    let pieces = stream::iter([Ok::<_, std::io::Error>(half)]).chain(stream::pending());
    Body::from_stream(pieces).into_response()
}

fn pull(endpoint: &str, models_dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_fusiond"))
        .args(["pull", "owner/name", "--json", "--models-dir"])
        .arg(models_dir)
        .env("HF_ENDPOINT", endpoint)
        .env("HOME", models_dir)
        .current_dir(models_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn end(child: Child) -> Output {
    let output = child.wait_with_output();
    tokio::time::timeout(DEADLINE, output)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn a_stopped_pull_says_so_and_the_next_one_goes_on() {
    let hub = Hub {
        weights: [b"GGUF".as_slice(), &[7; 200_000]].concat().into(),
        was_continued: Arc::default(),
    };
    let (endpoint, _hub) = start(hub.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("owner/name/m.gguf.part");

    let child = pull(&endpoint, folder.path());
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    let half = hub.weights.len() as u64 / 2;
    let has_half = async || part.metadata().is_ok_and(|file| file.len() == half);
    until("half of the model", DEADLINE, has_half).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = end(child).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("goes on from there"), "{message}");
    assert_eq!(part.metadata().unwrap().len(), half);

    let output = end(pull(&endpoint, folder.path())).await;
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&result["model_id"], &result["bytes"]),
        (&json!("m"), &json!(hub.weights.len()))
    );
    let whole = std::fs::read(part.with_file_name("m.gguf")).unwrap();
    assert_eq!(whole, hub.weights);
    assert!(hub.was_continued.load(SeqCst) && !part.exists());
}
