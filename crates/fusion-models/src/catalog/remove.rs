//! A model's files, deleted: only those below the models folder, and only where no other model needs them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fusion_types::{Error, ErrorCode, Result};

use super::{definition::Definition, inspect::split_name};

/// The files or the folder that are the model's alone.
///
/// # Errors
/// `invalid_value` for files that lie elsewhere, `model_in_use` where another model has them too.
pub(crate) fn own_files(
    models_dir: &Path,
    definition: &Definition,
    others: &[Arc<Definition>],
) -> Result<Vec<PathBuf>> {
    let unreadable =
        |error: io::Error| Error::invalid("files", format!("the model's files: {error}"));
    let root = fs::canonicalize(models_dir).map_err(unreadable)?;
    // Links are followed: what they lead to is what counts.
    let path = fs::canonicalize(&definition.setup.path).map_err(unreadable)?;
    if path == root || !path.starts_with(&root) {
        let message =
            "the model's files don't lie in the models folder, and are not the server's to delete";
        return Err(Error::invalid("files", message));
    }
    let files = parts(&path).map_err(unreadable)?;
    let shares = |other: &&Arc<Definition>| {
        fs::canonicalize(&other.setup.path).is_ok_and(|other| {
            let overlaps = |file: &PathBuf| other.starts_with(file) || file.starts_with(&other);
            files.iter().any(overlaps)
        })
    };
    match others.iter().find(shares) {
        Some(other) => {
            let message = format!("the model {} has these files too", other.id);
            Err(Error::new(ErrorCode::ModelInUse, message))
        }
        None => Ok(files),
    }
}

/// # Errors
/// `internal_error` for what can't be deleted.
pub(crate) fn delete(files: &[PathBuf]) -> Result<()> {
    for file in files {
        let deleted = if file.is_dir() {
            fs::remove_dir_all(file)
        } else {
            fs::remove_file(file)
        };
        deleted
            .map_err(|error| Error::internal(format!("can't delete the model's files: {error}")))?;
    }
    Ok(())
}

/// The path itself, or all parts of a split file.
fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let stem = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
    let name = stem(path).unwrap_or_default();
    let (Some(folder), Some((before, total)), false) =
        (path.parent(), split_name(&name), path.is_dir())
    else {
        return Ok(vec![path.to_owned()]);
    };
    // `NAME-00001-of-00003`: the parts differ in the first number.
    let (before, after) = (format!("{before}-"), format!("-of-{total}"));
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?.path();
        let is_part = stem(&entry).is_some_and(|name| {
            let number = name
                .strip_prefix(&before)
                .and_then(|rest| rest.strip_suffix(&after));
            number.is_some_and(|number| {
                number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
        if is_part && entry.extension() == path.extension() {
            parts.push(entry);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_model_goes_with_all_its_parts_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let add = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, b"GGUF").unwrap();
            path
        };
        let first = add("big-00001-of-00002.gguf");
        let second = add("big-00002-of-00002.gguf");
        let other = add("big-00001-of-00003.gguf");
        let plain = add("big.gguf");
        let short = add("x-00001-of-.gguf");
        let mut found = parts(&first).unwrap();
        found.sort();
        assert_eq!(found, [first, second]);
        assert_eq!(parts(&plain).unwrap(), [plain]);
        assert_eq!(parts(&short).unwrap(), [short]);
        assert_eq!(parts(&other).unwrap(), [other]);
    }
}
