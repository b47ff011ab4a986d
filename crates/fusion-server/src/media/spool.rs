//! Files that live as long as the request they came with.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use fusion_types::{Error, ErrorCode, Result};
use futures::{Stream, StreamExt};
use tokio::{fs::OpenOptions, io::AsyncWriteExt};

use super::file::{HEAD, too_large};

/// A folder of its own, which only this user can read. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Spool {
    folder: Arc<Path>,
    next: Arc<AtomicU64>,
}

/// A file that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    head: Vec<u8>,
    bytes: usize,
}

impl Spool {
    /// Makes the folder, empty: what a run before left behind, it left by dying. The data folder's lock says that nobody else
    /// uses it.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.into(),
            next: Arc::default(),
        })
    }

    /// Writes what comes, `most` bytes of it at most.
    ///
    /// # Errors
    /// `file_too_large`, what the source says, or `store_unavailable` where the disk doesn't take it.
    pub(super) async fn write(
        &self,
        mut source: impl Stream<Item = Result<Bytes>> + Unpin,
        most: usize,
    ) -> Result<Kept> {
        let name = self.next.fetch_add(1, Relaxed).to_string();
        let mut kept = Kept {
            path: self.folder.join(name),
            head: Vec::with_capacity(HEAD),
            bytes: 0,
        };
        let full = |error: io::Error| {
            let message = format!("a file can't be kept: {error}");
            Error::new(ErrorCode::StoreUnavailable, message)
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&kept.path)
            .await
            .map_err(full)?;
        while let Some(piece) = source.next().await {
            let piece = piece?;
            kept.bytes += piece.len();
            if kept.bytes > most {
                return Err(too_large(most));
            }
            let missing = HEAD - kept.head.len();
            kept.head.extend(piece.iter().take(missing));
            file.write_all(&piece).await.map_err(full)?;
        }
        file.flush().await.map_err(full)?;
        Ok(kept)
    }
}

impl Kept {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The first bytes.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a file of a request can't be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn pieces(texts: &[&'static str]) -> impl Stream<Item = Result<Bytes>> + Unpin {
        stream::iter(
            texts
                .iter()
                .map(|text| Ok(Bytes::from_static(text.as_bytes())))
                .collect::<Vec<_>>(),
        )
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn files_go_with_their_request_and_what_died_is_swept() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("spool");
        let spool = Spool::open(&folder).unwrap();
        let kept = spool
            .write(pieces(&["abc", "defghijklmnop"]), 16)
            .await
            .unwrap();
        assert_eq!(fs::read(kept.path()).unwrap(), b"abcdefghijklmnop");
        assert_eq!((kept.head(), kept.bytes()), (&b"abcdefghijkl"[..], 16));
        drop(kept);
        assert_eq!(count(&folder), 0);

        let error = spool.write(pieces(&["abc", "def"]), 5).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::FileTooLarge);
        let broken = stream::iter([
            Ok(Bytes::from_static(b"abc")),
            Err(Error::internal("broke off")),
        ]);
        spool.write(broken, 100).await.unwrap_err();
        assert_eq!(count(&folder), 0);

        std::mem::forget(spool.write(pieces(&["left"]), 100).await.unwrap());
        assert_eq!(count(&folder), 1);
        Spool::open(&folder).unwrap();
        assert_eq!(count(&folder), 0);
    }
}
