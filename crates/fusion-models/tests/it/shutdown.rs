//! No child is left, however the end comes.

use std::time::{Duration, Instant};

use fusion_types::{error::ErrorCode, model::ModelStatus};
use futures::StreamExt;
use serde_json::json;

use crate::setting::{PATIENCE, Setting, fake, is_alive, slow_answer, text};

#[tokio::test]
async fn a_drain_lets_streams_end_and_refuses_new_requests() {
    let setting = Setting::new(&["m", "idle"]).await;
    setting.load("m", slow_answer(60, 10)).await;
    setting.load("idle", json!({})).await;
    let pids = [setting.pid("m").await, setting.pid("idle").await];
    let mut generation = setting.chat("m").await.unwrap();
    generation.events.next().await.unwrap().unwrap();

    setting.token.cancel();
    setting
        .until("idle", |info| info.card.status == ModelStatus::Unloaded)
        .await;
    let refused = setting.chat("m").await.map(drop).unwrap_err();
    assert_eq!(refused.code, ErrorCode::EngineUnavailable);
    assert!(text(generation).await.unwrap().ends_with("tok59"));

    setting.tasks.close();
    tokio::time::timeout(PATIENCE, setting.tasks.wait())
        .await
        .unwrap();
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test]
async fn a_drain_past_its_time_ends_streams_with_an_error() {
    let setting = Setting::with(&["m"], |config| fusion_models::Config {
        drain_timeout: Duration::from_millis(100),
        ..config
    })
    .await;
    setting.load("m", slow_answer(100_000, 10)).await;
    let pid = setting.pid("m").await;
    let mut generation = setting.chat("m").await.unwrap();
    generation.events.next().await.unwrap().unwrap();
    setting.token.cancel();
    setting.tasks.close();
    tokio::time::timeout(PATIENCE, setting.tasks.wait())
        .await
        .unwrap();
    assert_eq!(
        text(generation).await.unwrap_err().code,
        ErrorCode::EngineUnavailable
    );
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_everything() {
    let Setting {
        models,
        folder,
        tasks,
        ..
    } = Setting::new(&["m", "slow"]).await;
    models.load(fake("m", json!({}))).await.unwrap();
    let pid = models.info("m").await.unwrap().pid.unwrap();
    {
        let begun = Instant::now();
        let starting = models.load(fake("slow", json!({ "load_ms": 60_000 })));
        let loading = async {
            while models.card("slow").unwrap().status != ModelStatus::Loading
                && begun.elapsed() < PATIENCE
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = starting => panic!("loaded too soon"),
            () = loading => {}
        }
    }
    drop(models);
    tasks.close();
    tokio::time::timeout(PATIENCE, tasks.wait()).await.unwrap();
    assert!(!is_alive(pid));
    drop(folder);
}
