//! Server-sent events, read as they come.

use std::borrow::Cow;

/// An event longer than this isn't one.
const MOST_BYTES: usize = 4 << 20;

/// Takes bytes cut anywhere and gives the `data` of each event. Other fields and comments are ignored, as the dialect has
/// no use for them.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was a carriage return, so that a line feed right after it belongs to it.
    after_return: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Parser {
    /// The events that `bytes` completed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let piece = &rest[..end.unwrap_or(rest.len())];
            let known = self.line.len() + self.data.as_ref().map_or(0, String::len);
            if known + piece.len() > MOST_BYTES {
                return Err(TooLong);
            }
            let Some(end) = end else {
                self.line.extend_from_slice(piece);
                break;
            };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            // Most lines come in one piece, and needn't be copied.
            if self.line.is_empty() {
                events.extend(self.end_line(piece));
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(piece);
                events.extend(self.end_line(&line));
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<String> {
        if line.is_empty() {
            return self.data.take();
        }
        let value = line.strip_prefix(b"data").and_then(|rest| match rest {
            [] => Some(rest),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        })?;
        // Most of it is text, which is found out quicker than what isn't is mended.
        let value =
            str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed);
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(&value);
            }
            None => self.data = Some(value.into_owned()),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Vec<String> {
        Parser::default().push(bytes).unwrap()
    }

    #[test]
    fn reads_what_servers_write() {
        let text = ": keepalive\r\n\r\nevent: x\ndata: {\"a\":1}\nid: 3\n\ndata:one\ndata\ndata: three\n\ndatax: no\n\n";
        assert_eq!(parse(text.as_bytes()), ["{\"a\":1}", "one\n\nthree"]);
        assert_eq!(parse(b"data: [DONE]\r\rdata: cut off"), ["[DONE]"]);
    }

    #[test]
    fn endless_data_in_short_lines_is_refused() {
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1000));
        let pushed = (0..=MOST_BYTES / 1000).map(|_| parser.push(line.as_bytes()));
        assert_eq!(pushed.last(), Some(Err(TooLong)));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; MOST_BYTES];
        parser.push(&piece).unwrap();
        assert_eq!(parser.push(&piece), Err(TooLong));
    }

    fn parse_in_pieces(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut parser = Parser::default();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        pieces
            .flat_map(|piece| parser.push(piece).unwrap())
            .collect()
    }

    /// Bytes as a hostile engine would send them: junk, and fragments of events.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let fragment = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            prop::sample::select(vec![
                "data:", "data: ", "data", ": c", "\n", "\r", "\r\n", "\n\n", "event: x", "\0",
                "\u{feff}", "[DONE]", "é",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
    }

    proptest! {
        #[test]
        fn junk_is_cut_as_it_likes_and_read_the_same(bytes in hostile(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
            let whole = parse(&bytes);
            prop_assert_eq!(&parse_in_pieces(&bytes, &cuts), &whole);
            let each: Vec<_> = (0..=bytes.len()).collect();
            prop_assert_eq!(&parse_in_pieces(&bytes, &each), &whole);
            // What the parser keeps and gives is never more than what it got, but for bytes that were no text.
            prop_assert!(whole.iter().map(String::len).sum::<usize>() <= 3 * bytes.len());
        }

        #[test]
        fn the_same_events_however_the_bytes_are_cut(
            texts in prop::collection::vec("[^\r\n]{0,20}", 0..6),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in prop::collection::vec(0..400usize, 0..12),
        ) {
            let bytes: String = texts.iter().map(|text| format!(": c{end}data: {text}{end}{end}")).collect();
            let bytes = bytes.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(parser.push(&bytes[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(events, texts);
        }
    }
}
