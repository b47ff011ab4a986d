//! This dialect in the lines of a batch: the same bodies, and the same answers made of what a job kept.

use fusion_orchestrator::{
    batch::{Asked, Dialect, Endpoint},
    jobs::Generated,
};
use fusion_types::{Error, ErrorCode, Result, chat::Usage, job::Job, json};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json as object};

use super::{about::About, chat, completions, embeddings};

pub(crate) struct OpenAi;

impl Dialect for OpenAi {
    fn read(&self, endpoint: Endpoint, body: Value) -> Result<Asked> {
        match endpoint {
            Endpoint::Chat | Endpoint::Completion => Ok(Asked {
                model: model_of(&body)?,
                input: body,
                answer: Map::new(),
            }),
            Endpoint::Embeddings => embeddings_read(body),
        }
    }

    fn answer(&self, endpoint: Endpoint, job: &Job) -> Result<Value> {
        match endpoint {
            Endpoint::Chat => {
                let generated: Generated = read(job.result.as_ref())?;
                let about = About::of_job("chatcmpl", job, generated.model.to_string());
                let usage = generated.usage.clone();
                written(chat::whole(&about, generated.into_answers(), usage))
            }
            Endpoint::Completion => {
                let generated: Generated = read(job.result.as_ref())?;
                let about = About::of_job("cmpl", job, generated.model.to_string());
                let usage = generated.usage.clone();
                written(completions::whole(&about, generated.into_answers(), usage)?)
            }
            Endpoint::Embeddings => embeddings_answer(job),
        }
    }
}

fn model_of(body: &Value) -> Result<String> {
    match body.get("model") {
        Some(Value::String(model)) => Ok(model.clone()),
        Some(_) => Err(Error::invalid("model", "model: expected a string")),
        None => {
            let error = Error::new(ErrorCode::MissingField, "model: missing field `model`");
            Err(error.with_param("model"))
        }
    }
}

/// The vectors are the job's work; how they are written is kept beside it.
fn embeddings_read(body: Value) -> Result<Asked> {
    let body: embeddings::Body = json::parse_value(body)?;
    embeddings::check(&body.input)?;
    let form = written(body.form())?;
    Ok(Asked {
        answer: Map::from_iter([(FORM.to_owned(), form)]),
        input: object!({ "input": body.input, "truncate": body.truncate }),
        model: body.model,
    })
}

const FORM: &str = "form";

/// A job's result, as the operation embed writes it.
#[derive(Deserialize)]
struct Embedded {
    model: String,
    embeddings: Vec<Vec<f32>>,
    usage: Usage,
}

fn embeddings_answer(job: &Job) -> Result<Value> {
    let Embedded {
        model,
        embeddings,
        usage,
    } = read(job.result.as_ref())?;
    let form = read(job.metadata.get(FORM))?;
    let vectors = embeddings.iter().map(Vec::as_slice);
    embeddings::whole(&model, vectors, usage.prompt_tokens, &form)
}

fn read<T: DeserializeOwned>(value: Option<&Value>) -> Result<T> {
    T::deserialize(value.unwrap_or(&Value::Null))
        .map_err(|error| Error::internal(format!("a job's result can't be read: {error}")))
}

fn written(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::internal(error.to_string()))
}
