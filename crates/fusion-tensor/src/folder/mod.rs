//! What a model folder says about itself.
//!
//! A sentence-transformers folder has a `modules.json` that lists its steps: a transformer, a pooling, perhaps a
//! normalisation. A bare Hugging Face folder has none; it is read as a transformer with mean pooling and normalised vectors,
//! cut at the shorter of the tokenizer's and the position table's length.

mod bert;
mod modules;
mod pooling;
mod weights;

use std::path::{Path, PathBuf};

use fusion_engine::types::{Error, ErrorCode, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::fault::{invalid, not_implemented, read_json_if_present};

pub(crate) use bert::{Activation, BertConfig};
pub(crate) use modules::Modules;
pub(crate) use pooling::Pooling;
pub(crate) use weights::{Weights, Wish};

/// A folder that was read and understood; its weights were not touched yet.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where config.json, the tokenizer and the weights are: the folder itself, or its transformer's own.
    pub(crate) transformer: PathBuf,
    pub(crate) bert: BertConfig,
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub(crate) lowercase: bool,
    /// Most tokens that a text may have, special ones included.
    pub(crate) max_tokens: usize,
}

impl Folder {
    /// `max_tokens` replaces the folder's own limit, as far as the model has positions.
    ///
    /// # Errors
    /// `invalid_value` naming the file that is missing or can't be such a model's, `not_implemented` for what this engine
    /// doesn't run yet.
    pub(crate) fn read(path: &Path, max_tokens: Option<u32>) -> Result<Self> {
        if !path.is_dir() {
            let what = if path.exists() {
                "expected a folder with config.json, tokenizer.json and weights"
            } else {
                "no such folder"
            };
            return Err(invalid(path, what));
        }
        let modules = Modules::read(path)?;
        refuse_default_prompt(path)?;
        let sentence = SentenceConfig::read(&modules.transformer)?;
        let bert = BertConfig::read(&modules.transformer.join("config.json"))?;
        let own = match sentence.max_seq_length {
            Some(length) => length,
            None => tokenizer_length(&modules.transformer)?,
        };
        let wanted = max_tokens.map_or(own, |tokens| tokens as usize);
        Ok(Self {
            max_tokens: wanted.min(bert.max_position_embeddings),
            transformer: modules.transformer,
            pooling: modules.pooling,
            normalize: modules.normalize,
            lowercase: sentence.do_lower_case,
            bert,
        })
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.transformer.join("config.json")
    }

    /// # Errors
    /// `invalid_value` where there is none.
    pub(crate) fn tokenizer_file(&self) -> Result<PathBuf> {
        let file = self.transformer.join("tokenizer.json");
        if file.is_file() {
            Ok(file)
        } else {
            Err(invalid(
                &file,
                "no such file; the engine reads the tokenizer from it alone",
            ))
        }
    }

    /// # Errors
    /// `context_length_exceeded` where `special` tokens alone fill a text.
    pub(crate) fn check_room_for(&self, special: usize) -> Result<()> {
        if self.max_tokens > special {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidValue,
            format!(
                "a context of {} tokens has no room beside the {special} special ones",
                self.max_tokens
            ),
        )
        .with_param("context_length"))
    }
}

/// `sentence_bert_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

impl SentenceConfig {
    fn read(transformer: &Path) -> Result<Self> {
        let file = transformer.join("sentence_bert_config.json");
        Ok(read_json_if_present(&file)?.unwrap_or_default())
    }
}

/// `model_max_length` of the tokenizer: often a huge number that stands for "unknown".
fn tokenizer_length(transformer: &Path) -> Result<usize> {
    #[derive(Deserialize)]
    struct TokenizerConfig {
        model_max_length: Option<f64>,
    }
    let file = transformer.join("tokenizer_config.json");
    let config: Option<TokenizerConfig> = read_json_if_present(&file)?;
    let length = config.and_then(|config| config.model_max_length);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and the caller takes the smaller of this and the position table"
    )]
    Ok(length.map_or(usize::MAX, |length| length as usize))
}

/// A default prompt goes before every text; vectors made without it would silently be other vectors.
fn refuse_default_prompt(path: &Path) -> Result<()> {
    let file = path.join("config_sentence_transformers.json");
    let config: Option<Value> = read_json_if_present(&file)?;
    match config
        .as_ref()
        .and_then(|config| config["default_prompt_name"].as_str())
    {
        Some(name) => Err(not_implemented(
            &file,
            format_args!("the default prompt {name:?}"),
        )),
        None => Ok(()),
    }
}
