//! `GET /api/fusion/capabilities`: which models can do what.

use std::collections::BTreeMap;

use fusion_types::model::{Capability, ModelCard, ModelId, ModelStatus};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Every capability, with the models that have it.
    pub capabilities: BTreeMap<Capability, Vec<ModelId>>,
    pub models: Vec<CapableModel>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapableModel {
    pub id: ModelId,
    pub capabilities: Vec<Capability>,
    pub context_length: Option<u32>,
    /// 10⁹ bytes, two decimals; predicted while the model isn't loaded.
    pub vram_usage_gb: Option<f64>,
    pub vram_usage_bytes: Option<u64>,
    pub status: ModelStatus,
    /// Size of the weights against the largest model's, from 0 to 1: a stand-in until something better is known.
    pub quality: f64,
    /// Busy slots over slots, above 1 when requests wait.
    pub load: f32,
}

/// What the models can do; with `only`, that capability and the models that have it.
pub(super) fn capabilities(models: &[ModelCard], only: Option<Capability>) -> Capabilities {
    let wanted = |capability: &Capability| only.is_none_or(|only| only == *capability);
    let largest = models.iter().map(|card| card.file_bytes).max().unwrap_or(0);
    Capabilities {
        capabilities: Capability::ALL
            .iter()
            .copied()
            .filter(wanted)
            .map(|capability| {
                let able = models.iter().filter(|card| card.can(capability));
                (capability, able.map(|card| card.id.clone()).collect())
            })
            .collect(),
        models: models
            .iter()
            .filter(|card| only.is_none_or(|only| card.can(only)))
            .map(|card| capable_model(card, largest))
            .collect(),
    }
}

fn capable_model(card: &ModelCard, largest: u64) -> CapableModel {
    CapableModel {
        id: card.id.clone(),
        capabilities: card.capabilities.clone(),
        context_length: card.context_length,
        vram_usage_gb: card
            .footprint_bytes
            .map(|bytes| two_decimals(bytes as f64 / 1e9)),
        vram_usage_bytes: card.footprint_bytes,
        status: card.status,
        quality: if largest == 0 {
            0.0
        } else {
            two_decimals(card.file_bytes as f64 / largest as f64)
        },
        load: card.load,
    }
}

fn two_decimals(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
