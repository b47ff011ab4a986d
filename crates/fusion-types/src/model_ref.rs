//! What a request may write where a model is asked for.

use std::{fmt, str::FromStr};

use crate::{Error, model::Capability};

/// `ID`, an alias, `auto`, `auto:CAPABILITY` or `workflow:ID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// An exact id or an alias.
    Named(String),
    /// Any model with the capability; without one, with whatever the operation needs.
    Auto(Option<Capability>),
    Workflow(String),
}

impl FromStr for ModelRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::invalid("model", "the model name is empty"));
        }
        if text == "auto" {
            return Ok(Self::Auto(None));
        }
        if let Some(capability) = text.strip_prefix("auto:") {
            return Ok(Self::Auto(Some(
                capability
                    .parse()
                    .map_err(|error: Error| error.with_param("model"))?,
            )));
        }
        if let Some(id) = text.strip_prefix("workflow:") {
            return Ok(Self::Workflow(id.to_owned()));
        }
        Ok(Self::Named(text.to_owned()))
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Auto(None) => f.write_str("auto"),
            Self::Auto(Some(capability)) => write!(f, "auto:{}", capability.as_str()),
            Self::Workflow(id) => write!(f, "workflow:{id}"),
        }
    }
}
