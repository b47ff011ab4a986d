//! `[launch]`.

use fusion_types::model::ModelType;
use serde_json::{Value, json};

use super::{Reader, text};

/// The model to load at start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) model_path: String,
    pub(crate) model_type: ModelType,
    pub(crate) context_length: Option<u32>,
    pub(crate) adapters: Vec<Value>,
}

impl Launch {
    pub(super) fn take(reader: &mut Reader) -> Option<Self> {
        let model_type: String = reader.take("launch.model_type");
        let model_type = model_type.parse().unwrap_or_else(|error| {
            reader.problem("launch.model_type", error);
            ModelType::Lm
        });
        let context_length =
            Some(reader.take("launch.context_length")).filter(|&length| length > 0);
        Some(Self {
            model_path: text(reader, "launch.model_path")?,
            model_type,
            context_length,
            adapters: lora(reader),
        })
    }
}

/// `lora_paths` and `lora_scales`, both comma-separated; an adapter without a scale is applied fully.
fn lora(reader: &mut Reader) -> Vec<Value> {
    let list = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let paths = list(text(reader, "launch.lora_paths"));
    let scales = list(text(reader, "launch.lora_scales"));
    let numbers: Vec<f32> = scales
        .iter()
        .filter_map(|scale| scale.parse().ok())
        .collect();
    if numbers.len() != scales.len() || numbers.len() > paths.len() {
        reader.problem("launch.lora_scales", "must be numbers, at most one a path");
    }
    let scales = numbers.into_iter().chain(std::iter::repeat(1.0));
    let adapter = |(path, scale)| json!({ "path": path, "scale": scale });
    paths.iter().zip(scales).map(adapter).collect()
}
