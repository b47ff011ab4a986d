//! The hub's side of a pull: what it has, and how it is asked.

use std::time::Duration;

use fusion_types::{Error, ErrorCode, Result};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::{files::RemoteFile, source::Source};

/// A hub that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

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

pub(super) struct Session {
    http: reqwest::Client,
    endpoint: String,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

/// Large files are kept apart, by their SHA-256.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: Option<u64>,
}

impl Session {
    pub(super) fn open(hub: &Hub) -> Result<Self> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("fusiond/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| Error::internal(format!("can't make an HTTP client: {error}")))?;
        Ok(Self {
            http,
            endpoint: hub.endpoint.trim_end_matches('/').to_owned(),
            token: hub.token.clone(),
        })
    }

    /// All files of the repository.
    pub(super) async fn list(&self, source: &Source) -> Result<Vec<RemoteFile>> {
        let Source { owner, name, .. } = source;
        let mut next = Some(format!(
            "{}/api/models/{owner}/{name}/tree/main?recursive=true",
            self.endpoint
        ));
        let mut files = Vec::new();
        while let Some(url) = next {
            let response = self.send(self.http.get(url)).await?;
            check(&response, &format!("{owner}/{name}"))?;
            next = next_page(&response).filter(|url| url.starts_with(&self.endpoint));
            let listed: Vec<Listed> = response.json().await.map_err(|error| unreachable(&error))?;
            files.extend(
                listed
                    .into_iter()
                    .filter(|file| file.kind == "file")
                    .map(Listed::into_remote),
            );
        }
        Ok(files)
    }

    /// The file's bytes from `offset` on, or from the beginning where the hub can't continue.
    pub(super) async fn get(
        &self,
        source: &Source,
        file: &RemoteFile,
        offset: u64,
    ) -> Result<Response> {
        let Source { owner, name, .. } = source;
        let path: Vec<_> = file.path.split('/').map(encode).collect();
        let url = format!(
            "{}/{owner}/{name}/resolve/main/{}",
            self.endpoint,
            path.join("/")
        );
        let mut request = self.http.get(url);
        if offset > 0 {
            request = request.header("range", format!("bytes={offset}-"));
        }
        let response = self.send(request).await?;
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            check(&response, &file.path)?;
        }
        Ok(response)
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Response> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|error| unreachable(&error))
    }
}

impl Listed {
    fn into_remote(self) -> RemoteFile {
        let bytes = self.lfs.as_ref().and_then(|lfs| lfs.size).or(self.size);
        RemoteFile {
            path: self.path,
            bytes,
            sha256: self.lfs.map(|lfs| lfs.oid.to_lowercase()),
        }
    }
}

fn check(response: &Response, what: &str) -> Result<()> {
    let status = response.status();
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::NOT_FOUND => Err(missing(format!("the hub has no {what}"))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(missing(format!(
            "the hub has no {what}, or keeps it for those with an HF_TOKEN that may read it"
        ))),
        _ => Err(Error::new(
            ErrorCode::EngineUnavailable,
            format!("the hub answered {status} for {what}"),
        )),
    }
}

fn missing(message: String) -> Error {
    Error::new(ErrorCode::ModelNotFound, message).with_param("source")
}

/// The innermost reason is the one that helps.
pub(super) fn unreachable(error: &reqwest::Error) -> Error {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let host = error
        .url()
        .and_then(|url| url.host_str())
        .unwrap_or("the hub");
    Error::new(
        ErrorCode::EngineUnavailable,
        format!("can't fetch from {host}: {reason}"),
    )
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(response: &Response) -> Option<String> {
    let links = response.headers().get("link")?.to_str().ok()?;
    let link = links
        .split(',')
        .find(|link| link.contains("rel=\"next\""))?;
    Some(link.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// One piece of a path, with what an address can't hold written as `%XX`.
fn encode(piece: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let write = |byte: u8| {
        if is_plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    piece.bytes().map(write).collect()
}
