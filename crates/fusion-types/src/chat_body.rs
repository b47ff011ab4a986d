//! A chat as clients write it, wherever it comes in: as a request, as a job's input.

use serde_json::Value;

use crate::{Error, Result, chat::ChatRequest, json};

impl ChatRequest {
    /// Reads a chat as clients write it: aliases of fields resolved, empty requests refused.
    ///
    /// # Errors
    /// `missing_field`, `invalid_value` or `not_implemented`, naming the field.
    pub fn read(mut body: Value) -> Result<Self> {
        refuse_what_is_not_built(&body)?;
        if let Some(fields) = body.as_object_mut() {
            let limit = fields
                .remove("max_completion_tokens")
                .filter(|limit| !limit.is_null());
            if let Some(limit) = limit {
                fields.insert("max_tokens".to_owned(), limit);
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
    if request.max_tokens == Some(0) {
        return Err(Error::invalid(
            "max_tokens",
            "max_tokens: must be at least 1",
        ));
    }
    if request.stop.len() > 16
        || request
            .stop
            .iter()
            .any(|stop| stop.is_empty() || stop.len() > 1024)
    {
        return Err(Error::invalid(
            "stop",
            "stop: at most 16 strings, none empty or over 1024 bytes",
        ));
    }
    let sampling = &request.sampling;
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
        ("logit_bias", is_set("logit_bias")),
        (
            "n",
            body.get("n")
                .and_then(Value::as_u64)
                .is_some_and(|n| n != 1),
        ),
        (
            "response_format",
            body.pointer("/response_format/type")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind != "text"),
        ),
        ("image and audio content", has_media(body)),
    ];
    match unbuilt.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(Error::not_implemented(name).with_param(*name)),
        None => Ok(()),
    }
}

fn has_media(body: &Value) -> bool {
    let messages = body
        .get("messages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut parts = messages
        .filter_map(|message| message.get("content")?.as_array())
        .flatten();
    parts.any(|part| {
        part.get("type")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind != "text")
    })
}
