//! The Hugging Face cache: `models--OWNER--NAME/snapshots/REVISION/FILES`, each file a link to a blob that is there once it is whole.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Known, Walk, name, of_repository};

pub(super) fn search(walk: &mut Walk, root: &Path) -> Vec<Known> {
    let mut known = Vec::new();
    for folder in walk.entries(root) {
        let Some(repository) = name(&folder).and_then(|name| name.strip_prefix("models--")) else {
            continue;
        };
        let repository = repository.replace("--", "/");
        let models = revisions(walk, &folder)
            .iter()
            .map(|revision| of_repository(walk, &repository, revision))
            .find(|models| !models.is_empty());
        known.extend(models.unwrap_or_default());
    }
    known
}

/// The folders of a repository's revisions: the current one, then the others from new to old.
fn revisions(walk: &mut Walk, repository: &Path) -> Vec<PathBuf> {
    let current = fs::read_to_string(repository.join("refs/main")).unwrap_or_default();
    let mut revisions = walk.entries(&repository.join("snapshots"));
    revisions.sort_by_key(|path| {
        let time = fs::metadata(path).and_then(|metadata| metadata.modified());
        let is_current = name(path) == Some(current.trim());
        Reverse((is_current, time.unwrap_or(SystemTime::UNIX_EPOCH)))
    });
    revisions
}
