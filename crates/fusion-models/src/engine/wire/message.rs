//! HTTP/1.1 messages as bytes: a request written, an answer's head read, and where its body ends. Pure.

use std::{io::Write, mem::MaybeUninit};

use bytes::Bytes;
use http::{Method, StatusCode};
use httparse::Status;

/// Bytes of a request's head, as a rule.
const MOST_HEAD: usize = 256;
/// Headers of an answer that are looked at.
const MOST_HEADERS: usize = 64;
/// A head, a chunk's size or a trailer longer than this isn't one.
const LONGEST: usize = 64 << 10;

/// What isn't HTTP, in a word or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A request, head and body. The path is one of ours or of the configuration.
///
/// # Errors
/// For a path that can't stand in a head.
pub(super) fn request(
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<u8>, Malformed> {
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed("the path"));
    }
    let mut request = Vec::with_capacity(MOST_HEAD + body.len());
    let mut add = |parts: &[&str]| {
        parts
            .iter()
            .for_each(|part| request.extend(part.as_bytes()))
    };
    add(&[method.as_str(), " ", path, " HTTP/1.1\r\n"]);
    for (name, value) in headers {
        add(&[name, ": ", value, "\r\n"]);
    }
    // Writing to memory can't fail.
    let _ = write!(request, "content-length: {}\r\n\r\n", body.len());
    request.extend(body);
    Ok(request)
}

/// An answer's head.
#[derive(Debug, PartialEq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) body: Framing,
    /// Whether the connection is good for another request.
    pub(super) stays: bool,
}

/// How an answer's body ends.
#[derive(Debug, PartialEq)]
pub(super) enum Framing {
    /// After so many more bytes.
    Length(u64),
    Chunked(Chunk),
    /// With the connection.
    Close,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, PartialEq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    /// Of the chunk's data.
    LineEnd,
    Trailer,
    Done,
}

/// The next of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Data(Bytes),
    /// More bytes are needed to tell.
    More,
    End,
}

/// Bytes received and not yet used.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    used: usize,
}

impl Received {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    fn take(&mut self, count: usize) {
        self.used += count;
    }

    /// Room for so many more.
    pub(super) fn make_room(&mut self, count: usize) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.reserve(count);
    }
}

impl Head {
    /// Takes a head off what was received, once it is there whole.
    ///
    /// # Errors
    /// For what isn't a head.
    pub(super) fn read(received: &mut Received) -> Result<Option<Self>, Malformed> {
        loop {
            let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
            let mut head = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default()
                .parse_response_with_uninit_headers(&mut head, received.rest(), &mut headers)
                .map_err(|_| Malformed("the head of the answer"))?;
            let Status::Complete(length) = parsed else {
                return match received.rest().len() {
                    LONGEST.. => Err(Malformed("the head of the answer is too long")),
                    _ => Ok(None),
                };
            };
            let told = Self::told(&head)?;
            received.take(length);
            // What comes before the answer proper says nothing.
            if !told.status.is_informational() {
                return Ok(Some(told));
            }
        }
    }

    fn told(head: &httparse::Response<'_, '_>) -> Result<Self, Malformed> {
        let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("the status"))?;
        let (mut length, mut is_chunked, mut is_coded) = (None, false, false);
        let mut stays = head.version == Some(1);
        for header in head.headers.iter() {
            let name = header.name.as_bytes();
            if is(name, "content-length") {
                let told = number(header.value).ok_or(Malformed("the length of the body"))?;
                if length.replace(told).is_some_and(|before| before != told) {
                    return Err(Malformed("two lengths of the body"));
                }
            } else if is(name, "transfer-encoding") {
                is_coded = true;
                is_chunked = words(header.value)
                    .last()
                    .is_some_and(|word| is(word, "chunked"));
            } else if is(name, "connection") {
                stays &= !words(header.value).any(|word| is(word, "close"));
            }
        }
        let body = match (status, length) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Framing::Length(0),
            _ if is_chunked => Framing::Chunked(Chunk::Size),
            (_, Some(length)) if !is_coded => Framing::Length(length),
            _ => Framing::Close,
        };
        Ok(Self {
            status,
            stays: stays && body != Framing::Close,
            body,
        })
    }
}

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is(word: &[u8], wanted: &str) -> bool {
    word.eq_ignore_ascii_case(wanted.as_bytes())
}

impl Framing {
    /// Takes the next piece off what was received.
    ///
    /// # Errors
    /// For a body that isn't one.
    pub(super) fn next(&mut self, received: &mut Received) -> Result<Piece, Malformed> {
        match self {
            Self::Length(0) | Self::Chunked(Chunk::Done) => Ok(Piece::End),
            Self::Length(left) => Ok(data(left, received)),
            Self::Close => {
                let mut no_limit = u64::MAX;
                Ok(data(&mut no_limit, received))
            }
            Self::Chunked(chunk) => chunk.next(received),
        }
    }
}

impl Chunk {
    fn next(&mut self, received: &mut Received) -> Result<Piece, Malformed> {
        loop {
            let rest = received.rest();
            match self {
                Self::Size => match httparse::parse_chunk_size(rest) {
                    Ok(Status::Complete((length, size))) => {
                        received.take(length);
                        *self = if size == 0 {
                            Self::Trailer
                        } else {
                            Self::Data(size)
                        };
                    }
                    Ok(Status::Partial) if rest.len() < LONGEST => return Ok(Piece::More),
                    Ok(Status::Partial) | Err(_) => return Err(Malformed("the size of a chunk")),
                },
                Self::Data(left) => {
                    let piece = data(left, received);
                    if *left == 0 {
                        *self = Self::LineEnd;
                    }
                    return Ok(piece);
                }
                Self::LineEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        received.take(2);
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Piece::More),
                    _ => return Err(Malformed("the end of a chunk")),
                },
                Self::Trailer => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        let is_last = rest[..end].trim_ascii_end().is_empty();
                        received.take(end + 1);
                        if is_last {
                            *self = Self::Done;
                        }
                    }
                    None if rest.len() < LONGEST => return Ok(Piece::More),
                    None => return Err(Malformed("a trailer")),
                },
                Self::Done => return Ok(Piece::End),
            }
        }
    }
}

/// At most so many bytes, as far as they are there.
fn data(left: &mut u64, received: &mut Received) -> Piece {
    let rest = received.rest();
    let count = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    if count == 0 {
        return Piece::More;
    }
    let piece = Bytes::copy_from_slice(&rest[..count]);
    received.take(count);
    *left -= count as u64;
    Piece::Data(piece)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read of an answer that arrives in these pieces: its status, its body, whether it ended, and what is left over.
    fn read(pieces: &[&[u8]]) -> Result<(u16, Vec<u8>, bool, Vec<u8>), Malformed> {
        let mut received = Received::default();
        let (mut head, mut body, mut ended) = (None, Vec::new(), false);
        for piece in pieces {
            received.make_room(piece.len());
            received.bytes.extend_from_slice(piece);
            if head.is_none() {
                head = Head::read(&mut received)?;
            }
            let Some(head) = &mut head else { continue };
            loop {
                match head.body.next(&mut received)? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::More => break,
                    Piece::End => {
                        ended = true;
                        break;
                    }
                }
            }
        }
        let status = head.map_or(0, |head| head.status.as_u16());
        Ok((status, body, ended, received.rest().to_vec()))
    }

    fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2)
            .map(|pair| &bytes[pair[0]..pair[1]])
            .collect()
    }

    fn head(text: &str) -> Result<Option<Head>, Malformed> {
        let mut received = Received::default();
        received.bytes.extend_from_slice(text.as_bytes());
        Head::read(&mut received)
    }

    #[test]
    fn a_request_is_written_as_servers_read_it() {
        let headers = [("host", "engine"), ("x-class", "job")];
        let written = request(&Method::POST, "/v1/x", &headers, b"abc").unwrap();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "POST /v1/x HTTP/1.1\r\nhost: engine\r\nx-class: job\r\ncontent-length: 3\r\n\r\nabc"
        );
        for path in ["/a b", "/a\r\nx: y", "a", ""] {
            assert!(request(&Method::GET, path, &[], &[]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn heads_say_how_bodies_end() {
        for (text, body, stays) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
                Framing::Length(7),
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n",
                Framing::Chunked(Chunk::Size),
                true,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
                Framing::Length(2),
                true,
            ),
        ] {
            let head = head(text).unwrap().unwrap();
            assert_eq!((head.body, head.stays), (body, stays), "{text:?}");
        }
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-le"), Ok(None));
        for text in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text:?}");
        }
        assert!(head(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(LONGEST))).is_err());
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        let begin = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for body in ["x\r\n", "1\r\nab\r\n", "ffffffffffffffffff\r\n"] {
            assert!(
                read(&[begin.as_bytes(), body.as_bytes()]).is_err(),
                "{body:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_its_bytes_are_cut(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            is_chunked in any::<bool>(),
            trailer in prop::option::of("[a-z]{1,5}: [a-z]{1,5}"),
            after in prop::collection::vec(any::<u8>(), 0..5),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let body = pieces.concat();
            let mut bytes = b"HTTP/1.1 201 Created\r\n".to_vec();
            if is_chunked {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for piece in &pieces {
                    bytes.extend_from_slice(format!("{:x};a=b\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n");
                bytes.extend(trailer.iter().flat_map(|line| format!("{line}\r\n").into_bytes()));
                bytes.extend_from_slice(b"\r\n");
            } else {
                bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(&body);
            }
            bytes.extend_from_slice(&after);
            prop_assert_eq!(read(&cut(&bytes, &cuts)), Ok((201, body, true, after)));
        }

        #[test]
        fn junk_is_read_or_refused_and_nothing_else(
            bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(any::<usize>(), 0..9),
        ) {
            let begin = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let whole = [begin.as_slice(), &bytes].concat();
            for bytes in [&bytes, &whole] {
                if let Ok((_, body, ..)) = read(&cut(bytes, &cuts)) {
                    prop_assert!(body.len() <= bytes.len());
                }
            }
        }
    }
}
