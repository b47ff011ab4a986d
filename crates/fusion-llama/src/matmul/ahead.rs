//! Memory for weights that ggml copies into the order of AMX's tiles, touched before it asks for it.
//!
//! To get so many new pages takes the kernel as long as the copying takes, and until the copying begins (while the tokenizer is
//! read and the file mapped) all but one processor have nothing to do.

use std::{
    ffi::c_void,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

#[cfg(not(without_amx))]
use llama_cpp_sys_4 as sys;

use crate::gguf::Gguf;

const PAGE: usize = 4096;

static AHEAD: Mutex<Option<Block>> = Mutex::new(None);

/// Gives back what nobody took when dropped, at the end of the load.
pub(crate) struct Ahead(());

struct Block {
    start: Start,
    bytes: usize,
    stop: Arc<AtomicBool>,
    touching: JoinHandle<()>,
}

struct Start(NonNull<c_void>);

#[expect(unsafe_code, reason = "the memory belongs to whoever has its start")]
// SAFETY: malloc's memory is the whole process's.
unsafe impl Send for Start {}

impl Ahead {
    /// For a model that is about to be loaded. `None` where nothing will be copied.
    pub(crate) fn begin(gguf: &Gguf) -> Option<Self> {
        let touched = usize::try_from(gguf.amx_bytes).ok()?;
        if touched == 0 || !gguf.gains_by_repacking || !has_amx() {
            return None;
        }
        // More of it than will be asked for: what isn't touched takes no memory.
        let bytes = usize::try_from(gguf.tensor_bytes / 4 * 5).ok()?;
        Self::of(bytes, touched.min(bytes))
    }

    fn of(bytes: usize, touched: usize) -> Option<Self> {
        let start = Start(NonNull::new(real_malloc(bytes))?);
        let stop = Arc::new(AtomicBool::new(false));
        let touch = {
            let (start, stop) = (Start(start.0), stop.clone());
            move || touch(&start, touched, &stop)
        };
        let Ok(touching) = thread::Builder::new().name("ahead".into()).spawn(touch) else {
            real_free(start.0);
            return None;
        };
        *ahead() = Some(Block {
            start,
            bytes,
            stop,
            touching,
        });
        Some(Self(()))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let left = ahead().take();
        if let Some(start) = left.map(Block::settled) {
            real_free(start);
        }
    }
}

impl Block {
    /// The memory, which nobody touches any more.
    fn settled(self) -> NonNull<c_void> {
        self.stop.store(true, Relaxed);
        // It can't have panicked.
        let _ = self.touching.join();
        self.start.0
    }
}

fn ahead() -> MutexGuard<'static, Option<Block>> {
    AHEAD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "it writes to memory that has no values yet")]
fn touch(start: &Start, bytes: usize, stop: &AtomicBool) {
    for at in (0..bytes).step_by(PAGE) {
        if stop.load(Relaxed) {
            return;
        }
        // SAFETY: `at` lies in the block, which stays until this has ended.
        unsafe { start.0.cast::<u8>().add(at).write_volatile(0) };
    }
}

/// Whether ggml copies weights for AMX: not where a GPU would have the layers.
#[cfg(not(without_amx))]
#[expect(unsafe_code, reason = "llama.cpp's own")]
pub(crate) fn has_amx() -> bool {
    // SAFETY: they take nothing.
    unsafe { sys::ggml_cpu_has_amx_int8() != 0 && !sys::llama_supports_gpu_offload() }
}

#[cfg(without_amx)]
pub(crate) fn has_amx() -> bool {
    false
}

#[expect(
    unsafe_code,
    reason = "ggml's own, of which the linker made this name; and C's"
)]
unsafe extern "C" {
    fn __real_ggml_aligned_malloc(bytes: usize) -> *mut c_void;
    fn free(start: *mut c_void);
}

#[expect(unsafe_code, reason = "ggml's own")]
fn real_malloc(bytes: usize) -> *mut c_void {
    // SAFETY: any size will do.
    unsafe { __real_ggml_aligned_malloc(bytes) }
}

#[expect(unsafe_code, reason = "as ggml gives such memory back")]
fn real_free(start: NonNull<c_void>) {
    // SAFETY: it comes from `real_malloc`, and nobody else has it.
    unsafe { free(start.as_ptr()) }
}

/// In place of ggml's own: the block, for the first that asks for about so much.
#[expect(unsafe_code, reason = "ggml calls it in place of its own")]
#[unsafe(no_mangle)]
extern "C" fn __wrap_ggml_aligned_malloc(bytes: usize) -> *mut c_void {
    let fits = |block: &mut Block| (block.bytes / 4..=block.bytes).contains(&bytes);
    let taken = ahead().take_if(fits);
    taken.map_or_else(|| real_malloc(bytes), |block| block.settled().as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(start: *mut c_void) {
        real_free(NonNull::new(start).unwrap());
    }

    #[test]
    fn the_block_goes_to_whoever_asks_for_about_so_much() {
        let begin = || Ahead::of(1 << 20, 1 << 19).unwrap();
        let whose = || ahead().as_ref().map(|block| block.start.0.as_ptr());
        let load = begin();
        let block = whose();
        let small = __wrap_ggml_aligned_malloc(1000);
        let large = __wrap_ggml_aligned_malloc(1 << 21);
        assert_eq!(whose(), block, "it waits");
        let taken = __wrap_ggml_aligned_malloc(3 << 18);
        assert_eq!((Some(taken), whose()), (block, None));
        drop(load);
        [small, large, taken].into_iter().for_each(free);

        drop(begin());
        assert_eq!(whose(), None, "nobody came");
    }
}
