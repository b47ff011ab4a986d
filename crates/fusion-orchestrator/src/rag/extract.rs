//! A document's bytes to its text.

use fusion_types::{Error, ErrorCode, Result};

use super::request::{Content, IngestDocument};

/// Names of plain text, and a name without an extension, such as `README`.
const TEXT: &[&str] = &["", "txt", "text", "md", "markdown"];
/// What the contract names and isn't read yet.
const LATER: &[&str] = &["pdf", "html", "htm", "docx"];
/// How files of other kinds begin, whatever they are called.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"%PDF-", "a PDF file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"\x7fELF", "a program"),
];

/// # Errors
/// What the document itself is to blame for: `file_too_large`, `unsupported_file_type`, `invalid_value`.
pub(super) fn text(document: &IngestDocument, most_bytes: usize) -> Result<String> {
    let bytes = match &document.content {
        Content::Text(text) => text.as_bytes(),
        Content::Bytes(bytes) => {
            check_kind(document.filename.as_deref().unwrap_or_default(), bytes)?;
            bytes
        }
        Content::File(_) => return Err(Error::internal("a file that was not read")),
    };
    if bytes.len() > most_bytes {
        return Err(too_large(bytes.len(), most_bytes));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Error::invalid(
            "documents",
            format!(
                "not UTF-8 text: invalid from byte {} on",
                error.valid_up_to()
            ),
        )
    })?;
    if text.contains('\0') {
        return Err(Error::invalid(
            "documents",
            "not text: it contains NUL characters",
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Error::invalid("documents", "the document has no text"));
    }
    Ok(text.to_owned())
}

pub(super) fn too_large(bytes: usize, most: usize) -> Error {
    let message = format!("the document has {bytes} bytes, {most} are allowed");
    Error::new(ErrorCode::FileTooLarge, message)
}

fn check_kind(filename: &str, bytes: &[u8]) -> Result<()> {
    let unsupported = |message: String| Err(Error::new(ErrorCode::UnsupportedFileType, message));
    let name = filename.rsplit(['/', '\\']).next().unwrap_or(filename);
    let extension = name
        .rsplit_once('.')
        .map_or("", |(_, extension)| extension)
        .to_ascii_lowercase();
    if LATER.contains(&extension.as_str()) {
        return unsupported(format!("reading {extension} files is not implemented yet"));
    }
    if !TEXT.contains(&extension.as_str()) {
        return unsupported(format!("{extension:?} files can't be read; txt and md can"));
    }
    match FOREIGN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, kind)) => unsupported(format!("the file is not what its name says: it is {kind}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn read(filename: &str, bytes: &[u8]) -> Result<String, ErrorCode> {
        let content = Content::Bytes(bytes.to_vec());
        let document = IngestDocument {
            id: None,
            filename: Some(filename.to_owned()),
            content,
            metadata: Map::new(),
        };
        text(&document, 64).map_err(|error| error.code)
    }

    #[test]
    fn reads_text_and_says_what_it_cannot_read() {
        assert_eq!(
            read("a.md", "# Grüße\r\n".as_bytes()).as_deref(),
            Ok("# Grüße\r\n")
        );
        assert_eq!(
            read("README", "\u{feff}x".as_bytes()).as_deref(),
            Ok("x"),
            "a byte order mark is no text"
        );
        assert_eq!(
            read("a.PDF", b"%PDF-1.4"),
            Err(ErrorCode::UnsupportedFileType)
        );
        assert_eq!(read("a.exe", b"x"), Err(ErrorCode::UnsupportedFileType));
        assert_eq!(
            read("a.txt", b"%PDF-1.4"),
            Err(ErrorCode::UnsupportedFileType),
            "not what it says"
        );
        assert_eq!(read("a.txt", b"caf\xe9"), Err(ErrorCode::InvalidValue));
        assert_eq!(read("a.txt", b"a\0b"), Err(ErrorCode::InvalidValue));
        assert_eq!(read("a.txt", b" \n"), Err(ErrorCode::InvalidValue));
        assert_eq!(read("a.txt", &[b'a'; 65]), Err(ErrorCode::FileTooLarge));
    }
}
