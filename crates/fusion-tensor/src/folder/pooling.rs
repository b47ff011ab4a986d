//! How a text's token vectors become one vector.

use std::path::Path;

use fusion_engine::types::Result;
use serde_json::{Map, Value};

use crate::fault::{invalid, not_implemented, read_json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean over all tokens, special ones included.
    Mean,
    /// The first token's vector.
    Cls,
    /// The largest value in each place.
    Max,
}

impl Pooling {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
        }
    }

    /// Reads `1_Pooling/config.json`: one flag a mode, or a mode by name.
    ///
    /// # Errors
    /// `invalid_value` without a mode, `not_implemented` for several or an unknown one.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let config: Map<String, Value> = read_json(file)?;
        let modes = modes(&config);
        match modes.as_slice() {
            [] => Err(invalid(file, "it names no pooling mode")),
            ["mean" | "mean_tokens"] => Ok(Self::Mean),
            ["cls" | "cls_token"] => Ok(Self::Cls),
            ["max" | "max_tokens"] => Ok(Self::Max),
            [mode] => Err(not_implemented(
                file,
                format_args!("the pooling mode {mode}"),
            )),
            many => Err(not_implemented(
                file,
                format_args!("pooling by {} together", many.join(" and ")),
            )),
        }
    }
}

fn modes(config: &Map<String, Value>) -> Vec<&str> {
    if let Some(mode) = config.get("pooling_mode").and_then(Value::as_str) {
        return vec![mode];
    }
    let flags = config
        .iter()
        .filter(|(_, value)| value.as_bool() == Some(true));
    flags
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Pooling> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        Pooling::read(&file)
    }

    #[test]
    fn reads_flags_and_names() {
        let flags = r#"{"word_embedding_dimension":384,"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#;
        assert_eq!(read(flags).unwrap(), Pooling::Cls);
        assert_eq!(read(r#"{"pooling_mode":"max"}"#).unwrap(), Pooling::Max);
        assert_eq!(
            read(r#"{"pooling_mode_mean_tokens":true}"#).unwrap(),
            Pooling::Mean
        );
    }

    #[test]
    fn refuses_what_it_cannot_do_by_name() {
        let error = read(r#"{"pooling_mode_weightedmean_tokens":true}"#).unwrap_err();
        assert!(error.message.contains("weightedmean_tokens"), "{error}");
        let error =
            read(r#"{"pooling_mode_cls_token":true,"pooling_mode_max_tokens":true}"#).unwrap_err();
        assert!(
            error.message.contains("cls_token and max_tokens"),
            "{error}"
        );
        assert!(read("{}").unwrap_err().message.contains("no pooling mode"));
    }
}
