//! What the contract names and this server can't do yet.

use axum::extract::MatchedPath;
use fusion_types::{Error, ErrorCode};

use super::{Answer, Failure};

pub(crate) async fn not_built(path: MatchedPath) -> Answer<()> {
    Err(Error::not_implemented(path.as_str()).into())
}

/// The routes of a feature that was turned off.
pub(crate) async fn feature_disabled() -> Failure {
    Failure(Error::new(
        ErrorCode::FeatureDisabled,
        "this feature is turned off in the configuration",
    ))
}

pub(crate) async fn not_found() -> Failure {
    Failure(Error::new(ErrorCode::NotFound, "there is no such route"))
}

pub(crate) async fn method_not_allowed() -> Failure {
    Failure(Error::new(
        ErrorCode::MethodNotAllowed,
        "this route does not take this method",
    ))
}
