//! The last lines that an engine printed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

const LINES: usize = 200;
/// Longer lines are cut; a child that never ends its line can't fill the memory.
const LINE_BYTES: usize = 64 << 10;
const KEPT_BYTES: usize = 2 << 10;

#[derive(Clone, Debug, Default)]
pub(crate) struct LogRing(Arc<Mutex<VecDeque<String>>>);

impl LogRing {
    pub(crate) fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line[..line.floor_char_boundary(KEPT_BYTES)].to_owned());
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    pub(crate) fn last(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .rev()
            .find(|line| !line.trim().is_empty())
            .cloned()
    }
}

/// The next line without its end, cut after [`LINE_BYTES`]; `None` at the end of the output.
pub(super) async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    let mut seen = false;
    loop {
        let chunk = match reader.fill_buf().await {
            Ok(chunk) if !chunk.is_empty() => chunk,
            _ => return seen.then(|| text(&line)),
        };
        seen = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        let room = LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&chunk[..taken.min(room)]);
        reader.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Some(text(&line));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_end_matches('\r')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_and_the_last_one_needs_no_end() {
        let mut output = vec![b'x'; LINE_BYTES + 10];
        output.extend_from_slice(b"\nsecond\r\nthird");
        let mut reader = output.as_slice();
        assert_eq!(next_line(&mut reader).await.unwrap().len(), LINE_BYTES);
        assert_eq!(next_line(&mut reader).await.unwrap(), "second");
        assert_eq!(next_line(&mut reader).await.unwrap(), "third");
        assert_eq!(next_line(&mut reader).await, None);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let ring = LogRing::default();
        for nth in 0..LINES + 5 {
            ring.push(&nth.to_string());
        }
        assert_eq!(ring.tail().len(), LINES);
        assert_eq!(ring.last().unwrap(), (LINES + 4).to_string());
    }
}
