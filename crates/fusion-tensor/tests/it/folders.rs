//! What is wrong with a folder is said at load, with the file's name.

use std::{fs, path::Path};

use fusion_engine::{
    Engine, Launch,
    types::{Error, ErrorCode, model::ModelType},
};
use fusion_tensor::Tensor;
use serde_json::{Value, json};

use crate::{
    model::{cosine, embed, launch, length, load, minilm},
    tiny::{self, write_json},
};

fn refused(path: &Path, backend: &str) -> Error {
    load(path, backend).err().unwrap()
}

fn expect(error: &Error, code: ErrorCode, words: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    assert!(
        words.iter().all(|word| error.message.contains(word)),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named() {
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        let folder = tiny::folder();
        fs::remove_file(folder.path().join(file)).unwrap();
        expect(
            &refused(folder.path(), "auto"),
            ErrorCode::InvalidValue,
            &[file],
        );
    }
    expect(
        &refused(Path::new("/nowhere"), "auto"),
        ErrorCode::InvalidValue,
        &["/nowhere", "no such folder"],
    );
    let folder = tiny::folder();
    expect(
        &refused(folder.path(), "onnx"),
        ErrorCode::InvalidValue,
        &["onnx/"],
    );
}

#[test]
fn a_file_that_is_not_what_it_says_is_named() {
    for file in [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ] {
        let folder = tiny::folder();
        for text in ["", "{", "\"x\"", "\u{0}\u{1}"] {
            fs::write(folder.path().join(file), text).unwrap();
            expect(
                &refused(folder.path(), "auto"),
                ErrorCode::InvalidValue,
                &[file],
            );
        }
    }
    let error = Tensor::load(&launch(&tiny::folder().path().join("config.json")))
        .err()
        .unwrap();
    expect(&error, ErrorCode::InvalidValue, &["config.json"]);
}

#[test]
fn broken_safetensors_are_refused() {
    let folder = tiny::folder();
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    let table = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 4, 8, 100, table, table + 1, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        expect(
            &refused(folder.path(), "auto"),
            ErrorCode::InvalidValue,
            &["model.safetensors"],
        );
    }
    fs::write(&file, [b"GGUF".as_slice(), &whole].concat()).unwrap();
    expect(
        &refused(folder.path(), "auto"),
        ErrorCode::InvalidValue,
        &["model.safetensors"],
    );

    let mut infinite = whole.clone();
    infinite[table..].fill(0xff);
    fs::write(&file, infinite).unwrap();
    expect(
        &refused(folder.path(), "auto"),
        ErrorCode::InvalidValue,
        &["model.safetensors", "finite"],
    );
}

#[test]
fn broken_onnx_files_are_refused() {
    let folder = tiny::folder();
    let file = folder.path().join("onnx/model_qint8.onnx");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for bytes in [b"".as_slice(), b"not a graph", &[0xff; 4096]] {
        fs::write(&file, bytes).unwrap();
        expect(
            &refused(folder.path(), "auto"),
            ErrorCode::InvalidValue,
            &["model_qint8.onnx"],
        );
    }
    // Safetensors stay within reach.
    load(folder.path(), "safetensors").unwrap();

    let Some(real) = minilm("a truncated ONNX file") else {
        return;
    };
    let whole = fs::read(real.join("onnx/model_qint8.onnx")).unwrap();
    for part in [100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..part]).unwrap();
        expect(
            &refused(folder.path(), "auto"),
            ErrorCode::InvalidValue,
            &["model_qint8.onnx"],
        );
    }
    // A whole file, but of another model.
    fs::write(&file, &whole).unwrap();
    expect(
        &refused(folder.path(), "auto"),
        ErrorCode::InvalidValue,
        &["model_qint8.onnx", "384"],
    );
}

#[test]
fn parts_of_different_models_are_refused() {
    let change = |key: &str, value: Value| {
        let folder = tiny::folder();
        let mut config = tiny::config();
        config[key] = value;
        write_json(&folder.path().join("config.json"), &config);
        refused(folder.path(), "auto")
    };
    expect(
        &change("vocab_size", json!(4)),
        ErrorCode::InvalidValue,
        &["tokenizer.json", "8 tokens"],
    );
    expect(
        &change("vocab_size", json!(9)),
        ErrorCode::InvalidValue,
        &["word_embeddings"],
    );
    expect(
        &change("num_hidden_layers", json!(2)),
        ErrorCode::InvalidValue,
        &["layer.1"],
    );
    expect(
        &change("num_attention_heads", json!(3)),
        ErrorCode::InvalidValue,
        &["num_attention_heads"],
    );
    expect(
        &change("hidden_size", json!(1_u64 << 60)),
        ErrorCode::InvalidValue,
        &["model.safetensors"],
    );
    expect(
        &change("num_hidden_layers", json!(1_u64 << 60)),
        ErrorCode::InvalidValue,
        &["layer.1"],
    );
    expect(
        &change("hidden_size", json!(-1)),
        ErrorCode::InvalidValue,
        &["config.json"],
    );
}

#[test]
fn what_is_not_done_yet_is_named() {
    let with = |file: &str, value: Value| {
        let folder = tiny::folder();
        write_json(&folder.path().join(file), &value);
        refused(folder.path(), "auto")
    };
    let unbuilt = ErrorCode::NotImplemented;
    expect(
        &with("config.json", json!({ "model_type": "llama" })),
        unbuilt,
        &["config.json", "llama"],
    );
    let classifier =
        json!({ "model_type": "bert", "architectures": ["BertForSequenceClassification"] });
    expect(
        &with("config.json", classifier),
        unbuilt,
        &["BertForSequenceClassification"],
    );
    expect(
        &with(
            "1_Pooling/config.json",
            json!({ "pooling_mode_lasttoken": true }),
        ),
        unbuilt,
        &["lasttoken"],
    );
    let dense = json!([{ "path": "2_Dense", "type": "sentence_transformers.models.Dense" }]);
    expect(
        &with("modules.json", dense),
        unbuilt,
        &["modules.json", "Dense"],
    );
    let prompt = json!({ "prompts": { "query": "q: " }, "default_prompt_name": "query" });
    expect(
        &with("config_sentence_transformers.json", prompt),
        unbuilt,
        &["query"],
    );
    let outside = json!([{ "path": "../x", "type": "sentence_transformers.models.Transformer" }]);
    expect(
        &with("modules.json", outside),
        ErrorCode::InvalidValue,
        &["../x"],
    );
}

#[test]
fn other_model_types_and_options_are_refused() {
    let folder = tiny::folder();
    let of_type = |model_type| {
        Tensor::load(&Launch {
            model_type,
            ..launch(folder.path())
        })
        .err()
        .unwrap()
    };
    expect(
        &of_type(ModelType::Lm),
        ErrorCode::UnsupportedOperation,
        &["lm"],
    );
    expect(
        &of_type(ModelType::Whisper),
        ErrorCode::NotImplemented,
        &["whisper"],
    );
    expect(
        &of_type(ModelType::Rerank),
        ErrorCode::NotImplemented,
        &["rerank"],
    );
    expect(
        &refused(folder.path(), "gpu"),
        ErrorCode::InvalidValue,
        &["gpu", "safetensors"],
    );
}

#[tokio::test]
async fn a_bare_folder_pools_by_mean_and_normalises() {
    let folder = tiny::folder();
    let full = embed(&load(folder.path(), "auto").unwrap(), &["a b cd"])
        .await
        .unwrap();
    for file in [
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    let engine = load(folder.path(), "auto").unwrap();
    assert_eq!(engine.card().context_length, tiny::POSITIONS as u32);
    let bare = embed(&engine, &["a b cd"]).await.unwrap();
    assert!((length(&bare.data) - 1.0).abs() < 1e-5);
    assert!(cosine(&bare.data, &full.data) > 0.99999);
}

#[test]
fn the_estimate_holds_the_weights_of_the_chosen_file() {
    let Some(path) = minilm("estimate") else {
        return;
    };
    let estimate = |backend: &str| {
        let options = vec![("backend".to_owned(), backend.to_owned())];
        Tensor::estimate(&Launch {
            options,
            ..launch(&path)
        })
        .unwrap()
    };
    let (full, int8) = (estimate("safetensors"), estimate("auto"));
    assert!(
        (90_000_000..91_000_000).contains(&full.weights_bytes),
        "{full:?}"
    );
    assert!(
        int8.weights_bytes > 22_000_000 && int8.weights_bytes != full.weights_bytes,
        "{int8:?}"
    );
    assert!(
        (10_000_000..100_000_000).contains(&full.compute_bytes),
        "{full:?}"
    );
}
