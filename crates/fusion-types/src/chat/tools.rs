//! Tools that a model may call, and its calls.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The one kind of tool there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    #[default]
    Function,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    #[serde(rename = "type")]
    pub kind: ToolKind,
    pub function: FunctionTool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionTool {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of the arguments; without one there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// Whether a schema that can't be enforced in every part is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ToolChoice {
    Mode(ToolMode),
    Named {
        #[serde(rename = "type")]
        kind: ToolKind,
        function: NamedFunction,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolMode {
    Auto,
    None,
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFunction {
    pub name: String,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected auto, none, required or {\"type\":\"function\",\"function\":{\"name\":…}}"
        )]
        enum Choice {
            Mode(ToolMode),
            Named {
                #[serde(default, rename = "type")]
                kind: ToolKind,
                function: NamedFunction,
            },
        }
        Ok(match Choice::deserialize(deserializer)? {
            Choice::Mode(mode) => Self::Mode(mode),
            Choice::Named { kind, function } => Self::Named { kind, function },
        })
    }
}

/// A whole call, as a message has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    #[serde(default)]
    pub id: String,
    #[serde(default, rename = "type")]
    pub kind: ToolKind,
    pub function: ToolCallFunction,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallFunction {
    pub name: String,
    /// JSON as text.
    #[serde(default)]
    pub arguments: String,
}

/// What was added to a call: its id, kind and name at first, then its arguments piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    pub index: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolKind>,
    #[serde(default)]
    pub function: FunctionDelta,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDelta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

impl ToolCallDelta {
    pub fn begin(index: u32, id: String, name: String) -> Self {
        Self {
            index,
            id: Some(id),
            kind: Some(ToolKind::Function),
            function: FunctionDelta {
                name: Some(name),
                arguments: Some(String::new()),
            },
        }
    }

    pub fn arguments(index: u32, more: String) -> Self {
        Self {
            index,
            function: FunctionDelta {
                name: None,
                arguments: Some(more),
            },
            ..Self::default()
        }
    }
}

/// Adds deltas to the calls that they belong to.
pub fn collect_tool_calls(calls: &mut Vec<ToolCall>, deltas: Vec<ToolCallDelta>) {
    for delta in deltas {
        let index = delta.index as usize;
        // An engine that skips an index would leave holes: its calls come one after the other.
        let index = index.min(calls.len());
        if index == calls.len() {
            calls.push(ToolCall {
                id: String::new(),
                kind: ToolKind::Function,
                function: ToolCallFunction::default(),
            });
        }
        let call = &mut calls[index];
        call.id.push_str(&delta.id.unwrap_or_default());
        call.function
            .name
            .push_str(&delta.function.name.unwrap_or_default());
        call.function
            .arguments
            .push_str(&delta.function.arguments.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_become_whole_calls() {
        let mut calls = Vec::new();
        collect_tool_calls(
            &mut calls,
            vec![
                ToolCallDelta::begin(0, "a".to_owned(), "f".to_owned()),
                ToolCallDelta::arguments(0, "{\"x\":".to_owned()),
                ToolCallDelta::begin(1, "b".to_owned(), "g".to_owned()),
            ],
        );
        collect_tool_calls(
            &mut calls,
            vec![ToolCallDelta::arguments(0, "1}".to_owned())],
        );
        assert_eq!(calls[0].function.arguments, "{\"x\":1}");
        assert_eq!(
            (calls[1].id.as_str(), calls[1].function.name.as_str()),
            ("b", "g")
        );
    }

    #[test]
    fn a_choice_is_a_word_or_a_name() {
        let read = |text: &str| serde_json::from_str::<ToolChoice>(text);
        assert_eq!(
            read("\"required\"").unwrap(),
            ToolChoice::Mode(ToolMode::Required)
        );
        let named = r#"{"type":"function","function":{"name":"f"}}"#;
        let ToolChoice::Named { function, .. } = read(named).unwrap() else {
            panic!("a name was read as a word")
        };
        assert_eq!(function.name, "f");
        assert!(read("\"sometimes\"").is_err());
    }
}
