//! Models that were loaded through the API, kept over a restart.

use fusion_types::{Error, Result, model::ModelId, record::RecordWrite, store::RecordStore};

use super::{
    definition::{Definition, Origin},
    inspect::weigh,
};

pub(crate) const NAMESPACE: &str = "models";
const PAGE: u32 = 500;

/// # Errors
/// `store_unavailable`.
pub(crate) async fn remember(records: &dyn RecordStore, definition: &Definition) -> Result<()> {
    let value =
        serde_json::to_value(definition).map_err(|error| Error::internal(error.to_string()))?;
    records
        .commit(vec![RecordWrite::put(
            NAMESPACE,
            definition.id.as_str(),
            value,
        )])
        .await
}

/// # Errors
/// `store_unavailable`.
pub(crate) async fn forget(records: &dyn RecordStore, id: &ModelId) -> Result<()> {
    let write = RecordWrite::delete(NAMESPACE, id.as_str());
    records.commit(vec![write]).await
}

/// What is still on disk of what was remembered. A record that can't be read, or whose files are gone, is left alone.
///
/// # Errors
/// `store_unavailable`.
pub(crate) async fn recall(records: &dyn RecordStore) -> Result<Vec<Definition>> {
    let mut definitions = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = records.list(NAMESPACE, "", after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(definitions);
        };
        after = Some(last.key.clone());
        for record in page {
            match serde_json::from_value::<Definition>(record.value) {
                Ok(definition) if definition.setup.path.exists() => {
                    let (file_bytes, modified) = weigh(&definition.setup.path);
                    definitions.push(Definition {
                        origin: Origin::Loaded,
                        file_bytes,
                        modified,
                        ..definition
                    });
                }
                Ok(definition) => {
                    tracing::warn!(model = %definition.id, "the files of a remembered model are gone")
                }
                Err(error) => {
                    tracing::warn!(model = record.key, %error, "a remembered model can't be read")
                }
            }
        }
    }
}
