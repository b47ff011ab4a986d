//! `modules.json`: the steps from text to vector.

use std::path::{Component, Path, PathBuf};

use fusion_engine::types::Result;
use serde::Deserialize;

use super::Pooling;
use crate::fault::{invalid, not_implemented, read_json_if_present};

#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) transformer: PathBuf,
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Modules {
    /// # Errors
    /// `invalid_value` for a list that makes no embedding model, `not_implemented` for a step that isn't known.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let file = root.join("modules.json");
        match read_json_if_present::<Vec<Module>>(&file)? {
            Some(list) => Self::from_list(root, &file, &list),
            None => Ok(Self::bare(root)),
        }
    }

    fn bare(root: &Path) -> Self {
        Self {
            transformer: root.to_owned(),
            pooling: Pooling::Mean,
            normalize: true,
        }
    }

    fn from_list(root: &Path, file: &Path, list: &[Module]) -> Result<Self> {
        let mut transformer = None;
        let mut pooling = None;
        let mut normalize = false;
        for module in list {
            let path = inside(root, file, &module.path)?;
            match class(&module.kind) {
                "Transformer" => transformer = Some(path),
                "Pooling" => pooling = Some(Pooling::read(&path.join("config.json"))?),
                "Normalize" => normalize = true,
                other => return Err(not_implemented(file, format_args!("the module {other}"))),
            }
        }
        Ok(Self {
            transformer: transformer.ok_or_else(|| invalid(file, "it lists no Transformer"))?,
            pooling: pooling.ok_or_else(|| invalid(file, "it lists no Pooling"))?,
            normalize,
        })
    }
}

/// The last part of a Python path: where the class lives has changed over the years, its name hasn't.
fn class(kind: &str) -> &str {
    kind.rsplit('.').next().unwrap_or(kind)
}

fn inside(root: &Path, file: &Path, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        Ok(root.join(path))
    } else {
        Err(invalid(
            file,
            format_args!("the path {path:?} leads out of the folder"),
        ))
    }
}
