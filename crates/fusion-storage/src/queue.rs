//! What a ready set beside the store needs of the store.

use async_trait::async_trait;
use fusion_types::{
    Result,
    id::JobId,
    job::{Claim, Claimed},
    store::JobStore,
};
use serde::Deserialize;

/// A job that can be claimed; they sort as claims are made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Ready {
    pub(crate) sort_key: i64,
    pub(crate) job_id: JobId,
    pub(crate) model_id: Option<String>,
}

#[async_trait]
pub(crate) trait Queue: JobStore {
    /// The first jobs that a claim would hand out, in order.
    async fn due(&self, limit: u32) -> Result<Vec<Ready>>;

    /// As [`JobStore::claim`], of these jobs alone: those of them that can still be had.
    async fn claim_of(&self, claim: &Claim, jobs: &[JobId]) -> Result<Vec<Claimed>>;
}
