//! Whose turn it is among requests with different adapters, which can't share a batch: a pure decision.

/// Each mix has one step in turn: after `last` comes the next in the order of the slots.
pub(super) fn next<'a, T: PartialEq>(ready: &[&'a T], last: &T) -> Option<&'a T> {
    let first = ready.first().copied()?;
    let mut different: Vec<&T> = Vec::new();
    for &mix in ready {
        if !different.contains(&mix) {
            different.push(mix);
        }
    }
    let after = different.iter().skip_while(|mix| **mix != last).nth(1);
    Some(after.copied().unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn() {
        let ready = [&"a", &"b", &"a", &"c"];
        let mut last = "";
        let turns: Vec<&str> = (0..4)
            .map(|_| {
                last = next(&ready, &last).unwrap();
                last
            })
            .collect();
        assert_eq!(turns, ["a", "b", "c", "a"]);
    }

    #[test]
    fn alone_it_is_always_ones_turn() {
        assert_eq!(next(&[&1, &1], &1), Some(&1));
        assert_eq!(next(&[], &1), None);
    }
}
