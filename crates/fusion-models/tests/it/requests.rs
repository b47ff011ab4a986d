//! What models are for.

use fusion_types::{
    chat::{ChatEvent, Usage},
    embedding::EmbedRequest,
    error::ErrorCode,
    inference::{Inference, ModelPlanner, Needs},
    model::{Capability, ModelStatus, ModelType},
    model_ref::ModelRef,
    rerank::RerankRequest,
};
use futures::{StreamExt, future::join_all};
use serde_json::json;

use crate::setting::{PATIENCE, Setting, call, chat, fake, slow_answer, text};

#[tokio::test]
async fn a_chat_loads_its_model_and_streams_its_answer() {
    let setting = Setting::new(&["m"]).await;
    setting.define("m", json!({ "tokens": 3 })).await;
    assert_eq!(setting.status("m"), ModelStatus::Unloaded);

    let generation = setting.chat("m").await.unwrap();
    assert_eq!((generation.model.as_str(), &generation.route), ("m", &None));
    let events: Vec<_> = generation.events.map(Result::unwrap).collect().await;
    assert_eq!(events.last(), Some(&ChatEvent::Usage(Usage::new(3, 3))));
    assert_eq!(
        text(setting.chat("m").await.unwrap()).await.unwrap(),
        "tok0 tok1 tok2"
    );

    let info = setting.until("m", |info| info.active_requests == 0).await;
    assert_eq!((info.request_count, info.error_count), (2, 0));
    assert_eq!(info.card.family.as_deref(), Some("fake"));
}

#[tokio::test]
async fn a_hundred_requests_to_a_cold_model_start_one_process() {
    let setting = Setting::new(&["m"]).await;
    setting
        .define("m", json!({ "tokens": 2, "load_ms": 200 }))
        .await;
    let before = setting.models.info("m").await.unwrap().request_count;
    let answers = join_all((0..100).map(async |_| {
        let generation = setting.chat("m").await?;
        text(generation).await
    }));
    let running = async { setting.until("m", |info| info.pid.is_some()).await.pid };
    let (answers, first) = tokio::join!(answers, running);
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_deref() == Ok("tok0 tok1"))
    );
    let info = setting.models.info("m").await.unwrap();
    assert_eq!(info.request_count - before, 100);
    // The process that served the last request is the one that was started for the first.
    assert_eq!(info.pid, first);
    assert_eq!(info.recent_crashes, 0);
}

#[tokio::test]
async fn texts_are_embedded_reranked_and_tokenized() {
    let setting = Setting::new(&["e"]).await;
    let request = fusion_models::LoadRequest {
        model_type: Some(ModelType::Embeddings),
        ..fake("e", json!({}))
    };
    let report = setting.models.load(request).await.unwrap();
    assert_eq!(report.card.dimension, Some(64));

    let embed = EmbedRequest {
        model: "e".to_owned(),
        input: vec!["a b".to_owned(), "c".to_owned()].into(),
        truncate: false,
    };
    let vectors = setting.models.embed(&call(), embed).await.unwrap().vectors;
    assert_eq!(
        (vectors.dimension, vectors.rows().len(), vectors.tokens),
        (64, 2, 3)
    );
    assert_eq!(&*vectors.fingerprint, "fake");
    let length: f32 = vectors
        .rows()
        .next()
        .unwrap()
        .iter()
        .map(|value| value * value)
        .sum();
    assert!((length - 1.0).abs() < 1e-5);

    let rerank = RerankRequest {
        model: "e".to_owned(),
        query: "red apple".to_owned(),
        documents: vec!["blue sky".to_owned(), "red apple pie".to_owned()],
        truncate: false,
    };
    let scores = setting.models.rerank(&call(), rerank).await.unwrap().scores;
    assert!(scores.results[1].relevance_score > scores.results[0].relevance_score);

    let spans = setting
        .models
        .tokenize(
            &call(),
            &ModelRef::Named("e".to_owned()),
            vec!["ab c".to_owned()],
        )
        .await;
    assert_eq!(spans.unwrap(), [vec![0..2, 3..4]]);

    let error = setting
        .models
        .chat(&call(), chat("e"))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedOperation);
}

#[tokio::test]
async fn an_unknown_model_is_told_with_the_nearest_names() {
    let setting = Setting::new(&["smol-chat", "other"]).await;
    let error = setting.chat("smol-chta").await.map(drop).unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelNotFound);
    assert!(error.message.contains("smol-chat"), "{}", error.message);
    assert!(!error.message.contains("other"), "{}", error.message);
}

#[tokio::test]
async fn a_model_is_found_by_alias_default_name_and_capability() {
    let setting = Setting::new(&["a", "b"]).await;
    let request = fusion_models::LoadRequest {
        aliases: vec!["nick".to_owned()],
        ..fake("a", json!({}))
    };
    setting.models.load(request).await.unwrap();
    for (name, reason) in [
        ("nick", "alias nick"),
        ("local-text-model", "first loaded of type lm"),
        ("auto", "auto: loaded, least busy of 1"),
        ("auto:chat", "auto: loaded, least busy of 1"),
    ] {
        let generation = setting.chat(name).await.unwrap();
        assert_eq!(
            (generation.model.as_str(), generation.route.as_deref()),
            ("a", Some(reason))
        );
    }
    let needs = Needs {
        capability: Some(Capability::Vision),
        min_context: None,
    };
    let error = setting
        .models
        .choose(&ModelRef::Auto(None), &needs)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelNotFound);
}

#[tokio::test]
async fn a_file_that_came_later_is_found_when_it_is_asked_for() {
    let setting = Setting::new(&[]).await;
    setting.folder.add("late");
    setting.models.rescan().await.unwrap();
    setting.load("late", json!({ "tokens": 1 })).await;
    assert_eq!(
        text(setting.chat("late").await.unwrap()).await.unwrap(),
        "tok0"
    );
}

#[tokio::test]
async fn a_passed_deadline_ends_a_stream() {
    let setting = Setting::new(&["m"]).await;
    setting
        .load("m", json!({ "tokens": 1000, "delay_ms": 20 }))
        .await;
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(300);
    let generation = setting
        .models
        .chat(&call().with_deadline(soon), chat("m"))
        .await
        .unwrap();
    let error = tokio::time::timeout(PATIENCE, text(generation))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
}

#[tokio::test]
async fn a_model_s_speed_is_told_of_whole_answers_only() {
    let setting = Setting::new(&["m"]).await;
    setting.load("m", slow_answer(6, 20)).await;
    for _ in 0..3 {
        text(setting.chat("m").await.unwrap()).await.unwrap();
    }
    let mut left = setting.chat("m").await.unwrap();
    left.events.next().await.unwrap().unwrap();
    drop(left);
    let info = setting
        .until("m", |info| {
            info.active_requests == 0 && info.stats.window == 3
        })
        .await;
    assert_eq!((info.request_count, info.error_count), (4, 0));
    let stats = info.stats;
    assert_eq!((stats.tokens_in, stats.tokens_out), (9, 18));
    let (latency, first) = (stats.latency_ms.unwrap(), stats.first_token_ms.unwrap());
    assert!(
        latency.p50 >= 100.0 && latency.p50 <= latency.p99,
        "{latency:?}"
    );
    assert!(
        first.p50 > 0.0 && first.p50 <= latency.p50 - 80.0,
        "{first:?} of {latency:?}"
    );
    let pace = stats.tokens_per_second.unwrap();
    assert!(pace.p99 <= 55.0 && pace.avg > 1.0, "{pace:?}");
}
