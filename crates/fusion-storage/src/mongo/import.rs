//! The mark of a store that moves in, and its records. No server starts on half a store.

use fusion_types::{Error, ErrorCode};
use mongodb::bson::{Document, doc};

use super::{
    Mongo, is_duplicate,
    schema::{BLOBS, CHANGES, COLLECTIONS, CONTROL, FILES, JOBS, RECORDS, WEBHOOKS},
};
use crate::{error::StoreError, migrate::moved::MovedRecord};

/// The document that says which store moves in.
const MARK: &str = "migration";

impl Mongo {
    /// True where this store has moved in already, to the end.
    ///
    /// # Errors
    /// `invalid_value` where the database holds anything else.
    pub(crate) async fn begin_taking(&self, source: &str) -> Result<bool, StoreError> {
        let control = self.collection(CONTROL);
        if let Some(mark) = control.find_one(doc! { "_id": MARK }).await?
            && mark.get_str("source").is_ok_and(|other| other == source)
        {
            return Ok(mark.get_bool("is_done").unwrap_or(false));
        }
        for name in [JOBS, CHANGES, BLOBS, FILES, RECORDS, WEBHOOKS, COLLECTIONS] {
            if self.collection(name).find_one(doc! {}).await?.is_some() {
                let message = format!(
                    "the database {} is in use already ({name}); name an empty one with state.mongo_db (MONGO_DB)",
                    self.database.name()
                );
                return Err(Error::invalid("state.mongo_db", message).into());
            }
        }
        let mark = doc! { "_id": MARK, "source": source, "is_done": false };
        control
            .replace_one(doc! { "_id": MARK }, mark)
            .upsert(true)
            .await?;
        Ok(false)
    }

    pub(crate) async fn end_taking(&self) -> Result<(), StoreError> {
        self.collection(CONTROL)
            .update_one(doc! { "_id": MARK }, doc! { "$set": { "is_done": true } })
            .await?;
        Ok(())
    }

    /// # Errors
    /// `store_unavailable` while a store moves in.
    pub(super) async fn check_whole(&self) -> Result<(), StoreError> {
        let unfinished = doc! { "_id": MARK, "is_done": false };
        if self
            .collection(CONTROL)
            .find_one(unfinished)
            .await?
            .is_none()
        {
            return Ok(());
        }
        let message =
            "a store was moved into this database but not to the end; run `fusiond migrate` again";
        Err(Error::new(ErrorCode::StoreUnavailable, message).into())
    }

    /// What is there already stays: the server may still be at what a killed move asked for.
    pub(super) async fn insert_missing(
        &self,
        name: &str,
        documents: Vec<Document>,
    ) -> Result<(), StoreError> {
        if documents.is_empty() {
            return Ok(());
        }
        let inserted = self
            .collection(name)
            .insert_many(documents)
            .ordered(false)
            .await;
        match inserted {
            Err(error) if !is_duplicate(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn take_records(&self, records: &[MovedRecord]) -> Result<(), StoreError> {
        for record in records {
            super::records::take(self, record).await?;
        }
        Ok(())
    }
}
