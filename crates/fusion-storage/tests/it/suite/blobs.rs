//! The suite of `BlobStore`.

use bytes::Bytes;
use fusion_types::{
    Error, ErrorCode, Result,
    blob::{BlobStore, ByteStream},
    id::BlobId,
};
use futures::{StreamExt, TryStreamExt, stream};

fn pieces(pieces: Vec<Result<Bytes>>) -> ByteStream<'static> {
    stream::iter(pieces).boxed()
}

async fn read(store: &dyn BlobStore, id: &BlobId, offset: u64) -> Vec<u8> {
    let pieces: Vec<Bytes> = store
        .get(id, offset)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    pieces.concat()
}

pub(crate) async fn a_file_is_read_as_it_was_written(store: &dyn BlobStore) {
    let id = BlobId::generate();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let given = bytes
        .chunks(70_000)
        .map(|piece| Ok(Bytes::from(piece.to_vec())));
    let kept = store.put(&id, pieces(given.collect())).await.unwrap();
    assert_eq!(kept, 1_000_000);
    assert!(read(store, &id, 0).await == bytes);
    assert!(read(store, &id, 999_990).await == bytes[999_990..]);
    assert!(read(store, &id, 1_000_000).await.is_empty());
    assert!(read(store, &id, 2_000_000).await.is_empty());
}

/// Larger than any part that a backend may cut it into.
pub(crate) async fn a_large_file_is_read_from_anywhere(store: &dyn BlobStore) {
    let id = BlobId::generate();
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|n| (n % 251) as u8).collect();
    let given = bytes
        .chunks(1 << 20)
        .map(|piece| Ok(Bytes::from(piece.to_vec())));
    store.put(&id, pieces(given.collect())).await.unwrap();
    for offset in [0, 1, 4 << 20, (4 << 20) + 7, 9_000_000] {
        assert!(read(store, &id, offset as u64).await == bytes[offset..]);
    }
}

pub(crate) async fn an_empty_file_is_a_file(store: &dyn BlobStore) {
    let id = BlobId::generate();
    assert_eq!(store.put(&id, pieces(Vec::new())).await.unwrap(), 0);
    assert!(read(store, &id, 0).await.is_empty());
}

pub(crate) async fn a_source_that_breaks_off_leaves_nothing(store: &dyn BlobStore) {
    let id = BlobId::generate();
    let broken = vec![
        Ok(Bytes::from_static(b"abc")),
        Err(Error::new(ErrorCode::FileTooLarge, "too much")),
    ];
    let refused = store.put(&id, pieces(broken)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FileTooLarge);
    let missing = store.get(&id, 0).await.err().unwrap();
    assert_eq!(missing.code, ErrorCode::FileNotFound);
    let whole = vec![Ok(Bytes::from_static(b"abc"))];
    store.put(&id, pieces(whole)).await.unwrap();
    assert_eq!(read(store, &id, 0).await, b"abc");
}

pub(crate) async fn what_is_deleted_is_gone(store: &dyn BlobStore) {
    let (id, other) = (BlobId::generate(), BlobId::generate());
    for id in [&id, &other] {
        let bytes = vec![Ok(Bytes::from_static(b"abc"))];
        store.put(id, pieces(bytes)).await.unwrap();
    }
    store.delete(&id).await.unwrap();
    let missing = store.get(&id, 0).await.err().unwrap();
    assert_eq!(missing.code, ErrorCode::FileNotFound);
    store.delete(&id).await.unwrap();
    assert_eq!(read(store, &other, 0).await, b"abc");
}

pub(crate) async fn no_path_is_an_id(store: &dyn BlobStore) {
    for text in ["../fusiond.sqlite", "blob-/../../lock", "", "incoming"] {
        let missing = store.get(&BlobId::from_text(text), 0).await.err().unwrap();
        assert_eq!(missing.code, ErrorCode::FileNotFound, "{text}");
    }
}
