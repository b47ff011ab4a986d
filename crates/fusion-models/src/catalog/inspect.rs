//! What lies at a path. Model files are parsed by the engines, never here: this reads names and four bytes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use fusion_types::{
    Error, Result,
    model::ModelType,
    projector::{is_projector, projector_of},
};

pub(super) const LLAMA: &str = "fusiond-llama";
pub(super) const TENSOR: &str = "fusiond-tensor";

/// Families of embedding models whose names don't say so.
const EMBEDDERS: [&str; 5] = ["minilm", "bge", "e5", "gte", "mpnet"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One file of the format that llama.cpp reads.
    Gguf,
    /// A folder with a pooling of its own, as sentence-transformers writes it.
    SentenceTransformers,
    /// A folder with weights of another architecture.
    Tensors,
}

impl Kind {
    /// # Errors
    /// `invalid_value` for what isn't a model, or isn't there.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let refuse = |why: &str| Error::invalid("model_path", format!("{}: {why}", path.display()));
        let metadata = fs::metadata(path).map_err(|error| refuse(&error.to_string()))?;
        if metadata.is_dir() {
            return match () {
                () if !path.join("config.json").is_file() => {
                    Err(refuse("the folder has no config.json"))
                }
                () if path.join("modules.json").is_file() || path.join("1_Pooling").is_dir() => {
                    Ok(Self::SentenceTransformers)
                }
                () => Ok(Self::Tensors),
            };
        }
        match starts_as_gguf(path) {
            Ok(true) => Ok(Self::Gguf),
            Ok(false) => Err(refuse("the file is not a GGUF model")),
            Err(error) => Err(refuse(&error.to_string())),
        }
    }

    /// What such a model most likely is; a load request can say otherwise.
    pub(super) fn model_type(self, path: &Path) -> ModelType {
        match self {
            Self::Gguf if projector(path).is_some() => ModelType::Multimodal,
            Self::Gguf => by_name(path),
            Self::Tensors => ModelType::Lm,
            Self::SentenceTransformers => ModelType::Embeddings,
        }
    }

    /// The engine that serves such a model as that type.
    ///
    /// # Errors
    /// `not_implemented` where no engine of ours does.
    pub(super) fn engine(self, model_type: ModelType) -> Result<&'static str> {
        match (self, model_type) {
            (
                Self::Gguf,
                ModelType::Lm | ModelType::Multimodal | ModelType::Embeddings | ModelType::Rerank,
            ) => Ok(LLAMA),
            (
                Self::SentenceTransformers | Self::Tensors,
                ModelType::Embeddings | ModelType::Rerank,
            ) => Ok(TENSOR),
            (Self::SentenceTransformers | Self::Tensors, ModelType::Lm) => Err(
                Error::not_implemented("running a language model from a folder of tensors"),
            ),
            _ => Err(Error::not_implemented(format!(
                "running a model of type {}",
                model_type.as_str()
            ))),
        }
    }
}

/// A GGUF file says what it is only to who parses it; its name mostly says it too.
fn by_name(path: &Path) -> ModelType {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase();
    let mut words = name.split(['-', '_', '.']);
    if name.contains("rerank") {
        ModelType::Rerank
    } else if name.contains("embed") || words.any(|word| EMBEDDERS.contains(&word)) {
        ModelType::Embeddings
    } else {
        ModelType::Lm
    }
}

fn starts_as_gguf(path: &Path) -> io::Result<bool> {
    let mut magic = [0; 4];
    match File::open(path)?.read_exact(&mut magic) {
        Ok(()) => Ok(&magic == b"GGUF"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The projector beside a GGUF, where there is one that belongs to it.
pub(super) fn projector(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    let names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    // Most folders have none.
    if !names.iter().any(|name| is_projector(name)) {
        return None;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = projector_of(path.file_name()?.to_str()?, &names)?;
    Some(folder.join(name))
}

/// Size of the weights, and when they were last written, in milliseconds since 1970. A model in several files counts whole.
pub(super) fn weigh(path: &Path) -> (u64, i64) {
    let Ok(metadata) = fs::metadata(path) else {
        return (0, 0);
    };
    if metadata.is_file() {
        return siblings(path).unwrap_or_else(|| (metadata.len(), modified(&metadata)));
    }
    sum(path, |_| true)
}

/// The parts of a GGUF that was split: `NAME-00001-of-00003.gguf` and so on.
fn siblings(path: &Path) -> Option<(u64, i64)> {
    let (name, total) = split_name(path.file_stem()?.to_str()?)?;
    let end = format!("-of-{total}.gguf");
    Some(sum(path.parent()?, |file| {
        file.starts_with(name) && file.ends_with(&end)
    }))
}

/// `("NAME", "00003")` for the first part of a split GGUF.
pub(super) fn split_name(stem: &str) -> Option<(&str, &str)> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    Some((rest.strip_suffix("-00001")?, total))
}

fn sum(folder: &Path, counts: impl Fn(&str) -> bool) -> (u64, i64) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(&counts));
    let files = named
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(fs::Metadata::is_file);
    files.fold((0, 0), |(bytes, latest), file| {
        (bytes + file.len(), latest.max(modified(&file)))
    })
}

fn modified(metadata: &fs::Metadata) -> i64 {
    let time = metadata.modified().unwrap_or(UNIX_EPOCH);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_s_name_tells_what_it_most_likely_is() {
        let guess = |name: &str| Kind::Gguf.model_type(Path::new(name));
        for name in [
            "all-MiniLM-L6-v2-f16.gguf",
            "bge-m3-Q8_0.gguf",
            "Qwen3-Embedding-0.6B-Q8_0.gguf",
            "nomic-embed-text-v1.5.gguf",
        ] {
            assert_eq!(guess(name), ModelType::Embeddings, "{name}");
        }
        for name in ["bge-reranker-v2-m3.gguf", "Qwen3-Reranker-0.6B.gguf"] {
            assert_eq!(guess(name), ModelType::Rerank, "{name}");
        }
        for name in [
            "SmolLM2-135M-Instruct-Q4_1.gguf",
            "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf",
            "m",
        ] {
            assert_eq!(guess(name), ModelType::Lm, "{name}");
        }
    }
}
