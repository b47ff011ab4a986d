//! What models need: predicted before the first load, learned from every later one.

use std::sync::Arc;

use fusion_types::{Error, Result, engine::EngineCard, record::RecordWrite, store::RecordStore};
use serde::{Deserialize, Serialize};

use crate::{
    MemoryOf,
    catalog::Definition,
    engine::{Launch, Spawner, predict},
};

pub(crate) const NAMESPACE: &str = "footprints";

/// What is known of a model's needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Need {
    /// What a start is charged with: measured where the model ran before, else the estimate.
    pub(crate) bytes: u64,
    /// What the engine said before the first load.
    pub(crate) estimate: u64,
    /// The part of `bytes` that is mapped weights; other processes of the same file have it in common.
    #[serde(default)]
    pub(crate) mapped: u64,
}

/// What a load taught about a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Learned {
    pub(crate) need: Need,
    pub(crate) card: EngineCard,
}

#[derive(Clone)]
pub(crate) struct Footprints {
    records: Arc<dyn RecordStore>,
    spawner: Spawner,
    memory: MemoryOf,
}

impl Footprints {
    pub(crate) fn new(records: Arc<dyn RecordStore>, spawner: Spawner, memory: MemoryOf) -> Self {
        Self {
            records,
            spawner,
            memory,
        }
    }

    /// What an earlier load taught. A store that can't be read is as good as an empty one here.
    pub(crate) async fn recall(&self, definition: &Definition) -> Option<Learned> {
        let record = match self.records.get(NAMESPACE, &self.key(definition)).await {
            Ok(record) => record?,
            Err(error) => {
                tracing::warn!(model = %definition.id, %error, "can't read a model's footprint");
                return None;
            }
        };
        serde_json::from_value(record.value).ok()
    }

    /// # Errors
    /// What the engine says of the model, or `engine_unavailable`.
    pub(crate) async fn predict(
        &self,
        definition: &Definition,
        launch: Result<Launch>,
    ) -> Result<Need> {
        let launch = launch?;
        if let Some(learned) = self.recall(definition).await {
            return Ok(learned.need);
        }
        let estimate = match launch.foreign {
            Some(_) => definition.guessed_bytes(),
            None => predict(&self.spawner, &launch).await?,
        };
        Ok(Need {
            bytes: estimate,
            estimate,
            mapped: 0,
        })
    }

    pub(crate) async fn learn(&self, definition: &Definition, learned: &Learned) {
        let value =
            serde_json::to_value(learned).map_err(|error| Error::internal(error.to_string()));
        let saved = match value {
            Ok(value) => {
                let write = RecordWrite::put(NAMESPACE, self.key(definition), value);
                self.records.commit(vec![write]).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = saved {
            tracing::warn!(model = %definition.id, %error, "can't keep a model's footprint");
        }
    }

    /// What a model holds of one memory says nothing of what it would hold of another.
    fn key(&self, definition: &Definition) -> String {
        let key = definition.footprint_key();
        match self.memory {
            MemoryOf::Machine => key,
            MemoryOf::Cuda => format!("{key}-cuda"),
        }
    }
}
