//! Where files are, by the platform's customs.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{Reader, text};

pub(super) fn folder(reader: &mut Reader, key: &str, default: fn() -> Option<PathBuf>) -> PathBuf {
    let given = text(reader, key).map(PathBuf::from).or_else(default);
    given.unwrap_or_else(|| {
        reader.problem(
            key,
            "the platform has no such folder (HOME is not set); name one",
        );
        PathBuf::new()
    })
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
}

/// The platform's folder of a kind, by the XDG base directory specification or Apple's.
fn platform(variable: &str, linux: &str, mac: &str) -> Option<PathBuf> {
    if cfg!(target_os = "macos") {
        return Some(home()?.join("Library").join(mac).join("fusiond"));
    }
    let named = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    Some(named.or_else(|| Some(home()?.join(linux)))?.join("fusiond"))
}

pub(super) fn data_home() -> Option<PathBuf> {
    platform("XDG_DATA_HOME", ".local/share", "Application Support")
}

pub(super) fn cache_home() -> Option<PathBuf> {
    platform("XDG_CACHE_HOME", ".cache", "Caches").map(|cache| cache.join("models"))
}

/// `fusiond.toml` here, else in the platform's configuration folder, where there is one.
pub(crate) fn default_file() -> Option<PathBuf> {
    let here = Path::new("fusiond.toml").to_path_buf();
    let there = platform("XDG_CONFIG_HOME", ".config", "Application Support")
        .map(|folder| folder.join("fusiond.toml"));
    [Some(here), there]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}
