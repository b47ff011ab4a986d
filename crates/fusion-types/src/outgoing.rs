//! The one guarded way out of the machine, built in fusion-server.

use std::time::Duration;

use async_trait::async_trait;

use crate::Result;

/// An HTTP POST to an address that a client named.
#[derive(Clone, Debug)]
pub struct OutRequest {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout: Duration,
}

/// What came back; the body is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutResponse {
    pub status: u16,
    pub retry_after: Option<Duration>,
}

#[async_trait]
pub trait Outgoing: Send + Sync {
    /// Whether the URL may be asked for at all, by its text alone; addresses are checked again when connecting.
    ///
    /// # Errors
    /// `url_not_allowed`.
    fn check(&self, url: &str) -> Result<()>;

    /// # Errors
    /// `url_not_allowed`, `timeout`, or `engine_unavailable` where no answer came.
    async fn post(&self, request: OutRequest) -> Result<OutResponse>;
}
