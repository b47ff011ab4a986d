//! Images and sounds at their places in a prompt.

use std::{
    fs,
    sync::{Arc, PoisonError},
};

use fusion_engine::types::{
    Error, ErrorCode, Result,
    chat::{
        ChatRequest, Content, MediaFile, MediaKind, Message, Part,
        media_check::{place, unsupported},
    },
};
use llama_cpp_4::{
    chat::ChatParams,
    mtmd::{
        MtmdBitmap, MtmdContext, MtmdInputChunk, MtmdInputChunkType, MtmdInputChunks,
        MtmdInputPart, MtmdInputText,
    },
    token::LlamaToken,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    encoder::{Chunks, Encoding},
    image,
    projector::Projector,
    sound,
};
use crate::{
    decode::{Piece, Pieces, Places},
    llama,
};

/// What a request shows, decoded.
pub(crate) struct Seen {
    projector: Arc<Projector>,
    files: Vec<File>,
    /// Cells that can be computed at once.
    batch: usize,
}

struct File {
    bitmap: MtmdBitmap,
    sha256: [u8; 32],
}

/// Decodes a request's images and sounds; `None` for plain text.
///
/// # Errors
/// `unsupported_operation` where the model can't take them, `invalid_value` for a file that can't be decoded.
pub(crate) fn look(
    projector: Option<&Arc<Projector>>,
    request: &ChatRequest,
    batch: usize,
) -> Result<Option<Seen>> {
    let mut files = Vec::new();
    for (message, index, part) in request.media() {
        let Part::MediaFile { media_file } = part else {
            let place = place(message, index);
            let text = format!(
                "{place}: an engine reads images and sounds from files that its server names"
            );
            return Err(Error::invalid(place, text));
        };
        let able = projector.filter(|projector| projector.takes(media_file.kind));
        let projector = able.ok_or_else(|| unsupported(message, index, noun(media_file.kind)))?;
        files.push(open(projector, media_file).map_err(|why| {
            let place = place(message, index);
            Error::invalid(place.clone(), format!("{place}: {why}"))
        })?);
    }
    let projector = projector.filter(|_| !files.is_empty());
    Ok(projector.map(|projector| Seen {
        projector: projector.clone(),
        files,
        batch,
    }))
}

fn noun(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "images",
        MediaKind::Audio => "sound",
    }
}

fn open(projector: &Projector, file: &MediaFile) -> Result<File, String> {
    let bytes =
        fs::read(&file.path).map_err(|error| format!("it can't be read: {}", error.kind()))?;
    let bitmap = match file.kind {
        MediaKind::Image => {
            let pixels = image::decode(&bytes)?;
            MtmdBitmap::from_rgb(pixels.width, pixels.height, &pixels.rgb)
        }
        MediaKind::Audio => {
            let rate = context(projector).audio_sample_rate();
            let rate = u32::try_from(rate).map_err(|_| "this model hears nothing".to_owned())?;
            MtmdBitmap::from_audio(&sound::decode(&bytes, rate)?)
        }
    };
    let mut bitmap = bitmap.map_err(|_| "it can't be decoded".to_owned())?;
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    bitmap
        .set_id(&hex(&sha256))
        .map_err(|error| error.to_string())?;
    Ok(File { bitmap, sha256 })
}

fn context(projector: &Projector) -> std::sync::MutexGuard<'_, MtmdContext> {
    projector
        .shared
        .context
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The messages as templates know them: a marker stands where something is seen or heard.
pub(crate) fn messages(messages: &[Message], seen: Option<&Seen>) -> Value {
    let mut value = json!(messages);
    let Some(seen) = seen else { return value };
    for (message, value) in messages
        .iter()
        .zip(value.as_array_mut().into_iter().flatten())
    {
        if let Content::Parts(parts) = &message.content {
            let parts = parts.iter().map(|part| match part {
                Part::Text { .. } => json!(part),
                _ => json!({ "type": "media_marker", "text": seen.projector.marker }),
            });
            value["content"] = parts.collect();
        }
    }
    value
}

impl Seen {
    /// The tokens of a rendered prompt, and the pieces among them. Special tokens are recognised in what the template wrote,
    /// never in what a message says.
    ///
    /// # Errors
    /// `invalid_value` where the template loses an image or ends with one.
    pub(crate) fn tokens(&self, rendered: &ChatParams) -> Result<(Vec<LlamaToken>, Pieces)> {
        let texts = self.split(rendered);
        let mut files = self.files.iter();
        let mut parts = Vec::new();
        for text in &texts {
            match text {
                Some(text) => parts.push(MtmdInputPart::Text(text)),
                None => parts.extend(files.next().map(|file| MtmdInputPart::Bitmap(&file.bitmap))),
            }
        }
        let markers = texts.iter().filter(|text| text.is_none()).count();
        if markers != self.files.len() {
            let message = "this model's chat template has no place for an image or a sound in one of these messages";
            return Err(Error::invalid("messages", message));
        }
        let context = context(&self.projector);
        let mut chunks = MtmdInputChunks::new();
        llama::attempt(|| context.tokenize_from_parts(&parts, true, &mut chunks)).map_err(
            |why| {
                Error::invalid(
                    "messages",
                    format!("an image or a sound can't be prepared: {why}"),
                )
            },
        )?;
        self.lay_out(&context, &Arc::new(Chunks(chunks)))
    }

    /// The prompt cut at the markers, for which there is `None`.
    fn split<'text>(&self, rendered: &'text ChatParams) -> Vec<Option<MtmdInputText<'text>>> {
        let parts = rendered.prompt_parts.iter();
        let mut parts: Vec<_> = parts
            .map(|part| (part.text.as_str(), part.is_input))
            .collect();
        if parts.is_empty() {
            parts.push((&rendered.prompt, false));
        }
        let mut texts = Vec::new();
        for (text, is_input) in parts {
            for (index, text) in text.split(&self.projector.marker).enumerate() {
                if index > 0 {
                    texts.push(None);
                }
                if !text.is_empty() {
                    let text = MtmdInputText::from_bytes(text.as_bytes(), false, !is_input);
                    texts.push(Some(text));
                }
            }
        }
        texts
    }

    fn lay_out(
        &self,
        context: &MtmdContext,
        chunks: &Arc<Chunks>,
    ) -> Result<(Vec<LlamaToken>, Pieces)> {
        let mut tokens = Vec::new();
        let mut pieces = Vec::new();
        let mut position = 0;
        let mut ordinals = Ordinals::default();
        for (index, chunk) in chunks.0.iter().enumerate() {
            if let Some(text) = chunk.text_tokens() {
                tokens.extend(text.iter().copied().map(LlamaToken));
                position += text.len();
                continue;
            }
            let ordinal = ordinals.next(chunk.id());
            let sha256 = self.sha256(chunk.id())?;
            let cells = chunk.n_tokens();
            let number = self.projector.number((sha256, ordinal, cells))?;
            let whole = context.decode_use_non_causal(&chunk);
            if whole && cells > self.batch {
                let message = format!(
                    "an image of {cells} cells must be computed at once, and this engine computes {} at most",
                    self.batch
                );
                return Err(
                    Error::new(ErrorCode::UnsupportedOperation, message).with_param("messages")
                );
            }
            let piece = Piece {
                start: tokens.len(),
                cells,
                position,
                span: usize::try_from(chunk.n_pos()).unwrap_or(0),
                places: places(context, &chunk, position),
                whole,
                encoding: Some(Encoding::new(
                    chunks.clone(),
                    index,
                    self.projector.requests()?,
                )),
            };
            position += piece.span;
            tokens.resize(tokens.len() + cells, LlamaToken(number));
            pieces.push(piece);
        }
        if pieces
            .last()
            .is_some_and(|piece| piece.end() == tokens.len())
        {
            let message = "the prompt ends with an image or a sound; this model's template has to end with text";
            return Err(Error::invalid("messages", message));
        }
        Ok((tokens, Pieces::new(pieces)))
    }

    fn sha256(&self, id: Option<&str>) -> Result<[u8; 32]> {
        let file = self.files.iter().find(|file| file.bitmap.id() == id);
        file.map(|file| file.sha256)
            .ok_or_else(|| Error::internal("a piece of media belongs to no file"))
    }
}

/// Counts the pieces of a file: a large image may be cut into several.
#[derive(Default)]
struct Ordinals {
    last: Option<String>,
    count: usize,
}

impl Ordinals {
    fn next(&mut self, id: Option<&str>) -> usize {
        if self.last.as_deref() == id && id.is_some() {
            self.count += 1;
        } else {
            self.last = id.map(str::to_owned);
            self.count = 0;
        }
        self.count
    }
}

fn places(context: &MtmdContext, chunk: &MtmdInputChunk<'_>, position: usize) -> Places {
    let is_image = chunk.chunk_type() == MtmdInputChunkType::Image;
    match chunk.image_tokens() {
        Some(tokens) if is_image && context.decode_use_mrope() => {
            let first = i32::try_from(position).unwrap_or(i32::MAX);
            let number = |at: u32| i32::try_from(at).unwrap_or(i32::MAX);
            let places = tokens.decoder_positions(first).into_iter();
            Places::Grid(
                places
                    .map(|place| [place.t, place.y, place.x, place.z].map(number))
                    .collect(),
            )
        }
        _ => Places::Line,
    }
}
