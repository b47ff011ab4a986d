//! One file onto the disk: continued where an earlier attempt ended, checked, and only then given its name.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use fusion_types::{Error, ErrorCode, Result};
use reqwest::{Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::{fs, io::AsyncWriteExt};

use super::{
    Progress,
    files::RemoteFile,
    hub::{Session, unreachable},
    part::Part,
    source::Source,
};

/// Attempts that may bring nothing before the pull is given up; one that brought something doesn't count.
const FRUITLESS_ATTEMPTS: u32 = 3;

/// Brings a file to `target`, and returns its size. One that is there already, and right, isn't fetched again.
pub(super) async fn bring(
    session: &Session,
    source: &Source,
    file: &RemoteFile,
    target: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<u64> {
    if let Some(bytes) = length(target).await
        && check(file, target).await.is_ok()
    {
        return Ok(bytes);
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)
            .await
            .map_err(|error| disk(target, &error))?;
    }
    let mut part = Part::open(target).await?;
    if length(target).await.is_some() && check(file, target).await.is_ok() {
        // Another pull has ended since.
        remove(&part).await?;
        return Ok(length(target).await.unwrap_or(0));
    }
    let fetched = fetch(session, source, file, &mut part, progress).await;
    if fetched.is_err() && length(&part.path).await == Some(0) {
        remove(&part).await?;
    }
    fetched?;
    if let Err(error) = check(file, &part.path).await {
        remove(&part).await?;
        return Err(error);
    }
    fs::rename(&part.path, target)
        .await
        .map_err(|error| disk(target, &error))?;
    Ok(length(target).await.unwrap_or(0))
}

/// Attempt after attempt, each from where the last one ended.
async fn fetch(
    session: &Session,
    source: &Source,
    file: &RemoteFile,
    part: &mut Part,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<()> {
    let mut fruitless = 0;
    loop {
        let have = length(&part.path).await.unwrap_or(0);
        if file.bytes.is_some_and(|total| have >= total) {
            return Ok(());
        }
        let error = match attempt(session, source, file, part, have, progress).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        fruitless = if length(&part.path).await.unwrap_or(0) > have {
            0
        } else {
            fruitless + 1
        };
        if error.code != ErrorCode::EngineUnavailable || fruitless == FRUITLESS_ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(file = file.path, %error, "fetching on");
    }
}

async fn attempt(
    session: &Session,
    source: &Source,
    file: &RemoteFile,
    part: &mut Part,
    have: u64,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<()> {
    let response = session.get(source, file, have).await?;
    let continues = response.status() == StatusCode::PARTIAL_CONTENT;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // What is on disk is the whole file, or another one: the check tells.
        return Ok(());
    }
    let written = |error: io::Error| disk(&part.path, &error);
    let output = &mut part.file;
    if !continues {
        output.set_len(0).await.map_err(written)?;
    }
    let start = if continues { have } else { 0 };
    let received = receive(response, output, file, start, progress).await;
    output.flush().await.map_err(written)?;
    received?;
    output.sync_all().await.map_err(written)
}

async fn receive(
    mut response: Response,
    output: &mut fs::File,
    file: &RemoteFile,
    mut bytes: u64,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<()> {
    let total_bytes = file
        .bytes
        .or_else(|| response.content_length().map(|left| bytes + left));
    loop {
        progress(Progress {
            file: file.path.clone(),
            bytes,
            total_bytes,
        });
        let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&error))?
        else {
            return Ok(());
        };
        output
            .write_all(&piece)
            .await
            .map_err(|error| disk(Path::new(&file.path), &error))?;
        bytes += piece.len() as u64;
    }
}

/// Size and hash, as far as the hub told them.
async fn check(file: &RemoteFile, path: &Path) -> Result<()> {
    let bytes = length(path).await.unwrap_or(0);
    if let Some(expected) = file.bytes.filter(|expected| *expected != bytes) {
        return Err(Error::internal(format!(
            "{} has {bytes} bytes instead of {expected}",
            file.path
        )));
    }
    let Some(expected) = &file.sha256 else {
        return Ok(());
    };
    let own = path.to_owned();
    let hash = tokio::task::spawn_blocking(move || hash(&own))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| disk(path, &error))?;
    if hash != *expected {
        return Err(Error::internal(format!(
            "{} has the SHA-256 {hash} instead of {expected}",
            file.path
        )));
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<String> {
    let mut input = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

async fn remove(part: &Part) -> Result<()> {
    fs::remove_file(&part.path)
        .await
        .map_err(|error| disk(&part.path, &error))
}

async fn length(path: &Path) -> Option<u64> {
    fs::metadata(path)
        .await
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
}

pub(super) fn disk(path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("can't write {}: {error}", path.display()))
}
