//! What a workflow is, as far as anybody outside needs to know before it runs.

use fusion_types::model::{Capability, ModelType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A row of `GET /api/fusion/workflows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowRow {
    pub id: String,
    pub name: String,
    pub description: String,
    pub version: u32,
    pub required_models: Vec<ModelType>,
    pub optional_models: Vec<ModelType>,
    /// JSON schema of `input`.
    pub input_schema: Value,
    pub builtin: bool,
}

/// A workflow that comes with the program.
pub(super) struct Definition {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) version: u32,
    pub(super) roles: &'static [Role],
    pub(super) input_schema: fn() -> Value,
}

/// A part that a model plays in a workflow.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) capability: Capability,
    pub(super) model_type: ModelType,
    pub(super) required: bool,
}

impl Definition {
    pub(super) fn row(&self) -> WorkflowRow {
        let types = |required| {
            self.roles
                .iter()
                .filter(|role| role.required == required)
                .map(|role| role.model_type)
                .collect::<Vec<_>>()
        };
        WorkflowRow {
            id: self.id.to_owned(),
            name: self.name.to_owned(),
            description: self.description.to_owned(),
            version: self.version,
            required_models: types(true),
            optional_models: types(false),
            input_schema: (self.input_schema)(),
            builtin: true,
        }
    }

    /// Whether a request for `name` means this workflow: its id, its name, or `id@version`.
    pub(super) fn answers_to(&self, name: &str) -> bool {
        match name.split_once('@') {
            Some((id, version)) => id == self.id && version.parse() == Ok(self.version),
            None => name == self.id || name == self.name,
        }
    }
}
