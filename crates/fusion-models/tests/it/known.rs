//! Models that other programs left on the machine.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use fusion_models::{Config, KnownFolders, LoadRequest};
use fusion_types::error::ErrorCode;
use serde_json::json;

use crate::setting::{Folder, Setting, fake};

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A file of a Hugging Face cache: a link into the blobs, as its programs make it.
fn cached(hub: &Path, repository: &str, revision: &str, file: &str, text: &str) {
    let folder = hub.join(format!("models--{}", repository.replace('/', "--")));
    let blob = folder.join("blobs").join(file.replace('/', "-"));
    write(&blob, text);
    let link = folder.join("snapshots").join(revision).join(file);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(blob, link).unwrap();
}

fn hugging_face(hub: &Path) {
    let gguf = "GGUF and more";
    cached(hub, "one/single", REVISION, "model.Q4_K_M.gguf", gguf);
    cached(hub, "one/single", "older", "outdated.gguf", gguf);
    write(&hub.join("models--one--single/refs/main"), REVISION);
    cached(hub, "two/several", REVISION, "s-Q4_K_M.gguf", gguf);
    cached(
        hub,
        "two/several",
        REVISION,
        "Q8/s-Q8_0-00001-of-00002.gguf",
        gguf,
    );
    cached(
        hub,
        "two/several",
        REVISION,
        "Q8/s-Q8_0-00002-of-00002.gguf",
        gguf,
    );
    cached(
        hub,
        "two/several",
        REVISION,
        "F16/s-F16-00001-of-00002.gguf",
        gguf,
    );
    cached(hub, "two/several", REVISION, "s-mmproj.gguf", gguf);
    for file in ["config.json", "modules.json", "model.safetensors"] {
        cached(hub, "st/embedder", REVISION, file, "{}");
    }
    for file in ["config.json", "modules.json", "tokenizer.json"] {
        cached(hub, "st/tokenizer-only", REVISION, file, "{}");
    }
    cached(hub, "not/language", REVISION, "config.json", "{}");
    cached(hub, "not/gguf", REVISION, "page.gguf", "<html>");
    cached(hub, "not/whole", REVISION, "gone.gguf", gguf);
    fs::remove_dir_all(hub.join("models--not--whole/blobs")).unwrap();
    write(&hub.join("datasets--x--y/snapshots/1/data.gguf"), gguf);
}

fn ollama(root: &Path) {
    let manifest = |name: &str, hash: &str| {
        let layers = json!({ "schemaVersion": 2, "layers": [
            { "mediaType": "application/vnd.ollama.image.license", "digest": format!("sha256:{}", "1".repeat(64)) },
            { "mediaType": "application/vnd.ollama.image.model", "digest": format!("sha256:{hash}") },
        ]});
        write(&root.join("manifests").join(name), layers.to_string());
    };
    let hash = "a".repeat(64);
    write(&root.join(format!("blobs/sha256-{hash}")), "GGUF and more");
    manifest("registry.ollama.ai/library/tiny/1b", &hash);
    manifest("registry.ollama.ai/library/tiny/latest", &hash);
    let other = "b".repeat(64);
    write(&root.join(format!("blobs/sha256-{other}")), "GGUF and else");
    manifest("hf.co/who/Repo-GGUF/Q8_0", &other);
    manifest("registry.ollama.ai/library/gone/latest", &"c".repeat(64));
    manifest(
        "registry.ollama.ai/library/sly/latest",
        "../../../../etc/passwd",
    );
    write(
        &root.join("manifests/registry.ollama.ai/library/torn/latest"),
        "{",
    );
}

fn known(folder: &Folder, roots: &Path) -> Config {
    Config {
        known_folders: KnownFolders {
            hugging_face: vec![roots.join("hub"), roots.join("no/such/folder")],
            lm_studio: vec![roots.join("lm")],
            ollama: vec![roots.join("ollama")],
        },
        ..folder.config()
    }
}

fn fill(roots: &Path) {
    hugging_face(&roots.join("hub"));
    ollama(&roots.join("ollama"));
    write(&roots.join("lm/pub/repo/lm.gguf"), "GGUF and more");
    write(&roots.join("lm/pub/repo/notes.gguf.part"), "GGUF");
    write(&roots.join("lm/pub/mlx/config.json"), "{}");
}

#[tokio::test]
async fn models_of_other_programs_are_found_by_the_names_they_have_there() {
    let (folder, roots) = (Folder::new(&["own"]), tempfile::tempdir().unwrap());
    fill(roots.path());
    fs::create_dir_all(roots.path().join("lm/pub/linked")).unwrap();
    let own = folder.path().join("own.gguf");
    symlink(own, roots.path().join("lm/pub/linked/own.gguf")).unwrap();
    let config = known(&folder, roots.path());
    let setting = Setting::start(folder, config, Arc::default()).await;
    let found: Vec<_> = setting
        .models
        .cards()
        .iter()
        .map(|card| (card.id.to_string(), card.aliases.join(" ")))
        .collect();
    let expected = [
        ("hf.co/who/Repo-GGUF:Q8_0", ""),
        ("one/single", ""),
        ("own", "pub/linked"),
        ("pub/repo", ""),
        ("st/embedder", ""),
        ("tiny:1b", "tiny:latest"),
        ("two/several:s-Q4_K_M", ""),
        ("two/several:s-Q8_0", ""),
    ];
    let expected = expected.map(|(id, aliases)| (id.to_owned(), aliases.to_owned()));
    assert_eq!(found, expected);
    let engine = async |id: &str| setting.models.info(id).await.unwrap().engine;
    assert_eq!(engine("st/embedder").await, "fusiond-tensor");
    assert_eq!(engine("tiny:latest").await, "fusiond-llama");
}

#[tokio::test]
async fn a_found_model_is_loaded_by_its_name_or_quantization() {
    let (folder, roots) = (Folder::new(&[]), tempfile::tempdir().unwrap());
    fill(roots.path());
    let config = known(&folder, roots.path());
    let setting = Setting::start(folder, config, Arc::default()).await;
    for (path, id) in [
        ("one/single", "one/single"),
        ("hf:two/several:q8_0", "two/several:s-Q8_0"),
        ("tiny:latest", "tiny:1b"),
        ("tiny", "tiny:1b"),
    ] {
        let report = setting.models.load(fake(path, json!({}))).await.unwrap();
        assert_eq!(report.model_id.as_str(), id, "{path}");
        setting.models.unload(id, true).await.unwrap();
    }
    let error = setting
        .models
        .plan_load(LoadRequest::new("two/several"))
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidValue);
    assert!(error.message.contains("two/several:s-Q8_0"), "{error}");
}

/// What comes later is found by looking again.
#[tokio::test]
async fn a_folder_that_cannot_be_searched_stops_nothing() {
    let (folder, roots) = (Folder::new(&["m"]), tempfile::tempdir().unwrap());
    let unreadable: Vec<PathBuf> = ["file", "loop"].map(|name| roots.path().join(name)).into();
    write(&unreadable[0], "not a folder");
    symlink(&unreadable[1], &unreadable[1]).unwrap();
    let around = roots.path().join("lm/pub/repo");
    fs::create_dir_all(&around).unwrap();
    symlink(&around, around.join("again")).unwrap();
    let config = Config {
        known_folders: KnownFolders {
            hugging_face: unreadable.clone(),
            lm_studio: vec![roots.path().join("lm")],
            ollama: unreadable,
        },
        ..folder.config()
    };
    let setting = Setting::start(folder, config, Arc::default()).await;
    assert_eq!(setting.models.cards().len(), 1);
    write(&around.join("late.gguf"), "GGUF");
    setting.models.rescan().await.unwrap();
    assert!(setting.models.card("pub/repo").is_ok());
}
