use std::sync::Arc;

use fusion_orchestrator::workflow::{
    OrchestrateRequest, RunResult, RunStatus, StepStatus, Workflows,
};
use fusion_types::{ErrorCode, model::Capability};
use serde_json::{Value, json};

use crate::support::{Bench, bench, call, models::Reply};

fn request(body: Value) -> OrchestrateRequest {
    serde_json::from_value(body).unwrap()
}

fn workflows(bench: &Bench) -> Workflows {
    Workflows::new(bench.models.clone(), bench.rag.clone())
}

async fn run(bench: &Bench, body: Value) -> RunResult {
    workflows(bench)
        .orchestrate(&call(), request(body))
        .await
        .unwrap()
}

fn over_texts() -> Value {
    json!({
        "workflow": "rag_with_rerank",
        "input": {
            "query": "Where do lions live?",
            "documents": ["Lions live here.", "Cheese is made from milk.", "Lions live in the savanna, in prides of many."],
            "top_k": 2,
        },
    })
}

fn steps(run: &RunResult) -> Vec<(&str, StepStatus, Option<&str>)> {
    run.execution_trace
        .iter()
        .map(|entry| (entry.step.as_str(), entry.status, entry.model.as_deref()))
        .collect()
}

#[tokio::test]
async fn retrieves_reranks_and_answers_over_texts_without_storing_them() {
    let bench = bench();
    bench.models.say("Lions live in the savanna.");
    let run = run(&bench, over_texts()).await;
    assert_eq!((run.status, &run.error), (RunStatus::Completed, &None));
    let completed = StepStatus::Completed;
    assert_eq!(
        steps(&run),
        [
            ("retrieval", completed, Some("embedder")),
            ("rerank", completed, Some("embedder")),
            ("generation", completed, Some("chatter")),
        ]
    );
    assert_eq!(run.execution_trace[2].tokens, Some(10));
    assert!(
        run.execution_trace
            .windows(2)
            .all(|two| two[0].started_at <= two[1].started_at)
    );
    assert_eq!(run.result["answer"], "Lions live in the savanna.");
    assert_eq!(run.result["sources"].as_array().unwrap().len(), 2);
    assert_eq!(
        run.result["sources"][0]["document_id"], "input-3",
        "the reranker's order"
    );
    assert_eq!(
        run.result["citations"][0]["quote"],
        "Lions live in the savanna"
    );
    assert_eq!(bench.dense.size(), 0);
}

#[tokio::test]
async fn answers_from_a_collection_or_some_of_its_documents() {
    let bench = bench();
    let body = json!({"collection": "docs", "documents": [
        {"id": "doc-1", "text": "Lions live in the savanna."}, {"id": "doc-2", "text": "Lions live in zoos, too, it is said."}]});
    bench
        .rag
        .ingest(&call(), serde_json::from_value(body).unwrap(), |_| {})
        .await
        .unwrap();
    let of = async |input: Value| {
        run(
            &bench,
            json!({"workflow": "rag_with_rerank@1", "input": input}),
        )
        .await
    };

    let run = of(json!({"query": "lions", "collection": "docs", "top_k": 1})).await;
    assert_eq!(
        run.result["sources"][0]["document_id"], "doc-2",
        "the longer one, by the reranker"
    );
    bench.models.take_embedded();
    let run = of(json!({"query": "lions", "collection": "docs", "documents": ["doc-1"]})).await;
    assert_eq!(run.result["sources"][0]["document_id"], "doc-1");
    assert_eq!(
        bench.models.take_embedded(),
        ["lions"],
        "stored vectors are used"
    );
    let run = of(json!({"query": "lions", "collection": "docs", "documents": ["doc-3"]})).await;
    let error = run.error.unwrap();
    assert_eq!(
        (run.status, error.code, error.step.as_str()),
        (RunStatus::Failed, ErrorCode::DocumentNotFound, "retrieval")
    );
}

#[tokio::test]
async fn a_failed_rerank_leaves_a_partial_answer_in_the_order_of_retrieval() {
    let bench = bench();
    bench.models.fail_rerank();
    bench.models.say("Lions live here.");
    let run = run(&bench, over_texts()).await;
    assert_eq!(run.status, RunStatus::Partial);
    assert_eq!(
        run.execution_trace[1].error.as_ref().unwrap().code,
        ErrorCode::EngineCrashed
    );
    assert_eq!(run.result["sources"][0]["document_id"], "input-1");
    assert_eq!(run.result["answer"], "Lions live here.");
}

#[tokio::test]
async fn without_a_reranker_the_step_is_skipped_and_the_run_partial() {
    let bench = bench();
    bench.models.change("embedder", |card| {
        card.capabilities = vec![Capability::Embeddings]
    });
    let run = run(&bench, over_texts()).await;
    assert_eq!(run.status, RunStatus::Partial);
    assert_eq!(steps(&run)[1], ("rerank", StepStatus::Skipped, None));
}

#[tokio::test]
async fn a_failed_generation_fails_the_run_and_says_where() {
    let bench = bench();
    bench.models.reply(Reply::FailAfter("Lions".to_owned()));
    let run = run(&bench, over_texts()).await;
    let error = run.error.unwrap();
    assert_eq!(
        (run.status, error.code, error.step.as_str()),
        (RunStatus::Failed, ErrorCode::EngineCrashed, "generation")
    );
    assert_eq!(run.result, Value::Null);
    assert_eq!(run.execution_trace.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_time_allowed_holds_whatever_a_model_does() {
    let bench = bench();
    bench.models.reply(Reply::Hang);
    let mut body = over_texts();
    body["timeout_ms"] = json!(5000);
    let run = run(&bench, body).await;
    assert_eq!(run.error.unwrap().code, ErrorCode::Timeout);
    assert_eq!(
        Arc::strong_count(&bench.models.generating),
        1,
        "the generation was stopped"
    );
}

#[tokio::test]
async fn a_dropped_run_stops_its_generation() {
    let bench = bench();
    bench.models.reply(Reply::Hang);
    let workflows = workflows(&bench);
    let call = call();
    let mut run = Box::pin(workflows.orchestrate(&call, request(over_texts())));
    let started = async {
        while Arc::strong_count(&bench.models.generating) == 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut run => panic!("it hangs"),
        () = started => {}
    }
    drop(run);
    assert_eq!(Arc::strong_count(&bench.models.generating), 1);
}

#[tokio::test]
async fn models_play_the_roles_they_are_given() {
    let bench = bench();
    let mut body = over_texts();
    body["models"] = json!({"retrieval": "other-embedder", "generation": "auto:chat"});
    assert_eq!(
        steps(&run(&bench, body.clone()).await)[0].2,
        Some("other-embedder")
    );

    let mut refused = async |models: Value| {
        body["models"] = models;
        let error = workflows(&bench)
            .orchestrate(&call(), request(body.clone()))
            .await
            .unwrap_err();
        (error.code, error.param.unwrap_or_default())
    };
    assert_eq!(
        refused(json!({"judge": "chatter"})).await,
        (ErrorCode::InvalidValue, "models.judge".to_owned())
    );
    assert_eq!(
        refused(json!({"generation": "nobody"})).await,
        (ErrorCode::ModelNotFound, "models.generation".to_owned())
    );
    let expected = (
        ErrorCode::UnsupportedOperation,
        "models.generation".to_owned(),
    );
    assert_eq!(refused(json!({"generation": "embedder"})).await, expected);
    bench.models.remove("chatter");
    assert_eq!(
        refused(json!({})).await,
        (ErrorCode::EngineUnavailable, "models.generation".to_owned())
    );
}

#[tokio::test]
async fn what_cannot_start_is_refused_with_its_reason() {
    let workflows = workflows(&bench());
    let input = json!({"query": "q"});
    let cases = [
        (
            json!({"workflow": "nonsense", "input": input}),
            ErrorCode::WorkflowNotFound,
            "workflow",
        ),
        (
            json!({"workflow": "rag_with_rerank@2", "input": input}),
            ErrorCode::WorkflowNotFound,
            "workflow",
        ),
        (
            json!({"workflow": "best_of_n", "input": input}),
            ErrorCode::NotImplemented,
            "workflow",
        ),
        (
            json!({"workflow": "custom", "steps": []}),
            ErrorCode::NotImplemented,
            "workflow",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": input, "stream": true}),
            ErrorCode::NotImplemented,
            "stream",
        ),
        (
            json!({"workflow": "rag_with_rerank"}),
            ErrorCode::MissingField,
            "input.query",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": {"query": ""}}),
            ErrorCode::InvalidValue,
            "input.query",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": {"query": "q", "k": 1}}),
            ErrorCode::UnknownField,
            "input.k",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": {"query": "q", "documents": []}}),
            ErrorCode::InvalidValue,
            "input.documents",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": input, "config": {"heat": 1}}),
            ErrorCode::UnknownField,
            "config.heat",
        ),
        (
            json!({"workflow": "rag_with_rerank", "input": input, "timeout_ms": 0}),
            ErrorCode::InvalidValue,
            "timeout_ms",
        ),
    ];
    for (body, code, param) in cases {
        let request = request(body);
        let error = workflows.check(&request).unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref()),
            (code, Some(param)),
            "{}",
            error.message
        );
        assert_eq!(
            workflows.orchestrate(&call(), request).await.unwrap_err(),
            error
        );
    }
}

#[tokio::test]
async fn lists_what_runs_and_what_models_can_do() {
    let workflows = workflows(&bench());
    let rows = serde_json::to_value(workflows.list()).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!(rows[0]["id"], "rag_with_rerank");
    assert_eq!(
        (&rows[0]["required_models"], &rows[0]["optional_models"]),
        (&json!(["embeddings", "lm"]), &json!(["rerank"]))
    );
    assert_eq!(
        workflows.get("rag_with_rerank").unwrap(),
        workflows.list()[0]
    );

    let all = serde_json::to_value(workflows.capabilities(None)).unwrap();
    assert_eq!(
        all["capabilities"].as_object().unwrap().len(),
        Capability::ALL.len()
    );
    assert_eq!(
        all["capabilities"]["embeddings"],
        json!(["embedder", "other-embedder"])
    );
    assert_eq!(
        (
            &all["models"][0]["vram_usage_gb"],
            &all["models"][0]["vram_usage_bytes"]
        ),
        (&json!(0.09), &json!(90_000_000))
    );
    let chat = serde_json::to_value(workflows.capabilities(Some(Capability::Chat))).unwrap();
    assert_eq!(chat["capabilities"], json!({"chat": ["chatter"]}));
    assert_eq!(chat["models"].as_array().unwrap().len(), 1);
}
