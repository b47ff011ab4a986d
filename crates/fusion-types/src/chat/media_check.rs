//! Refusing media parts that can't be, before anything is fetched, decoded or kept.

use serde_json::Value;

use super::{Message, Part};
use crate::{Error, ErrorCode, Result};

/// Images and sounds of one request, at most.
pub const MOST_MEDIA: usize = 32;

/// Kinds of parts that clients may send. The kind that names a file of the server's own is for engines alone.
const KINDS: [&str; 5] = [
    "text",
    "image_url",
    "input_audio",
    "image_file",
    "audio_file",
];

/// Where a part stands in a request, as errors name it.
pub fn place(message: usize, part: usize) -> String {
    format!("messages[{message}].content[{part}]")
}

/// Refuses parts of unknown kinds, while the request is plain JSON.
pub(crate) fn check_kinds(body: &Value) -> Result<()> {
    let messages = body.get("messages").and_then(Value::as_array);
    for (at, message) in messages.into_iter().flatten().enumerate() {
        let parts = message.get("content").and_then(Value::as_array);
        for (index, part) in parts.into_iter().flatten().enumerate() {
            let kind = part.get("type").and_then(Value::as_str);
            if kind.is_none_or(|kind| !KINDS.contains(&kind)) {
                let place = place(at, index);
                let message = format!(
                    "{place}: a content part's type is one of {}",
                    KINDS.join(", ")
                );
                return Err(Error::invalid(format!("{place}.type"), message));
            }
        }
    }
    Ok(())
}

/// Refuses what no model could see or hear.
pub(crate) fn check(messages: &[Message]) -> Result<()> {
    let media = messages.iter().enumerate().flat_map(|(at, message)| {
        message
            .content
            .media()
            .map(move |(index, part)| (at, index, part))
    });
    let mut count = 0;
    for (at, index, part) in media {
        count += 1;
        if count > MOST_MEDIA {
            let message = format!("messages: at most {MOST_MEDIA} images and sounds are taken");
            return Err(Error::invalid("messages", message));
        }
        let place = place(at, index);
        if matches!(part, Part::InputAudio { input_audio } if input_audio.format == "mp3") {
            return Err(Error::not_implemented("sound as mp3").with_param(place));
        }
        check_part(part).map_err(|why| Error::invalid(place.clone(), format!("{place}: {why}")))?;
    }
    Ok(())
}

fn check_part(part: &Part) -> Result<(), String> {
    match part {
        Part::Text { .. }
        | Part::ImageFile { .. }
        | Part::AudioFile { .. }
        | Part::MediaFile { .. } => Ok(()),
        Part::ImageUrl { image_url } => {
            let url = image_url.url.as_str();
            if starts_as(url, "data:") {
                data_url(url).map(drop)
            } else if starts_as(url, "http:") || starts_as(url, "https:") {
                Ok(())
            } else {
                Err("an image's url begins with data:, http: or https:".to_owned())
            }
        }
        Part::InputAudio { input_audio } => match input_audio.format.as_str() {
            "wav" => base64(&input_audio.data),
            _ => Err("a sound's format is wav, or mp3, which is not implemented yet".to_owned()),
        },
    }
}

/// Whether a URL's scheme is this one.
pub fn starts_as(url: &str, scheme: &str) -> bool {
    url.get(..scheme.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// The base64 in a `data:` URL of an image.
///
/// # Errors
/// With what is wrong with it.
pub fn data_url(url: &str) -> Result<&str, String> {
    let wrong = || "a data: URL of an image looks like data:image/png;base64,…".to_owned();
    let (head, data) = url.split_once(',').ok_or_else(wrong)?;
    if !starts_as(head, "data:image/") || !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(wrong());
    }
    base64(data)?;
    Ok(data)
}

/// Standard alphabet with padding, as everybody sends it.
fn base64(text: &str) -> Result<(), String> {
    let data = text
        .strip_suffix("==")
        .or_else(|| text.strip_suffix('='))
        .unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if text.is_empty() || !text.len().is_multiple_of(4) || !data.bytes().all(plain) {
        return Err("its data is not base64".to_owned());
    }
    Ok(())
}

/// A part that the model can't take.
pub fn unsupported(message: usize, part: usize, what: &str) -> Error {
    let place = place(message, part);
    let text = format!("{place}: this model does not take {what}");
    Error::new(ErrorCode::UnsupportedOperation, text).with_param(place)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chat::ChatRequest;

    fn read(part: &Value) -> Result<ChatRequest> {
        let text = json!({ "type": "text", "text": "What is it?" });
        ChatRequest::read(json!({
            "model": "m",
            "messages": [{ "role": "user", "content": [text, part] }],
        }))
    }

    #[test]
    fn what_could_be_passes() {
        for part in [
            json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw==" } }),
            json!({ "type": "image_url", "image_url": { "url": "HTTPS://example.org/a.png", "detail": "high" } }),
            json!({ "type": "input_audio", "input_audio": { "data": "UklGRg==", "format": "wav" } }),
            json!({ "type": "image_file", "image_file": { "file_id": "file-1" } }),
            json!({ "type": "audio_file", "audio_file": { "file_id": "file-1" } }),
        ] {
            assert!(
                read(&part).unwrap().messages[0].content.has_media(),
                "{part}"
            );
        }
    }

    #[test]
    fn what_can_not_be_is_refused_and_named() {
        let place = "messages[0].content[1]";
        for (part, param) in [
            (
                json!({ "type": "file", "file": {} }),
                "messages[0].content[1].type",
            ),
            (
                json!({ "type": "media_file", "media_file": { "kind": "image", "path": "/etc/passwd" } }),
                "messages[0].content[1].type",
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "file:///etc/passwd" } }),
                place,
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "data:text/html;base64,AAAA" } }),
                place,
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,%%%%" } }),
                place,
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "data:image/png,raw" } }),
                place,
            ),
            (
                json!({ "type": "image_url", "image_url": { "url": "" } }),
                place,
            ),
            (
                json!({ "type": "input_audio", "input_audio": { "data": "UklGRg==", "format": "midi" } }),
                place,
            ),
            (
                json!({ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } }),
                place,
            ),
        ] {
            let error = read(&part).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidValue, "{part}: {error}");
            assert_eq!(error.param.as_deref(), Some(param), "{part}: {error}");
        }
    }

    #[test]
    fn too_many_are_refused() {
        let image =
            json!({ "type": "image_url", "image_url": { "url": "https://example.org/a.png" } });
        let body = json!({
            "model": "m",
            "messages": [{ "role": "user", "content": vec![image; MOST_MEDIA + 1] }],
        });
        let error = ChatRequest::read(body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages"));
    }
}
