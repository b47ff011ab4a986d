//! What can be loaded, and what is remembered.

use std::{fs, sync::Arc};

use fusion_models::{LoadRequest, ModelDefinition};
use fusion_types::{
    error::ErrorCode,
    model::{ModelStatus, ModelType},
};
use serde_json::json;

use crate::setting::{Folder, Setting, call, chat, fake, options, text};
use fusion_types::inference::Inference;

#[tokio::test]
async fn what_was_loaded_comes_back_loadable_after_a_restart() {
    let setting = Setting::new(&["m"]).await;
    let request = LoadRequest {
        model_id: Some("mine".to_owned()),
        pinned: Some(true),
        aliases: vec!["nick".to_owned()],
        ..fake("m", json!({ "tokens": 2 }))
    };
    setting.models.load(request).await.unwrap();
    let Setting {
        models,
        folder,
        records,
        token,
        tasks,
    } = setting;
    token.cancel();
    tasks.close();
    tasks.wait().await;
    drop(models);
    assert_eq!(records.keys("models"), ["mine"]);

    let config = folder.config();
    let again = Setting::start(folder, config, records).await;
    let card = again.models.card("nick").unwrap();
    assert_eq!(
        (card.id.as_str(), card.status, card.pinned),
        ("mine", ModelStatus::Unloaded, true)
    );
    assert_eq!(
        (card.context_length, card.family.as_deref()),
        (Some(4096), Some("fake"))
    );
    assert!(card.footprint_bytes.is_some());
    assert_eq!(
        text(again.chat("nick").await.unwrap()).await.unwrap(),
        "tok0 tok1"
    );
}

#[tokio::test]
async fn a_configured_model_is_preloaded_with_its_options() {
    let folder = Folder::new(&["m"]);
    let mut config = folder.config();
    config.definitions = vec![ModelDefinition {
        engine: Some("fake-engine".to_owned()),
        options: options(&json!({ "tokens": 1 })),
        context_length: Some(128),
        preload: true,
        ..ModelDefinition::new("named", "m.gguf")
    }];
    let setting = Setting::start(folder, config, Arc::default()).await;
    setting
        .until("named", |info| info.card.status == ModelStatus::Loaded)
        .await;
    assert_eq!(
        setting.models.card("named").unwrap().context_length,
        Some(128)
    );
    assert_eq!(
        text(setting.chat("named").await.unwrap()).await.unwrap(),
        "tok0"
    );

    let other = LoadRequest {
        context_length: Some(64),
        ..LoadRequest::new("named")
    };
    assert_eq!(
        setting.models.load(other).await.unwrap_err().code,
        ErrorCode::ModelAlreadyLoaded
    );
}

#[tokio::test]
async fn the_same_definition_again_does_nothing_and_another_one_conflicts() {
    let setting = Setting::new(&["m"]).await;
    setting.load("m", json!({ "tokens": 1 })).await;
    let pid = setting.pid("m").await;
    setting.load("m", json!({ "tokens": 1 })).await;
    assert_eq!(setting.pid("m").await, pid);
    let error = setting
        .models
        .load(fake("m", json!({ "tokens": 2 })))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelAlreadyLoaded);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_by_name() {
    let setting = Setting::new(&["m"]).await;
    let notes = setting.folder.path().join("notes.gguf");
    fs::write(&notes, "not a model").unwrap();
    let notes = notes.to_str().unwrap();
    let with = |path: &str, change: fn(&mut LoadRequest)| {
        let mut request = LoadRequest::new(path);
        change(&mut request);
        request
    };
    let cases = [
        (
            with("/no/such/file.gguf", |_| ()),
            ErrorCode::InvalidValue,
            "nothing at",
        ),
        (with(notes, |_| ()), ErrorCode::InvalidValue, "not a GGUF"),
        (
            with("owner/name", |_| ()),
            ErrorCode::ModelNotFound,
            "fusiond pull owner/name",
        ),
        (
            with("owner/../../etc", |_| ()),
            ErrorCode::InvalidValue,
            "may not leave",
        ),
        (with("mm", |_| ()), ErrorCode::ModelNotFound, "nearest: m"),
        (
            with("m", |r| r.model_type = Some(ModelType::Whisper)),
            ErrorCode::NotImplemented,
            "whisper",
        ),
        (
            with("m", |r| r.engine = Some("../bin/sh".to_owned())),
            ErrorCode::InvalidValue,
            "not the name",
        ),
        (
            with("m", |r| r.engine = Some("cargo".to_owned())),
            ErrorCode::InvalidValue,
            "not the name",
        ),
        (
            with("m", |r| r.engine = Some("fusiond-none".to_owned())),
            ErrorCode::EngineUnavailable,
            "isn't installed",
        ),
        (
            with("m", |r| r.model_id = Some("auto".to_owned())),
            ErrorCode::NameReserved,
            "reserved",
        ),
        (
            with("m", |r| r.options = options(&json!({ "a": [1] }))),
            ErrorCode::InvalidValue,
            "an option is",
        ),
        (
            with("m", |r| r.replicas = Some(0)),
            ErrorCode::InvalidValue,
            "replicas",
        ),
    ];
    for (request, code, says) in cases {
        let error = setting.models.load(request.clone()).await.unwrap_err();
        assert_eq!(error.code, code, "{request:?}: {error}");
        assert!(error.message.contains(says), "{request:?}: {error}");
    }
    let ids: Vec<_> = setting
        .models
        .cards()
        .iter()
        .map(|card| card.id.to_string())
        .collect();
    assert_eq!(ids, ["m"]);
    assert_eq!(
        setting.models.info("m").await.unwrap().engine,
        "fusiond-llama"
    );
}

#[tokio::test]
async fn a_workflow_is_not_a_model() {
    let setting = Setting::new(&["m"]).await;
    let error = setting
        .models
        .chat(&call(), chat("workflow:x"))
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::NotImplemented);
}

#[tokio::test]
async fn a_forgotten_model_is_gone_and_its_files_only_where_they_are_its_own() {
    let setting = Setting::new(&["m", "n"]).await;
    let named = |id: &str, path: &str| LoadRequest {
        model_id: Some(id.to_owned()),
        ..fake(path, json!({}))
    };
    setting.models.load(named("mine", "m")).await.unwrap();
    setting.models.load(named("mine-too", "n")).await.unwrap();
    assert_eq!(setting.records.keys("models"), ["mine", "mine-too"]);
    let file = |name: &str| setting.folder.path().join(format!("{name}.gguf"));

    // The folder's own model has the same file.
    let shared = setting
        .models
        .forget("mine", true, false)
        .await
        .unwrap_err();
    assert_eq!(shared.code, ErrorCode::ModelInUse);
    assert_eq!(setting.status("mine"), ModelStatus::Loaded);

    let report = setting.models.forget("mine", false, false).await.unwrap();
    assert!(report.freed_bytes > 0 && !report.listed);
    let unknown = setting.models.info("mine").await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::ModelNotFound);
    assert_eq!(setting.records.keys("models"), ["mine-too"]);
    assert!(file("m").exists());

    let report = setting.models.forget("m", true, false).await.unwrap();
    assert!(report.deleted_bytes > 0 && !report.listed);
    assert!(!file("m").exists() && file("n").exists());
}

#[tokio::test]
async fn files_elsewhere_are_never_deleted() {
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("out.gguf");
    std::fs::write(&outside, b"GGUF, but only in name").unwrap();
    let setting = Setting::new(&[]).await;
    let link = setting.folder.path().join("link.gguf");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    setting.models.rescan().await.unwrap();
    setting.load(outside.to_str().unwrap(), json!({})).await;
    for name in ["link", "out"] {
        let refused = setting.models.forget(name, true, true).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidValue, "{name}");
    }
    assert!(outside.exists() && link.exists());
    assert_eq!(setting.status("out"), ModelStatus::Loaded);
}
