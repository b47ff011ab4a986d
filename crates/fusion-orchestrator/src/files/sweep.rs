//! Removing files whose time has come, and blobs that were never made a file.

use std::time::Duration;

use fusion_types::{
    ErrorCode, Result, Timestamp,
    record::{Expect, Record, RecordWrite},
};

use super::{
    Files,
    record::{ENDS, End, FILES, end, is_due, read},
    with_version,
};

const AT_ONCE: u32 = 100;
/// Until the next look at a file that has expired while a batch reads it.
const LATER: Duration = Duration::from_secs(3600);

impl Files {
    /// Deletes what is due. Returns how many blobs went.
    ///
    /// # Errors
    /// `store_unavailable`; what is left is for the next time.
    pub async fn sweep(&self) -> Result<u64> {
        let (mut removed, mut after) = (0, None);
        loop {
            let now = self.now();
            let records = &self.parts.records;
            let ends = records.list(ENDS, "", after.as_deref(), AT_ONCE).await?;
            let full = ends.len() == AT_ONCE as usize;
            after = ends.last().map(|end| end.key.clone());
            let due = ends.into_iter().take_while(|end| is_due(&end.key, now));
            let due: Vec<Record> = due.collect();
            let is_last = !full || due.len() < AT_ONCE as usize;
            for record in due {
                removed += u64::from(self.end(record, now).await?);
            }
            if is_last {
                return Ok(removed);
            }
        }
    }

    /// Whether the blob went.
    async fn end(&self, record: Record, now: Timestamp) -> Result<bool> {
        let key = record.key.clone();
        let due: End = read(record)?;
        if let Some(file) = &due.file
            && !self.end_file(file, &due, &key, now).await?
        {
            return Ok(false);
        }
        self.try_forget(&due.blob, &key).await?;
        Ok(true)
    }

    /// Whether the file is gone; one that is in use stays, and is looked at again later.
    async fn end_file(&self, file: &str, due: &End, key: &str, now: Timestamp) -> Result<bool> {
        let records = &self.parts.records;
        let Some(record) = records.get(FILES, file).await? else {
            return Ok(true);
        };
        let (found, version) = with_version(record)?;
        let writes = if found.in_use > 0 {
            let later = end(now.plus(LATER), &due.blob, due.file.clone())?;
            vec![RecordWrite::delete(ENDS, key), later]
        } else {
            vec![RecordWrite::delete(FILES, file).expecting(Expect::Version(version))]
        };
        match records.commit(writes).await {
            Ok(()) => Ok(found.in_use == 0),
            // A batch came or went: the next sweep looks again.
            Err(error) if error.code == ErrorCode::VersionConflict => Ok(false),
            Err(error) => Err(error),
        }
    }
}
