//! One line of a batch's input: what it asks for, or what is wrong with it.

use fusion_types::{Error, error::ErrorFields, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Endpoint;

const LONGEST_ID: usize = 512;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) custom_id: String,
    pub(super) body: Value,
}

/// What is wrong with a line, or with all of the input: an entry of a failed batch's `errors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineError {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
    /// Counted from 1; `None` where it is about all of the input.
    pub line: Option<u64>,
}

impl LineError {
    pub(super) fn of_input(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            param: None,
            line: None,
        }
    }

    pub(super) fn new(
        line: u64,
        code: &str,
        param: Option<&str>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            param: param.map(str::to_owned),
            line: Some(line),
            ..Self::of_input(code, message)
        }
    }

    /// Of a body that its route refuses.
    pub(super) fn of_body(line: u64, error: &Error) -> Self {
        Self::in_body(line, error, error.param.as_deref())
    }

    /// Of a body that its operation refuses, which knows it as a job's input.
    pub(super) fn of_job(line: u64, error: &Error) -> Self {
        let field = match error.param.as_deref() {
            Some("model_id") => Some("model"),
            Some(param) => param.strip_prefix("input."),
            None => None,
        };
        Self::in_body(line, error, field)
    }

    fn in_body(line: u64, error: &Error, field: Option<&str>) -> Self {
        let param = field.map_or_else(|| "body".to_owned(), |field| format!("body.{field}"));
        Self::new(line, error.code.as_str(), Some(&param), &error.message)
    }
}

/// Reads a line, all but what its body means.
pub(super) fn read(number: u64, bytes: &[u8], endpoint: Endpoint) -> Result<Request, LineError> {
    let Ok(Value::Object(mut fields)) = json::parse::<Value>(bytes) else {
        let message = "This line is not parseable as valid JSON.";
        return Err(LineError::new(number, "invalid_json_line", None, message));
    };
    let mut take = |name: &str| {
        fields.remove(name).ok_or_else(|| {
            let message = format!("Missing required parameter: '{name}'.");
            LineError::new(number, "missing_required_parameter", Some(name), message)
        })
    };
    let (custom_id, method) = (take("custom_id")?, take("method")?);
    let (url, body) = (take("url")?, take("body")?);
    let invalid =
        |param: &str, message: &str| LineError::new(number, "invalid_value", Some(param), message);
    let Value::String(custom_id) = custom_id else {
        return Err(invalid("custom_id", "custom_id must be a string."));
    };
    if custom_id.is_empty() || custom_id.len() > LONGEST_ID {
        let message = format!("custom_id must have from 1 to {LONGEST_ID} bytes.");
        return Err(invalid("custom_id", &message));
    }
    if method != "POST" {
        return Err(invalid("method", "method must be 'POST'."));
    }
    if url != endpoint.path() {
        let message = format!(
            "The URL provided for this request does not match the batch endpoint '{}'.",
            endpoint.path()
        );
        return Err(LineError::new(number, "url_mismatch", Some("url"), message));
    }
    if !body.is_object() {
        return Err(invalid("body", "body must be an object."));
    }
    Ok(Request { custom_id, body })
}

/// A line of the output: the answer that its route would have given.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) id: String,
    pub(super) custom_id: String,
    pub(super) response: Option<Response>,
    /// Why there is no answer.
    pub(super) error: Option<NoAnswer>,
}

#[derive(Debug, Serialize)]
pub(super) struct Response {
    pub(super) status_code: u16,
    pub(super) request_id: String,
    pub(super) body: Value,
}

#[derive(Debug, Serialize)]
pub(super) struct NoAnswer {
    pub(super) code: &'static str,
    pub(super) message: &'static str,
}

pub(super) const EXPIRED: NoAnswer = NoAnswer {
    code: "batch_expired",
    message: "This request could not be executed before the completion window expired.",
};

pub(super) const CANCELLED: NoAnswer = NoAnswer {
    code: "batch_cancelled",
    message: "This request was cancelled before it was executed.",
};

/// An error as its route would have answered it.
pub(super) fn refusal(request_id: String, error: &Error) -> Response {
    let body = fusion_types::error::ErrorBody::from(error);
    let fields: ErrorFields = body.error;
    Response {
        status_code: error.code.status(),
        request_id,
        body: serde_json::json!({ "error": fields }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_value(line: &Value) -> Result<Request, LineError> {
        read(7, line.to_string().as_bytes(), Endpoint::Chat)
    }

    fn good() -> Value {
        json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}})
    }

    #[test]
    fn a_good_line_is_read() {
        let request = read_value(&good()).unwrap();
        assert_eq!(
            (request.custom_id.as_str(), request.body),
            ("a", json!({"model": "m"}))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("custom_id", Value::Null, "invalid_value"),
            ("custom_id", json!(""), "invalid_value"),
            ("method", json!("GET"), "invalid_value"),
            ("url", json!("/v1/embeddings"), "url_mismatch"),
            ("body", json!("text"), "invalid_value"),
        ];
        for (field, value, code) in cases {
            let mut line = good();
            line[field] = value;
            let error = read_value(&line).unwrap_err();
            assert_eq!(
                (error.code.as_str(), error.param.as_deref()),
                (code, Some(field))
            );
            line.as_object_mut().unwrap().remove(field);
            let error = read_value(&line).unwrap_err();
            assert_eq!(error.code, "missing_required_parameter");
            assert_eq!(error.line, Some(7));
        }
        for text in ["{", "[]", "\"a\"", "\u{feff}"] {
            let error = read(1, text.as_bytes(), Endpoint::Chat).unwrap_err();
            assert_eq!(error.code, "invalid_json_line", "{text}");
        }
    }

    #[test]
    fn a_field_of_the_body_is_named_from_the_line_on() {
        let param = |error: LineError| error.param.unwrap();
        let of_job = |param: &str| LineError::of_job(3, &Error::invalid(param, "bad"));
        assert_eq!(param(of_job("input.messages")), "body.messages");
        assert_eq!(param(of_job("model_id")), "body.model");
        assert_eq!(param(of_job("input")), "body");
        let of_body = LineError::of_body(3, &Error::invalid("input", "bad"));
        assert_eq!(param(of_body), "body.input");
    }
}
