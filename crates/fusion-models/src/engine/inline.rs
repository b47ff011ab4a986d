//! Images and sounds for servers that aren't ours: the data itself, where our own engines get a file's path.

use std::{borrow::Cow, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fusion_types::{
    Error, Result,
    chat::{ChatRequest, ImageUrl, InputAudio, MediaKind, Part},
};

/// # Errors
/// When a file can't be read.
pub(super) async fn with_data(request: &ChatRequest) -> Result<Cow<'_, ChatRequest>> {
    if request.media().next().is_none() {
        return Ok(Cow::Borrowed(request));
    }
    let mut request = request.clone();
    for message in &mut request.messages {
        for part in message.content.parts_mut() {
            if let Part::MediaFile { media_file } = part {
                *part = data(media_file.kind, &media_file.path).await?;
            }
        }
    }
    Ok(Cow::Owned(request))
}

async fn data(kind: MediaKind, path: &Path) -> Result<Part> {
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|error| Error::internal(format!("a file of a request is gone: {error}")))?;
    let data = STANDARD.encode(&bytes);
    Ok(match kind {
        MediaKind::Image => Part::ImageUrl {
            image_url: ImageUrl {
                url: format!("data:image/{};base64,{data}", format(&bytes)),
            },
        },
        MediaKind::Audio => Part::InputAudio {
            input_audio: InputAudio {
                data,
                format: "wav".to_owned(),
            },
        },
    })
}

/// Only formats that pass the server's own look at the first bytes come here.
fn format(image: &[u8]) -> &'static str {
    match image {
        [0xff, 0xd8, ..] => "jpeg",
        [b'G', ..] => "gif",
        [b'R', ..] => "webp",
        _ => "png",
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::chat::{Content, MediaFile, Message, Role};

    use super::*;

    #[tokio::test]
    async fn a_path_becomes_what_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0");
        std::fs::write(&path, b"\xff\xd8\xff").unwrap();
        let media_file = MediaFile {
            kind: MediaKind::Image,
            path,
        };
        let content = Content::Parts(vec![Part::MediaFile { media_file }]);
        let request = ChatRequest {
            messages: vec![Message::new(Role::User, content)],
            ..ChatRequest::default()
        };
        let inlined = with_data(&request).await.unwrap();
        let (_, _, part) = inlined.media().next().unwrap();
        let Part::ImageUrl { image_url } = part else {
            panic!("{part:?}")
        };
        assert_eq!(image_url.url, "data:image/jpeg;base64,/9j/");
    }
}
