//! From messages to the tokens of a prompt, by the model's own chat template.

use fusion_engine::types::{
    Error, ErrorCode, Result,
    chat::{ChatRequest, Message},
};
use llama_cpp_4::{
    chat::{ChatApplyParams, ChatTemplates, ReasoningFormat},
    model::{AddBos, LlamaModel},
    token::LlamaToken,
};
use serde_json::{Map, Value};

/// A model's chat template; one that is missing or broken is known at load and told at the first request.
pub(crate) struct Template(Result<ChatTemplates>);

pub(crate) struct Prompt {
    pub(crate) tokens: Vec<LlamaToken>,
    /// Strings that end an answer in this template, beside the model's end tokens.
    pub(crate) stops: Vec<String>,
}

impl Template {
    pub(crate) fn of(model: &LlamaModel) -> Self {
        // Asked first because llama.cpp would go on with a template of its own.
        if model.chat_template(None).is_err() {
            let message = "this model has no chat template, so it can't chat";
            return Self(Err(Error::new(ErrorCode::UnsupportedOperation, message)));
        }
        Self(ChatTemplates::from_model(model, None).map_err(|error| {
            let message = format!("this model's chat template can't be used: {error}");
            Error::new(ErrorCode::UnsupportedOperation, message)
        }))
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.0.is_ok()
    }

    /// Special tokens are recognised in what the template wrote, never in what a message says.
    ///
    /// # Errors
    /// `unsupported_operation` without a template, `invalid_value` for messages that it refuses.
    pub(crate) fn prompt(&self, model: &LlamaModel, request: &ChatRequest) -> Result<Prompt> {
        let templates = self.0.as_ref().map_err(Clone::clone)?;
        let refused = |error: &dyn std::fmt::Display| {
            Error::invalid(
                "messages",
                format!("the model's chat template refuses the messages: {error}"),
            )
        };
        // It would end the text early on its way through C.
        if request
            .messages
            .iter()
            .any(|message| message.content.contains('\0'))
        {
            return Err(Error::invalid(
                "messages",
                "a message contains a NUL character",
            ));
        }
        let applied = templates
            .apply(&params(request)?)
            .map_err(|error| refused(&error))?;
        let tokens = applied
            .tokenize_prompt(model, AddBos::Always)
            .map_err(|error| refused(&error))?;
        if tokens.is_empty() {
            return Err(Error::invalid(
                "messages",
                "the messages make an empty prompt",
            ));
        }
        let stops = serde_json::from_str(&applied.additional_stops_json).unwrap_or_default();
        Ok(Prompt { tokens, stops })
    }
}

fn params(request: &ChatRequest) -> Result<ChatApplyParams> {
    let messages = serde_json::to_string::<[Message]>(&request.messages)
        .map_err(|error| unwritable(&error))?;
    let mut params = ChatApplyParams::new(messages)
        // Reasoning stays in the text: it is not parsed out yet.
        .with_reasoning_format(ReasoningFormat::None)
        .with_force_pure_content(true);
    let kwargs = &request.chat_template_kwargs;
    if let Some(Value::Bool(thinking)) = kwargs.get("enable_thinking") {
        params = params.with_enable_thinking(*thinking);
    }
    if !kwargs.is_empty() {
        params = params.with_template_kwargs(
            serde_json::to_string(&quoted(kwargs)).map_err(|error| unwritable(&error))?,
        );
    }
    Ok(params)
}

/// Every value is read as JSON once more on the other side, where strings arrive without their quotes: so they get two pairs.
fn quoted(kwargs: &Map<String, Value>) -> Map<String, Value> {
    let twice = |value: &Value| {
        if value.is_string() {
            Value::String(value.to_string())
        } else {
            value.clone()
        }
    };
    kwargs
        .iter()
        .map(|(key, value)| (key.clone(), twice(value)))
        .collect()
}

fn unwritable(error: &serde_json::Error) -> Error {
    Error::internal(format!("can't write the request for the template: {error}"))
}
