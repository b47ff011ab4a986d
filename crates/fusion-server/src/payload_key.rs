//! The key that inputs of jobs are encrypted with while they wait.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_orchestrator::jobs::Seal;
use fusion_types::{Error, ErrorCode, Result};

use crate::{
    config::{Jobs, Payloads},
    owner_file::read_or_make,
};

const FILE: &str = "payload-key";

/// With the configured key, else with the data folder's, which is made where it is first needed. A key that is there opens what was
/// encrypted before, also where nothing is encrypted any more.
///
/// # Errors
/// `store_unavailable` when the file can't be read or written, or holds no key.
pub(crate) fn seal(config: &Jobs, data_dir: &Path) -> Result<Option<Seal>> {
    let seals_new = config.payloads == Payloads::Encrypted;
    let path = data_dir.join(FILE);
    let key = match config.payload_key {
        Some(key) => key,
        None if seals_new || path.exists() => {
            let text = read_or_make(&path, || STANDARD.encode(rand::random::<[u8; 32]>()))
                .map_err(|error| unusable(&path, &error.to_string()))?;
            parse(&text).ok_or_else(|| unusable(&path, "it holds no key"))?
        }
        None => return Ok(None),
    };
    Seal::new(&key, seals_new).map(Some)
}

/// 32 bytes in base64.
pub(crate) fn parse(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn unusable(path: &Path, why: &str) -> Error {
    let message = format!(
        "the key for the inputs of jobs, {}, can't be used: {why}",
        path.display()
    );
    Error::new(ErrorCode::StoreUnavailable, message)
}
