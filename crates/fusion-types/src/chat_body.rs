//! A chat as clients write it, wherever it comes in: as a request, as a job's input.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Result,
    bounds::{MOST_TOP_LOGPROBS, check_bias, check_choices, check_ending, check_sampling},
    chat::{
        ChatRequest, Message, ResponseFormat, Role, Sampling, Tool, ToolChoice, ToolMode,
        media_check,
    },
    json,
};

/// A chat of nothing but texts, as most are: it is read at once, without a tree of its JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    model: String,
    messages: Vec<PlainMessage>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<u64>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMessage {
    role: Role,
    content: String,
}

impl ChatRequest {
    /// What [`ChatRequest::read`] makes of the body, where it is a plain one; `None` where only that can tell.
    ///
    /// # Errors
    /// As for [`ChatRequest::read`].
    pub fn read_plain(body: &[u8]) -> Result<Option<Self>> {
        let Ok(plain) = serde_json::from_slice::<Plain>(body) else {
            return Ok(None);
        };
        let messages = plain.messages.into_iter();
        let request = Self {
            model: plain.model,
            messages: messages
                .map(|message| Message::new(message.role, message.content))
                .collect(),
            max_tokens: plain.max_tokens,
            sampling: Sampling {
                temperature: plain.temperature,
                top_p: plain.top_p,
                seed: plain.seed,
                ..Sampling::default()
            },
            stream: plain.stream,
            ..Self::default()
        };
        check(&request)?;
        Ok(Some(request))
    }

    /// Reads a chat as clients write it: aliases of fields resolved, empty requests refused.
    ///
    /// # Errors
    /// `missing_field`, `invalid_value` or `not_implemented`, naming the field.
    pub fn read(mut body: Value) -> Result<Self> {
        refuse_what_is_not_built(&body)?;
        media_check::check_kinds(&body)?;
        if let Some(fields) = body.as_object_mut() {
            let limit = fields
                .remove("max_completion_tokens")
                .filter(|limit| !limit.is_null());
            if let Some(limit) = limit {
                fields.insert("max_tokens".to_owned(), limit);
            }
            // Clients of the predecessor learned to write it so.
            if let Some(effort) = fields.remove("reasoning_effot") {
                fields.entry("reasoning_effort").or_insert(effort);
            }
            // Clients send null for what they leave to the server.
            fields.retain(|_, value| !value.is_null());
        }
        let request: Self = json::parse_value(body)?;
        check(&request)?;
        Ok(request)
    }
}

fn check(request: &ChatRequest) -> Result<()> {
    if request.messages.is_empty() {
        return Err(Error::invalid(
            "messages",
            "messages: at least one message is needed",
        ));
    }
    media_check::check(&request.messages)?;
    check_ending(request.max_tokens, &request.stop)?;
    check_sampling(&request.sampling)?;
    check_bias(&request.logit_bias)?;
    check_logprobs(request)?;
    check_choices(request.n)?;
    check_tools(request)?;
    if let ResponseFormat::JsonSchema { json_schema } = &request.response_format
        && !json_schema.schema.is_object()
    {
        return Err(Error::invalid(
            "response_format",
            "response_format: the schema must be an object",
        ));
    }
    Ok(())
}

fn check_logprobs(request: &ChatRequest) -> Result<()> {
    let top = request.top_logprobs.unwrap_or(0);
    if top > MOST_TOP_LOGPROBS || (top > 0 && !request.logprobs) {
        return Err(Error::invalid(
            "top_logprobs",
            format!("top_logprobs: at most {MOST_TOP_LOGPROBS}, and only with logprobs"),
        ));
    }
    Ok(())
}

const MOST_TOOLS: usize = 128;

fn check_tools(request: &ChatRequest) -> Result<()> {
    let refused = |what: &str| Err(Error::invalid("tools", format!("tools: {what}")));
    let mut names: Vec<&str> = request
        .tools
        .iter()
        .map(|tool| tool.function.name.as_str())
        .collect();
    if names.len() > MOST_TOOLS {
        return refused("there are too many");
    }
    let is_name = |name: &&str| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if !names.iter().all(is_name) {
        return refused("a name has 1 to 64 letters, digits, dots, dashes and underscores");
    }
    let is_object = |tool: &Tool| {
        tool.function
            .parameters
            .as_ref()
            .is_none_or(Value::is_object)
    };
    if !request.tools.iter().all(is_object) {
        return refused("parameters must be a JSON schema");
    }
    check_choice(request, &names)?;
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return refused("two of them have the same name");
    }
    Ok(())
}

fn check_choice(request: &ChatRequest, names: &[&str]) -> Result<()> {
    let wrong = |what| {
        Err(Error::invalid(
            "tool_choice",
            format!("tool_choice: {what}"),
        ))
    };
    match &request.tool_choice {
        Some(ToolChoice::Mode(ToolMode::Required)) if names.is_empty() => {
            return wrong("there are no tools to call");
        }
        Some(ToolChoice::Named { function, .. }) if !names.contains(&function.name.as_str()) => {
            return wrong("there is no tool of that name");
        }
        _ => {}
    }
    if request.may_call_tools() && !request.response_format.is_text() {
        return Err(
            Error::not_implemented("tools together with a response format")
                .with_param("response_format"),
        );
    }
    Ok(())
}

/// What the contract names and this server can't do yet is refused, not ignored: an answer without it would be wrong.
fn refuse_what_is_not_built(body: &Value) -> Result<()> {
    let is_set = |name: &str| match body.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(items)) => !items.is_empty(),
        Some(_) => true,
    };
    let unbuilt = [("functions", is_set("functions"))];
    match unbuilt.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(Error::not_implemented(name).with_param(*name)),
        None => Ok(()),
    }
}
