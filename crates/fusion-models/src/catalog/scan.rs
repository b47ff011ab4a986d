//! The models folder and the known folders of other programs, looked through.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fusion_types::{Error, Result, model::ModelId};

use super::{
    definition::{Definition, Origin},
    inspect::{Kind, split_name},
    known,
    names::{check_id, id_of},
    request::plain,
};
use crate::Config;

/// `OWNER/NAME/FILE`, as pulled models lie.
const DEPTH: usize = 3;

/// Everything that an engine of ours could serve. Of two models with one name the first path counts, and the models folder
/// goes before the others. One model under two names has the second as an alias.
pub(crate) fn scan(config: &Config) -> Vec<Definition> {
    let mut paths = Vec::new();
    collect(&config.models_dir, DEPTH, &mut paths);
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    let own = paths
        .into_iter()
        .filter_map(|(path, kind)| Some((id_of(&path)?, path, kind)));
    let others = known::search(&config.known_folders)
        .into_iter()
        .filter_map(|known| Some((check_id(&known.name).ok()?, known.path, known.kind)));

    let mut found: BTreeMap<ModelId, Definition> = BTreeMap::new();
    let mut places = HashMap::new();
    for (id, path, kind) in own.chain(others) {
        let model_type = kind.model_type(&path);
        let Ok(engine) = kind.engine(model_type) else {
            continue;
        };
        if let Some(first) = found.get(&id) {
            tracing::debug!(%id, first = %first.setup.path.display(), path = %path.display(), "two models have one name");
            continue;
        }
        let place = place(&path);
        let first = place.and_then(|place| found.get_mut(places.get(&place)?));
        if let Some(first) = first {
            first.aliases.push(id.as_str().to_owned());
            continue;
        }
        places.extend(place.map(|place| (place, id.clone())));
        found.insert(
            id.clone(),
            plain(config, id, path, model_type, engine, Origin::Found),
        );
    }
    found.into_values().collect()
}

/// Tells a file or folder from every other, whatever the links that led to it.
fn place(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The found model that a text names: by its name or alias, or as `NAME[:FILE-OR-QUANT]` where one model fits.
///
/// # Errors
/// `invalid_value` where several fit.
pub(super) fn named<'a>(found: &'a [Definition], text: &str) -> Result<Option<&'a Definition>> {
    let exact = found.iter().find(|definition| {
        definition.id.as_str() == text || definition.aliases.iter().any(|alias| alias == text)
    });
    if exact.is_some() {
        return Ok(exact);
    }
    let (name, part) = text.split_once(':').unwrap_or((text, ""));
    let part = part.to_lowercase();
    let fits = |definition: &&Definition| {
        let rest = definition.id.as_str().strip_prefix(name);
        let file = definition.setup.path.file_name().unwrap_or_default();
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            && file.to_string_lossy().to_lowercase().contains(&part)
    };
    let fitting: Vec<_> = found.iter().filter(fits).collect();
    match fitting.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        several => {
            let names: Vec<_> = several.iter().map(|model| model.id.as_str()).collect();
            let message = format!("several models fit, say which: {}", names.join(", "));
            Err(Error::invalid("model_path", message))
        }
    }
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

/// A GGUF that is a model by itself: no projector, no later part of a split one, and no first part without the others.
pub(super) fn is_model_file(path: &Path) -> bool {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    is_gguf
        && !stem.to_lowercase().contains("mmproj")
        && (!is_numbered(stem) || is_whole(path, stem))
}

/// The engine is given the first part of a split GGUF, and finds the others beside it.
fn is_whole(path: &Path, stem: &str) -> bool {
    let Some((name, total)) = split_name(stem) else {
        return false;
    };
    let part = |number: u32| path.with_file_name(format!("{name}-{number:05}-of-{total}.gguf"));
    total
        .parse()
        .is_ok_and(|last| (2..=last).all(|number| part(number).is_file()))
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
            "half-00001-of-00002.gguf",
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
            .map(|model| (model.id.as_str(), model.setup.model_type.as_str()))
            .collect();
        assert_eq!(
            rows,
            [
                ("big", "lm"),
                ("mini", "embeddings"),
                ("one", "lm"),
                ("state-of-mind", "lm"),
                ("two", "multimodal")
            ]
        );
        assert_eq!(found[0].file_bytes, 16);
    }
}
