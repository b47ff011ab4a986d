//! A copy of the data folder, taken while its server runs or not, and put back.

use std::{
    ffi::OsStr,
    fs::{self, DirEntry, File},
    io,
    path::{Path, PathBuf},
};

use fusion_types::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    error::unavailable,
    lock::{self, lock_folder, make_private},
    sqlite,
};

const MANIFEST: &str = "backup.json";
/// Belongs to one run of a server, or to the way the database is kept.
const LEFT_OUT: &[&str] = &[lock::FILE, "spool", lock::RESTORING];

/// What a backup says about itself.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// Of the database.
    schema: u32,
    created_at: Timestamp,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
    /// Where a restore put the store that was there before.
    pub set_aside: Option<PathBuf>,
}

impl Copied {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// Copies the store in `data_dir` as it is at one moment into the new folder `to`. A server may run meanwhile.
///
/// # Errors
/// `invalid_value` where there is no store, or something at `to`; `store_unavailable` where a file can't be read or written.
pub fn backup(data_dir: &Path, to: &Path) -> Result<Copied> {
    let database = data_dir.join(sqlite::FILE);
    if !database.is_file() {
        let message = format!("there is no store in {}", data_dir.display());
        return Err(Error::invalid("data_dir", message));
    }
    if to.exists() {
        let message = format!("{} is there already; name a new folder", to.display());
        return Err(Error::invalid("to", message));
    }
    let draft = beside(to, "partial");
    let copied = write_backup(data_dir, &database, &draft).and_then(|copied| {
        fs::rename(&draft, to).map_err(|error| failed(to, &error))?;
        sync_parent(to)?;
        Ok(copied)
    });
    if copied.is_err() {
        // A failed copy is of no use, and the error says what matters.
        let _ = fs::remove_dir_all(&draft);
    }
    copied
}

fn write_backup(data_dir: &Path, database: &Path, draft: &Path) -> Result<Copied> {
    make_private(draft).map_err(|error| failed(draft, &error))?;
    let mut copied = Copied::default();
    // The database first: what it names is copied after it.
    let copy = draft.join(sqlite::FILE);
    let schema = sqlite::copy(database, &copy)?;
    copied.add(synced(&copy)?);
    for entry in entries(data_dir)? {
        let name = entry.file_name();
        if !LEFT_OUT.iter().any(|other| name == *other) && !is_of_database(&name) {
            copy_tree(&entry.path(), &draft.join(&name), &mut copied)?;
        }
    }
    let manifest = Manifest {
        schema,
        created_at: Timestamp::now(),
    };
    let text = serde_json::to_vec(&manifest).map_err(|error| Error::internal(error.to_string()))?;
    let file = draft.join(MANIFEST);
    fs::write(&file, text).map_err(|error| failed(&file, &error))?;
    synced(&file)?;
    sync_folder(draft)?;
    Ok(copied)
}

/// Puts a backup into `data_dir`. With `force` a store that is there is set aside; without, it is refused.
///
/// # Errors
/// `invalid_value` where `from` is no backup, of a newer version, or damaged, and where there is a store already;
/// `store_unavailable` where a server runs on the folder, or a file can't be read or written.
pub fn restore(from: &Path, data_dir: &Path, force: bool) -> Result<Copied> {
    let database = from.join(sqlite::FILE);
    check(from, &database)?;
    let _lock = lock_folder(data_dir)?;
    let mark = data_dir.join(lock::RESTORING);
    let is_begun = mark.exists();
    let has_store = data_dir.join(sqlite::FILE).exists();
    if has_store && !force && !is_begun {
        let message = format!(
            "there is a store in {}; --force sets it aside",
            data_dir.display()
        );
        return Err(Error::invalid("data_dir", message));
    }
    // Until it is gone again, no server starts on what may be half a store.
    File::create(&mark)
        .and_then(|file| file.sync_all())
        .map_err(|error| failed(&mark, &error))?;
    sync_folder(data_dir)?;
    let set_aside = has_store.then(|| set_aside(data_dir)).transpose()?;
    let mut copied = Copied {
        set_aside,
        ..Copied::default()
    };
    for entry in entries(from)? {
        let name = entry.file_name();
        if name != MANIFEST {
            let to = data_dir.join(&name);
            remove(&to)?;
            copy_tree(&entry.path(), &to, &mut copied)?;
        }
    }
    sync_folder(data_dir)?;
    fs::remove_file(&mark).map_err(|error| failed(&mark, &error))?;
    sync_folder(data_dir)?;
    Ok(copied)
}

fn check(from: &Path, database: &Path) -> Result<()> {
    let manifest = from.join(MANIFEST);
    let text = fs::read(&manifest).map_err(|_| {
        let message = format!("{} is not a backup: it has no {MANIFEST}", from.display());
        Error::invalid("from", message)
    })?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| Error::invalid("from", format!("{MANIFEST} can't be read: {error}")))?;
    if manifest.schema > sqlite::SCHEMA {
        let message = format!(
            "the backup has schema version {}; this version of the server knows up to {}",
            manifest.schema,
            sqlite::SCHEMA
        );
        return Err(Error::invalid("from", message));
    }
    sqlite::check_copy(database)
}

/// Moves what a restore replaces into a folder of its own.
fn set_aside(data_dir: &Path) -> Result<PathBuf> {
    let aside = data_dir.join(format!("before-restore-{}", Timestamp::now().as_millis()));
    make_private(&aside).map_err(|error| failed(&aside, &error))?;
    for entry in entries(data_dir)? {
        let name = entry.file_name();
        let stays = LEFT_OUT.iter().any(|other| name == *other)
            || name.as_encoded_bytes().starts_with(b"before-restore-");
        if !stays {
            fs::rename(entry.path(), aside.join(&name))
                .map_err(|error| failed(&entry.path(), &error))?;
        }
    }
    sync_folder(&aside)?;
    Ok(aside)
}

fn is_of_database(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(sqlite::FILE.as_bytes())
        || name.as_encoded_bytes().starts_with(b"before-restore-")
}

/// Plain files and folders; anything else isn't the store's.
fn copy_tree(from: &Path, to: &Path, copied: &mut Copied) -> Result<()> {
    let kind = fs::symlink_metadata(from).map_err(|error| failed(from, &error))?;
    if kind.is_dir() {
        make_private(to).map_err(|error| failed(to, &error))?;
        for entry in entries(from)? {
            copy_tree(&entry.path(), &to.join(entry.file_name()), copied)?;
        }
        return sync_folder(to);
    }
    if kind.is_file() {
        match fs::copy(from, to) {
            Ok(_) => copied.add(synced(to)?),
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(from, &error)),
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(|error| failed(path, &error))
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(|error| failed(folder, &error))
}

fn synced(file: &Path) -> Result<u64> {
    let size = File::open(file).and_then(|file| {
        file.sync_all()?;
        Ok(file.metadata()?.len())
    });
    size.map_err(|error| failed(file, &error))
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed(folder, &error))
}

fn sync_parent(path: &Path) -> Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => sync_folder(parent),
        None => sync_folder(Path::new(".")),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}-{}", std::process::id()));
    name.into()
}

fn failed(path: &Path, error: &io::Error) -> Error {
    unavailable(format!("{}: {error}", path.display()))
}
