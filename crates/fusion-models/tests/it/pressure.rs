//! The machine itself runs short of memory.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fusion_models::{Config, MachineMemory, MemoryReader};
use fusion_types::{error::ErrorCode, model::ModelStatus};
use futures::StreamExt;
use serde_json::json;

use crate::setting::{MEGABYTE, PATIENCE, Setting, fake, text};

/// A machine of 10 GB, of which half a GB is reserved, with so many megabytes available.
fn machine(available: &Arc<AtomicU64>) -> MemoryReader {
    let available = available.clone();
    MemoryReader::new(move || {
        Some(MachineMemory {
            total_bytes: 10_000 * MEGABYTE,
            available_bytes: available.load(Relaxed) * MEGABYTE,
            stalled_percent: None,
        })
    })
}

async fn until_budget(setting: &Setting, fits: impl Fn(u64) -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !fits(setting.models.diagnostics().await.unwrap().budget_bytes / MEGABYTE) {
        assert!(Instant::now() < limit, "the budget stays as it is");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn idle_models_go_first_then_loads_are_refused() {
    let available = Arc::new(AtomicU64::new(5000));
    let setting = Setting::with(&["busy", "idle", "other"], |config| Config {
        memory: Some(machine(&available)),
        ..config
    })
    .await;
    let size = json!({ "estimate_mb": 100, "resident_mb": 100, "tokens": 200, "delay_ms": 20 });
    for model in ["busy", "idle"] {
        setting.load(model, size.clone()).await;
    }
    let mut generation = setting.chat("busy").await.unwrap();
    generation.events.next().await.unwrap().unwrap();

    available.store(350, Relaxed);
    let idle = setting
        .until("idle", |info| info.card.status == ModelStatus::Unloaded)
        .await;
    let reason = serde_json::to_value(idle.last_eviction.unwrap()).unwrap();
    assert_eq!(reason["reason"], "over_budget");
    assert_eq!(setting.status("busy"), ModelStatus::Loaded);
    let refused = setting.models.load(fake("other", size.clone())).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InsufficientVram);
    assert!(refused.details["budget_bytes"].as_u64().unwrap() < 200 * MEGABYTE);

    available.store(5000, Relaxed);
    until_budget(&setting, |budget| budget == 1000).await;
    setting.load("other", size).await;
    // All the while the stream went on.
    assert!(text(generation).await.unwrap().ends_with("tok199"));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_ends_an_engine_before_the_server() {
    let setting = Setting::new(&["m"]).await;
    setting.load("m", json!({})).await;
    let score = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    assert!(score(&setting.pid("m").await.to_string()) > score("self"));
}
