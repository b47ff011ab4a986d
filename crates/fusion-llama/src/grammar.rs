//! The grammar that binds an answer, in the form that the sampler takes it.

use fusion_engine::types::{Error, Result, chat::ChatRequest};
use llama_cpp_4::{
    chat::ChatParams,
    common_sampler::{CommonSamplerParams, GrammarSource},
    token::LlamaToken,
};
use serde::Deserialize;

use crate::calls::{self, Reasoning};

pub(crate) struct Grammar {
    text: String,
    source: GrammarSource,
    /// Binds only from where one of the triggers was met.
    lazy: bool,
    triggers: Vec<Trigger>,
    /// What the grammar expects before the answer's first token.
    generation_prompt: String,
    /// The field of the request that asked for it.
    param: &'static str,
}

#[derive(Deserialize)]
struct Trigger {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    token: i32,
}

impl Grammar {
    /// Of the whole answer, from its first token on.
    pub(crate) fn of_answer(text: String) -> Self {
        Self {
            text,
            source: GrammarSource::User,
            lazy: false,
            triggers: Vec::new(),
            generation_prompt: String::new(),
            param: "response_format",
        }
    }

    /// What the template made of tools or of a response format, if anything.
    pub(crate) fn of_template(applied: &ChatParams, request: &ChatRequest) -> Option<Self> {
        if applied.grammar.is_empty() {
            return None;
        }
        let (source, param) = if request.may_call_tools() {
            (GrammarSource::ToolCalls, "tools")
        } else {
            (GrammarSource::OutputFormat, "response_format")
        };
        // Read anew: the binding's own list loses what comes after a brace in a trigger.
        let triggers = serde_json::from_str(&applied.grammar_triggers_json).unwrap_or_default();
        let mut grammar = Self {
            text: applied.grammar.clone(),
            source,
            lazy: applied.grammar_lazy,
            triggers,
            generation_prompt: applied.generation_prompt().to_owned(),
            param,
        };
        if request.may_call_tools() && grammar.lazy {
            grammar.text = calls::narrowed(&grammar.text, request.may_call_several());
            if request.must_call_tools() {
                grammar.bind_all(Reasoning::of(applied).as_ref());
            }
        }
        Some(grammar)
    }

    /// From the first token on, without what the template expects before it.
    fn bind_all(&mut self, reasoning: Option<&Reasoning>) {
        self.text = calls::after_reasoning(&self.text, reasoning);
        self.source = GrammarSource::User;
        self.lazy = false;
        self.triggers.clear();
        self.generation_prompt.clear();
    }

    /// Whether the answer is bound from its first token on, and needs nothing before that.
    pub(crate) fn binds_all(&self) -> bool {
        !self.lazy && self.source == GrammarSource::User
    }

    /// # Errors
    /// `internal_error`: the parts of a grammar that can be wrong are found when the sampler is made.
    pub(crate) fn set(&self, params: &mut CommonSamplerParams) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::internal(format!("can't set the grammar: {error}"))
        };
        params
            .set_grammar(&self.text, self.source, self.lazy)
            .map_err(|error| failed(&error))?;
        for Trigger { kind, value, token } in &self.triggers {
            params
                .add_grammar_trigger(kind, value, LlamaToken(*token))
                .map_err(|error| failed(&error))?;
        }
        params
            .set_generation_prompt(&self.generation_prompt)
            .map_err(|error| failed(&error))
    }

    /// Why no sampler could be made with it.
    pub(crate) fn refused(&self, why: &dyn std::fmt::Display) -> Error {
        let param = self.param;
        Error::invalid(param, format!("{param}: it can't be enforced: {why}"))
    }
}
