//! Whether a file is whole ONNX, before the runtime reads it.
//!
//! The runtime's reader trusts lengths and numbers as they stand: a damaged file can make it ask for absurd amounts of memory,
//! which ends the process, or never come back (a number of more than ten bytes; rten-onnx 0.27). So the protobuf messages that
//! it will read are walked here first, checking that each lies within the one around it. Tensors' bytes are passed over.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek},
    path::Path,
};

use fusion_engine::types::Result;

use crate::fault::{invalid, unreadable};

/// Graphs within graphs (branches, loops) go this deep and no deeper.
const DEEPEST: usize = 32;

/// What the walk saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    graphs: usize,
    /// Whether matrices are multiplied as integers; else int8 weights are only stored so, and computed with as floats.
    pub(crate) integer_arithmetic: bool,
}

/// # Errors
/// `invalid_value` naming the file where it is cut short or isn't ONNX.
pub(crate) fn check(file: &Path) -> Result<Contents> {
    let broken = |error: io::Error| unreadable(file, &error);
    let open = File::open(file).map_err(broken)?;
    let size = open.metadata().map_err(broken)?.len();
    let mut walk = Walk {
        reader: BufReader::new(open),
        position: 0,
        contents: Contents::default(),
    };
    match walk.message(Message::Model, size, 0) {
        Ok(()) if walk.contents.graphs == 0 => {
            Err(invalid(file, "this is no ONNX file: it holds no graph"))
        }
        Ok(()) => Ok(walk.contents),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(invalid(
            file,
            format_args!("this is no whole ONNX file: {error}"),
        )),
        Err(error) => Err(broken(error)),
    }
}

/// The message types of onnx.proto that hold others.
#[derive(Clone, Copy, Debug)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    /// Numbers and texts only.
    Plain,
}

/// What a field with a length holds.
#[derive(Clone, Copy)]
enum Content {
    Message(Message),
    /// Variable-length numbers, one after the other.
    Numbers,
    /// An operator's name.
    Operator,
    Bytes,
}

/// By onnx.proto's field numbers.
fn content(message: Message, field: u64) -> Content {
    use Message as M;
    match (message, field) {
        (M::Model, 7) | (M::Attribute, 6 | 11) => Content::Message(M::Graph),
        (M::Graph, 1) => Content::Message(M::Node),
        (M::Node, 4) => Content::Operator,
        (M::Node, 5) => Content::Message(M::Attribute),
        (M::Graph, 5) | (M::Attribute, 5 | 10) => Content::Message(M::Tensor),
        (M::Graph, 11..=13) => Content::Message(M::Value),
        (M::Value, 2) => Content::Message(M::Type),
        (M::Type, 1) => Content::Message(M::TensorType),
        (M::TensorType, 2) => Content::Message(M::Shape),
        (M::Model, 8 | 14) | (M::Tensor, 13) | (M::Shape, 1) => Content::Message(M::Plain),
        (M::Tensor, 1 | 5 | 7 | 11) | (M::Attribute, 8) => Content::Numbers,
        _ => Content::Bytes,
    }
}

struct Walk<R> {
    reader: R,
    position: u64,
    contents: Contents,
}

impl<R: BufRead + Seek> Walk<R> {
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(damaged("it is nested too deeply"));
        }
        if matches!(message, Message::Graph) {
            self.contents.graphs += 1;
        }
        while self.position < end {
            let tag = self.number()?;
            match tag & 7 {
                0 => _ = self.number()?,
                1 => self.skip(8, end)?,
                2 => self.content(content(message, tag >> 3), end, depth)?,
                5 => self.skip(4, end)?,
                _ => return Err(damaged("a field has no known type")),
            }
        }
        self.stay_within(end)
    }

    fn content(&mut self, content: Content, end: u64, depth: usize) -> io::Result<()> {
        let length = self.number()?;
        let own_end = self.position.checked_add(length).filter(|own| *own <= end);
        let own_end = own_end.ok_or_else(|| damaged("a field ends after what it is part of"))?;
        match content {
            Content::Message(message) => self.message(message, own_end, depth + 1),
            Content::Bytes => self.skip(length, own_end),
            Content::Operator => self.operator(length, own_end),
            Content::Numbers => {
                while self.position < own_end {
                    self.number()?;
                }
                self.stay_within(own_end)
            }
        }
    }

    fn operator(&mut self, length: u64, end: u64) -> io::Result<()> {
        const INTEGER: &[u8] = b"MatMulInteger";
        if length != INTEGER.len() as u64 {
            return self.skip(length, end);
        }
        let mut name = [0; INTEGER.len()];
        self.reader.read_exact(&mut name)?;
        self.position += length;
        self.contents.integer_arithmetic |= name == INTEGER;
        Ok(())
    }

    /// A number of seven bits a byte, the lowest first, at most ten bytes long.
    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for index in 0..10 {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << (7 * index);
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }

    fn skip(&mut self, length: u64, end: u64) -> io::Result<()> {
        self.position += length;
        self.stay_within(end)?;
        self.reader
            .seek_relative(i64::try_from(length).unwrap_or(i64::MAX))
    }

    fn stay_within(&self, end: u64) -> io::Result<()> {
        if self.position <= end {
            Ok(())
        } else {
            Err(damaged("a field ends after what it is part of"))
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn walk(bytes: &[u8]) -> io::Result<Contents> {
        let mut walk = Walk {
            reader: Cursor::new(bytes),
            position: 0,
            contents: Contents::default(),
        };
        walk.message(Message::Model, bytes.len() as u64, 0)?;
        Ok(walk.contents)
    }

    #[test]
    fn walks_what_is_whole() {
        assert_eq!(walk(&[]).unwrap().graphs, 0);
        // ir_version 8, a graph with one tensor of the dimensions 2 and 300.
        assert_eq!(
            walk(&[8, 8, 58, 7, 42, 5, 10, 3, 2, 0xac, 2])
                .unwrap()
                .graphs,
            1
        );
    }

    #[test]
    fn sees_integer_arithmetic() {
        let graph = |operator: &[u8]| {
            let length = u8::try_from(operator.len()).unwrap();
            [&[58, length + 4, 10, length + 2, 34, length], operator].concat()
        };
        assert!(walk(&graph(b"MatMulInteger")).unwrap().integer_arithmetic);
        assert!(!walk(&graph(b"MatMul")).unwrap().integer_arithmetic);
        assert!(!walk(&graph(b"DepthToSpacex")).unwrap().integer_arithmetic);
    }

    #[test]
    fn refuses_what_reaches_too_far() {
        assert!(walk(&[58, 7, 42]).is_err(), "a graph beyond the file");
        assert!(
            walk(&[58, 3, 42, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err(),
            "a tensor beyond its graph"
        );
        assert!(walk(&[0xff; 64]).is_err(), "an endless number");
        assert!(
            walk(&[
                58, 14, 42, 12, 10, 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
            ])
            .is_err()
        );
        assert!(walk(&[8]).is_err(), "a field without its value");
    }
}
