//! The secret that signs the calls to a job's `callback_url`, kept in the data folder where none is configured.

use std::{io, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{
    Error, ErrorCode, Result,
    record::{Expect, RecordWrite},
    store::RecordStore,
};

use crate::owner_file::{keep, read_or_make};

const FILE: &str = "webhook-secret";
/// Where servers that share a store keep it.
const NAMESPACE: &str = "secrets";
const KEY: &str = "webhook";

/// The secret of this data folder; made, readable by its owner only, where there is none yet.
///
/// # Errors
/// When the file can't be read or written.
pub(crate) fn of_folder(data_dir: &Path) -> Result<String> {
    read_or_make(&data_dir.join(FILE), made).map_err(|error| unkept(&error))
}

/// The secret of all servers that share the store: the first brings its folder's, the others put it into theirs.
///
/// # Errors
/// When the file or the store can't be read or written.
pub(crate) async fn shared(data_dir: &Path, records: &dyn RecordStore) -> Result<String> {
    loop {
        if let Some(record) = records.get(NAMESPACE, KEY).await? {
            let secret = record.value.as_str().unwrap_or_default().to_owned();
            if of_folder(data_dir)? != secret {
                keep(&data_dir.join(FILE), &secret).map_err(|error| unkept(&error))?;
            }
            return Ok(secret);
        }
        let mine = RecordWrite::put(NAMESPACE, KEY, of_folder(data_dir)?.into());
        match records.commit(vec![mine.expecting(Expect::Absent)]).await {
            Err(error) if error.code != ErrorCode::VersionConflict => return Err(error),
            _ => {}
        }
    }
}

fn unkept(error: &io::Error) -> Error {
    let message = format!("can't keep the webhook secret: {error}");
    Error::new(ErrorCode::StoreUnavailable, message)
}

fn made() -> String {
    let bytes: [u8; 32] = rand::random();
    format!("whsec_{}", STANDARD.encode(bytes))
}
