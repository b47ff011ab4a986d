//! The head of a GGUF file: what can be known of a model without loading it, and whether its tensors are all there.

mod fingerprint;
#[cfg(test)]
mod hostile;
mod reader;
mod tensor_type;

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use fusion_engine::types::{Error, Result};
use llama_cpp_4::model::LlamaModel;

use crate::matmul;

use reader::{MOST_ENTRIES, Reader, Value, broken};

/// One model, in one file or several.
pub(crate) struct Gguf {
    pub(crate) architecture: String,
    /// Tokens that the model was trained on, where it says so.
    pub(crate) trained_length: Option<u32>,
    /// All tensors of all files.
    pub(crate) tensor_bytes: u64,
    /// Those of them that ggml copies into another order where there is AMX.
    pub(crate) amx_bytes: u64,
    /// Whether some tensors are quicker in another order than the file's.
    pub(crate) gains_by_repacking: bool,
    /// How the model makes one vector of a text, where it says so: llama.cpp's number.
    pub(crate) pooling: Option<u32>,
    /// Whether a token sees only those before it, where the file says so.
    causal: Option<bool>,
    /// Whether the model scores texts: it has a classification head.
    pub(crate) has_head: bool,
    /// What a projector says of itself in whole numbers, by key.
    numbers: HashMap<String, u64>,
    parts: Vec<Part>,
}

struct Part {
    path: PathBuf,
    /// Bytes before the tensors: the header, the metadata and the list of tensors.
    head_bytes: u64,
    file_bytes: u64,
}

#[derive(Default)]
struct Head {
    architecture: Option<String>,
    context_length: Option<u64>,
    alignment: Option<u64>,
    pooling: Option<u64>,
    causal: Option<bool>,
    has_head: bool,
    split_count: u64,
    numbers: HashMap<String, u64>,
    tensor_bytes: u64,
    amx_bytes: u64,
    gains_by_amx: bool,
    gains_by_repacking: bool,
    head_bytes: u64,
    file_bytes: u64,
}

impl Gguf {
    /// Reads the heads of all of a model's files; takes milliseconds.
    ///
    /// # Errors
    /// `invalid_value` for a file that is missing, something else, cut short, or broken.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let first = read_head(path)?;
        let architecture = first
            .architecture
            .clone()
            .ok_or_else(|| invalid(path, "does not name its architecture"))?;
        let trained_length = first
            .context_length
            .and_then(|length| u32::try_from(length).ok());
        let (mut tensor_bytes, mut amx_bytes) = (0, 0);
        let (mut has_head, mut gains_by_repacking) = (false, false);
        let mut gains_by_amx = false;
        let mut parts = Vec::new();
        for (index, path) in part_paths(path, first.split_count)?.into_iter().enumerate() {
            let another = (index > 0).then(|| read_head(&path)).transpose()?;
            let head = another.as_ref().unwrap_or(&first);
            tensor_bytes += head.tensor_bytes;
            amx_bytes += head.amx_bytes;
            has_head |= head.has_head;
            gains_by_repacking |= head.gains_by_repacking;
            gains_by_amx |= head.gains_by_amx;
            parts.push(Part {
                path,
                head_bytes: head.head_bytes,
                file_bytes: head.file_bytes,
            });
        }
        Ok(Self {
            architecture,
            trained_length,
            tensor_bytes,
            amx_bytes,
            gains_by_repacking: gains_by_repacking || gains_by_amx && matmul::has_amx(),
            pooling: first.pooling.and_then(|number| u32::try_from(number).ok()),
            causal: first.causal,
            has_head,
            numbers: first.numbers,
            parts,
        })
    }

    /// Whether a token sees only those before it. Of some architectures llama.cpp knows that it sees all, whatever the file says.
    pub(crate) fn is_causal(&self) -> bool {
        let name = &self.architecture;
        let reads_both_ways = name.contains("bert") || name.starts_with("gemma-embedding");
        self.causal.unwrap_or(true) && !reads_both_ways
    }

    /// A number in a projector's metadata.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).copied()
    }

    /// Identifies the weights and everything that goes with them: see [`fingerprint`].
    ///
    /// # Errors
    /// `invalid_value` where a file can't be read any more.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        fingerprint::of(&self.parts)
            .map_err(|error| Error::invalid("model", format!("can't read the model: {error}")))
    }

    /// The same for a model whose outputs hang on more than its files.
    ///
    /// # Errors
    /// As for [`Gguf::fingerprint`].
    pub(crate) fn fingerprint_with(&self, setting: &str) -> Result<String> {
        Ok(fingerprint::with(&self.fingerprint()?, setting))
    }
}

/// The files of a split model, of which the first was named.
fn part_paths(path: &Path, count: u64) -> Result<Vec<PathBuf>> {
    if count < 2 {
        return Ok(vec![path.to_owned()]);
    }
    let count =
        i32::try_from(count).map_err(|_| invalid(path, "has an impossible number of parts"))?;
    let prefix = path
        .to_str()
        .and_then(|path| LlamaModel::split_prefix(path, 0, count))
        .ok_or_else(|| invalid(path, "is not the first part of its model"))?;
    Ok((0..count)
        .map(|part| LlamaModel::split_path(&prefix, part, count).into())
        .collect())
}

fn read_head(path: &Path) -> Result<Head> {
    let mut reader = File::open(path)
        .and_then(Reader::new)
        .map_err(|error| unreadable(path, &error))?;
    match reader.bytes::<4>() {
        Ok(magic) if magic == *b"GGUF" => {
            read_after_magic(&mut reader).map_err(|error| unreadable(path, &error))
        }
        Ok(_) => Err(invalid(path, "is not a GGUF file")),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            invalid(path, &format!("is not a usable GGUF file: it has {error}"))
        }
        io::ErrorKind::UnexpectedEof => invalid(path, "is cut short"),
        _ => invalid(path, &format!("can't be read: {error}")),
    }
}

fn read_after_magic(reader: &mut Reader) -> io::Result<Head> {
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(broken(format!("version {version}")));
    }
    let tensors = reader.count()?;
    let values = reader.count()?;
    let mut head = read_metadata(reader, values)?;
    let ends = read_tensors(reader, tensors, &mut head)?;
    let alignment = head.alignment.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > MOST_ENTRIES {
        return Err(broken(format!("an alignment of {alignment}")));
    }
    head.head_bytes = reader.at().next_multiple_of(alignment);
    head.file_bytes = reader.size();
    if head.head_bytes.saturating_add(ends) > head.file_bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if head.tensor_bytes > head.file_bytes {
        return Err(broken("tensors that lie over each other".to_owned()));
    }
    Ok(head)
}

fn read_metadata(reader: &mut Reader, values: u64) -> io::Result<Head> {
    let mut head = Head::default();
    for _ in 0..values {
        let key = reader.text()?;
        match (key.as_str(), reader.value()?) {
            ("general.architecture", Value::Text(name)) => head.architecture = Some(name),
            ("general.alignment", Value::Unsigned(bytes)) => head.alignment = Some(bytes),
            ("split.count", Value::Unsigned(count)) => head.split_count = count,
            (key, Value::Unsigned(length)) if key.ends_with(".context_length") => {
                head.context_length = Some(length)
            }
            (key, Value::Unsigned(number))
                if key.ends_with(".pooling_type") && !key.contains(".classifier.") =>
            {
                head.pooling = Some(number)
            }
            (key, Value::Bool(causal)) if key.ends_with(".attention.causal") => {
                head.causal = Some(causal)
            }
            (key, Value::Unsigned(number)) if key.starts_with("clip.") => {
                head.numbers.insert(key.to_owned(), number);
            }
            _ => {}
        }
    }
    Ok(head)
}

/// Adds up the tensors, and says where the last of them ends, counted from the first.
fn read_tensors(reader: &mut Reader, tensors: u64, head: &mut Head) -> io::Result<u64> {
    let mut ends = 0;
    for _ in 0..tensors {
        let name = reader.text()?;
        let rank = reader.u32()?;
        if rank > 4 {
            return Err(broken(format!("a tensor {name:?} of {rank} dimensions")));
        }
        let dimensions = (0..rank)
            .map(|_| reader.u64())
            .collect::<io::Result<Vec<_>>>()?;
        let kind = reader.u32()?;
        let offset = reader.u64()?;
        let bytes = tensor_type::tensor_bytes(kind, &dimensions).ok_or_else(|| {
            broken(format!(
                "a tensor {name:?} of type {kind} and shape {dimensions:?}"
            ))
        })?;
        head.tensor_bytes = head.tensor_bytes.saturating_add(bytes);
        // The embeddings of tokens are looked up, not multiplied.
        if name != "token_embd.weight" && tensor_type::has_amx_order(kind, &dimensions) {
            head.amx_bytes = head.amx_bytes.saturating_add(bytes);
            head.gains_by_amx |= !tensor_type::is_ours(kind);
        }
        head.gains_by_repacking |= tensor_type::gains_by_repacking(kind, &dimensions);
        head.has_head |= matches!(name.as_str(), "cls.weight" | "cls.output.weight");
        ends = ends.max(offset.saturating_add(bytes));
    }
    Ok(ends)
}

fn invalid(path: &Path, what: &str) -> Error {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    Error::invalid("model", format!("{name} {what}"))
}
