//! Files as bytes.

pub(crate) mod folder;
