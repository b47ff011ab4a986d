//! llama.cpp as a library of this process: started once, its log sent through ours.

use std::{
    ffi::{CStr, c_char, c_void},
    fmt,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use fusion_engine::types::{Error, ErrorCode, Result};
use llama_cpp_4::{llama_backend::LlamaBackend, runtime::log};

/// ggml's log levels.
const INFO: u32 = 2;
const WARN: u32 = 3;
pub(crate) const ERROR: u32 = 4;

static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();

/// The first error that llama.cpp logged since an attempt began: it says why, where its functions only say that they failed.
static CAUSE: Mutex<Option<String>> = Mutex::new(None);

/// What llama.cpp logged since somebody began to listen.
static TRANSCRIPT: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// # Errors
/// `engine_unavailable` where llama.cpp can't start.
pub(crate) fn backend() -> Result<&'static LlamaBackend> {
    let backend = BACKEND.get_or_init(|| {
        send_log_to_tracing();
        // Its template code has a log of its own on standard error, and warns there at every request.
        log::set_verbosity(log::verbosity_for_level(ERROR.cast_signed()));
        LlamaBackend::init().ok()
    });
    backend
        .as_ref()
        .ok_or_else(|| Error::new(ErrorCode::EngineUnavailable, "llama.cpp could not start"))
}

/// Runs something of llama.cpp, and where it fails says why.
pub(crate) fn attempt<T, E: fmt::Display>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    cause().take();
    work().map_err(|error| cause().take().unwrap_or_else(|| error.to_string()))
}

/// Runs something of llama.cpp, and hands out the lines that it logged meanwhile.
pub(crate) fn transcribe<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let transcript = || TRANSCRIPT.lock().unwrap_or_else(PoisonError::into_inner);
    *transcript() = Some(Vec::new());
    let outcome = work();
    let lines = transcript().take();
    (outcome, lines.unwrap_or_default())
}

fn cause() -> MutexGuard<'static, Option<String>> {
    CAUSE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "llama.cpp tells causes to a C callback only")]
fn send_log_to_tracing() {
    // SAFETY: `log_line` is a function, so it lives as long as the process, may be called from any thread, and takes no user
    // data.
    unsafe {
        llama_cpp_4::log_set(Some(log_line), std::ptr::null_mut());
        llama_cpp_sys_4::mtmd_helper_log_set(Some(log_line), std::ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "the signature of llama.cpp's log callback")]
unsafe extern "C" fn log_line(level: u32, text: *const c_char, _user_data: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if let Some(lines) = TRANSCRIPT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_mut()
    {
        lines.push(text.to_owned());
    }
    match level {
        _ if text.is_empty() || text == "." => {}
        ERROR => {
            tracing::error!(target: "llama.cpp", "{text}");
            // Without the name of the function that noticed.
            let what = text.split_once(": ").map_or(text, |(_, what)| what);
            cause().get_or_insert_with(|| what.to_owned());
        }
        WARN => tracing::warn!(target: "llama.cpp", "{text}"),
        INFO => tracing::debug!(target: "llama.cpp", "{text}"),
        _ => tracing::trace!(target: "llama.cpp", "{text}"),
    }
}
