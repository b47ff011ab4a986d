//! Values of any size, in parts that fit a document.

use mongodb::{
    ClientSession,
    bson::{Binary, doc, oid::ObjectId, spec::BinarySubtype},
};
use serde::{Deserialize, Serialize};

use super::{Mongo, all, schema::BLOBS};
use crate::error::StoreError;

/// Bytes of a part; a document holds 16 MB.
const PART: usize = 4 << 20;

/// Names a value by its parts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) blob: ObjectId,
    pub(super) parts: i64,
}

/// A part, as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Part {
    blob: ObjectId,
    part: i64,
    /// The job it belongs to; none where a transaction keeps it together with what names it.
    job_id: Option<String>,
    body: Binary,
}

/// The value in parts, and its name.
pub(super) fn cut(job_id: Option<&str>, bytes: &[u8]) -> (Blob, Vec<Part>) {
    let blob = ObjectId::new();
    let parts: Vec<Part> = (0..)
        .zip(bytes.chunks(PART))
        .map(|(part, bytes)| Part {
            blob,
            part,
            job_id: job_id.map(str::to_owned),
            body: Binary {
                subtype: BinarySubtype::Generic,
                bytes: bytes.to_vec(),
            },
        })
        .collect();
    let parts_count = parts.len() as i64;
    (
        Blob {
            blob,
            parts: parts_count,
        },
        parts,
    )
}

impl Mongo {
    pub(super) async fn put_blob(&self, job_id: &str, bytes: &[u8]) -> Result<Blob, StoreError> {
        let (blob, parts) = cut(Some(job_id), bytes);
        self.put_parts(parts).await?;
        Ok(blob)
    }

    /// One after the other: together they would not fit a message.
    pub(super) async fn put_parts(&self, parts: Vec<Part>) -> Result<(), StoreError> {
        let collection = self.database.collection::<Part>(BLOBS);
        for part in parts {
            collection.insert_one(part).await?;
        }
        Ok(())
    }

    pub(super) async fn put_parts_in(
        &self,
        parts: &[Part],
        session: &mut ClientSession,
    ) -> Result<(), StoreError> {
        let collection = self.database.collection::<Part>(BLOBS);
        for part in parts {
            collection.insert_one(part).session(&mut *session).await?;
        }
        Ok(())
    }

    /// `None` where a part is gone.
    pub(super) async fn blob(&self, blob: Blob) -> Result<Option<Vec<u8>>, StoreError> {
        let cursor = self
            .database
            .collection::<Part>(BLOBS)
            .find(doc! { "blob": blob.blob })
            .sort(doc! { "part": 1 })
            .await?;
        let parts = all(cursor).await?;
        if parts.len() as i64 != blob.parts {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.body.bytes.len()).sum());
        for part in parts {
            bytes.extend(part.body.bytes);
        }
        Ok(Some(bytes))
    }

    pub(super) async fn delete_blobs(&self, blobs: &[ObjectId]) -> Result<(), StoreError> {
        if !blobs.is_empty() {
            self.collection(BLOBS)
                .delete_many(doc! { "blob": { "$in": blobs.to_vec() } })
                .await?;
        }
        Ok(())
    }
}
