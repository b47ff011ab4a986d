//! Models that other programs keep on this machine. Their folders are only looked at, never changed.

mod hugging_face;
mod lm_studio;
mod ollama;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    inspect::{Kind, split_name},
    scan::is_model_file,
};
use crate::KnownFolders;

/// Entries that are looked at below one folder, so that a strange one can't hold up the start.
const MOST_ENTRIES: usize = 20_000;
/// Some repositories keep each quantization in a folder of its own.
const REPOSITORY_DEPTH: usize = 2;

/// A model, and the name that it has where it was found.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

/// What an engine of ours could run of what lies in these folders. Reads names, a file's first bytes, and Ollama's manifests.
pub(super) fn search(folders: &KnownFolders) -> Vec<Known> {
    let each = |roots: &[PathBuf], search: fn(&mut Walk, &Path) -> Vec<Known>| -> Vec<Known> {
        roots
            .iter()
            .flat_map(|root| search(&mut Walk::new(root), root))
            .collect()
    };
    [
        each(&folders.hugging_face, hugging_face::search),
        each(&folders.lm_studio, lm_studio::search),
        each(&folders.ollama, ollama::search),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The models of one repository: called `OWNER/NAME` where there is one, the GGUF files `OWNER/NAME:STEM` where there are several.
fn of_repository(walk: &mut Walk, name: &str, folder: &Path) -> Vec<Known> {
    let mut files = Vec::new();
    collect(walk, folder, REPOSITORY_DEPTH, &mut files);
    let is_folder = Kind::at(folder) == Ok(Kind::SentenceTransformers) && has_weights(folder);
    let is_only = files.len() == 1 && !is_folder;
    let whole = is_folder.then(|| Known {
        name: name.to_owned(),
        path: folder.to_owned(),
        kind: Kind::SentenceTransformers,
    });
    let files = files.into_iter().map(|path| Known {
        name: if is_only {
            name.to_owned()
        } else {
            format!("{name}:{}", stem(&path))
        },
        path,
        kind: Kind::Gguf,
    });
    whole.into_iter().chain(files).collect()
}

fn collect(walk: &mut Walk, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    for path in walk.entries(folder) {
        if is_model_file(&path) {
            match Kind::at(&path) {
                Ok(_) => files.push(path),
                Err(error) => tracing::debug!(%error, "left out"),
            }
        } else if depth > 1 && is_own_folder(&path) {
            collect(walk, &path, depth - 1, files);
        }
    }
}

/// A link may lead back to where it lies.
fn is_own_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Other programs often fetch only the tokenizer of a repository.
fn has_weights(folder: &Path) -> bool {
    let is_onnx = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "onnx");
    folder.join("model.safetensors").is_file()
        || fs::read_dir(folder.join("onnx")).is_ok_and(|entries| entries.flatten().any(is_onnx))
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    split_name(&stem).map_or_else(|| stem.to_string(), |(name, _)| name.to_owned())
}

/// A look through a folder that ends after so many entries, whatever the folder holds.
struct Walk {
    root: PathBuf,
    left: usize,
}

impl Walk {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            left: MOST_ENTRIES,
        }
    }

    /// What lies in the folder, sorted, without what is hidden or has no readable name; nothing where it can't be read.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(folder = %folder.display(), %error, "left out");
                }
                return Vec::new();
            }
        };
        let mut paths = Vec::new();
        for entry in entries.flatten() {
            if self.left == 0 {
                tracing::debug!(folder = %self.root.display(), "holds too much to look through");
                break;
            }
            self.left -= 1;
            if name(&entry.path()).is_some_and(|name| !name.starts_with('.')) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        paths
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
