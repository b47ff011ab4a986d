//! Pulling from a hub on this machine.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use fusion_models::download::{Hub, Progress, pull};
use fusion_types::error::ErrorCode;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// A hub with one model, `owner/name`.
#[derive(Clone)]
struct Served {
    weights: Bytes,
    sha256: String,
    /// Told in the place of the true size.
    listed_bytes: Option<usize>,
    /// The next answer breaks off in the middle.
    breaks: Arc<AtomicBool>,
    /// Told once the client has the first half.
    arrived: Arc<Notify>,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
    tokens: Arc<Mutex<Vec<Option<String>>>>,
}

impl Served {
    fn new() -> Self {
        let weights: Vec<u8> = b"GGUF"
            .iter()
            .copied()
            .chain((0..300_000_u32).map(|n| (n % 251) as u8))
            .collect();
        let sha256 = hex::encode(Sha256::digest(&weights));
        Self {
            weights: weights.into(),
            sha256,
            listed_bytes: None,
            breaks: Arc::default(),
            arrived: Arc::default(),
            ranges: Arc::default(),
            tokens: Arc::default(),
        }
    }

    async fn start(&self) -> (Hub, AbortOnDropHandle<()>) {
        let router = Router::new()
            .route("/api/models/owner/name/tree/main", get(tree))
            .route("/owner/name/resolve/main/{*path}", get(resolve))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serve = async move { axum::serve(listener, router).await.unwrap() };
        let task = tokio_util::task::TaskTracker::new().spawn(serve);
        (
            Hub {
                endpoint,
                token: Some("secret".to_owned()),
            },
            AbortOnDropHandle::new(task),
        )
    }
}

async fn tree(State(hub): State<Served>) -> Json<Value> {
    let bytes = hub.listed_bytes.unwrap_or(hub.weights.len());
    Json(json!([
        { "type": "directory", "path": "docs" },
        { "type": "file", "path": "README.md", "size": 5 },
        { "type": "file", "path": "m-Q4_K_M.gguf", "size": bytes,
          "lfs": { "oid": hub.sha256, "size": bytes } },
        { "type": "file", "path": "big-Q2-00001-of-00002.gguf", "size": hub.weights.len() },
        { "type": "file", "path": "big-Q2-00002-of-00002.gguf", "size": hub.weights.len() },
        { "type": "file", "path": "m-Q8_0.gguf", "size": 9 },
    ]))
}

async fn resolve(
    State(hub): State<Served>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    assert!(
        [
            "m-Q4_K_M.gguf",
            "big-Q2-00001-of-00002.gguf",
            "big-Q2-00002-of-00002.gguf"
        ]
        .contains(&path.as_str())
    );
    let header = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    hub.tokens.lock().unwrap().push(header("authorization"));
    hub.ranges.lock().unwrap().push(header("range"));
    let offset = header("range").map(|range| {
        range["bytes=".len()..]
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    let rest = hub.weights.slice(offset.unwrap_or(0)..);
    let status = if offset.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    if hub.breaks.swap(false, SeqCst) {
        let half = rest.slice(..rest.len() / 2);
        let arrived = hub.arrived.clone();
        let breaks = stream::once(async move {
            arrived.notified().await;
            Err(std::io::Error::other("the line broke"))
        });
        let pieces = stream::iter([Ok(half)]).chain(breaks);
        return (status, Body::from_stream(pieces)).into_response();
    }
    (status, rest).into_response()
}

#[tokio::test]
async fn a_model_is_brought_checked_and_not_fetched_twice() {
    let served = Served::new();
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let seen = Mutex::new(Vec::new());
    let note = |progress: Progress| seen.lock().unwrap().push(progress);
    let pulled = pull("hf:owner/name", folder.path(), &hub, &note)
        .await
        .unwrap();

    assert_eq!(pulled.model_id, "m-Q4_K_M");
    assert_eq!(pulled.path, folder.path().join("owner/name/m-Q4_K_M.gguf"));
    assert_eq!(
        pulled.verified,
        [(pulled.path.clone(), served.sha256.clone())]
    );
    assert_eq!(fs::read(&pulled.path).unwrap(), served.weights);
    let total = served.weights.len() as u64;
    let last = Progress {
        file: "m-Q4_K_M.gguf".to_owned(),
        bytes: total,
        total_bytes: Some(total),
    };
    assert_eq!(seen.lock().unwrap().last(), Some(&last));
    assert_eq!(
        served.tokens.lock().unwrap()[0].as_deref(),
        Some("Bearer secret")
    );

    pull("owner/name:q4_k_m", folder.path(), &hub, &|_| ())
        .await
        .unwrap();
    assert_eq!(served.ranges.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_continued() {
    let served = Served::new();
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("owner/name/m-Q4_K_M.gguf");
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::write(
        target.with_file_name("m-Q4_K_M.gguf.part"),
        &served.weights[..1000],
    )
    .unwrap();

    pull("owner/name", folder.path(), &hub, &|_| ())
        .await
        .unwrap();
    assert_eq!(fs::read(&target).unwrap(), served.weights);
    assert_eq!(
        *served.ranges.lock().unwrap(),
        [Some("bytes=1000-".to_owned())]
    );
}

#[tokio::test]
async fn a_broken_line_is_taken_up_again() {
    let served = Served::new();
    served.breaks.store(true, SeqCst);
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let half = served.weights.len() as u64 / 2;
    let tell = |progress: Progress| {
        if progress.bytes >= half {
            served.arrived.notify_one();
        }
    };
    let pulled = pull("owner/name", folder.path(), &hub, &tell)
        .await
        .unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), served.weights);
    let ranges = served.ranges.lock().unwrap();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].is_some());
}

#[tokio::test]
async fn a_wrong_hash_leaves_nothing() {
    let served = Served {
        sha256: "0".repeat(64),
        ..Served::new()
    };
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let error = pull("owner/name", folder.path(), &hub, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InternalError);
    assert!(error.message.contains("SHA-256"), "{}", error.message);
    assert_eq!(
        fs::read_dir(folder.path().join("owner/name"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn what_the_hub_has_not_is_said_plainly() {
    let served = Served::new();
    let (hub, server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let code = async |source: &str| {
        pull(source, folder.path(), &hub, &|_| ())
            .await
            .unwrap_err()
            .code
    };
    assert_eq!(code("owner/other").await, ErrorCode::ModelNotFound);
    assert_eq!(code("owner/name:q3").await, ErrorCode::ModelNotFound);
    assert_eq!(code("name").await, ErrorCode::InvalidValue);
    drop(server);
    assert_eq!(code("owner/name").await, ErrorCode::EngineUnavailable);
}

/// A second pull of a file that is on its way, then one more when it is there.
#[tokio::test]
async fn two_pulls_of_one_file_do_not_write_into_each_other() {
    let served = Served::new();
    served.breaks.store(true, SeqCst);
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let begun = Notify::new();
    let tell = |progress: Progress| {
        if progress.bytes > 0 {
            begun.notify_one();
        }
    };
    let first = pull("owner/name", folder.path(), &hub, &tell);
    tokio::pin!(first);
    tokio::select! {
        _ = &mut first => panic!("the hub has sent half of it"),
        () = begun.notified() => {}
    }
    let error = pull("owner/name", folder.path(), &hub, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelInUse);
    assert!(error.message.contains("another pull"), "{error}");

    served.arrived.notify_one();
    let pulled = first.await.unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), served.weights);
    pull("owner/name", folder.path(), &hub, &|_| ())
        .await
        .unwrap();
    let left = fs::read_dir(folder.path().join("owner/name")).unwrap();
    assert_eq!(left.count(), 1);
}

#[tokio::test]
async fn what_does_not_fit_on_the_disk_is_refused_before_it_is_fetched() {
    let served = Served {
        listed_bytes: Some(1 << 60),
        ..Served::new()
    };
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let error = pull("owner/name", folder.path(), &hub, &|_| ())
        .await
        .unwrap_err();
    assert!(error.message.contains("not enough room"), "{error}");
    assert_eq!(error.details["needed_bytes"], 1_u64 << 60);
    assert!(error.details["free_bytes"].as_u64().unwrap() < 1 << 60);
    assert_eq!(served.ranges.lock().unwrap().len(), 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_split_model_comes_whole_and_is_one() {
    let served = Served::new();
    let (hub, _server) = served.start().await;
    let folder = tempfile::tempdir().unwrap();
    let pulled = pull("owner/name:q2", folder.path(), &hub, &|_| ())
        .await
        .unwrap();
    let first = folder.path().join("owner/name/big-Q2-00001-of-00002.gguf");
    assert_eq!((pulled.model_id.as_str(), &pulled.path), ("big-Q2", &first));
    assert!(first.with_file_name("big-Q2-00002-of-00002.gguf").is_file());
    assert_eq!(pulled.bytes, 2 * served.weights.len() as u64);
}
