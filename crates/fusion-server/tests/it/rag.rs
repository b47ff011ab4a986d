//! Retrieval by the routes, on the fake engine: what it finds is crude, what it says about it must be true.

use reqwest::{StatusCode, multipart};
use serde_json::{Value, json};

use crate::{client::Client, files::try_upload, server::Home};

const SEA: &str = "Whales are mammals. They breathe air.\n\nThe blue whale is the largest animal. Größe: 30 metres — 🐋.";
const SKY: &str =
    "Stars are made of hydrogen.\n\nThe sun is a star. Light takes eight minutes from the sun.";

fn home() -> Home {
    Home::new()
        .fake("vectors", "embeddings", &[])
        .fake("echo", "lm", &[("tokens", "4")])
}

async fn ingest(client: &Client) -> Value {
    let file = |name: &str, text: &str| {
        multipart::Part::bytes(text.as_bytes().to_vec()).file_name(name.to_owned())
    };
    let form = multipart::Form::new()
        .text("collection", "facts")
        .text("chunk_size", "16")
        .text("overlap", "2")
        .part("files[]", file("sea.md", SEA))
        .part("files[]", file("sky.txt", SKY))
        .part(
            "files[]",
            multipart::Part::bytes(vec![0xff, 0xfe, 0x00]).file_name("broken.txt"),
        );
    let answer = client
        .http()
        .post(client.url("/api/rag/ingest"))
        .multipart(form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

/// `text[char_start:char_end] == chunk`, in the document as it is stored.
async fn check_spans(client: &Client, sources: &Value) {
    for source in sources.as_array().unwrap() {
        let id = source["document_id"].as_str().unwrap();
        let document = client.look(&format!("/api/rag/documents/facts/{id}")).await;
        let text: Vec<char> = document["text"].as_str().unwrap().chars().collect();
        let at = |name: &str| usize::try_from(source["metadata"][name].as_u64().unwrap()).unwrap();
        let cut: String = text[at("char_start")..at("char_end")].iter().collect();
        assert_eq!(source["text"], cut);
    }
}

#[tokio::test]
async fn finds_what_was_ingested_and_cites_where_it_stands() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    let report = ingest(&client).await;
    assert_eq!(report["documents_ingested"], 2, "{report}");
    assert_eq!(report["documents_failed"][0]["file"], "broken.txt");

    for mode in ["hybrid", "dense", "keyword"] {
        let query = json!({ "query": "the largest whale", "collection": "facts", "top_k": 2, "mode": mode });
        let answer = client.ask("/api/rag/query", &query).await;
        assert_eq!(
            answer["sources"][0]["metadata"]["file"], "sea.md",
            "{mode}: {answer}"
        );
        assert!(
            answer["answer"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        check_spans(&client, &answer["sources"]).await;
    }
}

#[tokio::test]
async fn unchanged_documents_stay_and_deleted_ones_are_gone() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    ingest(&client).await;
    let again = ingest(&client).await;
    assert_eq!(
        (&again["documents_ingested"], &again["documents_unchanged"]),
        (&0.into(), &2.into())
    );

    let listed = client.look("/api/rag/documents/facts").await;
    let sea = listed["documents"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["filename"] == "sea.md")
        .unwrap();
    let id = sea["document_id"].as_str().unwrap();
    let (status, deleted) = client
        .delete(&format!("/api/rag/documents/facts/{id}"))
        .await;
    assert_eq!(
        (status, &deleted["status"]),
        (StatusCode::OK, &"deleted".into())
    );
    let query = json!({ "query": "the largest whale", "collection": "facts" });
    let found = client.ask("/api/rag/search", &query).await;
    assert!(
        found["sources"]
            .as_array()
            .unwrap()
            .iter()
            .all(|source| source["document_id"] != id),
        "{found}"
    );
}

#[tokio::test]
async fn documents_survive_a_killed_server() {
    let home = home();
    let server = home.start().await;
    ingest(&server.client()).await;
    server.kill().await;
    let server = home.start().await;
    let client = server.client();
    let query = json!({ "query": "light from the sun", "collection": "facts", "top_k": 1 });
    let found = client.ask("/api/rag/search", &query).await;
    assert_eq!(found["sources"][0]["metadata"]["file"], "sky.txt");
    check_spans(&client, &found["sources"]).await;
}

#[tokio::test]
async fn the_workflow_retrieves_reranks_and_generates() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    ingest(&client).await;
    let request = json!({
        "workflow": "rag_with_rerank",
        "input": { "query": "the largest whale", "collection": "facts", "top_k": 2 },
        "models": { "generation": "echo" },
    });
    let run = client.ask("/api/fusion/orchestrate", &request).await;
    assert_eq!(run["status"], "completed", "{run}");
    let steps: Vec<_> = run["execution_trace"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["retrieval", "rerank", "generation"]);
    assert_eq!(run["result"]["sources"][0]["metadata"]["file"], "sea.md");
    assert!(run["run_id"].as_str().unwrap().starts_with("run-"));

    let listed = client.look("/api/fusion/workflows").await;
    assert_eq!(listed["workflows"][0]["id"], "rag_with_rerank");
    let can = client
        .look("/api/fusion/capabilities?capability=embeddings")
        .await;
    assert_eq!(can["capabilities"]["embeddings"], json!(["vectors"]));
}

#[tokio::test]
async fn a_job_takes_in_files_by_their_ids() {
    let home = home();
    let server = home.start().await;
    let client = server.client();
    let upload = async |name: &str, bytes: &[u8]| {
        let file = multipart::Part::bytes(bytes.to_vec()).file_name(name.to_owned());
        let form = multipart::Form::new()
            .text("purpose", "user_data")
            .part("file", file);
        let (status, file) = try_upload(&client, form).await;
        assert_eq!(status, StatusCode::OK, "{file}");
        file["id"].clone()
    };
    let sea = upload("sea.md", SEA.as_bytes()).await;
    let pdf = upload("a.pdf", b"%PDF-1.4").await;
    let job = |documents: Value| {
        json!({
            "operation": "rag_ingest",
            "input": { "collection": "facts", "documents": documents },
        })
    };
    let documents = json!([
        { "file_id": sea }, { "file_id": "file-none" }, { "file_id": pdf }, { "text": SKY, "filename": "sky" },
    ]);
    let submitted = client.ask("/api/mcp/jobs", &job(documents)).await;
    let id = submitted["job_id"].as_str().unwrap();
    let job_done = client
        .look(&format!("/api/mcp/jobs/{id}?wait_ms=30000"))
        .await;
    assert_eq!(job_done["status"], "completed", "{job_done}");
    let report = &job_done["result"];
    assert_eq!(report["documents_ingested"], 2, "{report}");
    let failed: Vec<_> = report["documents_failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failed| {
            (
                failed["file"].as_str().unwrap(),
                failed["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        failed,
        [
            ("file-none", "file_not_found"),
            (pdf.as_str().unwrap(), "unsupported_file_type")
        ]
    );
    let documents = client.look("/api/rag/documents/facts").await;
    let names = documents["documents"].as_array().unwrap().iter();
    let mut names: Vec<_> = names.map(|document| document["filename"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["sea.md", "sky"]);

    for wrong in [json!([{}]), json!([{ "text": "x", "file_id": sea }])] {
        let (status, error) = client.post("/api/mcp/jobs", &job(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("file_id"), "{message}");
    }
}
