//! The closed list of error codes that clients may see, and the one error that crosses crate borders.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error on its way to a client: a code from the contract, a sentence for people, details for programs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: ErrorCode,
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// What a program needs to act on the error, `Value::Null` when there is nothing.
    pub details: Value,
    pub retry_after: Option<Duration>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            details: Value::Null,
            retry_after: None,
        }
    }

    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidValue, message).with_param(param)
    }

    pub fn not_implemented(what: impl fmt::Display) -> Self {
        Self::new(
            ErrorCode::NotImplemented,
            format!("{what} is not implemented yet"),
        )
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InternalError, message)
    }

    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:literal, $retryable:literal;)*) => {
        /// Every code of the contract, each with its HTTP status and whether trying again later can help.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[serde(rename = $text)] $variant,)* }

        impl ErrorCode {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            pub fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", 400, false;
    InvalidValue = "invalid_value", 400, false;
    MissingField = "missing_field", 400, false;
    UnknownField = "unknown_field", 400, false;
    UnsupportedOperation = "unsupported_operation", 400, false;
    UrlNotAllowed = "url_not_allowed", 400, false;
    ContextLengthExceeded = "context_length_exceeded", 400, false;
    InvalidApiKey = "invalid_api_key", 401, false;
    InsufficientScope = "insufficient_scope", 403, false;
    HostNotAllowed = "host_not_allowed", 403, false;
    NotFound = "not_found", 404, false;
    ModelNotFound = "model_not_found", 404, false;
    JobNotFound = "job_not_found", 404, false;
    WorkflowNotFound = "workflow_not_found", 404, false;
    RunNotFound = "run_not_found", 404, false;
    CollectionNotFound = "collection_not_found", 404, false;
    DocumentNotFound = "document_not_found", 404, false;
    WebhookNotFound = "webhook_not_found", 404, false;
    DeliveryNotFound = "delivery_not_found", 404, false;
    FileNotFound = "file_not_found", 404, false;
    BatchNotFound = "batch_not_found", 404, false;
    FeatureDisabled = "feature_disabled", 404, false;
    MethodNotAllowed = "method_not_allowed", 405, false;
    ModelAlreadyLoaded = "model_already_loaded", 409, false;
    ModelInUse = "model_in_use", 409, true;
    JobFinished = "job_finished", 409, false;
    BatchFinished = "batch_finished", 409, false;
    FileInUse = "file_in_use", 409, true;
    PayloadGone = "payload_gone", 409, false;
    EmbeddingModelMismatch = "embedding_model_mismatch", 409, false;
    NameReserved = "name_reserved", 409, false;
    VersionConflict = "version_conflict", 409, true;
    CursorExpired = "cursor_expired", 410, false;
    FileTooLarge = "file_too_large", 413, false;
    UnsupportedFileType = "unsupported_file_type", 415, false;
    InvalidWorkflow = "invalid_workflow", 422, false;
    IdempotencyMismatch = "idempotency_mismatch", 422, false;
    QueueFull = "queue_full", 429, true;
    RateLimitExceeded = "rate_limit_exceeded", 429, true;
    InternalError = "internal_error", 500, false;
    NotImplemented = "not_implemented", 501, false;
    EngineCrashed = "engine_crashed", 502, true;
    InsufficientVram = "insufficient_vram", 503, true;
    EngineUnavailable = "engine_unavailable", 503, true;
    StoreUnavailable = "store_unavailable", 503, true;
    Timeout = "timeout", 504, true;
}

impl ErrorCode {
    /// The `type` that goes with the code in an error body.
    pub fn kind(self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 | 405 => "not_found_error",
            409 => "conflict_error",
            410 => "gone_error",
            413 => "payload_too_large_error",
            415 => "unsupported_media_error",
            429 => "rate_limit_error",
            500 => "internal_error",
            501 => "not_implemented_error",
            502 => "engine_error",
            503 => "service_unavailable_error",
            504 => "timeout_error",
            _ => "invalid_request_error",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// The body of every error: `{"error": {message, type, param, code, details?}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorFields,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorFields {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub param: Option<String>,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        Self {
            error: ErrorFields {
                message: error.message.clone(),
                kind: error.code.kind().to_owned(),
                param: error.param.clone(),
                code: Some(error.code.as_str().to_owned()),
                details: error.details.clone(),
            },
        }
    }
}

impl ErrorBody {
    /// Reads an error that another process sent; a code outside the contract becomes `fallback`.
    pub fn into_error(self, fallback: ErrorCode) -> Error {
        let code = self
            .error
            .code
            .as_deref()
            .and_then(ErrorCode::parse)
            .unwrap_or(fallback);
        Error {
            code,
            message: self.error.message,
            param: self.error.param,
            details: self.error.details,
            retry_after: None,
        }
    }
}
