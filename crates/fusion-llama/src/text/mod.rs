//! From the bytes of tokens to the text that a client may see.

mod stops;
mod utf8;

use stops::Stops;
use utf8::Utf8;

/// Puts a generation's text together: whole characters, and nothing of a stop string.
pub(crate) struct Assembler {
    utf8: Utf8,
    stops: Stops,
}

/// What has become certain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Certain {
    pub(crate) text: String,
    /// A stop string was met; the text ends before it, and there is no more.
    pub(crate) stopped: bool,
}

impl Assembler {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            utf8: Utf8::default(),
            stops: Stops::new(stops),
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Certain {
        let text = self.utf8.push(bytes);
        self.stops.push(&text)
    }

    /// What was held back and can't be part of a stop string any more. A character that was never completed is left out.
    pub(crate) fn finish(&mut self) -> String {
        self.stops.finish()
    }
}
