//! Stop strings, found across the borders of tokens.

use super::Certain;

/// Lets text through up to the stop string that is complete first, and holds back what may be the beginning of one.
pub(super) struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    pub(super) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self {
            stops,
            held: String::new(),
        }
    }

    pub(super) fn push(&mut self, text: &str) -> Certain {
        self.held.push_str(text);
        let met = self.first_match();
        let certain = met.unwrap_or_else(|| self.held.len() - self.possible_beginning());
        let rest = self.held.split_off(certain);
        let text = std::mem::replace(&mut self.held, rest);
        if met.is_some() {
            self.held.clear();
        }
        Certain {
            text,
            stopped: met.is_some(),
        }
    }

    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the match begins that ends first; of several that end there, the longest. So the answer doesn't depend on how the
    /// text was cut into tokens.
    fn first_match(&self) -> Option<usize> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        matches.min().map(|(_, start)| start)
    }

    /// Bytes at the end that a stop string begins with.
    fn possible_beginning(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let starts = self
            .held
            .char_indices()
            .map(|(start, _)| start)
            .filter(|start| *start >= from);
        let tails = starts.map(|start| &self.held[start..]);
        tails
            .filter(|tail| self.stops.iter().any(|stop| stop.starts_with(tail)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes through when the text arrives in these pieces, and whether a stop string ended it.
    fn through<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut filter = Stops::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut whole = String::new();
        for piece in pieces {
            let certain = filter.push(piece);
            whole.push_str(&certain.text);
            if certain.stopped {
                return (whole, true);
            }
        }
        (whole + &filter.finish(), false)
    }

    #[test]
    fn a_stop_string_over_three_tokens_never_leaks() {
        assert_eq!(
            through(&["</end>"], ["one <", "/en", "d> two"]),
            ("one ".to_owned(), true)
        );
    }

    #[test]
    fn a_beginning_that_leads_nowhere_comes_through() {
        assert_eq!(
            through(&["</end>"], ["one <", "/en", "tity>"]),
            ("one </entity>".to_owned(), false)
        );
        assert_eq!(
            through(&["</end>"], ["one </en"]),
            ("one </en".to_owned(), false)
        );
    }

    #[test]
    fn text_without_a_possible_beginning_is_not_held_back() {
        let mut filter = Stops::new(vec!["stop".to_owned()]);
        assert_eq!(
            filter.push("go on"),
            Certain {
                text: "go on".to_owned(),
                stopped: false
            }
        );
    }

    proptest! {
        #[test]
        fn the_cut_does_not_matter(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
        ) {
            let stops: Vec<_> = stops.iter().map(String::as_str).collect();
            let mut buffer = [0; 4];
            let by_character = {
                let pieces: Vec<String> = text.chars().map(|c| c.encode_utf8(&mut buffer).to_owned()).collect();
                through(&stops, pieces.iter().map(String::as_str))
            };
            prop_assert_eq!(&through(&stops, [text.as_str()]), &by_character);
            let leaked = stops.iter().any(|stop| !stop.is_empty() && by_character.0.contains(stop));
            prop_assert!(!leaked);
            prop_assert!(by_character.1 || by_character.0 == text);
        }
    }
}
