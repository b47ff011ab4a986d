//! Images and sounds in chats: fetched, decoded or copied here, kept on disk while the answer is made, and named to the engine by path.
//!
//! It stands around the models' own `Inference`, so that requests, jobs and workflows all pass it. Engines never fetch.

mod file;
mod spool;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_orchestrator::files::Files;
use fusion_types::{
    Call, Error, ErrorCode, Result,
    chat::{
        ChatRequest, MediaFile, MediaKind, Part, UploadedFile,
        media_check::{data_url, place, starts_as, unsupported},
    },
    completion::CompletionRequest,
    embedding::EmbedRequest,
    inference::{Embedded, Generation, Inference, ModelPlanner, Needs, Reranked},
    model_ref::ModelRef,
    rerank::RerankRequest,
};
use futures::StreamExt;

pub(crate) use spool::Spool;

use self::{file::check, spool::Kept};
use crate::outgoing::Guarded;

/// What is taken at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MediaLimits {
    /// Bytes of one file.
    pub(crate) file: usize,
    /// Bytes of all files of a request.
    pub(crate) request: usize,
    /// For all that a request names to be fetched.
    pub(crate) fetch: Duration,
}

pub(crate) struct WithMedia {
    inner: Arc<dyn Inference>,
    planner: Arc<dyn ModelPlanner>,
    outgoing: Arc<Guarded>,
    files: Files,
    spool: Spool,
    limits: MediaLimits,
}

impl WithMedia {
    pub(crate) fn new(
        inner: Arc<dyn Inference>,
        planner: Arc<dyn ModelPlanner>,
        outgoing: Arc<Guarded>,
        files: Files,
        spool: Spool,
        limits: MediaLimits,
    ) -> Self {
        Self {
            inner,
            planner,
            outgoing,
            files,
            spool,
            limits,
        }
    }

    /// Refuses what the model can't take before anything is fetched for it; among models to choose from, leaves only those
    /// that can.
    fn route(&self, request: &mut ChatRequest) -> Result<()> {
        let mut model: ModelRef = request.model.parse()?;
        for (message, part, kind) in kinds(request) {
            let capability = kind.capability();
            if model == ModelRef::Auto(None) {
                model = ModelRef::Auto(Some(capability));
            }
            let needs = Needs {
                capability: Some(capability),
                min_context: None,
            };
            let choice = self.planner.choose(&model, &needs);
            choice.map_err(|error| match error.code {
                ErrorCode::UnsupportedOperation => unsupported(message, part, noun(kind)),
                _ => error,
            })?;
        }
        request.model = model.to_string();
        Ok(())
    }

    /// Puts every image and sound on disk, and its path in its place. They are removed when what is returned is dropped.
    async fn keep(&self, call: &Call, request: &mut ChatRequest) -> Result<Vec<Kept>> {
        let mut until = Instant::now() + self.limits.fetch;
        if let Some(deadline) = call.deadline {
            until = until.min(deadline);
        }
        let mut files = Vec::new();
        let mut room = self.limits.request;
        for (at, message) in request.messages.iter_mut().enumerate() {
            for (index, part) in message.content.parts_mut().iter_mut().enumerate() {
                let Some(kind) = part.kind() else { continue };
                let kept = self.keep_part(call, part, room, until).await;
                let kept = kept.map_err(|error| at_place(error, at, index))?;
                room = room.saturating_sub(kept.bytes());
                *part = Part::MediaFile {
                    media_file: MediaFile {
                        kind,
                        path: kept.path().to_owned(),
                    },
                };
                files.push(kept);
            }
        }
        Ok(files)
    }

    async fn keep_part(
        &self,
        call: &Call,
        part: &Part,
        room: usize,
        until: Instant,
    ) -> Result<Kept> {
        let most = self.limits.file.min(room);
        let (kind, kept) = match part {
            Part::ImageUrl { image_url } if starts_as(&image_url.url, "data:") => {
                let data = data_url(&image_url.url).map_err(|why| Error::invalid("", why))?;
                (MediaKind::Image, self.decode(data, most).await?)
            }
            Part::ImageUrl { image_url } => {
                let body = self.outgoing.get(&image_url.url, most, until).await?;
                (MediaKind::Image, self.spool.write(body, most).await?)
            }
            Part::InputAudio { input_audio } => (
                MediaKind::Audio,
                self.decode(&input_audio.data, most).await?,
            ),
            Part::ImageFile { image_file: file } => {
                (MediaKind::Image, self.copy(call, file, most).await?)
            }
            Part::AudioFile { audio_file: file } => {
                (MediaKind::Audio, self.copy(call, file, most).await?)
            }
            Part::Text { .. } | Part::MediaFile { .. } => {
                return Err(Error::internal("a part without data of its own"));
            }
        };
        check(kind, kept.head())?;
        Ok(kept)
    }

    async fn copy(&self, call: &Call, file: &UploadedFile, most: usize) -> Result<Kept> {
        let (_, bytes) = self.files.content(call, &file.file_id).await?;
        self.spool.write(bytes, most).await
    }

    async fn decode(&self, data: &str, most: usize) -> Result<Kept> {
        if data.len() / 4 * 3 > most.saturating_add(2) {
            return Err(file::too_large(most));
        }
        let bytes = STANDARD
            .decode(data)
            .map_err(|_| Error::invalid("", "its data is not base64"))?;
        self.spool
            .write(futures::stream::iter([Ok(bytes.into())]), most)
            .await
    }
}

#[async_trait]
impl Inference for WithMedia {
    async fn chat(&self, call: &Call, mut request: ChatRequest) -> Result<Generation> {
        if kinds(&request).next().is_none() {
            return self.inner.chat(call, request).await;
        }
        self.route(&mut request)?;
        // Boxed, as it would take room in every chat.
        let kept = Box::pin(self.keep(call, &mut request)).await?;
        let generation = self.inner.chat(call, request).await?;
        // The engine has read the files once it answers, but the stream's end is the one that is sure.
        let events = generation.events.inspect(move |_| {
            let _ = &kept;
        });
        Ok(Generation {
            events: events.boxed(),
            ..generation
        })
    }

    async fn complete(&self, call: &Call, request: CompletionRequest) -> Result<Generation> {
        self.inner.complete(call, request).await
    }

    async fn embed(&self, call: &Call, request: EmbedRequest) -> Result<Embedded> {
        self.inner.embed(call, request).await
    }

    async fn rerank(&self, call: &Call, request: RerankRequest) -> Result<Reranked> {
        self.inner.rerank(call, request).await
    }

    async fn tokenize(
        &self,
        call: &Call,
        model: &ModelRef,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        self.inner.tokenize(call, model, texts).await
    }
}

fn kinds(request: &ChatRequest) -> impl Iterator<Item = (usize, usize, MediaKind)> {
    request
        .media()
        .filter_map(|(message, part, media)| Some((message, part, media.kind()?)))
}

fn noun(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "images",
        MediaKind::Audio => "sound",
    }
}

/// The error with the part that it is about.
fn at_place(error: Error, message: usize, part: usize) -> Error {
    let place = place(message, part);
    let text = format!("{place}: {}", error.message);
    Error {
        message: text,
        ..error.with_param(place)
    }
}
