//! Reading a file that a client named by its URL.

use std::time::Instant;

use bytes::Bytes;
use fusion_types::{Error, ErrorCode, Result};
use futures::{Stream, StreamExt};
use reqwest::StatusCode;

use super::{Guarded, explain};

impl Guarded {
    /// The body, piece by piece. `most` is compared with the length that the other side tells; who reads counts again.
    ///
    /// # Errors
    /// `url_not_allowed`, `timeout`, `file_too_large`, or `invalid_value` where the file can't be had.
    pub(crate) async fn get(
        &self,
        url: &str,
        most: usize,
        until: Instant,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Unpin + use<>> {
        let url = self.checked(url)?;
        let timeout = until.saturating_duration_since(Instant::now());
        let answer = self.client.get(url).timeout(timeout).send().await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        check_status(answer.status())?;
        if answer
            .content_length()
            .is_some_and(|length| length > most as u64)
        {
            let message = format!("the file is larger than the {most} bytes that are taken");
            return Err(Error::new(ErrorCode::FileTooLarge, message));
        }
        let body = answer.bytes_stream();
        Ok(Box::pin(
            body.map(|piece| piece.map_err(|error| unreachable(&error))),
        ))
    }
}

fn check_status(status: StatusCode) -> Result<()> {
    if status.is_redirection() {
        let message = "the URL is not allowed: it redirects, and redirects are not followed";
        return Err(Error::new(ErrorCode::UrlNotAllowed, message));
    }
    if !status.is_success() {
        let message = format!("the URL can't be fetched: it answers {}", status.as_u16());
        return Err(Error::invalid("", message));
    }
    Ok(())
}

/// That somebody else's server doesn't answer is no failure of this one.
fn unreachable(error: &reqwest::Error) -> Error {
    let error = explain(error);
    match error.code {
        ErrorCode::EngineUnavailable => {
            Error::invalid("", format!("the URL can't be fetched: {}", error.message))
        }
        _ => error,
    }
}
