//! What an answer must look like.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows.
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedSchema {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub schema: Value,
}

impl ResponseFormat {
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }

    /// The schema that the answer must follow; any object's for `json_object`.
    pub fn schema(&self) -> Option<Value> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(serde_json::json!({ "type": "object" })),
            Self::JsonSchema { json_schema } => Some(json_schema.schema.clone()),
        }
    }
}
