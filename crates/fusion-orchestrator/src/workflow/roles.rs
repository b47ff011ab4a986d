//! Which model plays which role in a run.

use std::collections::BTreeMap;

use fusion_types::{
    Error, ErrorCode, Result,
    inference::{ModelPlanner, Needs},
    model::ModelId,
    model_ref::ModelRef,
};

use super::definition::{Definition, Role};

/// Every role's model, chosen before the run.
#[derive(Debug)]
pub(super) struct Cast(BTreeMap<&'static str, Part>);

#[derive(Debug)]
struct Part {
    /// The request named the model.
    given: bool,
    /// Only an optional role is without one.
    model: Result<ModelId>,
}

impl Cast {
    /// # Errors
    /// For a required role: `engine_unavailable` where no model can play it, and whatever is wrong with the model named.
    pub(super) fn choose(
        definition: &Definition,
        named: &BTreeMap<String, String>,
        planner: &dyn ModelPlanner,
    ) -> Result<Self> {
        let mut cast = BTreeMap::new();
        for role in definition.roles {
            let reference = named.get(role.name);
            let model = choose(role, reference, planner);
            if role.required {
                model.clone()?;
            }
            cast.insert(
                role.name,
                Part {
                    given: reference.is_some(),
                    model,
                },
            );
        }
        Ok(Self(cast))
    }

    /// The role's model, or why an optional role has none.
    pub(super) fn player(&self, role: &str) -> Result<&ModelId, &Error> {
        self.0[role].model.as_ref()
    }

    /// The model that the request itself named.
    pub(super) fn given(&self, role: &str) -> Option<&ModelId> {
        let part = &self.0[role];
        part.model.as_ref().ok().filter(|_| part.given)
    }
}

/// # Errors
/// `invalid_value` for a role that the workflow hasn't.
pub(super) fn check_names(definition: &Definition, named: &BTreeMap<String, String>) -> Result<()> {
    let known: Vec<&str> = definition.roles.iter().map(|role| role.name).collect();
    match named.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(
            format!("models.{name}"),
            format!(
                "{} has no role {name:?}; its roles are {}",
                definition.id,
                known.join(", ")
            ),
        )),
    }
}

fn choose(role: &Role, reference: Option<&String>, planner: &dyn ModelPlanner) -> Result<ModelId> {
    let needs = Needs {
        capability: Some(role.capability),
        min_context: None,
    };
    let param = format!("models.{}", role.name);
    if let Some(reference) = reference {
        let reference: ModelRef = reference
            .parse()
            .map_err(|error: Error| error.with_param(param.as_str()))?;
        let choice = planner
            .choose(&reference, &needs)
            .map_err(|error| error.with_param(param))?;
        return Ok(choice.model);
    }
    let choice = planner.choose(&ModelRef::Auto(Some(role.capability)), &needs);
    choice
        .map(|choice| choice.model)
        .map_err(|error| match error.code {
            ErrorCode::ModelNotFound | ErrorCode::UnsupportedOperation => {
                let message = format!(
                    "no model is there for {} ({})",
                    role.name,
                    role.capability.as_str()
                );
                Error::new(ErrorCode::EngineUnavailable, message).with_param(param)
            }
            _ => error,
        })
}
