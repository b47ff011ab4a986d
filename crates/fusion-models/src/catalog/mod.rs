//! What can be loaded, and how: found in the models folder or where other programs keep models, named in the configuration, or loaded through the API before.

pub(crate) mod adapters;
mod definition;
mod inspect;
mod known;
mod names;
mod remembered;
mod remove;
mod request;
mod scan;

pub(crate) use definition::{Definition, Origin};
pub(crate) use remembered::{NAMESPACE as REMEMBERED, forget, recall, remember};
pub(crate) use remove::{delete, own_files};
pub(crate) use request::{configured, define};
pub(crate) use scan::scan;
