//! Images and sounds in chats: what is fetched and what isn't, and that no file outlives its request.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    http::{StatusCode as Status, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{StatusCode, multipart};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    files::try_upload,
    server::{DEADLINE, Home, kill_hard, until},
};

/// Begins like an image, which is all that anybody here looks at.
fn image(bytes: usize) -> Vec<u8> {
    let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
    image.resize(bytes, 7);
    image
}

fn sound(bytes: usize) -> Vec<u8> {
    let mut sound = b"RIFF\0\0\0\0WAVE".to_vec();
    sound.resize(bytes, 7);
    sound
}

fn part(url: &str) -> Value {
    json!({ "type": "image_url", "image_url": { "url": url } })
}

fn data(image: &[u8]) -> Value {
    part(&format!("data:image/png;base64,{}", STANDARD.encode(image)))
}

/// Two words, and what comes after them.
fn asked(model: &str, parts: &[Value]) -> Value {
    let text = json!({ "type": "text", "text": "two words" });
    let content: Vec<_> = [text].iter().chain(parts).cloned().collect();
    json!({ "model": model, "messages": [{ "role": "user", "content": content }] })
}

fn kept(home: &Home) -> usize {
    fs::read_dir(home.path().join("data/spool"))
        .unwrap()
        .count()
}

/// Somebody else's web server.
struct Web {
    url: String,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Web {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = |answer: (Status, [(header::HeaderName, &'static str); 1], Vec<u8>)| {
            let asked = asked.clone();
            get(move || async move {
                asked.fetch_add(1, Relaxed);
                answer
            })
        };
        let plain = || (header::CONTENT_TYPE, "image/png");
        let router = Router::new()
            .route("/image.png", counted((Status::OK, [plain()], image(100))))
            .route(
                "/large.png",
                counted((Status::OK, [plain()], image(1_200_000))),
            )
            .route(
                "/page.html",
                counted((Status::OK, [plain()], b"<html>".to_vec())),
            )
            .route(
                "/moved.png",
                counted((
                    Status::FOUND,
                    [(header::LOCATION, "/image.png")],
                    Vec::new(),
                )),
            );
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's own server, ended with it"
        )]
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, asked, task }
    }

    fn part(&self, path: &str) -> Value {
        part(&format!("{}{path}", self.url))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn images_and_sounds_reach_the_engine_as_files_and_go_with_the_answer() {
    let home = Home::new()
        .fake("seer", "multimodal", &[("tokens", "2")])
        .fake("reader", "lm", &[]);
    let server = home.start().await;
    let client = server.client();
    let web = Web::start().await;
    let sound = json!({
        "type": "input_audio",
        "input_audio": { "data": STANDARD.encode(sound(50)), "format": "wav" },
    });
    let parts = [data(&image(1000)), web.part("/image.png"), sound];
    for model in ["seer", "auto"] {
        let answer = client
            .ask("/v1/chat/completions", &asked(model, &parts))
            .await;
        // The fake engine counts every byte of a file as a token.
        assert_eq!(answer["usage"]["prompt_tokens"], 2 + 1000 + 100 + 50);
        assert_eq!(answer["model"], "seer");
        assert_eq!(kept(&home), 0);
    }
    assert_eq!(web.asked.load(Relaxed), 2);

    let job = json!({
        "model_id": "seer",
        "operation": "chat",
        "input": { "messages": asked("seer", &parts)["messages"] },
    });
    let (status, job) = client.post("/api/mcp/jobs", &job).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let id = job["job_id"].as_str().unwrap();
    let done = client
        .look(&format!("/api/mcp/jobs/{id}?wait_ms=30000"))
        .await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["result"]["usage"]["prompt_tokens"], 1152);
    assert_eq!(kept(&home), 0);
}

#[tokio::test]
async fn what_was_uploaded_is_named_by_its_id() {
    let home = Home::new().fake("seer", "multimodal", &[("tokens", "2")]);
    let server = home.start().await;
    let client = server.client();
    let upload = async |bytes: Vec<u8>| {
        let file = multipart::Part::bytes(bytes).file_name("a");
        let form = multipart::Form::new()
            .text("purpose", "user_data")
            .part("file", file);
        let (status, file) = try_upload(&client, form).await;
        assert_eq!(status, StatusCode::OK, "{file}");
        file["id"].clone()
    };
    let seen = |id: &Value| json!({ "type": "image_file", "image_file": { "file_id": id } });
    let heard = |id: &Value| json!({ "type": "audio_file", "audio_file": { "file_id": id } });
    let image = upload(image(1000)).await;
    let parts = [seen(&image), heard(&upload(sound(50)).await)];
    let job = json!({
        "model_id": "seer",
        "operation": "chat",
        "input": { "messages": asked("seer", &parts)["messages"] },
    });
    let job = client.ask("/api/mcp/jobs", &job).await;
    let id = job["job_id"].as_str().unwrap();
    let done = client
        .look(&format!("/api/mcp/jobs/{id}?wait_ms=30000"))
        .await;
    assert_eq!(done["result"]["usage"]["prompt_tokens"], 1052, "{done}");
    assert_eq!(kept(&home), 0);

    let none = json!("file-none");
    for (part, code) in [
        (seen(&none), "file_not_found"),
        (heard(&image), "invalid_value"),
        (json!({ "type": "image_file" }), "missing_field"),
    ] {
        let asked = asked("seer", std::slice::from_ref(&part));
        let (_, answer) = client.post("/v1/chat/completions", &asked).await;
        assert_eq!(answer["error"]["code"], code, "{part}: {answer}");
        let param = answer["error"]["param"].as_str().unwrap();
        assert!(param.starts_with("messages"), "{answer}");
    }
}

#[tokio::test]
async fn what_can_not_be_taken_is_refused_and_named() {
    let home = Home::new()
        .fake("seer", "multimodal", &[])
        .fake("reader", "lm", &[])
        .configured("[media]\nmax_file_mb = 1\n[server]\nmax_upload_mb = 2");
    let server = home.start().await;
    let client = server.client();
    let web = Web::start().await;
    let large = image(900_000);
    let place = "messages[0].content[1]";
    let cases = [
        (vec![web.part("/moved.png")], "url_not_allowed", place),
        (
            vec![part("http://169.254.169.254/latest/meta-data")],
            "url_not_allowed",
            place,
        ),
        (vec![part("http://[::1]:1/a.png")], "url_not_allowed", place),
        (
            vec![part("http://user:secret@127.0.0.1/a.png")],
            "url_not_allowed",
            place,
        ),
        (
            vec![part("http://127.0.0.1:1/a.png")],
            "invalid_value",
            place,
        ),
        (vec![web.part("/nothing.png")], "invalid_value", place),
        (vec![web.part("/page.html")], "invalid_value", place),
        (vec![web.part("/large.png")], "file_too_large", place),
        (vec![data(&image(1_000_001))], "file_too_large", place),
        (vec![data(b"GIF9 no image at all")], "invalid_value", place),
        (vec![part("ftp://127.0.0.1/a.png")], "invalid_value", place),
        (
            vec![data(&large), data(&large), data(&large)],
            "file_too_large",
            "messages[0].content[3]",
        ),
    ];
    for (parts, code, param) in cases {
        let (status, answer) = client
            .post("/v1/chat/completions", &asked("seer", &parts))
            .await;
        let error = &answer["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&code.into(), &param.into()),
            "{answer}"
        );
        let expected = if code == "file_too_large" { 413 } else { 400 };
        assert_eq!(status.as_u16(), expected, "{answer}");
    }

    let fetched = web.asked.load(Relaxed);
    let (status, answer) = client
        .post(
            "/v1/chat/completions",
            &asked("reader", &[web.part("/image.png")]),
        )
        .await;
    assert_eq!(
        (status, &answer["error"]["code"], &answer["error"]["param"]),
        (
            StatusCode::BAD_REQUEST,
            &"unsupported_operation".into(),
            &place.into()
        ),
        "{answer}"
    );
    assert_eq!(
        web.asked.load(Relaxed),
        fetched,
        "nothing is fetched for a model that can't see"
    );

    let own_file =
        json!({ "type": "media_file", "media_file": { "kind": "image", "path": "/etc/hostname" } });
    let (status, answer) = client
        .post("/v1/chat/completions", &asked("seer", &[own_file]))
        .await;
    assert_eq!(
        (status, &answer["error"]["param"]),
        (
            StatusCode::BAD_REQUEST,
            &"messages[0].content[1].type".into()
        )
    );
    assert_eq!(kept(&home), 0);
}

#[tokio::test]
async fn a_file_goes_with_its_client_with_its_engine_and_with_its_server() {
    let home = Home::new().fake(
        "slow",
        "multimodal",
        &[("tokens", "500"), ("delay_ms", "10")],
    );
    let server = home.start().await;
    let client = server.client();
    let mut streamed = asked("slow", &[data(&image(1000))]);
    streamed["stream"] = true.into();

    let mut events = client.stream(&streamed).await;
    events.next().await.unwrap();
    assert_eq!(kept(&home), 1);
    drop(events);
    until("the file goes with its client", DEADLINE, async || {
        kept(&home) == 0
    })
    .await;

    let mut events = client.stream(&streamed).await;
    events.next().await.unwrap();
    kill_hard(client.pid("slow").await);
    events.rest().await;
    until("the file goes with its engine", DEADLINE, async || {
        kept(&home) == 0
    })
    .await;

    let mut events = client.stream(&streamed).await;
    events.next().await.unwrap();
    server.kill().await;
    assert_eq!(kept(&home), 1);
    let _server = home.start().await;
    assert_eq!(kept(&home), 0);
}
