//! Speculative decoding as the launch options have it: who guesses ahead of the model, and how far.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use fusion_engine::{
    Launch,
    types::{Error, Result},
};
use llama_cpp_4::model::{LlamaModel, params::LlamaModelParams};

use crate::{decode::differs, gguf::Gguf, llama};

/// Tokens guessed at once, unless the option `draft_max` says otherwise.
const MOST: usize = 4;
/// More are hardly ever right, and the channel to a client has room for not many more.
const MOST_AT_ALL: usize = 16;
/// A draft model goes on while it is so sure, unless the option `draft_p_min` says otherwise.
const LEAST_PROBABILITY: f32 = 0.75;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Speculation {
    /// The option `speculate=ngram`: what the text repeats is guessed.
    pub(crate) by_ngram: bool,
    /// Tokens guessed at once for a stream, at most; none where nobody guesses.
    pub(crate) most: usize,
    pub(crate) least_probability: f32,
}

impl Speculation {
    pub(crate) fn of(launch: &Launch) -> Result<Self> {
        let by_ngram = match launch.option("speculate") {
            None => false,
            Some("ngram") => true,
            Some(_) => {
                let message = "speculate must be ngram; a draft model is named by draft_model";
                return Err(Error::invalid("options.speculate", message));
            }
        };
        let most = number(launch, "draft_max", MOST, 1..=MOST_AT_ALL)?;
        let guesses = by_ngram || draft_path(launch).is_some();
        Ok(Self {
            by_ngram,
            most: if guesses { most } else { 0 },
            least_probability: number(launch, "draft_p_min", LEAST_PROBABILITY, 0.0..=1.0)?,
        })
    }
}

/// The file of the draft model, which the option `draft_model` names.
pub(crate) fn draft_path(launch: &Launch) -> Option<PathBuf> {
    launch.option("draft_model").map(PathBuf::from)
}

/// The draft model's tensors, as its file has them.
pub(crate) fn draft_bytes(path: &Path) -> Result<u64> {
    Ok(read(path)?.tensor_bytes)
}

/// Loads the draft model for a model.
///
/// # Errors
/// `invalid_value` for a file that can't be used, and for a model with another vocabulary.
pub(crate) fn load_draft(
    path: &Path,
    params: &LlamaModelParams,
    model: &LlamaModel,
) -> Result<Arc<LlamaModel>> {
    read(path)?;
    let backend = llama::backend()?;
    let load = || LlamaModel::load_from_file(backend, path, params);
    let draft = llama::attempt(load).map_err(|why| unusable(&why))?;
    if draft.is_recurrent() || draft.is_hybrid() {
        return Err(unusable("its memory can't be cut back to what was right"));
    }
    match differs(&draft, model) {
        Some(why) => Err(unusable(&why)),
        None => Ok(Arc::new(draft)),
    }
}

fn read(path: &Path) -> Result<Gguf> {
    Gguf::read(path).map_err(|error| error.with_param("draft_model"))
}

fn number<T: FromStr + PartialOrd>(
    launch: &Launch,
    option: &str,
    default: T,
    within: std::ops::RangeInclusive<T>,
) -> Result<T> {
    let Some(text) = launch.option(option) else {
        return Ok(default);
    };
    let number = text.parse().ok().filter(|number| within.contains(number));
    number.ok_or_else(|| {
        let message = format!("{option} can't be {text}");
        Error::invalid(format!("options.{option}"), message)
    })
}

fn unusable(why: &str) -> Error {
    Error::invalid(
        "draft_model",
        format!("the draft model can't be used: {why}"),
    )
}
