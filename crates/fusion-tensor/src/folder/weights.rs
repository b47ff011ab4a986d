//! Which of a folder's weight files is run.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use fusion_engine::types::{Error, Result};

use crate::fault::{invalid, unreadable};

/// The option `backend`: what the person who starts the engine wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// An int8 ONNX file where there is one, since that is the fastest on a CPU; else safetensors; else any ONNX file.
    #[default]
    Auto,
    Safetensors,
    /// An int8 file first.
    Onnx,
}

impl FromStr for Wish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "safetensors" => Ok(Self::Safetensors),
            "onnx" => Ok(Self::Onnx),
            _ => Err(Error::invalid(
                "backend",
                format!("{text:?} is none of auto, safetensors, onnx"),
            )),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    Safetensors(PathBuf),
    Onnx { file: PathBuf, int8: bool },
}

impl Weights {
    /// # Errors
    /// `invalid_value` where the folder has no weights of the kind wished for.
    pub(crate) fn find(transformer: &Path, wish: Wish) -> Result<Self> {
        let safetensors = Some(transformer.join("model.safetensors"))
            .filter(|file| file.is_file())
            .map(Self::Safetensors);
        let int8 = || quantized(transformer);
        let onnx = || plain(transformer);
        let found = match wish {
            Wish::Auto => int8()?.or(safetensors).or_else(onnx),
            Wish::Safetensors => safetensors,
            Wish::Onnx => int8()?.or_else(onnx),
        };
        found.ok_or_else(|| {
            let wanted = match wish {
                Wish::Auto => "neither model.safetensors nor an ONNX file under onnx/ is here",
                Wish::Safetensors => "model.safetensors is not here",
                Wish::Onnx => "no ONNX file is under onnx/",
            };
            invalid(transformer, wanted)
        })
    }

    pub(crate) fn file(&self) -> &Path {
        match self {
            Self::Safetensors(file) | Self::Onnx { file, .. } => file,
        }
    }

    /// The chosen file and those beside it that ONNX keeps large tensors in.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let file = self.file();
        let beside = ["_data", ".data"].map(|suffix| {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        });
        let beside = beside.into_iter().filter(|file| file.is_file());
        std::iter::once(file.to_owned()).chain(beside).collect()
    }
}

fn quantized(transformer: &Path) -> Result<Option<Weights>> {
    let folder = transformer.join("onnx");
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))? {
        let entry = entry.map_err(|error| unreadable(&folder, &error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(
        pick_int8(&names, std::env::consts::ARCH).map(|name| Weights::Onnx {
            file: folder.join(name),
            int8: true,
        }),
    )
}

fn plain(transformer: &Path) -> Option<Weights> {
    let places = ["onnx/model.onnx", "model.onnx"].map(|place| transformer.join(place));
    let file = places.into_iter().find(|file| file.is_file())?;
    Some(Weights::Onnx { file, int8: false })
}

/// The int8 file made for this kind of processor, else one made for none in particular, else any; by name among equals.
///
/// Files with unsigned weights (`quint8`) are left out: the runtime's fast path takes signed ones.
fn pick_int8<'a>(names: &'a [String], arch: &str) -> Option<&'a str> {
    let int8 = names.iter().map(String::as_str).filter(|name| {
        name.ends_with(".onnx")
            && (name.contains("int8") || name.contains("quantized"))
            && !name.contains("uint8")
    });
    int8.min_by_key(|name| {
        let x86 = name.contains("avx");
        let arm = name.contains("arm64");
        let rank = match arch {
            "x86_64" if x86 => 0,
            "aarch64" if arm => 0,
            _ if !x86 && !arm => 1,
            _ => 2,
        };
        (rank, *name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(names: &[&str], arch: &str) -> Option<String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        pick_int8(&names, arch).map(str::to_owned)
    }

    #[test]
    fn picks_the_int8_file_for_this_processor() {
        let names = [
            "model.onnx",
            "model_O3.onnx",
            "model_qint8_arm64.onnx",
            "model_qint8_avx512_vnni.onnx",
            "model_quint8_avx2.onnx",
            "model_qint8.onnx.sha256",
        ];
        assert_eq!(
            pick(&names, "x86_64").unwrap(),
            "model_qint8_avx512_vnni.onnx"
        );
        assert_eq!(pick(&names, "aarch64").unwrap(), "model_qint8_arm64.onnx");
        assert_eq!(
            pick(
                &["model_qint8_arm64.onnx", "model_quantized.onnx"],
                "x86_64"
            )
            .unwrap(),
            "model_quantized.onnx"
        );
        assert_eq!(
            pick(&["model.onnx", "model_quint8_avx2.onnx"], "x86_64"),
            None
        );
    }
}
