//! Files in a folder, each under its id. One that is still being written lies in a folder beside them.

use std::{
    fs::{self, DirBuilder},
    io::{self, SeekFrom},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::BytesMut;
use fusion_types::{
    Error, ErrorCode, Result,
    blob::{BlobStore, ByteStream},
    id::BlobId,
};
use futures::{StreamExt, stream};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    task::spawn_blocking,
};

use crate::error::{closed, unavailable};

/// Read at once.
const PIECE: usize = 64 * 1024;

pub(crate) struct FolderBlobs {
    kept: PathBuf,
    /// What is being written; on the same file system, so that it can be moved.
    incoming: PathBuf,
}

impl FolderBlobs {
    /// Makes the folders where they are missing, and removes what a run before did not finish writing. The data folder's lock
    /// says that nobody else writes here.
    pub(crate) async fn open(folder: &Path) -> Result<Self> {
        let kept = folder.to_owned();
        let incoming = folder.join("incoming");
        let blobs = Self { kept, incoming };
        let incoming = blobs.incoming.clone();
        blocking(move || {
            match fs::remove_dir_all(&incoming) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut builder = DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&incoming)
        })
        .await?;
        Ok(blobs)
    }

    async fn write(&self, path: &Path, mut source: ByteStream<'_>) -> Result<u64> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(path).await.map_err(|error| failed(&error))?;
        let mut bytes = 0;
        while let Some(piece) = source.next().await {
            let piece = piece?;
            file.write_all(&piece)
                .await
                .map_err(|error| failed(&error))?;
            bytes += piece.len() as u64;
        }
        file.flush().await.map_err(|error| failed(&error))?;
        file.sync_all().await.map_err(|error| failed(&error))?;
        Ok(bytes)
    }

    /// Moves a written file to where it is found; synced when this returns.
    async fn publish(&self, written: &Path, target: PathBuf) -> Result<()> {
        let (written, folder) = (written.to_owned(), self.kept.clone());
        blocking(move || {
            fs::rename(&written, &target)?;
            sync_folder(&folder).inspect_err(|_| {
                // Not acknowledged, so it must not be found.
                let _ = fs::remove_file(&target);
            })
        })
        .await
    }
}

#[async_trait]
impl BlobStore for FolderBlobs {
    async fn put(&self, id: &BlobId, source: ByteStream<'_>) -> Result<u64> {
        let name = file_name(id)?;
        let unfinished = Unfinished(self.incoming.join(name));
        let bytes = self.write(&unfinished.0, source).await?;
        self.publish(&unfinished.0, self.kept.join(name)).await?;
        Ok(bytes)
    }

    async fn get(&self, id: &BlobId, offset: u64) -> Result<ByteStream<'static>> {
        let path = self.kept.join(file_name(id)?);
        let mut file = match File::open(path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found(id)),
            Err(error) => return Err(failed(&error)),
        };
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))
                .await
                .map_err(|error| failed(&error))?;
        }
        Ok(stream::try_unfold(file, read_piece).boxed())
    }

    async fn delete(&self, id: &BlobId) -> Result<()> {
        let (path, folder) = (self.kept.join(file_name(id)?), self.kept.clone());
        blocking(move || match fs::remove_file(path) {
            Ok(()) => sync_folder(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }
}

/// Removed when it is dropped, unless it was moved away.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an unfinished file can't be removed");
        }
    }
}

async fn read_piece(mut file: File) -> Result<Option<(bytes::Bytes, File)>> {
    let mut piece = BytesMut::with_capacity(PIECE);
    let read = file
        .read_buf(&mut piece)
        .await
        .map_err(|error| failed(&error))?;
    Ok((read > 0).then(|| (piece.freeze(), file)))
}

/// Ids are made here, but a path is nothing to take on trust.
fn file_name(id: &BlobId) -> Result<&str> {
    let name = id.as_str();
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_plain && name.starts_with(BlobId::PREFIX) {
        return Ok(name);
    }
    Err(not_found(id))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    let done = spawn_blocking(work).await.map_err(|_| closed())?;
    done.map_err(|error| failed(&error))
}

fn not_found(id: &BlobId) -> Error {
    Error::new(ErrorCode::FileNotFound, format!("there is no file {id}"))
}

/// The details go to the log: a client needn't know the files' names.
fn failed(error: &io::Error) -> Error {
    tracing::error!(%error, "a file can't be read or written");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            unavailable("the store's disk is full")
        }
        _ => unavailable("the store can't be read or written now"),
    }
}
