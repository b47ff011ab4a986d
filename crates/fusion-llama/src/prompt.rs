//! From a request to the tokens of a prompt and to what binds its answer, by the model's own chat template.

use fusion_engine::types::{Error, ErrorCode, Result, chat::ChatRequest};
use llama_cpp_4::{
    chat::{ChatApplyParams, ChatParams, ChatTemplates, ReasoningFormat, ToolChoice as Choice},
    model::{AddBos, LlamaModel},
    token::LlamaToken,
};
use serde_json::{Map, Value, json};

use crate::{
    decode::Pieces,
    grammar::Grammar,
    media::{self, Seen},
    schema,
};

/// A model's chat template; one that is missing or broken is known at load and told at the first request.
pub(crate) struct Template(Result<Usable>);

struct Usable {
    templates: ChatTemplates,
    /// Its answers may begin with reasoning.
    thinks: bool,
    calls_tools: bool,
}

pub(crate) struct Prompt {
    pub(crate) tokens: Vec<LlamaToken>,
    /// Images and sounds among them.
    pub(crate) pieces: Pieces,
    /// Strings that end an answer in this template, beside the model's end tokens.
    pub(crate) stops: Vec<String>,
    pub(crate) grammar: Option<Grammar>,
    /// Takes calls and reasoning out of the answer; without it all of it is content.
    pub(crate) parser: Option<ChatParams>,
}

impl Prompt {
    /// One whose answer is text and nothing else.
    pub(crate) fn plain(tokens: Vec<LlamaToken>) -> Self {
        Self {
            tokens,
            pieces: Pieces::default(),
            stops: Vec::new(),
            grammar: None,
            parser: None,
        }
    }
}

impl Template {
    /// The model's own, or the one that is given in its place.
    pub(crate) fn of(model: &LlamaModel, given: Option<&str>) -> Self {
        // Asked first because llama.cpp would go on with a template of its own.
        if given.is_none() && model.chat_template(None).is_err() {
            let message = "this model has no chat template, so it can't chat";
            return Self(Err(Error::new(ErrorCode::UnsupportedOperation, message)));
        }
        let templates = ChatTemplates::from_model(model, given).map_err(|error| {
            let message = format!("this model's chat template can't be used: {error}");
            Error::new(ErrorCode::UnsupportedOperation, message)
        });
        Self(templates.map(Usable::new))
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.0.is_ok()
    }

    pub(crate) fn calls_tools(&self) -> bool {
        self.0.as_ref().is_ok_and(|usable| usable.calls_tools)
    }

    /// Special tokens are recognised in what the template wrote, never in what a message says.
    ///
    /// # Errors
    /// `unsupported_operation` without a template, or for tools that it doesn't know; `invalid_value` for messages that it
    /// refuses and for schemas that can't be enforced.
    pub(crate) fn prompt(
        &self,
        model: &LlamaModel,
        request: &ChatRequest,
        seen: Option<&Seen>,
    ) -> Result<Prompt> {
        let usable = self.0.as_ref().map_err(Clone::clone)?;
        if request.may_call_tools() && !usable.calls_tools {
            let message = "this model's chat template knows no tools";
            return Err(Error::new(ErrorCode::UnsupportedOperation, message).with_param("tools"));
        }
        let answer_grammar = answer_grammar(request)?;
        let parsed = usable.thinks || request.may_call_tools();
        let params = params(request, parsed, seen)?;
        let mut applied = usable.templates.apply(&params).map_err(refused)?;
        let mut grammar = parsed
            .then(|| Grammar::of_template(&applied, request))
            .flatten();
        if request.must_call_tools() && !grammar.as_ref().is_some_and(Grammar::binds_all) {
            // The library's own grammar for it, which lets text come before the call.
            let params = params.with_tool_choice(Choice::Required);
            applied = usable.templates.apply(&params).map_err(refused)?;
            grammar = Grammar::of_template(&applied, request);
        }
        let (tokens, pieces) = match seen {
            Some(seen) => seen.tokens(&applied)?,
            None => {
                let tokens = applied.tokenize_prompt(model, AddBos::Always);
                (tokens.map_err(refused)?, Pieces::default())
            }
        };
        if tokens.is_empty() {
            return Err(Error::invalid(
                "messages",
                "the messages make an empty prompt",
            ));
        }
        if !parsed {
            // A template with reasoning or tools has a grammar of its own, which leaves room for them.
            grammar = answer_grammar.map(Grammar::of_answer);
        }
        Ok(Prompt {
            tokens,
            pieces,
            stops: serde_json::from_str(&applied.additional_stops_json).unwrap_or_default(),
            grammar,
            parser: parsed.then_some(applied),
        })
    }
}

impl Usable {
    fn new(templates: ChatTemplates) -> Self {
        let hello = json!([{ "role": "user", "content": "Hello" }]).to_string();
        // A template that llama.cpp can't take apart still renders; its answers are all content.
        let applied = templates.apply(&ChatApplyParams::new(hello));
        let can: Map<String, Value> = templates
            .caps_json()
            .ok()
            .and_then(|caps| serde_json::from_str(&caps).ok())
            .unwrap_or_default();
        let can = |name: &str| can.get(name) == Some(&Value::Bool(true));
        Self {
            thinks: applied
                .as_ref()
                .is_ok_and(|applied| applied.supports_thinking),
            calls_tools: applied.is_ok() && can("supports_tools") && can("supports_tool_calls"),
            templates,
        }
    }
}

fn answer_grammar(request: &ChatRequest) -> Result<Option<String>> {
    let schema = request.response_format.schema();
    schema
        .map(|schema| schema::grammar(&schema, "response_format"))
        .transpose()
}

fn params(request: &ChatRequest, parsed: bool, seen: Option<&Seen>) -> Result<ChatApplyParams> {
    let messages = media::messages(&request.messages, seen);
    if schema::has_nul(&messages) {
        return Err(Error::invalid(
            "messages",
            "a message contains a NUL character",
        ));
    }
    let mut params = ChatApplyParams::new(messages.to_string()).with_force_pure_content(!parsed);
    params = if parsed {
        params.with_reasoning_format(ReasoningFormat::Auto)
    } else {
        params.with_reasoning_format(ReasoningFormat::None)
    };
    if request.may_call_tools() {
        params = with_tools(params, request)?;
    } else if let Some(schema) = request.response_format.schema().filter(|_| parsed) {
        params = params.with_json_schema(schema.to_string());
    }
    Ok(with_kwargs(params, request))
}

/// A tool that is named is the only one that there is, and has to be called.
fn with_tools(params: ChatApplyParams, request: &ChatRequest) -> Result<ChatApplyParams> {
    let named = request.named_tool();
    let tools: Vec<_> = request
        .tools
        .iter()
        .filter(|tool| named.is_none_or(|name| name == tool.function.name))
        .collect();
    for function in tools.iter().map(|tool| &tool.function) {
        match &function.parameters {
            Some(schema) if function.strict == Some(true) => {
                schema::grammar(schema, "tools").map(drop)?;
            }
            Some(schema) => schema::check_convertible(schema, "tools")?,
            None => {}
        }
    }
    let tools = json!(tools);
    if schema::has_nul(&tools) {
        return Err(Error::invalid("tools", "a tool contains a NUL character"));
    }
    // A call that is required is a matter of the grammar: see there.
    Ok(params
        .with_tools(tools.to_string())
        .with_tool_choice(Choice::Auto)
        .with_parallel_tool_calls(request.may_call_several()))
}

fn with_kwargs(mut params: ChatApplyParams, request: &ChatRequest) -> ChatApplyParams {
    let mut kwargs = request.chat_template_kwargs.clone();
    if let Some(effort) = &request.reasoning_effort {
        params = params.with_enable_thinking(effort != "none");
        let effort = Value::from(effort.as_str());
        kwargs.entry("reasoning_effort").or_insert(effort);
    }
    if let Some(Value::Bool(thinking)) = kwargs.get("enable_thinking") {
        params = params.with_enable_thinking(*thinking);
    }
    if kwargs.is_empty() {
        params
    } else {
        params.with_template_kwargs(Value::Object(quoted(&kwargs)).to_string())
    }
}

/// Every value is read as JSON once more on the other side, where strings arrive without their quotes: so they get two pairs.
fn quoted(kwargs: &Map<String, Value>) -> Map<String, Value> {
    let twice = |value: &Value| {
        if value.is_string() {
            Value::String(value.to_string())
        } else {
            value.clone()
        }
    };
    kwargs
        .iter()
        .map(|(key, value)| (key.clone(), twice(value)))
        .collect()
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::invalid(
        "messages",
        format!("the model's chat template refuses the messages: {error}"),
    )
}
