//! The grammar of an answer that has to be a call.
//!
//! The library's own grammar for it lets any text come before the call, so that a model may never get there. The one that it
//! makes for calls that nobody requires, and that binds only from a call's mark on, describes the calls and nothing else: bound
//! from the first token on, it leaves no way around them. Only reasoning may come first, where the template knows it.

use std::fmt::Write;

use llama_cpp_4::chat::ChatParams;

/// How a template marks reasoning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reasoning {
    pub(crate) start: String,
    pub(crate) end: String,
    /// The prompt ends within reasoning.
    pub(crate) is_open: bool,
}

impl Reasoning {
    /// `None` where the answer can't begin with reasoning: the template knows none, or the prompt has closed it.
    pub(crate) fn of(applied: &ChatParams) -> Option<Self> {
        let ends: Vec<String> =
            serde_json::from_str(&applied.thinking_end_tags_json).unwrap_or_default();
        let start = applied.thinking_start_tag.clone();
        let end = ends.into_iter().next()?;
        if !applied.supports_thinking || start.is_empty() || end.is_empty() {
            return None;
        }
        let prompt = applied.generation_prompt();
        let (opened, closed) = (prompt.rfind(&start), prompt.rfind(&end));
        (closed.is_none() || opened > closed).then(|| Self {
            is_open: opened.is_some(),
            start,
            end,
        })
    }
}

/// A grammar of calls with room for reasoning before them.
pub(crate) fn after_reasoning(calls: &str, reasoning: Option<&Reasoning>) -> String {
    let Some(Reasoning {
        start,
        end,
        is_open,
    }) = reasoning
    else {
        return calls.to_owned();
    };
    let (open, optional) = if *is_open {
        (String::new(), "")
    } else {
        (format!("{} ", literal(start)), "?")
    };
    let root = format!("root ::= fusion-reasoning{optional} fusion-calls\n");
    let mut grammar = rules(calls)
        .map(|rule| match rule.strip_prefix("root ::=") {
            Some(calls) => format!("{root}fusion-calls ::={calls}\n"),
            None => format!("{rule}\n"),
        })
        .collect::<String>();
    let end_rule = literal(end);
    // Writing to a string can't fail.
    let _ = writeln!(
        grammar,
        "fusion-reasoning ::= {open}fusion-thought-0 {end_rule} [ \\n]{{0,3}}"
    );
    grammar.push_str(&without("fusion-thought", end));
    grammar
}

/// One call where the grammar has a rule for that, and no others beside it; where it has one for a whole section, that. Some grammars
/// let every call be left out, and with them an answer of nothing: here it can't be.
pub(crate) fn narrowed(calls: &str, several: bool) -> String {
    const ROOT: &str = "root ::= tool-call | tool-calls";
    let repeats = rules(calls).any(|rule| {
        rule.strip_prefix("tool-calls ::= ")
            .is_some_and(|rule| rule.starts_with('(') && rule.ends_with(")+"))
    });
    let chosen = if several || !repeats {
        "root ::= tool-calls"
    } else {
        "root ::= tool-call"
    };
    rules(calls)
        .map(|rule| match rule {
            ROOT => chosen,
            "tool-calls ::= (tool-call? space)+" => "tool-calls ::= (tool-call space)+",
            _ => rule,
        })
        .fold(String::new(), |grammar, rule| grammar + rule + "\n")
}

fn rules(grammar: &str) -> impl Iterator<Item = &str> {
    grammar.lines().filter(|line| !line.is_empty())
}

/// Rules, the first of them `NAME-0`, of all texts in which `word` is not found: a state for each beginning of it that the text
/// may end with.
fn without(name: &str, word: &str) -> String {
    let word: Vec<char> = word.chars().collect();
    let mut letters = word.clone();
    letters.sort_unstable();
    letters.dedup();
    let others: String = letters.iter().map(|letter| escaped(*letter)).collect();
    let mut grammar = String::new();
    for state in 0..word.len() {
        let mut rule = format!("{name}-{state} ::= \"\" | [^{others}] {name}-0");
        for letter in &letters {
            let next = next_state(&word, state, *letter);
            if next < word.len() {
                // Writing to a string can't fail.
                let _ = write!(rule, " | [{}] {name}-{next}", escaped(*letter));
            }
        }
        grammar.push_str(&rule);
        grammar.push('\n');
    }
    grammar
}

/// The longest beginning of the word with which its first `state` letters and `letter` end.
fn next_state(word: &[char], state: usize, letter: char) -> usize {
    let read: Vec<char> = word[..state].iter().copied().chain([letter]).collect();
    (0..=read.len().min(word.len()))
        .rev()
        .find(|length| read.ends_with(&word[..*length]))
        .unwrap_or(0)
}

fn literal(text: &str) -> String {
    let escaped: String = text.chars().map(escaped).collect();
    format!("\"{escaped}\"")
}

/// Stands for the letter in literals and in sets, whatever it means there.
fn escaped(letter: char) -> String {
    format!("\\U{:08X}", u32::from(letter))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALLS: &str = "root ::= tool-call | tool-calls\ntool-call ::= \"<call>\" \"1\"\ntool-calls ::= (tool-call space)+\n";

    #[test]
    fn an_answer_of_no_calls_is_none() {
        let calls = "root ::= tool-call | tool-calls\ntool-calls ::= (tool-call? space)+\n";
        assert!(narrowed(calls, true).ends_with("tool-calls ::= (tool-call space)+\n"));
    }

    #[test]
    fn one_call_or_several() {
        let one = narrowed(CALLS, false);
        assert!(
            one.starts_with("root ::= tool-call\ntool-call ::="),
            "{one}"
        );
        assert!(narrowed(CALLS, true).starts_with("root ::= tool-calls\n"));
        let section = CALLS.replace("(tool-call space)+", "\"<calls>\" tool-call \"</calls>\"");
        assert!(narrowed(&section, false).starts_with("root ::= tool-calls\n"));
        let other = "root ::= call\ncall ::= \"1\"\n";
        assert_eq!(narrowed(other, false), other);
    }

    #[test]
    fn reasoning_may_come_first_or_must_where_the_prompt_began_it() {
        let mut reasoning = Reasoning {
            start: "<t>".to_owned(),
            end: "</t>".to_owned(),
            is_open: false,
        };
        assert_eq!(after_reasoning(CALLS, None), CALLS);
        let optional = after_reasoning(CALLS, Some(&reasoning));
        assert!(optional.contains("root ::= fusion-reasoning? fusion-calls\n"));
        assert!(optional.contains("fusion-calls ::= tool-call | tool-calls\n"));
        reasoning.is_open = true;
        let open = after_reasoning(CALLS, Some(&reasoning));
        assert!(open.contains("root ::= fusion-reasoning fusion-calls\n"));
        assert!(open.contains("fusion-reasoning ::= fusion-thought-0 "));
    }

    proptest! {
        /// The states are those of a search for the word.
        #[test]
        fn the_states_find_the_word(word in "[ab]{1,5}", text in "[abc]{0,16}") {
            let letters: Vec<char> = word.chars().collect();
            let mut state = 0;
            let mut found = false;
            for letter in text.chars() {
                state = next_state(&letters, state, letter);
                if state == letters.len() {
                    found = true;
                    break;
                }
            }
            prop_assert_eq!(found, text.contains(&word));
        }
    }
}
