//! Whole characters out of bytes that come in pieces.

/// Holds back the beginning of a character until its end has come. What can't be UTF-8 becomes U+FFFD.
#[derive(Default)]
pub(super) struct Utf8 {
    incomplete: Vec<u8>,
}

impl Utf8 {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let mut text = String::new();
        let mut read = 0;
        let mut held = 0;
        for chunk in self.incomplete.utf8_chunks() {
            text.push_str(chunk.valid());
            read += chunk.valid().len() + chunk.invalid().len();
            let unfinished = std::str::from_utf8(chunk.invalid())
                .is_err_and(|error| error.error_len().is_none());
            // Only at the very end can the missing bytes still come.
            if unfinished && read == self.incomplete.len() {
                held = chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.incomplete.drain(..self.incomplete.len() - held);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broken_bytes_are_replaced_and_the_rest_goes_on() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"a\xff\xe2\x82"), "a\u{fffd}");
        assert_eq!(utf8.push(b"b"), "\u{fffd}b");
    }

    proptest! {
        #[test]
        fn pieces_never_split_a_character(text in "\\PC{0,40}", cuts in prop::collection::vec(0_usize..160, 0..8)) {
            let mut utf8 = Utf8::default();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let whole: String = cuts.windows(2).map(|cut| utf8.push(&text.as_bytes()[cut[0]..cut[1]])).collect();
            prop_assert_eq!(whole, text);
        }
    }
}
