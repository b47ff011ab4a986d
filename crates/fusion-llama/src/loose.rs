//! Calls that a model writes as a JSON block, without the marks of its template.
//!
//! Small models do that now and then. Nothing is guessed: the whole answer has to be such a block, and each object in it has to
//! name a known tool and hold its arguments and nothing else.

use serde_json::{Deserializer, Map, Value};

/// What may stand around the JSON, and what then ends it.
const FRAMES: &[(&str, &str)] = &[
    ("```json", "```"),
    ("```", "```"),
    ("<tools>", "</tools>"),
    ("<tool_call>", "</tool_call>"),
];
const ARGUMENTS: &[&str] = &["arguments", "parameters"];

/// A call by name, with its arguments.
#[derive(Debug, PartialEq)]
pub(crate) struct LooseCall {
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
}

/// Whether an answer that begins so may still turn out to be calls: until that is known, nobody is told of it.
pub(crate) fn may_be_calls(beginning: &str, names: &[String]) -> bool {
    let text = beginning.trim_start();
    let unframed = FRAMES.iter().map(|(open, _)| eat(text, open));
    let mut ways = unframed.chain([Eaten::Whole(text)]);
    ways.any(|way| match way {
        Eaten::Not => false,
        Eaten::Partly => true,
        Eaten::Whole(rest) => may_name_a_tool(rest, names),
    })
}

fn may_name_a_tool(text: &str, names: &[String]) -> bool {
    let text = text.trim_start();
    let text = text.strip_prefix('[').unwrap_or(text).trim_start();
    let mut rest = text;
    for part in ["{", "\"name\"", ":"] {
        match eat(rest, part) {
            Eaten::Not => return false,
            Eaten::Partly => return true,
            Eaten::Whole(more) => rest = more.trim_start(),
        }
    }
    let mut names = names.iter().map(|name| format!("\"{name}\""));
    names.any(|name| !matches!(eat(rest, &name), Eaten::Not))
}

/// The calls of an answer that is nothing else.
pub(crate) fn calls(answer: &str, names: &[String]) -> Option<Vec<LooseCall>> {
    let mut values = Vec::new();
    for value in Deserializer::from_str(unframed(answer.trim())).into_iter::<Value>() {
        match value.ok()? {
            Value::Array(items) => values.extend(items),
            value => values.push(value),
        }
    }
    let calls: Option<Vec<_>> = values.into_iter().map(|value| call(value, names)).collect();
    calls.filter(|calls| !calls.is_empty())
}

fn call(value: Value, names: &[String]) -> Option<LooseCall> {
    let Value::Object(mut fields) = value else {
        return None;
    };
    let Some(Value::String(name)) = fields.remove("name") else {
        return None;
    };
    let arguments = ARGUMENTS.iter().find_map(|field| fields.remove(*field));
    match arguments {
        Some(Value::Object(arguments)) if fields.is_empty() && names.contains(&name) => {
            Some(LooseCall { name, arguments })
        }
        _ => None,
    }
}

fn unframed(text: &str) -> &str {
    let framed = FRAMES
        .iter()
        .find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close));
    framed.unwrap_or(text)
}

enum Eaten<'a> {
    Not,
    /// The text ends before the word does.
    Partly,
    /// With what comes after.
    Whole(&'a str),
}

fn eat<'a>(text: &'a str, word: &str) -> Eaten<'a> {
    match text.strip_prefix(word) {
        Some(rest) => Eaten::Whole(rest),
        None if word.starts_with(text) => Eaten::Partly,
        None => Eaten::Not,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn names() -> Vec<String> {
        vec!["get_weather".to_owned(), "get_time".to_owned()]
    }

    fn read(answer: &str) -> Option<Vec<String>> {
        let calls = calls(answer, &names())?.into_iter();
        Some(
            calls
                .map(|call| format!("{}{}", call.name, Value::Object(call.arguments)))
                .collect(),
        )
    }

    const FENCED: &str =
        "```json\n{\n  \"name\": \"get_weather\",\n  \"arguments\": {\"city\": \"Paris\"}\n}\n```";

    #[test]
    fn a_block_that_is_a_call_is_read() {
        let paris = vec!["get_weather{\"city\":\"Paris\"}".to_owned()];
        assert_eq!(read(FENCED), Some(paris.clone()));
        let bare = r#"{"name":"get_weather","parameters":{"city":"Paris"}}"#;
        assert_eq!(read(bare), Some(paris));
        let two = r#"<tools>[{"name":"get_time","arguments":{}},{"name":"get_time","arguments":{}}]</tools>"#;
        assert_eq!(read(two).unwrap().len(), 2);
        assert_eq!(read(&format!("{bare}\n{bare}")).unwrap().len(), 2);
    }

    #[test]
    fn everything_else_stays_what_it_is() {
        for answer in [
            "",
            "[]",
            "Paris is sunny.",
            "```json\n{\"name\": \"Anna\", \"arguments\": {}}\n```",
            "{\"name\": \"get_time\"}",
            "{\"name\": \"get_time\", \"arguments\": \"noon\"}",
            "{\"name\": \"get_time\", \"arguments\": {}, \"age\": 7}",
            "{\"name\": \"get_time\", \"arguments\": {}",
            "Here: {\"name\": \"get_time\", \"arguments\": {}}",
        ] {
            assert_eq!(read(answer), None, "{answer}");
        }
    }

    #[test]
    fn what_cannot_become_a_call_is_not_held_back() {
        for (beginning, held) in [
            ("", true),
            ("``", true),
            ("```python\n", false),
            ("```json\n{\n \"na", true),
            ("{\"name\": \"get_w", true),
            ("{\"name\": \"Anna", false),
            ("{\"city\"", false),
            ("Paris", false),
            ("<t", true),
            ("<p", false),
        ] {
            assert_eq!(may_be_calls(beginning, &names()), held, "{beginning}");
        }
    }

    proptest! {
        #[test]
        fn every_beginning_of_a_call_is_held_back(
            frame in 0..=FRAMES.len(),
            space in "[ \n]{0,2}",
            city in "\\PC{0,12}",
            cut in 0_usize..200,
        ) {
            let (open, close) = FRAMES.get(frame).unwrap_or(&("", ""));
            let text = format!("{open}{space}{{\"name\"{space}: \"get_weather\", \"arguments\": {}}}\n{close}", json!({ "city": city }));
            prop_assert_eq!(calls(&text, &names()).map(|calls| calls.len()), Some(1));
            let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            prop_assert!(may_be_calls(&text[..cut], &names()));
        }
    }
}
