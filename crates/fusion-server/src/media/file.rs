//! What a file is, by its first bytes. It is decoded in the engine's process, never here.

use fusion_types::{Error, ErrorCode, Result, chat::MediaKind};

/// Bytes that tell every format.
pub(super) const HEAD: usize = 12;

/// # Errors
/// `invalid_value` for what is neither of the formats that are decoded.
pub(super) fn check(kind: MediaKind, head: &[u8]) -> Result<()> {
    let (known, formats) = match kind {
        MediaKind::Image => (is_image(head), "a PNG, JPEG, GIF or WebP image"),
        MediaKind::Audio => (is_riff(head, b"WAVE"), "a WAV file"),
    };
    if known {
        Ok(())
    } else {
        Err(Error::invalid("", format!("the data is not {formats}")))
    }
}

pub(super) fn too_large(most: usize) -> Error {
    let message = format!("the file is larger than the {most} bytes that are taken");
    Error::new(ErrorCode::FileTooLarge, message)
}

fn is_image(head: &[u8]) -> bool {
    head.starts_with(b"\x89PNG\r\n\x1a\n")
        || head.starts_with(b"\xff\xd8\xff")
        || head.starts_with(b"GIF8")
        || is_riff(head, b"WEBP")
}

fn is_riff(head: &[u8], form: &[u8; 4]) -> bool {
    head.starts_with(b"RIFF") && head.get(8..12) == Some(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let image = |head: &[u8]| check(MediaKind::Image, head).is_ok();
        let audio = |head: &[u8]| check(MediaKind::Audio, head).is_ok();
        assert!(image(b"\x89PNG\r\n\x1a\n\0\0\0\r") && image(b"RIFF\0\0\0\0WEBP"));
        assert!(audio(b"RIFF\0\0\0\0WAVE"));
        for other in [
            &b""[..],
            b"%PDF-1.7",
            b"<svg ",
            b"RIFF\0\0\0\0AVI ",
            b"\xff",
        ] {
            assert!(!image(other) && !audio(other), "{other:?}");
        }
    }
}
