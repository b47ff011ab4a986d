//! The suite of `DocumentStore`.

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    document::{
        CollectionRef, DocumentVersion, IndexChange, IndexChangeKind, NewChunk, NewCollection,
    },
    id::{ChunkId, DocumentId},
    job::Seq,
    page::Window,
    store::DocumentStore,
};
use serde_json::{Map, json};

fn key(name: &str) -> CollectionRef {
    CollectionRef {
        tenant: Tenant::default(),
        name: name.into(),
    }
}

fn new_collection(key: &CollectionRef) -> NewCollection {
    NewCollection {
        key: key.clone(),
        embedding_model: "mini".to_owned(),
        fingerprint: "f1".to_owned(),
        dimension: 2,
        metadata: Map::new(),
        created_at: Timestamp::now(),
    }
}

pub(crate) async fn collection(store: &dyn DocumentStore) -> CollectionRef {
    let key = key("docs");
    store.create_collection(new_collection(&key)).await.unwrap();
    key
}

/// A version whose chunks are these words, one behind the other, under ids made from document and word.
pub(crate) fn version(key: &CollectionRef, id: &str, words: &[&str]) -> DocumentVersion {
    let mut metadata = Map::new();
    metadata.insert("title".to_owned(), json!(id));
    let mut chunks = Vec::new();
    let mut start = 0;
    for word in words {
        let end = start + word.chars().count() as u64;
        chunks.push(NewChunk {
            id: chunk_id(id, word),
            text: (*word).to_owned(),
            char_start: start,
            char_end: end,
            page: Some(1),
            embedding: vec![word.len() as f32, 0.5],
        });
        start = end;
    }
    DocumentVersion {
        collection: key.clone(),
        document_id: DocumentId::from_text(id),
        filename: Some(format!("{id}.txt")),
        text: words.concat(),
        content_hash: words.join("|"),
        metadata,
        chunks,
        ingested_at: Timestamp::now(),
        at_least: 0,
    }
}

fn chunk_id(document: &str, word: &str) -> ChunkId {
    ChunkId::from_text(&format!("{document}-{word}"))
}

async fn counts(store: &dyn DocumentStore, key: &CollectionRef) -> (u64, u64) {
    let collection = store.collection(key).await.unwrap().unwrap();
    (collection.document_count, collection.chunk_count)
}

/// `+word` and `-word`, as the log tells them after `after`.
async fn log(store: &dyn DocumentStore, key: &CollectionRef, after: Seq) -> Vec<String> {
    let mut changes = store
        .index_changes(key, after, 1000)
        .await
        .unwrap()
        .into_iter()
        .map(tell)
        .collect::<Vec<_>>();
    changes.sort();
    changes
}

fn tell(change: IndexChange) -> String {
    match change.kind {
        IndexChangeKind::Add {
            text, embedding, ..
        } => {
            assert_eq!(embedding, [text.len() as f32, 0.5]);
            format!("+{text}")
        }
        IndexChangeKind::Remove { chunk_id } => {
            format!("-{}", chunk_id.as_str().split_once('-').unwrap().1)
        }
    }
}

pub(crate) async fn a_collection_is_made_once(store: &dyn DocumentStore) {
    let key = key("docs");
    assert_eq!(store.collection(&key).await.unwrap(), None);
    let made = store.create_collection(new_collection(&key)).await.unwrap();
    let other = NewCollection {
        embedding_model: "large".to_owned(),
        dimension: 9,
        ..new_collection(&key)
    };
    assert_eq!(store.create_collection(other).await.unwrap(), made);
    assert_eq!((made.dimension, made.fingerprint.as_str()), (2, "f1"));
    let stranger = CollectionRef {
        tenant: Tenant::new("stranger"),
        ..key.clone()
    };
    assert_eq!(store.collection(&stranger).await.unwrap(), None);
    store
        .create_collection(new_collection(&stranger))
        .await
        .unwrap();
    let page = store
        .collections(&key.tenant, Window::default())
        .await
        .unwrap();
    assert_eq!((page.items, page.total), (vec![made], 1));
}

pub(crate) async fn a_version_replaces_the_one_before(store: &dyn DocumentStore) {
    let key = collection(store).await;
    let missing = CollectionRef {
        name: "missing".into(),
        ..key.clone()
    };
    let refused = store
        .commit(version(&missing, "d", &["a"]))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::CollectionNotFound);

    let first = store
        .commit(version(&key, "d", &["naïve", "bb"]))
        .await
        .unwrap();
    let second = store
        .commit(version(&key, "d", &["bb", "cc", "naïve"]))
        .await
        .unwrap();
    assert_eq!((first.version, second.version), (1, 2));
    assert!(second.seq > first.seq);
    assert_eq!(counts(store, &key).await, (1, 3));

    let document = store
        .document(&key, &DocumentId::from_text("d"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(document.text, "bbccnaïve");
    assert_eq!((document.info.version, document.info.chunk_count), (2, 3));
    assert_eq!(document.info.content_hash, "bb|cc|naïve");
    let text = document.text.chars().collect::<Vec<_>>();
    for chunk in &document.chunks {
        let span = text[chunk.char_start as usize..chunk.char_end as usize]
            .iter()
            .collect::<String>();
        assert_eq!(span, chunk.text);
        assert_eq!(
            (chunk.page, chunk.filename.as_deref()),
            (Some(1), Some("d.txt"))
        );
        assert_eq!(chunk.metadata["title"], json!("d"));
    }
    assert_eq!(
        document
            .chunks
            .iter()
            .map(|chunk| chunk.text.as_str())
            .collect::<Vec<_>>(),
        ["bb", "cc", "naïve"]
    );

    for (at_least, number) in [(9, 9), (2, 10), (0, 11)] {
        let moved = DocumentVersion {
            at_least,
            ..version(&key, "moved", &["a"])
        };
        assert_eq!(store.commit(moved).await.unwrap().version, number);
    }
}

pub(crate) async fn a_vector_of_another_model_changes_nothing(store: &dyn DocumentStore) {
    let key = collection(store).await;
    store.commit(version(&key, "d", &["a"])).await.unwrap();
    let mut other = version(&key, "d", &["b", "c"]);
    other.chunks[1].embedding = vec![1.0; 3];
    let refused = store.commit(other).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::EmbeddingModelMismatch);
    let document = store
        .document(&key, &DocumentId::from_text("d"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((document.info.version, document.text.as_str()), (1, "a"));
}

pub(crate) async fn a_chunk_id_is_used_once(store: &dyn DocumentStore) {
    let key = collection(store).await;
    store.commit(version(&key, "d", &["a"])).await.unwrap();
    let mut thief = version(&key, "e", &["b", "c"]);
    thief.chunks[1].id = chunk_id("d", "a");
    assert_eq!(
        store.commit(thief).await.unwrap_err().code,
        ErrorCode::InvalidValue
    );
    assert_eq!(counts(store, &key).await, (1, 1));
    assert_eq!(log(store, &key, Seq(0)).await, ["+a"]);
}

pub(crate) async fn the_log_tells_what_changed(store: &dyn DocumentStore) {
    let key = collection(store).await;
    let first = store
        .commit(version(&key, "d", &["a", "bb"]))
        .await
        .unwrap();
    assert_eq!(log(store, &key, Seq(0)).await, ["+a", "+bb"]);
    let same = store
        .commit(version(&key, "d", &["a", "bb"]))
        .await
        .unwrap();
    assert_eq!(same.seq, first.seq, "what stays is no change");
    let second = store
        .commit(version(&key, "d", &["bb", "ccc"]))
        .await
        .unwrap();
    assert_eq!(log(store, &key, first.seq).await, ["+ccc", "-a"]);
    assert_eq!(log(store, &key, Seq(0)).await, ["+bb", "+ccc", "-a"]);
    assert!(log(store, &key, second.seq).await.is_empty());
    // The same id with another text and vector is a change.
    let mut edited = version(&key, "d", &["bb", "dddd"]);
    edited.chunks[1].id = chunk_id("d", "ccc");
    let third = store.commit(edited).await.unwrap();
    assert_eq!(log(store, &key, second.seq).await, ["+dddd"]);
    store
        .delete(&key, &DocumentId::from_text("d"))
        .await
        .unwrap();
    assert_eq!(log(store, &key, third.seq).await, ["-bb", "-ccc"]);
    store.commit(version(&key, "d", &["bb"])).await.unwrap();
    assert_eq!(log(store, &key, third.seq).await, ["+bb", "-bb", "-ccc"]);
}

pub(crate) async fn the_log_can_be_read_in_steps(store: &dyn DocumentStore) {
    let key = collection(store).await;
    let mut newest = Seq(0);
    for round in 0..5 {
        let words = (0..=round)
            .map(|word| format!("w{word}"))
            .collect::<Vec<_>>();
        let words = words
            .iter()
            .skip(round % 2)
            .map(String::as_str)
            .collect::<Vec<_>>();
        newest = store
            .commit(version(&key, &format!("d{}", round % 3), &words))
            .await
            .unwrap()
            .seq;
    }
    let whole = store.index_changes(&key, Seq(0), 1000).await.unwrap();
    let mut steps = Vec::new();
    let mut after = Seq(0);
    loop {
        let step = store.index_changes(&key, after, 2).await.unwrap();
        let Some(last) = step.last() else { break };
        assert!(last.seq > after, "a reader always gets on");
        after = last.seq;
        steps.extend(step);
    }
    assert_eq!((steps, after), (whole, newest));
}

pub(crate) async fn deleted_documents_are_gone(store: &dyn DocumentStore) {
    let key = collection(store).await;
    store
        .commit(version(&key, "d", &["a", "bb"]))
        .await
        .unwrap();
    store.commit(version(&key, "e", &["a"])).await.unwrap();
    let asked = [
        chunk_id("e", "a"),
        chunk_id("d", "bb"),
        ChunkId::from_text("unknown"),
        chunk_id("d", "a"),
    ];
    let live = store.live_chunks(&key, &asked).await.unwrap();
    let live = live
        .into_iter()
        .map(|chunk| chunk.chunk_id)
        .collect::<Vec<_>>();
    assert_eq!(
        live,
        [asked[0].clone(), asked[1].clone(), asked[3].clone()],
        "in the order asked"
    );

    let id = DocumentId::from_text("d");
    assert_eq!(store.delete(&key, &id).await.unwrap(), 2);
    assert_eq!(store.live_chunks(&key, &asked).await.unwrap().len(), 1);
    assert_eq!(store.document(&key, &id).await.unwrap(), None);
    assert_eq!(counts(store, &key).await, (1, 1));
    assert_eq!(
        store.delete(&key, &id).await.unwrap_err().code,
        ErrorCode::DocumentNotFound
    );
    assert_eq!(
        store
            .commit(version(&key, "d", &["a"]))
            .await
            .unwrap()
            .version,
        1
    );
}

pub(crate) async fn deleted_collections_are_gone(store: &dyn DocumentStore) {
    let key = collection(store).await;
    let words = (0..1200).map(|word| format!("w{word}")).collect::<Vec<_>>();
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    store.commit(version(&key, "d", &words)).await.unwrap();
    store.delete_collection(&key).await.unwrap();
    assert_eq!(store.collection(&key).await.unwrap(), None);
    assert_eq!(
        store.delete_collection(&key).await.unwrap_err().code,
        ErrorCode::CollectionNotFound
    );
    assert!(
        store
            .live_chunks(&key, &[chunk_id("d", "w1")])
            .await
            .unwrap()
            .is_empty()
    );

    collection(store).await;
    assert_eq!(counts(store, &key).await, (0, 0));
    assert!(
        store
            .index_changes(&key, Seq(0), 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        store
            .documents(&key, Window::default())
            .await
            .unwrap()
            .total,
        0
    );
    assert_eq!(
        store
            .commit(version(&key, "d", &["a"]))
            .await
            .unwrap()
            .version,
        1
    );
}

pub(crate) async fn known_vectors_are_found_by_text(store: &dyn DocumentStore) {
    let key = collection(store).await;
    store
        .commit(version(&key, "d", &["a", "bb"]))
        .await
        .unwrap();
    store.commit(version(&key, "e", &["ccc"])).await.unwrap();
    let id = DocumentId::from_text("d");
    let known = store
        .known_vectors(&key, &id, &["bb", "ccc", "a", "bb"])
        .await
        .unwrap();
    let bb = Some(vec![2.0, 0.5]);
    assert_eq!(known, [bb.clone(), None, Some(vec![1.0, 0.5]), bb]);
    store.commit(version(&key, "d", &["a"])).await.unwrap();
    assert_eq!(
        store.known_vectors(&key, &id, &["bb"]).await.unwrap(),
        [None]
    );
    let unknown = DocumentId::from_text("unknown");
    assert_eq!(
        store.known_vectors(&key, &unknown, &["a"]).await.unwrap(),
        [None]
    );
}

pub(crate) async fn lists_come_in_pages(store: &dyn DocumentStore) {
    let key = collection(store).await;
    for id in ["c", "a", "b"] {
        store.commit(version(&key, id, &["x"])).await.unwrap();
    }
    let page = store
        .documents(
            &key,
            Window {
                limit: 2,
                offset: 1,
            },
        )
        .await
        .unwrap();
    let ids = page
        .items
        .iter()
        .map(|info| info.document_id.as_str())
        .collect::<Vec<_>>();
    assert_eq!((ids, page.total), (vec!["a", "b"], 3));
    let missing = CollectionRef {
        name: "missing".into(),
        ..key
    };
    assert_eq!(
        store
            .documents(&missing, Window::default())
            .await
            .unwrap()
            .total,
        0
    );
}
