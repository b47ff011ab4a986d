//! The question that a language model answers with yes or no, in the words that Qwen3-Reranker was trained on.

use fusion_engine::types::{
    Error, ErrorCode, Result,
    chat::{ChatRequest, Message, Role},
    rerank::RerankRequest,
};
use llama_cpp_4::{model::LlamaModel, token::LlamaToken};
use serde_json::{Map, Value};

use crate::{
    embed::{Limit, plain_tokens},
    prompt::Template,
    spans::spans,
};

const SYSTEM: &str = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
    Note that the answer can only be \"yes\" or \"no\".";
/// What is asked for when nobody says otherwise.
pub(super) const INSTRUCTION: &str =
    "Given a web search query, retrieve relevant passages that answer the query";

pub(super) struct Question {
    template: Template,
    instruction: String,
    pub(super) yes: LlamaToken,
    pub(super) no: LlamaToken,
}

impl Question {
    /// # Errors
    /// `invalid_value` for a model that can't be asked.
    pub(super) fn of(model: &LlamaModel, instruction: &str) -> Result<Self> {
        let template = Template::of(model, None);
        if !template.is_usable() {
            let message = "the model can't rerank: it has neither a classification head nor a usable chat template";
            return Err(Error::invalid("model", message));
        }
        let first = |word: &str| {
            let token = plain_tokens(model, word, "model")?.first().copied();
            token.ok_or_else(|| {
                Error::invalid("model", format!("the model has no token for {word}"))
            })
        };
        let (yes, no) = (first("yes")?, first("no")?);
        if yes == no {
            let message = "the model can't rerank: its vocabulary doesn't tell yes from no";
            return Err(Error::invalid("model", message));
        }
        Ok(Self {
            template,
            instruction: instruction.to_owned(),
            yes,
            no,
        })
    }

    /// One prompt a document, in the request's order.
    ///
    /// # Errors
    /// `context_length_exceeded` for a query that leaves no room, and for a document that is too long unless cutting was asked for.
    pub(super) fn prompts(
        &self,
        model: &LlamaModel,
        request: &RerankRequest,
        most: usize,
    ) -> Result<Vec<Vec<LlamaToken>>> {
        let limit = Limit {
            tokens: most,
            truncate: request.truncate,
        };
        let strict = Limit {
            truncate: false,
            ..limit
        };
        let query = &request.query;
        strict.apply(self.prompt(model, query, "")?.len() + 1, "query", None)?;
        let documents = request.documents.iter().enumerate();
        documents
            .map(|(index, document)| {
                let whole = self.prompt(model, query, document)?;
                let read = limit.apply(whole.len(), "documents", Some(index))?;
                if read == whole.len() {
                    return Ok(whole);
                }
                self.cut(model, query, document, most)
            })
            .collect()
    }

    fn prompt(&self, model: &LlamaModel, query: &str, document: &str) -> Result<Vec<LlamaToken>> {
        let text = format!(
            "<Instruct>: {}\n<Query>: {query}\n<Document>: {document}",
            self.instruction
        );
        let request = ChatRequest {
            messages: vec![
                Message::new(Role::System, SYSTEM),
                Message::new(Role::User, text),
            ],
            // The answer is the very next token.
            chat_template_kwargs: Map::from_iter([(
                "enable_thinking".to_owned(),
                Value::Bool(false),
            )]),
            ..ChatRequest::default()
        };
        Ok(self.template.prompt(model, &request, None)?.tokens)
    }

    /// The prompt with as much of the document as fits; what a token less makes of the rest is found by trying.
    fn cut(
        &self,
        model: &LlamaModel,
        query: &str,
        document: &str,
        most: usize,
    ) -> Result<Vec<LlamaToken>> {
        let ends = spans(model, document)?;
        let mut keep = ends.len();
        let mut prompt = self.prompt(model, query, document)?;
        while prompt.len() > most && keep > 0 {
            keep = keep.saturating_sub(prompt.len() - most);
            let end = keep.checked_sub(1).map_or(0, |last| ends[last].1 as usize);
            let text = &document[..document.floor_char_boundary(end)];
            prompt = self.prompt(model, query, text)?;
        }
        if prompt.len() <= most {
            return Ok(prompt);
        }
        let message = "the query leaves no room for a document";
        Err(Error::new(ErrorCode::ContextLengthExceeded, message).with_param("query"))
    }
}
