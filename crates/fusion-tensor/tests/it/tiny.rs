//! A BERT of a few hundred numbers in a folder of its own, for what needs no trained weights.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

const HIDDEN: usize = 8;
const INTERMEDIATE: usize = 16;
const WORDS: [&str; 8] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "##d"];
pub(crate) const POSITIONS: usize = 32;

/// A folder that loads; tests then break what they are about.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_json(&root.join("config.json"), &config());
    write_json(&root.join("tokenizer.json"), &tokenizer());
    write_json(
        &root.join("modules.json"),
        &json!([
            { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
            { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
        ]),
    );
    write_json(
        &root.join("1_Pooling/config.json"),
        &json!({ "word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": true }),
    );
    write_json(
        &root.join("sentence_bert_config.json"),
        &json!({ "max_seq_length": 16 }),
    );
    fs::write(root.join("model.safetensors"), safetensors()).unwrap();
    folder
}

pub(crate) fn write_json(file: &Path, value: &Value) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, value.to_string()).unwrap();
}

pub(crate) fn config() -> Value {
    json!({
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": WORDS.len(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
    })
}

fn tokenizer() -> Value {
    let vocabulary: Value = WORDS
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let special = |id: usize| json!({ "id": id, "content": WORDS[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false });
    let template = |id: usize| json!({ "id": WORDS[id], "ids": [id], "tokens": [WORDS[id]] });
    let token = |word: &str| json!({ "SpecialToken": { "id": word, "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": null,
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), sequence("A"), token("[SEP]")],
            "pair": [token("[CLS]"), sequence("A"), token("[SEP]"), sequence("B"), token("[SEP]")],
            "special_tokens": { "[CLS]": template(2), "[SEP]": template(3) },
        },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary },
    })
}

fn safetensors() -> Vec<u8> {
    let mut table = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape) in tensors() {
        let begin = data.len();
        let norm = name.ends_with("LayerNorm.weight");
        for index in 0..shape.iter().product::<usize>() {
            // Anything will do that is neither flat nor large, and the same each time.
            let value = if norm {
                1.0
            } else {
                ((begin + index * 7) % 23) as f32 / 23.0 - 0.5
            };
            data.extend(value.to_le_bytes());
        }
        table.insert(
            name,
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] }),
        );
    }
    let table = Value::from(table).to_string();
    let length = (table.len() as u64).to_le_bytes();
    [length.as_slice(), table.as_bytes(), &data].concat()
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let table = |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, HIDDEN]);
    let mut all = vec![
        table("word_embeddings", WORDS.len()),
        table("position_embeddings", POSITIONS),
        table("token_type_embeddings", 2),
    ];
    let mut pair = |name: &str, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        all.push((format!("{name}.weight"), weight));
        all.push((format!("{name}.bias"), bias));
    };
    pair("embeddings.LayerNorm", vec![HIDDEN]);
    let layer = "encoder.layer.0";
    for part in ["self.query", "self.key", "self.value", "output.dense"] {
        pair(&format!("{layer}.attention.{part}"), vec![HIDDEN, HIDDEN]);
    }
    pair(&format!("{layer}.attention.output.LayerNorm"), vec![HIDDEN]);
    pair(
        &format!("{layer}.intermediate.dense"),
        vec![INTERMEDIATE, HIDDEN],
    );
    pair(&format!("{layer}.output.dense"), vec![HIDDEN, INTERMEDIATE]);
    pair(&format!("{layer}.output.LayerNorm"), vec![HIDDEN]);
    all
}
