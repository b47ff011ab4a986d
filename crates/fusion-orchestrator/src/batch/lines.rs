//! The lines of a file, one at a time, with the place to go on from.

use bytes::{Bytes, BytesMut};
use fusion_types::{Result, blob::ByteStream};
use futures::{StreamExt, stream::Fuse};
use serde::{Deserialize, Serialize};

/// Between two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Lines before, empty ones included.
    pub(super) lines: u64,
    /// Bytes before.
    pub(super) offset: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// `None` for a line that is too long to be kept.
    pub(super) bytes: Option<Bytes>,
}

/// Holds one line, and what else came with its last piece.
pub(super) struct Lines {
    source: Fuse<ByteStream<'static>>,
    longest: usize,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line's end.
    searched: usize,
    /// Whether the line's beginning was thrown away.
    too_long: bool,
    place: Place,
}

impl Lines {
    /// `source` begins at the place.
    pub(super) fn new(source: ByteStream<'static>, place: Place, longest: usize) -> Self {
        Self {
            source: source.fuse(),
            longest,
            buffer: BytesMut::new(),
            searched: 0,
            too_long: false,
            place,
        }
    }

    /// After the last line that was returned.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next line that isn't blank.
    pub(super) async fn next(&mut self) -> Result<Option<Line>> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|&byte| byte == b'\n');
            if let Some(end) = end {
                let line = self.take(self.searched + end + 1);
                if line.is_some() {
                    return Ok(line);
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.longest {
                self.throw_away();
            }
            match self.source.next().await {
                Some(piece) => self.buffer.extend_from_slice(&piece?),
                None if self.buffer.is_empty() && !self.too_long => return Ok(None),
                None => return Ok(self.take(self.buffer.len())),
            }
        }
    }

    /// Takes a line of so many bytes; `None` where it is blank.
    fn take(&mut self, bytes: usize) -> Option<Line> {
        let line = self.buffer.split_to(bytes).freeze();
        self.searched = 0;
        self.place.lines += 1;
        self.place.offset += bytes as u64;
        let number = self.place.lines;
        if std::mem::take(&mut self.too_long) || line.len() > self.longest + 1 {
            return Some(Line {
                number,
                bytes: None,
            });
        }
        (!line.trim_ascii().is_empty()).then_some(Line {
            number,
            bytes: Some(line),
        })
    }

    fn throw_away(&mut self) {
        self.too_long = true;
        self.place.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};

    use super::*;

    fn lines(text: &'static str, piece: usize, longest: usize) -> Lines {
        let pieces = text.as_bytes().chunks(piece);
        let pieces: Vec<_> = pieces.map(|piece| Ok(Bytes::from_static(piece))).collect();
        Lines::new(stream::iter(pieces).boxed(), Place::default(), longest)
    }

    fn all(mut lines: Lines) -> Vec<(u64, Option<String>)> {
        let mut found = Vec::new();
        while let Some(line) = lines.next().now_or_never().unwrap().unwrap() {
            let text = line
                .bytes
                .map(|bytes| String::from_utf8_lossy(bytes.trim_ascii()).into_owned());
            found.push((line.number, text));
        }
        assert_eq!(lines.next().now_or_never().unwrap().unwrap(), None);
        found
    }

    #[test]
    fn lines_are_the_same_whatever_the_pieces() {
        let text = "one\r\n\n  \nfour\nfive";
        let expected = [(1, "one"), (4, "four"), (5, "five")];
        let expected = expected.map(|(number, text)| (number, Some(text.to_owned())));
        for piece in 1..=text.len() {
            assert_eq!(all(lines(text, piece, 10)), expected, "{piece}");
        }
        assert!(all(lines("\n \n", 1, 10)).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_the_next_is_read() {
        for piece in [1, 3, 100] {
            let found = all(lines("a\n0123456789\nb\n01234567", piece, 5));
            let expected = [
                (1, Some("a".to_owned())),
                (2, None),
                (3, Some("b".to_owned())),
                (4, None),
            ];
            assert_eq!(found, expected, "{piece}");
        }
    }

    #[test]
    fn one_goes_on_from_a_place() {
        let text = "one\n\nthree\nfour\n";
        let mut first = lines(text, 2, 10);
        first.next().now_or_never().unwrap().unwrap();
        let place = first.place();
        assert_eq!((place.lines, place.offset), (1, 4));
        let rest = stream::iter([Ok(Bytes::from_static(&text.as_bytes()[4..]))]);
        let rest = Lines::new(rest.boxed(), place, 10);
        assert_eq!(all(rest), all(first));
    }
}
