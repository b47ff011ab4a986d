//! The secret that signs the calls to a job's `callback_url`, kept in the data folder where none is configured.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{
    Error, ErrorCode, Result,
    record::{Expect, RecordWrite},
    store::RecordStore,
};

const FILE: &str = "webhook-secret";
/// Where servers that share a store keep it.
const NAMESPACE: &str = "secrets";
const KEY: &str = "webhook";

/// The secret of this data folder; made, readable by its owner only, where there is none yet.
///
/// # Errors
/// When the file can't be read or written.
pub(crate) fn of_folder(data_dir: &Path) -> Result<String> {
    read_or_make(data_dir).map_err(|error| unkept(&error))
}

/// The secret of all servers that share the store: the first brings its folder's, the others put it into theirs.
///
/// # Errors
/// When the file or the store can't be read or written.
pub(crate) async fn shared(data_dir: &Path, records: &dyn RecordStore) -> Result<String> {
    loop {
        if let Some(record) = records.get(NAMESPACE, KEY).await? {
            let secret = record.value.as_str().unwrap_or_default().to_owned();
            if of_folder(data_dir)? != secret {
                keep(data_dir, &secret).map_err(|error| unkept(&error))?;
            }
            return Ok(secret);
        }
        let mine = RecordWrite::put(NAMESPACE, KEY, of_folder(data_dir)?.into());
        match records.commit(vec![mine.expecting(Expect::Absent)]).await {
            Err(error) if error.code != ErrorCode::VersionConflict => return Err(error),
            _ => {}
        }
    }
}

fn unkept(error: &io::Error) -> Error {
    let message = format!("can't keep the webhook secret: {error}");
    Error::new(ErrorCode::StoreUnavailable, message)
}

fn read_or_make(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(secret) if !secret.trim().is_empty() => Ok(secret.trim().to_owned()),
        Ok(_) => make(data_dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(data_dir),
        Err(error) => Err(error),
    }
}

fn make(data_dir: &Path) -> io::Result<String> {
    let bytes: [u8; 32] = rand::random();
    let secret = format!("whsec_{}", STANDARD.encode(bytes));
    keep(data_dir, &secret)?;
    Ok(secret)
}

fn keep(data_dir: &Path, secret: &str) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    // Renamed into place, so that no reader ever sees half of it.
    let draft = data_dir.join(format!("{FILE}.new"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, data_dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let secret = of_folder(folder.path()).unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), secret);
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
