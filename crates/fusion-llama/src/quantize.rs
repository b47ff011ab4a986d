//! One model file made into another whose tensors are stored in fewer bits: `fusiond-llama quantize`, and what repacking does at
//! load.

use std::{fs, path::Path};

use fusion_engine::types::{Error, ErrorCode, Result};
use llama_cpp_4::{
    model_quantize,
    quantize::{LlamaFtype, QuantizeParams},
};

use crate::{gguf::Gguf, llama, model_file::unusable};

/// What is to become of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) kind: LlamaFtype,
    /// Whether tensors that are already quantized may be quantized once more, which adds a second error to the first.
    pub(crate) requantize: bool,
    /// Whether every matrix gets the very type, instead of a mixture that is better for the size.
    pub(crate) pure: bool,
    pub(crate) threads: u32,
}

/// # Errors
/// `invalid_value` naming the types that there are.
pub(crate) fn kind(name: &str) -> Result<LlamaFtype> {
    LlamaFtype::from_name(name).ok_or_else(|| {
        let names: Vec<_> = LlamaFtype::all().iter().map(|kind| kind.name()).collect();
        let message = format!(
            "{name:?} is no type of quantization; there are {}",
            names.join(", ")
        );
        Error::invalid("type", message)
    })
}

impl Conversion {
    /// Bytes of the tensors afterwards, without converting anything.
    ///
    /// # Errors
    /// `invalid_value` for a file that can't be converted so.
    pub(crate) fn predict(self, from: &Path) -> Result<u64> {
        Gguf::read(from)?;
        let text = llama::transcribe(|| self.call(from, Path::new(""), true));
        let (outcome, lines) = text;
        outcome.map_err(|why| unusable(from, &why))?;
        predicted_bytes(&lines)
            .ok_or_else(|| Error::internal("llama.cpp didn't say how large the result is"))
    }

    /// Writes the converted model; what is at `to` afterwards is whole only where this succeeds.
    ///
    /// # Errors
    /// `invalid_value` for a file that can't be converted so, `engine_unavailable` where the result can't be written.
    pub(crate) fn run(self, from: &Path, to: &Path) -> Result<()> {
        Gguf::read(from)?;
        self.call(from, to, false)
            .map_err(|why| unusable(from, &why))?;
        let written = fs::File::open(to).and_then(|file| file.sync_all());
        written.map_err(|error| {
            let message = format!("can't write {}: {error}", to.display());
            Error::new(ErrorCode::EngineUnavailable, message)
        })
    }

    fn call(self, from: &Path, to: &Path, dry_run: bool) -> Result<(), String> {
        let text = |path: &Path| {
            let text = path.to_str().filter(|text| !text.contains('\0'));
            text.map(str::to_owned)
                .ok_or_else(|| "its path is not plain text".to_owned())
        };
        let (from, to) = (text(from)?, text(to)?);
        llama::backend().map_err(|error| error.message)?;
        let params = QuantizeParams::new(self.kind)
            .with_nthread(i32::try_from(self.threads).unwrap_or(i32::MAX))
            .with_allow_requantize(self.requantize)
            .with_pure(self.pure)
            .with_dry_run(dry_run);
        llama::attempt(|| model_quantize(&from, &to, &params))
    }
}

/// From the line that a dry run ends with, such as `…: quant size  =   136.73 MiB (8.50 BPW)`.
fn predicted_bytes(lines: &[String]) -> Option<u64> {
    let line = lines.iter().rfind(|line| line.contains("quant size"))?;
    let (_, size) = line.split_once('=')?;
    let mebibytes: f64 = size.trim().split(' ').next()?.parse().ok()?;
    // Two digits are told: the half of the last one on top.
    Some(((mebibytes + 0.005) * f64::from(1 << 20)).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_is_none_is_told_with_those_that_are() {
        assert_eq!(kind("q4_k_m").unwrap(), LlamaFtype::MostlyQ4KM);
        let error = kind("q99").unwrap_err();
        assert!(
            error.message.contains("Q4_K_M") && error.message.contains("Q8_0"),
            "{error}"
        );
    }

    #[test]
    fn the_predicted_size_is_read_from_the_log() {
        let line = "llama_model_quantize_impl: quant size  =   136.73 MiB (8.50 BPW)".to_owned();
        assert_eq!(predicted_bytes(&[line]), Some(143_377_040));
        assert_eq!(predicted_bytes(&[]), None);
    }
}
