//! A chat as clients write it, wherever it comes in: as a request, as a job's input.

use serde_json::Value;

use crate::{
    Error, Result,
    chat::{ChatRequest, ResponseFormat, Sampling, Tool, ToolChoice, ToolMode, media_check},
    json,
};

impl ChatRequest {
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
    check_ending(request)?;
    check_sampling(&request.sampling)?;
    check_adapters(&request.sampling)?;
    check_logits(request)?;
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

fn check_ending(request: &ChatRequest) -> Result<()> {
    if request.max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "max_tokens: must be at least 1",
        ));
    }
    let bad = |stop: &String| stop.is_empty() || stop.len() > 1024;
    if request.stop.len() > 16 || request.stop.iter().any(bad) {
        return Err(Error::invalid(
            "stop",
            "stop: at most 16 strings, none empty or over 1024 bytes",
        ));
    }
    Ok(())
}

fn check_sampling(sampling: &Sampling) -> Result<()> {
    let ranges = [
        ("temperature", sampling.temperature, 0.0, 2.0),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0),
        ("presence_penalty", sampling.presence_penalty, -2.0, 2.0),
        (
            "repetition_penalty",
            sampling.repetition_penalty,
            0.01,
            10.0,
        ),
    ];
    for (name, value, least, most) in ranges {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            return Err(Error::invalid(
                name,
                format!("{name}: must be from {least} to {most}"),
            ));
        }
    }
    Ok(())
}

/// More than any model is loaded with.
const MOST_ADAPTERS: usize = 64;
const MOST_SCALE: f32 = 100.0;

fn check_adapters(sampling: &Sampling) -> Result<()> {
    let chosen = sampling.adapters.as_deref().unwrap_or_default();
    let bad = chosen.iter().enumerate().any(|(index, adapter)| {
        let named_before = chosen[..index].iter().any(|it| it.name == adapter.name);
        named_before || !(-MOST_SCALE..=MOST_SCALE).contains(&adapter.scale)
    });
    if chosen.len() > MOST_ADAPTERS || bad {
        let message = format!(
            "adapters: at most {MOST_ADAPTERS}, each named once, with a scale from -{MOST_SCALE} to {MOST_SCALE}"
        );
        return Err(Error::invalid("adapters", message));
    }
    Ok(())
}

const MOST_BIASES: usize = 1024;
const MOST_TOP_LOGPROBS: u32 = 20;

fn check_logits(request: &ChatRequest) -> Result<()> {
    let bad = |(token, bias): (&String, &f32)| {
        token.parse::<u32>().is_err() || !(-100.0..=100.0).contains(bias)
    };
    if request.logit_bias.len() > MOST_BIASES || request.logit_bias.iter().any(bad) {
        return Err(Error::invalid(
            "logit_bias",
            format!(
                "logit_bias: at most {MOST_BIASES} token ids, each with a number from -100 to 100"
            ),
        ));
    }
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
    let unbuilt = [
        ("tools", is_set("tools")),
        ("functions", is_set("functions")),
        ("logprobs", is_set("logprobs") || is_set("top_logprobs")),
        (
            "n",
            body.get("n")
                .and_then(Value::as_u64)
                .is_some_and(|n| n != 1),
        ),
    ];
    match unbuilt.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(Error::not_implemented(name).with_param(*name)),
        None => Ok(()),
    }
}
