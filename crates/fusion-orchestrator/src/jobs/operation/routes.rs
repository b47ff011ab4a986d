//! Operations that other parts of this crate do: their routes' bodies in, their routes' answers out.

use async_trait::async_trait;
use fusion_types::{Call, Error, Result, json};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Progress, Route, in_input};
use crate::{
    rag::{IngestRequest, QueryRequest, Rag},
    workflow::{OrchestrateRequest, Workflows},
};

#[async_trait]
impl Route for Workflows {
    fn check(&self, input: &Value) -> Result<()> {
        let request: OrchestrateRequest = read(input)?;
        Workflows::check(self, &request).map_err(in_input)
    }

    async fn run(&self, call: &Call, input: Value, _progress: Progress) -> Result<Value> {
        written(&self.orchestrate(call, read(&input)?).await?)
    }
}

pub(super) struct RagQuery(pub(super) Rag);

#[async_trait]
impl Route for RagQuery {
    fn check(&self, input: &Value) -> Result<()> {
        read::<QueryRequest>(input)?.check().map_err(in_input)
    }

    async fn run(&self, call: &Call, input: Value, _progress: Progress) -> Result<Value> {
        written(&self.0.query(call, read(&input)?).await?)
    }
}

pub(super) struct RagIngest(pub(super) Rag);

#[async_trait]
impl Route for RagIngest {
    fn check(&self, input: &Value) -> Result<()> {
        read::<IngestRequest>(input)?.check().map_err(in_input)
    }

    async fn run(&self, call: &Call, input: Value, progress: Progress) -> Result<Value> {
        let told = move |part| progress.set(part);
        written(&self.0.ingest(call, read(&input)?, told).await?)
    }
}

fn read<T: DeserializeOwned>(input: &Value) -> Result<T> {
    json::parse_value(input.clone()).map_err(in_input)
}

fn written<T: Serialize>(answer: &T) -> Result<Value> {
    serde_json::to_value(answer).map_err(|error| Error::internal(error.to_string()))
}
