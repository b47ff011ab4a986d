//! A model converted at load to a type for which this machine has faster kernels: the launch option `repack`.
//!
//! The converted file is made once and kept, by the fingerprint of the original and the type, in the folder that the launch names. When
//! the files there grow beyond [`MOST_BYTES`], those not used for longest go.

use std::{
    fs::{self, File, FileTimes},
    path::{Path, PathBuf},
    time::SystemTime,
};

use fusion_engine::{
    Launch,
    types::{Error, ErrorCode, Result},
};
use llama_cpp_4::{
    model::params::{LlamaLoadMode, LlamaModelParams},
    quantize::LlamaFtype,
};

use crate::{device::Device, gguf::Gguf, options, quantize::Conversion};

/// What converted files may take together.
const MOST_BYTES: u64 = 20 << 30;

/// Where a model's tensors come from.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) fingerprint: String,
    converted: bool,
}

/// What the option asks for.
pub(crate) fn wanted(launch: &Launch) -> Result<Option<LlamaFtype>> {
    let values = [
        ("none", None),
        ("q8_0", Some(LlamaFtype::MostlyQ8_0)),
        ("q4_0", Some(LlamaFtype::MostlyQ4_0)),
        ("iq4_nl", Some(LlamaFtype::MostlyIQ4NL)),
    ];
    Ok(options::one_of(launch, "repack", &values)?.flatten())
}

impl Source {
    /// The file itself, or what it is converted to, now or earlier.
    ///
    /// # Errors
    /// `invalid_value` for a file that can't be converted so, `engine_unavailable` where the result can't be kept.
    pub(crate) fn of(launch: &Launch, gguf: &Gguf) -> Result<Self> {
        let fingerprint = gguf.fingerprint()?;
        let Some(kind) = wanted(launch)? else {
            return Ok(Self {
                path: launch.model.clone(),
                fingerprint,
                converted: false,
            });
        };
        let path = place(launch, &fingerprint, kind)?;
        if !path.is_file() {
            make(launch, kind, &path)?;
        }
        mark_used(&path);
        Ok(Self {
            fingerprint: gguf.fingerprint_with(&setting(kind))?,
            path,
            converted: true,
        })
    }

    /// A converted file is read and not mapped: its pages are this process's own, and are counted as such.
    pub(crate) fn model_params(&self, device: Device, gguf: &Gguf) -> LlamaModelParams {
        let params = device.model_params(self.converted || gguf.gains_by_repacking);
        if self.converted {
            params.with_load_mode(LlamaLoadMode::None)
        } else {
            params
        }
    }
}

/// Bytes of the tensors that the model will have, without converting it.
///
/// # Errors
/// `invalid_value` for a file that can't be converted as wanted.
pub(crate) fn tensor_bytes(launch: &Launch, gguf: &Gguf) -> Result<u64> {
    let Some(kind) = wanted(launch)? else {
        return Ok(gguf.tensor_bytes);
    };
    let path = place(launch, &gguf.fingerprint()?, kind)?;
    if path.is_file() {
        return Ok(Gguf::read(&path)?.tensor_bytes);
    }
    conversion(launch, kind).predict(&launch.model)
}

fn setting(kind: LlamaFtype) -> String {
    format!("repack={}", kind.name().to_ascii_lowercase())
}

fn conversion(launch: &Launch, kind: LlamaFtype) -> Conversion {
    Conversion {
        kind,
        requantize: true,
        pure: true,
        threads: launch.threads.max(1),
    }
}

fn place(launch: &Launch, fingerprint: &str, kind: LlamaFtype) -> Result<PathBuf> {
    let folder = launch.cache_dir.as_ref().ok_or_else(|| {
        Error::invalid(
            "options.repack",
            "repack needs a folder for what it makes: --cache-dir",
        )
    })?;
    let kind = kind.name().to_ascii_lowercase();
    Ok(folder.join(format!(
        "{}-{kind}.gguf",
        &fingerprint[..32.min(fingerprint.len())]
    )))
}

fn make(launch: &Launch, kind: LlamaFtype, path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| cannot_keep(folder, &error))?;
    let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
    tracing::info!(path = %path.display(), "converting the model");
    let made = conversion(launch, kind).run(&launch.model, &unfinished);
    let renamed = made
        .and_then(|()| fs::rename(&unfinished, path).map_err(|error| cannot_keep(path, &error)));
    if renamed.is_err() {
        // What can't be removed either is swept in its turn.
        let _ = fs::remove_file(&unfinished);
    }
    renamed?;
    sweep(folder, path);
    Ok(())
}

fn cannot_keep(path: &Path, error: &std::io::Error) -> Error {
    let message = format!(
        "can't keep the converted model at {}: {error}",
        path.display()
    );
    Error::new(ErrorCode::EngineUnavailable, message)
}

/// The time of last use is the file's own time of change. That a folder can't be written doesn't matter to whoever only reads.
fn mark_used(path: &Path) {
    let times = FileTimes::new().set_modified(SystemTime::now());
    let marked = File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_times(times));
    if let Err(error) = marked {
        tracing::debug!(path = %path.display(), %error, "can't mark a converted model as used");
    }
}

/// Removes the files used longest ago until the rest fits. A process that has a removed file open keeps it.
fn sweep(folder: &Path, newest: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = files
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.path(), metadata.len(), metadata.modified().ok()?))
        })
        .collect();
    for path in too_many(&mut files, newest, MOST_BYTES) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "can't remove a converted model");
        }
    }
}

/// Which files go, of (path, bytes, last use).
fn too_many(files: &mut [(PathBuf, u64, SystemTime)], newest: &Path, most: u64) -> Vec<PathBuf> {
    files.sort_by_key(|(_, _, used)| *used);
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    let mut gone = Vec::new();
    for (path, size, _) in files.iter().filter(|(path, ..)| path != newest) {
        if bytes <= most {
            break;
        }
        bytes = bytes.saturating_sub(*size);
        gone.push(path.clone());
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_files_used_longest_ago_go_and_the_newest_stays() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut files = [
            ("b".into(), 40, at(20)),
            ("new".into(), 60, at(1)),
            ("a".into(), 30, at(10)),
            ("c".into(), 20, at(30)),
        ];
        let mut gone = |most| too_many(&mut files, Path::new("new"), most);
        assert_eq!(gone(150), Vec::<PathBuf>::new());
        assert_eq!(gone(149), [PathBuf::from("a")]);
        assert_eq!(gone(100), [PathBuf::from("a"), "b".into()]);
        assert_eq!(gone(10), [PathBuf::from("a"), "b".into(), "c".into()]);
    }
}
