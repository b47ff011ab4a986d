//! What clients ask and see of batches: OpenAI's shapes.

use fusion_types::{
    Error, Result,
    id::{BatchId, FileId},
    job::Operation,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::line::LineError;
use crate::files::check_expiry;

const WINDOW: &str = "24h";
const MOST_METADATA: usize = 16;
const LONGEST_METADATA_KEY: usize = 64;
const LONGEST_METADATA_VALUE: usize = 512;

/// What the lines of a batch ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    #[serde(rename = "/v1/completions")]
    Completion,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
}

impl Endpoint {
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    pub fn operation(self) -> Operation {
        match self {
            Self::Chat => Operation::Chat,
            Self::Completion => Operation::Completion,
            Self::Embeddings => Operation::Embed,
        }
    }
}

/// The body of `POST /v1/batches`.
#[derive(Clone, Debug, Deserialize)]
pub struct CreateBatch {
    pub input_file_id: String,
    pub endpoint: Endpoint,
    pub completion_window: String,
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub output_expires_after: Option<ExpiresAfter>,
}

/// Counted from the file's creation, the only anchor there is.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ExpiresAfter {
    pub seconds: u64,
}

impl CreateBatch {
    pub(super) fn check(&self) -> Result<()> {
        if self.completion_window != WINDOW {
            let message = format!("completion_window must be {WINDOW}");
            return Err(Error::invalid("completion_window", message));
        }
        let output = self.output_expires_after.map(|after| after.seconds);
        check_expiry("output_expires_after", output)?;
        self.metadata.as_ref().map_or(Ok(()), check_metadata)
    }
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<()> {
    let fits = |(key, value): (&String, &Value)| {
        key.len() <= LONGEST_METADATA_KEY
            && value
                .as_str()
                .is_some_and(|text| text.len() <= LONGEST_METADATA_VALUE)
    };
    if metadata.len() <= MOST_METADATA && metadata.iter().all(fits) {
        return Ok(());
    }
    let message = format!(
        "metadata: at most {MOST_METADATA} texts, with names of {LONGEST_METADATA_KEY} bytes and values of \
         {LONGEST_METADATA_VALUE} at most"
    );
    Err(Error::invalid("metadata", message))
}

/// The query of `GET /v1/batches`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListBatches {
    pub limit: Option<u32>,
    /// The last id of the page before.
    pub after: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    pub fn is_ended(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::Completed | Self::Expired | Self::Cancelled
        )
    }
}

/// Times are in seconds since 1970, as all of this dialect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchView {
    pub id: BatchId,
    pub object: &'static str,
    pub endpoint: &'static str,
    pub errors: Option<Errors>,
    pub input_file_id: FileId,
    pub completion_window: String,
    pub status: Status,
    pub output_file_id: Option<FileId>,
    pub error_file_id: Option<FileId>,
    pub created_at: i64,
    pub in_progress_at: Option<i64>,
    pub expires_at: i64,
    pub finalizing_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub failed_at: Option<i64>,
    pub expired_at: Option<i64>,
    pub cancelling_at: Option<i64>,
    pub cancelled_at: Option<i64>,
    pub request_counts: RequestCounts,
    pub metadata: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    pub object: &'static str,
    pub data: Vec<LineError>,
}

/// Once a batch has ended, what didn't complete has failed, so that the two are all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
}
