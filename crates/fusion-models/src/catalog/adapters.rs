//! The LoRA adapters of a model: files named in a load request, told to the engine as one of its options.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fusion_types::{Error, Result, engine::Adapter};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Config;

/// The engine option that carries them.
pub(crate) const OPTION: &str = "adapters";

/// An item of `adapters`: a path, or a path with a name and a scale.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, or {path, name?, scale?}")]
enum Item {
    Path(PathBuf),
    Named {
        path: PathBuf,
        name: Option<String>,
        scale: Option<f32>,
    },
}

/// Reads a request's `adapters` to the engine option.
///
/// # Errors
/// `invalid_value` for a file that isn't there, and for a name that is missing, given twice or no plain name.
pub(super) fn option(config: &Config, items: &[Value]) -> Result<String> {
    let mut adapters: Vec<Adapter> = Vec::new();
    for item in items {
        let adapter = adapter(config, item)?;
        if adapters.iter().any(|other| other.name == adapter.name) {
            let message = format!("two adapters are named {:?}; name them", adapter.name);
            return Err(Error::invalid("adapters", message));
        }
        adapters.push(adapter);
    }
    Ok(json!(adapters).to_string())
}

/// The adapters of a model with these engine options.
pub(crate) fn of(options: &BTreeMap<String, String>) -> Vec<Adapter> {
    let option = options.get(OPTION);
    option
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default()
}

fn adapter(config: &Config, item: &Value) -> Result<Adapter> {
    let item =
        Item::deserialize(item).map_err(|why| Error::invalid("adapters", why.to_string()))?;
    let (path, name, scale) = match item {
        Item::Path(path) => (path, None, None),
        Item::Named { path, name, scale } => (path, name, scale),
    };
    let path = file(config, &path)?;
    let stem = || Some(path.file_stem()?.to_str()?.to_owned());
    let name = name.or_else(stem).unwrap_or_default();
    let plain = |character: char| !character.is_control();
    if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
        let message = "an adapter's name has 1 to 100 characters, and no control characters";
        return Err(Error::invalid("adapters", message));
    }
    let scale = scale.unwrap_or(1.0);
    if !scale.is_finite() {
        return Err(Error::invalid("adapters", "an adapter's scale is a number"));
    }
    Ok(Adapter { name, path, scale })
}

/// As it is written, or in the models folder.
fn file(config: &Config, path: &Path) -> Result<PathBuf> {
    let in_folder = config.models_dir.join(path);
    let candidates = [in_folder.as_path(), path];
    let found = candidates.into_iter().find(|path| path.is_file());
    let found = found.and_then(|path| std::path::absolute(path).ok());
    found.ok_or_else(|| {
        let message = format!("adapters: there is no file at {}", path.display());
        Error::invalid("adapters", message)
    })
}
