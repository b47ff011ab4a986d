//! Files in parts that fit a document. A file is there once its head is, which comes last; parts that never got one go after a day.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fusion_types::{
    Error, ErrorCode, Result,
    blob::{BlobStore, ByteStream},
    id::BlobId,
};
use futures::{StreamExt, stream};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};

use super::{
    Mongo,
    deadline::within,
    from_stored,
    schema::{FILE_PARTS, FILES},
    stored_time, to_stored,
};
use crate::error::{StoreError, unavailable};

/// Bytes of every part but the last; a document holds 16 MB.
const PART: usize = 4 << 20;

pub(crate) struct Files {
    store: Arc<Mongo>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "_id")]
    id: String,
    bytes: i64,
}

#[derive(Serialize, Deserialize)]
struct Part {
    file: String,
    part: i64,
    /// Until the file is whole: what is left of one that never was goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unfinished_since: Option<DateTime>,
    body: Binary,
}

/// Where a reader is.
struct Place {
    store: Arc<Mongo>,
    file: String,
    bytes: u64,
    offset: u64,
}

impl Files {
    pub(crate) fn new(store: Arc<Mongo>) -> Self {
        Self { store }
    }

    async fn write(&self, id: &BlobId, mut source: ByteStream<'_>) -> Result<u64> {
        let since = within(self.store.now()).await?;
        let (mut gathered, mut number, mut bytes) = (BytesMut::new(), 0, 0);
        while let Some(piece) = source.next().await {
            let piece = piece?;
            bytes += piece.len() as u64;
            gathered.extend_from_slice(&piece);
            while gathered.len() >= PART {
                let body = gathered.split_to(PART).freeze();
                within(self.insert(id, number, stored_time(since), &body)).await?;
                number += 1;
            }
        }
        within(self.insert(id, number, stored_time(since), &gathered)).await?;
        Ok(bytes)
    }

    async fn insert(
        &self,
        id: &BlobId,
        part: i64,
        since: DateTime,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let part = Part {
            file: id.as_str().to_owned(),
            part,
            unfinished_since: Some(since),
            body: Binary {
                subtype: BinarySubtype::Generic,
                bytes: bytes.to_vec(),
            },
        };
        let parts = self.store.database.collection::<Part>(FILE_PARTS);
        parts.insert_one(part).await?;
        Ok(())
    }

    async fn publish(&self, id: &BlobId, bytes: u64) -> Result<(), StoreError> {
        let head = Head {
            id: id.as_str().to_owned(),
            bytes: to_stored(bytes),
        };
        let heads = self.store.database.collection::<Head>(FILES);
        heads.insert_one(head).await?;
        let finished = doc! { "$unset": { "unfinished_since": 1 } };
        let parts = self.store.collection(FILE_PARTS);
        parts
            .update_many(doc! { "file": id.as_str() }, finished)
            .await?;
        Ok(())
    }

    async fn delete_file(&self, id: &BlobId) -> Result<(), StoreError> {
        let heads = self.store.collection(FILES);
        heads.delete_one(doc! { "_id": id.as_str() }).await?;
        let parts = self.store.collection(FILE_PARTS);
        parts.delete_many(doc! { "file": id.as_str() }).await?;
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Files {
    async fn put(&self, id: &BlobId, source: ByteStream<'_>) -> Result<u64> {
        let written = match self.write(id, source).await {
            Ok(bytes) => within(self.publish(id, bytes)).await.map(|()| bytes),
            Err(error) => Err(error),
        };
        if written.is_err()
            && let Err(error) = self.delete(id).await
        {
            tracing::warn!(%error, "an unfinished file stays for a day");
        }
        written
    }

    async fn get(&self, id: &BlobId, offset: u64) -> Result<ByteStream<'static>> {
        let heads = self.store.database.collection::<Head>(FILES);
        let wanted = doc! { "_id": id.as_str() };
        let head = within(async { Ok(heads.find_one(wanted).await?) }).await?;
        let Some(head) = head else {
            let message = format!("there is no file {id}");
            return Err(Error::new(ErrorCode::FileNotFound, message));
        };
        let place = Place {
            store: Arc::clone(&self.store),
            file: head.id,
            bytes: from_stored(head.bytes),
            offset,
        };
        Ok(stream::try_unfold(place, read_part).boxed())
    }

    async fn delete(&self, id: &BlobId) -> Result<()> {
        within(self.delete_file(id)).await
    }
}

/// The rest of the part that the place is in.
async fn read_part(mut place: Place) -> Result<Option<(Bytes, Place)>> {
    if place.offset >= place.bytes {
        return Ok(None);
    }
    let (part, skipped) = (place.offset / PART as u64, place.offset % PART as u64);
    let parts = place.store.database.collection::<Part>(FILE_PARTS);
    let wanted = doc! { "file": &place.file, "part": to_stored(part) };
    let found = within(async { Ok(parts.find_one(wanted).await?) }).await?;
    let body = found.map(|part| Bytes::from(part.body.bytes));
    let rest = body
        .filter(|body| body.len() as u64 > skipped)
        .map(|body| body.slice(skipped as usize..))
        .ok_or_else(|| unavailable("a part of the file is gone"))?;
    place.offset += rest.len() as u64;
    Ok(Some((rest, place)))
}
