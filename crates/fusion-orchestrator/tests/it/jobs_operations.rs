//! What is refused when a job is handed in, and what the operations answer.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use fusion_orchestrator::jobs::{LocalOperations, Progress, Route};
use fusion_types::{
    Call, Class, Error, ErrorCode, Result,
    chat::{ChatEvent, ChatRequest, Delta, FinishReason, Usage},
    embedding::{EmbedRequest, Vectors},
    inference::{Embedded, Generation, Inference, Reranked},
    job::{JobStatus, Operation},
    model::ModelId,
    model_ref::ModelRef,
    rerank::{RerankRequest, Score, Scores},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::jobs_setup::{Planner, Setup, call};

/// Answers as models would.
struct Models;

#[async_trait]
impl Inference for Models {
    async fn chat(&self, call: &Call, request: ChatRequest) -> Result<Generation> {
        assert_eq!(call.class, Class::Job);
        let finish = request.messages[0].content != "break off";
        let events = [
            Some(ChatEvent::Delta(Delta::text("Pa"))),
            Some(ChatEvent::Delta(Delta::text("ris"))),
            finish.then_some(ChatEvent::Finish(FinishReason::Stop)),
            Some(ChatEvent::Usage(Usage::new(10, 2))),
        ];
        let events = stream::iter(events.into_iter().flatten().map(Ok)).boxed();
        Ok(Generation {
            model: ModelId::new(&request.model),
            route: None,
            events,
        })
    }

    async fn embed(&self, _call: &Call, request: EmbedRequest) -> Result<Embedded> {
        let data = (0..request.input.len())
            .flat_map(|row| [row as f32, 0.1])
            .collect();
        let vectors = Vectors {
            dimension: 2,
            data,
            fingerprint: "f".into(),
            tokens: 5,
        };
        Ok(Embedded {
            model: ModelId::new(&request.model),
            vectors,
        })
    }

    async fn rerank(&self, _call: &Call, request: RerankRequest) -> Result<Reranked> {
        let score = |(index, text): (usize, &String)| Score {
            index,
            relevance_score: text.len() as f32,
        };
        let results = request.documents.iter().enumerate().map(score).collect();
        Ok(Reranked {
            model: ModelId::new(&request.model),
            scores: Scores { results, tokens: 9 },
        })
    }

    async fn tokenize(
        &self,
        _call: &Call,
        _model: &ModelRef,
        _texts: Vec<String>,
    ) -> Result<Vec<Vec<Range<u32>>>> {
        Err(Error::not_implemented("tokenize"))
    }
}

/// A workflow that gives back its input.
struct Echo;

#[async_trait]
impl Route for Echo {
    fn check(&self, input: &Value) -> Result<()> {
        match input.get("workflow") {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorCode::WorkflowNotFound, "which?")),
        }
    }

    async fn run(&self, _call: &Call, input: Value, _progress: Progress) -> Result<Value> {
        Ok(input)
    }
}

fn setup() -> Setup {
    let operations = LocalOperations::new(Arc::new(Models), Arc::new(Planner))
        .with_route(Operation::Workflow, Arc::new(Echo));
    Setup::new(Arc::new(operations))
}

#[tokio::test(start_paused = true)]
async fn each_operation_answers_in_its_shape() {
    let setup = setup().start();
    let cases = [
        (
            json!({"input": {"messages": [{"role": "user", "content": "Capital of France?"}]}}),
            json!({
                "model": "talker",
                "content": "Paris",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
            }),
        ),
        (
            json!({"operation": "embed", "model_id": "embedder", "input": {"input": ["a", "b"]}}),
            json!({
                "model": "embedder",
                "embeddings": [[0.0, 0.1], [1.0, 0.1]],
                "usage": {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5},
            }),
        ),
        (
            json!({
                "operation": "rerank",
                "model_id": "judge",
                "input": {"query": "q", "documents": ["a", {"text": "ccc"}, "bb"], "top_n": 2},
            }),
            json!({
                "results": [{"index": 1, "relevance_score": 3.0}, {"index": 2, "relevance_score": 2.0}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9},
            }),
        ),
        (
            json!({"operation": "workflow", "model_id": null, "input": {"workflow": "echo"}}),
            json!({"workflow": "echo"}),
        ),
    ];
    for (body, result) in cases {
        let id = setup.submit(body).await;
        assert_eq!(
            setup.store.reached(&id, JobStatus::Completed).await.result,
            Some(result)
        );
    }
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_not_a_result() {
    let setup = setup().start();
    let input = json!({"messages": [{"role": "user", "content": "break off"}]});
    let id = setup
        .submit(json!({"input": input, "max_attempts": 1}))
        .await;
    let job = setup.store.reached(&id, JobStatus::Failed).await;
    assert_eq!(job.error_detail.unwrap().code, ErrorCode::EngineCrashed);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bad_jobs_are_refused_when_they_are_handed_in() {
    let setup = setup();
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let cases = [
        (
            json!({"operation": "chat", "input": chat}),
            ErrorCode::MissingField,
            "model_id",
        ),
        (
            json!({"operation": "chat", "model_id": "nobody", "input": chat}),
            ErrorCode::ModelNotFound,
            "model_id",
        ),
        (
            json!({"operation": "chat", "model_id": "embedder", "input": chat}),
            ErrorCode::UnsupportedOperation,
            "model_id",
        ),
        (
            json!({"operation": "chat", "model_id": "talker", "input": {}}),
            ErrorCode::MissingField,
            "input.messages",
        ),
        (
            json!({"operation": "embed", "model_id": "embedder", "input": {"input": []}}),
            ErrorCode::InvalidValue,
            "input.input",
        ),
        (
            json!({"operation": "embed", "model_id": "embedder", "input": {"input": "a", "x": 1}}),
            ErrorCode::UnknownField,
            "input.x",
        ),
        (
            json!({"operation": "chat", "model_id": "talker", "input": chat, "callback_url": "http://127.0.0.1/"}),
            ErrorCode::UrlNotAllowed,
            "callback_url",
        ),
        (
            json!({"operation": "workflow", "input": {}}),
            ErrorCode::WorkflowNotFound,
            "",
        ),
        (
            json!({"operation": "transcribe", "input": {}}),
            ErrorCode::NotImplemented,
            "",
        ),
        (
            json!({"operation": "completion", "model_id": "talker", "input": {}}),
            ErrorCode::MissingField,
            "input.prompt",
        ),
        (
            json!({"operation": "rag_query", "input": {"query": "?"}}),
            ErrorCode::NotImplemented,
            "",
        ),
    ];
    for (body, code, param) in cases {
        let request = serde_json::from_value(body.clone()).unwrap();
        let error = setup.jobs.submit(&call(), request, None).await.unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref().unwrap_or_default()),
            (code, param),
            "{body}"
        );
    }
    let listed = setup
        .jobs
        .list(&call(), fusion_orchestrator::jobs::ListParams::default())
        .await
        .unwrap();
    assert_eq!(listed.total, 0);
}
