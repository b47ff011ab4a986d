//! Errors about a model's files: each names the file, because that is what a person can act on.

use std::{
    any::Any,
    fmt, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fusion_engine::types::{Error, ErrorCode, Result};
use serde::de::DeserializeOwned;

/// The file is not what this engine can run.
pub(crate) fn invalid(file: &Path, what: impl fmt::Display) -> Error {
    Error::invalid("model", format!("{}: {what}", file.display()))
}

/// The file means something that this engine doesn't do yet.
pub(crate) fn not_implemented(file: &Path, what: impl fmt::Display) -> Error {
    Error::not_implemented(format_args!("{}: {what}", file.display())).with_param("model")
}

/// A missing file is the folder's fault, anything else the machine's.
pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => invalid(file, "no such file"),
        io::ErrorKind::UnexpectedEof => invalid(file, "the file is cut short"),
        _ => Error::new(
            ErrorCode::EngineUnavailable,
            format!("can't read {}: {error}", file.display()),
        ),
    }
}

/// # Errors
/// `invalid_value` where the file is missing or isn't such JSON.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(file, error))
}

/// As [`read_json`], but a missing file is `None`.
pub(crate) fn read_json_if_present<T: DeserializeOwned>(file: &Path) -> Result<Option<T>> {
    if file.exists() {
        read_json(file).map(Some)
    } else {
        Ok(None)
    }
}

/// Runs foreign arithmetic whose panics must not end the process: what it panics with comes back as text.
///
/// The callers hand in models that only read themselves, so nothing half-changed stays behind.
pub(crate) fn contain_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        let outcome = contain_panic(|| panic!("row {}", 7));
        assert_eq!(outcome, Err::<(), _>("row 7".to_owned()));
    }
}
