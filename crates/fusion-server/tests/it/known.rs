//! Models of other programs, as the server lists them.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::server::Home;

#[tokio::test]
async fn models_of_other_programs_are_listed_unless_switched_off() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("hub/models--owner--name");
    let snapshot = folder.join("snapshots/main");
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("blob"), "GGUF and more").unwrap();
    symlink(folder.join("blob"), snapshot.join("m-Q4_K_M.gguf")).unwrap();

    let home = Home::new()
        .environment("HOME", cache.path())
        .environment("HF_HOME", cache.path());
    assert_eq!(listed(&home).await, [""; 0]);
    let home = home.argument("search-known-folders", "true");
    assert_eq!(listed(&home).await, ["owner/name"]);
}

async fn listed(home: &Home) -> Vec<String> {
    let answer = home.start().await.client().look("/v1/models").await;
    let id = |model: &Value| model["id"].as_str().unwrap().to_owned();
    answer["data"].as_array().unwrap().iter().map(id).collect()
}
