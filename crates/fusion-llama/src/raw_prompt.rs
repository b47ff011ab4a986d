//! The tokens of a prompt that no chat template stands around.

use fusion_engine::types::{
    Error, ErrorCode, Result,
    completion::{CompletionRequest, Prompt},
};
use llama_cpp_4::{
    model::{AddBos, LlamaModel, Special},
    token::LlamaToken,
};

/// A text's special tokens are recognised: whoever writes the whole prompt also writes its marks.
///
/// # Errors
/// `invalid_value` for an empty prompt, a NUL character and for tokens that the model doesn't have; `unsupported_operation` for
/// a suffix where the model can't fill in the middle.
pub(crate) fn tokens(model: &LlamaModel, request: &CompletionRequest) -> Result<Vec<LlamaToken>> {
    let tokens = match &request.suffix {
        Some(suffix) => middle(model, &request.prompt, suffix)?,
        None => match &request.prompt {
            Prompt::Text(text) => read(model, text, AddBos::Always, "prompt")?,
            Prompt::Tokens(ids) => known(model, ids)?,
        },
    };
    if tokens.is_empty() {
        return Err(Error::invalid("prompt", "prompt: it has no tokens"));
    }
    Ok(tokens)
}

/// The prompt as text, for an answer that begins with it.
pub(crate) fn text(model: &LlamaModel, prompt: &Prompt) -> Result<String> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Tokens(ids) => {
            let pieces = known(model, ids)?.into_iter().map(|token| {
                // A token without bytes of its own is reported as an error, and has no text.
                model
                    .token_to_raw_bytes(token, Special::Tokenize)
                    .unwrap_or_default()
            });
            Ok(String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned())
        }
    }
}

/// Prefix, suffix, and the mark behind which the model writes what stands between them.
fn middle(model: &LlamaModel, prompt: &Prompt, suffix: &str) -> Result<Vec<LlamaToken>> {
    let [before, after, between] = [
        model.token_fim_pre(),
        model.token_fim_suf(),
        model.token_fim_mid(),
    ];
    if [before, after, between].iter().any(|mark| mark.0 < 0) {
        let message = "suffix: this model can't fill in the middle; leave it out";
        return Err(Error::new(ErrorCode::UnsupportedOperation, message).with_param("suffix"));
    }
    let prefix = match prompt {
        Prompt::Text(text) => plain(model, text, "prompt")?,
        Prompt::Tokens(ids) => known(model, ids)?,
    };
    // Only what the model puts before any text.
    let mut tokens = read(model, "", AddBos::Always, "prompt")?;
    tokens.push(before);
    tokens.extend(prefix);
    tokens.push(after);
    tokens.extend(plain(model, suffix, "suffix")?);
    tokens.push(between);
    Ok(tokens)
}

fn read(model: &LlamaModel, text: &str, bos: AddBos, param: &str) -> Result<Vec<LlamaToken>> {
    model
        .str_to_token_with_special(text, bos, Special::Tokenize)
        .map_err(|error| refused(param, &error))
}

fn plain(model: &LlamaModel, text: &str, param: &str) -> Result<Vec<LlamaToken>> {
    model
        .str_to_token_with_special(text, AddBos::Never, Special::Plaintext)
        .map_err(|error| refused(param, &error))
}

fn known(model: &LlamaModel, ids: &[u32]) -> Result<Vec<LlamaToken>> {
    let tokens = ids.iter().map(|&id| {
        let token = i32::try_from(id)
            .ok()
            .filter(|id| (0..model.n_vocab()).contains(id));
        token.map(LlamaToken).ok_or_else(|| {
            Error::invalid("prompt", format!("prompt: {id} is no token of this model"))
        })
    });
    tokens.collect()
}

fn refused(param: &str, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(param, format!("{param}: it can't be tokenized: {error}"))
}
