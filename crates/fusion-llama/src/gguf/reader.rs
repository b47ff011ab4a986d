//! Little-endian numbers, strings and values, none of them trusted to fit the file.

use std::{
    fs::File,
    io::{self, BufReader, Read},
};

/// More of anything than this is a broken count, not a model.
pub(super) const MOST_ENTRIES: u64 = 1 << 24;

pub(super) struct Reader {
    input: BufReader<File>,
    at: u64,
    size: u64,
}

/// A metadata value; what the engine has no use for is skipped over.
pub(super) enum Value {
    Unsigned(u64),
    Bool(bool),
    Text(String),
    Other,
}

impl Reader {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self {
            input: BufReader::with_capacity(1 << 16, file),
            at: 0,
            size,
        })
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes in the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(super) fn count(&mut self) -> io::Result<u64> {
        let count = self.u64()?;
        if count > MOST_ENTRIES {
            Err(broken(format!("a count of {count}")))
        } else {
            Ok(count)
        }
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        let length = self.u64()?;
        self.fits(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.input.read_exact(&mut bytes)?;
        self.at += length;
        // Some vocabularies hold tokens that aren't UTF-8; nothing that is read here needs them exact.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn value(&mut self) -> io::Result<Value> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.bytes::<1>()?[0])),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            10 => Value::Unsigned(self.u64()?),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                self.skip_array()?;
                Value::Other
            }
            _ => {
                self.skip(scalar_bytes(kind)?)?;
                Value::Other
            }
        })
    }

    fn skip_array(&mut self) -> io::Result<()> {
        let kind = self.u32()?;
        let count = self.count()?;
        if kind != 8 {
            return self.skip(scalar_bytes(kind)? * count);
        }
        for _ in 0..count {
            let length = self.u64()?;
            self.skip(length)?;
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.fits(bytes)?;
        self.input
            .seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)?;
        self.at += bytes;
        Ok(())
    }

    fn fits(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.size.saturating_sub(self.at) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// An error about what the file says, as opposed to where it ends.
pub(super) fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn scalar_bytes(kind: u32) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(broken(format!("a metadata value of type {kind}"))),
    }
}
