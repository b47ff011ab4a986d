//! More requests than slots.

use std::{cell::Cell, time::Duration};

use fusion_types::{Result, error::ErrorCode};
use futures::{StreamExt, future::join_all};
use serde_json::json;

use crate::setting::{MEGABYTE, PATIENCE, Setting, call, chat, slow_answer, text};

use fusion_types::inference::Inference;

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nobody() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        max_queue: 3,
        ..config
    })
    .await;
    setting.load("m", slow_answer(5, 20)).await;
    let answers = join_all((0..20).map(async |_| text(setting.chat("m").await?).await)).await;
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    // Two slots and three places.
    assert_eq!((answers.len() - refused.len(), refused.len()), (5, 15));
    for error in refused {
        assert_eq!(error.code, ErrorCode::QueueFull);
        assert_eq!(error.details["position"], 3);
        assert!(error.details["eta_ms"].as_u64().unwrap() > 0);
        assert!(error.retry_after.unwrap() >= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn waiting_too_long_is_refused() {
    let short = Duration::from_millis(200);
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        queue_timeout: short,
        slots: 1,
        ..config
    })
    .await;
    setting.load("m", slow_answer(1000, 10)).await;
    let _first = setting.chat("m").await.unwrap();
    assert_eq!(
        setting.chat("m").await.map(drop).unwrap_err().code,
        ErrorCode::QueueFull
    );

    let deadline = std::time::Instant::now() + Duration::from_millis(50);
    let late = setting
        .models
        .chat(&call().with_deadline(deadline), chat("m"))
        .await;
    assert_eq!(late.map(drop).unwrap_err().code, ErrorCode::Timeout);
}

#[tokio::test]
async fn dropping_a_stream_frees_its_slot() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        slots: 1,
        ..config
    })
    .await;
    setting.load("m", slow_answer(100_000, 10)).await;
    for _ in 0..5 {
        let mut generation = setting.chat("m").await.unwrap();
        generation.events.next().await.unwrap().unwrap();
    }
    setting.until("m", |info| info.active_requests == 0).await;
    assert_eq!(setting.models.queue_stats().running, 0);
}

#[tokio::test]
async fn dropping_a_waiting_request_frees_its_place() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        slots: 1,
        ..config
    })
    .await;
    setting.load("m", slow_answer(100_000, 10)).await;
    let running = setting.chat("m").await.unwrap();
    let waiting = setting.chat("m");
    let placed = setting.until("m", |info| info.queued_requests == 1);
    tokio::select! {
        _ = waiting => panic!("got a slot that isn't free"),
        _ = placed => {}
    }
    setting.until("m", |info| info.queued_requests == 0).await;
    drop(running);
    setting.until("m", |info| info.active_requests == 0).await;
    let stats = setting.models.queue_stats();
    assert_eq!((stats.running, stats.queued, stats.slots), (0, 0, 1));
    assert_eq!(
        setting
            .load("m", json!({ "tokens": 100_000, "delay_ms": 10 }))
            .await
            .load_time,
        Duration::ZERO
    );
}

#[tokio::test]
async fn a_model_that_is_never_idle_yields_to_another_and_comes_back() {
    let setting = Setting::with(&["busy", "other"], |config| fusion_models::Config {
        budget_bytes: 150 * MEGABYTE,
        least_turn: Duration::from_millis(100),
        switch_after: Duration::from_millis(300),
        ..config
    })
    .await;
    let big = json!({ "estimate_mb": 90, "resident_mb": 90, "tokens": 10, "delay_ms": 5 });
    setting.define("other", big.clone()).await;
    setting.load("busy", big).await;
    let before = setting.pid("busy").await;
    let done = Cell::new(false);
    // Four clients on two slots: without yielding the other model would wait for ever.
    let clients = join_all((0..4).map(async |_| -> Result<u32> {
        let mut served = 0;
        while !done.get() || served < 3 {
            text(setting.chat("busy").await?).await?;
            served += 1;
        }
        Ok(served)
    }));
    let other = async {
        let answer = text(setting.chat("other").await?).await;
        done.set(true);
        answer
    };
    let (served, other) = tokio::time::timeout(PATIENCE, async { tokio::join!(clients, other) })
        .await
        .unwrap();
    assert!(other.unwrap().ends_with("tok9"));
    assert!(served.iter().all(Result::is_ok), "{served:?}");
    text(setting.chat("busy").await.unwrap()).await.unwrap();
    assert_ne!(setting.pid("busy").await, before);
}
