//! `config.json` of a BERT model.

use std::path::Path;

use fusion_engine::types::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::fault::{invalid, not_implemented, read_json};

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BertConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "two")]
    pub(crate) type_vocab_size: usize,
    #[serde(default)]
    pub(crate) hidden_act: Activation,
    #[serde(default = "tiny")]
    pub(crate) layer_norm_eps: f64,
    #[serde(default)]
    pub(crate) pad_token_id: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) enum Activation {
    #[default]
    #[serde(rename = "gelu")]
    Gelu,
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    #[serde(rename = "relu")]
    Relu,
}

impl BertConfig {
    /// # Errors
    /// `invalid_value` for a file that isn't a model's, `not_implemented` naming an architecture that isn't BERT.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let value: Value = read_json(file)?;
        refuse_other_architectures(file, &value)?;
        let config: Self = serde_json::from_value(value).map_err(|error| invalid(file, error))?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(invalid(file, format_args!("{name} is 0")));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(invalid(
                file,
                "hidden_size is no multiple of num_attention_heads",
            ));
        }
        Ok(())
    }
}

fn refuse_other_architectures(file: &Path, config: &Value) -> Result<()> {
    let architecture = config["architectures"][0].as_str();
    match (config["model_type"].as_str(), architecture) {
        (Some("bert"), _) => {}
        (None, Some(name)) if name.starts_with("Bert") => {}
        (Some(other), _) | (None, Some(other)) => {
            return Err(not_implemented(
                file,
                format_args!("the architecture {other}"),
            ));
        }
        (None, None) => return Err(invalid(file, "it names no model_type")),
    }
    if let Some(head) = architecture.filter(|name| name.contains("Classification")) {
        return Err(not_implemented(
            file,
            format_args!("{head}, a classifier and no embedding model,"),
        ));
    }
    match config["position_embedding_type"].as_str() {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(not_implemented(
            file,
            format_args!("the position embedding {other}"),
        )),
    }
}

fn two() -> usize {
    2
}

fn tiny() -> f64 {
    1e-12
}
