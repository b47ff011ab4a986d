//! Reading JSON that a client sent: errors carry the contract's codes and name the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, ErrorCode};

/// # Errors
/// `invalid_json` where the text isn't JSON, else the code that fits what is wrong with it.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // To know where it is costs more than the reading, and only errors tell.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".", &error))?;
    Ok(value)
}

/// The same for a value that was already read.
///
/// # Errors
/// As for [`parse`].
pub fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    if let Ok(value) = T::deserialize(&value) {
        return Ok(value);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })
}

fn explain(path: &str, error: &serde_json::Error) -> Error {
    if !error.is_data() {
        return Error::new(
            ErrorCode::InvalidJson,
            format!("the body is not valid JSON: {error}"),
        );
    }
    let text = error.to_string();
    let named = text.split('`').nth(1).unwrap_or_default();
    let (code, param) = if text.starts_with("missing field") {
        (ErrorCode::MissingField, join(path, named))
    } else if text.starts_with("unknown field") {
        let path = path.strip_suffix(named).unwrap_or(path);
        (
            ErrorCode::UnknownField,
            join(path.trim_end_matches('.'), named),
        )
    } else {
        (ErrorCode::InvalidValue, join(path, ""))
    };
    let place = if param.is_empty() {
        String::new()
    } else {
        format!("{param}: ")
    };
    let error = Error::new(code, format!("{place}{text}"));
    if param.is_empty() {
        error
    } else {
        error.with_param(param)
    }
}

fn join(path: &str, name: &str) -> String {
    let path = if path == "." { "" } else { path };
    let dot = if path.is_empty() || name.is_empty() {
        ""
    } else {
        "."
    };
    format!("{path}{dot}{name}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its reading is tested")]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its reading is tested")]
        count: u32,
    }

    #[test]
    fn errors_name_their_field() {
        let cases = [
            (&b"{"[..], ErrorCode::InvalidJson, None),
            (b"\xff\xfe", ErrorCode::InvalidJson, None),
            (br#"{"inner":{"count":1}} x"#, ErrorCode::InvalidJson, None),
            (
                br#"{"inner":{}}"#,
                ErrorCode::MissingField,
                Some("inner.count"),
            ),
            (
                br#"{"inner":{"count":"x"}}"#,
                ErrorCode::InvalidValue,
                Some("inner.count"),
            ),
            (
                br#"{"inner":{"count":1,"more":2}}"#,
                ErrorCode::UnknownField,
                Some("inner.more"),
            ),
            (br#"{"outer":1}"#, ErrorCode::UnknownField, Some("outer")),
        ];
        for (body, code, param) in cases {
            let error = parse::<Outer>(body).unwrap_err();
            assert_eq!(
                (error.code, error.param.as_deref()),
                (code, param),
                "{}",
                error.message
            );
        }
    }
}
