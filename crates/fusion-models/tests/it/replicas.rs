//! Several processes of one model.

use fusion_models::{Config, LoadReport, LoadRequest, ModelDefinition, ModelInfo, ReplicaInfo};
use fusion_types::{error::ErrorCode, model::ModelStatus};
use futures::{StreamExt, future::join_all};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setting::{MEGABYTE, Setting, fake, is_alive, kill, options, slow_answer, text};

async fn load(setting: &Setting, name: &str, replicas: u32, options: Value) -> LoadReport {
    let request = LoadRequest {
        replicas: Some(replicas),
        ..fake(name, options)
    };
    setting.models.load(request).await.unwrap()
}

async fn replicas(setting: &Setting, name: &str) -> Vec<ReplicaInfo> {
    setting.models.info(name).await.unwrap().replicas
}

fn loaded(info: &ModelInfo) -> usize {
    let is_loaded = |replica: &&ReplicaInfo| replica.status == ModelStatus::Loaded;
    info.replicas.iter().filter(is_loaded).count()
}

#[tokio::test]
async fn requests_are_spread_over_the_replicas_and_an_unload_ends_all() {
    let setting = Setting::new(&["m"]).await;
    let report = load(&setting, "m", 3, slow_answer(1000, 20)).await;
    assert_eq!(report.card.slots, 6);
    let running = join_all((0..6).map(async |_| setting.chat("m").await.unwrap())).await;
    let all = replicas(&setting, "m").await;
    let told: Vec<_> = all
        .iter()
        .map(|replica| (replica.id.as_str(), replica.active_requests))
        .collect();
    assert_eq!(told, [("m", 2), ("m#1", 2), ("m#2", 2)]);
    let queue = setting.models.queue_stats();
    assert_eq!((queue.running, queue.slots), (6, 6));
    assert_eq!(queue.models.len(), 1);
    let ids: Vec<_> = setting
        .models
        .cards()
        .iter()
        .map(|card| card.id.to_string())
        .collect();
    assert_eq!(ids, ["m"]);

    let pids: Vec<_> = all.iter().map(|replica| replica.pid.unwrap()).collect();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    drop(running);
    setting.until("m", |info| info.active_requests == 0).await;
    let unloaded = setting.models.unload("m", false).await.unwrap();
    assert_eq!(unloaded.freed_bytes, report.footprint_bytes);
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn a_killed_replica_costs_its_own_requests_only_and_comes_back() {
    let setting = Setting::new(&["m"]).await;
    load(&setting, "m", 2, slow_answer(20, 10)).await;
    let dead = replicas(&setting, "m").await[1].pid.unwrap();
    let work = join_all((0..40).map(async |_| text(setting.chat("m").await?).await));
    let killer = async {
        setting
            .until("m", |info| info.replicas[1].active_requests == 2)
            .await;
        kill(dead, Signal::KILL);
    };
    let (answers, ()) = tokio::join!(work, killer);
    let errors: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    // Two slots of it were in use; whoever waited was served by the other.
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors
            .iter()
            .all(|error| error.code == ErrorCode::EngineCrashed)
    );
    let info = setting.until("m", |info| loaded(info) == 2).await;
    assert_ne!(info.replicas[1].pid, Some(dead));
    assert_eq!(info.replicas[0].recent_crashes, 0);
    assert_eq!(info.replicas[1].recent_crashes, 1);
}

#[tokio::test]
async fn each_replica_is_in_the_budget_and_the_first_thing_to_go() {
    let setting = Setting::with(&["a", "b"], |config| Config {
        budget_bytes: 250 * MEGABYTE,
        ..config
    })
    .await;
    let big = json!({ "estimate_mb": 90, "resident_mb": 90, "tokens": 2 });
    let three = LoadRequest {
        replicas: Some(3),
        ..fake("a", big.clone())
    };
    let plan = setting.models.plan_load(three.clone()).await.unwrap();
    assert_eq!(
        (plan.fits, plan.replicas, plan.needed_bytes),
        (false, 3, 270 * MEGABYTE)
    );
    let error = setting.models.load(three).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InsufficientVram);
    assert_eq!(setting.status("a"), ModelStatus::Unloaded);

    let report = load(&setting, "a", 2, big.clone()).await;
    assert!(report.footprint_bytes > 180 * MEGABYTE, "{report:?}");
    let other = setting.load("b", big).await;
    assert_eq!(other.evicted.len(), 1);
    let info = setting.models.info("a").await.unwrap();
    assert_eq!((info.card.status, loaded(&info)), (ModelStatus::Loaded, 1));
    assert_eq!(
        text(setting.chat("a").await.unwrap()).await.unwrap(),
        "tok0 tok1"
    );
    // What was taken comes back with the room.
    setting.models.unload("b", false).await.unwrap();
    setting.until("a", |info| loaded(info) == 2).await;
}

#[tokio::test]
async fn another_number_of_replicas_lets_running_ones_end_first() {
    let setting = Setting::new(&["m"]).await;
    let options = slow_answer(30, 10);
    load(&setting, "m", 3, options.clone()).await;
    let before = replicas(&setting, "m").await;
    let mut running = join_all((0..6).map(async |_| setting.chat("m").await.unwrap())).await;
    for generation in &mut running {
        generation.events.next().await.unwrap().unwrap();
    }
    load(&setting, "m", 1, options.clone()).await;
    let answers = join_all(running.into_iter().map(text)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let info = setting.until("m", |info| info.replicas.len() == 1).await;
    assert_eq!(info.pid, before[0].pid);
    load(&setting, "m", 2, options).await;
    assert_eq!(loaded(&setting.models.info("m").await.unwrap()), 2);
}

#[tokio::test]
async fn a_model_kept_warm_is_loaded_whenever_there_is_room() {
    let big = json!({ "estimate_mb": 90, "resident_mb": 90, "tokens": 1 });
    let warm = ModelDefinition {
        engine: Some("fake-engine".to_owned()),
        options: options(&big),
        keep_warm: true,
        ..ModelDefinition::new("warm", "a.gguf")
    };
    let setting = Setting::with(&["a", "b"], |config| Config {
        budget_bytes: 150 * MEGABYTE,
        definitions: vec![warm],
        ..config
    })
    .await;
    // Nobody asks for it, nor after its death.
    let info = setting.until("warm", |info| loaded(info) == 1).await;
    kill(info.pid.unwrap(), Signal::KILL);
    setting
        .until("warm", |info| info.recent_crashes == 1 && loaded(info) == 1)
        .await;
    // It makes room like any other, and comes back.
    let report = setting.load("b", big).await;
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(setting.status("warm"), ModelStatus::Unloaded);
    setting.models.unload("b", false).await.unwrap();
    setting.until("warm", |info| loaded(info) == 1).await;
    // Unless somebody wants it gone.
    setting.models.unload("warm", false).await.unwrap();
    setting.load("a", json!({ "tokens": 1 })).await;
    assert_eq!(setting.status("warm"), ModelStatus::Unloaded);
}
