//! `/v1/files`.

use reqwest::{
    StatusCode,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use crate::{client::Client, server::Home};

/// Uploads and answers what came back.
pub(crate) async fn try_upload(client: &Client, form: Form) -> (StatusCode, Value) {
    let url = client.url("/v1/files");
    let answer = client.http().post(url).multipart(form).send();
    let answer = answer.await.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap())
}

pub(crate) async fn upload(client: &Client, text: String) -> String {
    let file = Part::text(text).file_name("lines.jsonl");
    let form = Form::new().text("purpose", "batch").part("file", file);
    let (status, file) = try_upload(client, form).await;
    assert_eq!(status, StatusCode::OK, "{file}");
    file["id"].as_str().unwrap().to_owned()
}

pub(crate) async fn content(client: &Client, id: &str) -> String {
    let url = client.url(&format!("/v1/files/{id}/content"));
    let answer = client.http().get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.unwrap()
}

#[tokio::test]
async fn a_file_is_kept_until_it_is_deleted() {
    let home = Home::new();
    let server = home.start().await;
    let client = server.client();
    let text = "a line\n".repeat(1_000_000);
    // Whatever the order of the fields.
    let file = Part::text(text.clone()).file_name("the lines.jsonl");
    let form = Form::new().part("file", file).text("purpose", "user_data");
    let (status, file) = try_upload(&client, form).await;
    assert_eq!(status, StatusCode::OK, "{file}");
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-"));
    assert_eq!(file["object"], "file");
    assert_eq!(file["bytes"], 7_000_000);
    assert_eq!(file["filename"], "the lines.jsonl");
    assert_eq!(file["status"], "processed");
    server.kill().await;

    let server = home.start().await;
    let client = server.client();
    assert_eq!(client.look(&format!("/v1/files/{id}")).await, file);
    assert!(content(&client, id).await == text);
    let listed = client.look("/v1/files?purpose=user_data").await;
    assert_eq!(listed["data"], json!([file]));
    assert_eq!(listed["has_more"], false);
    let (status, gone) = client.delete(&format!("/v1/files/{id}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(gone, json!({"id": id, "object": "file", "deleted": true}));
    for path in [format!("/v1/files/{id}"), format!("/v1/files/{id}/content")] {
        let (status, missing) = client.get(&path).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(missing["error"]["code"], "file_not_found");
    }
    assert_eq!(kept(&home), 0);
}

/// Files in the folder of the store.
fn kept(home: &Home) -> usize {
    let folder = home.path().join("data/blobs");
    let incoming = std::fs::read_dir(folder.join("incoming")).unwrap().count();
    incoming + std::fs::read_dir(folder).unwrap().count() - 1
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_refused_and_not_kept() {
    let home = Home::new().configured("[server]\nmax_upload_mb = 1");
    let server = home.start().await;
    let client = server.client();
    let part = |bytes: usize| Part::text("x".repeat(bytes)).file_name("a");
    let cases = [
        (Form::new().text("purpose", "batch"), 400, "missing_field"),
        (Form::new().part("file", part(9)), 400, "invalid_value"),
        (
            Form::new().part("file", part(9)).text("purpose", "fun"),
            400,
            "invalid_value",
        ),
        (
            Form::new()
                .text("purpose", "batch")
                .part("file", part(1_000_001)),
            413,
            "file_too_large",
        ),
        (
            Form::new()
                .part("file", part(9))
                .text("purpose", "x".repeat(5_000)),
            400,
            "invalid_value",
        ),
    ];
    for (form, status, code) in cases {
        let (answered, body) = try_upload(&client, form).await;
        assert_eq!(
            (answered.as_u16(), &body["error"]["code"]),
            (status, &code.into()),
            "{body}"
        );
    }
    let (status, body) = client.post("/v1/files", &json!({"purpose": "batch"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let whole = Form::new()
        .text("purpose", "batch")
        .text("expires_after[anchor]", "created_at")
        .text("expires_after[seconds]", "7200")
        .part("file", part(1_000_000));
    let (status, file) = try_upload(&client, whole).await;
    assert_eq!(status, StatusCode::OK, "{file}");
    let after = file["expires_at"].as_i64().unwrap() - file["created_at"].as_i64().unwrap();
    assert_eq!(after, 7200);
    assert_eq!(kept(&home), 1);
}
