//! llama.cpp as a library of this process: started once, its log sent through ours.

use std::{
    ffi::{CStr, c_char, c_void},
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
};

use fusion_engine::types::{Error, ErrorCode, Result};
use llama_cpp_4::llama_backend::LlamaBackend;

/// ggml's log levels.
const INFO: u32 = 2;
const WARN: u32 = 3;
pub(crate) const ERROR: u32 = 4;

static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();

/// The last error that llama.cpp logged: it says why, where its functions only say that they failed.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// # Errors
/// `engine_unavailable` where llama.cpp can't start.
pub(crate) fn backend() -> Result<&'static LlamaBackend> {
    let backend = BACKEND.get_or_init(|| {
        send_log_to_tracing();
        LlamaBackend::init().ok()
    });
    backend
        .as_ref()
        .ok_or_else(|| Error::new(ErrorCode::EngineUnavailable, "llama.cpp could not start"))
}

/// Why something failed just now: what llama.cpp logged about it, else the error itself.
pub(crate) fn cause(error: &impl fmt::Display) -> String {
    let logged = std::mem::take(&mut *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner));
    if logged.is_empty() {
        error.to_string()
    } else {
        logged
    }
}

#[expect(
    unsafe_code,
    reason = "llama.cpp reports causes through a C callback only"
)]
fn send_log_to_tracing() {
    // SAFETY: `log_line` is a function, so it lives as long as the process, may be called from any thread, and takes no user
    // data.
    unsafe { llama_cpp_4::log_set(Some(log_line), std::ptr::null_mut()) }
}

#[expect(unsafe_code, reason = "the signature of llama.cpp's log callback")]
unsafe extern "C" fn log_line(level: u32, text: *const c_char, _user_data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if text.is_empty() || text == "." {
        return;
    }
    match level {
        ERROR => {
            tracing::error!(target: "llama.cpp", "{text}");
            text.clone_into(&mut LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner));
        }
        WARN => tracing::warn!(target: "llama.cpp", "{text}"),
        INFO => tracing::debug!(target: "llama.cpp", "{text}"),
        _ => tracing::trace!(target: "llama.cpp", "{text}"),
    }
}
