//! Indexes over chunks, all in memory and derived from the store.

pub(crate) mod exact;
pub(crate) mod keyword;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fusion_types::{Error, ErrorCode, Result, document::CollectionRef};
use tokio::task::spawn_blocking;

/// What an index keeps of each collection.
struct Shelves<T> {
    by_collection: Mutex<HashMap<CollectionRef, Arc<T>>>,
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        Self {
            by_collection: Mutex::default(),
        }
    }
}

impl<T> Shelves<T> {
    fn get(&self, collection: &CollectionRef) -> Option<Arc<T>> {
        self.by_collection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(collection)
            .cloned()
    }

    fn get_or_make(
        &self,
        collection: &CollectionRef,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut shelves = self
            .by_collection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.get(collection) {
            return Ok(Arc::clone(shelf));
        }
        let shelf = Arc::new(make()?);
        shelves.insert(collection.clone(), Arc::clone(&shelf));
        Ok(shelf)
    }

    fn remove(&self, collection: &CollectionRef) {
        self.by_collection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(collection);
    }
}

/// Runs work that takes longer than a runtime thread may be held.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work)
        .await
        .map_err(|_| Error::internal("a search index failed"))?
}

fn unsupported(index: &str, wanted: &str) -> Error {
    Error::new(
        ErrorCode::UnsupportedOperation,
        format!("the {index} index doesn't answer {wanted} queries"),
    )
}
