//! Which model a request means. Pure: decided on a snapshot of the cards.

use std::collections::BTreeSet;

use fusion_types::{
    Error, ErrorCode, Result,
    inference::{Choice, Needs},
    model::{Capability, ModelCard, ModelId, ModelStatus, ModelType},
    model_ref::ModelRef,
};

/// Names of the predecessor that mean the first loaded model of a type.
const DEFAULT_NAMES: [(&str, ModelType); 5] = [
    ("local-text-model", ModelType::Lm),
    ("local-embedding-model", ModelType::Embeddings),
    ("local-transcription-model", ModelType::Whisper),
    ("local-image-generation-model", ModelType::ImageGeneration),
    ("local-image-edit-model", ModelType::ImageEdit),
];

pub(crate) fn is_default_name(name: &str) -> bool {
    DEFAULT_NAMES.iter().any(|(known, _)| *known == name)
}

/// Every name that is answered by one of these.
pub(crate) fn names(cards: &[ModelCard]) -> Vec<String> {
    let mut names = BTreeSet::new();
    for card in cards {
        names.insert(card.id.to_string());
        names.extend(card.aliases.iter().cloned());
        let of_type = |(_, model_type): &&(_, ModelType)| *model_type == card.model_type;
        let defaults = DEFAULT_NAMES.iter().filter(of_type);
        names.extend(defaults.map(|(name, _)| (*name).to_owned()));
        let capabilities = card.capabilities.iter().copied().map(Some);
        let automatic = capabilities.chain([None]).map(ModelRef::Auto);
        names.extend(automatic.map(|reference| reference.to_string()));
    }
    names.into_iter().collect()
}

/// What routing may look at.
pub(crate) struct Models<'a> {
    pub(crate) cards: &'a [ModelCard],
    /// The loaded ones, longest loaded first.
    pub(crate) loaded: &'a [ModelId],
    pub(crate) budget_bytes: u64,
}

/// The chosen model, and why, where it wasn't named by its own id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) model: ModelId,
    pub(crate) reason: Option<String>,
}

impl Route {
    pub(crate) fn choice(self, cards: &[ModelCard]) -> Choice {
        let card = cards.iter().find(|card| card.id == self.model);
        Choice {
            context_length: card.and_then(|card| card.context_length),
            model: self.model,
            reason: self.reason.unwrap_or_else(|| "named".to_owned()),
        }
    }
}

/// The model that a server with these would choose.
///
/// # Errors
/// As [`fusion_types::inference::ModelPlanner::choose`].
pub fn choose_among(cards: &[ModelCard], reference: &ModelRef, needs: &Needs) -> Result<Choice> {
    let loaded = cards
        .iter()
        .filter(|card| card.status == ModelStatus::Loaded);
    let loaded: Vec<_> = loaded.map(|card| card.id.clone()).collect();
    let models = Models {
        cards,
        loaded: &loaded,
        budget_bytes: u64::MAX,
    };
    Ok(choose(&models, reference, needs)?.choice(cards))
}

/// 1. An exact id, then an alias, then a default name.
/// 2. `auto` by what is needed.
///
/// # Errors
/// `model_not_found` with the nearest names, `unsupported_operation` where the model can't, `not_implemented` for a workflow.
pub(crate) fn choose(models: &Models<'_>, reference: &ModelRef, needs: &Needs) -> Result<Route> {
    match reference {
        ModelRef::Named(name) => {
            let route = named(models, name)?;
            let card = models.cards.iter().find(|card| card.id == route.model);
            card.map_or(Ok(()), |card| check(card, needs))?;
            Ok(route)
        }
        ModelRef::Auto(capability) => {
            automatic(models, capability.or(needs.capability), needs.min_context)
        }
        ModelRef::Workflow(_) => Err(Error::not_implemented("running a workflow as a model")),
    }
}

fn named(models: &Models<'_>, name: &str) -> Result<Route> {
    if let Some(card) = models.cards.iter().find(|card| card.id.as_str() == name) {
        return Ok(Route {
            model: card.id.clone(),
            reason: None,
        });
    }
    if let Some(card) = models
        .cards
        .iter()
        .find(|card| card.aliases.iter().any(|alias| alias == name))
    {
        return Ok(Route {
            model: card.id.clone(),
            reason: Some(format!("alias {name}")),
        });
    }
    if let Some((_, model_type)) = DEFAULT_NAMES.iter().find(|(known, _)| *known == name) {
        return default_of(models, *model_type);
    }
    let names = models.cards.iter().flat_map(|card| {
        std::iter::once(card.id.as_str()).chain(card.aliases.iter().map(String::as_str))
    });
    Err(not_found(name, names))
}

/// The first loaded model of the type, or the one that `auto` would load.
fn default_of(models: &Models<'_>, model_type: ModelType) -> Result<Route> {
    let of_type = |card: &&ModelCard| card.model_type == model_type;
    let card_of = |id: &ModelId| models.cards.iter().find(|card| card.id == *id);
    if let Some(card) = models.loaded.iter().filter_map(card_of).find(of_type) {
        return Ok(Route {
            model: card.id.clone(),
            reason: Some(format!("first loaded of type {}", model_type.as_str())),
        });
    }
    let best = largest(
        models,
        models.cards.iter().filter(of_type).filter(is_usable),
    );
    best.ok_or_else(|| {
        Error::new(
            ErrorCode::ModelNotFound,
            format!("there is no model of type {}", model_type.as_str()),
        )
        .with_param("model")
    })
}

/// Loaded before unloaded; among loaded ones the least busy, then the largest; else the largest that fits the budget.
fn automatic(
    models: &Models<'_>,
    capability: Option<Capability>,
    min_context: Option<u32>,
) -> Result<Route> {
    let needs = Needs {
        capability,
        min_context,
    };
    let able = |card: &&ModelCard| check(card, &needs).is_ok() && is_usable(card);
    let loaded: Vec<_> = models
        .cards
        .iter()
        .filter(able)
        .filter(|card| card.status == ModelStatus::Loaded)
        .collect();
    let best = loaded.iter().min_by(|a, b| {
        a.load
            .total_cmp(&b.load)
            .then(b.file_bytes.cmp(&a.file_bytes))
    });
    if let Some(card) = best {
        let reason = format!("auto: loaded, least busy of {}", loaded.len());
        return Ok(Route {
            model: card.id.clone(),
            reason: Some(reason),
        });
    }
    largest(models, models.cards.iter().filter(able)).ok_or_else(|| {
        let wanted = capability.map_or("do this", |capability| capability.as_str());
        Error::new(
            ErrorCode::ModelNotFound,
            format!("there is no model for {wanted}"),
        )
        .with_param("model")
    })
}

fn largest<'a>(models: &Models<'_>, cards: impl Iterator<Item = &'a ModelCard>) -> Option<Route> {
    let fits =
        |card: &&ModelCard| card.footprint_bytes.unwrap_or(card.file_bytes) <= models.budget_bytes;
    let card = cards.filter(fits).max_by_key(|card| card.file_bytes)?;
    Some(Route {
        model: card.id.clone(),
        reason: Some("auto: largest that fits".to_owned()),
    })
}

fn is_usable(card: &&ModelCard) -> bool {
    card.status != ModelStatus::Failed
}

fn check(card: &ModelCard, needs: &Needs) -> Result<()> {
    let unsupported =
        |message| Error::new(ErrorCode::UnsupportedOperation, message).with_param("model");
    if let Some(capability) = needs.capability.filter(|capability| !card.can(*capability)) {
        return Err(unsupported(format!(
            "the model {} does not support {}",
            card.id,
            capability.as_str()
        )));
    }
    match (needs.min_context, card.context_length) {
        (Some(needed), Some(length)) if length < needed => Err(unsupported(format!(
            "the model {} reads {length} tokens, not {needed}",
            card.id
        ))),
        _ => Ok(()),
    }
}

/// An unknown name, with the known ones that are nearest to it.
pub(crate) fn not_found<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let wanted = name.to_lowercase();
    let mut near: Vec<(usize, &str)> = known
        .map(|known| (distance(&wanted, &known.to_lowercase()), known))
        .filter(|(distance, known)| {
            *distance <= known.chars().count().max(wanted.chars().count()) / 2
        })
        .collect();
    near.sort();
    near.dedup();
    let nearest: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    let message = match nearest.as_slice() {
        [] => format!("there is no model {name:?}"),
        _ => format!(
            "there is no model {name:?}; the nearest: {}",
            nearest.join(", ")
        ),
    };
    Error::new(ErrorCode::ModelNotFound, message).with_param("model")
}

/// Levenshtein's: the fewest letters to insert, delete or replace. A name that only begins like the other is near too.
fn distance(a: &str, b: &str) -> usize {
    if !a.is_empty() && b.starts_with(a) {
        return 1;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, letter) in a.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for column in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use fusion_types::{Timestamp, model::Priority};
    use serde_json::Map;

    use super::*;

    fn card(id: &str, status: ModelStatus, load: f32, file_bytes: u64) -> ModelCard {
        ModelCard {
            id: ModelId::new(id),
            model_type: ModelType::Lm,
            status,
            family: None,
            description: None,
            tags: Vec::new(),
            capabilities: vec![Capability::Chat],
            context_length: Some(2048),
            dimension: None,
            fingerprint: None,
            footprint_bytes: None,
            file_bytes,
            load,
            slots: 4,
            pinned: false,
            priority: Priority::Normal,
            aliases: Vec::new(),
            adapters: Vec::new(),
            created_at: Timestamp::from_millis(0),
            metadata: Map::new(),
        }
    }

    fn route(cards: &[ModelCard], reference: &str) -> Result<String> {
        let models = Models {
            cards,
            loaded: &[],
            budget_bytes: 100,
        };
        let needs = Needs {
            capability: Some(Capability::Chat),
            min_context: None,
        };
        Ok(choose(&models, &reference.parse()?, &needs)?
            .model
            .to_string())
    }

    #[test]
    fn auto_takes_the_least_busy_loaded_model_before_any_other() {
        let cards = [
            card("big", ModelStatus::Unloaded, 0.0, 90),
            card("busy", ModelStatus::Loaded, 0.5, 80),
            card("idle", ModelStatus::Loaded, 0.0, 10),
        ];
        assert_eq!(route(&cards, "auto").unwrap(), "idle");
    }

    #[test]
    fn auto_loads_the_largest_that_fits_and_has_not_failed() {
        let cards = [
            card("too-big", ModelStatus::Unloaded, 0.0, 101),
            card("failed", ModelStatus::Failed, 0.0, 90),
            card("small", ModelStatus::Unloaded, 0.0, 10),
            card("fits", ModelStatus::Unloaded, 0.0, 80),
        ];
        assert_eq!(route(&cards, "auto").unwrap(), "fits");
        assert_eq!(route(&cards, "local-text-model").unwrap(), "fits");
        assert_eq!(
            route(&cards, "auto:vision").unwrap_err().code,
            ErrorCode::ModelNotFound
        );
    }

    #[test]
    fn a_context_too_short_is_said() {
        let cards = [card("m", ModelStatus::Loaded, 0.0, 1)];
        let models = Models {
            cards: &cards,
            loaded: &[],
            budget_bytes: 100,
        };
        let needs = Needs {
            capability: None,
            min_context: Some(4096),
        };
        let error = choose(&models, &ModelRef::Named("m".to_owned()), &needs).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedOperation);
    }

    #[test]
    fn distances_count_letters() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("qwen", "qwen2.5-coder"), 1);
    }

    #[test]
    fn only_near_names_are_offered() {
        let error = not_found(
            "smollm",
            ["SmolLM2-135M", "all-MiniLM-L6-v2", "qwen"].into_iter(),
        );
        assert_eq!(
            error.message,
            "there is no model \"smollm\"; the nearest: SmolLM2-135M"
        );
        assert_eq!(
            not_found("x", ["abcdef"].into_iter()).message,
            "there is no model \"x\""
        );
    }
}
