//! The real engines on real weights, where both are there.

use std::{env, path::PathBuf};

use fusion_types::{
    chat::ChatEvent,
    embedding::EmbedRequest,
    inference::{Inference, ModelPlanner, Needs},
    model::Capability,
    model_ref::ModelRef,
};
use futures::TryStreamExt;

use crate::setting::{Folder, Setting, call, chat, engine_dir};

const CHAT: &str = "SmolLM2-135M-Instruct-Q4_1";
const EMBEDDINGS: &str = "all-MiniLM-L6-v2";

/// A setting over the real models folder, or why there is none.
async fn real(engine: &str, model: &str) -> Option<Setting> {
    let home = || env::home_dir().map(|home| home.join(".cache/fusiond/models"));
    let folder = env::var_os("FUSIOND_MODELS_DIR")
        .map(PathBuf::from)
        .or_else(home)?;
    let model_there = folder.join(model).exists() || folder.join(format!("{model}.gguf")).exists();
    if !model_there || !engine_dir().join(engine).is_file() {
        println!(
            "SKIPPED: needs {model} in {} and the engine {engine}",
            folder.display()
        );
        return None;
    }
    let empty = Folder::new(&[]);
    let config = fusion_models::Config {
        models_dir: folder,
        ..empty.config()
    };
    Some(Setting::start(empty, config, std::sync::Arc::default()).await)
}

#[tokio::test]
async fn a_gguf_answers_and_what_it_holds_is_near_what_was_predicted() {
    let Some(setting) = real("fusiond-llama", CHAT).await else {
        return;
    };
    // What it draws may go on for as long as its context.
    let mut request = chat(CHAT);
    request.max_tokens = Some(16);
    let generation = setting.models.chat(&call(), request).await.unwrap();
    let events: Vec<ChatEvent> = generation.events.try_collect().await.unwrap();
    assert!(matches!(events[0], ChatEvent::Delta(_)), "{events:?}");
    let info = setting.models.info(CHAT).await.unwrap();
    let (predicted, measured) = (info.predicted_bytes.unwrap(), info.measured_bytes.unwrap());
    println!(
        "predicted {predicted}, measured {measured}, file {}",
        info.card.file_bytes
    );
    assert!(measured > info.card.file_bytes / 2);
    assert!(measured < predicted * 3 / 2);
    let freed = setting
        .models
        .unload(CHAT, false)
        .await
        .unwrap()
        .freed_bytes;
    assert_eq!(
        Some(freed),
        setting.models.card(CHAT).unwrap().footprint_bytes
    );
}

#[tokio::test]
async fn a_folder_embeds() {
    let Some(setting) = real("fusiond-tensor", EMBEDDINGS).await else {
        return;
    };
    let needs = Needs {
        capability: Some(Capability::Embeddings),
        min_context: None,
    };
    let choice = setting
        .models
        .choose(&ModelRef::Auto(None), &needs)
        .unwrap();
    assert_eq!(choice.model.as_str(), EMBEDDINGS);
    let request = EmbedRequest {
        model: EMBEDDINGS.to_owned(),
        input: vec!["a cat".to_owned()].into(),
        truncate: false,
    };
    let vectors = setting
        .models
        .embed(&call(), request)
        .await
        .unwrap()
        .vectors;
    assert_eq!((vectors.dimension, vectors.rows().len()), (384, 1));
    let info = setting.models.info(EMBEDDINGS).await.unwrap();
    let (predicted, measured) = (info.predicted_bytes.unwrap(), info.measured_bytes.unwrap());
    println!(
        "predicted {predicted}, measured {measured}, file {}",
        info.card.file_bytes
    );
    assert!(measured < predicted * 2);
}
