//! What a job does: one match from the operation's name to its work.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use fusion_types::{
    Call, Error, ErrorCode, Result,
    inference::{Inference, ModelPlanner, Needs, WorkSize},
    job::Operation,
    json,
    model::{Capability, ModelId},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{rag::Rag, workflow::Workflows};

mod answer;
mod chat;
mod completion;
mod embed;
mod progress;
mod rerank;
mod routes;

pub use answer::Generated;
pub use progress::Progress;
pub(crate) use progress::{Partial, Reported};
use routes::{RagIngest, RagQuery};

/// What is to be done, as it was submitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub operation: Operation,
    pub model_id: Option<String>,
    pub input: Value,
}

/// What a look at the input says about the work to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The model that it would get now, where the operation names one.
    pub model: Option<ModelId>,
    pub size: WorkSize,
}

/// Does what jobs ask for.
#[async_trait]
pub trait Operations: Send + Sync {
    /// Refuses what could never run.
    ///
    /// # Errors
    /// `missing_field`, `unknown_field`, `invalid_value`, `model_not_found`, `unsupported_operation`, `not_implemented`, and
    /// what the operation's own route says of bad input.
    fn check(&self, work: &Work) -> Result<Forecast>;

    /// The job's result. Dropping the future cancels the work.
    async fn run(&self, call: &Call, work: Work, progress: Progress) -> Result<Value>;
}

/// An operation that has a route of its own: the input is that route's body, the result that route's answer.
#[async_trait]
pub trait Route: Send + Sync {
    /// Refuses what could never run.
    fn check(&self, input: &Value) -> Result<()>;

    async fn run(&self, call: &Call, input: Value, progress: Progress) -> Result<Value>;
}

/// Operations on the models of this server.
pub struct LocalOperations {
    inference: Arc<dyn Inference>,
    planner: Arc<dyn ModelPlanner>,
    routes: HashMap<Operation, Arc<dyn Route>>,
}

impl LocalOperations {
    pub fn new(inference: Arc<dyn Inference>, planner: Arc<dyn ModelPlanner>) -> Self {
        Self {
            inference,
            planner,
            routes: HashMap::new(),
        }
    }

    /// Without them the operation `workflow` is `not_implemented`.
    pub fn with_workflows(self, workflows: Workflows) -> Self {
        self.with_route(Operation::Workflow, Arc::new(workflows))
    }

    /// Without it `rag_query` and `rag_ingest` are `not_implemented`.
    pub fn with_rag(self, rag: Rag) -> Self {
        self.with_route(Operation::RagQuery, Arc::new(RagQuery(rag.clone())))
            .with_route(Operation::RagIngest, Arc::new(RagIngest(rag)))
    }

    pub fn with_route(mut self, operation: Operation, route: Arc<dyn Route>) -> Self {
        self.routes.insert(operation, route);
        self
    }

    fn route(&self, operation: Operation) -> Result<&Arc<dyn Route>> {
        self.routes.get(&operation).ok_or_else(|| {
            Error::not_implemented(format_args!("the operation {}", operation.as_str()))
        })
    }

    /// The model that the reference names, if it can do what is needed.
    fn forecast(
        &self,
        work: &Work,
        capability: Option<Capability>,
        size: WorkSize,
    ) -> Result<Forecast> {
        let reference = model(work)?
            .parse()
            .map_err(|error: Error| error.with_param("model_id"))?;
        let needs = Needs {
            capability,
            min_context: None,
        };
        let choice = self
            .planner
            .choose(&reference, &needs)
            .map_err(|error| error.with_param("model_id"))?;
        Ok(Forecast {
            model: Some(choice.model),
            size,
        })
    }
}

#[async_trait]
impl Operations for LocalOperations {
    fn check(&self, work: &Work) -> Result<Forecast> {
        match work.operation {
            Operation::Chat => {
                self.forecast(work, Some(Capability::Chat), chat::parse(work)?.size())
            }
            Operation::Completion => {
                // A model without a chat template has no capability that says so, and completes all the same.
                self.forecast(work, None, completion::parse(work)?.size())
            }
            Operation::Embed => self.forecast(
                work,
                Some(Capability::Embeddings),
                embed::parse(work)?.size(),
            ),
            Operation::Rerank => {
                self.forecast(work, Some(Capability::Rerank), rerank::parse(work)?.size())
            }
            operation => {
                self.route(operation)?.check(&work.input)?;
                Ok(Forecast::default())
            }
        }
    }

    async fn run(&self, call: &Call, work: Work, progress: Progress) -> Result<Value> {
        match work.operation {
            Operation::Chat => {
                let chat = chat::parse(&work)?;
                chat.run(call, &self.inference, &progress).await
            }
            Operation::Completion => {
                let completion = completion::parse(&work)?;
                completion.run(call, &self.inference, &progress).await
            }
            Operation::Embed => embed::parse(&work)?.run(call, &*self.inference).await,
            Operation::Rerank => rerank::parse(&work)?.run(call, &*self.inference).await,
            operation => self.route(operation)?.run(call, work.input, progress).await,
        }
    }
}

fn model(work: &Work) -> Result<&str> {
    work.model_id.as_deref().ok_or_else(|| {
        Error::new(
            ErrorCode::MissingField,
            format!("{} needs a model_id", work.operation.as_str()),
        )
        .with_param("model_id")
    })
}

/// The model's name and the input's fields, without a `model` that only repeats the job's.
fn fields(work: &Work) -> Result<(&str, Map<String, Value>)> {
    let model = model(work)?;
    let Value::Object(mut fields) = work.input.clone() else {
        return Err(Error::invalid("input", "the input must be an object"));
    };
    if fields
        .remove("model")
        .is_some_and(|other| other.as_str() != Some(model))
    {
        return Err(Error::invalid(
            "input.model",
            "the input names another model than the job",
        ));
    }
    Ok((model, fields))
}

/// The model's name and the input as the operation's own type.
fn typed<T: DeserializeOwned>(work: &Work) -> Result<(String, T)> {
    let (model, fields) = fields(work)?;
    let input = json::parse_value(Value::Object(fields)).map_err(in_input)?;
    Ok((model.to_owned(), input))
}

/// The same error, its field named from the job's body on.
pub(crate) fn in_input(error: Error) -> Error {
    let param = match &error.param {
        Some(param) => format!("input.{param}"),
        None => "input".to_owned(),
    };
    error.with_param(param)
}

/// Tokens that a text of so many bytes roughly has.
fn rough_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes / 4)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}
