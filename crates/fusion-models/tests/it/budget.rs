//! One budget of bytes for all models.

use std::{cell::Cell, time::Duration};

use fusion_models::{Config, LoadRequest};
use fusion_types::{
    error::ErrorCode,
    model::{ModelCard, ModelStatus},
};
use futures::{StreamExt, future::join_all};
use serde_json::json;

use crate::setting::{MEGABYTE, Setting, fake, is_alive, slow_answer, text};

async fn crowded() -> Setting {
    Setting::with(&["a", "b", "c"], |config| Config {
        budget_bytes: 250 * MEGABYTE,
        ..config
    })
    .await
}

/// Holds 90 MB in fact, as estimated.
fn big() -> serde_json::Value {
    json!({ "estimate_mb": 90, "resident_mb": 90, "tokens": 2 })
}

#[tokio::test]
async fn the_least_recently_used_goes_and_the_budget_holds() {
    let setting = crowded().await;
    let first = setting.load("a", big()).await;
    assert!(first.footprint_bytes > 89 * MEGABYTE, "{first:?}");
    assert!(first.footprint_bytes < 120 * MEGABYTE, "{first:?}");
    setting.load("b", big()).await;
    text(setting.chat("a").await.unwrap()).await.unwrap();
    let gone = setting.pid("b").await;

    let report = setting.load("c", big()).await;
    assert_eq!(
        report
            .evicted
            .iter()
            .map(|id| id.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
    assert!(!is_alive(gone));
    assert_eq!(setting.status("a"), ModelStatus::Loaded);
    let charged: u64 = setting
        .models
        .cards()
        .iter()
        .filter_map(|card| card.footprint_bytes)
        .sum();
    assert!(charged <= 350 * MEGABYTE);
    let resident = setting.models.cards();
    let resident = resident
        .iter()
        .filter(|card| card.status == ModelStatus::Loaded);
    assert!(
        resident
            .filter_map(|card| card.footprint_bytes)
            .sum::<u64>()
            <= 250 * MEGABYTE
    );
}

#[tokio::test]
async fn a_leased_model_stays_until_its_stream_ends_whole() {
    let setting = crowded().await;
    let half = |tokens, delay| json!({ "estimate_mb": 200, "tokens": tokens, "delay_ms": delay });
    setting.define("b", half(1, 0)).await;
    setting.load("a", half(40, 20)).await;
    let mut generation = setting.chat("a").await.unwrap();
    generation.events.next().await.unwrap().unwrap();

    let (streamed, other) = tokio::join!(text(generation), async {
        text(setting.chat("b").await?).await
    });
    assert!(streamed.unwrap().ends_with("tok39"));
    assert_eq!(other.unwrap(), "tok0");
}

#[tokio::test]
async fn a_pinned_model_is_never_evicted() {
    let setting = crowded().await;
    let pinned = LoadRequest {
        pinned: Some(true),
        ..fake("a", json!({ "estimate_mb": 150, "resident_mb": 150 }))
    };
    setting.models.load(pinned).await.unwrap();
    let wanted = fake("b", json!({ "estimate_mb": 150 }));
    let plan = setting.models.plan_load(wanted.clone()).await.unwrap();
    assert!(!plan.fits);
    let error = setting.models.load(wanted).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InsufficientVram);
    assert_eq!(error.details["needed_bytes"], 150 * MEGABYTE);
    assert_eq!(error.details["budget_bytes"], 250 * MEGABYTE);
    assert_eq!(error.details["protected"], json!(["a"]));
    assert_eq!(setting.status("a"), ModelStatus::Loaded);
}

#[tokio::test]
async fn a_plan_tells_who_would_go_and_changes_nothing() {
    let setting = crowded().await;
    setting.load("a", big()).await;
    setting.load("b", big()).await;
    let plan = setting.models.plan_load(fake("c", big())).await.unwrap();
    assert!(plan.fits && !plan.already_loaded);
    assert_eq!(
        plan.evict.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
        ["a"]
    );
    assert_eq!(plan.needed_bytes, 90 * MEGABYTE);
    assert_eq!(setting.status("a"), ModelStatus::Loaded);
    assert_eq!(setting.status("c"), ModelStatus::Unloaded);
}

#[tokio::test]
async fn what_was_measured_is_charged_the_next_time() {
    let setting = crowded().await;
    let report = setting
        .load("a", json!({ "estimate_mb": 10, "resident_mb": 100 }))
        .await;
    assert!(report.footprint_bytes > 100 * MEGABYTE);
    let freed = setting.models.unload("a", false).await.unwrap().freed_bytes;
    assert_eq!(freed, report.footprint_bytes);
    let again = fake("a", json!({ "estimate_mb": 10, "resident_mb": 100 }));
    assert_eq!(
        setting.models.plan_load(again).await.unwrap().needed_bytes,
        report.footprint_bytes
    );
}

#[tokio::test]
async fn an_idle_model_is_unloaded_after_its_time() {
    let setting = Setting::new(&["m"]).await;
    let request = LoadRequest {
        ttl_seconds: Some(0),
        ..fake("m", json!({}))
    };
    let pid = setting.models.load(request).await.map(|_| ()).is_ok();
    assert!(pid);
    setting
        .until("m", |info| {
            info.card.status == ModelStatus::Unloaded && info.pid.is_none()
        })
        .await;
}

#[tokio::test]
async fn unloading_a_model_in_use_needs_force() {
    let setting = Setting::new(&["m"]).await;
    setting.load("m", slow_answer(1000, 10)).await;
    let mut generation = setting.chat("m").await.unwrap();
    generation.events.next().await.unwrap().unwrap();
    assert_eq!(
        setting.models.unload("m", false).await.unwrap_err().code,
        ErrorCode::ModelInUse
    );

    let report = setting.models.unload("m", true).await.unwrap();
    assert!(report.freed_bytes > 0);
    let error = text(generation).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineUnavailable);
}

#[tokio::test]
async fn a_storm_over_more_models_than_fit_is_served_within_the_budget() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    let budget_bytes = 200 * MEGABYTE;
    let setting = Setting::with(&NAMES, |config| Config {
        budget_bytes,
        ..config
    })
    .await;
    for name in NAMES {
        setting
            .define(
                name,
                json!({ "estimate_mb": 60, "resident_mb": 60, "tokens": 2, "delay_ms": 5 }),
            )
            .await;
    }
    let done = Cell::new(false);
    let requests = async {
        let chat = async |nth: usize| text(setting.chat(NAMES[nth * 7 % 5]).await?).await;
        let answers = join_all((0..100).map(chat)).await;
        done.set(true);
        answers
    };
    let samples = async {
        while !done.get() {
            let mut held = 0;
            for name in NAMES {
                held += setting
                    .models
                    .info(name)
                    .await
                    .unwrap()
                    .pid
                    .map_or(0, held_by);
            }
            let resident = |card: &&ModelCard| card.status != ModelStatus::Unloaded;
            let cards = setting.models.cards();
            let charged: u64 = cards
                .iter()
                .filter(resident)
                .filter_map(|card| card.footprint_bytes)
                .sum();
            assert!(
                held <= budget_bytes && charged <= budget_bytes,
                "held {held}, charged {charged}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (answers, ()) = tokio::join!(requests, samples);
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_deref() == Ok("tok0 tok1")),
        "{answers:?}"
    );
}

/// Private bytes of a process, 0 once it is gone.
fn held_by(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
