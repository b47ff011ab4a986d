//! The model's projector, loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use fusion_engine::{
    Launch,
    types::{
        Error, ErrorCode, Result,
        chat::MediaKind,
        projector::{is_projector, projector_of},
    },
};
use llama_cpp_4::{
    model::LlamaModel,
    mtmd::{MtmdContext, MtmdContextParams},
};

use super::{
    encoder::{self, Request},
    names::Names,
};
use crate::{decode::Waker, gguf::Gguf, llama};

/// The file, its head read.
pub(crate) struct ProjectorFile {
    path: PathBuf,
    gguf: Gguf,
}

impl ProjectorFile {
    /// The one that the option `mmproj` names, or the one beside the model.
    ///
    /// # Errors
    /// `invalid_value` where there is none, or it is none.
    pub(crate) fn find(launch: &Launch) -> Result<Self> {
        let folder = launch.model.parent().unwrap_or(Path::new(""));
        let path = match launch.option("mmproj") {
            Some(name) => folder.join(name),
            None => beside(&launch.model, folder)?,
        };
        let gguf = Gguf::read(&path)?;
        if gguf.architecture != "clip" {
            let message = format!("{} is not a projector", path.display());
            return Err(Error::invalid("options.mmproj", message));
        }
        Ok(Self { path, gguf })
    }

    pub(crate) fn fingerprint(&self) -> Result<String> {
        self.gguf.fingerprint()
    }

    /// Bytes of its tensors.
    pub(crate) fn weights_bytes(&self) -> u64 {
        self.gguf.tensor_bytes
    }

    /// Bytes that encoding takes, roughly: the attention of all patches of one image with each other, and the widest layer.
    /// A projector that doesn't say its sizes counts as a small one.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        let number = |key: &str, default| self.gguf.number(key).unwrap_or(default);
        let side =
            number("clip.vision.image_size", 336) / number("clip.vision.patch_size", 14).max(1);
        let patches = side.min(256).pow(2);
        let heads = number("clip.vision.attention.head_count", 16).min(256);
        let width = number("clip.vision.feed_forward_length", 4096).min(1 << 16);
        patches * patches * heads * 4 + patches * width * 4 * 4
    }
}

fn beside(model: &Path, folder: &Path) -> Result<PathBuf> {
    let names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let own = model.file_name().and_then(|name| name.to_str());
    let mut all = names.iter().copied().filter(|name| is_projector(name));
    // Whoever calls a model multimodal means the one projector that there is, whatever its name.
    let only = all.next().filter(|_| all.next().is_none());
    let name = own.and_then(|own| projector_of(own, &names)).or(only);
    name.map(|name| folder.join(name)).ok_or_else(|| {
        let message = "a multimodal model needs its projector: put the file beside the model as mmproj-NAME.gguf, \
                       or name it with the option mmproj";
        Error::invalid("options.mmproj", message)
    })
}

pub(crate) struct Projector {
    pub(super) shared: Arc<Shared>,
    pub(super) names: Mutex<Names>,
    /// Stands in a prompt where an image or a sound goes. Nobody outside this process can know it.
    pub(super) marker: String,
    vision: bool,
    audio: bool,
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) context: Mutex<MtmdContext>,
    // After the context, which points into it.
    pub(super) model: Arc<LlamaModel>,
}

impl Projector {
    /// Loads the file, and starts the thread that encodes.
    ///
    /// # Errors
    /// `invalid_value` where the file doesn't fit the model.
    pub(crate) fn load(
        file: &ProjectorFile,
        model: Arc<LlamaModel>,
        threads: u32,
        waker: Waker,
    ) -> Result<Self> {
        let params = MtmdContextParams::default()
            .use_gpu(false)
            .print_timings(false)
            .n_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let context = llama::attempt(|| MtmdContext::init_from_file(&file.path, &model, params))
            .map_err(|why| {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                Error::invalid("options.mmproj", format!("{name} can't be used: {why}"))
            })?;
        let (vision, audio) = (context.supports_vision(), context.supports_audio());
        let shared = Arc::new(Shared {
            context: Mutex::new(context),
            model,
        });
        let (requests, inbox) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("encode".to_owned())
            .spawn({
                let shared = shared.clone();
                move || encoder::run(&shared, &inbox, &waker)
            })
            .map_err(|error| {
                let message = format!("can't start the encoding thread: {error}");
                Error::new(ErrorCode::EngineUnavailable, message)
            })?;
        Ok(Self {
            shared,
            names: Mutex::default(),
            marker: marker(),
            vision,
            audio,
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    pub(crate) fn takes(&self, kind: MediaKind) -> bool {
        match kind {
            MediaKind::Image => self.vision,
            MediaKind::Audio => self.audio,
        }
    }

    pub(super) fn requests(&self) -> Result<Sender<Request>> {
        self.requests
            .clone()
            .ok_or_else(|| Error::new(ErrorCode::EngineUnavailable, "the engine is ending"))
    }

    pub(super) fn number(&self, key: super::names::Key) -> Result<i32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.number(key).ok_or_else(|| {
            Error::internal("no more images can be told apart; load the model again")
        })
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A message that contains the marker would take the place of an image, so it must not be guessed.
fn marker() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    format!("<__media_{:016x}{:016x}__>", random(), random())
}
