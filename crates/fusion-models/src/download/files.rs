//! Which files of a repository make the model. Pure.

use std::path::{Component, Path};

use fusion_types::{Error, ErrorCode, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Below the repository, with `/`.
    pub(super) path: String,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
}

/// What to take where a repository has several quantizations and none was asked for.
const USUAL: &str = "q4_k_m";
/// What a folder of tensors needs beside its weights.
const SETTINGS: [&str; 4] = ["json", "txt", "model", "jinja"];

/// 1. One GGUF, whole if it is split: the one asked for, or the only one, or the usual quantization.
/// 2. Where there is none, the folder: settings, tokenizer, safetensors, and one int8 ONNX file that fits this machine.
///
/// # Errors
/// `model_not_found` where nothing fits; `invalid_value` where several do, or a path leaves its folder.
pub(super) fn choose(files: &[RemoteFile], part: Option<&str>) -> Result<Vec<RemoteFile>> {
    let is_safe = |path: &str| {
        Path::new(path)
            .components()
            .all(|piece| matches!(piece, Component::Normal(_)))
    };
    if let Some(file) = files.iter().find(|file| !is_safe(&file.path)) {
        return Err(Error::invalid(
            "source",
            format!("the repository has a file at {:?}", file.path),
        ));
    }
    let gguf: Vec<_> = files.iter().filter(|file| is_model(&file.path)).collect();
    if !gguf.is_empty() {
        return choose_gguf(&gguf, part);
    }
    if let Some(part) = part {
        return Err(not_found(&format!(
            "the repository has no GGUF file that fits {part:?}"
        )));
    }
    if !files.iter().any(|file| file.path == "config.json") {
        return Err(not_found(
            "the repository has neither a GGUF file nor a config.json",
        ));
    }
    let onnx = onnx_for(files, std::env::consts::ARCH);
    let belongs = |file: &&RemoteFile| {
        let extension = extension(&file.path);
        SETTINGS.contains(&extension.as_str())
            || (extension == "safetensors" && !file.path.contains('/'))
            || onnx == Some(file.path.as_str())
    };
    Ok(files.iter().filter(belongs).cloned().collect())
}

fn choose_gguf(files: &[&RemoteFile], part: Option<&str>) -> Result<Vec<RemoteFile>> {
    let wanted = part.unwrap_or_default().to_lowercase();
    let exact: Vec<_> = files
        .iter()
        .filter(|file| part == Some(file.path.as_str()))
        .copied()
        .collect();
    let fitting: Vec<_> = files
        .iter()
        .filter(|file| file.path.to_lowercase().contains(&wanted))
        .copied()
        .collect();
    let candidates = if exact.is_empty() { fitting } else { exact };
    let mut groups: Vec<&str> = candidates.iter().map(|file| group(&file.path)).collect();
    groups.sort_unstable();
    groups.dedup();
    let usual: Vec<_> = groups
        .iter()
        .copied()
        .filter(|name| name.to_lowercase().contains(USUAL))
        .collect();
    let chosen = match (groups.as_slice(), usual.as_slice()) {
        ([], _) => {
            return Err(not_found(&format!(
                "the repository has no GGUF file that fits {wanted:?}"
            )));
        }
        ([only], _) => only,
        (_, [usual]) if part.is_none() => usual,
        _ => {
            let message = format!("several files fit, say which: {}", groups.join(", "));
            return Err(Error::invalid("source", message));
        }
    };
    Ok(files
        .iter()
        .filter(|file| group(&file.path) == *chosen)
        .map(|file| (*file).clone())
        .collect())
}

/// The file that an engine is given: the first part of a GGUF. `None` where the model is a folder.
pub(super) fn model_file(files: &[RemoteFile]) -> Option<&RemoteFile> {
    files
        .iter()
        .filter(|file| is_model(&file.path))
        .min_by(|a, b| a.path.cmp(&b.path))
}

/// The name under which a model file is served.
pub(super) fn model_name(path: &str) -> String {
    let name = group(path).rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".gguf").unwrap_or(name).to_owned()
}

/// What the parts of a split GGUF have in common; the path itself of any other.
fn group(path: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let split = path
        .strip_suffix(".gguf")
        .and_then(|stem| stem.rsplit_once("-of-"));
    let part = split
        .filter(|(_, total)| is_number(total))
        .and_then(|(rest, _)| rest.rsplit_once('-'));
    part.filter(|(_, number)| is_number(number))
        .map_or(path, |(name, _)| name)
}

fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    extension(path) == "gguf" && !name.starts_with("mmproj")
}

fn extension(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.')
        .map_or_else(String::new, |(_, extension)| extension.to_lowercase())
}

/// The int8 file that this kind of processor runs best.
fn onnx_for<'a>(files: &'a [RemoteFile], architecture: &str) -> Option<&'a str> {
    let order: &[&str] = match architecture {
        "aarch64" => &[
            "arm64",
            "model_qint8.onnx",
            "model_quantized.onnx",
            "model_int8.onnx",
        ],
        _ => &[
            "vnni",
            "avx2",
            "model_qint8.onnx",
            "model_quantized.onnx",
            "model_int8.onnx",
        ],
    };
    let names = || {
        files
            .iter()
            .map(|file| file.path.as_str())
            .filter(|path| path.ends_with(".onnx"))
    };
    order
        .iter()
        .find_map(|mark| names().find(|path| path.contains(mark)))
}

fn not_found(message: &str) -> Error {
    Error::new(ErrorCode::ModelNotFound, message).with_param("source")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            bytes: None,
            sha256: None,
        };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str], part: Option<&str>) -> Result<Vec<String>> {
        Ok(choose(&files(paths), part)?
            .into_iter()
            .map(|file| file.path)
            .collect())
    }

    const QUANTS: [&str; 5] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0-00002-of-00002.gguf",
        "mmproj-m.gguf",
    ];

    #[test]
    fn one_quantization_is_taken_whole() {
        assert_eq!(chosen(&QUANTS, None).unwrap(), ["m-Q4_K_M.gguf"]);
        let split = chosen(&QUANTS, Some("q8_0")).unwrap();
        assert_eq!(
            split,
            ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
        );
        assert_eq!(model_name(&split[0]), "m-Q8_0");
        assert_eq!(model_file(&files(&QUANTS)).unwrap().path, "m-Q4_K_M.gguf");
        assert_eq!(
            chosen(&QUANTS, Some("q2")).unwrap_err().code,
            ErrorCode::ModelNotFound
        );
        assert_eq!(
            chosen(&["a.gguf", "b.gguf"], None).unwrap_err().code,
            ErrorCode::InvalidValue
        );
        assert_eq!(
            chosen(&["a.gguf", "aa.gguf"], Some("a.gguf")).unwrap(),
            ["a.gguf"]
        );
    }

    #[test]
    fn a_folder_comes_without_the_weights_that_nobody_reads() {
        let paths = [
            "config.json",
            "1_Pooling/config.json",
            "vocab.txt",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "onnx/model_qint8_arm64.onnx",
            "onnx/model_quint8_avx2.onnx",
        ];
        let list = files(&paths);
        assert_eq!(
            onnx_for(&list, "x86_64"),
            Some("onnx/model_quint8_avx2.onnx")
        );
        assert_eq!(
            onnx_for(&list, "aarch64"),
            Some("onnx/model_qint8_arm64.onnx")
        );
        let chosen = chosen(&paths, None).unwrap();
        assert_eq!(
            chosen[..4],
            [
                "config.json",
                "1_Pooling/config.json",
                "vocab.txt",
                "model.safetensors"
            ]
        );
        assert_eq!(chosen.len(), 5);
    }

    #[test]
    fn a_path_that_leaves_its_folder_is_refused() {
        assert_eq!(
            chosen(&["../x.gguf"], None).unwrap_err().code,
            ErrorCode::InvalidValue
        );
        assert_eq!(
            chosen(&["/x.gguf"], None).unwrap_err().code,
            ErrorCode::InvalidValue
        );
    }
}
