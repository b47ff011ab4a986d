//! An answer taken apart by its template's own parser: content, reasoning and calls, as they grow.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use fusion_engine::types::chat::{Delta, ToolCallDelta};
use llama_cpp_4::chat::ChatParams;
use serde::Deserialize;
use serde_json::Value;

use crate::loose::{self, LooseCall};

/// The parser reads the whole text each time, so it is asked at most so often.
const PAUSE: Duration = Duration::from_millis(20);
/// And never more than this part of the time.
const SHARE: u32 = 10;

pub(crate) struct Reply {
    parser: ChatParams,
    /// The tools that may be called.
    tools: Vec<String>,
    text: String,
    told: Told,
    next: Instant,
}

/// What the parser makes of a text.
#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Vec<Call>,
}

impl Message {
    fn take_loose_calls(&mut self, tools: &[String]) {
        let content = self.content.as_deref().unwrap_or_default();
        if let Some(calls) = loose::calls(content, tools) {
            self.content = None;
            self.tool_calls = calls.into_iter().map(Call::from).collect();
        }
    }
}

#[derive(Debug, Deserialize)]
struct Call {
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    #[serde(default)]
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl From<LooseCall> for Call {
    fn from(LooseCall { name, arguments }: LooseCall) -> Self {
        let arguments = Value::Object(arguments);
        Self {
            function: Function { name, arguments },
        }
    }
}

impl Reply {
    pub(crate) fn new(parser: ChatParams, tools: Vec<String>) -> Self {
        Self {
            parser,
            tools,
            text: String::new(),
            told: Told::default(),
            next: Instant::now(),
        }
    }

    /// What is new, if it is time to look.
    pub(crate) fn push(&mut self, text: &str) -> Option<Delta> {
        self.text.push_str(text);
        let now = Instant::now();
        if text.is_empty() || now < self.next {
            return None;
        }
        let message = self.read(true);
        self.next = Instant::now() + PAUSE.max(now.elapsed() * SHARE);
        let mut message = message?;
        if self.may_be_calls(&message) {
            message.content = None;
        }
        self.told.more(&message, false)
    }

    /// The rest. A text that the parser can't follow to its end is told as far as it can, or as it is.
    pub(crate) fn finish(&mut self) -> Option<Delta> {
        let message = self.read(false).or_else(|| self.read(true));
        let mut message = message.unwrap_or_else(|| Message {
            content: Some(std::mem::take(&mut self.text)),
            ..Message::default()
        });
        if self.may_be_calls(&message) {
            message.take_loose_calls(&self.tools);
        }
        self.told.more(&message, true)
    }

    /// Whether all that the model wrote may be calls without their template's marks; then nobody was told of it yet.
    fn may_be_calls(&self, message: &Message) -> bool {
        let content = message.content.as_deref().unwrap_or_default();
        !self.tools.is_empty()
            && message.tool_calls.is_empty()
            && self.told.content.is_empty()
            && loose::may_be_calls(content, &self.tools)
    }

    pub(crate) fn has_calls(&self) -> bool {
        !self.told.calls.is_empty()
    }

    fn read(&self, partial: bool) -> Option<Message> {
        match self.parser.parse(&self.text, partial) {
            Ok(message) => serde_json::from_str(&message).ok(),
            Err(error) => {
                tracing::debug!(%error, partial, "the parser can't follow the answer");
                None
            }
        }
    }
}

/// What the client has been told. A client can't take anything back, so this only grows.
#[derive(Default)]
struct Told {
    content: String,
    reasoning: String,
    /// The arguments of each call that was begun.
    calls: Vec<String>,
}

impl Told {
    fn more(&mut self, message: &Message, finished: bool) -> Option<Delta> {
        let mut delta = Delta {
            content: grown(&mut self.content, message.content.as_deref()),
            reasoning_content: grown(&mut self.reasoning, message.reasoning_content.as_deref()),
            ..Delta::default()
        };
        let count = message.tool_calls.len();
        for (index, Call { function }) in message.tool_calls.iter().enumerate() {
            let arguments = match &function.arguments {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            // A name may still be growing where nothing has come after it.
            let certain = finished || !arguments.is_empty() || index + 1 < count;
            if function.name.is_empty() || !certain {
                break;
            }
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if index == self.calls.len() {
                self.calls.push(String::new());
                let begin = ToolCallDelta::begin(number, call_id(), function.name.clone());
                delta.tool_calls.push(begin);
            }
            if let Some(more) = grown(&mut self.calls[index], Some(&arguments)) {
                delta
                    .tool_calls
                    .push(ToolCallDelta::arguments(number, more));
            }
        }
        (delta != Delta::default()).then_some(delta)
    }
}

/// What `now` has more than what was told; nothing where it isn't a continuation, which the next look may mend.
fn grown(told: &mut String, now: Option<&str>) -> Option<String> {
    let more = now?
        .strip_prefix(told.as_str())
        .filter(|more| !more.is_empty())?;
    told.push_str(more);
    Some(more.to_owned())
}

/// Nine letters and digits: some templates take no other ids back.
fn call_id() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{:09x}", random >> 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &str, calls: &[(&str, &str)]) -> Message {
        let calls = calls.iter().map(|(name, arguments)| Call {
            function: Function {
                name: (*name).to_owned(),
                arguments: (*arguments).into(),
            },
        });
        Message {
            content: Some(content.to_owned()),
            tool_calls: calls.collect(),
            ..Message::default()
        }
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut told = Told::default();
        let first = told.more(&message("ab", &[]), false).unwrap();
        assert_eq!(first.content.as_deref(), Some("ab"));
        assert_eq!(told.more(&message("a", &[]), false), None);
        let more = told.more(&message("abc", &[]), false).unwrap();
        assert_eq!(more.content.as_deref(), Some("c"));
    }

    #[test]
    fn a_call_begins_once_and_its_arguments_grow() {
        let mut told = Told::default();
        assert_eq!(told.more(&message("", &[("ge", "")]), false), None);
        let begun = told.more(&message("", &[("get", "{\"a")]), false).unwrap();
        assert_eq!(begun.tool_calls.len(), 2);
        assert_eq!(begun.tool_calls[0].function.name.as_deref(), Some("get"));
        assert_eq!(begun.tool_calls[0].id.as_ref().unwrap().len(), 9);
        let whole = message("", &[("get", "{\"a\":1}"), ("put", "")]);
        let more = told.more(&whole, true).unwrap();
        assert_eq!(
            more.tool_calls[0],
            ToolCallDelta::arguments(0, "\":1}".to_owned())
        );
        assert_eq!(more.tool_calls[1].index, 1);
        assert_eq!(told.more(&whole, true), None);
    }
}
