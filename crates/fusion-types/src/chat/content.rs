//! What a message says: text, or parts of which some are images or sound.

use std::{borrow::Cow, fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use crate::{id::FileId, model::Capability};

/// Parts that are all text are read as the one text that they make, so that plain text stays a plain string.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    Text {
        text: String,
    },
    ImageUrl {
        image_url: ImageUrl,
    },
    InputAudio {
        input_audio: InputAudio,
    },
    ImageFile {
        image_file: UploadedFile,
    },
    AudioFile {
        audio_file: UploadedFile,
    },
    /// A file of the server's own, which an engine is told to read in place of what the client sent. Never read from clients:
    /// see [`ChatRequest::read`](crate::chat::ChatRequest::read).
    MediaFile {
        media_file: MediaFile,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUrl {
    /// `data:image/…;base64,…`, or http(s).
    pub url: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputAudio {
    /// The file in base64.
    pub data: String,
    /// `wav`.
    pub format: String,
}

/// What was uploaded before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedFile {
    pub file_id: FileId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaFile {
    pub kind: MediaKind,
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    Image,
    Audio,
}

impl MediaKind {
    /// What a model needs for it.
    pub fn capability(self) -> Capability {
        match self {
            Self::Image => Capability::Vision,
            Self::Audio => Capability::AudioInput,
        }
    }
}

impl Content {
    /// The text alone, parts of text one after the other.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => Cow::Owned(joined(parts)),
        }
    }

    /// Parts that aren't text, each with its place.
    pub fn media(&self) -> impl Iterator<Item = (usize, &Part)> {
        let parts = match self {
            Self::Text(_) => &[],
            Self::Parts(parts) => parts.as_slice(),
        };
        parts
            .iter()
            .enumerate()
            .filter(|(_, part)| part.kind().is_some())
    }

    /// The parts, none for plain text.
    pub fn parts_mut(&mut self) -> &mut [Part] {
        match self {
            Self::Text(_) => &mut [],
            Self::Parts(parts) => parts,
        }
    }

    pub fn has_media(&self) -> bool {
        self.media().next().is_some()
    }
}

impl Part {
    /// `None` for text.
    pub fn kind(&self) -> Option<MediaKind> {
        match self {
            Self::Text { .. } => None,
            Self::ImageUrl { .. } | Self::ImageFile { .. } => Some(MediaKind::Image),
            Self::InputAudio { .. } | Self::AudioFile { .. } => Some(MediaKind::Audio),
            Self::MediaFile { media_file } => Some(media_file.kind),
        }
    }
}

fn joined(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl PartialEq<str> for Content {
    fn eq(&self, text: &str) -> bool {
        self.text() == text
    }
}

impl PartialEq<&str> for Content {
    fn eq(&self, text: &&str) -> bool {
        self == *text
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of content parts")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Content, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content, A::Error> {
        let parts = Vec::<Part>::deserialize(SeqAccessDeserializer::new(list))?;
        let content = Content::Parts(parts);
        Ok(match &content {
            Content::Parts(parts) if !content.has_media() => Content::Text(joined(parts)),
            _ => content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_and_media_keeps_its_place() {
        let read = |text: &str| serde_json::from_str::<Content>(text).unwrap();
        assert_eq!(read("null"), "");
        assert_eq!(
            read(r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#),
            Content::Text("ab".to_owned())
        );
        let mixed = read(
            r#"[{"type":"text","text":"What is "},
                {"type":"image_url","image_url":{"url":"https://example.org/a.png","detail":"low"}},
                {"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}},
                {"type":"text","text":"this?"}]"#,
        );
        let kinds: Vec<_> = mixed
            .media()
            .map(|(place, part)| (place, part.kind()))
            .collect();
        assert_eq!(
            kinds,
            [(1, Some(MediaKind::Image)), (2, Some(MediaKind::Audio))]
        );
        assert_eq!(mixed, "What is this?");
        let again = serde_json::to_string(&mixed).unwrap();
        assert_eq!(read(&again), mixed);
    }
}
