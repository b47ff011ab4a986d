//! A dead engine costs one model, and only for a while.

use std::time::Duration;

use fusion_types::{error::ErrorCode, model::ModelStatus};
use futures::{StreamExt, future::join_all};
use rustix::process::Signal;
use serde_json::json;

use crate::setting::{Setting, fake, is_alive, kill, slow_answer, text};

#[tokio::test]
async fn a_killed_engine_ends_its_streams_and_the_next_request_works() {
    let setting = Setting::new(&["m", "other"]).await;
    setting.load("m", slow_answer(200, 10)).await;
    setting.load("other", slow_answer(50, 10)).await;
    let mut generation = setting.chat("m").await.unwrap();
    generation.events.next().await.unwrap().unwrap();
    let unharmed = setting.chat("other").await.unwrap();

    let pid = setting.pid("m").await;
    kill(pid, Signal::KILL);
    let error = text(generation).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineCrashed);
    assert!(error.message.contains("9"), "{}", error.message);
    assert!(text(unharmed).await.unwrap().ends_with("tok49"));

    let answer = text(setting.chat("m").await.unwrap()).await.unwrap();
    assert!(answer.ends_with("tok199"));
    assert_ne!(setting.pid("m").await, pid);
}

#[tokio::test]
async fn an_abort_in_the_middle_is_an_error_event() {
    let setting = Setting::new(&["m"]).await;
    setting
        .load(
            "m",
            json!({ "tokens": 10, "crash_after": 3, "delay_ms": 5 }),
        )
        .await;
    let generation = setting.chat("m").await.unwrap();
    let items: Vec<_> = generation.events.collect().await;
    let (last, before) = items.split_last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().code, ErrorCode::EngineCrashed);
    assert!(before.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_silent_engine_is_ended() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        hang_timeout: Duration::from_millis(300),
        ..config
    })
    .await;
    setting
        .load("m", json!({ "tokens": 10, "hang_after": 2, "delay_ms": 1 }))
        .await;
    let pid = setting.pid("m").await;
    let error = text(setting.chat("m").await.unwrap()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineCrashed);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_stopped_process_is_ended_too() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        hang_timeout: Duration::from_millis(300),
        ..config
    })
    .await;
    setting.load("m", slow_answer(100, 5)).await;
    let pid = setting.pid("m").await;
    let generation = setting.chat("m").await.unwrap();
    kill(pid, Signal::STOP);
    assert_eq!(
        text(generation).await.unwrap_err().code,
        ErrorCode::EngineCrashed
    );
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_request_to_a_process_that_stopped_before_gets_its_successor() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        hang_timeout: Duration::from_millis(300),
        ..config
    })
    .await;
    setting.load("m", json!({ "tokens": 2 })).await;
    let pid = setting.pid("m").await;
    kill(pid, Signal::STOP);
    let ask = async || text(setting.chat("m").await.unwrap()).await;
    for answer in join_all([ask(), ask(), ask()]).await {
        assert_eq!(answer.unwrap(), "tok0 tok1");
    }
    assert!(!is_alive(pid));
    let info = setting.models.info("m").await.unwrap();
    assert_eq!(info.recent_crashes, 1);
}

#[tokio::test]
async fn a_process_that_stops_while_nobody_asks_is_found_out() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        hang_timeout: Duration::from_millis(100),
        ..config
    })
    .await;
    setting.load("m", json!({ "tokens": 2 })).await;
    let pid = setting.pid("m").await;
    kill(pid, Signal::STOP);
    setting
        .until("m", |info| info.recent_crashes == 1 && info.pid.is_none())
        .await;
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn repeated_crashes_end_in_failed_until_an_explicit_load() {
    let setting = Setting::new(&["m"]).await;
    setting.load("m", slow_answer(1000, 10)).await;
    for nth in 1..=5 {
        let mut generation = setting.chat("m").await.unwrap();
        generation.events.next().await.unwrap().unwrap();
        kill(setting.pid("m").await, Signal::KILL);
        text(generation).await.unwrap_err();
        setting
            .until("m", |info| info.recent_crashes == nth && info.pid.is_none())
            .await;
    }
    assert_eq!(setting.status("m"), ModelStatus::Failed);
    let error = setting.chat("m").await.map(drop).unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineUnavailable);
    assert!(error.message.contains("5 times"), "{}", error.message);

    setting.load("m", slow_answer(1000, 10)).await;
    assert_eq!(setting.status("m"), ModelStatus::Loaded);
}

#[tokio::test]
async fn a_failed_load_says_why_and_harms_nobody() {
    let setting = Setting::new(&["bad", "good"]).await;
    setting.load("good", json!({ "tokens": 1 })).await;
    let error = setting
        .models
        .load(fake("bad", json!({ "fail_load": "invalid_value" })))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidValue);
    assert_eq!(error.message, "the test asked for this load to fail");
    assert_eq!(setting.status("bad"), ModelStatus::Unloaded);
    assert_eq!(
        setting
            .models
            .info("bad")
            .await
            .unwrap()
            .last_error
            .as_deref(),
        Some(error.message.as_str())
    );
    assert_eq!(
        text(setting.chat("good").await.unwrap()).await.unwrap(),
        "tok0"
    );
}

#[tokio::test]
async fn a_load_that_takes_too_long_is_given_up() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        load_timeout: Duration::from_millis(200),
        ..config
    })
    .await;
    let error = setting
        .models
        .load(fake("m", json!({ "load_ms": 60_000 })))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    let info = setting.models.info("m").await.unwrap();
    assert_eq!((info.pid, info.card.status), (None, ModelStatus::Unloaded));
}
