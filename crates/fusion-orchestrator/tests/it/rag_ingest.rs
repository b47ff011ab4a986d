use std::sync::Mutex;

use fusion_orchestrator::rag::{
    Content, CreateCollection, IngestDocument, IngestReport, IngestStatus, SearchRequest,
};
use fusion_types::{ErrorCode, Tenant, id::DocumentId, page::Window};
use serde_json::{Map, json};

use crate::support::{bench, call, file, request};

/// Paragraphs of 40 words each, all different.
fn paragraphs(names: &[&str]) -> String {
    let paragraph = |name: &&str| {
        (0..40)
            .map(|at| format!("{name}{at}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    names.iter().map(paragraph).collect::<Vec<_>>().join("\n\n")
}

#[tokio::test]
async fn every_stored_chunk_is_where_it_says() {
    let bench = bench();
    let text = format!(
        "Grüße 😀\n\n{}\r\n\r\n漢字。漢字。 fin",
        paragraphs(&["é", "ñ", "word"])
    );
    bench.ingest("a.md", &text).await;

    let list = bench
        .rag
        .documents(&call(), "docs", Window::default())
        .await
        .unwrap();
    let document = bench
        .rag
        .document(&call(), "docs", &list.documents[0].document_id)
        .await
        .unwrap();
    assert_eq!(document.text, text);
    assert!(document.chunks.len() > 3);
    let chars: Vec<char> = text.chars().collect();
    for chunk in &document.chunks {
        let place = chunk.char_start as usize..chunk.char_end as usize;
        assert_eq!(chars[place].iter().collect::<String>(), chunk.text);
    }
    assert_eq!(document.chunks.len() as u64, list.documents[0].chunk_count);
}

#[tokio::test]
async fn only_what_changed_is_embedded_again() {
    let bench = bench();
    let ingest = async |text: String| -> (IngestReport, usize) {
        let mut request = request(vec![file("a.txt", text.as_bytes())]);
        request.overlap = Some(0);
        let report = bench.rag.ingest(&call(), request, |_| {}).await.unwrap();
        (report, bench.models.take_embedded().len())
    };
    let (first, embedded) = ingest(paragraphs(&["a", "b", "c"])).await;
    assert_eq!(
        (first.documents_ingested, first.chunks_created, embedded),
        (1, 3, 3)
    );

    let (same, embedded) = ingest(paragraphs(&["a", "b", "c"])).await;
    assert_eq!(
        (same.documents_unchanged, same.documents_ingested, embedded),
        (1, 0, 0)
    );

    let before = bench
        .rag
        .document(&call(), "docs", &first.document_ids[0])
        .await
        .unwrap();
    let (changed, embedded) = ingest(paragraphs(&["a", "new", "c"])).await;
    assert_eq!(
        (changed.chunks_created, changed.chunks_reused, embedded),
        (3, 2, 1)
    );
    assert_eq!(
        changed.document_ids, first.document_ids,
        "the same file is the same document"
    );
    let document = bench
        .rag
        .document(&call(), "docs", &first.document_ids[0])
        .await
        .unwrap();
    assert_eq!(document.version, 2);
    let kept = |at: usize| before.chunks[at].chunk_id == document.chunks[at].chunk_id;
    assert_eq!([kept(0), kept(1), kept(2)], [true, false, true]);
    assert_eq!(bench.dense.size(), 3, "the old version has left the index");
}

#[tokio::test]
async fn a_text_without_a_name_is_known_again() {
    let bench = bench();
    let nameless = || IngestDocument {
        id: None,
        filename: None,
        content: Content::Text("some text".to_owned()),
        metadata: Map::new(),
    };
    let report = bench
        .rag
        .ingest(&call(), request(vec![nameless(), nameless()]), |_| {})
        .await
        .unwrap();
    assert_eq!(
        (report.documents_ingested, report.documents_unchanged),
        (1, 1)
    );
}

#[tokio::test]
async fn a_bad_document_does_not_stop_the_rest() {
    let bench = bench();
    let documents = vec![
        file("paper.pdf", b"%PDF-1.4"),
        file("latin.txt", b"caf\xe9"),
        file("good.txt", b"good text"),
        file("fake.txt", b"PK\x03\x04"),
        file("binary.md", b"a\0b"),
        file("good.txt", b"the same name again"),
        file("large.txt", &[b'x'; (1 << 16) + 1]),
    ];
    let report = bench
        .rag
        .ingest(&call(), request(documents), |_| {})
        .await
        .unwrap();
    assert_eq!(
        (report.documents_ingested, report.status),
        (1, IngestStatus::Partial)
    );
    let failed: Vec<_> = report
        .documents_failed
        .iter()
        .map(|failed| (failed.file.as_str(), failed.code))
        .collect();
    let expected = [
        ("paper.pdf", ErrorCode::UnsupportedFileType),
        ("latin.txt", ErrorCode::InvalidValue),
        ("fake.txt", ErrorCode::UnsupportedFileType),
        ("binary.md", ErrorCode::InvalidValue),
        ("good.txt", ErrorCode::InvalidValue),
        ("large.txt", ErrorCode::FileTooLarge),
    ];
    assert_eq!(failed, expected);
}

#[tokio::test]
async fn nothing_readable_makes_no_collection() {
    let bench = bench();
    let report = bench
        .rag
        .ingest(&call(), request(vec![file("a.pdf", b"%PDF-1.4")]), |_| {})
        .await
        .unwrap();
    assert_eq!(report.status, IngestStatus::Failed);
    let error = bench.rag.collection(&call(), "docs").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CollectionNotFound);
}

#[tokio::test]
async fn a_crash_leaves_nothing_half_ingested() {
    let bench = bench();
    bench.models.poison(Some("poison"));
    let text = paragraphs(&["a", "b", "c", "d", "e", "poison"]);
    let documents = || {
        vec![
            file("whole.txt", b"whole"),
            file("half.txt", text.as_bytes()),
        ]
    };
    let error = bench
        .rag
        .ingest(&call(), request(documents()), |_| {})
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineCrashed);
    let list = bench
        .rag
        .documents(&call(), "docs", Window::default())
        .await
        .unwrap();
    assert_eq!(
        list.documents.len(),
        1,
        "the first document is in, of the second there is nothing"
    );

    bench.models.poison(None);
    let report = bench
        .rag
        .ingest(&call(), request(documents()), |_| {})
        .await
        .unwrap();
    assert_eq!(
        (report.documents_unchanged, report.documents_ingested),
        (1, 1),
        "the same request again finishes it"
    );
}

#[tokio::test]
async fn chunks_are_cut_to_what_the_model_reads_and_the_report_says_so() {
    let bench = bench();
    let text = paragraphs(&["a"; 10]).replace("\n\n", " ");
    let report = bench
        .rag
        .ingest(
            &call(),
            request(vec![file("a.txt", text.as_bytes())]),
            |_| {},
        )
        .await
        .unwrap();
    assert_eq!(
        (report.chunk_size, report.chunk_size_requested),
        (64, Some(512)),
        "66 tokens less 2 special ones"
    );
    assert_eq!(report.overlap, 32);
    assert!(report.chunks_created >= 12);
}

#[tokio::test]
async fn a_collection_stays_with_its_model() {
    let bench = bench();
    bench.ingest("a.txt", "text").await;
    let mut other = request(vec![file("b.txt", b"more text")]);
    other.embedding_model = Some("other-embedder".to_owned());
    let error = bench.rag.ingest(&call(), other, |_| {}).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EmbeddingModelMismatch);
    let create = CreateCollection {
        name: "docs".to_owned(),
        embedding_model: Some("other-embedder".to_owned()),
        metadata: Map::new(),
    };
    let error = bench
        .rag
        .create_collection(&call(), create)
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::EmbeddingModelMismatch);

    bench.models.change("embedder", |card| {
        card.fingerprint = Some("other weights under the same name".into())
    });
    let error = bench
        .rag
        .search(&call(), SearchRequest::new("text", "docs"))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::EmbeddingModelMismatch);
}

#[tokio::test]
async fn progress_rises_to_one() {
    let bench = bench();
    let told = Mutex::new(Vec::new());
    let text = paragraphs(&["a", "b", "c", "d", "e", "f"]);
    let documents = vec![
        file("a.txt", text.as_bytes()),
        file("b.pdf", b""),
        file("c.txt", b"short"),
    ];
    bench
        .rag
        .ingest(&call(), request(documents), |part| {
            told.lock().unwrap().push(part)
        })
        .await
        .unwrap();
    let told = told.into_inner().unwrap();
    assert!(
        told.is_sorted() && told[0] < 0.34 && told.last() == Some(&1.0),
        "{told:?}"
    );
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let bench = bench();
    bench.ingest("a.txt", "text").await;
    let mut stranger = call();
    stranger.tenant = Tenant::new("stranger");
    assert_eq!(
        bench
            .rag
            .collections(&stranger, Window::default())
            .await
            .unwrap()
            .total,
        0
    );
    let error = bench
        .rag
        .search(&stranger, SearchRequest::new("text", "docs"))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::CollectionNotFound);
}

#[tokio::test]
async fn ids_and_metadata_given_are_kept() {
    let bench = bench();
    let body = json!({
        "collection": "docs", "metadata": {"lang": "en", "year": 1},
        "documents": [{"id": "report-1", "text": "words", "metadata": {"year": 2026}}],
    });
    let report = bench
        .rag
        .ingest(&call(), serde_json::from_value(body).unwrap(), |_| {})
        .await
        .unwrap();
    assert_eq!(report.document_ids, [DocumentId::from_text("report-1")]);
    let found = bench
        .rag
        .search(&call(), SearchRequest::new("words", "docs"))
        .await
        .unwrap();
    assert_eq!(found.sources[0].metadata["lang"], "en");
    assert_eq!(found.sources[0].metadata["year"], 2026);
    let deleted = bench
        .rag
        .delete_document(&call(), "docs", &report.document_ids[0])
        .await
        .unwrap();
    assert_eq!((deleted.chunks_deleted, bench.dense.size()), (1, 0));
}
