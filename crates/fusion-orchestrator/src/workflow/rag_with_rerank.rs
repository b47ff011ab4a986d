//! The built-in `rag_with_rerank`: retrieve, look closer, answer.

use fusion_types::{
    Call, Error, Result, json,
    model::{Capability, ModelId, ModelType},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json as object};

use super::{
    definition::{Definition, Role},
    request::{OrchestrateRequest, RunError},
    roles::Cast,
    run::{Made, Run},
};
use crate::rag::{
    Citation, DEFAULT_COLLECTION, GenerationConfig, GivenSearch, Rag, Retrieved, SearchRequest,
    Source,
};

pub(super) const DEFINITION: Definition = Definition {
    id: "rag_with_rerank",
    name: "RAG with reranking",
    description: "Retrieves passages, reranks them, and answers from the best with citations",
    version: 1,
    roles: &[
        Role {
            name: RETRIEVAL,
            capability: Capability::Embeddings,
            model_type: ModelType::Embeddings,
            required: true,
        },
        Role {
            name: RERANK,
            capability: Capability::Rerank,
            model_type: ModelType::Rerank,
            required: false,
        },
        Role {
            name: GENERATION,
            capability: Capability::Chat,
            model_type: ModelType::Lm,
            required: true,
        },
    ],
    input_schema,
};

const RETRIEVAL: &str = "retrieval";
const RERANK: &str = "rerank";
const GENERATION: &str = "generation";
const MOST_DOCUMENTS: usize = 256;
const MOST_DOCUMENT_BYTES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    query: String,
    #[serde(default)]
    collection: Option<String>,
    /// Texts, or ids of documents in the collection.
    #[serde(default)]
    documents: Option<Vec<String>>,
    #[serde(default = "crate::rag::default_top_k")]
    top_k: u32,
}

#[derive(Debug, Serialize)]
struct Output {
    answer: String,
    sources: Vec<Source>,
    citations: Vec<Citation>,
    latency_ms: u64,
}

/// A request that was read and found good.
#[derive(Debug)]
pub(super) struct Task {
    input: Input,
    generation: GenerationConfig,
}

impl Task {
    /// # Errors
    /// `invalid_value`, `missing_field` or `unknown_field`, with the field.
    pub(super) fn read(request: &OrchestrateRequest) -> Result<Self> {
        let input: Input = read("input", &request.input)?;
        let generation = read("config", &request.config)?;
        if let Some(documents) = &input.documents {
            let bytes: usize = documents.iter().map(String::len).sum();
            let blank = documents.iter().all(|document| document.trim().is_empty());
            if blank || documents.len() > MOST_DOCUMENTS || bytes > MOST_DOCUMENT_BYTES {
                return Err(Error::invalid(
                    "input.documents",
                    format!(
                        "must be 1 to {MOST_DOCUMENTS} texts or ids, {MOST_DOCUMENT_BYTES} bytes in all"
                    ),
                ));
            }
        }
        let task = Self { input, generation };
        task.search(None)
            .check()
            .map_err(|error| within("input", error))?;
        Ok(task)
    }

    fn collection(&self) -> &str {
        self.input
            .collection
            .as_deref()
            .unwrap_or(DEFAULT_COLLECTION)
    }

    fn search(&self, model: Option<&ModelId>) -> SearchRequest {
        let mut search = SearchRequest::new(self.input.query.as_str(), self.collection());
        search.top_k = self.input.top_k;
        search.embedding_model = model.map(ToString::to_string);
        search
    }

    /// # Errors
    /// Of the step that the run can't do without.
    pub(super) async fn run(
        &self,
        run: &mut Run<'_>,
        rag: &Rag,
        cast: &Cast,
    ) -> Result<Value, RunError> {
        let (call, query) = (run.call, self.input.query.as_str());
        let started = std::time::Instant::now();

        let given = cast.given(RETRIEVAL);
        let retrieved = run
            .require(RETRIEVAL, given, async {
                let found = self.retrieve(call, rag, given).await?;
                Ok(Made {
                    tokens: Some(found.tokens),
                    model: found.model,
                    value: found.sources,
                })
            })
            .await?;

        let mut sources = match cast.player(RERANK) {
            Err(error) => {
                run.skip(RERANK, error);
                retrieved
            }
            Ok(model) => {
                let candidates = retrieved.clone();
                let reordered = run
                    .attempt(RERANK, Some(model), async {
                        let reordered = rag
                            .rerank(call, query, candidates, Some(model.as_str()))
                            .await?;
                        let model = Some(reordered.model);
                        Ok(Made {
                            value: reordered.sources,
                            model,
                            tokens: Some(reordered.tokens),
                        })
                    })
                    .await;
                reordered.unwrap_or(retrieved)
            }
        };
        sources.truncate(self.input.top_k as usize);

        let model = cast.player(GENERATION).ok();
        let answer = run
            .require(GENERATION, model, async {
                let model = model.map(ModelId::as_str);
                let answer = rag
                    .answer(call, query, &sources, model, &self.generation)
                    .await?;
                let tokens = answer.usage.as_ref().map(|usage| usage.total_tokens);
                Ok(Made {
                    model: answer.model.clone(),
                    tokens,
                    value: answer,
                })
            })
            .await?;

        let latency_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let output = Output {
            answer: answer.text,
            sources,
            citations: answer.citations,
            latency_ms,
        };
        Ok(object!(output))
    }

    async fn retrieve(&self, call: &Call, rag: &Rag, model: Option<&ModelId>) -> Result<Retrieved> {
        let keep = SearchRequest::candidates(self.input.top_k);
        match &self.input.documents {
            None => rag.retrieve(call, &self.search(model), keep).await,
            Some(documents) => {
                let search = GivenSearch {
                    query: &self.input.query,
                    documents,
                    collection: self.collection(),
                    embedding_model: model.map(ModelId::as_str),
                };
                rag.retrieve_given(call, &search, keep).await
            }
        }
    }
}

fn read<T: DeserializeOwned>(place: &str, fields: &Map<String, Value>) -> Result<T> {
    json::parse_value(Value::Object(fields.clone())).map_err(|error| within(place, error))
}

/// The error, with its field named from the top of the request.
fn within(place: &str, error: Error) -> Error {
    let param = match &error.param {
        Some(param) => format!("{place}.{param}"),
        None => place.to_owned(),
    };
    error.with_param(param)
}

fn input_schema() -> Value {
    object!({
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1},
            "collection": {"type": "string", "default": DEFAULT_COLLECTION},
            "documents": {
                "type": "array",
                "items": {"type": "string"},
                "description": "texts to answer from, or ids of documents in the collection; without it the whole collection",
            },
            "top_k": {"type": "integer", "minimum": 1, "maximum": 100, "default": 5},
        },
        "required": ["query"],
        "additionalProperties": false,
    })
}
