//! Models are budgeted in the memory of GPUs: here such as only tell what a test wants.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fusion_models::{Config, DeviceMemory, MemoryOf, MemoryReader};
use fusion_types::model::{ModelId, ModelStatus};
use serde_json::json;

use crate::setting::{MEGABYTE, PATIENCE, Setting, fake};

/// A GPU of 10 GB, of which half a GB is reserved, with so many megabytes free. Its driver says that each engine holds as many
/// as given, or lists none.
fn gpu(free: &Arc<AtomicU64>, each_holds: Option<u64>) -> MemoryReader {
    let free = free.clone();
    MemoryReader::of_devices(move || {
        let held = |megabytes: u64| {
            engines()
                .into_iter()
                .map(move |pid| (pid, megabytes * MEGABYTE))
        };
        Some(DeviceMemory {
            total_bytes: 10_000 * MEGABYTE,
            free_bytes: free.load(Relaxed) * MEGABYTE,
            held_bytes: each_holds.into_iter().flat_map(held).collect(),
            stalled_percent: None,
        })
    })
}

/// The processes that this one started, as Linux tells.
fn engines() -> Vec<u32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let started = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let lists: Vec<_> = threads.flatten().filter_map(started).collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

async fn on_gpu(free: &Arc<AtomicU64>, each_holds: Option<u64>) -> Setting {
    Setting::with(&["a", "b"], |config| Config {
        memory: Some(gpu(free, each_holds)),
        ..config
    })
    .await
}

async fn until_budget(setting: &Setting, megabytes: u64) {
    let limit = Instant::now() + PATIENCE;
    loop {
        let known = setting.models.diagnostics().await.unwrap();
        assert_eq!(known.memory_of, MemoryOf::Cuda);
        if known.budget_bytes == megabytes * MEGABYTE {
            return;
        }
        assert!(Instant::now() < limit, "the budget is {known:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_model_is_charged_what_it_holds_of_the_device() {
    let free = Arc::new(AtomicU64::new(5000));
    let setting = on_gpu(&free, Some(300)).await;
    let size = json!({ "estimate_mb": 100, "resident_mb": 150 });
    let report = setting.load("a", size.clone()).await;
    assert_eq!(report.footprint_bytes, 300 * MEGABYTE);
    until_budget(&setting, 1000).await;

    // Others take the rest of the device.
    free.store(500, Relaxed);
    until_budget(&setting, 300).await;
    let report = setting.load("b", size).await;
    assert_eq!(report.evicted, [ModelId::new("a")]);
    free.store(100, Relaxed);
    setting
        .until("b", |info| info.card.status == ModelStatus::Unloaded)
        .await;
}

#[tokio::test]
async fn the_prediction_stands_where_the_driver_lists_no_process() {
    let free = Arc::new(AtomicU64::new(5000));
    let setting = on_gpu(&free, None).await;
    let size = json!({ "estimate_mb": 200, "resident_mb": 10 });
    let report = setting.load("a", size).await;
    assert_eq!(report.footprint_bytes, 200 * MEGABYTE);

    // What the engine took isn't taken for somebody else's.
    free.store(700, Relaxed);
    until_budget(&setting, 400).await;
    assert_eq!(setting.status("a"), ModelStatus::Loaded);
}

#[tokio::test]
async fn what_was_learned_of_one_memory_is_not_believed_of_another() {
    let free = Arc::new(AtomicU64::new(5000));
    let size = json!({ "estimate_mb": 100, "resident_mb": 10 });
    let before = on_gpu(&free, Some(300)).await;
    before.load("a", size.clone()).await;
    before.token.cancel();
    before.tasks.close();
    before.tasks.wait().await;

    let config = before.folder.config();
    let setting = Setting::start(before.folder, config, before.records).await;
    let plan = setting.models.plan_load(fake("a", size)).await.unwrap();
    assert_eq!(plan.needed_bytes, 100 * MEGABYTE);
}
