//! What clients ask and see of files: OpenAI's shapes.

use fusion_types::{Error, Result, id::FileId};
use serde::{Deserialize, Serialize};

/// What a client may upload a file for; `batch_output` is what batches write.
const PURPOSES: &[&str] = &[
    "batch",
    "assistants",
    "evals",
    "fine-tune",
    "user_data",
    "vision",
];
const LONGEST_NAME: usize = 512;
const SECONDS: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;

/// What an upload says beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewFile {
    pub filename: String,
    pub purpose: String,
    /// `expires_after`, counted from its creation.
    pub expires_after_seconds: Option<u64>,
}

impl NewFile {
    pub(super) fn check(&self) -> Result<()> {
        if !PURPOSES.contains(&self.purpose.as_str()) {
            let message = format!("purpose must be one of {}", PURPOSES.join(", "));
            return Err(Error::invalid("purpose", message));
        }
        if self.filename.is_empty() || self.filename.len() > LONGEST_NAME {
            let message = format!("the file's name must have from 1 to {LONGEST_NAME} bytes");
            return Err(Error::invalid("file", message));
        }
        check_expiry("expires_after", self.expires_after_seconds)
    }
}

/// # Errors
/// `invalid_value` for less than an hour or more than 30 days.
pub(crate) fn check_expiry(param: &str, seconds: Option<u64>) -> Result<()> {
    match seconds {
        Some(seconds) if !SECONDS.contains(&seconds) => Err(Error::invalid(
            param,
            format!(
                "{param}: seconds must be from {} to {}",
                SECONDS.start(),
                SECONDS.end()
            ),
        )),
        _ => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileView {
    pub id: FileId,
    pub object: &'static str,
    pub bytes: u64,
    /// Seconds since 1970, as all times of this dialect.
    pub created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    pub filename: String,
    pub purpose: String,
    /// Deprecated by OpenAI and required by its clients; a file is there or it isn't.
    pub status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeletedFile {
    pub id: FileId,
    pub object: &'static str,
    pub deleted: bool,
}

/// The query of `GET /v1/files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListFiles {
    pub purpose: Option<String>,
    pub limit: Option<u32>,
    /// The last id of the page before.
    pub after: Option<String>,
    /// Newest first unless asked otherwise.
    pub order: Option<crate::jobs::Order>,
}

/// One page of a list in this dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    pub object: &'static str,
    pub data: Vec<T>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

impl<T> Listed<T> {
    /// Of up to one item more than the limit, which says that there are more.
    pub(crate) fn new(mut data: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let has_more = data.len() > limit;
        data.truncate(limit);
        Self {
            object: "list",
            first_id: data.first().map(&id),
            last_id: data.last().map(&id),
            data,
            has_more,
        }
    }
}

/// # Errors
/// `invalid_value` out of bounds.
pub(crate) fn limit(asked: Option<u32>, default: u32, most: u32) -> Result<usize> {
    let limit = asked.unwrap_or(default);
    if !(1..=most).contains(&limit) {
        let message = format!("limit must be from 1 to {most}");
        return Err(Error::invalid("limit", message));
    }
    Ok(limit as usize)
}
