//! Which names models may have.

use std::path::Path;

use fusion_types::{Error, ErrorCode, Result, model::ModelId};

use super::inspect::split_name;
use crate::routing::is_default_name;

const LONGEST: usize = 200;

/// The name that a path gives its model: the file's without ending, or the folder's.
pub(super) fn id_of(path: &Path) -> Option<ModelId> {
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    let name = name?.to_str()?;
    let name = split_name(name).map_or(name, |(name, _)| name);
    check(name, "model_id").is_ok().then(|| ModelId::new(name))
}

/// # Errors
/// `invalid_value`, or `name_reserved` for a name that means something else.
pub(super) fn check_id(name: &str) -> Result<ModelId> {
    check(name, "model_id")?;
    Ok(ModelId::new(name))
}

/// # Errors
/// As for an id.
pub(crate) fn check_alias(name: &str) -> Result<()> {
    check(name, "aliases")
}

fn check(name: &str, param: &str) -> Result<()> {
    let allowed = |letter: char| letter.is_alphanumeric() || " ._:/@+-()".contains(letter);
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(allowed) || name.trim() != name
    {
        let message =
            format!("a name has 1 to {LONGEST} bytes of letters, digits and . _ : / @ + -");
        return Err(Error::invalid(param, message));
    }
    if name == "auto"
        || name.starts_with("auto:")
        || name.starts_with("workflow:")
        || is_default_name(name)
    {
        return Err(Error::new(
            ErrorCode::NameReserved,
            format!("the name {name:?} is reserved"),
        )
        .with_param(param));
    }
    Ok(())
}
