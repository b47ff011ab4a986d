//! The models folder, looked through.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fusion_types::model::ModelId;

use super::{
    definition::{Definition, Origin},
    inspect::{Kind, split_name},
    names::id_of,
    request::plain,
};
use crate::Config;

/// `OWNER/NAME/FILE`, as pulled models lie.
const DEPTH: usize = 3;

/// Everything in the models folder that an engine of ours could serve. Of two models with one name the first path counts.
pub(crate) fn scan(config: &Config) -> Vec<Definition> {
    let mut paths = Vec::new();
    collect(&config.models_dir, DEPTH, &mut paths);
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut found: BTreeMap<ModelId, Definition> = BTreeMap::new();
    for (path, kind) in paths {
        let (Some(id), Ok(engine)) = (id_of(&path), kind.engine(kind.model_type())) else {
            continue;
        };
        if let Some(first) = found.get(&id) {
            tracing::debug!(%id, first = %first.setup.path.display(), path = %path.display(), "two models have one name");
            continue;
        }
        found.insert(
            id.clone(),
            plain(config, id, path, kind.model_type(), engine, Origin::Found),
        );
    }
    found.into_values().collect()
}

fn collect(folder: &Path, depth: usize, paths: &mut Vec<(PathBuf, Kind)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry
            .file_name()
            .to_str()
            .is_none_or(|name| name.starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            match Kind::at(&path) {
                Ok(kind) => paths.push((path, kind)),
                Err(_) if depth > 1 => collect(&path, depth - 1, paths),
                Err(_) => {}
            }
        } else if is_model_file(&path) {
            paths.push((path, Kind::Gguf));
        }
    }
}

/// A GGUF that is a model by itself: no projector, and no later part of a split one.
pub(super) fn is_model_file(path: &Path) -> bool {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let is_later_part = stem.contains("-of-") && split_name(stem).is_none() && is_numbered(stem);
    is_gguf && !stem.starts_with("mmproj") && !is_later_part
}

fn is_numbered(stem: &str) -> bool {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(rest, total)| {
        is_number(total)
            && rest
                .rsplit_once('-')
                .is_some_and(|(_, part)| is_number(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_files_and_folders_and_leaves_out_what_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"GGUF0000").unwrap();
        };
        for path in [
            "one.gguf",
            "owner/repo/two.GGUF",
            "owner/repo/mmproj-two.gguf",
            "big-00001-of-00002.gguf",
            "big-00002-of-00002.gguf",
            "state-of-mind.gguf",
            "mini/config.json",
            "mini/modules.json",
            "language/config.json",
            ".cache/three.gguf",
            "notes.txt",
        ] {
            file(path);
        }
        let found = scan(&Config::new(folder.path(), 0));
        let rows: Vec<_> = found
            .iter()
            .map(|model| (model.id.as_str(), model.setup.engine.as_str()))
            .collect();
        let llama = "fusiond-llama";
        assert_eq!(
            rows,
            [
                ("big", llama),
                ("mini", "fusiond-tensor"),
                ("one", llama),
                ("state-of-mind", llama),
                ("two", llama)
            ]
        );
        assert_eq!(found[0].file_bytes, 16);
    }
}
