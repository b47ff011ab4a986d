//! Models from a hub into the models folder.

use std::path::{Path, PathBuf};

use fusion_types::{Error, Result};

/// How far a pull is, told after each piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file now on its way, as the hub names it.
    pub file: String,
    /// Bytes of this file on disk.
    pub bytes: u64,
    /// Size of this file, where the hub says it.
    pub total_bytes: Option<u64>,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The name under which the model is served.
    pub model_id: String,
    /// The model's file or folder.
    pub path: PathBuf,
    /// Bytes of its files together.
    pub bytes: u64,
    /// SHA-256 of each file that the hub vouched for, with its path.
    pub verified: Vec<(PathBuf, String)>,
}

/// Where models come from.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Such as `https://huggingface.co`.
    pub endpoint: String,
    pub token: Option<String>,
}

impl Hub {
    pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
}

/// Brings `[hf:]owner/name[:file-or-quant]` into `models_dir`. What an earlier attempt left is continued.
///
/// # Errors
/// `invalid_value` for a source that isn't one, `model_not_found` where the hub hasn't got it, `engine_unavailable` where the
/// hub can't be reached, `internal_error` for a hash that is wrong or a disk that can't be written.
#[expect(clippy::unused_async, reason = "signatures first")]
pub async fn pull(
    _source: &str,
    _models_dir: &Path,
    _hub: &Hub,
    _progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Pulled> {
    Err(Error::not_implemented("pulling models"))
}
