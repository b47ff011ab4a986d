use std::sync::Arc;

use fusion_orchestrator::rag::{QueryEvent, QueryRequest, Rag, RagConfig, SearchRequest};
use fusion_types::{ErrorCode, chat::Role};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{bench, call, models::Reply, store::MemoryIndex};

fn query(body: Value) -> QueryRequest {
    serde_json::from_value(body).unwrap()
}

fn search(body: Value) -> SearchRequest {
    serde_json::from_value(body).unwrap()
}

#[tokio::test]
async fn an_answer_comes_with_sources_and_citations_that_can_be_checked() {
    let bench = bench();
    let text = "Ünlike  others,\nthe Duke had 308 ships when he left. He won.";
    bench.ingest("ships.md", text).await;
    bench
        .ingest("cheese.txt", "Cheese is made from milk.")
        .await;
    bench
        .models
        .say("The duke had 308 ships when he left [1]. He also liked tea [2].");

    let answer = bench
        .rag
        .query(
            &call(),
            query(json!({"query": "How many ships?", "collection": "docs"})),
        )
        .await
        .unwrap();
    assert_eq!(answer.sources.len(), 2);
    assert_eq!(answer.sources[0].metadata["file"], "ships.md");
    assert!(answer.sources[0].scores.dense.is_some() && answer.sources[0].scores.fused.is_some());
    let [citation] = answer.citations.as_slice() else {
        panic!("the tea is supported by nothing: {:?}", answer.citations)
    };
    assert_eq!(
        (citation.source, citation.quote.as_str()),
        (1, "the Duke had 308 ships when he left")
    );
    let document = bench
        .rag
        .document(&call(), "docs", &citation.document_id)
        .await
        .unwrap();
    let place = citation.char_start as usize..citation.char_end as usize;
    assert_eq!(
        document.text.chars().collect::<Vec<_>>()[place]
            .iter()
            .collect::<String>(),
        citation.quote
    );
    assert_eq!(answer.metadata["model_id"], "chatter");

    let prompt = &bench.models.chats()[0];
    assert_eq!(
        (prompt.messages[0].role, prompt.sampling.temperature),
        (Role::System, Some(0.0))
    );
    let text = prompt.messages[1].content.text();
    assert!(text.contains("Source [1]:") && text.ends_with("How many ships?"));
}

#[tokio::test]
async fn a_model_is_not_asked_about_nothing() {
    let bench = bench();
    bench.ingest("a.txt", "text").await;
    let request = json!({"query": "zebra", "collection": "docs", "similarity_threshold": 0.9});
    let answer = bench.rag.query(&call(), query(request)).await.unwrap();
    assert_eq!(
        (answer.sources.len(), answer.dropped_below_threshold),
        (0, 1)
    );
    assert!(bench.models.chats().is_empty());
    assert_eq!(answer.metadata["model_id"], Value::Null);
}

#[tokio::test]
async fn the_threshold_counts_what_it_drops() {
    let bench = bench();
    bench.ingest("near.txt", "red green blue").await;
    bench
        .ingest(
            "far.txt",
            "red one two three four five six seven eight nine ten",
        )
        .await;
    let of = async |threshold: Value| {
        let body = json!({"query": "red green blue", "collection": "docs", "similarity_threshold": threshold});
        bench.rag.search(&call(), search(body)).await.unwrap()
    };
    assert_eq!(of(Value::Null).await.sources.len(), 2);
    let found = of(json!(0.7)).await;
    assert_eq!((found.sources.len(), found.dropped_below_threshold), (1, 1));
    assert_eq!(found.sources[0].metadata["file"], "near.txt");
}

#[tokio::test]
async fn several_collections_are_searched_with_one_embedding() {
    let bench = bench();
    bench.ingest("a.txt", "apples are red").await;
    let body = json!({"collection": "more", "documents": [{"text": "bananas are yellow"}]});
    bench
        .rag
        .ingest(&call(), serde_json::from_value(body).unwrap(), |_| {})
        .await
        .unwrap();
    let before = bench.models.embed_requests();
    let body = json!({"query": "bananas are yellow", "collections": ["docs", "more"], "top_k": 2});
    let found = bench.rag.search(&call(), search(body)).await.unwrap();
    assert_eq!(bench.models.embed_requests() - before, 1);
    assert_eq!(found.sources.len(), 2);
    assert_eq!(found.sources[0].text, "bananas are yellow");
}

#[tokio::test]
async fn keyword_mode_needs_no_embedding_model() {
    let bench = bench();
    bench.ingest("a.txt", "apples are red").await;
    bench.models.remove("embedder");
    let body = json!({"query": "apples", "collection": "docs", "mode": "keyword"});
    let found = bench.rag.search(&call(), search(body)).await.unwrap();
    assert_eq!(
        (
            found.sources[0].scores.keyword,
            found.sources[0].scores.dense
        ),
        (Some(1.0), None)
    );
}

#[tokio::test]
async fn reranking_orders_anew_and_keeps_top_n() {
    let bench = bench();
    for (file, text) in [
        ("a.txt", "red"),
        ("b.txt", "red and long"),
        ("c.txt", "red and much longer"),
    ] {
        bench.ingest(file, text).await;
    }
    let files = async |rerank: Value| -> Vec<Value> {
        let body = json!({"query": "red", "collection": "docs", "rerank": rerank});
        let found = bench.rag.search(&call(), search(body)).await.unwrap();
        found
            .sources
            .into_iter()
            .map(|mut source| source.metadata["file"].take())
            .collect()
    };
    assert_eq!(files(json!(false)).await[0], "a.txt");
    assert_eq!(files(json!(true)).await, ["c.txt", "b.txt", "a.txt"]);
    assert_eq!(
        files(json!({"model_id": "embedder", "top_n": 1})).await,
        ["c.txt"]
    );
}

#[tokio::test]
async fn what_is_deleted_is_never_found_even_by_an_index_that_missed_it() {
    let mut bench = bench();
    let forgetful = || Arc::new(MemoryIndex::forgetful());
    let (models, documents) = (bench.models.clone(), bench.documents.clone());
    bench.rag = Rag::new(
        models.clone(),
        models,
        documents,
        None,
        forgetful(),
        forgetful(),
        RagConfig::default(),
    );
    bench.ingest("a.txt", "the secret").await;
    bench.ingest("b.txt", "the rest").await;
    let look = async || {
        bench
            .rag
            .search(&call(), SearchRequest::new("secret", "docs"))
            .await
            .unwrap()
            .sources
    };
    let id = look().await[0].document_id.clone();
    bench
        .rag
        .delete_document(&call(), "docs", &id)
        .await
        .unwrap();
    let left: Vec<_> = look().await.into_iter().map(|source| source.text).collect();
    assert_eq!(left, ["the rest"]);

    bench.rag.delete_collection(&call(), "docs").await.unwrap();
    let error = bench
        .rag
        .search(&call(), SearchRequest::new("secret", "docs"))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::CollectionNotFound);
    bench.ingest("c.txt", "a fresh start").await;
    assert_eq!(look().await.len(), 1);
}

#[tokio::test]
async fn the_prompt_fits_a_small_model() {
    let bench = bench();
    let text = (0..3000).map(|at| format!("word{at} ")).collect::<String>();
    bench.ingest("long.txt", &text).await;
    bench
        .models
        .change("chatter", |card| card.context_length = Some(512));
    let body = json!({"query": "word7?", "collection": "docs", "top_k": 50, "generation_config": {"max_tokens": 400}});
    let answer = bench.rag.query(&call(), query(body)).await.unwrap();
    let prompt = &bench.models.chats()[0];
    let words: usize = prompt
        .messages
        .iter()
        .map(|message| message.content.text().split_whitespace().count())
        .sum();
    assert_eq!(prompt.max_tokens, Some(256), "half of the context at most");
    assert!(words + 256 <= 512, "{words} words");
    assert_eq!(answer.sources.len(), 50);
    assert!((1..5).contains(&answer.metadata["sources_shown"].as_u64().unwrap()));
}

#[tokio::test]
async fn a_streamed_answer_has_its_events_in_order() {
    let bench = bench();
    bench
        .ingest("a.txt", "Paris is the capital of France.")
        .await;
    bench.models.say("Paris is the capital of France.");
    let request = || query(json!({"query": "capital?", "collection": "docs", "stream": true}));
    let events: Vec<_> = bench
        .rag
        .query_stream(&call(), request())
        .await
        .unwrap()
        .collect()
        .await;
    let events: Vec<QueryEvent> = events.into_iter().map(Result::unwrap).collect();
    let mut names: Vec<_> = events.iter().map(QueryEvent::name).collect();
    names.dedup();
    assert_eq!(names, ["sources", "delta", "citations", "done"]);
    let [
        ..,
        QueryEvent::Citations { citations },
        QueryEvent::Done { metadata, .. },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(citations[0].quote, "Paris is the capital of France");
    assert_eq!(metadata["usage"]["completion_tokens"], 3);

    bench.models.reply(Reply::FailAfter("Paris ".to_owned()));
    let events: Vec<_> = bench
        .rag
        .query_stream(&call(), request())
        .await
        .unwrap()
        .collect()
        .await;
    let codes: Vec<_> = events
        .iter()
        .map(|event| {
            event
                .as_ref()
                .map_err(|error| error.code)
                .map(QueryEvent::name)
        })
        .collect();
    assert_eq!(
        codes,
        [Ok("sources"), Ok("delta"), Err(ErrorCode::EngineCrashed)],
        "an error is the last item"
    );
}

#[tokio::test]
async fn a_dropped_answer_stops_its_generation() {
    let bench = bench();
    bench.ingest("a.txt", "text").await;
    bench.models.reply(Reply::Hang);
    let mut stream = bench
        .rag
        .query_stream(
            &call(),
            query(json!({"query": "text", "collection": "docs"})),
        )
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().name(), "sources");
    assert_eq!(Arc::strong_count(&bench.models.generating), 2);
    drop(stream);
    assert_eq!(Arc::strong_count(&bench.models.generating), 1);
}

#[tokio::test]
async fn what_is_not_there_yet_says_so_and_what_is_wrong_names_its_field() {
    let bench = bench();
    bench.ingest("a.txt", "text").await;
    let cases = [
        (
            json!({"query": "q", "filter": {"field": "page", "gte": 3}}),
            ErrorCode::NotImplemented,
            "filter",
        ),
        (
            json!({"query": "q", "conversation_id": "c"}),
            ErrorCode::NotImplemented,
            "conversation_id",
        ),
        (
            json!({"query": "q", "expand": "section"}),
            ErrorCode::NotImplemented,
            "expand",
        ),
        (
            json!({"query": "q", "similarity_threshold": "auto"}),
            ErrorCode::NotImplemented,
            "similarity_threshold",
        ),
        (
            json!({"query": "q", "similarity_threshold": 7}),
            ErrorCode::InvalidValue,
            "similarity_threshold",
        ),
        (json!({"query": " "}), ErrorCode::InvalidValue, "query"),
        (
            json!({"query": "q", "top_k": 0}),
            ErrorCode::InvalidValue,
            "top_k",
        ),
        (
            json!({"query": "q", "collections": []}),
            ErrorCode::InvalidValue,
            "collections",
        ),
        (
            json!({"query": "q", "collection": "none"}),
            ErrorCode::CollectionNotFound,
            "collection",
        ),
    ];
    for (body, code, param) in cases {
        let error = bench.rag.query(&call(), query(body)).await.unwrap_err();
        assert_eq!(
            (error.code, error.param.as_deref()),
            (code, Some(param)),
            "{}",
            error.message
        );
    }
    assert!(serde_json::from_value::<QueryRequest>(json!({"query": "q", "topk": 3})).is_err());
}
